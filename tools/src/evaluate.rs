//! How well a model predicts a text, and how far it is from another one.
//!
//! Documents are tokenized one by one as plain text, each with the beginning-of-text token if the model wants one,
//! joined in order, and cut into windows of `context` tokens; what is left at the end is dropped. Each window
//! starts with an empty cache. Every token of a window but its first is scored (or as many less as are asked for).
//!
//! A model with a shortlist cannot write every token, so tokens that are not listed are split into ones that are, after
//! the text was cut into windows: it is scored on just the text that other models are, in more tokens.
//!
//! perplexity = exp(mean negative log-likelihood); bits per byte = sum of negative log2-likelihoods over the bytes of
//! the scored tokens; top-1 = share of scored tokens that were the most likely one (the lowest id of equals). With a
//! reference: KL(reference || model) at every scored position, in nats, over the whole vocabulary or, of a model with a
//! shortlist, over the tokens listed, to which the reference is renormalised; what it gives to the others is a number
//! of its own.

use std::ops::ControlFlow;
use std::sync::Arc;

use runtime::likelihood::{divergence, log_sum_exp};
use runtime::{Error, Model, Session, SessionOptions, Splitter};

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    /// Scored tokens.
    pub tokens: u64,
    /// Tokens that they were before some were split.
    pub unsplit_tokens: u64,
    /// Bytes of text that the scored tokens stand for.
    pub bytes: u64,
    /// Sum of negative log-likelihoods, nats.
    pub nll: f64,
    /// Tokens that were the most likely ones.
    pub correct: u64,
    /// The comparison with a reference, if there was one.
    pub against: Option<Comparison>,
}

/// How far a model is from its reference.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// KL(reference || model) of every scored position, nats.
    pub kl: Vec<f32>,
    /// Positions where both find the same token most likely, of the whole vocabulary.
    pub agree: u64,
    /// Sum over these positions of the probability that the reference gives to tokens the model cannot write.
    pub unlisted: f64,
}

impl Evaluation {
    /// exp of the mean negative log-likelihood.
    pub fn perplexity(&self) -> f64 {
        (self.nll / self.tokens as f64).exp()
    }

    /// The same for each token that the text has in the whole vocabulary: comparable between models of one vocabulary.
    pub fn perplexity_unsplit(&self) -> f64 {
        (self.nll / self.unsplit_tokens as f64).exp()
    }

    /// Bits that the model needs for a byte of text.
    pub fn bits_per_byte(&self) -> f64 {
        self.nll / std::f64::consts::LN_2 / self.bytes as f64
    }

    /// Share of tokens that were the most likely ones.
    pub fn top1(&self) -> f64 {
        self.correct as f64 / self.tokens as f64
    }
}

impl Comparison {
    /// Mean KL divergence, nats.
    pub fn mean_kl(&self) -> f64 {
        self.kl.iter().map(|k| f64::from(*k)).sum::<f64>() / self.kl.len() as f64
    }

    /// The KL divergence that `percent` of the positions stay below (nearest rank).
    pub fn kl_percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.kl.clone();
        sorted.sort_by(f32::total_cmp);
        let rank = (percent / 100.0 * sorted.len() as f64).ceil().max(1.0) as usize;
        sorted.get(rank - 1).copied().map_or(f64::NAN, f64::from)
    }

    /// Mean probability that the reference gives to tokens the model cannot write.
    pub fn mean_unlisted(&self) -> f64 {
        self.unlisted / self.kl.len() as f64
    }

    /// Share of positions where both find the same token most likely.
    pub fn agreement(&self) -> f64 {
        self.agree as f64 / self.kl.len() as f64
    }
}

/// Scores `windows` but for their first `unscored` tokens (1 or more: nothing predicts the first one);
/// `token_bytes` says how many bytes of text a token is, `splitter` how those are written that the model has not listed.
pub fn evaluate(
    model: &Arc<Model>,
    reference: Option<&Arc<Model>>,
    windows: &[Vec<u32>],
    splitter: Option<&Splitter>,
    unscored: usize,
    token_bytes: &dyn Fn(u32) -> usize,
    progress: &mut dyn FnMut(usize, &Evaluation) -> ControlFlow<()>,
) -> Result<Evaluation, Error> {
    let unscored = unscored.max(1);
    let split = |tokens: &[u32]| splitter.map_or(tokens.to_vec(), |s| s.split(tokens));
    let longest = windows.iter().map(|w| split(w).len()).max().unwrap_or(0);
    let options = SessionOptions { context: longest, ..SessionOptions::default() };
    let mut session = Session::new(model, &options)?;
    let mut other = reference.map(|r| Session::new(r, &options)).transpose()?;
    let mut total = Evaluation { against: reference.map(|_| Comparison::default()), ..Evaluation::default() };
    for (i, window) in windows.iter().enumerate() {
        let (context, scored) = window.split_at(unscored);
        score_window(&mut session, other.as_mut(), &split(window), split(context).len(), &mut total)?;
        total.unsplit_tokens += scored.len() as u64;
        total.bytes += scored.iter().map(|&t| token_bytes(t) as u64).sum::<u64>();
        if progress(i + 1, &total).is_break() {
            break;
        }
    }
    Ok(total)
}

/// Positions whose logits of both models are held at once.
const STEP: usize = 16;

fn score_window(
    session: &mut Session,
    mut reference: Option<&mut Session>,
    window: &[u32],
    unscored: usize,
    total: &mut Evaluation,
) -> Result<(), Error> {
    session.truncate(0);
    if let Some(reference) = &mut reference {
        reference.truncate(0);
    }
    let (context, inputs) = window[..window.len() - 1].split_at(unscored - 1);
    session.feed(context)?;
    if let Some(reference) = &mut reference {
        reference.feed(context)?;
    }
    let mut expected = Vec::new();
    for (step, inputs) in inputs.chunks(STEP).enumerate() {
        expected.clear();
        if let Some(reference) = &mut reference {
            reference.feed_each(inputs, |_, logits| expected.push(logits.to_vec()))?;
        }
        session.feed_each(inputs, |i, logits| {
            let target = window[unscored + step * STEP + i] as usize;
            let log_sum = log_sum_exp(logits);
            let best = argmax(logits);
            total.tokens += 1;
            total.nll += log_sum - f64::from(logits[target]);
            total.correct += u64::from(best == target);
            if let (Some(against), Some(expected)) = (&mut total.against, expected.get(i)) {
                let (kl, unlisted) = divergence(expected, logits, log_sum);
                against.kl.push(kl as f32);
                against.unlisted += unlisted;
                against.agree += u64::from(best == argmax(expected));
            }
        })?;
    }
    Ok(())
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
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let c = Comparison { kl: (1..=200).map(|i| i as f32).collect(), agree: 50, unlisted: 20.0 };
        assert_eq!(c.kl_percentile(99.0), 198.0);
        assert_eq!(c.kl_percentile(50.0), 100.0);
        assert_eq!(c.mean_kl(), 100.5);
        assert_eq!((c.agreement(), c.mean_unlisted()), (0.25, 0.1));
    }

    #[test]
    fn a_model_scores_as_its_logits_say() {
        use runtime::EngineOptions;
        use spm::synthetic::SyntheticModel;
        let model = Arc::new(Model::load(&SyntheticModel::tiny(3), &EngineOptions::default()).unwrap());
        let windows = vec![(0..40u32).map(|i| i * 5 % 250).collect::<Vec<_>>(); 2];
        let mut nll = 0.0;
        for window in &windows {
            let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
            for pair in window.windows(2) {
                let logits: Vec<f64> = session.feed(&pair[..1]).unwrap().iter().map(|l| f64::from(*l)).collect();
                nll += logits.iter().map(|l| l.exp()).sum::<f64>().ln() - logits[pair[1] as usize];
            }
        }
        let found = evaluate(&model, Some(&model), &windows, None, 1, &|_| 2, &mut |_, _| ControlFlow::Continue(()));
        let found = found.unwrap();
        assert_eq!((found.tokens, found.unsplit_tokens, found.bytes), (78, 78, 156));
        assert!((found.nll - nll).abs() < 1e-3 * nll, "{} and {nll}", found.nll);
        let against = found.against.unwrap();
        assert!(against.mean_kl() < 1e-9 && against.agreement() == 1.0);
    }
}
