//! How far numbers over a text depend on which documents are in it: intervals by resampling documents.
//!
//! Tokens of a document are alike, so documents are drawn, with replacement and as many as there are; a number computed of
//! each of the resamples has a spread, and its middle 95 % is the interval (Efron's percentile method). The draws are those
//! of a fixed seed, the same for every number, so that intervals of a text can be compared. They speak of other documents
//! of the same kind, not of other text. Of few documents they are too narrow, of fewer than ten there are none.

use spm::synthetic::SplitMix;

/// Resamples of an interval.
pub const RESAMPLES: usize = 1000;
/// Share of the resamples that lie in an interval.
pub const CONFIDENCE: f64 = 0.95;
/// Documents that an interval needs.
pub const FEWEST: usize = 10;
const SEED: u64 = 0;

/// A number and the interval around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Of the text itself.
    pub value: f64,
    /// The lowest and the highest that is likely; `None` where there are too few documents to tell.
    pub interval: Option<(f64, f64)>,
}

impl Estimate {
    /// The same of a function that rises with its argument.
    pub fn map(self, rising: impl Fn(f64) -> f64) -> Self {
        Estimate { value: rising(self.value), interval: self.interval.map(|(low, high)| (rising(low), rising(high))) }
    }
}

/// The sum of the first numbers by the sum of the second ones, a pair a document.
pub fn ratio(documents: &[(f64, f64)]) -> Estimate {
    let of = |weights: &[u32]| {
        let (mut above, mut below) = (0.0, 0.0);
        for (weight, document) in weights.iter().zip(documents) {
            above += f64::from(*weight) * document.0;
            below += f64::from(*weight) * document.1;
        }
        (below != 0.0).then(|| above / below)
    };
    let value = of(&vec![1; documents.len()]).unwrap_or(f64::NAN);
    Estimate { value, interval: interval(documents.len(), &of) }
}

/// The number that `percent` of `values` stay below (nearest rank); each value with the index of its document.
pub fn percentile(values: &[(f32, u32)], percent: f64) -> Estimate {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    // Documents without values are none.
    let mut found: Vec<u32> = sorted.iter().map(|v| v.1).collect();
    found.sort_unstable();
    found.dedup();
    sorted.iter_mut().for_each(|v| v.1 = found.partition_point(|document| *document < v.1) as u32);
    let documents = found.len();
    let mut sizes = vec![0u64; documents];
    sorted.iter().for_each(|v| sizes[v.1 as usize] += 1);
    let of = |weights: &[u32]| {
        let all: u64 = sizes.iter().zip(weights).map(|(size, weight)| size * u64::from(*weight)).sum();
        let rank = (percent / 100.0 * all as f64).ceil().max(1.0) as u64;
        // From the largest on: so many may be above.
        let mut above = all.checked_sub(rank)?;
        for (value, document) in &sorted {
            match above.checked_sub(u64::from(weights[*document as usize])) {
                Some(left) => above = left,
                None => return Some(f64::from(*value)),
            }
        }
        None
    };
    let value = of(&vec![1; documents]).unwrap_or(f64::NAN);
    Estimate { value, interval: interval(documents, &of) }
}

/// The middle of what `of` makes of the resamples; it is given how often each document was drawn.
fn interval(documents: usize, of: &dyn Fn(&[u32]) -> Option<f64>) -> Option<(f64, f64)> {
    if documents < FEWEST {
        return None;
    }
    let mut random = SplitMix::new(SEED);
    let mut found: Vec<f64> = Vec::with_capacity(RESAMPLES);
    let mut weights = vec![0; documents];
    for _ in 0..RESAMPLES {
        weights.fill(0);
        (0..documents).for_each(|_| weights[(random.bits() % documents as u64) as usize] += 1);
        found.extend(of(&weights));
    }
    found.sort_by(f64::total_cmp);
    let outside = (found.len() as f64 * (1.0 - CONFIDENCE) / 2.0) as usize;
    Some((*found.get(outside)?, *found.get(found.len().checked_sub(outside + 1)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nearly normal around 0 with variance 1.
    fn normal(random: &mut SplitMix) -> f64 {
        (0..12).map(|_| (random.bits() >> 11) as f64 / (1u64 << 53) as f64).sum::<f64>() - 6.0
    }

    #[test]
    fn intervals_cover_a_known_mean_as_often_as_they_say() {
        let (mut random, mut covered) = (SplitMix::new(11), 0);
        const TRIES: usize = 400;
        for _ in 0..TRIES {
            // Documents of several lengths, their means around 3.
            let documents: Vec<(f64, f64)> = (0..60)
                .map(|_| {
                    let tokens = 50.0 + (random.bits() % 100) as f64;
                    (tokens * (3.0 + 0.5 * normal(&mut random)), tokens)
                })
                .collect();
            let (low, high) = ratio(&documents).interval.unwrap();
            covered += usize::from(low <= 3.0 && 3.0 <= high);
        }
        // 0.95 of 400 is 380; the deviation is 4.4, and the method is a little narrow for 60 documents.
        assert!((364..=396).contains(&covered), "{covered} of {TRIES}");
    }

    #[test]
    fn the_interval_of_a_mean_is_that_of_the_normal_distribution() {
        let mut random = SplitMix::new(3);
        let documents: Vec<(f64, f64)> = (0..2000).map(|_| (normal(&mut random), 1.0)).collect();
        let found = ratio(&documents);
        let n = documents.len() as f64;
        let mean = documents.iter().map(|d| d.0).sum::<f64>() / n;
        let variance = documents.iter().map(|d| (d.0 - mean).powi(2)).sum::<f64>() / n;
        let half = 1.96 * (variance / n).sqrt();
        let (low, high) = found.interval.unwrap();
        assert_eq!(found.value, mean);
        assert!((low - (mean - half)).abs() < 0.1 * half && (high - (mean + half)).abs() < 0.1 * half, "{found:?}");
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<(f32, u32)> = (1..=200).map(|i| (i as f32, i as u32 % 10 * 7)).collect();
        assert_eq!((percentile(&values, 99.0).value, percentile(&values, 50.0).value), (198.0, 100.0));
        let (low, high) = percentile(&values, 50.0).interval.unwrap();
        assert!(80.0 < low && low <= 100.0 && (100.0..120.0).contains(&high) && low < high, "{low} to {high}");
        assert_eq!(percentile(&[(2.0, 0), (1.0, 0)], 99.0), Estimate { value: 2.0, interval: None });
        assert!(percentile(&[], 99.0).value.is_nan());
    }

    #[test]
    fn few_documents_have_no_interval_and_like_ones_have_an_empty_one() {
        assert_eq!(ratio(&[(3.0, 2.0); FEWEST - 1]), Estimate { value: 1.5, interval: None });
        assert_eq!(ratio(&[(3.0, 2.0); FEWEST]), Estimate { value: 1.5, interval: Some((1.5, 1.5)) });
        let rare = ratio(&[[(0.0, 0.0); 19].as_slice(), &[(1.0, 2.0)]].concat());
        assert_eq!(rare, Estimate { value: 0.5, interval: Some((0.5, 0.5)) });
        assert_eq!(rare.map(|v| 2.0 * v).interval, Some((1.0, 1.0)));
    }
}
