//! What two masks have in common, and what two random ones of the same densities would.

use std::ops::AddAssign;

/// Two masks over the same weights, of one matrix or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shared {
    /// Weights that the first mask keeps.
    pub first: u64,
    /// Weights that the second mask keeps.
    pub second: u64,
    /// Weights that both keep.
    pub both: u64,
    /// Weights that both would keep if they were independent of each other: with densities p and q of a matrix, p q of
    /// its weights.
    pub chance: f64,
}

impl Shared {
    /// The masks of one matrix of `weights` weights.
    pub fn new(weights: u64, first: u64, second: u64, both: u64) -> Self {
        let chance = if weights == 0 { 0.0 } else { first as f64 * (second as f64 / weights as f64) };
        Shared { first, second, both, chance }
    }

    /// Share of what a mask keeps that the other keeps too: twice the intersection by the sum of both (Dice's
    /// coefficient), which is the intersection by either where both keep as many. 1 where neither keeps anything.
    pub fn overlap(&self) -> f64 {
        self.overlap_of(self.both as f64)
    }

    /// The overlap that random masks of these densities are expected to have.
    pub fn chance_overlap(&self) -> f64 {
        self.overlap_of(self.chance)
    }

    /// Jaccard's distance: 1 less the intersection by the union. 0 where neither keeps anything.
    pub fn distance(&self) -> f64 {
        self.distance_of(self.both as f64)
    }

    /// The distance that random masks are expected to have: of one matrix 1 - p q / (p + q - p q).
    pub fn chance_distance(&self) -> f64 {
        self.distance_of(self.chance)
    }

    /// Share of the kept weights in which the masks differ: 1 less the overlap.
    pub fn difference(&self) -> f64 {
        1.0 - self.overlap()
    }

    /// The same of random masks.
    pub fn chance_difference(&self) -> f64 {
        1.0 - self.chance_overlap()
    }

    fn overlap_of(&self, both: f64) -> f64 {
        let sum = (self.first + self.second) as f64;
        if sum == 0.0 { 1.0 } else { 2.0 * both / sum }
    }

    fn distance_of(&self, both: f64) -> f64 {
        let union = (self.first + self.second) as f64 - both;
        if union == 0.0 { 0.0 } else { 1.0 - both / union }
    }
}

impl AddAssign for Shared {
    fn add_assign(&mut self, other: Self) {
        self.first += other.first;
        self.second += other.second;
        self.both += other.both;
        self.chance += other.chance;
    }
}

impl std::iter::Sum for Shared {
    fn sum<I: Iterator<Item = Shared>>(all: I) -> Self {
        all.fold(Shared::default(), |mut sum, shared| {
            sum += shared;
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use spm::synthetic::SplitMix;

    use super::*;

    #[test]
    fn a_case_counted_by_hand() {
        // Of 12 weights the first keeps 6, the second 4, both 3: 7 in the union.
        let shared = Shared::new(12, 6, 4, 3);
        assert_eq!((shared.overlap(), shared.difference()), (0.6, 0.4));
        assert!((shared.distance() - 4.0 / 7.0).abs() < 1e-15);
        assert_eq!((shared.chance, shared.chance_overlap()), (2.0, 0.4));
        // p = 1/2, q = 1/3: 1 - 1/6 / (1/2 + 1/3 - 1/6).
        assert!((shared.chance_distance() - 0.75).abs() < 1e-15);
    }

    #[test]
    fn nothing_kept_is_no_difference() {
        let nothing = Shared::new(12, 0, 0, 0);
        assert_eq!((nothing.overlap(), nothing.distance(), nothing.chance_distance()), (1.0, 0.0, 0.0));
    }

    #[test]
    fn random_masks_have_what_chance_says() {
        let mut random = SplitMix::new(5);
        for (p, q) in [(0.5, 0.5), (0.3, 0.7), (0.1, 0.2), (0.9, 0.4)] {
            let mut keeps = |density: f64| density > (random.bits() >> 11) as f64 / (1u64 << 53) as f64;
            let (weights, mut first, mut second, mut both) = (400_000, 0, 0, 0);
            for _ in 0..weights {
                let (a, b) = (keeps(p), keeps(q));
                first += u64::from(a);
                second += u64::from(b);
                both += u64::from(a && b);
            }
            let found = Shared::new(weights, first, second, both);
            // Five standard deviations of a share of 400,000 are 0.004.
            assert!((found.distance() - found.chance_distance()).abs() < 0.008, "{p}, {q}: {found:?}");
            assert!((found.chance_distance() - (1.0 - p * q / (p + q - p * q))).abs() < 0.008, "{p}, {q}: {found:?}");
        }
    }
}
