//! A session's state as bytes: what was read, its keys and values, and the logits after it.
//!
//! All numbers are little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `SPRSTATE` |
//! | 4 | version, 1 |
//! | 4 | how keys and values are kept: 1 f16, 2 f32, 3 bytes; and 256 if they turn as in long texts |
//! | 32 | the model's identity |
//! | 4, 4 | tokens, n; tokens of the vocabulary, v |
//! | 4 n | the tokens |
//! | 4 v | the logits |
//! | every layer: 4 | the first position that is kept: 0, or a later one where a window sees no farther |
//! | every position from there to n | for every head of keys and values: key, value |
//! | 32 | BLAKE3 of all before |
//!
//! Nothing in them is trusted: a state that is refused changes nothing, and one that was forged with its checksum can
//! only make the model write nonsense.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::Error;
use crate::kv_cache::{KvCache, KvType};
use crate::linear::reserved;
use crate::session::Session;

const MAGIC: &[u8; 8] = b"SPRSTATE";
const VERSION: u32 = 1;
const HEADER: usize = 56;
const HASH: usize = 32;
/// Keys that turn by LongRoPE's divisors for long texts.
const LONG: u32 = 256;

impl Session {
    /// Bytes of [`Self::save`].
    pub fn state_len(&self) -> usize {
        self.state_len_of(self.position(), self.firsts())
    }

    /// The state as bytes, for [`Self::restore`] in a session of the same model, which must have been opened from a file.
    pub fn save(&self) -> Result<Vec<u8>, Error> {
        let mut out = reserved("the saved state", self.state_len())?;
        let tokens = self.tokens();
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend(code(self).to_le_bytes());
        out.extend(self.identity()?);
        // Neither is more than an id of a token, or a position, can count.
        out.extend((tokens.len() as u32).to_le_bytes());
        out.extend((self.logits().len() as u32).to_le_bytes());
        out.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
        out.extend(self.logits().iter().flat_map(|logit| logit.to_le_bytes()));
        for (cache, first) in self.caches().iter().zip(self.firsts()) {
            out.extend((first as u32).to_le_bytes());
            (first..tokens.len()).for_each(|position| cache.save(position, &mut out));
        }
        let hash = blake3::hash(&out);
        out.extend(hash.as_bytes());
        Ok(out)
    }

    /// Becomes what was saved. On an error nothing has changed.
    pub fn restore(&mut self, state: &[u8]) -> Result<(), Error> {
        let state = Parsed::of(state, self)?;
        let n = state.tokens.len();
        let mut end = n;
        for (cache, (first, kept)) in self.caches_mut().iter_mut().zip(state.layers) {
            let start = first.max(n.saturating_sub(cache.slots()));
            let of_position = cache.state_len();
            for (position, bytes) in (first..n).zip(kept.chunks_exact(of_position)).skip(start - first) {
                cache.restore(position, bytes);
            }
            // As if so many positions had been put that what is before `start` is no longer there.
            end = end.max(if start > 0 { start + cache.slots() } else { 0 });
        }
        self.set_state(&state.tokens, state.logits, end);
        Ok(())
    }

    /// Saves the state to a file, which is complete once it has its name.
    pub fn save_file(&self, path: &Path) -> Result<(), Error> {
        let state = self.save()?;
        Ok(spm::claim::write_whole(path, &state)?)
    }

    /// Becomes what was saved to a file.
    pub fn restore_file(&mut self, path: &Path) -> Result<(), Error> {
        let file = File::open(path).map_err(io("open", path))?;
        let meta = file.metadata().map_err(io("read the size of", path))?;
        let largest = self.state_len_of(self.context(), self.caches().iter().map(|_| 0));
        if !meta.is_file() || meta.len() > largest as u64 {
            let problem = format!("{}: {} bytes, expected a file of at most {largest}", path.display(), meta.len());
            return Err(refuse(problem));
        }
        let mut state = reserved("the saved state", meta.len() as usize)?;
        file.take(meta.len()).read_to_end(&mut state).map_err(io("read", path))?;
        self.restore(&state).map_err(|error| match error {
            Error::State { problem } => refuse(format!("{}: {problem}", path.display())),
            other => other,
        })
    }

    fn state_len_of(&self, n: usize, firsts: impl Iterator<Item = usize>) -> usize {
        let of_layers = self.caches().iter().zip(firsts);
        let layers = of_layers.map(|(cache, first)| 4 + n.saturating_sub(first).saturating_mul(cache.state_len()));
        layers.fold(HEADER + 4 * (n + self.logits().len()) + HASH, usize::saturating_add)
    }

    /// Of each layer, the first position that its cache still has, as long as it has any.
    fn firsts(&self) -> impl Iterator<Item = usize> {
        let of_cache = |cache: &KvCache| cache.first_kept(self.end()).min(self.position());
        self.caches().iter().map(of_cache)
    }

    fn identity(&self) -> Result<[u8; 32], Error> {
        let identity = &self.model().source()?.identity;
        // It is a hash's own text.
        blake3::Hash::from_hex(identity).map(|hash| *hash.as_bytes()).map_err(|_| Error::NoVocabulary)
    }
}

/// A state that has been checked.
struct Parsed<'a> {
    tokens: Vec<u32>,
    logits: &'a [u8],
    /// The first position that is kept, and what of each is kept.
    layers: Vec<(usize, &'a [u8])>,
}

impl<'a> Parsed<'a> {
    fn of(state: &'a [u8], session: &Session) -> Result<Self, Error> {
        let (head, [n, vocab_size]) = header(state, session)?;
        let mut rest = &state[head..state.len() - HASH];
        let mut take = |bytes: Option<usize>| {
            let taken = bytes.and_then(|bytes| rest.split_off(..bytes));
            taken.ok_or_else(|| refuse("it ends too early; save it again"))
        };
        let tokens = take(n.checked_mul(4))?.as_chunks().0.iter().map(|&token| u32::from_le_bytes(token)).collect();
        let logits = take(vocab_size.checked_mul(4))?;
        let mut layers = Vec::with_capacity(session.caches().len());
        for cache in session.caches() {
            let first = take(Some(4))?.first_chunk().map_or(0, |&first| u32::from_le_bytes(first) as usize);
            let window = cache.slots() < cache.context();
            if first > n || first > 0 && !window {
                return Err(refuse(format!("a layer begins at position {first} of {n}; save it again")));
            }
            layers.push((first, take((n - first).checked_mul(cache.state_len()))?));
        }
        if !rest.is_empty() {
            return Err(refuse(format!("{} bytes too many; save it again", rest.len())));
        }
        let parsed = Parsed { tokens, logits, layers };
        match parsed.tokens.iter().find(|&&token| token as usize >= vocab_size) {
            Some(token) => Err(refuse(format!("token {token} is not below the vocabulary's {vocab_size}"))),
            None => Ok(parsed),
        }
    }
}

/// Checks all but the tokens and the layers; returns where these begin, and the tokens and the size of the vocabulary.
fn header(state: &[u8], session: &Session) -> Result<(usize, [usize; 2]), Error> {
    let number = |at: usize| state.get(at..).and_then(|b| b.first_chunk()).map_or(0, |&b| u32::from_le_bytes(b));
    if state.len() < HEADER + HASH || !state.starts_with(MAGIC) {
        return Err(refuse("not the saved state of a session; save one first"));
    }
    if number(8) != VERSION {
        return Err(refuse(format!("version {}, this library reads {VERSION}; save it again", number(8))));
    }
    let (content, hash) = state.split_at(state.len() - HASH);
    if blake3::hash(content).as_bytes() != hash {
        return Err(refuse("its checksum is not that of its bytes; it is damaged, save it again"));
    }
    if state[16..48] != session.identity()? {
        return Err(refuse("it is of another model; restore it with the model that it was saved with"));
    }
    if number(12) & !LONG != code(session) & !LONG {
        return Err(refuse("its keys and values are kept in another type; make the session as the one that was saved"));
    }
    if number(12) != code(session) {
        let problem = "one of the sessions has room for longer texts than the model was trained for at first";
        return Err(refuse(format!("{problem}; make the session as the one that was saved")));
    }
    let [n, vocab_size] = [number(48), number(52)].map(|number| number as usize);
    if n > session.context() {
        return Err(Error::ContextFull { needed: n, context: session.context() });
    }
    if vocab_size != session.logits().len() {
        return Err(refuse(format!("{vocab_size} logits, the vocabulary has {} tokens", session.logits().len())));
    }
    Ok((HEADER, [n, vocab_size]))
}

/// How keys and values are kept.
fn code(session: &Session) -> u32 {
    let c = session.model().config();
    let is_long = c.local_rope.iter().chain([&c.rope]).any(|rope| rope.long_for(session.context()).is_some());
    let kind = match session.kv_type() {
        KvType::F16 => 1,
        KvType::F32 => 2,
        KvType::Q8 => 3,
    };
    if is_long { kind | LONG } else { kind }
}

fn refuse(problem: impl Into<String>) -> Error {
    Error::State { problem: problem.into() }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File(spm::Error::Io { action, path, source })
}
