//! A session's state, kept over restarts.

use std::ffi::{c_char, c_void};
use std::path::Path;

use crate::pointers;
use crate::session::{SprSession, locked};
use crate::status::{SprStatus, guarded};

/// Writes the session's state (text, keys, values, logits) to `buffer`, which has room for `capacity` bytes, and its
/// size to `*size`. With NULL and 0 only the size is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_session_save(
    session: *const SprSession,
    buffer: *mut c_void,
    capacity: usize,
    size: *mut usize,
) -> SprStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let inner = unsafe { locked(session) }?;
        if buffer.is_null() && capacity == 0 {
            // SAFETY: the caller's promise.
            return unsafe { pointers::write(size, inner.session.state_len(), "size") };
        }
        // SAFETY: the caller's promise.
        unsafe { pointers::give(&inner.has_read()?.save()?, buffer.cast::<u8>(), capacity, size) }
    })
}

/// Makes the session what was saved, in the same or another session of the same model file. What is damaged, forged, or
/// of another model is refused, and changes nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_session_restore(session: *mut SprSession, data: *const c_void, size: usize) -> SprStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let mut inner = unsafe { locked(session) }?;
        // SAFETY: the caller's promise.
        let data = unsafe { pointers::slice(data.cast::<u8>(), size, "data") }?;
        inner.session.restore(data)?;
        inner.is_cut = false;
        Ok(())
    })
}

/// As `spr_session_save`, to the file at `path` (UTF-8), which has its name once it is complete.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_session_save_file(session: *const SprSession, path: *const c_char) -> SprStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (inner, path) = unsafe { (locked(session)?, pointers::text(path, "path")?) };
        Ok(inner.has_read()?.save_file(Path::new(path))?)
    })
}

/// As `spr_session_restore`, from the file at `path` (UTF-8).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_session_restore_file(session: *mut SprSession, path: *const c_char) -> SprStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (mut inner, path) = unsafe { (locked(session)?, pointers::text(path, "path")?) };
        inner.session.restore_file(Path::new(path))?;
        inner.is_cut = false;
        Ok(())
    })
}
