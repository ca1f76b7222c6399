//! What a number of passed problems says.

/// An unbiased estimate of the probability that one of `k` samples passes, from `n` samples of which `c` passed:
/// 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, "Evaluating Large Language Models Trained on Code"). `None` for k > n.
pub fn pass_at_k(n: usize, c: usize, k: usize) -> Option<f64> {
    if k == 0 || k > n || c > n {
        return None;
    }
    if n - c < k {
        return Some(1.0);
    }
    // The quotient of binomials as a product, which cannot overflow.
    Some(1.0 - (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>())
}

/// The 0.975 quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// The Wilson interval, 95 %, of a share of `n` independent trials (Wilson 1927).
pub fn wilson(share: f64, n: usize) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    let n = n as f64;
    let z2 = Z * Z / n;
    let middle = (share + z2 / 2.0) / (1.0 + z2);
    let half = Z / (1.0 + z2) * (share * (1.0 - share) / n + z2 / (4.0 * n)).sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

/// McNemar's exact test: the two-sided probability of a split at least as uneven as `only_a` to `only_b` of the problems
/// that one of two models alone solves, if either were as likely.
pub fn mcnemar_exact(only_a: usize, only_b: usize) -> f64 {
    let (n, few) = (only_a + only_b, only_a.min(only_b));
    // C(n, i) / 2^n for i = 0, 1, ..., by logarithms, since the first can be too small for an f64.
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for i in 0..=few {
        sum += log_term.exp();
        log_term += ((n - i) as f64).ln() - ((i + 1) as f64).ln();
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn pass_at_k_is_the_share_of_draws_that_have_a_passing_sample() {
        // Every choice of k of n samples, of which the first c pass.
        for n in 1..=8usize {
            for c in 0..=n {
                for k in 1..=n {
                    let draws = (0..1u32 << n).filter(|set| set.count_ones() as usize == k);
                    let (mut all, mut with) = (0, 0);
                    for set in draws {
                        all += 1;
                        with += u32::from(set & ((1 << c) - 1) != 0);
                    }
                    let found = pass_at_k(n, c, k).unwrap();
                    assert!(close(found, f64::from(with) / f64::from(all)), "{n} {c} {k}: {found}");
                }
            }
        }
        assert_eq!((pass_at_k(5, 1, 6), pass_at_k(5, 1, 0)), (None, None));
        assert!(close(pass_at_k(200, 1, 100).unwrap(), 0.5));
    }

    #[test]
    fn wilson_of_known_cases() {
        // The formula in Python; the first is z^2 / (n + z^2) by hand.
        for (k, n, low, high) in [
            (0, 10, 0.0, 0.277_532_799_862_889_5),
            (10, 10, 0.722_467_200_137_110_5, 1.0),
            (48, 82, 0.477_256_958_344_124_6, 0.685_834_398_586_833_8),
        ] {
            let found = wilson(f64::from(k) / f64::from(n), n as usize);
            assert!((found.0 - low).abs() < 1e-9 && (found.1 - high).abs() < 1e-9, "{k} of {n}: {found:?}");
        }
        assert_eq!(wilson(0.0, 0), (0.0, 1.0));
    }

    #[test]
    fn mcnemar_of_known_cases() {
        // Binomials of 1/2, counted: 2 * (1 + 10 + 45) / 1024; 2 / 2^20; even splits say nothing.
        assert!(close(mcnemar_exact(2, 8), 112.0 / 1024.0));
        assert!(close(mcnemar_exact(20, 0), 2.0 / f64::from(1 << 20)));
        assert!(close(mcnemar_exact(5, 5), 1.0));
        assert!(close(mcnemar_exact(0, 0), 1.0));
        // The sum in Python's exact fractions.
        let many = mcnemar_exact(3000, 3200);
        assert!((many - 0.011_488_253_770_871_206).abs() < 1e-9, "{many}");
    }
}
