//! Generation in one call.

use std::ffi::{c_char, c_void};

use runtime::{GenerateOptions, Special, Step, Writer};

use crate::callbacks::{SprTextCallback, go_on};
use crate::options::{SPR_GENERATE_CONTINUE, SPR_GENERATE_SPECIAL, SprGenerateOptions};
use crate::pointers;
use crate::session::{Inner, SprSession, locked};
use crate::status::{Fault, SprStatus, guarded};

/// Continues `prompt` (UTF-8, zero-terminated) and hands the text to `callback`. The prompt is the whole text, of which
/// what the session has read already is not read again; or with `SPR_GENERATE_CONTINUE`, what comes next. `options` may
/// be NULL. If a callback asked to stop the status is `SPR_CANCELLED`, and the session can be used on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_generate(
    session: *mut SprSession,
    prompt: *const c_char,
    options: *const SprGenerateOptions,
    callback: SprTextCallback,
    user_data: *mut c_void,
) -> SprStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (mut inner, prompt, options) =
            unsafe { (locked(session)?, pointers::text(prompt, "prompt")?, pointers::sized(options)?) };
        // SAFETY: the caller's promise.
        let generate = unsafe { options.generate() }?;
        let special = if options.has(SPR_GENERATE_SPECIAL) { Special::Parse } else { Special::AsText };
        let model = inner.session.model().clone();
        let goes_on = options.has(SPR_GENERATE_CONTINUE) && inner.session.position() > 0;
        let mut tokens = if goes_on { inner.session.tokens().to_vec() } else { Vec::new() };
        let prompt = model.tokenizer()?.encode(prompt, special);
        // The token that begins a text does not stand within one.
        let begin = usize::from(goes_on && model.tokenizer()?.adds_bos());
        tokens.extend(&prompt[begin..]);
        write(&mut inner, &tokens, &generate, Show { callback, user_data })
    })
}

/// Writes what stands between `prefix` and `suffix` (UTF-8, zero-terminated), as `spr_generate` does. For models that
/// were trained to fill in, as `spr_model_get_info` tells.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_infill(
    session: *mut SprSession,
    prefix: *const c_char,
    suffix: *const c_char,
    options: *const SprGenerateOptions,
    callback: SprTextCallback,
    user_data: *mut c_void,
) -> SprStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (mut inner, prefix, suffix) =
            unsafe { (locked(session)?, pointers::text(prefix, "prefix")?, pointers::text(suffix, "suffix")?) };
        // SAFETY: the caller's promise.
        let options = unsafe { pointers::sized::<SprGenerateOptions>(options)?.generate() }?;
        let prompt = inner.session.model().tokenizer()?.infill(prefix, suffix)?;
        write(&mut inner, &prompt, &options, Show { callback, user_data })
    })
}

/// Where the text goes.
struct Show {
    callback: SprTextCallback,
    user_data: *mut c_void,
}

fn write(inner: &mut Inner, prompt: &[u32], options: &GenerateOptions, show: Show) -> Result<(), Fault> {
    let callback = show.callback.ok_or_else(|| pointers::null("callback"))?;
    let (abort, model) = (inner.abort(), inner.session.model().clone());
    inner.is_cut = true;
    if abort.asked().is_break() || inner.session.read(prompt, &mut |_| abort.asked())?.is_break() {
        return Err(inner.aborted());
    }
    inner.is_cut = false;
    inner.log.say(|| format!("read a text of {} tokens", inner.session.position()));
    let mut writer = Writer::new(options);
    writer.accept(inner.session.tokens());
    loop {
        let (text, is_last) = match writer.step(&mut inner.session, model.tokenizer()?)? {
            Step::More(text) => (text, false),
            Step::Last(text, _) => (text, true),
        };
        // SAFETY: the caller gave this function to be called with this pointer; the text outlives the call.
        let say = |text: &str| go_on(unsafe { callback(text.as_ptr().cast(), text.len(), show.user_data) });
        if !text.is_empty() && say(&text).is_break() {
            return Err(Fault(SprStatus::SPR_CANCELLED, "the text callback asked to stop".into()));
        }
        if is_last {
            return Ok(());
        }
        if abort.asked().is_break() {
            return Err(inner.aborted());
        }
    }
}
