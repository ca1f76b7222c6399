//! Text to tokens and back.

use std::ffi::{c_char, c_int};

use runtime::{Error, Special};

use crate::model::{Loaded, SprModel};
use crate::pointers;
use crate::status::{Fault, SprStatus, guarded};

/// Begin with the token that texts of this model begin with, if it has one.
pub const SPR_TOKENIZE_BEGIN: u32 = 1;
/// Special tokens such as <|im_end|> are what they stand for, instead of text. Not for texts from users.
pub const SPR_TOKENIZE_SPECIAL: u32 = 2;

/// Writes the tokens of the `length` bytes of `text` (UTF-8) to `tokens`, which has room for `capacity`, and their
/// number to `*count`. With NULL and 0 only the number is written. `flags` are `SPR_TOKENIZE_...`, added together.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_tokenize(
    model: *const SprModel,
    text: *const c_char,
    length: usize,
    flags: u32,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> SprStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (model, text) = unsafe { (pointers::handle(model)?, pointers::text_of(text, length, "text")?) };
        let known = SPR_TOKENIZE_BEGIN | SPR_TOKENIZE_SPECIAL;
        if flags & !known != 0 {
            return Err(Fault::invalid(format!("flags are {flags}, expected at most {known}")));
        }
        let special = if flags & SPR_TOKENIZE_SPECIAL != 0 { Special::Parse } else { Special::AsText };
        let tokenizer = model.model.tokenizer()?;
        let ids = tokenizer.encode(text, special);
        let begin = usize::from(tokenizer.adds_bos() && flags & SPR_TOKENIZE_BEGIN == 0);
        // SAFETY: the caller's promise.
        unsafe { pointers::give(&ids[begin..], tokens, capacity, count) }
    })
}

/// Writes the text of `count` tokens to `text`, which has room for `capacity` bytes, and its length to `*length`. With
/// NULL and 0 only the length is written. The text is not zero-terminated, and may begin or end within a character, as
/// tokens do; special tokens have none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_detokenize(
    model: *const SprModel,
    tokens: *const u32,
    count: usize,
    text: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> SprStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (model, tokens) = unsafe { (pointers::handle(model)?, pointers::slice(tokens, count, "tokens")?) };
        let tokenizer = model.model.tokenizer()?;
        let vocab_size = tokenizer.vocab_size();
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(Error::Token { token, vocab_size }.into());
        }
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| tokenizer.token_bytes(token)).copied().collect();
        // SAFETY: the caller's promise.
        unsafe { pointers::give(&bytes, text.cast::<u8>(), capacity, length) }
    })
}

/// 1 if the model ends a text with this token; 0 if not, or if there is no such token or model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_token_is_end(model: *const SprModel, token: u32) -> c_int {
    // SAFETY: the caller's promise.
    let model = unsafe { pointers::handle(model) };
    let is_end = |model: &Loaded| model.model.tokenizer().is_ok_and(|tokenizer| tokenizer.is_end(token));
    c_int::from(model.is_ok_and(is_end))
}
