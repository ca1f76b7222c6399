//! Writes several texts at a time, each from its start to its end.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use indicatif::{HumanDuration, ProgressBar};
use pruner::calibration::{Document, Turn};
use runtime::{PieceDecoder, Sampler, Sessions, Special, Tokenizer};

use super::file::{Line, TextFile};
use super::loops::{Loops, is_monotonous};
use super::{LONGEST, Wanted, note, sampling, starts};
use crate::chat::DocumentTokens;
use crate::failure::Failure;
use crate::notes::Notes;
use crate::progress::progress_bar;

/// Tokens that a model adds to a start at least, for it to be a text.
pub(super) const SHORTEST: usize = 48;

/// A text on the way.
struct Draft {
    number: u64,
    /// How the text begins, or what is asked.
    start: String,
    chat: bool,
    /// Of the start, then those that were drawn.
    tokens: Vec<u32>,
    of_start: usize,
    /// How many the model has read.
    read: usize,
    sampler: Sampler,
    loops: Loops,
}

/// What became of a draft.
enum Next {
    GoesOn,
    /// It is over, and so many of its tokens count.
    IsOver(usize),
}

/// Texts of a domain, until there are enough.
pub(super) struct Writing<'a> {
    sessions: Sessions,
    tokenize: DocumentTokens<'a>,
    wanted: Wanted,
    file: TextFile,
    drafts: Vec<Option<Draft>>,
    /// The number of the next draft.
    next: u64,
    /// Texts that wait for earlier ones, with their tokens; `None` are not good enough.
    done: BTreeMap<u64, Option<(Document, usize)>>,
    counts: Counts,
}

/// What this run has done.
#[derive(Default)]
struct Counts {
    drafts: usize,
    texts: usize,
    /// Of these texts.
    tokens: usize,
    /// Read and drawn, of all drafts.
    spent: usize,
}

impl<'a> Writing<'a> {
    pub(super) fn new(sessions: Sessions, tokenize: DocumentTokens<'a>, wanted: Wanted, file: TextFile) -> Self {
        let drafts = (0..sessions.texts()).map(|_| None).collect();
        let (next, done, counts) = (file.next, BTreeMap::new(), Counts::default());
        Writing { sessions, tokenize, wanted, file, drafts, next, done, counts }
    }

    /// Writes until there is as much as is wanted.
    pub(super) fn run(mut self, interrupted: &AtomicBool) -> Result<(), Failure> {
        let mut shown = Shown::new(&self.wanted, self.file.tokens);
        let most = 4 * (self.wanted.tokens - self.file.tokens) + 64 * LONGEST;
        while self.file.tokens < self.wanted.tokens {
            if interrupted.load(Ordering::SeqCst) {
                shown.leave(self.file.tokens);
                return Err(Failure::Interrupted);
            }
            if self.counts.spent > most {
                return Err(self.useless());
            }
            self.begin_drafts()?;
            self.step()?;
            self.put_down()?;
            shown.show(self.file.tokens);
        }
        shown.bar.finish_and_clear();
        Ok(())
    }

    /// In free places, as long as those on the way will not be enough.
    fn begin_drafts(&mut self) -> Result<(), Failure> {
        let mean = (self.counts.tokens + LONGEST) / (self.counts.texts + 2);
        let waiting: usize = self.done.values().flatten().map(|(_, tokens)| tokens).sum();
        let on_the_way = self.drafts.iter().flatten().count();
        let mut expected = self.file.tokens + waiting + on_the_way * mean;
        for at in 0..self.drafts.len() {
            if self.drafts[at].is_none() && (expected < self.wanted.tokens || self.drafts.iter().all(Option::is_none)) {
                self.sessions.restart(at);
                self.drafts[at] = Some(Draft::new(&self.wanted, self.next, &self.tokenize, self.sessions.context())?);
                self.next += 1;
                self.counts.drafts += 1;
                expected += mean;
            }
        }
        Ok(())
    }

    /// A token of every draft.
    fn step(&mut self) -> Result<(), Failure> {
        let Writing { sessions, tokenize, drafts, counts, done, .. } = self;
        let context = sessions.context();
        let (at, next): (Vec<usize>, Vec<(usize, u32)>) =
            drafts.iter().enumerate().filter_map(|(at, draft)| Some((at, (at, draft.as_ref()?.to_read())))).unzip();
        counts.spent += next.len();
        for (at, logits) in at.into_iter().zip(sessions.step(&next)?) {
            let over = drafts[at].as_mut().map(|draft| draft.go_on(logits, tokenize.tokenizer, context));
            if let Some(Next::IsOver(kept)) = over
                && let Some(draft) = drafts[at].take()
            {
                let text = draft.text(kept, tokenize.tokenizer);
                // As it is counted when it is calibrated on.
                let tokens = text.as_ref().map(|text| text.tokens(tokenize)).transpose()?;
                let text = text.zip(tokens.map(|tokens| tokens.len()));
                if let Some((_, tokens)) = &text {
                    (counts.texts, counts.tokens) = (counts.texts + 1, counts.tokens + tokens);
                }
                done.insert(draft.number, text);
            }
        }
        Ok(())
    }

    /// Finished texts come into the file in the order of their numbers, until there are enough.
    fn put_down(&mut self) -> Result<(), Failure> {
        let first_on_the_way = self.drafts.iter().flatten().map(|d| d.number).min().unwrap_or(u64::MAX);
        while self.file.tokens < self.wanted.tokens {
            let Some(entry) = self.done.first_entry().filter(|entry| *entry.key() < first_on_the_way) else { break };
            let (number, text) = entry.remove_entry();
            if let Some((document, tokens)) = text {
                let origin = note(self.wanted.kind);
                self.file.push(&Line { number, origin, document }, tokens)?;
            }
        }
        Ok(())
    }

    fn useless(&self) -> Failure {
        let (Counts { drafts, texts, .. }, kind) = (&self.counts, self.wanted.kind);
        Failure::Runtime(format!(
            "of {drafts} texts of {kind} that the model began, {texts} can be used: it ends at once or repeats itself; \
             give text with --calib FILE or FOLDER"
        ))
    }
}

impl Draft {
    fn new(wanted: &Wanted, number: u64, tokenize: &DocumentTokens<'_>, context: usize) -> Result<Self, Failure> {
        let Wanted { kind, seed, .. } = *wanted;
        let (start, mut tokens) = match kind.chat {
            true => {
                let request = starts::request(kind.domain, seed, number);
                let tokens = tokenize.prompt(&[Turn::new("user", &request)], "")?;
                (request, tokens)
            }
            false => {
                let start = starts::start(kind.domain, seed, number);
                let tokens = tokenize.tokenizer.encode(&start, Special::AsText);
                (start, tokens)
            }
        };
        tokens.truncate(context - 1);
        if tokens.is_empty() {
            return Err(runtime::Error::EmptyPrompt.into());
        }
        let hash = blake3::hash(format!("words {kind} {seed} {number}").as_bytes());
        let of_sampler = u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]));
        let (of_start, sampler) = (tokens.len(), Sampler::new(&sampling(of_sampler)));
        Ok(Draft { number, start, chat: kind.chat, tokens, of_start, read: 0, sampler, loops: Loops::new() })
    }

    fn to_read(&self) -> u32 {
        self.tokens[self.read]
    }

    /// With the `logits` after the token that it had to read.
    fn go_on(&mut self, logits: &[f32], tokenizer: &Tokenizer, context: usize) -> Next {
        self.read += 1;
        if self.read < self.tokens.len() {
            return Next::GoesOn;
        }
        let token = self.sampler.sample(logits);
        if tokenizer.is_end(token) {
            return Next::IsOver(self.tokens.len());
        }
        self.tokens.push(token);
        match self.loops.push(token) {
            Some(kept) => Next::IsOver(self.of_start + kept),
            None if self.tokens.len() == context => Next::IsOver(context),
            None => Next::GoesOn,
        }
    }

    /// The text that the first `kept` tokens are, if it is worth keeping.
    fn text(&self, kept: usize, tokenizer: &Tokenizer) -> Option<Document> {
        if kept < self.of_start + SHORTEST {
            return None;
        }
        // What is left of a character at the end is left out.
        let mut pieces = PieceDecoder::default();
        let added = self.tokens[self.of_start..kept].iter().map(|id| pieces.push(tokenizer.token_bytes(*id)));
        let added: String = added.collect();
        if self.chat {
            let turns = || vec![Turn::new("user", &self.start), Turn::new("assistant", &added)];
            return (!is_monotonous(&added)).then(|| Document::Chat(turns()));
        }
        let text = self.start.clone() + &added;
        (!is_monotonous(&text)).then_some(Document::Text(text))
    }
}

/// How far it is, on standard error.
struct Shown {
    bar: ProgressBar,
    what: String,
    wanted: usize,
    /// Tokens that were there before.
    before: usize,
    started: Instant,
    /// Tenths of the whole that there was a line for.
    tenths: usize,
}

impl Shown {
    fn new(wanted: &Wanted, before: usize) -> Self {
        let bar = progress_bar();
        bar.set_length(wanted.tokens as u64);
        let (what, wanted) = (format!("writing {} to calibrate on", wanted.kind), wanted.tokens);
        Shown { bar, what, wanted, before, started: Instant::now(), tenths: 10 * before / wanted.max(1) }
    }

    fn show(&mut self, tokens: usize) {
        let own = tokens - self.before;
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = own as f64 / seconds.max(1e-3);
        let left = match own {
            0 => String::new(),
            _ => {
                let left = self.started.elapsed().mul_f64(self.wanted.saturating_sub(tokens) as f64 / own as f64);
                format!(", {rate:.0} a second, about {} left", HumanDuration(left))
            }
        };
        let line = format!("{}: {tokens} of {} tokens{left}", self.what, self.wanted);
        self.bar.set_position(tokens as u64);
        self.bar.set_message(line.clone());
        let tenths = 10 * tokens / self.wanted.max(1);
        if self.bar.is_hidden() && tenths > self.tenths {
            self.tenths = tenths;
            // If standard error is closed there is nobody left to tell.
            let _ = writeln!(Notes, "{line}");
        }
    }

    fn leave(&self, tokens: usize) {
        self.bar.finish_and_clear();
        let _ = writeln!(Notes, "{tokens} tokens of text are kept: the same command goes on from there");
    }
}
