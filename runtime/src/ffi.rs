//! The C face of the library, declared in `include/sparse_run.h`.
//!
//! Rules: every pointer that C may get wrong is checked for null before use; no panic crosses into C; options begin
//! with their size, so that programs compiled against an older header go on working.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use spm::{Checkpoint, SparseModel};

use crate::engine::EngineOptions;
use crate::error::Error;
use crate::generate::{Event, Finish, GenerateOptions, generate};
use crate::kv_cache::KvType;
use crate::model::Model;
use crate::sampler::SamplerOptions;
use crate::session::{Session, SessionOptions};
use crate::tokenizer::{Special, Tokenizer};

/// `spr_model`: opaque to C.
pub struct SprModel {
    model: Arc<Model>,
    tokenizer: Tokenizer,
}

/// `spr_status`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SprStatus {
    /// Done.
    Ok = 0,
    /// Anything else.
    Error = 1,
    /// An argument makes no sense.
    InvalidArgument = 2,
    /// The model file is not what it should be.
    BadFile = 3,
    /// Memory could not be had.
    OutOfMemory = 4,
    /// The callback asked to stop.
    Cancelled = 5,
}

/// `spr_load_options`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SprLoadOptions {
    struct_size: usize,
    threads: u32,
}

/// `spr_generate_options`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SprGenerateOptions {
    struct_size: usize,
    max_tokens: u32,
    context: u32,
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    repeat_penalty: f32,
    repeat_last_n: u32,
    seed: u64,
    stop: *const *const c_char,
    stop_count: usize,
}

/// `spr_text_callback`.
pub type SprTextCallback = Option<unsafe extern "C" fn(*const c_char, usize, *mut c_void) -> c_int>;

/// See the header.
///
/// # Safety
/// `path` is null or a zero-terminated string; `bytes` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_memory_needed(path: *const c_char, context: u32, bytes: *mut u64) -> SprStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let path = unsafe { text(path, "path") }?;
        if bytes.is_null() {
            return Err(invalid("`bytes` is null"));
        }
        let file = SparseModel::open(Path::new(path)).map_err(Error::from)?;
        let needed = Session::memory_needed(file.config(), context as usize, KvType::F16) as u64 + file.file_len();
        // SAFETY: not null, and writable by the caller's promise.
        unsafe { bytes.write(needed) };
        Ok(())
    })
}

/// See the header.
///
/// # Safety
/// `path` is null or a zero-terminated string; `options` is null or points to options of the size they state;
/// `model` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_model_load_file(
    path: *const c_char,
    options: *const SprLoadOptions,
    model: *mut *mut SprModel,
) -> SprStatus {
    guarded(|| {
        if model.is_null() {
            return Err(invalid("`model` is null"));
        }
        // SAFETY: not null, and writable by the caller's promise.
        unsafe { model.write(std::ptr::null_mut()) };
        // SAFETY: the caller's promise.
        let (path, options) = unsafe { (text(path, "path")?, sized(options, SprLoadOptions::defaults())?) };
        let loaded = SprModel::load(Path::new(path), &options)?;
        // SAFETY: as above. The box is freed by `spr_model_free`.
        unsafe { model.write(Box::into_raw(Box::new(loaded))) };
        Ok(())
    })
}

/// See the header.
///
/// # Safety
/// `model` is null or from `spr_model_load_file` and not freed; `prompt` is null or a zero-terminated string;
/// `options` is null or points to options of the size they state; `callback` may be called with `user_data`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_generate(
    model: *const SprModel,
    prompt: *const c_char,
    options: *const SprGenerateOptions,
    callback: SprTextCallback,
    user_data: *mut c_void,
) -> SprStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let model = unsafe { model.as_ref() }.ok_or_else(|| invalid("`model` is null"))?;
        let callback = callback.ok_or_else(|| invalid("`callback` is null"))?;
        // SAFETY: the caller's promise.
        let (prompt, options) = unsafe { (text(prompt, "prompt")?, sized(options, SprGenerateOptions::defaults())?) };
        // SAFETY: the caller's promise.
        let stop = unsafe { options.stop_texts() }?;
        let mut show = |text: &str| {
            // SAFETY: the caller's promise; the text outlives the call.
            match unsafe { callback(text.as_ptr().cast(), text.len(), user_data) } {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        };
        model.generate(prompt, &options, stop, &mut show)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn spr_last_error() -> *const c_char {
    LAST_ERROR.with(|last| last.try_borrow().map_or(c"".as_ptr(), |text| text.as_ptr()))
}

/// See the header.
///
/// # Safety
/// `model` is null, or from `spr_model_load_file`, not freed before and not in use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_model_free(model: *mut SprModel) {
    if !model.is_null() {
        // SAFETY: the caller's promise: this box was given away by `spr_model_load_file` and comes back once.
        let model = unsafe { Box::from_raw(model) };
        let _ = catch_unwind(AssertUnwindSafe(|| drop(model)));
    }
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn spr_version() -> *const c_char {
    const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(text) => text,
        Err(_) => c"",
    };
    VERSION.as_ptr()
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// A failure on its way to C.
struct Fault(SprStatus, String);

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::File(spm::Error::Io { .. }) => SprStatus::Error,
            Error::File(spm::Error::OutOfMemory { .. }) => SprStatus::OutOfMemory,
            Error::File(_) | Error::MissingTensor { .. } | Error::Shape { .. } => SprStatus::BadFile,
            Error::NoVocabulary | Error::Tokenizer { .. } => SprStatus::BadFile,
            Error::OutOfMemory { .. } => SprStatus::OutOfMemory,
            Error::ContextFull { .. } | Error::EmptyPrompt => SprStatus::InvalidArgument,
            _ => SprStatus::Error,
        };
        Fault(status, error.to_string())
    }
}

fn invalid(message: &str) -> Fault {
    Fault(SprStatus::InvalidArgument, message.to_owned())
}

/// Runs a function's body; errors and panics become a status and a text.
fn guarded(body: impl FnOnce() -> Result<(), Fault>) -> SprStatus {
    let result = catch_unwind(AssertUnwindSafe(body));
    let fault = match result {
        Ok(Ok(())) => return SprStatus::Ok,
        Ok(Err(fault)) => fault,
        Err(_) => Fault(SprStatus::Error, "internal error (a panic was caught); please report it".into()),
    };
    let text = CString::new(fault.1.replace('\0', " ")).unwrap_or_default();
    LAST_ERROR.with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            *last = text;
        }
    });
    fault.0
}

/// # Safety
/// `text` is null or a zero-terminated string that outlives the result.
unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a str, Fault> {
    if text.is_null() {
        return Err(invalid(&format!("`{what}` is null")));
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| invalid(&format!("`{what}` is not UTF-8")))
}

/// Copies options that may be shorter (an older header) or longer (a newer one) than ours.
///
/// # Safety
/// `options` is null, or begins with a `usize` saying how many bytes there are, and has them.
unsafe fn sized<T: Copy>(options: *const T, defaults: T) -> Result<T, Fault> {
    if options.is_null() {
        return Ok(defaults);
    }
    // SAFETY: the caller's promise.
    let size = unsafe { options.cast::<usize>().read_unaligned() };
    if size < size_of::<usize>() || size > 1 << 12 {
        return Err(invalid(&format!("struct_size is {size}; initialise options with the header's macro")));
    }
    let mut result = defaults;
    let known = size.min(size_of::<T>());
    // SAFETY: both sides have at least `known` bytes, and every field of T accepts any bytes.
    unsafe { std::ptr::copy_nonoverlapping(options.cast::<u8>(), (&raw mut result).cast::<u8>(), known) };
    Ok(result)
}

impl SprLoadOptions {
    fn defaults() -> Self {
        SprLoadOptions { struct_size: size_of::<Self>(), threads: 0 }
    }
}

impl SprGenerateOptions {
    fn defaults() -> Self {
        let s = SamplerOptions::default();
        SprGenerateOptions {
            struct_size: size_of::<Self>(),
            max_tokens: 256,
            context: 0,
            temperature: s.temperature,
            top_k: s.top_k as u32,
            top_p: s.top_p,
            min_p: s.min_p,
            repeat_penalty: s.repeat_penalty,
            repeat_last_n: s.repeat_last_n as u32,
            seed: 0,
            stop: std::ptr::null(),
            stop_count: 0,
        }
    }

    fn sampler(&self) -> SamplerOptions {
        SamplerOptions {
            temperature: self.temperature,
            top_k: self.top_k as usize,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n as usize,
            seed: self.seed,
        }
    }

    /// # Safety
    /// `stop` is null or points to `stop_count` zero-terminated strings.
    unsafe fn stop_texts(&self) -> Result<Vec<String>, Fault> {
        if self.stop.is_null() {
            return Ok(Vec::new());
        }
        // SAFETY: the caller's promise.
        (0..self.stop_count).map(|i| unsafe { text(*self.stop.add(i), "stop") }.map(str::to_owned)).collect()
    }
}

impl SprModel {
    fn load(path: &Path, options: &SprLoadOptions) -> Result<Self, Fault> {
        let file = SparseModel::open(path).map_err(Error::from)?;
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n as usize,
        };
        let engine = EngineOptions { threads, ..EngineOptions::default() };
        let tokenizer = Tokenizer::new(file.vocabulary().ok_or(Error::NoVocabulary)?)?;
        Ok(SprModel { model: Arc::new(Model::load(&file, &engine)?), tokenizer })
    }

    fn generate(
        &self,
        prompt: &str,
        options: &SprGenerateOptions,
        stop: Vec<String>,
        show: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        let prompt = self.tokenizer.encode(prompt, Special::AsText);
        let max_tokens = options.max_tokens as usize;
        let context = match options.context {
            0 => (prompt.len().max(1) + max_tokens).min(self.model.config().context_len),
            n => n as usize,
        };
        let mut session = Session::new(&self.model, &SessionOptions { context, ..SessionOptions::default() })?;
        let options = GenerateOptions { max_tokens, sampler: options.sampler(), stop };
        let mut on_event = |event: Event| match event {
            Event::Text(text) if !text.is_empty() => show(text),
            _ => ControlFlow::Continue(()),
        };
        let generated = generate(&mut session, &self.tokenizer, &prompt, &options, &mut on_event)?;
        match generated.finish {
            Finish::Cancelled => Err(Fault(SprStatus::Cancelled, "the callback asked to stop".into())),
            _ => Ok(()),
        }
    }
}
