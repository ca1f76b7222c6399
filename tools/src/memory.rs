//! How much of the memory there is, or that may be used, sessions can have.

use std::sync::Arc;

use runtime::{KvType, Model, Session, SessionOptions, Sessions};
use spm::Config;

use crate::failure::Failure;
use crate::process::{self, megabytes};

/// Texts that go on together at most: more are not faster.
const TOGETHER: usize = 16;

/// Sessions for up to `texts` texts of `context` tokens, as many as a quarter of the free memory holds.
pub fn sessions(model: &Arc<Model>, texts: usize, context: usize, advice: &str) -> Result<Sessions, Failure> {
    let kv = KvType::F16;
    let bytes = |texts: usize| Sessions::memory_needed(model, texts, context, kv) as u64;
    let most = process::available_memory().unwrap_or(u64::MAX) / 4;
    let mut texts = texts.clamp(1, TOGETHER);
    while texts > 1 && bytes(texts) > most {
        texts /= 2;
    }
    process::check_memory(&format!("a text of {context} tokens"), bytes(texts), advice)?;
    Ok(Sessions::new(model, texts, context, kv)?)
}

/// What there is room in.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// What the program may take in all, if that is limited.
    pub limit: Option<u64>,
    /// What the system has left, if it says.
    pub available: Option<u64>,
    /// What the program has taken by now.
    pub taken: u64,
    /// The files that weights are read from, where they are not copied: pages that the system can drop and read again.
    pub mapped: u64,
}

/// What a session can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes for a session; `None` if nobody knows.
    pub bytes: Option<u64>,
    /// Whether the weights do not stay in memory beside it, so that they are read from the file for every token.
    pub streams: bool,
}

impl Memory {
    /// Under a limit the file counts as well, if it fits at all.
    pub fn room(&self) -> Room {
        let under_limit = self.limit.map(|limit| limit.saturating_sub(self.taken));
        let streams = under_limit.or(self.available).is_some_and(|left| left <= self.mapped);
        let under_limit = under_limit.map(|left| if streams { left } else { left - self.mapped });
        let bytes = under_limit.into_iter().chain(self.available).min();
        Room { bytes, streams }
    }
}

/// The context that a session gets: `wanted`, or if that does not fit, as much as does, if `least` does. The second is a
/// sentence for people where it is not what was wanted.
pub fn fit_context(
    config: &Config,
    options: &SessionOptions,
    threads: usize,
    room: Room,
    (wanted, least): (usize, usize),
) -> Result<(usize, Option<String>), Failure> {
    let needed = |context| {
        let options = SessionOptions { context, ..options.clone() };
        Session::memory_needed(config, &options, threads) as u64
    };
    let Some(bytes) = room.bytes.filter(|&bytes| needed(wanted) > bytes) else { return Ok((wanted, None)) };
    let fits = largest(wanted, |context| needed(context) <= bytes);
    let says = |context| format!("a context of {context} tokens needs {}", megabytes(needed(context)));
    if fits < least {
        let (least, left) = (says(least), megabytes(bytes));
        let advice = match fits {
            0 => "free some, or raise --memory-limit".to_owned(),
            fits => format!("{fits} tokens fit: ask for them with -c, or give a shorter prompt"),
        };
        return Err(Failure::OutOfMemory(format!("{least}, {left} are left; {advice}")));
    }
    let sentence = format!("{}, {} are left: it has {fits} tokens", says(wanted), megabytes(bytes));
    Ok((fits, Some(sentence)))
}

/// The largest number up to `most` that is `good`, if all below a good one are; 0 if none is.
fn largest(most: usize, good: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if good(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Memory = Memory { limit: None, available: Some(1000), taken: 100, mapped: 600 };

    #[test]
    fn a_limit_holds_for_the_file_too() {
        assert_eq!(FREE.room(), Room { bytes: Some(1000), streams: false });
        assert_eq!(Memory { available: None, ..FREE }.room(), Room { bytes: None, streams: false });
        assert_eq!(Memory { limit: Some(900), ..FREE }.room(), Room { bytes: Some(200), streams: false });
        assert_eq!(Memory { limit: Some(900), available: Some(50), ..FREE }.room().bytes, Some(50));
        assert_eq!(Memory { limit: Some(600), ..FREE }.room(), Room { bytes: Some(500), streams: true });
        assert_eq!(Memory { limit: Some(90), ..FREE }.room(), Room { bytes: Some(0), streams: true });
        assert_eq!(Memory { available: Some(500), ..FREE }.room(), Room { bytes: Some(500), streams: true });
    }

    #[test]
    fn a_context_is_cut_to_what_fits() {
        let (config, options) = (Config::new(2, 64, 160, 4, 2), SessionOptions::default());
        let of = |context| {
            let options = SessionOptions { context, ..options.clone() };
            Session::memory_needed(&config, &options, 2) as u64
        };
        let fit = |bytes, wanted, least| {
            let room = Room { bytes, streams: false };
            fit_context(&config, &options, 2, room, (wanted, least))
        };
        assert_eq!(fit(None, 500, 500).unwrap(), (500, None));
        assert_eq!(fit(Some(of(500)), 500, 500).unwrap(), (500, None));
        let (context, sentence) = fit(Some(of(300)), 500, 100).unwrap();
        assert_eq!(context, 300);
        assert!(sentence.unwrap().ends_with("it has 300 tokens"));
        let Err(Failure::OutOfMemory(refused)) = fit(Some(of(300)), 500, 400) else { panic!() };
        assert!(refused.contains("a context of 400 tokens needs") && refused.contains("300 tokens fit"), "{refused}");
        let Err(Failure::OutOfMemory(refused)) = fit(Some(10), 500, 400) else { panic!() };
        assert!(refused.contains("0.0 MB are left; free some"), "{refused}");
    }
}
