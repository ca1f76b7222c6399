//! From a prompt to text: feed, sample, decode, stop.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::sampler::{Sampler, SamplerOptions};
use crate::session::Session;
use crate::text::{PieceDecoder, StopStrings};
use crate::tokenizer::Tokenizer;

/// Prompt tokens between two chances to cancel.
const PROMPT_STEP: usize = 64;

/// What to generate.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Tokens at most.
    pub max_tokens: usize,
    /// How the next token is chosen.
    pub sampler: SamplerOptions,
    /// Texts that end generation; they are not part of the result.
    pub stop: Vec<String>,
}

/// What happens meanwhile.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// So many tokens of the prompt have been read.
    Prompt(usize),
    /// A token was chosen; the text that is now certain, perhaps none.
    Text(&'a str),
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model said so.
    EndOfText,
    /// A stop string came up.
    StopString,
    /// As many tokens as were asked for.
    Length,
    /// The session has no room for more.
    ContextFull,
    /// The caller broke off.
    Cancelled,
}

/// How generation went.
#[derive(Clone, Copy, Debug)]
pub struct Generated {
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Time for the prompt.
    pub prompt_time: Duration,
    /// Tokens chosen, the one that ended the text not counted.
    pub tokens: usize,
    /// Tokens fed back to the model: what `decode_time` was spent on.
    pub decoded_tokens: usize,
    /// Time for the tokens after the first.
    pub decode_time: Duration,
}

/// Continues `prompt` in `session` and shows the text, complete characters only, to `on_event` as it comes.
///
/// An empty prompt begins with the model's beginning-of-text token, which it must then have.
pub fn generate(
    session: &mut Session,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Generated, Error> {
    let begin = tokenizer.bos().or(tokenizer.end_ids().first().copied());
    let prompt = match (prompt, &begin) {
        ([], Some(begin)) => std::slice::from_ref(begin),
        ([], None) => return Err(Error::EmptyPrompt),
        _ => prompt,
    };
    let started = Instant::now();
    let mut run = Run { tokenizer, sampler: Sampler::new(&options.sampler), text: Text::new(&options.stop) };
    let mut done = Generated {
        finish: Finish::Cancelled,
        prompt_tokens: prompt.len(),
        prompt_time: Duration::ZERO,
        tokens: 0,
        decoded_tokens: 0,
        decode_time: Duration::ZERO,
    };
    let read = run.read_prompt(session, prompt, on_event)?;
    done.prompt_time = started.elapsed();
    if read.is_continue() {
        let started = Instant::now();
        done.finish = run.write(session, options.max_tokens, &mut done, on_event)?;
        done.decode_time = started.elapsed();
    }
    Ok(done)
}

struct Run<'a> {
    tokenizer: &'a Tokenizer,
    sampler: Sampler,
    text: Text,
}

impl Run<'_> {
    fn read_prompt(
        &mut self,
        session: &mut Session,
        prompt: &[u32],
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        let needed = session.position() + prompt.len();
        if needed > session.context() {
            return Err(Error::ContextFull { needed, context: session.context() });
        }
        for (i, step) in prompt.chunks(PROMPT_STEP).enumerate() {
            session.feed(step)?;
            step.iter().for_each(|&token| self.sampler.accept(token));
            if on_event(Event::Prompt(i * PROMPT_STEP + step.len())).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn write(
        &mut self,
        session: &mut Session,
        max_tokens: usize,
        done: &mut Generated,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Finish, Error> {
        while done.tokens < max_tokens {
            let token = self.sampler.sample(session.feed(&[])?);
            if self.tokenizer.is_end(token) {
                return Ok(self.flush(Finish::EndOfText, on_event));
            }
            done.tokens += 1;
            self.sampler.accept(token);
            let (text, stopped) = self.text.push(self.tokenizer.token_bytes(token));
            if on_event(Event::Text(&text)).is_break() {
                return Ok(Finish::Cancelled);
            }
            if stopped {
                return Ok(Finish::StopString);
            }
            if done.tokens == max_tokens {
                break;
            }
            if session.position() == session.context() {
                return Ok(self.flush(Finish::ContextFull, on_event));
            }
            session.feed(&[token])?;
            done.decoded_tokens += 1;
        }
        Ok(self.flush(Finish::Length, on_event))
    }

    /// Shows the text that was held back because it might have become a stop string.
    fn flush(&mut self, finish: Finish, on_event: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Finish {
        let (rest, stopped) = self.text.finish();
        if !rest.is_empty() && on_event(Event::Text(&rest)).is_break() {
            return Finish::Cancelled;
        }
        if stopped { Finish::StopString } else { finish }
    }
}

/// Bytes of tokens on their way to text that may be shown.
struct Text {
    pieces: PieceDecoder,
    stop: StopStrings,
}

impl Text {
    fn new(stop: &[String]) -> Self {
        Text { pieces: PieceDecoder::default(), stop: StopStrings::new(stop) }
    }

    fn push(&mut self, bytes: &[u8]) -> (String, bool) {
        let text = self.pieces.push(bytes);
        self.stop.push(&text)
    }

    fn finish(&mut self) -> (String, bool) {
        let (mut text, stopped) = self.stop.push(&self.pieces.finish());
        if !stopped {
            text.push_str(&self.stop.finish());
        }
        (text, stopped)
    }
}
