//! Which tokens a language's sub-model must be able to write: those that its text has, and the likeliest of the others.
//!
//! What many documents have others will have too. But a text of a megabyte has a tenth of the tokens that others of its
//! language have. Which are missing, the model knows:
//! its own probabilities of all tokens, summed over some calibration windows, rank the tokens that did not come up
//! (a backoff distribution, as of n-gram models). On Python this left less than half as many tokens of other projects
//! unlisted as taking those of the lowest merge rank did.

use std::ops::ControlFlow;
use std::sync::Arc;

use runtime::{EngineOptions, Model, Session, SessionOptions};
use spm::{Checkpoint, Config, Shortlist, Vocabulary, needed_tokens};

use crate::calibration::{CalibrationOptions, Tokenize, each_document};
use crate::error::Error;

/// Text that is counted at most.
const MAX_BYTES: usize = 64 << 20;

/// The share of the vocabulary that [`ShortlistSize::Auto`] fills.
const AUTO_SHARE: usize = 3;

/// How many tokens a shortlist has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShortlistSize {
    /// A third of the vocabulary.
    Auto,
    /// So many, or those that every list needs if those are more.
    Tokens(usize),
}

impl std::str::FromStr for ShortlistSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match (text, text.parse()) {
            ("auto", _) => Ok(ShortlistSize::Auto),
            (_, Ok(n)) if n > 0 => Ok(ShortlistSize::Tokens(n)),
            _ => Err(Error::option("vocabulary shortlist", text, "`auto`, a number of tokens, or `off`")),
        }
    }
}

/// How often each token comes up in text.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenCounts {
    /// By id.
    counts: Vec<u64>,
    /// Documents that each comes up in, by id: what many have, others will have too, and what one has a thousand times,
    /// names in a table, they will not.
    spread: Vec<u32>,
    /// What the model expects, by id; only the order counts.
    expected: Vec<f64>,
    /// Documents counted.
    pub documents: usize,
}

impl TokenCounts {
    /// Counts the tokens of all documents, up to 64 MiB of text.
    /// `tokenize` turns documents into ids below `vocab_size`.
    pub fn collect(options: &CalibrationOptions, vocab_size: usize, tokenize: &dyn Tokenize) -> Result<Self, Error> {
        let (mut counts, mut documents, mut bytes) = (vec![0; vocab_size], 0, 0);
        let (mut spread, mut seen_in) = (vec![0; vocab_size], vec![0; vocab_size]);
        for part in &options.parts {
            each_document(&part.sources, part.domain, &mut |document| {
                (documents, bytes) = (documents + 1, bytes + document.bytes());
                for token in document.tokens(tokenize)? {
                    let id = token as usize;
                    *counts.get_mut(id).ok_or(Error::Token { token, vocab_size })? += 1;
                    if std::mem::replace(&mut seen_in[id], documents) != documents {
                        spread[id] += 1;
                    }
                }
                Ok(if bytes < MAX_BYTES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            })?;
        }
        Ok(TokenCounts { counts, spread, expected: vec![0.0; vocab_size], documents })
    }

    /// Adds up the probabilities that `model` gives to every token after every token of `windows`, to rank those that
    /// did not come up. `progress` is called after every window, with how many are done.
    ///
    /// This runs the whole model: its weights are in memory meanwhile, unless they are mapped.
    pub fn expect(
        &mut self,
        model: &dyn Checkpoint,
        windows: &[Vec<u32>],
        threads: usize,
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let model = Arc::new(Model::load(model, &EngineOptions { threads, ..EngineOptions::default() })?);
        let context = windows.iter().map(Vec::len).max().unwrap_or(0);
        let mut session = Session::new(&model, &SessionOptions { context, ..SessionOptions::default() })?;
        let mut p = vec![0.0; self.counts.len()];
        for (i, window) in windows.iter().enumerate() {
            session.truncate(0);
            session.feed_each(window, |_, logits| add_probabilities(logits, &mut p, &mut self.expected))?;
            if progress(i + 1).is_break() {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }

    /// Tokens counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Share of them that is not in `list`.
    pub fn unlisted_share(&self, list: &Shortlist) -> f64 {
        let listed: u64 = list.ids().iter().filter_map(|&id| self.counts.get(id as usize)).sum();
        1.0 - listed as f64 / self.total().max(1) as f64
    }

    /// The list of the size asked for: the tokens that every list needs, then by how many documents they came up in, then by
    /// how often the model expects them, then by how often they came up, then by id, which is the rank of merges in most
    /// vocabularies.
    pub fn shortlist(&self, vocabulary: &Vocabulary, size: ShortlistSize) -> Result<Shortlist, Error> {
        let vocab_size = self.counts.len();
        let needed = needed_tokens(vocabulary);
        let is_needed = |id: u32| needed.binary_search(&id).is_ok();
        let len = match size {
            ShortlistSize::Auto => needed.len().max(vocab_size / AUTO_SHARE),
            ShortlistSize::Tokens(n) if n > vocab_size => {
                return Err(Error::option("vocabulary shortlist", &n.to_string(), format!("at most {vocab_size}")));
            }
            ShortlistSize::Tokens(n) => n.max(needed.len()),
        };
        let mut ids: Vec<u32> = (0..vocab_size as u32).collect();
        // Stable: equals stay in the order of their ids.
        ids.sort_by(|&a, &b| {
            let of = |id: u32| (is_needed(id), self.spread[id as usize], self.counts[id as usize]);
            let expected = |id: u32| self.expected[id as usize];
            let ((a_needed, a_spread, a_count), (b_needed, b_spread, b_count)) = (of(a), of(b));
            let first = (b_needed, b_spread).cmp(&(a_needed, a_spread));
            first.then(expected(b).total_cmp(&expected(a))).then(b_count.cmp(&a_count))
        });
        ids.truncate(len);
        ids.sort_unstable();
        Ok(Shortlist::new(ids, vocab_size)?)
    }
}

/// Adds the softmax of `logits` to `sums`; `p` is memory of the same length.
fn add_probabilities(logits: &[f32], p: &mut [f32], sums: &mut [f64]) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    p.iter_mut().zip(logits).for_each(|(p, l)| *p = (l - max).exp());
    let total: f64 = p.iter().map(|p| f64::from(*p)).sum();
    if total.is_finite() {
        sums.iter_mut().zip(p).for_each(|(sum, p)| *sum += f64::from(*p) / total);
    }
}

/// The shape of the model that `source` becomes with a shortlist; that of the source without one.
pub fn shortened(source: &dyn Checkpoint, list: Option<&Shortlist>) -> Result<Config, Error> {
    let mut config = source.config().clone();
    let Some(list) = list else { return Ok(config) };
    if let Some(own) = config.shortlist {
        let given = format!("of {} tokens", list.len());
        let expected = format!("none, as the source has one of {} tokens; prune its own source", own.len());
        return Err(Error::option("vocabulary shortlist", &given, expected));
    }
    if config.head_bias {
        let given = format!("of {} tokens", list.len());
        return Err(Error::option("vocabulary shortlist", &given, "none, as the head of this model has a bias"));
    }
    if let Some(token) = source.vocabulary().and_then(|v| list.missing(v)) {
        return Err(Error::NotListed { token });
    }
    config.shortlist = Some(list.clone());
    config.validate()?;
    Ok(config)
}

/// The rows of the source that a table outside the layers is made of, in order; `config` is the new model's.
pub(crate) fn source_rows(name: &str, rows: usize, config: &Config, source: &Config) -> Vec<usize> {
    let list = config.shortlist.as_ref().filter(|_| source.shortlist.is_none());
    match list {
        Some(list) if name == "output.weight" => list.ids().iter().map(|&id| id as usize).collect(),
        Some(list) if config.tied_head => list.tied_order(config.vocab_size).map(|id| id as usize).collect(),
        _ => (0..rows).collect(),
    }
}

#[cfg(test)]
mod tests {
    use spm::synthetic::padded_vocabulary;

    use super::*;

    /// Of 300 tokens 256 bytes and the end are needed.
    fn counts() -> (TokenCounts, Vocabulary) {
        let (mut counts, mut expected) = (vec![0; 300], vec![0.0; 300]);
        let mut spread = vec![0; 300];
        (counts[258], counts[270], counts[271], counts[272]) = (2, 5, 2, 90);
        (spread[258], spread[270], spread[271], spread[272]) = (2, 3, 2, 1);
        (expected[290], expected[258]) = (0.5, 9.0);
        (TokenCounts { counts, spread, expected, documents: 4 }, padded_vocabulary(300))
    }

    fn beside_needed(size: ShortlistSize) -> Vec<u32> {
        let (counts, vocabulary) = counts();
        let needed = needed_tokens(&vocabulary);
        let list = counts.shortlist(&vocabulary, size).unwrap();
        assert!(list.missing(&vocabulary).is_none());
        list.ids().iter().copied().filter(|id| !needed.contains(id)).collect()
    }

    #[test]
    fn tokens_are_taken_by_spread_then_expectation_then_id() {
        assert_eq!(beside_needed(ShortlistSize::Tokens(1)), [0; 0]);
        assert_eq!(beside_needed(ShortlistSize::Tokens(258)), [270]);
        assert_eq!(beside_needed(ShortlistSize::Tokens(259)), [258, 270]);
        assert_eq!(beside_needed(ShortlistSize::Tokens(262)), [258, 270, 271, 272, 290]);
        assert_eq!(beside_needed(ShortlistSize::Auto), [0; 0], "a third is less than what is needed");
        let (counts, vocabulary) = counts();
        let error = counts.shortlist(&vocabulary, ShortlistSize::Tokens(301)).unwrap_err().to_string();
        assert!(error.contains("`301`") && error.contains("at most 300"), "{error}");
    }

    #[test]
    fn shares_are_of_the_text() {
        let (counts, vocabulary) = counts();
        let list = counts.shortlist(&vocabulary, ShortlistSize::Tokens(258)).unwrap();
        assert_eq!(counts.total(), 99);
        assert!((counts.unlisted_share(&list) - 94.0 / 99.0).abs() < 1e-12);
    }

    #[test]
    fn probabilities_add_up() {
        let (mut p, mut sums) = (vec![0.0; 3], vec![0.0; 3]);
        add_probabilities(&[0.0, f32::NEG_INFINITY, 3f32.ln()], &mut p, &mut sums);
        add_probabilities(&[1.0, 1.0, f32::NEG_INFINITY], &mut p, &mut sums);
        add_probabilities(&[f32::NAN, 1.0, 1.0], &mut p, &mut sums);
        assert!(sums.iter().zip([0.75, 0.5, 0.75]).all(|(s, e)| (s - e).abs() < 1e-6), "{sums:?}");
    }

    #[test]
    fn sizes_by_name() {
        assert_eq!("auto".parse::<ShortlistSize>().unwrap(), ShortlistSize::Auto);
        assert_eq!("900".parse::<ShortlistSize>().unwrap(), ShortlistSize::Tokens(900));
        for bad in ["0", "-1", "all"] {
            assert!(bad.parse::<ShortlistSize>().unwrap_err().to_string().contains("`auto`, a number of tokens"));
        }
    }
}
