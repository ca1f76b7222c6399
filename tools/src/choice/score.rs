//! Log-likelihoods of answers.

use std::path::Path;

use runtime::likelihood::log_sum_exp;
use runtime::{Session, SessionOptions, Splitter};

use super::Style;
use super::items::Item;
use crate::cli::Ready;
use crate::failure::Failure;
use crate::{jsonl, process};

/// Of one answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Score {
    /// Nats.
    pub(super) log_likelihood: f64,
    /// Bytes of the text that it is the log-likelihood of, without the blank before it.
    pub(super) bytes: f64,
}

/// A model that scores.
pub(super) struct Scorer<'a> {
    ready: &'a Ready,
    splitter: Option<&'a Splitter>,
    style: Style,
    session: Session,
}

/// Tokens, of which those from `scored` on are the answer's.
struct Sequence {
    tokens: Vec<u32>,
    scored: usize,
    bytes: usize,
}

impl<'a> Scorer<'a> {
    /// With room for the longest of the items of the file at `path`.
    pub(super) fn new(
        ready: &'a Ready,
        splitter: Option<&'a Splitter>,
        (path, items): (&Path, &[Item]),
        style: Style,
    ) -> Result<Self, Failure> {
        let own = ready.model.config().context_len;
        let mut longest = 1;
        for item in items {
            let sequences = sequences(ready, splitter, item, style)?;
            let len = sequences.iter().map(|s| s.tokens.len()).max().unwrap_or(0);
            if len > own {
                let problem = format!("{len} tokens, the model reads {own}; leave the item out");
                return Err(jsonl::bad(path, item.line, &problem));
            }
            longest = longest.max(len);
        }
        let options = SessionOptions { context: longest, ..SessionOptions::default() };
        let bytes = Session::memory_needed(ready.model.config(), &options, ready.model.engine().threads());
        process::check_memory(&format!("a context of {longest} tokens"), bytes as u64, "leave long items out")?;
        Ok(Scorer { ready, splitter, style, session: Session::new(&ready.model, &options)? })
    }

    /// Scores of all answers, in order.
    pub(super) fn score(&mut self, item: &Item) -> Result<Vec<Score>, Failure> {
        let all = sequences(self.ready, self.splitter, item, self.style)?;
        // What all begin with is read once; at least one token before the first that is scored is read for each.
        let shared = all.iter().map(|s| common(&all[0].tokens, &s.tokens).min(s.scored - 1)).min().unwrap_or(0);
        self.session.truncate(0);
        self.session.feed(&all[0].tokens[..shared]).map_err(|e| self.ready.failure(e))?;
        let scores = all.iter().map(|sequence| self.score_one(sequence, shared));
        scores.collect::<Result<_, _>>().map_err(|e| self.ready.failure(e))
    }

    fn score_one(&mut self, sequence: &Sequence, shared: usize) -> Result<Score, runtime::Error> {
        let Sequence { tokens, scored, bytes } = sequence;
        // Layers that look at a window cannot always go back so far.
        let known = self.session.truncate(shared);
        self.session.feed(&tokens[known..scored - 1])?;
        let mut log_likelihood = 0.0;
        self.session.feed_each(&tokens[scored - 1..tokens.len() - 1], |i, logits| {
            log_likelihood += f64::from(logits[tokens[scored + i] as usize]) - log_sum_exp(logits);
        })?;
        Ok(Score { log_likelihood, bytes: *bytes as f64 })
    }
}

fn sequences(ready: &Ready, splitter: Option<&Splitter>, item: &Item, style: Style) -> Result<Vec<Sequence>, Failure> {
    let texts = item.choices.iter().map(|choice| text(&item.question, choice, style));
    texts.map(|(before, after)| sequence(ready, splitter, &before, &after)).collect()
}

/// What is given and what is scored.
fn text(question: &str, choice: &str, style: Style) -> (String, String) {
    let choice = choice.trim();
    match (style, question.split_once('_')) {
        (Style::Blank, Some((before, after))) if !after.trim().is_empty() => {
            (format!("{before}{choice}"), after.into())
        }
        // Nothing comes after the blank.
        (Style::Blank, Some((before, _))) => (before.trim_end().into(), format!(" {choice}")),
        (Style::Continuation, _) => (question.trim_end().into(), format!(" {choice}")),
        _ => (format!("Question: {}\nAnswer:", question.trim()), format!(" {choice}")),
    }
}

/// Both are tokenized together; a token that holds the end of one and the beginning of the other is scored.
fn sequence(ready: &Ready, splitter: Option<&Splitter>, before: &str, after: &str) -> Result<Sequence, Failure> {
    let tokenizer = &ready.tokenizer;
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let begin = bos.or(tokenizer.bos()).or(tokenizer.end_ids().first().copied());
    let whole = tokenizer.encode_plain(&format!("{before}{after}"));
    let given = common(&tokenizer.encode_plain(before), &whole);
    let (given, answer) = whole.split_at(given.min(whole.len().saturating_sub(1)));
    let split = |tokens: &[u32]| splitter.map_or(tokens.to_vec(), |s| s.split(tokens));
    let (given, answer) = (split(given), split(answer));
    let first = if given.is_empty() { begin } else { bos };
    let given: Vec<u32> = first.into_iter().chain(given).collect();
    match given.is_empty() || answer.is_empty() {
        true => Err(runtime::Error::EmptyPrompt.into()),
        false => {
            Ok(Sequence { scored: given.len(), tokens: [given, answer].concat(), bytes: after.trim_start().len() })
        }
    }
}

/// How many tokens both begin with.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choice::items::Item;
    use runtime::{EngineOptions, Model, Tokenizer};
    use spm::synthetic::SyntheticModel;
    use spm::{Checkpoint, Config, LayerKind, LayerRope};
    use std::sync::Arc;

    #[test]
    fn questions_are_put_as_asked() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(text("Why?", "So.", Style::Question), pair("Question: Why?\nAnswer:", " So."));
        assert_eq!(text("He ", " runs.", Style::Continuation), pair("He", " runs."));
        assert_eq!(text("A _ is b.", "x", Style::Blank), pair("A x", " is b."));
        assert_eq!(text("It is a _", "x", Style::Blank), pair("It is a", " x"));
    }

    fn ready(window: Option<usize>) -> Ready {
        let mut config = Config::new(2, 64, 160, 4, 2);
        config.window = window;
        config.layers = vec![LayerKind { windowed: window.is_some(), rope: LayerRope::Main }; 2];
        let synthetic = SyntheticModel::new(config, 3);
        Ready {
            path: "synthetic".into(),
            tokenizer: Tokenizer::new(synthetic.vocabulary().unwrap()).unwrap(),
            chat_template: None,
            mapped: 0,
            model: Arc::new(Model::load(&synthetic, &EngineOptions::default()).unwrap()),
        }
    }

    /// Scores are those of a plain loop over single tokens in f64, also where layers forget what a long answer pushes out.
    #[test]
    fn an_answer_scores_as_its_logits_say() {
        for window in [None, Some(8)] {
            let ready = ready(window);
            let choices = ["b".to_owned(), "a longer one ".repeat(20), "c d".to_owned()];
            let item = Item { question: "a b c".into(), choices: choices.into(), answer: 0, line: 1 };
            let mut scorer =
                Scorer::new(&ready, None, (Path::new(""), std::slice::from_ref(&item)), Style::Continuation).unwrap();
            let scores = scorer.score(&item).unwrap();
            for (choice, score) in item.choices.iter().zip(&scores) {
                let expected = plain(&ready, "a b c", choice.trim());
                let allowed = 1e-3 * (1.0 + expected.abs() / 10.0);
                assert!(
                    (score.log_likelihood - expected).abs() < allowed,
                    "{window:?} {choice}: {score:?}, {expected}"
                );
                assert_eq!(score.bytes as usize, choice.trim().len());
            }
        }
    }

    fn plain(ready: &Ready, question: &str, choice: &str) -> f64 {
        let tokens = ready.tokenizer.encode_plain(&format!("{question} {choice}"));
        let given = common(&tokens, &ready.tokenizer.encode_plain(question));
        let mut session = Session::new(&ready.model, &SessionOptions::default()).unwrap();
        let begin: Vec<u32> = ready.tokenizer.bos().filter(|_| ready.tokenizer.adds_bos()).into_iter().collect();
        let (mut sum, mut logits) = (0.0, Vec::<f64>::new());
        for (i, &token) in begin.iter().chain(&tokens).enumerate() {
            if i >= begin.len() + given {
                sum += logits[token as usize] - logits.iter().map(|l| l.exp()).sum::<f64>().ln();
            }
            logits = session.feed(&[token]).unwrap().iter().map(|l| f64::from(*l)).collect();
        }
        sum
    }
}
