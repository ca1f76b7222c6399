//! How well models predict a text, and how far they are from another one.
//!
//! Documents are tokenized one by one as plain text, joined in order, and cut into windows of `context` tokens, of which the
//! first is the beginning-of-text token if the model wants one; what is left at the end is dropped. Each window starts with
//! an empty cache. Every token of a window but its first is scored (or as many less as are asked for).
//!
//! A model with a shortlist cannot write every token, so tokens that are not listed are split into ones that are, after
//! the text was cut into windows: it is scored on just the text that other models are, in more tokens.
//!
//! perplexity = exp(mean negative log-likelihood); bits per byte = sum of negative log2-likelihoods over the bytes of
//! the scored tokens; top-1 = share of scored tokens that were the most likely one (the lowest id of equals); accuracy is
//! the same of the tokens that the text has in the whole vocabulary, of which one that was split is right if all its parts
//! are. With a reference: KL(reference || model) at every scored position, in nats, over the whole vocabulary or, of a
//! model with a shortlist, over the tokens listed, to which the reference is renormalised; what it gives to the others is
//! a number of its own. The reference itself is scored on the tokens of the whole vocabulary.

use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use runtime::likelihood::{divergence, log_sum_exp};
use runtime::{Error, Model, Session, SessionOptions, Splitter};

use crate::bootstrap::{self, Estimate};
use crate::lexical::Kind;

/// A token of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id in the whole vocabulary.
    pub id: u32,
    /// The document that it is in, from 0 on.
    pub document: u32,
    /// Bytes of text that it stands for.
    pub bytes: u32,
    /// What it is in its language, if that can be told.
    pub kind: Option<Kind>,
}

/// A model to evaluate.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The weights.
    pub model: &'a Arc<Model>,
    /// For a model that cannot write every token: how it writes the others.
    pub splitter: Option<&'a Splitter>,
}

/// What was found of one model.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    /// Sums over the scored tokens of each document.
    pub documents: Vec<Sums>,
    /// KL(reference || model) of every scored position in nats, and its document; empty without a reference.
    pub divergences: Vec<(f32, u32)>,
}

/// Sums over scored tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Scored tokens.
    pub tokens: u64,
    /// Tokens that they were before some were split.
    pub unsplit_tokens: u64,
    /// Bytes of text that the scored tokens stand for.
    pub bytes: u64,
    /// Negative log-likelihoods, nats.
    pub nll: f64,
    /// Tokens that were the most likely ones.
    pub correct: u64,
    /// Of the tokens before some were split, those that were right.
    pub right: u64,
    /// Of each [`Kind`]: tokens before some were split, and those that were right.
    pub kinds: [(u64, u64); Kind::ALL.len()],
    /// Negative log-likelihoods that the reference has for the tokens before some were split, nats.
    pub reference_nll: f64,
    /// KL(reference || model), nats.
    pub kl: f64,
    /// Positions where both find the same token most likely, of the whole vocabulary.
    pub agree: u64,
    /// Probability that the reference gives to tokens the model cannot write.
    pub unlisted: f64,
}

impl Evaluation {
    /// Sums over all documents.
    pub fn total(&self) -> Sums {
        self.documents.iter().fold(Sums::default(), |mut all, sums| {
            all += *sums;
            all
        })
    }

    /// Whether there was a reference.
    pub fn is_compared(&self) -> bool {
        !self.divergences.is_empty()
    }

    /// Documents with scored tokens.
    pub fn scored_documents(&self) -> usize {
        self.documents.iter().filter(|d| d.tokens > 0).count()
    }

    /// exp of the mean negative log-likelihood.
    pub fn perplexity(&self) -> Estimate {
        self.ratio(&|s| (s.nll, s.tokens as f64)).map(f64::exp)
    }

    /// The same for each token that the text has in the whole vocabulary: comparable between models of one vocabulary.
    pub fn perplexity_unsplit(&self) -> Estimate {
        self.ln_perplexity().map(f64::exp)
    }

    /// Negative log-likelihood of each token that the text has in the whole vocabulary, nats.
    pub fn ln_perplexity(&self) -> Estimate {
        self.ratio(&|s| (s.nll, s.unsplit_tokens as f64))
    }

    /// ln of the model's perplexity by the reference's, of tokens of the whole vocabulary.
    pub fn ln_ratio(&self) -> Estimate {
        self.ratio(&|s| (s.nll - s.reference_nll, s.unsplit_tokens as f64))
    }

    /// How many nats a token of the whole vocabulary this model loses more than `other`, on the same windows.
    pub fn nats_above(&self, other: &Evaluation) -> Estimate {
        let of = |(own, other): (&Sums, &Sums)| (own.nll - other.nll, own.unsplit_tokens as f64);
        bootstrap::ratio(&self.scored().zip(other.scored()).map(of).collect::<Vec<_>>())
    }

    /// Bits that the model needs for a byte of text.
    pub fn bits_per_byte(&self) -> Estimate {
        self.ratio(&|s| (s.nll / std::f64::consts::LN_2, s.bytes as f64))
    }

    /// Share of tokens that were the most likely ones.
    pub fn top1(&self) -> Estimate {
        self.ratio(&|s| (s.correct as f64, s.tokens as f64))
    }

    /// Share of the tokens of the whole vocabulary that were right.
    pub fn accuracy(&self) -> Estimate {
        self.ratio(&|s| (s.right as f64, s.unsplit_tokens as f64))
    }

    /// The same of tokens of one kind; `None` if there are none.
    pub fn accuracy_of(&self, kind: Kind) -> Option<Estimate> {
        let any = self.documents.iter().any(|d| d.kinds[kind as usize].0 > 0);
        let of = |s: &Sums| (s.kinds[kind as usize].1 as f64, s.kinds[kind as usize].0 as f64);
        any.then(|| self.ratio(&of))
    }

    /// Mean KL divergence, nats.
    pub fn mean_kl(&self) -> Estimate {
        self.ratio(&|s| (s.kl, s.tokens as f64))
    }

    /// The KL divergence that `percent` of the positions stay below (nearest rank).
    pub fn kl_percentile(&self, percent: f64) -> Estimate {
        bootstrap::percentile(&self.divergences, percent)
    }

    /// Mean probability that the reference gives to tokens the model cannot write.
    pub fn mean_unlisted(&self) -> f64 {
        let total = self.total();
        total.unlisted / total.tokens as f64
    }

    /// Share of positions where both find the same token most likely.
    pub fn agreement(&self) -> Estimate {
        self.ratio(&|s| (s.agree as f64, s.tokens as f64))
    }

    fn ratio(&self, of: &dyn Fn(&Sums) -> (f64, f64)) -> Estimate {
        bootstrap::ratio(&self.scored().map(of).collect::<Vec<_>>())
    }

    fn scored(&self) -> impl Iterator<Item = &Sums> {
        self.documents.iter().filter(|d| d.tokens > 0)
    }

    fn of_document(&mut self, document: u32) -> &mut Sums {
        let at = document as usize;
        if self.documents.len() <= at {
            self.documents.resize(at + 1, Sums::default());
        }
        &mut self.documents[at]
    }
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.unsplit_tokens += other.unsplit_tokens;
        self.bytes += other.bytes;
        self.nll += other.nll;
        self.correct += other.correct;
        self.right += other.right;
        for (own, other) in self.kinds.iter_mut().zip(other.kinds) {
            *own = (own.0 + other.0, own.1 + other.1);
        }
        self.reference_nll += other.reference_nll;
        self.kl += other.kl;
        self.agree += other.agree;
        self.unlisted += other.unlisted;
    }
}

/// Scores `windows` but for their first `unscored` tokens (1 or more: nothing predicts the first one) with all `subjects`,
/// which have one vocabulary; what the reference says is computed once for all that write a window alike. `progress` is
/// shown how many windows are done, and what was found so far; `interrupted` ends it within a window.
pub fn evaluate(
    subjects: &[Subject],
    reference: Option<&Arc<Model>>,
    windows: &[Vec<Token>],
    unscored: usize,
    interrupted: &AtomicBool,
    progress: &mut dyn FnMut(usize, &[Evaluation]),
) -> Result<Vec<Evaluation>, Fault> {
    let longest = subjects.iter().flat_map(|s| windows.iter().map(|w| s.write(w).len())).max().unwrap_or(0);
    let options = SessionOptions { context: longest, ..SessionOptions::default() };
    let session = |(i, s): (usize, &Subject)| Session::new(s.model, &options).map_err(of_subject(i));
    let mut sessions = subjects.iter().enumerate().map(session).collect::<Result<Vec<_>, _>>()?;
    let mut reference = reference.map(|r| Session::new(r, &options)).transpose().map_err(of_reference)?;
    let mut found = vec![Evaluation::default(); subjects.len()];
    for (i, window) in windows.iter().enumerate() {
        let mut reference_nll = Vec::new();
        for group in groups(subjects, window, reference.is_some()) {
            let part = Part { window, written: &group.written, unscored: unscored.max(1) };
            let mut members: Vec<Member> = Vec::new();
            for (index, (session, found)) in sessions.iter_mut().zip(&mut found).enumerate() {
                if group.subjects.contains(&index) {
                    members.push(Member { index, session, found, wrong: vec![false; window.len()] });
                }
            }
            let nll = part.score(&mut members, reference.as_mut(), interrupted)?;
            if group.is_whole {
                reference_nll = nll;
            }
        }
        for found in &mut found {
            reference_nll.iter().for_each(|(document, nll)| found.of_document(*document).reference_nll += nll);
        }
        progress(i + 1, &found);
    }
    Ok(found)
}

/// Why an evaluation ended before its end.
#[derive(Debug)]
pub enum Fault {
    /// It was interrupted.
    Interrupted,
    /// A model cannot be run: a subject, by its index, or the reference.
    Model(Option<usize>, Error),
}

fn of_subject(index: usize) -> impl Fn(Error) -> Fault {
    move |error| Fault::Model(Some(index), error)
}

fn of_reference(error: Error) -> Fault {
    Fault::Model(None, error)
}

impl Subject<'_> {
    /// The tokens that the model reads for `window`, each with the index of what it is a part of.
    fn write(&self, window: &[Token]) -> Vec<(u32, usize)> {
        let mut all = Vec::with_capacity(window.len());
        let mut parts = Vec::new();
        for (i, token) in window.iter().enumerate() {
            parts.clear();
            match self.splitter {
                Some(splitter) => splitter.append(token.id, &mut parts),
                None => parts.push(token.id),
            }
            all.extend(parts.iter().map(|&id| (id, i)));
        }
        all
    }
}

/// Models that write a window alike.
struct Group {
    written: Vec<(u32, usize)>,
    /// In tokens of the whole vocabulary.
    is_whole: bool,
    subjects: Vec<usize>,
}

/// The groups of all subjects; with a reference one that is in whole tokens is among them, even if without a model.
fn groups(subjects: &[Subject], window: &[Token], has_reference: bool) -> Vec<Group> {
    let mut all: Vec<Group> = Vec::new();
    for (i, subject) in subjects.iter().enumerate() {
        let written = subject.write(window);
        match all.iter_mut().find(|group| group.written == written) {
            Some(group) => group.subjects.push(i),
            None => {
                let is_whole = written.len() == window.len();
                all.push(Group { written, is_whole, subjects: vec![i] });
            }
        }
    }
    if has_reference && !all.iter().any(|group| group.is_whole) {
        let written = window.iter().enumerate().map(|(i, token)| (token.id, i)).collect();
        all.push(Group { written, is_whole: true, subjects: Vec::new() });
    }
    all
}

/// A model of a group, at a window.
struct Member<'a> {
    /// Which subject it is.
    index: usize,
    session: &'a mut Session,
    found: &'a mut Evaluation,
    /// Of each token of the window: whether any of its parts was not the most likely one.
    wrong: Vec<bool>,
}

/// A window as some models write it.
struct Part<'a> {
    window: &'a [Token],
    written: &'a [(u32, usize)],
    /// Tokens of the window that are not scored.
    unscored: usize,
}

/// What the reference says at a position.
struct Expected {
    logits: Vec<f32>,
    best: usize,
}

/// Positions whose logits of the reference are held at once: as many as go through a session's layers together.
const STEP: usize = 64;

impl Part<'_> {
    /// Adds this window to what was found of the members; negative log-likelihoods of the reference, with their documents.
    fn score(
        &self,
        members: &mut [Member],
        mut reference: Option<&mut Session>,
        interrupted: &AtomicBool,
    ) -> Result<Vec<(u32, f64)>, Fault> {
        let ids: Vec<u32> = self.written.iter().map(|(id, _)| *id).collect();
        let unscored = self.written.iter().take_while(|(_, of)| *of < self.unscored).count();
        let (context, inputs) = ids[..ids.len() - 1].split_at(unscored - 1);
        for Member { index, session, .. } in members.iter_mut() {
            session.truncate(0);
            session.feed(context).map_err(of_subject(*index))?;
        }
        if let Some(reference) = &mut reference {
            reference.truncate(0);
            reference.feed(context).map_err(of_reference)?;
        }
        let mut reference_nll = Vec::new();
        for (step, inputs) in inputs.chunks(STEP).enumerate() {
            if interrupted.load(Ordering::SeqCst) {
                return Err(Fault::Interrupted);
            }
            let first = unscored + step * STEP;
            let mut expected = Vec::new();
            if let Some(reference) = &mut reference {
                let shown = reference.feed_each(inputs, |i, logits| {
                    let (target, of) = self.written[first + i];
                    reference_nll.push((self.window[of].document, nll_of(logits, target)));
                    expected.push(Expected { logits: logits.to_vec(), best: argmax(logits) });
                });
                shown.map_err(of_reference)?;
            }
            for member in members.iter_mut() {
                let Member { index, session, found, wrong } = member;
                let shown = session.feed_each(inputs, |i, logits| {
                    let (target, of) = self.written[first + i];
                    let document = self.window[of].document;
                    wrong[of] |= !score(found, document, logits, target, expected.get(i));
                });
                shown.map_err(of_subject(*index))?;
            }
        }
        members.iter_mut().for_each(|member| self.count_tokens(member));
        Ok(reference_nll)
    }

    /// What is counted for each token of the window, however it is written.
    fn count_tokens(&self, member: &mut Member) {
        for (token, wrong) in self.window.iter().zip(&member.wrong).skip(self.unscored) {
            let sums = member.found.of_document(token.document);
            sums.unsplit_tokens += 1;
            sums.bytes += u64::from(token.bytes);
            sums.right += u64::from(!wrong);
            if let Some(kind) = token.kind {
                let (all, right) = &mut sums.kinds[kind as usize];
                *all += 1;
                *right += u64::from(!wrong);
            }
        }
    }
}

/// Adds one position; whether the model found the target most likely.
fn score(found: &mut Evaluation, document: u32, logits: &[f32], target: u32, expected: Option<&Expected>) -> bool {
    let log_sum = log_sum_exp(logits);
    let best = argmax(logits);
    let is_right = best == target as usize;
    let sums = found.of_document(document);
    sums.tokens += 1;
    sums.nll += log_sum - f64::from(logits[target as usize]);
    sums.correct += u64::from(is_right);
    if let Some(expected) = expected {
        let (kl, unlisted) = divergence(&expected.logits, logits, log_sum);
        sums.kl += kl;
        sums.unlisted += unlisted;
        sums.agree += u64::from(best == expected.best);
        found.divergences.push((kl as f32, document));
    }
    is_right
}

fn nll_of(logits: &[f32], target: u32) -> f64 {
    log_sum_exp(logits) - f64::from(logits[target as usize])
}

fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, &l) in logits.iter().enumerate() {
        if l > logits[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use runtime::EngineOptions;
    use spm::synthetic::SyntheticModel;

    use super::*;

    fn load(seed: u64) -> Arc<Model> {
        Arc::new(Model::load(&SyntheticModel::tiny(seed), &EngineOptions::default()).unwrap())
    }

    /// Windows of 40 tokens, two documents in each.
    fn windows(n: u32) -> Vec<Vec<Token>> {
        let kind = |i: u32| [Some(Kind::Keyword), Some(Kind::Identifier), None][i as usize % 3];
        let token = |window: u32, i: u32| Token {
            id: (i * 5 + window) % 250,
            document: 2 * window + u32::from(i >= 25),
            bytes: 2,
            kind: kind(i),
        };
        (0..n).map(|window| (0..40).map(|i| token(window, i)).collect()).collect()
    }

    fn run(models: &[&Arc<Model>], reference: Option<&Arc<Model>>, windows: &[Vec<Token>]) -> Vec<Evaluation> {
        let subjects: Vec<Subject> = models.iter().map(|model| Subject { model, splitter: None }).collect();
        evaluate(&subjects, reference, windows, 1, &AtomicBool::new(false), &mut |_, _| ()).unwrap()
    }

    /// Negative log-likelihoods and most likely tokens by plain sums, one token at a time.
    fn by_hand(model: &Arc<Model>, window: &[Token]) -> Vec<(f64, bool)> {
        let mut session = Session::new(model, &SessionOptions::default()).unwrap();
        let score = |pair: &[Token]| {
            let logits: Vec<f64> = session.feed(&[pair[0].id]).unwrap().iter().map(|l| f64::from(*l)).collect();
            let target = logits[pair[1].id as usize];
            let is_best = logits.iter().enumerate().all(|(i, l)| *l < target || i == pair[1].id as usize);
            (logits.iter().map(|l| l.exp()).sum::<f64>().ln() - target, is_best)
        };
        window.windows(2).map(score).collect()
    }

    #[test]
    fn a_model_scores_as_its_logits_say() {
        let (model, windows) = (load(3), windows(2));
        let found = &run(&[&model], Some(&model), &windows)[0];
        let total = found.total();
        assert_eq!((total.tokens, total.unsplit_tokens, total.bytes, found.scored_documents()), (78, 78, 156, 4));
        let scores: Vec<Vec<(f64, bool)>> = windows.iter().map(|w| by_hand(&model, w)).collect();
        let nll: f64 = scores.iter().flatten().map(|s| s.0).sum();
        assert!((total.nll - nll).abs() < 1e-3 * nll, "{} and {nll}", total.nll);
        // The 25th token of a window, the first of its second document, is the 24th that is scored.
        let second: f64 = scores[1][24..].iter().map(|s| s.0).sum();
        assert!((found.documents[3].nll - second).abs() < 1e-3 * second);
        let right = scores.iter().flatten().filter(|s| s.1).count() as u64;
        assert_eq!((total.right, total.correct), (right, right));
        // Every third token is of no kind, and the first of a window, a keyword, is not scored.
        assert_eq!((total.kinds[Kind::Keyword as usize].0, total.kinds[Kind::Identifier as usize].0), (26, 26));
        assert_eq!(total.kinds.iter().map(|k| k.0).sum::<u64>(), 52);
        assert!(found.mean_kl().value < 1e-9 && found.agreement().value == 1.0);
        assert!(found.ln_ratio().value.abs() < 1e-9, "{:?}", found.ln_ratio());
        assert!((found.perplexity().value - (nll / 78.0).exp()).abs() < 1e-2 * found.perplexity().value);
        assert_eq!(found.accuracy_of(Kind::Comment), None);
    }

    #[test]
    fn models_together_score_as_each_alone() {
        let (a, b, windows) = (load(3), load(4), windows(3));
        let together = run(&[&a, &b], Some(&a), &windows);
        let alone = run(&[&b], Some(&a), &windows);
        assert_eq!(together[1].documents, alone[0].documents);
        assert_eq!(together[1].divergences, alone[0].divergences);
        assert!(together[1].mean_kl().value > 0.01 && together[1].divergences.len() == 3 * 39);
        let above = together[1].nats_above(&together[0]);
        let expected = (together[1].total().nll - together[0].total().nll) / 117.0;
        assert!((above.value - expected).abs() < 1e-12, "{above:?}");
        assert!((together[1].ln_ratio().value - expected).abs() < 1e-9, "the first model is the reference");
    }
}
