//! From prompts to what a model adds to them.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use pruner::calibration::Turn;
use runtime::{GenerateOptions, SamplerOptions, Sessions, Special, Step, Tokenizer};

use crate::cli::Ready;
use crate::failure::Failure;
use crate::memory::sessions;

/// What is before the text that the model adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text to continue.
    Raw(String),
    /// A message, and the beginning of the answer.
    Chat {
        /// What the user says.
        message: String,
        /// What the assistant is made to begin with.
        answer: String,
    },
}

/// How an answer is drawn.
#[derive(Clone, Debug)]
pub struct Sampling {
    /// Tokens at most, and at least one.
    pub max_tokens: usize,
    /// 0 always takes the most likely token.
    pub temperature: f32,
    /// Only the most likely tokens that together reach this probability.
    pub top_p: f32,
    /// Same seed, same answer.
    pub seed: u64,
}

/// When an answer is over.
pub struct Until<'a> {
    /// It ends before any of these.
    pub stops: Vec<String>,
    /// Or when this says so of all of it.
    pub finished: Box<dyn Fn(&str) -> bool + 'a>,
}

/// A model that continues several prompts together, each known by a `K`. What becomes of one does not depend on the others.
pub struct Writer<'a, K> {
    ready: &'a Ready,
    sessions: Sessions,
    drafts: Vec<Option<Draft<'a, K>>>,
    interrupted: &'a AtomicBool,
}

/// An answer on the way.
struct Draft<'a, K> {
    id: K,
    prompt: Vec<u32>,
    /// What the model reads next.
    token: u32,
    written: runtime::Writer,
    until: Until<'a>,
    text: String,
}

impl<'a, K> Writer<'a, K> {
    /// For `answers` answers, with room for `longest` tokens of a prompt and `max_tokens` more, or as many as the model can.
    pub fn new(
        ready: &'a Ready,
        answers: usize,
        longest: usize,
        max_tokens: usize,
        interrupted: &'a AtomicBool,
    ) -> Result<Self, Failure> {
        let context = longest.saturating_add(max_tokens).clamp(2, ready.model.config().context_len.max(2));
        let sessions = sessions(&ready.model, answers, context, "ask for less with --max-tokens")?;
        let drafts = (0..sessions.texts()).map(|_| None).collect();
        Ok(Writer { ready, sessions, drafts, interrupted })
    }

    /// Whether a prompt leaves room in the context.
    pub fn fits(&self, prompt: &[u32]) -> bool {
        prompt.len() < self.sessions.context()
    }

    /// Whether another answer can begin.
    pub fn is_free(&self) -> bool {
        self.drafts.iter().any(Option::is_none)
    }

    /// Whether no answer is on the way.
    pub fn is_idle(&self) -> bool {
        self.drafts.iter().all(Option::is_none)
    }

    /// Begins answer `id` to a prompt that fits; [`Self::is_free`] must hold.
    pub fn begin(&mut self, id: K, prompt: &[u32], until: Until<'a>, sampling: &Sampling) -> Result<(), Failure> {
        let begin = self.ready.tokenizer.bos().or(self.ready.tokenizer.end_ids().first().copied());
        let prompt = if prompt.is_empty() { begin.as_slice() } else { prompt };
        let Some((&token, before)) = prompt.split_last() else { return Err(runtime::Error::EmptyPrompt.into()) };
        let Some(at) = self.drafts.iter().position(Option::is_none) else {
            return Err(Failure::Runtime("no room for another answer".into()));
        };
        self.sessions.restart(at);
        self.read(at, before)?;
        let written = runtime::Writer::new(&options(sampling, &until));
        self.drafts[at] = Some(Draft { id, prompt: prompt.to_vec(), token, written, until, text: String::new() });
        Ok(())
    }

    /// A token of every answer on the way; returns those that are over.
    pub fn step(&mut self) -> Result<Vec<(K, String)>, Failure> {
        if self.interrupted.load(Ordering::SeqCst) {
            return Err(Failure::Interrupted);
        }
        let Writer { ready, sessions, drafts, .. } = self;
        let next: Vec<(usize, u32)> =
            drafts.iter().enumerate().filter_map(|(at, draft)| Some((at, draft.as_ref()?.token))).collect();
        let has_room: Vec<bool> = next.iter().map(|(at, _)| sessions.position(*at) + 1 < sessions.context()).collect();
        let mut over = Vec::new();
        let logits = sessions.step(&next).map_err(|e| ready.failure(e))?;
        for (((at, _), has_room), logits) in next.iter().zip(has_room).zip(logits) {
            let is_over = drafts[*at].as_mut().is_some_and(|draft| draft.go_on(logits, &ready.tokenizer, has_room));
            if let Some(draft) = drafts[*at].take_if(|_| is_over) {
                over.push((draft.id, draft.text));
            }
        }
        Ok(over)
    }

    /// What another answer to the same prompt has read is not read again.
    fn read(&mut self, at: usize, tokens: &[u32]) -> Result<(), Failure> {
        let same = |draft: &Option<Draft<K>>| draft.as_ref().is_some_and(|d| d.prompt[..d.prompt.len() - 1] == *tokens);
        if let Some(from) = self.drafts.iter().position(same)
            && self.sessions.fork(from, at, tokens.len())
        {
            return Ok(());
        }
        // In pieces, so that Ctrl-C is seen.
        for piece in tokens.chunks(64) {
            if self.interrupted.load(Ordering::SeqCst) {
                return Err(Failure::Interrupted);
            }
            self.sessions.feed(at, piece).map_err(|e| self.ready.failure(e))?;
        }
        Ok(())
    }
}

impl<K> Draft<'_, K> {
    /// With the logits after what was read; whether it is over.
    fn go_on(&mut self, logits: &[f32], tokenizer: &Tokenizer, has_room: bool) -> bool {
        match self.written.choose(logits, tokenizer) {
            Step::Last(text, _) => {
                self.text += &text;
                return true;
            }
            Step::More(text) => self.text += &text,
        }
        if (self.until.finished)(&self.text) {
            return true;
        }
        match self.written.due(has_room) {
            ControlFlow::Break(Step::Last(text, _) | Step::More(text)) => {
                self.text += &text;
                true
            }
            ControlFlow::Continue(next) => {
                self.token = next.unwrap_or(self.token);
                next.is_none()
            }
        }
    }
}

fn options(sampling: &Sampling, until: &Until) -> GenerateOptions {
    let sampler = SamplerOptions {
        temperature: sampling.temperature,
        top_k: 0,
        top_p: sampling.top_p,
        min_p: 0.0,
        seed: sampling.seed,
        ..SamplerOptions::default()
    };
    GenerateOptions { max_tokens: sampling.max_tokens, sampler, stop: until.stops.clone() }
}

/// The tokens of a prompt.
pub fn encode(ready: &Ready, prompt: &Prompt) -> Result<Vec<u32>, Failure> {
    match prompt {
        Prompt::Raw(text) => Ok(ready.tokenizer.encode(text, Special::AsText)),
        Prompt::Chat { message, answer } => ready.document_tokens().prompt(&[Turn::new("user", message)], answer),
    }
}

/// The seed of a sample of an item. Does not depend on what was written before, so that a run that is gone on with writes
/// the same.
pub fn seed_of(seed: u64, item: &str, sample: usize) -> u64 {
    let hash = blake3::hash(format!("{seed} {sample} {item}").as_bytes());
    u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_a_seed_of_its_own() {
        let all = [seed_of(1, "a", 0), seed_of(1, "a", 1), seed_of(1, "b", 0), seed_of(2, "a", 0)];
        assert!((0..4).all(|i| (0..i).all(|j| all[i] != all[j])));
        assert_eq!(seed_of(1, "a", 0), all[0]);
    }
}
