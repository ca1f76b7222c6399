//! Which library this is.

use std::ffi::{CStr, c_char};

/// Version of this interface. Structs only grow at their ends and functions are only added under the same number.
pub const SPR_ABI_VERSION: u32 = 1;

/// The interface that the library has: not `SPR_ABI_VERSION` if it is another library than the header's.
#[unsafe(no_mangle)]
pub extern "C" fn spr_abi_version() -> u32 {
    SPR_ABI_VERSION
}

/// Version of the library, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn spr_version() -> *const c_char {
    const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(text) => text,
        Err(_) => c"",
    };
    VERSION.as_ptr()
}
