//! From a prompt to what a model adds.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use runtime::{Event, GenerateOptions, SamplerOptions, Session, SessionOptions, Special, generate};

use crate::chat::{self, Message};
use crate::cli::Ready;
use crate::failure::Failure;
use crate::process;

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

/// How answers are drawn.
#[derive(Clone, Debug)]
pub struct Sampling {
    /// Tokens at most.
    pub max_tokens: usize,
    /// 0 always takes the most likely token.
    pub temperature: f32,
    /// Only the most likely tokens that together reach this probability.
    pub top_p: f32,
    /// Same seed, same answers.
    pub seed: u64,
}

/// When an answer is over.
pub struct Until<'a> {
    /// It ends before any of these.
    pub stops: Vec<String>,
    /// Or when this says so of all of it.
    pub finished: &'a dyn Fn(&str) -> bool,
}

/// A model that continues prompts.
pub struct Writer<'a> {
    ready: &'a Ready,
    session: Session,
    interrupted: &'a AtomicBool,
}

impl<'a> Writer<'a> {
    /// With room for `longest` tokens of a prompt and `max_tokens` more, or as many as the model can.
    pub fn new(
        ready: &'a Ready,
        longest: usize,
        max_tokens: usize,
        interrupted: &'a AtomicBool,
    ) -> Result<Self, Failure> {
        let context = longest.saturating_add(max_tokens).clamp(2, ready.model.config().context_len.max(2));
        let options = SessionOptions { context, ..SessionOptions::default() };
        let bytes = Session::memory_needed(ready.model.config(), &options, ready.model.engine().threads());
        process::check_memory(
            &format!("a context of {context} tokens"),
            bytes as u64,
            "ask for less with --max-tokens",
        )?;
        Ok(Writer { ready, session: Session::new(&ready.model, &options)?, interrupted })
    }

    /// The model.
    pub fn ready(&self) -> &'a Ready {
        self.ready
    }

    /// `n` answers to the same prompt; `None` if it leaves no room in the context. `seed` makes those of each prompt
    /// others.
    pub fn write(
        &mut self,
        prompt: &[u32],
        until: &Until,
        sampling: &Sampling,
        n: usize,
        seed: &str,
    ) -> Result<Option<Vec<String>>, Failure> {
        let begin = self.ready.tokenizer.bos().or(self.ready.tokenizer.end_ids().first().copied());
        let prompt = if prompt.is_empty() { begin.as_slice() } else { prompt };
        let Some((last, before)) = prompt.split_last() else { return Err(runtime::Error::EmptyPrompt.into()) };
        if prompt.len() >= self.session.context() {
            return Ok(None);
        }
        self.session.truncate(0);
        self.read(before)?;
        let mut all = Vec::with_capacity(n);
        for sample in 0..n {
            // The prompt is read once for all samples.
            self.session.truncate(before.len());
            all.push(self.write_one(*last, until, sampling, seed_of(sampling.seed, seed, sample))?);
        }
        Ok(Some(all))
    }

    /// In pieces, so that Ctrl-C is seen.
    fn read(&mut self, tokens: &[u32]) -> Result<(), Failure> {
        for piece in tokens.chunks(64) {
            if self.interrupted.load(Ordering::SeqCst) {
                return Err(Failure::Interrupted);
            }
            self.session.feed(piece)?;
        }
        Ok(())
    }

    fn write_one(&mut self, last: u32, until: &Until, sampling: &Sampling, seed: u64) -> Result<String, Failure> {
        let sampler = SamplerOptions {
            temperature: sampling.temperature,
            top_k: 0,
            top_p: sampling.top_p,
            min_p: 0.0,
            seed,
            ..SamplerOptions::default()
        };
        let options = GenerateOptions { max_tokens: sampling.max_tokens, sampler, stop: until.stops.clone() };
        let (mut text, interrupted) = (String::new(), self.interrupted);
        generate(&mut self.session, &self.ready.tokenizer, &[last], &options, &mut |event| {
            if let Event::Text(more) = event {
                text.push_str(more);
            }
            match interrupted.load(Ordering::SeqCst) || (until.finished)(&text) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        match interrupted.load(Ordering::SeqCst) {
            true => Err(Failure::Interrupted),
            false => Ok(text),
        }
    }
}

/// The tokens of a prompt.
pub fn encode(ready: &Ready, prompt: &Prompt) -> Result<Vec<u32>, Failure> {
    let (message, answer) = match prompt {
        Prompt::Raw(text) => return Ok(ready.tokenizer.encode(text, Special::AsText)),
        Prompt::Chat { message, answer } => (message, answer),
    };
    let template = ready.chat_template.as_deref();
    let template =
        template.ok_or_else(|| Failure::Usage("this model has no chat template; ask without --chat".into()))?;
    let messages = [Message { role: "user".into(), content: message.clone() }];
    let text_of = |id: Option<u32>| id.map(|id| ready.tokenizer.token_text(id).to_owned()).unwrap_or_default();
    let bos = text_of(ready.tokenizer.bos());
    let text = chat::render(template, &messages, &bos, &text_of(ready.tokenizer.eos()))? + answer;
    // Templates write the beginning of text themselves; encoding must not add another.
    let text = text.strip_prefix(bos.as_str()).filter(|_| ready.tokenizer.adds_bos()).unwrap_or(&text);
    Ok(ready.tokenizer.encode(text, Special::Parse))
}

/// Does not depend on what was written before, so that a run that is gone on with writes the same.
fn seed_of(seed: u64, item: &str, sample: usize) -> u64 {
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
