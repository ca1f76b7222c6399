//! Sessions: one text each, fed and sampled token by token.

use std::ffi::c_void;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, TryLockError};

use runtime::{Error, PROMPT_STEP, Sampler, Session};

use crate::callbacks::{Log, SprAbortCallback};
use crate::model::SprModel;
use crate::options::{SprGenerateOptions, SprSessionOptions};
use crate::pointers::{self, Handle, Sized};
use crate::reserve::{Hold, Mark};
use crate::status::{Fault, SprStatus, guarded};

/// A text that a model reads and writes. Calls on one session must not overlap; calls on several may, on as many threads.
pub struct SprSession {
    _private: [u8; 0],
}

/// What calls on a session work on, one at a time.
pub struct Inner {
    pub(crate) session: Session,
    pub(crate) log: Log,
    /// Whether the text was cut, so that the logits are of one that is no more.
    pub(crate) is_cut: bool,
    abort: Abort,
    sampler: Option<Sampler>,
    /// Dropped last.
    _hold: Hold,
}

#[derive(Clone, Copy)]
pub(crate) struct Abort {
    callback: SprAbortCallback,
    user_data: *mut c_void,
}

impl Abort {
    pub(crate) fn asked(self) -> ControlFlow<()> {
        // SAFETY: the caller gave this function to be called with this pointer.
        match self.callback.is_some_and(|abort| unsafe { abort(self.user_data) } != 0) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

impl Handle for SprSession {
    type Value = Mutex<Inner>;
    const TAG: u64 = u64::from_le_bytes(*b"sprtexts");
    const NAME: &'static str = "session";
}

/// What there is to know of a session. Initialise with `SPR_SESSION_INFO_INIT`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SprSessionInfo {
    /// sizeof(spr_session_info)
    pub struct_size: usize,
    /// Bytes of `spr_session_save` at the moment.
    pub state_bytes: u64,
    /// Tokens there is room for.
    pub context: u32,
    /// Tokens of the text so far.
    pub position: u32,
}

// SAFETY: repr(C), the size first, numbers only.
unsafe impl Sized for SprSessionInfo {
    fn defaults() -> Self {
        SprSessionInfo { struct_size: size_of::<Self>(), state_bytes: 0, context: 0, position: 0 }
    }
}

/// Makes a session of `model`, with all the memory that it will need. `options` may be NULL. On success `*session` is to
/// be freed with `spr_session_free`; on failure it is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_session_new(
    model: *const SprModel,
    options: *const SprSessionOptions,
    session: *mut *mut SprSession,
) -> SprStatus {
    guarded(|| {
        let (mark, hold) = (Mark::new(), Hold::new());
        // SAFETY: the caller's promise.
        unsafe { pointers::write(session, std::ptr::null_mut(), "session") }?;
        // SAFETY: the caller's promise.
        let (model, options) = unsafe { (pointers::handle(model)?, pointers::sized::<SprSessionOptions>(options)?) };
        let made = Session::new(&model.model, &options.session()?)?;
        model.log.say(|| format!("a session with room for {} tokens", made.context()));
        let abort = Abort { callback: options.abort, user_data: options.user_data };
        let inner =
            Mutex::new(Inner { session: made, log: model.log, is_cut: false, abort, sampler: None, _hold: hold });
        // SAFETY: the caller's promise. The handle is taken back by `spr_session_free`.
        unsafe { pointers::give_away(session, inner, &mark) }
    })
}

/// Frees a session; NULL is ignored. No call that uses it may be running, not even the one that a callback is called by.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_session_free(session: *mut SprSession) {
    // SAFETY: the caller's promise.
    let session = unsafe { pointers::take_back(session) };
    let _ = catch_unwind(AssertUnwindSafe(|| drop(session)));
}

/// Fills in `info`, of which `struct_size` is set already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_session_get_info(session: *const SprSession, info: *mut SprSessionInfo) -> SprStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let session = &unsafe { locked(session) }?.session;
        let found = SprSessionInfo {
            state_bytes: session.state_len() as u64,
            context: u32::try_from(session.context()).unwrap_or(u32::MAX),
            position: session.position() as u32,
            ..SprSessionInfo::defaults()
        };
        // SAFETY: the caller's promise.
        unsafe { pointers::write_sized(info, &found) }
    })
}

/// Reads `count` tokens after those so far. Aborted, the session has those of the first that were read. Where the model's
/// logits are not finite, which is a damaged file, it is `SPR_BAD_FILE`, and the session has read nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_eval(session: *mut SprSession, tokens: *const u32, count: usize) -> SprStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let mut inner = unsafe { locked(session) }?;
        let (position, context) = (inner.session.position(), inner.session.context());
        // Before a slice is made of a number that may be nonsense.
        if count > context - position {
            return Err(Error::ContextFull { needed: position.saturating_add(count), context }.into());
        }
        // SAFETY: the caller's promise.
        let tokens = unsafe { pointers::slice(tokens, count, "tokens") }?;
        inner.session.check_tokens(tokens)?;
        for step in tokens.chunks(PROMPT_STEP) {
            if inner.abort.asked().is_break() {
                return Err(inner.aborted());
            }
            inner.session.feed(step)?;
            inner.is_cut = false;
        }
        Ok(())
    })
}

/// Points `*logits` to the logits after the last token that was read, one a token of the vocabulary, and writes their
/// number to `*count`. Those of tokens that the model cannot write are negative infinity. Valid until the next call that
/// reads or writes in this session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_logits(
    session: *const SprSession,
    logits: *mut *const f32,
    count: *mut usize,
) -> SprStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let inner = unsafe { locked(session) }?;
        let found = inner.has_read()?.logits();
        // SAFETY: the caller's promise.
        unsafe {
            pointers::write(count, found.len(), "count")?;
            pointers::write(logits, found.as_ptr(), "logits")
        }
    })
}

/// Chooses a token to come after those so far, and writes it to `*token`; `spr_eval` reads it. Of `options`, which may be
/// NULL, what is random counts; as long as that stays the same, calls go on with the same random numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_sample(
    session: *mut SprSession,
    options: *const SprGenerateOptions,
    token: *mut u32,
) -> SprStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (mut inner, options) = unsafe { (locked(session)?, pointers::sized(options)?) };
        let options = options.sampler()?;
        inner.has_read()?;
        let Inner { session, sampler, .. } = &mut *inner;
        if sampler.as_ref().is_none_or(|sampler| *sampler.options() != options) {
            *sampler = Some(Sampler::new(&options));
        }
        let sampler = sampler.get_or_insert_with(|| Sampler::new(&options));
        sampler.remember(session.tokens());
        let chosen = sampler.sample(session.logits());
        // SAFETY: the caller's promise.
        unsafe { pointers::write(token, chosen, "token") }
    })
}

/// Forgets all but the first `position` tokens; 0 begins a new text. Unless all were forgotten, the next call must be one
/// that reads. With a model whose layers see only a window there may be less left: `*position_left`, which may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_session_truncate(
    session: *mut SprSession,
    position: usize,
    position_left: *mut usize,
) -> SprStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let mut inner = unsafe { locked(session) }?;
        if position > inner.session.position() {
            let (now, message) = (inner.session.position(), "forgetting leaves no more than there is");
            return Err(Fault::invalid(format!("position is {position}, the text has {now} tokens; {message}")));
        }
        inner.is_cut |= position < inner.session.position();
        let left = inner.session.truncate(position);
        match position_left.is_null() {
            true => Ok(()),
            // SAFETY: the caller's promise.
            false => unsafe { pointers::write(position_left, left, "position_left") },
        }
    })
}

/// Begins a new text, and a new sequence of random numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spr_session_reset(session: *mut SprSession) -> SprStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let mut inner = unsafe { locked(session) }?;
        inner.session.truncate(0);
        inner.sampler = None;
        Ok(())
    })
}

impl Inner {
    pub(crate) fn abort(&self) -> Abort {
        self.abort
    }

    pub(crate) fn aborted(&self) -> Fault {
        Fault(
            SprStatus::SPR_CANCELLED,
            format!("the abort callback asked to stop at token {}", self.session.position()),
        )
    }

    /// The session, if its logits are those after its text.
    pub(crate) fn has_read(&self) -> Result<&Session, Fault> {
        match self.session.position() {
            0 => Err(Fault::invalid("the session has read nothing yet; call spr_eval first")),
            _ if self.is_cut => Err(Fault::invalid("the session's text was cut; call spr_eval to read on first")),
            _ => Ok(&self.session),
        }
    }
}

/// The session, for the time of a call.
///
/// # Safety
/// `session` is null or from this library and not freed.
pub(crate) unsafe fn locked<'a>(session: *const SprSession) -> Result<MutexGuard<'a, Inner>, Fault> {
    // SAFETY: the caller's promise.
    let session = unsafe { pointers::handle(session) }?;
    session.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Fault(
            SprStatus::SPR_BUSY,
            "another call on this session has not returned yet; use one session a thread".into(),
        ),
        TryLockError::Poisoned(_) => {
            Fault(SprStatus::SPR_ERROR, "an earlier call on this session ended in an internal error; free it".into())
        }
    })
}
