//! Counts over the masks of one matrix in every model, a row at a time.

use spm::{Matrix, row_bytes};

use super::shared::Shared;

/// Which of the models are calibrated alike: first the different ones, then those of other seeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Models that differ by more than a seed.
    pub different: usize,
    /// For each of the others the index of its model.
    pub reseed_of: Vec<usize>,
}

impl Family {
    /// Of all models.
    pub fn models(&self) -> usize {
        self.different + self.reseed_of.len()
    }

    /// Pairs of different models.
    pub fn different_pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        pairs(self.different)
    }

    /// Pairs of models that differ by the seed alone.
    pub fn reseeded_pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        pairs(self.models()).filter(|&(a, b)| self.root(a) == self.root(b))
    }

    /// The model that `model` is, or is another seed of.
    pub fn root(&self, model: usize) -> usize {
        model.checked_sub(self.different).map_or(model, |i| self.reseed_of[i])
    }
}

fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |a| (a + 1..n).map(move |b| (a, b)))
}

/// What a matrix of every model keeps.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Weights of the matrix.
    pub weights: u64,
    /// Kept by each model.
    pub kept: Vec<u64>,
    /// Kept by each of the different models and by none of the other different ones.
    pub alone: Vec<u64>,
    /// Of each reseeded model: of what its model alone keeps, what it keeps too.
    pub alone_again: Vec<u64>,
    /// Kept by all of the different models.
    pub common: u64,
    /// Kept by two models, `[first * models + second]`, the first before the second.
    both: Vec<u64>,
}

impl Counts {
    /// Counts over `matrices`, one a model and all of one shape.
    pub fn of(matrices: &[Matrix], family: &Family) -> Self {
        let n = family.models();
        assert!(matrices.len() == n && n > 0, "{} matrices of {n} models", matrices.len());
        let (rows, cols) = (matrices[0].rows(), matrices[0].cols());
        let mut counts = Counts {
            weights: rows as u64 * cols as u64,
            kept: vec![0; n],
            alone: vec![0; family.different],
            alone_again: vec![0; family.reseed_of.len()],
            common: 0,
            both: vec![0; n * n],
        };
        let mut masks = vec![vec![0; row_bytes(cols)]; n];
        let mut words = vec![0; n];
        for row in 0..rows {
            for (matrix, mask) in matrices.iter().zip(&mut masks) {
                matrix.read_row_mask(row, mask);
            }
            for at in 0..row_bytes(cols) / 8 {
                for (word, mask) in words.iter_mut().zip(&masks) {
                    *word = u64::from_le_bytes(mask.as_chunks().0[at]);
                }
                counts.add(&words, family);
            }
        }
        counts
    }

    /// What models `first` and `second` have in common.
    pub fn shared(&self, first: usize, second: usize) -> Shared {
        let (first, second) = (first.min(second), first.max(second));
        let both = if first == second { self.kept[first] } else { self.both[first * self.kept.len() + second] };
        Shared::new(self.weights, self.kept[first], self.kept[second], both)
    }

    /// Weights that model `of` alone would keep if masks were random.
    pub fn alone_by_chance(&self, of: usize) -> f64 {
        let density = |model: usize| self.kept[model] as f64 / self.weights as f64;
        let others = (0..self.alone.len()).filter(|&model| model != of);
        self.kept[of] as f64 * others.map(|model| 1.0 - density(model)).product::<f64>()
    }

    fn add(&mut self, words: &[u64], family: &Family) {
        let n = words.len();
        for (a, word) in words.iter().enumerate() {
            self.kept[a] += ones(*word);
            for (b, other) in words.iter().enumerate().skip(a + 1) {
                self.both[a * n + b] += ones(word & other);
            }
        }
        let different = &words[..family.different];
        let (mut once, mut twice) = (0, 0);
        for word in different {
            twice |= once & word;
            once |= word;
        }
        self.common += ones(different.iter().fold(u64::MAX, |all, word| all & word));
        for (alone, word) in self.alone.iter_mut().zip(different) {
            *alone += ones(word & !twice);
        }
        let reseeded = words[family.different..].iter().zip(&family.reseed_of);
        for (again, (word, of)) in self.alone_again.iter_mut().zip(reseeded) {
            *again += ones(words[*of] & !twice & word);
        }
    }
}

fn ones(word: u64) -> u64 {
    word.count_ones().into()
}

#[cfg(test)]
mod tests {
    use spm::{Encoding, Mask, encode};

    use super::*;

    /// 4 x 32 with these rows, the first column the lowest bit.
    fn matrix(rows: [u32; 4]) -> Matrix {
        let mask = Mask::from_fn(4, 32, |row, col| rows[row] >> col & 1 == 1);
        encode::encode(Encoding::SparseQ8, 4, 32, &[1.0; 128], Some(&mask)).unwrap()
    }

    #[test]
    fn masks_of_four_rows_counted_by_hand() {
        // Columns 0 to 7 of every row; 4 to 11; 0, 1, 2, 3 and 12 to 15 of two rows only.
        let matrices = [matrix([0x00FF; 4]), matrix([0x0FF0; 4]), matrix([0xF00F, 0xF00F, 0, 0])];
        let family = Family { different: 3, reseed_of: vec![] };
        let counts = Counts::of(&matrices, &family);
        assert_eq!((counts.weights, &counts.kept[..]), (128, &[32, 32, 16][..]));
        assert_eq!(counts.shared(0, 1), Shared { first: 32, second: 32, both: 16, chance: 8.0 });
        assert_eq!(counts.shared(2, 0), Shared { first: 32, second: 16, both: 8, chance: 4.0 });
        assert_eq!(counts.shared(1, 2).both, 0);
        // Of the first only columns 0 to 3 of the two rows where the third keeps nothing.
        assert_eq!((&counts.alone[..], counts.common), (&[8, 16, 8][..], 0));
        // 1/4 by 3/4 by 7/8 of 128.
        assert_eq!(counts.alone_by_chance(0), 21.0);
        let families: Vec<_> = family.different_pairs().collect();
        assert_eq!(families, [(0, 1), (0, 2), (1, 2)]);
    }

    #[test]
    fn other_seeds_are_no_languages() {
        let matrices = [matrix([0x00FF; 4]), matrix([0x0FF0; 4]), matrix([0x003F; 4]), matrix([0x0FF3; 4])];
        let family = Family { different: 2, reseed_of: vec![0, 0] };
        let counts = Counts::of(&matrices, &family);
        assert_eq!((&counts.alone[..], counts.common), (&[16, 16][..], 16));
        // Columns 0 to 3 are the first one's own: its other seeds keep all of them, and two.
        assert_eq!(counts.alone_again, [16, 8]);
        let pairs: Vec<_> = family.reseeded_pairs().collect();
        assert_eq!(pairs, [(0, 2), (0, 3), (2, 3)]);
        assert_eq!((family.root(1), family.root(3)), (1, 0));
        assert_eq!(counts.shared(0, 2), Shared { first: 32, second: 24, both: 24, chance: 6.0 });
        assert_eq!(counts.shared(1, 1).overlap(), 1.0);
    }

    #[test]
    fn every_sparse_encoding_has_its_columns_in_place() {
        // 300 columns: a whole group in the order of the lanes, the rest in its own.
        let keep = |row: usize, col: usize| (row * 31 + col * 7) % 5 < 2;
        let mask = Mask::from_fn(3, 300, keep);
        let family = Family { different: 2, reseed_of: vec![] };
        for encoding in [Encoding::SparseQ8, Encoding::SparseQ4] {
            let of = |encoding| encode::encode(encoding, 3, 300, &[0.5; 900], Some(&mask)).unwrap();
            let counts = Counts::of(&[of(Encoding::SparseF16), of(encoding)], &family);
            let kept = (0..900).filter(|i| keep(i / 300, i % 300)).count() as u64;
            assert_eq!((counts.shared(0, 1).both, &counts.kept[..]), (kept, &[kept, kept][..]), "{}", encoding.name());
        }
    }
}
