//! Models: loaded from a file, a descriptor or memory.

use std::ffi::{CString, c_char, c_int, c_void};
use std::fs::File;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use runtime::{EngineOptions, Error, MemoryNeeded, Model};
use spm::{Bytes, Load, SparseModel};

use crate::callbacks::{Log, go_on};
use crate::options::{SprLoadOptions, SprSessionOptions};
use crate::pointers::{self, Handle, Sized};
use crate::reserve::{Hold, Mark};
use crate::status::{Fault, SprStatus, guarded};

/// A loaded model: it does not change, and any number of sessions and threads may use it at once.
pub struct SprModel {
    _private: [u8; 0],
}

/// What a model's handle points to.
pub struct Loaded {
    pub(crate) model: Arc<Model>,
    pub(crate) log: Log,
    identity: CString,
    /// Dropped last.
    _hold: Hold,
}

impl Handle for SprModel {
    type Value = Loaded;
    const TAG: u64 = u64::from_le_bytes(*b"sprmodel");
    const NAME: &'static str = "model";
}

/// What there is to know of a model. Initialise with `SPR_MODEL_INFO_INIT`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SprModelInfo {
    /// sizeof(spr_model_info)
    pub struct_size: usize,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of weights that are read for a token.
    pub bytes_per_token: u64,
    /// Tokens of the vocabulary: how many logits there are.
    pub vocabulary: u32,
    /// Positions that it was made for.
    pub context: u32,
    /// Decoder layers.
    pub layers: u32,
    /// Threads that a call works on.
    pub threads: u32,
    /// 1 if `spr_infill` can be used.
    pub can_infill: u32,
    /// 0
    pub reserved: u32,
}

// SAFETY: repr(C), the size first, numbers only.
unsafe impl Sized for SprModelInfo {
    fn defaults() -> Self {
        SprModelInfo {
            struct_size: size_of::<Self>(),
            file_bytes: 0,
            bytes_per_token: 0,
            vocabulary: 0,
            context: 0,
            layers: 0,
            threads: 0,
            can_infill: 0,
            reserved: 0,
        }
    }
}

/// Memory in bytes that the model at `path` and one session of it need, to be asked before loading it: the file, which
/// unless it is copied the system can drop and read again, plus what is allocated. Further sessions take what is
/// allocated for one. Both options may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_memory_needed(
    path: *const c_char,
    load: *const SprLoadOptions,
    session: *const SprSessionOptions,
    bytes: *mut u64,
) -> SprStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (path, load, session) =
            unsafe { (pointers::text(path, "path")?, pointers::sized(load)?, pointers::sized(session)?) };
        load.of_file()?;
        let file = SparseModel::open(Path::new(path)).map_err(Error::from)?;
        let needed = MemoryNeeded::new(&file, load.engine()?.threads, &session.session()?);
        // SAFETY: the caller's promise.
        unsafe { pointers::write(bytes, needed.total(), "bytes") }
    })
}

/// Loads the sparse model file at `path` (UTF-8). `options` may be NULL. On success `*model` is to be freed with
/// `spr_model_free`; on failure it is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_model_load_file(
    path: *const c_char,
    options: *const SprLoadOptions,
    model: *mut *mut SprModel,
) -> SprStatus {
    // SAFETY: the caller's promise, here and in the closure.
    unsafe {
        load(options, model, |options, watch| {
            let path = Path::new(pointers::text(path, "path")?);
            let open = |source| Error::File(spm::Error::Io { action: "open", path: path.to_owned(), source });
            let file = File::open(path).map_err(open)?;
            read(&file, path, options.of_file()?, watch)
        })
    }
}

/// The same from an open file, such as one that a sandbox was given: a regular one, which is read from its beginning
/// wherever its offset is. It stays the caller's to close, at once if he likes.
#[cfg(unix)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_model_load_fd(
    fd: c_int,
    options: *const SprLoadOptions,
    model: *mut *mut SprModel,
) -> SprStatus {
    use std::os::fd::{BorrowedFd, OwnedFd};
    // SAFETY: the caller's promise.
    unsafe {
        load(options, model, |options, watch| {
            let name = format!("file descriptor {fd}");
            if fd < 0 {
                return Err(Fault::invalid(format!("{name} is none")));
            }
            // SAFETY: it is duplicated at once; the system refuses a number that is not open.
            let copy: std::io::Result<OwnedFd> = BorrowedFd::borrow_raw(fd).try_clone_to_owned();
            let file = copy.map(File::from).map_err(|e| Fault::invalid(format!("{name}: {e}")))?;
            read(&file, Path::new(&name), options.of_file()?, watch)
        })
    }
}

/// The same from the `size` bytes of a model file in memory: a copy, after which they are no longer needed, or with
/// `SPR_LOAD_MAP` those bytes themselves, which are best aligned to 64.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_model_load_memory(
    data: *const c_void,
    size: usize,
    options: *const SprLoadOptions,
    model: *mut *mut SprModel,
) -> SprStatus {
    // SAFETY: the caller's promise.
    unsafe {
        load(options, model, |options, _| {
            if data.is_null() {
                return Err(pointers::null("data"));
            }
            let name = Path::new("memory");
            // SAFETY: the caller's promise. If the bytes are used in place he promised, by SPR_LOAD_MAP, that they
            // outlive the model and its sessions, which are the only ones to keep them.
            let data: &'static [u8] = pointers::slice(data.cast::<u8>(), size, "data")?;
            let bytes = match options.is_in_place()? {
                true => Bytes::from(data),
                false => Bytes::copy_of(data, name).map_err(Error::from)?,
            };
            Ok(SparseModel::from_bytes(bytes, name).map_err(Error::from)?)
        })
    }
}

/// Frees a model; NULL is ignored. Its sessions stay usable. No call that was given the model itself may be running.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_model_free(model: *mut SprModel) {
    // SAFETY: the caller's promise.
    let model = unsafe { pointers::take_back(model) };
    let _ = catch_unwind(AssertUnwindSafe(|| drop(model)));
}

/// Fills in `info`, of which `struct_size` is set already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_model_get_info(model: *const SprModel, info: *mut SprModelInfo) -> SprStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let model = &unsafe { pointers::handle(model) }?.model;
        let (config, source) = (model.config(), model.source()?);
        let found = SprModelInfo {
            file_bytes: source.file_len,
            bytes_per_token: model.bytes_per_token() as u64,
            vocabulary: config.vocab_size as u32,
            context: u32::try_from(config.context_len).unwrap_or(u32::MAX),
            layers: config.n_layers as u32,
            threads: model.engine().threads() as u32,
            can_infill: source.tokenizer.can_infill().into(),
            ..SprModelInfo::defaults()
        };
        // SAFETY: the caller's promise.
        unsafe { pointers::write_sized(info, &found) }
    })
}

/// BLAKE3 of the model file's contents in hexadecimal: the name of exactly this model. Valid as long as the model; of
/// what is no model, an empty text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_model_identity(model: *const SprModel) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { pointers::handle(model) }.map_or(c"".as_ptr(), |model| model.identity.as_ptr())
}

/// What all ways to load have in common.
///
/// # Safety
/// `options` is null or has the size it says, `model` is null or writable; callbacks may be called.
unsafe fn load(
    options: *const SprLoadOptions,
    model: *mut *mut SprModel,
    open: impl FnOnce(&SprLoadOptions, &mut spm::Watch) -> Result<SparseModel, Fault>,
) -> SprStatus {
    guarded(|| {
        let (mark, hold) = (Mark::new(), Hold::new());
        // SAFETY: the caller's promise.
        unsafe { pointers::write(model, std::ptr::null_mut(), "model") }?;
        // SAFETY: the caller's promise.
        let options: SprLoadOptions = unsafe { pointers::sized(options) }?;
        let engine = options.engine()?;
        let progress = |fraction: f32| match options.progress {
            // SAFETY: the caller gave this function to be called with this pointer.
            Some(progress) => go_on(unsafe { progress(fraction, options.user_data) }),
            None => ControlFlow::Continue(()),
        };
        let mut watch = |done: u64, all: u64| progress(done as f32 / all.max(1) as f32);
        // A map is there at once; a copy tells how far it is.
        if progress(0.0).is_break() {
            return Err(Fault(SprStatus::SPR_CANCELLED, "the progress callback asked to stop".into()));
        }
        let loaded = finish(&open(&options, &mut watch)?, &engine, &options, hold)?;
        if progress(1.0).is_break() {
            return Err(Fault(SprStatus::SPR_CANCELLED, "the progress callback asked to stop".into()));
        }
        // SAFETY: the caller's promise. The handle is taken back by `spr_model_free`.
        unsafe { pointers::give_away(model, loaded, &mark) }
    })
}

fn read(file: &File, path: &Path, how: Load, watch: &mut spm::Watch) -> Result<SparseModel, Fault> {
    let bytes = Bytes::load_file_watched(file, path, how, watch).map_err(Error::from)?;
    Ok(SparseModel::from_bytes(bytes, path).map_err(Error::from)?)
}

fn finish(file: &SparseModel, engine: &EngineOptions, options: &SprLoadOptions, hold: Hold) -> Result<Loaded, Fault> {
    let model = Model::from_sparse(file, engine)?;
    let log = Log { callback: options.log, user_data: options.user_data };
    log.say(|| {
        let (engine, bytes) = (model.engine(), file.file_len());
        format!("loaded {bytes} bytes; kernel {}, {} threads", engine.kernels().name(), engine.threads())
    });
    let identity = CString::new(file.identity()).unwrap_or_default();
    Ok(Loaded { model, log, identity, _hold: hold })
}
