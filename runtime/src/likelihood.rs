//! From logits to likelihoods, and how far those of two models are from each other.

/// KL(p || q) in nats of two sets of logits, over the tokens that are possible in q and with p renormalised to them; and the
/// probability that p gives to all others. `q_log_sum` is [`log_sum_exp`] of `q`.
pub fn divergence(p: &[f32], q: &[f32], q_log_sum: f64) -> (f64, f64) {
    let listed = || p.iter().zip(q).filter(|(_, q)| **q > f32::NEG_INFINITY);
    let (p_log_sum, whole_log_sum) = (log_sum_of(listed().map(|(p, _)| *p)), log_sum_exp(p));
    let term = |(&p, &q): (&f32, &f32)| {
        let log_p = f64::from(p) - p_log_sum;
        // The limit where p has no probability, which infinities would not give.
        if log_p == f64::NEG_INFINITY { 0.0 } else { log_p.exp() * (log_p - (f64::from(q) - q_log_sum)) }
    };
    // Rounding can leave a tiny negative sum where the models are the same.
    let kl = listed().map(term).sum::<f64>().max(0.0);
    (kl, (1.0 - (p_log_sum - whole_log_sum).exp()).max(0.0))
}

/// `ln(sum(exp(logits)))`: what logits are above their log-likelihoods.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    log_sum_of(logits.iter().copied())
}

fn log_sum_of(logits: impl Iterator<Item = f32> + Clone) -> f64 {
    let max = logits.clone().fold(f32::NEG_INFINITY, f32::max);
    // The differences are small or do not matter, so single precision loses nothing that is seen.
    let sum: f64 = logits.map(|l| f64::from((l - max).exp())).sum();
    f64::from(max) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_of_known_distributions() {
        let p = [0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()];
        let q = [0.25f32.ln(), 0.25f32.ln(), 0.5f32.ln()];
        // Shifted logits are the same distribution.
        let shifted = q.map(|l| l + 7.0);
        let expected = 0.5 * 2f64.ln() - 0.25 * 2f64.ln();
        assert!((divergence(&p, &shifted, log_sum_exp(&shifted)).0 - expected).abs() < 1e-6);
        assert_eq!(divergence(&p, &p, log_sum_exp(&p)), (0.0, 0.0));
    }

    #[test]
    fn divergence_over_a_shortlist() {
        const NO: f32 = f32::NEG_INFINITY;
        let p = [0.2f32.ln(), 0.5f32.ln(), 0.3f32.ln(), NO];
        let q = [0.5f32.ln(), NO, 0.5f32.ln(), NO];
        // 0.4 and 0.6 once what is not listed is left out.
        let expected = 0.4 * 0.8f64.ln() + 0.6 * 1.2f64.ln();
        let (found, unlisted) = divergence(&p, &q, log_sum_exp(&q));
        assert!((found - expected).abs() < 1e-6 && (unlisted - 0.5).abs() < 1e-6, "{found}, {unlisted}");
        let (found, unlisted) = divergence(&q, &p, log_sum_exp(&p));
        let expected = 0.5 * 2.5f64.ln() + 0.5 * (5.0 / 3.0f64).ln();
        assert!((found - expected).abs() < 1e-6 && unlisted == 0.0, "{found}, {unlisted}");
    }
}
