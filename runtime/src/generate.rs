//! From a prompt to text: feed, sample, decode, stop.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::sampler::{Sampler, SamplerOptions};
use crate::session::Session;
use crate::text::{PieceDecoder, StopStrings};
use crate::tokenizer::Tokenizer;

/// Prompt tokens between two chances to cancel.
pub const PROMPT_STEP: usize = 64;

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

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions { max_tokens: 256, sampler: SamplerOptions::default(), stop: Vec::new() }
    }
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
    let begin = begin(tokenizer);
    let prompt = match (prompt, &begin) {
        ([], Some(begin)) => std::slice::from_ref(begin),
        ([], None) => return Err(Error::EmptyPrompt),
        _ => prompt,
    };
    let started = Instant::now();
    let mut writer = Writer::new(options);
    let mut done = Generated {
        finish: Finish::Cancelled,
        prompt_tokens: prompt.len(),
        prompt_time: Duration::ZERO,
        tokens: 0,
        decoded_tokens: 0,
        decode_time: Duration::ZERO,
    };
    let read = read_prompt(session, prompt, &mut writer, on_event)?;
    done.prompt_time = started.elapsed();
    if read.is_continue() {
        let started = Instant::now();
        done.finish = write(session, tokenizer, &mut writer, on_event)?;
        done.decode_time = started.elapsed();
    }
    (done.tokens, done.decoded_tokens) = (writer.tokens, writer.decoded_tokens);
    Ok(done)
}

/// What a text from nothing begins with.
pub(crate) fn begin(tokenizer: &Tokenizer) -> Option<u32> {
    tokenizer.bos().or(tokenizer.end_ids().first().copied())
}

fn read_prompt(
    session: &mut Session,
    prompt: &[u32],
    writer: &mut Writer,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Error> {
    let needed = session.position() + prompt.len();
    if needed > session.context() {
        return Err(Error::ContextFull { needed, context: session.context() });
    }
    for (i, step) in prompt.chunks(PROMPT_STEP).enumerate() {
        session.feed(step)?;
        writer.accept(step);
        if on_event(Event::Prompt(i * PROMPT_STEP + step.len())).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn write(
    session: &mut Session,
    tokenizer: &Tokenizer,
    writer: &mut Writer,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Finish, Error> {
    loop {
        match writer.step(session, tokenizer)? {
            Step::More(text) if on_event(Event::Text(&text)).is_break() => return Ok(Finish::Cancelled),
            Step::More(_) => {}
            Step::Last(text, _) if !text.is_empty() && on_event(Event::Text(&text)).is_break() => {
                return Ok(Finish::Cancelled);
            }
            Step::Last(_, finish) => return Ok(finish),
        }
    }
}

/// Writes a text, a token a step, after a prompt that was fed: [`Writer::step`] in a session, [`Writer::due`] and
/// [`Writer::choose`] among other texts, as in [`Sessions`](crate::Sessions).
pub struct Writer {
    sampler: Sampler,
    text: Text,
    max_tokens: usize,
    /// Chosen, the one that ended the text not counted.
    tokens: usize,
    /// Fed to the model.
    decoded_tokens: usize,
    /// Chosen and not yet fed.
    next: Option<u32>,
}

/// What a step added to the text: perhaps nothing.
pub enum Step {
    /// And it goes on.
    More(String),
    /// And it ends.
    Last(String, Finish),
}

impl Writer {
    /// Nothing written yet.
    pub fn new(options: &GenerateOptions) -> Self {
        Writer {
            sampler: Sampler::new(&options.sampler),
            text: Text::new(&options.stop),
            max_tokens: options.max_tokens,
            tokens: 0,
            decoded_tokens: 0,
            next: None,
        }
    }

    /// Remembers tokens of the prompt.
    pub fn accept(&mut self, tokens: &[u32]) {
        tokens.iter().for_each(|&token| self.sampler.accept(token));
    }

    /// Chooses a token, having fed the one before. After the last step there must be none.
    pub fn step(&mut self, session: &mut Session, tokenizer: &Tokenizer) -> Result<Step, Error> {
        match self.due(session.position() < session.context()) {
            ControlFlow::Break(last) => return Ok(last),
            ControlFlow::Continue(Some(token)) => drop(session.feed(&[token])?),
            ControlFlow::Continue(None) => {}
        }
        Ok(self.choose(session.feed(&[])?, tokenizer))
    }

    /// What the model is to be fed before [`Self::choose`]: nothing right after the prompt. Or the last step, if there are
    /// tokens enough, or the model `has_room` for no other.
    pub fn due(&mut self, has_room: bool) -> ControlFlow<Step, Option<u32>> {
        if self.tokens >= self.max_tokens {
            return ControlFlow::Break(self.finish(Finish::Length));
        }
        if self.next.is_some() && !has_room {
            return ControlFlow::Break(self.finish(Finish::ContextFull));
        }
        let next = self.next.take();
        self.decoded_tokens += usize::from(next.is_some());
        ControlFlow::Continue(next)
    }

    /// Chooses a token by the logits after what was fed.
    pub fn choose(&mut self, logits: &[f32], tokenizer: &Tokenizer) -> Step {
        let token = self.sampler.sample(logits);
        if tokenizer.is_end(token) {
            return self.finish(Finish::EndOfText);
        }
        self.tokens += 1;
        self.sampler.accept(token);
        self.next = Some(token);
        match self.text.push(tokenizer.token_bytes(token)) {
            (text, true) => Step::Last(text, Finish::StopString),
            (text, false) => Step::More(text),
        }
    }

    /// Gives out the text that was held back because it might have become a stop string.
    fn finish(&mut self, finish: Finish) -> Step {
        let (rest, stopped) = self.text.finish();
        Step::Last(rest, if stopped { Finish::StopString } else { finish })
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
