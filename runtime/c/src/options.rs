//! The structs of options, and what they mean to the runtime.

use std::ffi::{c_char, c_void};

use runtime::{EngineOptions, GenerateOptions, KvType, SamplerOptions, SessionOptions};
use spm::Load;

use crate::callbacks::{SprAbortCallback, SprLogCallback, SprProgressCallback};
use crate::pointers::{self, Sized};
use crate::status::Fault;

/// Weights of a file stay in the file's own pages, those of memory are copied.
pub const SPR_LOAD_AUTO: u32 = 0;
/// Weights stay where they are: in the file's own pages, which are read when they are needed and shared with other
/// processes, or in the caller's memory. Neither may change until the model and its sessions are freed.
pub const SPR_LOAD_MAP: u32 = 1;
/// A copy in huge pages where the system has them: faster to run, safe from changes, takes the file's size in memory.
pub const SPR_LOAD_COPY: u32 = 2;

/// Keys and values as halves, 2 bytes each.
pub const SPR_KV_F16: u32 = 0;
/// Keys and values as singles, 4 bytes each.
pub const SPR_KV_F32: u32 = 1;
/// Keys and values as bytes with a scale for every 32 of them: little more than half the memory of halves.
pub const SPR_KV_Q8: u32 = 2;

/// The prompt continues what the session has read and written so far, instead of being the whole text.
pub const SPR_GENERATE_CONTINUE: u32 = 1;
/// Special tokens such as <|im_end|> in the prompt are what they stand for, instead of text. Not for texts from users.
pub const SPR_GENERATE_SPECIAL: u32 = 2;

/// How a model is loaded and run. Initialise with `SPR_LOAD_OPTIONS_INIT`, then change what differs.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SprLoadOptions {
    /// sizeof(spr_load_options)
    pub struct_size: usize,
    /// Threads that a call works on, the calling one among them; 0: one a core.
    pub threads: u32,
    /// One of `SPR_LOAD_...`
    pub load: u32,
    /// May be NULL.
    pub progress: SprProgressCallback,
    /// May be NULL; used as long as the model and its sessions live.
    pub log: SprLogCallback,
    /// For `progress` and `log`.
    pub user_data: *mut c_void,
}

/// How a session is set up. Initialise with `SPR_SESSION_OPTIONS_INIT`, then change what differs.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SprSessionOptions {
    /// sizeof(spr_session_options)
    pub struct_size: usize,
    /// Tokens of a text at most, which memory is taken for; 0: as many as the model was made for, often very many.
    pub context: u32,
    /// One of `SPR_KV_...`
    pub kv: u32,
    /// May be NULL; used as long as the session lives.
    pub abort: SprAbortCallback,
    /// For `abort`.
    pub user_data: *mut c_void,
}

/// What is generated. Initialise with `SPR_GENERATE_OPTIONS_INIT`, then change what differs.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SprGenerateOptions {
    /// sizeof(spr_generate_options)
    pub struct_size: usize,
    /// Tokens at most.
    pub max_tokens: u32,
    /// `SPR_GENERATE_...`, added together.
    pub flags: u32,
    /// Randomness; 0: always the most likely token.
    pub temperature: f32,
    /// Choose among so many most likely tokens; 0: off.
    pub top_k: u32,
    /// Choose among the most likely tokens that together are so likely; 1: off.
    pub top_p: f32,
    /// Leave out tokens less likely than this share of the most likely one; 0: off.
    pub min_p: f32,
    /// Make tokens that were used lately less likely; 1: off.
    pub repeat_penalty: f32,
    /// How many tokens back the penalty looks.
    pub repeat_last_n: u32,
    /// Same seed, same text.
    pub seed: u64,
    /// Texts that end generation and are not part of it, UTF-8, zero-terminated; may be NULL.
    pub stop: *const *const c_char,
    /// How many.
    pub stop_count: usize,
}

// SAFETY: repr(C), the size first; numbers, nullable functions and pointers of any bits.
unsafe impl Sized for SprLoadOptions {
    fn defaults() -> Self {
        SprLoadOptions {
            struct_size: size_of::<Self>(),
            threads: 0,
            load: SPR_LOAD_AUTO,
            progress: None,
            log: None,
            user_data: std::ptr::null_mut(),
        }
    }
}

// SAFETY: as above.
unsafe impl Sized for SprSessionOptions {
    fn defaults() -> Self {
        SprSessionOptions {
            struct_size: size_of::<Self>(),
            context: 0,
            kv: SPR_KV_F16,
            abort: None,
            user_data: std::ptr::null_mut(),
        }
    }
}

// SAFETY: as above.
unsafe impl Sized for SprGenerateOptions {
    fn defaults() -> Self {
        let s = SamplerOptions::default();
        SprGenerateOptions {
            struct_size: size_of::<Self>(),
            max_tokens: 256,
            flags: 0,
            temperature: s.temperature,
            top_k: s.top_k as u32,
            top_p: s.top_p,
            min_p: s.min_p,
            repeat_penalty: s.repeat_penalty,
            repeat_last_n: s.repeat_last_n as u32,
            seed: s.seed,
            stop: std::ptr::null(),
            stop_count: 0,
        }
    }
}

impl SprLoadOptions {
    pub(crate) fn engine(&self) -> Result<EngineOptions, Fault> {
        const MOST: u32 = 1024;
        let threads = match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n if n <= MOST => n as usize,
            n => return Err(Fault::invalid(format!("threads is {n}, expected at most {MOST}"))),
        };
        let options = EngineOptions { threads, ..EngineOptions::default() };
        #[cfg(unix)]
        let options = EngineOptions { spawn: crate::thread::spawn, ..options };
        Ok(options)
    }

    /// How a file is loaded.
    pub(crate) fn of_file(&self) -> Result<Load, Fault> {
        match self.load {
            SPR_LOAD_AUTO | SPR_LOAD_MAP => Ok(Load::Mmap),
            SPR_LOAD_COPY => Ok(Load::Arena),
            other => Err(Fault::invalid(format!("load is {other}, expected 0 to 2"))),
        }
    }

    /// Whether memory is used where it is.
    pub(crate) fn is_in_place(&self) -> Result<bool, Fault> {
        self.of_file()?;
        Ok(self.load == SPR_LOAD_MAP)
    }
}

impl SprSessionOptions {
    pub(crate) fn session(&self) -> Result<SessionOptions, Fault> {
        let kv = match self.kv {
            SPR_KV_F16 => KvType::F16,
            SPR_KV_F32 => KvType::F32,
            SPR_KV_Q8 => KvType::Q8,
            other => return Err(Fault::invalid(format!("kv is {other}, expected 0 to 2"))),
        };
        Ok(SessionOptions { context: self.context as usize, kv, ..SessionOptions::default() })
    }
}

impl SprGenerateOptions {
    pub(crate) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn sampler(&self) -> Result<SamplerOptions, Fault> {
        let known = SPR_GENERATE_CONTINUE | SPR_GENERATE_SPECIAL;
        if self.flags & !known != 0 {
            return Err(Fault::invalid(format!("flags are {}, expected at most {known}", self.flags)));
        }
        Ok(SamplerOptions {
            temperature: self.temperature,
            top_k: self.top_k as usize,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n as usize,
            seed: self.seed,
        })
    }

    /// # Safety
    /// `stop` is null or points to `stop_count` zero-terminated strings.
    pub(crate) unsafe fn generate(&self) -> Result<GenerateOptions, Fault> {
        let count = if self.stop.is_null() { 0 } else { self.stop_count };
        // SAFETY: the caller's promise.
        let stop = unsafe { pointers::slice(self.stop, count, "stop") }?.iter();
        // SAFETY: the caller's promise.
        let stop = stop.map(|&stop| unsafe { pointers::text(stop, "stop") }.map(str::to_owned));
        Ok(GenerateOptions {
            max_tokens: self.max_tokens as usize,
            sampler: self.sampler()?,
            stop: stop.collect::<Result<_, _>>()?,
        })
    }
}
