//! Random matrices, row by row on all threads, the same whatever the number of threads.

use std::ops::Range;
use std::thread;

use pruner::Pattern;
use spm::encode::RowEncoder;
use spm::synthetic::SplitMix;
use spm::{Encoding, Matrix, ShapeError, row_bytes};

/// A source of weights.
pub(super) struct Weights {
    pub(super) seed: u64,
    pub(super) threads: usize,
}

impl Weights {
    /// Tensor `name` of `rows x cols`, of which `pattern` keeps a part; everything without one.
    pub(super) fn encode(
        &self,
        name: &str,
        (rows, cols): (usize, usize),
        encoding: Encoding,
        pattern: Option<Pattern>,
    ) -> Result<Matrix, ShapeError> {
        let encoder = || Ok(RowEncoder::new(encoding, rows, cols)?.with_plain_scales());
        let part = |range: Range<usize>| -> Result<RowEncoder, ShapeError> {
            let mut part = encoder()?;
            let (mut row, mut kept) = (vec![0.0; cols], vec![0xFF; row_bytes(cols)]);
            for r in range {
                self.fill(name, r, &mut row);
                if let Some(pattern) = pattern {
                    choose(&mut self.random(name, r, Use::Mask), pattern, cols, &mut kept);
                }
                part.push(&row, &kept)?;
            }
            Ok(part)
        };
        let mut whole: RowEncoder = encoder()?;
        for part in self.in_parts(rows, part) {
            whole.append(part?)?;
        }
        whole.finish()
    }

    /// What `make` gives for runs of rows, one a thread, in order.
    pub(super) fn in_parts<T: Send>(&self, rows: usize, make: impl Fn(Range<usize>) -> T + Sync) -> Vec<T> {
        let share = rows.div_ceil(self.threads).max(1);
        let starts: Vec<usize> = (0..rows).step_by(share).collect();
        let mut parts: Vec<Option<T>> = starts.iter().map(|_| None).collect();
        let make = &make;
        thread::scope(|scope| {
            for (start, part) in starts.iter().zip(&mut parts) {
                scope.spawn(move || *part = Some(make(*start..(start + share).min(rows))));
            }
        });
        parts.into_iter().flatten().collect()
    }

    /// Row `row` of tensor `name`: norms around 1, all else around 0.
    pub(super) fn fill(&self, name: &str, row: usize, out: &mut [f32]) {
        let mut random = self.random(name, row, Use::Values);
        let is_norm = name.ends_with("norm.weight");
        let scale = if is_norm { 0.1 } else { 1.0 / (out.len() as f32).sqrt() };
        let centre = f32::from(is_norm);
        out.iter_mut().for_each(|v| *v = normal(random.bits()) * scale + centre);
    }

    /// A sequence of its own for every row and use: FNV-1a of all that tells them apart.
    fn random(&self, name: &str, row: usize, what: Use) -> SplitMix {
        let numbers = [self.seed, row as u64, what as u64];
        let bytes = name.bytes().chain(numbers.into_iter().flat_map(u64::to_le_bytes));
        let hash = |h: u64, byte| (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        SplitMix::new(bytes.fold(0xCBF2_9CE4_8422_2325, hash))
    }
}

/// What random numbers are for.
#[derive(Clone, Copy)]
enum Use {
    Values,
    Mask,
}

/// About normal with variance 1: four uniform numbers of 16 bits, centred.
fn normal(bits: u64) -> f32 {
    let sum = (bits & 0xFFFF) + (bits >> 16 & 0xFFFF) + (bits >> 32 & 0xFFFF) + (bits >> 48);
    (sum as f32 - 2.0 * 65535.0) * (3f32.sqrt() / 65536.0)
}

/// Keeps as many columns of the row, or of each of its groups, as `pattern` says, every choice equally likely.
fn choose(random: &mut SplitMix, pattern: Pattern, cols: usize, kept: &mut [u8]) {
    kept.fill(0);
    let group = match pattern {
        Pattern::Unstructured { .. } => cols,
        Pattern::KeepNofM { m, .. } => m,
    };
    for first in (0..cols).step_by(group) {
        let len = group.min(cols - first);
        let mut missing = (len - pattern.pruned_of_row(len)) as u64;
        for i in 0..len {
            // Knuth's selection sampling: as many are still missing, of as many that are left.
            let left = (len - i) as u64;
            let is_kept = ((random.bits() >> 32) * left) >> 32 < missing;
            missing -= u64::from(is_kept);
            kept[(first + i) / 8] |= u8::from(is_kept) << ((first + i) % 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(threads: usize, encoding: Encoding, pattern: Option<Pattern>) -> Matrix {
        let cols = if encoding.fixed_pattern().is_some() { 192 } else { 160 };
        Weights { seed: 1, threads }.encode("blk.0.ffn_up.weight", (37, cols), encoding, pattern).unwrap()
    }

    #[test]
    fn weights_do_not_depend_on_threads() {
        let pattern = Some(Pattern::Unstructured { sparsity: 0.7 });
        for (encoding, pattern) in [(Encoding::SparseQ8, pattern), (Encoding::SparseQ4, pattern), (Encoding::F16, None)]
        {
            let (one, many) = (matrix(1, encoding, pattern), matrix(64, encoding, pattern));
            assert_eq!(one.stored_bytes(), many.stored_bytes());
            assert_eq!(one.row_starts(), many.row_starts());
        }
    }

    #[test]
    fn patterns_keep_what_they_say() {
        let all =
            [("unstructured", Some(0.7), 160, 48), ("2:4", None, 4, 2), ("4:8", None, 8, 4), ("16:32", None, 32, 16)];
        for (text, sparsity, group, expected) in all {
            let pattern = Pattern::parse(text, sparsity).unwrap();
            let mask = matrix(2, Encoding::SparseQ8, Some(pattern)).mask();
            for row in 0..37 {
                for first in (0..160).step_by(group) {
                    let kept = (first..first + group).filter(|&col| mask.is_kept(row, col)).count();
                    assert_eq!(kept, expected, "{text}, row {row}, from column {first}");
                }
            }
            assert!((1..37).any(|row| mask.row(row) != mask.row(0)), "{text}: rows are alike");
        }
    }

    /// As kept weights are all stored, masks are those of the pattern to the bit.
    #[test]
    fn patterns_fit_their_encodings() {
        for (text, encoding) in [("2:4", Encoding::Q8Keep2Of4), ("2:4", Encoding::Q4Keep2Of4)] {
            let pattern = Pattern::parse(text, None).unwrap();
            let fixed = matrix(2, encoding, Some(pattern)).mask();
            let weights = Weights { seed: 1, threads: 1 };
            let mask = weights.encode("blk.0.ffn_up.weight", (37, 192), Encoding::SparseQ8, Some(pattern));
            assert_eq!(fixed, mask.unwrap().mask(), "{text} as {}", encoding.name());
        }
    }

    #[test]
    fn weights_are_about_normal() {
        let mut row = vec![0.0; 10_000];
        Weights { seed: 1, threads: 1 }.fill("x.weight", 0, &mut row);
        let mean = row.iter().sum::<f32>() / 1e4;
        let variance = row.iter().map(|v| v * v).sum::<f32>();
        assert!(mean.abs() < 5e-4 && (variance - 1.0).abs() < 0.1, "{mean} {variance}");
    }
}
