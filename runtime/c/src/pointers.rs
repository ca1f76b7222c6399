//! Pointers from C, checked as far as they can be.

use std::ffi::{CStr, c_char};

use crate::reserve::Mark;
use crate::status::{Fault, SprStatus};

/// # Safety
/// `text` is null or a zero-terminated string that outlives the result.
pub(crate) unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a str, Fault> {
    if text.is_null() {
        return Err(null(what));
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| not_utf8(what))
}

/// # Safety
/// `data` is null, or has `len` readable values that outlive the result.
pub(crate) unsafe fn slice<'a, T>(data: *const T, len: usize, what: &str) -> Result<&'a [T], Fault> {
    if len == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(null(what));
    }
    if len > isize::MAX as usize / size_of::<T>() || !data.is_aligned() {
        return Err(Fault::invalid(format!("`{what}` cannot be {len} values at {data:?}")));
    }
    // SAFETY: not null, aligned and not longer than memory can be; readable by the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(data, len) })
}

/// The same as text.
///
/// # Safety
/// `data` is null, or has `len` readable bytes that outlive the result.
pub(crate) unsafe fn text_of<'a>(data: *const c_char, len: usize, what: &str) -> Result<&'a str, Fault> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { slice(data.cast::<u8>(), len, what) }?;
    std::str::from_utf8(bytes).map_err(|_| not_utf8(what))
}

/// Writes a result where the caller wants it.
///
/// # Safety
/// `to` is null or writable.
pub(crate) unsafe fn write<T>(to: *mut T, value: T, what: &str) -> Result<(), Fault> {
    if to.is_null() || !to.is_aligned() {
        return Err(null(what));
    }
    // SAFETY: not null and aligned; writable by the caller's promise.
    unsafe { to.write(value) };
    Ok(())
}

/// Writes how many values `found` has to `count`, and the values to a buffer with room for `capacity`. No buffer at all
/// asks for the number alone.
///
/// # Safety
/// `count` is null or writable; `buffer` is null, or has room for `capacity` values.
pub(crate) unsafe fn give<T: Copy>(
    found: &[T],
    buffer: *mut T,
    capacity: usize,
    count: *mut usize,
) -> Result<(), Fault> {
    // SAFETY: the caller's promise.
    unsafe { write(count, found.len(), "count") }?;
    if buffer.is_null() && capacity == 0 {
        return Ok(());
    }
    if buffer.is_null() || !buffer.is_aligned() {
        return Err(null("buffer"));
    }
    if capacity < found.len() {
        let (needed, unit) = (found.len(), if size_of::<T>() == 1 { "bytes" } else { "values" });
        let message = format!("the buffer has room for {capacity} of {needed} {unit}; give a larger one");
        return Err(Fault(SprStatus::SPR_BUFFER_TOO_SMALL, message));
    }
    // SAFETY: the buffer has room for as many by the caller's promise, and cannot be a part of our own memory.
    unsafe { std::ptr::copy_nonoverlapping(found.as_ptr(), buffer, found.len()) };
    Ok(())
}

/// Options that C hands over: plain numbers and pointers, that begin with their size.
///
/// # Safety
/// `repr(C)`, the first field a `usize`, and any bytes are a value.
pub(crate) unsafe trait Sized: Copy {
    fn defaults() -> Self;
}

/// Copies options that may be shorter (an older header) or longer (a newer one) than ours.
///
/// # Safety
/// `options` is null, or begins with a `usize` saying how many bytes there are, and has them.
pub(crate) unsafe fn sized<T: Sized>(options: *const T) -> Result<T, Fault> {
    let mut result = T::defaults();
    if !options.is_null() {
        // SAFETY: the caller's promise.
        let known = unsafe { known_size(options) }?;
        // SAFETY: both sides have at least `known` bytes, and any bytes are a T.
        unsafe { std::ptr::copy_nonoverlapping(options.cast::<u8>(), (&raw mut result).cast::<u8>(), known) };
    }
    Ok(result)
}

/// Writes as many bytes of a struct as the caller's has, and leaves its size as it is.
///
/// # Safety
/// `to` is null, or begins with a `usize` saying how many bytes there are, and has them, writable.
pub(crate) unsafe fn write_sized<T: Sized>(to: *mut T, value: &T) -> Result<(), Fault> {
    if to.is_null() {
        return Err(null("info"));
    }
    const START: usize = size_of::<usize>();
    // SAFETY: the caller's promise.
    let known = unsafe { known_size(to) }?;
    let from = (&raw const *value).cast::<u8>();
    // SAFETY: both sides have at least `known` bytes, which is not less than START.
    unsafe { std::ptr::copy_nonoverlapping(from.add(START), to.cast::<u8>().add(START), known - START) };
    Ok(())
}

/// How many bytes both sides know.
///
/// # Safety
/// `options` begins with a readable `usize`.
unsafe fn known_size<T>(options: *const T) -> Result<usize, Fault> {
    // SAFETY: the caller's promise.
    let size = unsafe { options.cast::<usize>().read_unaligned() };
    if size < size_of::<usize>() || size > 1 << 12 {
        return Err(Fault::invalid(format!("struct_size is {size}; initialise the struct with the header's macro")));
    }
    Ok(size.min(size_of::<T>()))
}

/// A type that C has pointers to and knows nothing of. They point to a [`Tagged`] value.
pub(crate) trait Handle {
    type Value;
    const TAG: u64;
    const NAME: &'static str;
}

/// What handles point to: the tag first, so that it can be read of any handle, and tells what it is of.
#[repr(C)]
struct Tagged<T> {
    tag: u64,
    value: T,
}

/// Writes a handle of a value where the caller wants it, for [`take_back`] to take back; none if memory has been refused
/// since the `mark`.
///
/// # Safety
/// `to` is null or writable.
pub(crate) unsafe fn give_away<H: Handle>(to: *mut *mut H, value: H::Value, mark: &Mark) -> Result<(), Fault> {
    let made = Box::new(Tagged { tag: H::TAG, value });
    mark.check()?;
    // SAFETY: the caller's promise.
    unsafe { write(to, std::ptr::null_mut(), H::NAME) }?;
    // SAFETY: it could be written to.
    unsafe { to.write(Box::into_raw(made).cast()) };
    Ok(())
}

/// # Safety
/// `handle` is null or from this library and not freed.
pub(crate) unsafe fn handle<'a, H: Handle>(handle: *const H) -> Result<&'a H::Value, Fault> {
    let tagged = handle.cast::<Tagged<H::Value>>();
    if tagged.is_null() {
        return Err(null(H::NAME));
    }
    // SAFETY: what handles of any kind point to begins with a tag. One that is not aligned is none.
    if !tagged.is_aligned() || unsafe { tagged.cast::<u64>().read() } != H::TAG {
        return Err(Fault::invalid(format!("`{0}` is no {0}; is it another handle, or freed?", H::NAME)));
    }
    // SAFETY: it has the tag of its kind, and lives as long by the caller's promise.
    Ok(unsafe { &(*tagged).value })
}

/// The value of a handle, if it is one, which it no longer is.
///
/// # Safety
/// As [`handle()`], and no call that uses it is running.
pub(crate) unsafe fn take_back<H: Handle>(given: *mut H) -> Option<H::Value> {
    // SAFETY: the caller's promise.
    unsafe { handle(given.cast_const()) }.ok()?;
    let tagged = given.cast::<Tagged<H::Value>>();
    // SAFETY: it is a handle, by its tag. Volatile, as nothing else reads it before the memory is given back.
    unsafe { (&raw mut (*tagged).tag).write_volatile(0) };
    // SAFETY: `give_away` made a box of it, which comes back once.
    let tagged = unsafe { Box::from_raw(tagged) };
    Some(tagged.value)
}

pub(crate) fn null(what: &str) -> Fault {
    Fault::invalid(format!("`{what}` is null"))
}

fn not_utf8(what: &str) -> Fault {
    Fault::invalid(format!("`{what}` is not UTF-8"))
}
