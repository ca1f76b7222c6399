//! Functions that C hands over.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ops::ControlFlow;

/// Receives text as it comes: complete UTF-8 characters, `length` bytes, not zero-terminated, valid during the call.
/// Returns 1 to go on, 0 to stop.
pub type SprTextCallback =
    Option<unsafe extern "C" fn(text: *const c_char, length: usize, user_data: *mut c_void) -> c_int>;

/// Told while a model is loaded how much of it is there, from 0 to 1. Returns 1 to go on, 0 to stop.
pub type SprProgressCallback = Option<unsafe extern "C" fn(fraction: f32, user_data: *mut c_void) -> c_int>;

/// Told in a sentence what the library does, for a log. Comes on the thread of the call that it is about.
pub type SprLogCallback = Option<unsafe extern "C" fn(text: *const c_char, user_data: *mut c_void)>;

/// Asked before every token, and every 64 tokens of a prompt. Returns 0 to go on, 1 to abort.
pub type SprAbortCallback = Option<unsafe extern "C" fn(user_data: *mut c_void) -> c_int>;

/// Where sentences for the log go.
#[derive(Clone, Copy)]
pub(crate) struct Log {
    pub(crate) callback: SprLogCallback,
    pub(crate) user_data: *mut c_void,
}

impl Log {
    pub(crate) fn say(&self, text: impl FnOnce() -> String) {
        let Some(callback) = self.callback else { return };
        let text = CString::new(text().replace('\0', " ")).unwrap_or_default();
        // SAFETY: the caller gave this function to be called with this pointer; the text outlives the call.
        unsafe { callback(text.as_ptr(), self.user_data) }
    }
}

/// Whether to go on, by a callback that returns 1 for it.
pub(crate) fn go_on(answer: c_int) -> ControlFlow<()> {
    if answer == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
