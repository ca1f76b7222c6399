//! Threads of the system's own library: where memory for one is refused, Rust's ends the process.

use std::ffi::{CString, c_void};
use std::io;
use std::ptr::{null, null_mut};

use runtime::Join;

use crate::status::quietly;

type Work = Box<dyn FnOnce() + Send>;

/// A [`runtime::Spawn`].
pub(crate) fn spawn(name: &str, work: Work) -> io::Result<Join> {
    let work = Box::into_raw(Box::new(work));
    let mut thread = 0;
    // SAFETY: `main` takes back the box that it is given, once.
    let error = unsafe { libc::pthread_create(&raw mut thread, null(), main, work.cast()) };
    if error != 0 {
        // SAFETY: there is no thread that would take it back.
        drop(unsafe { Box::from_raw(work) });
        return Err(io::Error::from_raw_os_error(error));
    }
    #[cfg(target_os = "linux")]
    if let Ok(name) = CString::new(name) {
        // SAFETY: the thread has not been joined. It is for people who look; one that is too long is not set.
        unsafe { libc::pthread_setname_np(thread, name.as_ptr()) };
    }
    Ok(Box::new(move || {
        // SAFETY: it is joined here alone, once.
        unsafe { libc::pthread_join(thread, null_mut()) };
    }))
}

extern "C" fn main(work: *mut c_void) -> *mut c_void {
    // SAFETY: `spawn` gave it away, to this thread alone.
    let work = unsafe { Box::from_raw(work.cast::<Work>()) };
    let _ = quietly(work);
    null_mut()
}
