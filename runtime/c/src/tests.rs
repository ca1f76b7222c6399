//! What cannot be seen from outside: panics.

use crate::status::{Fault, SprStatus, guarded, spr_last_error};

fn last_error() -> String {
    // SAFETY: the library's own text, valid until the next call.
    unsafe { std::ffi::CStr::from_ptr(spr_last_error()) }.to_string_lossy().into_owned()
}

#[test]
fn a_panic_is_a_status_with_a_sentence() {
    let status = guarded(|| panic!("the impossible\nhappened"));
    assert_eq!(status, SprStatus::SPR_ERROR);
    let text = last_error();
    assert!(text.contains("internal error") && text.contains("the impossible happened"), "{text}");
    assert!(text.contains("tests.rs"), "{text}");

    assert_eq!(guarded(|| Ok(())), SprStatus::SPR_OK);
    assert_eq!(guarded(|| Err(Fault::invalid("a\0b"))), SprStatus::SPR_INVALID_ARGUMENT);
    assert_eq!(last_error(), "a b");
}
