//! Which weights may go together, and from scores to a mask.

use std::fmt;

use rayon::prelude::*;
use spm::Mask;

use crate::error::Error;

/// The shape of the sparsity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pattern {
    /// Any weight may go.
    Unstructured {
        /// Fraction of the weights to prune, `0..1` without 1.
        sparsity: f64,
    },
    /// Of every `m` consecutive inputs `n` are kept.
    KeepNofM {
        /// Kept.
        n: usize,
        /// Of.
        m: usize,
    },
}

/// Among which weights scores are compared in an unstructured pattern.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Group {
    /// Each output row loses the same number (Wanda's choice).
    #[default]
    Row,
    /// Rows may lose different numbers.
    Matrix,
}

/// Scores that a thread takes at a time; fewer are sorted out on one.
const SHARE: usize = 1 << 18;

/// Widest group of an N:M pattern.
const MAX_M: usize = 32;

impl Pattern {
    /// Reads `unstructured` or `N:M` (N kept of every M), such as `2:4`. `sparsity` belongs to the first
    /// (0.5 unless given); an N:M pattern has its own and refuses another.
    pub fn parse(text: &str, sparsity: Option<f64>) -> Result<Self, Error> {
        let expected = || Error::option("pattern", text, format!("`unstructured` or N:M with 1 <= N <= M <= {MAX_M}"));
        if text == "unstructured" {
            return Pattern::Unstructured { sparsity: sparsity.unwrap_or(0.5) }.checked();
        }
        let (n, m) = text.split_once(':').ok_or_else(expected)?;
        let number = |s: &str| s.parse::<usize>().map_err(|_| expected());
        let pattern = Pattern::KeepNofM { n: number(n)?, m: number(m)? }.checked()?;
        match sparsity {
            Some(s) if (s - pattern.sparsity()).abs() > 1e-9 => {
                let fixed = format!("{}, which is what pattern {text} prunes; leave it out", pattern.sparsity());
                Err(Error::option("sparsity", &s.to_string(), fixed))
            }
            _ => Ok(pattern),
        }
    }

    /// The same, if its numbers make sense.
    pub fn checked(self) -> Result<Self, Error> {
        match self {
            Pattern::Unstructured { sparsity } if !(0.0..1.0).contains(&sparsity) => {
                Err(Error::option("sparsity", &sparsity.to_string(), "a number from 0 up to, not including, 1"))
            }
            Pattern::KeepNofM { n, m } if n == 0 || n > m || m > MAX_M => {
                Err(Error::option("pattern", &self.to_string(), format!("N:M with 1 <= N <= M <= {MAX_M}")))
            }
            _ => Ok(self),
        }
    }

    /// Fraction that is pruned.
    pub fn sparsity(self) -> f64 {
        match self {
            Pattern::Unstructured { sparsity } => sparsity,
            Pattern::KeepNofM { n, m } => 1.0 - n as f64 / m as f64,
        }
    }

    /// Whether it prunes anything at all.
    pub fn is_dense(self) -> bool {
        self.sparsity() <= 0.0
    }

    /// Weights pruned of a row of `cols` when rows are compared by themselves.
    ///
    /// Unstructured it is `int(cols * sparsity)`, as in Wanda's published code. A last group of fewer than
    /// `m` inputs loses its share rounded down.
    pub fn pruned_of_row(self, cols: usize) -> usize {
        match self {
            Pattern::Unstructured { sparsity } => (cols as f64 * sparsity) as usize,
            Pattern::KeepNofM { n, m } => cols / m * (m - n) + pruned_of_group(n, m, cols % m),
        }
    }

    /// Keeps the weights with the highest of `scores` (`rows x cols`). Of equal scores the one further left
    /// (in a whole matrix: in an earlier row) is pruned first, as a stable ascending sort would.
    ///
    /// Scores must not be NaN; `tensor` is for the error.
    pub fn select(
        self,
        group: Group,
        tensor: &str,
        scores: &[f32],
        (rows, cols): (usize, usize),
    ) -> Result<Mask, Error> {
        assert_eq!(scores.len(), rows * cols, "{rows}x{cols} scores");
        let kept = self.choose(group, tensor, scores, cols)?;
        Ok(Mask::from_fn(rows, cols, |row, col| kept[row * cols + col]))
    }

    /// The same as a list.
    pub(crate) fn choose(self, group: Group, tensor: &str, scores: &[f32], cols: usize) -> Result<Vec<bool>, Error> {
        refuse_nan(tensor, scores, cols)?;
        Ok(self.keep(group, scores, cols))
    }

    /// The same of scores without NaN.
    pub(crate) fn keep(self, group: Group, scores: &[f32], cols: usize) -> Vec<bool> {
        self.keep_of_block(group, scores, 0, cols)
    }

    /// The same of some columns of each row, those from `first` on: over all blocks of columns as many go as of whole rows.
    pub(crate) fn keep_of_block(self, group: Group, scores: &[f32], first: usize, cols: usize) -> Vec<bool> {
        let mut kept = vec![true; scores.len()];
        match (self, group) {
            (Pattern::Unstructured { sparsity }, Group::Matrix) => {
                prune_lowest(scores, &mut kept, (scores.len() as f64 * sparsity) as usize);
            }
            (Pattern::Unstructured { .. }, Group::Row) => {
                let k = self.pruned_of_row(first + cols) - self.pruned_of_row(first);
                let rows = scores.par_chunks_exact(cols).zip(kept.par_chunks_exact_mut(cols));
                rows.for_each(|(scores, kept)| prune_lowest(scores, kept, k));
            }
            (Pattern::KeepNofM { n, m }, _) => {
                let rows = scores.par_chunks_exact(cols).zip(kept.par_chunks_exact_mut(cols));
                rows.for_each(|(scores, kept)| {
                    for (scores, kept) in scores.chunks(m).zip(kept.chunks_mut(m)) {
                        prune_lowest(scores, kept, pruned_of_group(n, m, scores.len()));
                    }
                });
            }
        }
        kept
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Unstructured { .. } => f.write_str("unstructured"),
            Pattern::KeepNofM { n, m } => write!(f, "{n}:{m}"),
        }
    }
}

impl std::str::FromStr for Group {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "row" => Ok(Group::Row),
            "matrix" => Ok(Group::Matrix),
            _ => Err(Error::option("group", text, "`row` or `matrix`")),
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Group::Row => "row",
            Group::Matrix => "matrix",
        })
    }
}

fn pruned_of_group(n: usize, m: usize, len: usize) -> usize {
    (m - n) * len / m
}

fn refuse_nan(tensor: &str, scores: &[f32], cols: usize) -> Result<(), Error> {
    // Whether there is one at all is found without a way out, so that it is done for many at a time.
    let has_nan = |scores: &[f32]| scores.iter().fold(false, |found, s| found | s.is_nan());
    if !scores.par_chunks(SHARE).any(has_nan) {
        return Ok(());
    }
    match scores.iter().position(|s| s.is_nan()) {
        None => Ok(()),
        Some(i) => Err(Error::NotFinite {
            tensor: tensor.to_owned(),
            what: "the score",
            row: i / cols,
            col: i % cols,
            value: scores[i],
        }),
    }
}

/// Clears `kept` at the `count` lowest scores.
fn prune_lowest(scores: &[f32], kept: &mut [bool], count: usize) {
    if count == 0 {
        return;
    }
    let last = nth_lowest(scores, count - 1);
    // All below the last that goes, and as many of its equals as are wanted, from the left.
    let shares = scores.par_chunks(SHARE).zip(kept.par_chunks_mut(SHARE));
    let prune = |(&score, kept): (&f32, &mut bool)| *kept &= ordered(score) >= last;
    let below = |scores: &[f32]| scores.iter().filter(|&&s| ordered(s) < last).count();
    let below: usize = shares
        .map(|(scores, kept)| {
            scores.iter().zip(kept).for_each(prune);
            below(scores)
        })
        .sum();
    let equals = scores.iter().zip(kept).filter(|(score, _)| ordered(**score) == last);
    equals.take(count - below).for_each(|(_, kept)| *kept = false);
}

/// The key that `n` others come before.
fn nth_lowest(scores: &[f32], n: usize) -> u32 {
    if scores.len() <= SHARE {
        let mut keys: Vec<u32> = scores.iter().map(|&s| ordered(s)).collect();
        return *keys.select_nth_unstable(n).1;
    }
    // Its higher half by counting those of all scores, then its lower half among those that share it.
    let (high, before) = bin_of(n, &histogram(scores, |key| Some(key >> 16)));
    let (low, _) = bin_of(n - before, &histogram(scores, |key| (key >> 16 == high).then_some(key & 0xFFFF)));
    high << 16 | low
}

/// How often each half key comes.
fn histogram(scores: &[f32], half: impl Fn(u32) -> Option<u32> + Sync) -> Vec<u32> {
    let of_share = |scores: &[f32]| {
        let mut counts = vec![0u32; 1 << 16];
        scores.iter().filter_map(|&s| half(ordered(s))).for_each(|half| counts[half as usize] += 1);
        counts
    };
    let add = |mut a: Vec<u32>, b: Vec<u32>| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        a
    };
    scores.par_chunks(SHARE).map(of_share).reduce(|| vec![0; 1 << 16], add)
}

/// The bin of the `n`-th, and how many are in those before it.
fn bin_of(n: usize, counts: &[u32]) -> (u32, usize) {
    let mut before = 0;
    for (bin, &count) in counts.iter().enumerate() {
        if n < before + count as usize {
            return (bin as u32, before);
        }
        before += count as usize;
    }
    unreachable!("{n} of {before} scores")
}

/// Unsigned numbers in the order of the floats; both zeros are one.
fn ordered(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A literal transcription of the selection in Wanda's code: sort each row (or group), stable and
    /// ascending, and prune the first of them.
    fn published(scores: &[f32], cols: usize, pattern: Pattern) -> Vec<bool> {
        let mut kept = vec![true; scores.len()];
        for row in 0..scores.len() / cols {
            let s = &scores[row * cols..(row + 1) * cols];
            let k = &mut kept[row * cols..(row + 1) * cols];
            match pattern {
                Pattern::Unstructured { sparsity } => {
                    let mut order: Vec<usize> = (0..cols).collect();
                    order.sort_by(|&a, &b| s[a].partial_cmp(&s[b]).unwrap());
                    let count = (cols as f64 * sparsity).trunc() as usize;
                    order[..count].iter().for_each(|&i| k[i] = false);
                }
                Pattern::KeepNofM { n, m } => {
                    for ii in (0..cols).step_by(m) {
                        let end = (ii + m).min(cols);
                        let mut order: Vec<usize> = (ii..end).collect();
                        order.sort_by(|&a, &b| s[a].partial_cmp(&s[b]).unwrap());
                        order[..(end - ii) * (m - n) / m].iter().for_each(|&i| k[i] = false);
                    }
                }
            }
        }
        kept
    }

    fn patterns() -> impl Strategy<Value = Pattern> {
        prop_oneof![
            (0.0..0.99f64).prop_map(|sparsity| Pattern::Unstructured { sparsity }),
            Just(Pattern::Unstructured { sparsity: 0.5 }),
            prop::sample::select(vec![(2, 4), (4, 8), (16, 32), (1, 4), (3, 5), (4, 4)])
                .prop_map(|(n, m)| Pattern::KeepNofM { n, m }),
        ]
    }

    proptest! {
        #[test]
        fn rows_are_as_published(
            pattern in patterns(),
            (cols, scores) in (1usize..90, 1usize..6)
                // Few distinct values, so that ties are common.
                .prop_flat_map(|(cols, rows)| (Just(cols), prop::collection::vec(0u8..40, rows * cols))),
        ) {
            let scores: Vec<f32> = scores.into_iter().map(|s| f32::from(s) * 0.25).collect();
            let rows = scores.len() / cols;
            let mask = pattern.select(Group::Row, "t", &scores, (rows, cols)).unwrap();
            let expected = published(&scores, cols, pattern);
            for (i, kept) in expected.iter().enumerate() {
                prop_assert_eq!(mask.is_kept(i / cols, i % cols), *kept, "row {} column {}", i / cols, i % cols);
            }
            prop_assert_eq!(mask.kept(), (rows * (cols - pattern.pruned_of_row(cols))) as u64);
        }

        #[test]
        fn a_whole_matrix_is_one_row(
            sparsity in 0.0..0.99f64,
            (cols, scores) in (1usize..20, 1usize..9)
                .prop_flat_map(|(cols, rows)| (Just(cols), prop::collection::vec(0u8..40, rows * cols))),
        ) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let pattern = Pattern::Unstructured { sparsity };
            let mask = pattern.select(Group::Matrix, "t", &scores, (scores.len() / cols, cols)).unwrap();
            let expected = published(&scores, scores.len(), pattern);
            let found: Vec<bool> = (0..scores.len()).map(|i| mask.is_kept(i / cols, i % cols)).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn many_scores_are_as_few() {
        let value = |i: usize| ((i * 2_654_435_761) % 100_003) as f32 / 7.0 - 5000.0;
        let scores: Vec<f32> = (0..3 * SHARE + 5).map(value).collect();
        let pattern = Pattern::Unstructured { sparsity: 0.37 };
        assert_eq!(pattern.keep(Group::Matrix, &scores, scores.len()), published(&scores, scores.len(), pattern));
    }

    #[test]
    fn orders_negative_scores_and_zeros() {
        let scores = [0.0, -1.0, -0.0, 2.0, -3.0, f32::INFINITY];
        let mask = Pattern::Unstructured { sparsity: 0.5 }.select(Group::Row, "t", &scores, (1, 6)).unwrap();
        assert_eq!(mask.row(0)[0], 0b10_1100, "-3, -1 and the left one of two zeros go");
    }

    #[test]
    fn nan_is_refused_by_place() {
        let error =
            Pattern::Unstructured { sparsity: 0.5 }.select(Group::Row, "blk.0.x", &[0., 1., f32::NAN, 2.], (2, 2));
        assert!(error.unwrap_err().to_string().contains("tensor `blk.0.x`: the score at row 1, column 0 is NaN"));
    }

    #[test]
    fn parses_and_refuses() {
        let parse = Pattern::parse;
        assert_eq!(parse("unstructured", None).unwrap(), Pattern::Unstructured { sparsity: 0.5 });
        assert_eq!(parse("unstructured", Some(0.0)).unwrap(), Pattern::Unstructured { sparsity: 0.0 });
        for (text, n, m) in [("2:4", 2, 4), ("4:8", 4, 8), ("16:32", 16, 32)] {
            assert_eq!(parse(text, None).unwrap(), Pattern::KeepNofM { n, m });
            assert_eq!(parse(text, Some(0.5)).unwrap().to_string(), text);
        }
        for (text, sparsity) in [
            ("unstructured", Some(1.0)),
            ("unstructured", Some(-0.1)),
            ("unstructured", Some(f64::NAN)),
            ("2:4", Some(0.6)),
            ("0:4", None),
            ("5:4", None),
            ("2:64", None),
            ("2-4", None),
            ("", None),
        ] {
            assert!(parse(text, sparsity).is_err(), "{text} {sparsity:?}");
        }
    }

    /// Blocks together lose what a row does, though a block of 128 has no 0.3 or 0.6 of its columns.
    #[test]
    fn blocks_of_a_row_lose_what_the_row_does() {
        const COLS: usize = 300;
        for sparsity in [0.3, 0.5, 0.6, 0.7] {
            let pattern = Pattern::Unstructured { sparsity };
            let kept_of = |first: usize| {
                let width = 128.min(COLS - first);
                let kept = pattern.keep_of_block(Group::Row, &crate::linalg::noise(3 * width, 5), first, width);
                kept.chunks(width).map(|row| row.iter().filter(|kept| **kept).count()).collect::<Vec<_>>()
            };
            let blocks: Vec<Vec<usize>> = (0..COLS).step_by(128).map(kept_of).collect();
            for row in 0..3 {
                let kept: usize = blocks.iter().map(|block| block[row]).sum();
                assert_eq!(COLS - kept, pattern.pruned_of_row(COLS), "{sparsity}");
            }
        }
    }
}
