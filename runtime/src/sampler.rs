//! The next token from the logits: penalties, top-k, top-p, min-p, temperature, and a draw, in llama.cpp's order.

use std::collections::VecDeque;

/// How the next token is chosen; the defaults are llama.cpp's.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Randomness; 0 and less always take the most likely token.
    pub temperature: f32,
    /// Only the so many most likely tokens; 0 is off.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability; 1 is off.
    pub top_p: f32,
    /// Only tokens at least this share as likely as the most likely one; 0 is off.
    pub min_p: f32,
    /// Logits of recent tokens are divided (if positive) or multiplied by this; 1 is off.
    pub repeat_penalty: f32,
    /// How many tokens back the penalty looks.
    pub repeat_last_n: usize,
    /// Same seed, same choices.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            seed: 0,
        }
    }
}

/// Chooses tokens, one after another.
#[derive(Debug)]
pub struct Sampler {
    options: SamplerOptions,
    recent: VecDeque<u32>,
    random: Pcg,
    candidates: Vec<Candidate>,
    /// Memory for the recent tokens without repetition.
    seen: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    logit: f32,
    p: f32,
}

impl Sampler {
    /// A sampler that has seen nothing yet.
    pub fn new(options: &SamplerOptions) -> Self {
        let random = Pcg::new(options.seed);
        let (recent, candidates, seen) = Default::default();
        Sampler { options: options.clone(), recent, random, candidates, seen }
    }

    /// Remembers a token for the repeat penalty.
    pub fn accept(&mut self, token: u32) {
        if self.options.repeat_penalty != 1.0 && self.options.repeat_last_n > 0 {
            self.recent.truncate(self.options.repeat_last_n - 1);
            self.recent.push_front(token);
        }
    }

    /// Remembers the last of `text` and nothing else.
    pub fn remember(&mut self, text: &[u32]) {
        self.recent.clear();
        let last = text.len().saturating_sub(self.options.repeat_last_n);
        text[last..].iter().for_each(|&token| self.accept(token));
    }

    /// How it chooses.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// Chooses a token. Equal logits: the lowest id is the likelier one. Logits that are not numbers, or negative infinity
    /// as those of tokens that the model cannot write, are never chosen unless there is nothing else; then it is token 0.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        self.candidates.clear();
        // Not true of NaN either.
        let possible = logits.iter().enumerate().filter(|(_, l)| **l > f32::NEG_INFINITY);
        self.candidates.extend(possible.map(|(id, &logit)| Candidate { id: id as u32, logit, p: 0.0 }));
        self.penalize();
        if self.options.temperature <= 0.0 || self.options.temperature.is_nan() {
            return most_likely(&self.candidates);
        }
        self.keep_top_k();
        self.keep_top_p();
        self.keep_min_p();
        probabilities(&mut self.candidates, self.options.temperature);
        self.draw()
    }

    fn penalize(&mut self) {
        let penalty = self.options.repeat_penalty;
        if !(penalty > 0.0 && penalty.is_finite()) {
            return;
        }
        self.seen.clear();
        self.seen.extend(&self.recent);
        self.seen.sort_unstable();
        self.seen.dedup();
        for id in &self.seen {
            if let Ok(at) = self.candidates.binary_search_by_key(id, |c| c.id) {
                let logit = &mut self.candidates[at].logit;
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// Leaves the candidates in order of likelihood, whether or not some go.
    fn keep_top_k(&mut self) {
        let all = &mut self.candidates;
        let k = match self.options.top_k {
            0 => all.len(),
            k => k.min(all.len()),
        };
        let by_likelihood = |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id));
        if k < all.len() {
            all.select_nth_unstable_by(k, by_likelihood);
            all.truncate(k);
        }
        all.sort_unstable_by(by_likelihood);
    }

    fn keep_top_p(&mut self) {
        if self.options.top_p >= 1.0 {
            return;
        }
        probabilities(&mut self.candidates, 1.0);
        let mut sum = 0.0;
        let reached = self.candidates.iter().position(|c| {
            sum += c.p;
            sum >= self.options.top_p
        });
        if let Some(last) = reached {
            self.candidates.truncate(last + 1);
        }
    }

    fn keep_min_p(&mut self) {
        let (Some(first), true) = (self.candidates.first(), self.options.min_p > 0.0) else { return };
        let least = first.logit + self.options.min_p.ln();
        let keep = self.candidates.iter().take_while(|c| c.logit >= least).count();
        self.candidates.truncate(keep.max(1));
    }

    fn draw(&mut self) -> u32 {
        let mut left = self.random.unit();
        for c in &self.candidates {
            left -= c.p;
            if left < 0.0 {
                return c.id;
            }
        }
        // Rounding can leave a crumb beyond the last.
        self.candidates.last().map_or(0, |c| c.id)
    }
}

fn most_likely(candidates: &[Candidate]) -> u32 {
    let mut best = candidates.first();
    for c in candidates {
        if best.is_some_and(|b| c.logit > b.logit) {
            best = Some(c);
        }
    }
    best.map_or(0, |c| c.id)
}

/// Softmax of the logits divided by the temperature; the most likely is the first.
fn probabilities(candidates: &mut [Candidate], temperature: f32) {
    let max = candidates.first().map_or(0.0, |c| c.logit);
    let mut sum = 0.0;
    for c in candidates.iter_mut() {
        // Infinite logits would make differences that are no numbers; a tiny temperature, infinite quotients.
        c.p = if c.logit == max { 1.0 } else { ((c.logit - max) / temperature).exp() };
        sum += c.p;
    }
    candidates.iter_mut().for_each(|c| c.p /= sum);
}

/// Melissa O'Neill's PCG-XSH-RR 64/32.
#[derive(Debug)]
struct Pcg {
    state: u64,
}

impl Pcg {
    const STEP: u64 = 6_364_136_223_846_793_005;
    const STREAM: u64 = 1_442_695_040_888_963_407;

    fn new(seed: u64) -> Self {
        let mut pcg = Pcg { state: seed.wrapping_add(Self::STREAM) };
        pcg.next();
        pcg
    }

    fn next(&mut self) -> u32 {
        let old = self.state;
        self.state = old.wrapping_mul(Self::STEP).wrapping_add(Self::STREAM);
        let mixed = (((old >> 18) ^ old) >> 27) as u32;
        mixed.rotate_right((old >> 59) as u32)
    }

    /// 0 to below 1, in steps of 2^-24.
    fn unit(&mut self) -> f32 {
        (self.next() >> 8) as f32 / (1u32 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain() -> SamplerOptions {
        SamplerOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplerOptions::default() }
    }

    /// The chain written down again in f64: which tokens can come, and how often.
    fn reference(logits: &[f32], o: &SamplerOptions) -> Vec<(u32, f64)> {
        let mut all: Vec<(u32, f64)> = logits.iter().zip(0..).map(|(&l, id)| (id, f64::from(l))).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        if o.top_k > 0 {
            all.truncate(o.top_k);
        }
        let softmax = |all: &[(u32, f64)], t: f64| {
            let sum: f64 = all.iter().map(|(_, l)| (l / t).exp()).sum();
            all.iter().map(|&(id, l)| (id, (l / t).exp() / sum)).collect::<Vec<_>>()
        };
        if o.top_p < 1.0 {
            let mut sum = 0.0;
            let keep = softmax(&all, 1.0)
                .iter()
                .take_while(|(_, p)| {
                    let go = sum < f64::from(o.top_p);
                    sum += p;
                    go
                })
                .count();
            all.truncate(keep);
        }
        let most = all[0].1;
        all.retain(|(_, l)| o.min_p == 0.0 || (l - most).exp() >= f64::from(o.min_p));
        softmax(&all, f64::from(o.temperature))
    }

    #[test]
    fn tokens_come_as_often_as_the_chain_says() {
        let logits = [1.0, 3.0, 0.5, 2.5, -1.0, 2.0, 0.0];
        let settings = [
            plain(),
            SamplerOptions { top_k: 3, ..plain() },
            SamplerOptions { top_p: 0.8, ..plain() },
            SamplerOptions { min_p: 0.3, ..plain() },
            SamplerOptions { temperature: 0.5, top_k: 5, top_p: 0.9, min_p: 0.05, ..plain() },
            SamplerOptions { temperature: 3.0, ..plain() },
        ];
        for options in settings {
            let expected = reference(&logits, &options);
            let mut sampler = Sampler::new(&options);
            let mut counts = [0u32; 7];
            const N: u32 = 40_000;
            (0..N).for_each(|_| counts[sampler.sample(&logits) as usize] += 1);
            for (id, &count) in counts.iter().enumerate() {
                let p = expected.iter().find(|e| e.0 == id as u32).map_or(0.0, |e| e.1);
                let deviation = (p * (1.0 - p) / f64::from(N)).sqrt();
                let found = f64::from(count) / f64::from(N);
                assert!((found - p).abs() <= 5.0 * deviation, "{options:?}: token {id} came {found}, expected {p}");
            }
        }
    }

    #[test]
    fn temperature_zero_takes_the_most_likely() {
        let mut sampler = Sampler::new(&SamplerOptions { temperature: 0.0, ..plain() });
        assert_eq!(sampler.sample(&[0.0, 2.0, 2.0, 1.0]), 1);
        assert_eq!(sampler.sample(&[f32::NAN, -5.0, f32::NEG_INFINITY]), 1);
        assert_eq!(sampler.sample(&[f32::NAN]), 0);
        assert_eq!(sampler.sample(&[]), 0);
    }

    #[test]
    fn impossible_tokens_never_come() {
        const NO: f32 = f32::NEG_INFINITY;
        let logits = [NO, 0.5, NO, -3.0, NO];
        for options in [
            plain(),
            SamplerOptions { temperature: 0.0, ..plain() },
            SamplerOptions { temperature: f32::MAX, ..plain() },
            SamplerOptions { top_k: 4, top_p: 0.999, min_p: 1e-30, ..plain() },
            SamplerOptions { repeat_penalty: 1e30, ..plain() },
        ] {
            let mut sampler = Sampler::new(&options);
            (0..logits.len() as u32).for_each(|id| sampler.accept(id));
            for _ in 0..200 {
                let token = sampler.sample(&logits);
                assert!(token == 1 || token == 3, "{options:?}: token {token}");
            }
        }
        assert_eq!(Sampler::new(&plain()).sample(&[NO, NO]), 0);
    }

    #[test]
    fn a_tiny_temperature_is_almost_zero() {
        let mut sampler = Sampler::new(&SamplerOptions { temperature: 1e-42, ..plain() });
        for _ in 0..50 {
            assert_eq!(sampler.sample(&[2.9, 3.0, f32::NEG_INFINITY, -3.0]), 1);
        }
    }

    #[test]
    fn a_penalty_that_is_no_factor_changes_nothing() {
        for repeat_penalty in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let mut sampler = Sampler::new(&SamplerOptions { temperature: 0.0, repeat_penalty, ..plain() });
            sampler.accept(1);
            assert_eq!(sampler.sample(&[1.0, 2.0, -1.0]), 1);
        }
    }

    #[test]
    fn the_penalty_looks_back_as_far_as_it_should() {
        let options = SamplerOptions { temperature: 0.0, repeat_penalty: 2.0, repeat_last_n: 2, ..plain() };
        let mut sampler = Sampler::new(&options);
        let logits = [3.0, 2.9, 2.0, -1.0];
        assert_eq!(sampler.sample(&logits), 0);
        sampler.accept(0);
        assert_eq!(sampler.sample(&logits), 1);
        sampler.accept(1);
        assert_eq!(sampler.sample(&logits), 2);
        sampler.accept(2);
        assert_eq!(sampler.sample(&logits), 0, "0 is three tokens back");
    }

    proptest! {
        #[test]
        fn any_logits_and_options_give_a_token(
            logits in prop::collection::vec(prop_oneof![any::<f32>(), -10f32..10.0], 1..50),
            temperature in 0f32..3.0, top_k in 0..60usize, top_p in 0f32..1.0, min_p in 0f32..1.0, seed: u64,
        ) {
            let options = SamplerOptions { temperature, top_k, top_p, min_p, seed, ..plain() };
            let (mut a, mut b) = (Sampler::new(&options), Sampler::new(&options));
            for _ in 0..3 {
                let token = a.sample(&logits);
                prop_assert!((token as usize) < logits.len());
                prop_assert_eq!(token, b.sample(&logits), "same seed, same token");
            }
        }
    }
}
