//! How calls end: a status, and a sentence a thread.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use runtime::Error;

use crate::reserve;

/// What a function returns; `spr_last_error` has the sentence.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)] // They are C's names.
pub enum SprStatus {
    /// Done.
    SPR_OK = 0,
    /// Anything else, such as a file that cannot be opened.
    SPR_ERROR = 1,
    /// An argument makes no sense, or not now.
    SPR_INVALID_ARGUMENT = 2,
    /// A model file or saved state is not what it should be.
    SPR_BAD_FILE = 3,
    /// Memory could not be had.
    SPR_OUT_OF_MEMORY = 4,
    /// A callback asked to stop.
    SPR_CANCELLED = 5,
    /// The buffer is too small; the size that is needed has been written.
    SPR_BUFFER_TOO_SMALL = 6,
    /// The tokens do not fit in the session's context.
    SPR_CONTEXT_FULL = 7,
    /// Another call on the same session has not returned yet.
    SPR_BUSY = 8,
}

use SprStatus::*;

/// What went wrong in the last call on this thread that did not return `SPR_OK`: a sentence in UTF-8, empty if none
/// did. Valid until the next call on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn spr_last_error() -> *const c_char {
    LAST_ERROR.with(|last| last.try_borrow().map_or(c"".as_ptr(), |text| text.as_ptr()))
}

/// What a status means, in a few words; of a number that is none, "unknown status".
#[unsafe(no_mangle)]
pub extern "C" fn spr_status_text(status: u32) -> *const c_char {
    const TEXTS: [&CStr; 9] = [
        c"done",
        c"error",
        c"invalid argument",
        c"bad file",
        c"out of memory",
        c"cancelled",
        c"buffer too small",
        c"context full",
        c"busy",
    ];
    TEXTS.get(status as usize).unwrap_or(&c"unknown status").as_ptr()
}

/// A failure on its way to C.
#[derive(Debug)]
pub(crate) struct Fault(pub(crate) SprStatus, pub(crate) String);

impl Fault {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Fault(SPR_INVALID_ARGUMENT, message.into())
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::File(spm::Error::Io { .. }) => SPR_ERROR,
            Error::File(spm::Error::OutOfMemory { .. }) | Error::OutOfMemory { .. } => SPR_OUT_OF_MEMORY,
            Error::File(spm::Error::Interrupted { .. }) => SPR_CANCELLED,
            Error::File(_) | Error::MissingTensor { .. } | Error::Shape { .. } => SPR_BAD_FILE,
            Error::NoVocabulary | Error::Tokenizer { .. } | Error::State { .. } | Error::NotFinite => SPR_BAD_FILE,
            Error::ContextFull { .. } => SPR_CONTEXT_FULL,
            Error::EmptyPrompt | Error::Token { .. } | Error::NoInfill => SPR_INVALID_ARGUMENT,
            _ => SPR_ERROR,
        };
        Fault(status, error.to_string())
    }
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
    /// Calls from C that this thread is in, or one for what the library's own threads do.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs a function's body; errors and panics become a status and a sentence.
pub(crate) fn guarded(body: impl FnOnce() -> Result<(), Fault>) -> SprStatus {
    keep_panics_quiet();
    let fault = match quietly(|| reserve::check().and_then(|()| body())) {
        Ok(Ok(())) => return SPR_OK,
        Ok(Err(fault)) => fault,
        Err(_) => {
            let what = PANIC.with(|text| text.try_borrow_mut().map(|mut text| std::mem::take(&mut *text)));
            Fault(SPR_ERROR, format!("internal error, please report it: {}", what.unwrap_or_default()))
        }
    };
    let text = CString::new(fault.1.replace('\0', " ")).unwrap_or_default();
    LAST_ERROR.with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            *last = text;
        }
    });
    fault.0
}

/// Runs what is the library's own, whose panics are not printed.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    DEPTH.set(DEPTH.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(work));
    DEPTH.set(DEPTH.get() - 1);
    result
}

/// Panics of calls from C are reported by their status, and not printed; others go where they went before. In a C
/// program there are no others: its copy of Rust's library is this one's own.
fn keep_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if DEPTH.get() == 0 {
                return before(info);
            }
            PANIC.with(|text| {
                if let Ok(mut text) = text.try_borrow_mut() {
                    *text = info.to_string().replace('\n', " ");
                }
            });
        }));
    });
}
