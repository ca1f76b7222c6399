//! Every encoding against plain arithmetic in f64: what is kept, and how far a code may be from its weight.

mod common;

use half::f16;
use proptest::prelude::*;
use spm::encode::{RowEncoder, encode};
use spm::levels::SPARSE_Q4_LEVELS;
use spm::synthetic::SplitMix;
use spm::{BLOCK, Bytes, CHUNK, DensePlanes, Encoding, Mask, Matrix, RowGrid, ScaleKind, ShapeError, row_bytes};

/// Weights and what is kept of them, enough for rows of whole chunks.
#[derive(Clone, Debug)]
struct Case {
    rows: usize,
    cols: usize,
    weights: Vec<f32>,
    keep: Vec<bool>,
}

fn case() -> impl Strategy<Value = Case> {
    (1..5usize, 1..300usize).prop_flat_map(|(rows, cols)| {
        let n = rows * cols.next_multiple_of(CHUNK);
        (prop::collection::vec(-2.0f32..2.0, n), prop::collection::vec(any::<bool>(), n))
            .prop_map(move |(weights, keep)| Case { rows, cols, weights, keep })
    })
}

/// A case cut to what an encoding takes.
struct Part {
    rows: usize,
    cols: usize,
    weights: Vec<f32>,
    mask: Mask,
}

impl Case {
    fn for_encoding(&self, encoding: Encoding) -> Part {
        let (rows, given) = (self.rows, self.cols);
        let cols = if encoding.fixed_pattern().is_some() { given.next_multiple_of(CHUNK) } else { given };
        let mask = common::fitting(encoding, Mask::from_fn(rows, cols, |r, c| self.keep[r * cols + c]));
        Part { rows, cols, weights: self.weights[..rows * cols].to_vec(), mask }
    }
}

impl Part {
    fn encode(&self, encoding: Encoding) -> Matrix {
        encode(encoding, self.rows, self.cols, &self.weights, Some(&self.mask)).unwrap()
    }

    fn kept(&self) -> impl Iterator<Item = (usize, f32)> {
        (0..self.weights.len())
            .map(|i| (i, if self.mask.is_kept(i / self.cols, i % self.cols) { self.weights[i] } else { 0.0 }))
    }

    /// The largest kept weight of the row and of the block that weight `i` is in.
    fn largest(&self, i: usize) -> (f64, f64) {
        let row = i / self.cols * self.cols;
        let block = i % self.cols / BLOCK * BLOCK;
        let largest_of = |from: usize, to: usize| {
            let kept = (from..to.min(self.cols)).filter(|&c| self.mask.is_kept(i / self.cols, c));
            kept.map(|c| f64::from(self.weights[row + c].abs())).fold(0.0, f64::max)
        };
        (largest_of(0, self.cols), largest_of(block, block + BLOCK))
    }
}

fn read(matrix: &Matrix) -> Vec<f32> {
    let mut all = vec![f32::NAN; matrix.rows() * matrix.cols()];
    matrix.read_rows(0, &mut all).unwrap();
    all
}

proptest! {
    /// Codes that a caller chooses are read back as what the grid says they are, in every encoding, and choosing the
    /// nearest loses no more than the encoder itself, which searches the same scales.
    #[test]
    fn chosen_codes_are_stored(case in case()) {
        for encoding in Encoding::ALL.into_iter().filter(|e| e.is_integer()) {
            let part = case.for_encoding(encoding);
            let mut encoder = RowEncoder::new(encoding, part.rows, part.cols).unwrap();
            let mut expected = Vec::new();
            let kept: Vec<f32> = part.kept().map(|(_, w)| w).collect();
            for (r, row) in kept.chunks_exact(part.cols).enumerate() {
                let grid = RowGrid::fit(encoding, row, &vec![1.0; part.cols]);
                let nearest: Vec<(u8, f32)> = row.iter().enumerate().map(|(c, w)| grid.nearest(c, *w)).collect();
                for (c, (code, value)) in nearest.iter().enumerate() {
                    prop_assert_eq!(grid.level(*code) * grid.scale(c / BLOCK), *value);
                }
                expected.extend(nearest.iter().enumerate().map(|(c, n)| if part.mask.is_kept(r, c) { n.1 } else { 0.0 }));
                let codes: Vec<u8> = nearest.iter().map(|n| n.0).collect();
                encoder.push_codes(&grid, &codes, part.mask.row(r)).unwrap();
            }
            let (stored, other) = (encoder.finish().unwrap(), part.encode(encoding));
            let read = |m: &Matrix| {
                let mut all = vec![0.0; part.weights.len()];
                m.read_rows(0, &mut all).unwrap();
                all
            };
            prop_assert_eq!(&read(&stored), &expected, "{}", encoding.name());
            let loss = |found: &[f32]| -> f64 { found.iter().zip(&kept).map(|(a, b)| f64::from(a - b).powi(2)).sum() };
            let (ours, theirs) = (loss(&expected), loss(&read(&other)));
            prop_assert!(ours <= theirs * 1.001 + 1e-9, "{}: {} and {}", encoding.name(), ours, theirs);
            let bits = |m: &Matrix| (m.kept(), m.byte_len());
            prop_assert_eq!(bits(&stored), bits(&other), "{}", encoding.name());
        }
    }

    #[test]
    fn kept_weights_come_back_and_others_are_zero(case in case()) {
        for encoding in Encoding::ALL {
            let part = case.for_encoding(encoding);
            let found = read(&part.encode(encoding));
            for ((i, w), got) in part.kept().zip(found) {
                if !part.mask.is_kept(i / part.cols, i % part.cols) {
                    prop_assert_eq!(got, 0.0, "{} weight {}", encoding.name(), i);
                    continue;
                }
                let tolerance = largest_error(encoding, part.largest(i));
                let error = (f64::from(w) - f64::from(got)).abs();
                prop_assert!(error <= tolerance, "{}: {w} became {got}, tolerance {tolerance}", encoding.name());
            }
        }
    }

    #[test]
    fn masks_are_read_back(case in case()) {
        for encoding in Encoding::ALL.into_iter().filter(|e| e.is_sparse()) {
            let part = case.for_encoding(encoding);
            let matrix = part.encode(encoding);
            let found = matrix.mask();
            prop_assert_eq!(matrix.kept(), found.kept());
            let Some((n, m)) = encoding.fixed_pattern() else {
                prop_assert_eq!(found, part.mask, "{}", encoding.name());
                continue;
            };
            // What is kept, and zeros to make it N of every M.
            prop_assert!(part.mask.as_bytes().iter().zip(found.as_bytes()).all(|(given, f)| given & !f == 0));
            for (row, first) in (0..part.rows).flat_map(|r| (0..part.cols).step_by(m).map(move |c| (r, c))) {
                let kept = (first..first + m).filter(|&c| found.is_kept(row, c)).count();
                prop_assert_eq!(kept, n, "{} row {} from column {}", encoding.name(), row, first);
            }
        }
    }

    /// But for scales of rows, which are rounded to the twin's halves.
    #[test]
    fn the_dense_matrix_has_the_same_values(case in case()) {
        for encoding in Encoding::ALL {
            let matrix = case.for_encoding(encoding).encode(encoding);
            let dense = matrix.to_dense().unwrap();
            prop_assert!(!dense.encoding().is_sparse());
            for (found, expected) in read(&dense).into_iter().zip(read(&matrix)) {
                // Half of the last of 11 bits; below the normal halves, half of their step times the code.
                let tolerance = match encoding.scale_kind() {
                    ScaleKind::Row => expected.abs() / 2048.0 + 127.0 / 2f32.powi(25),
                    _ => 0.0,
                };
                let error = (found - expected).abs();
                prop_assert!(error <= tolerance, "{}: {found} for {expected}", encoding.name());
            }
        }
    }

    #[test]
    fn parts_make_the_same_matrix(case in case(), cut in 0..5usize, plain in any::<bool>()) {
        for encoding in Encoding::ALL {
            let Part { rows, cols, weights, mask } = case.for_encoding(encoding);
            let encoder = |range: std::ops::Range<usize>| {
                let encoder = RowEncoder::new(encoding, rows, cols).unwrap();
                let mut encoder = if plain { encoder.with_plain_scales() } else { encoder };
                range.for_each(|r| encoder.push(&weights[r * cols..][..cols], mask.row(r)).unwrap());
                encoder
            };
            let mut parts = encoder(0..cut.min(rows));
            parts.append(encoder(cut.min(rows)..rows)).unwrap();
            let (found, expected) = (parts.finish().unwrap(), encoder(0..rows).finish().unwrap());
            prop_assert_eq!(found.stored_bytes(), expected.stored_bytes());
            prop_assert_eq!(found.row_starts(), expected.row_starts());
        }
    }

    #[test]
    fn plain_scales_are_near_enough(case in case()) {
        for encoding in Encoding::ALL {
            let part = case.for_encoding(encoding);
            let mut encoder = RowEncoder::new(encoding, part.rows, part.cols).unwrap().with_plain_scales();
            (0..part.rows).for_each(|r| {
                encoder.push(&part.weights[r * part.cols..][..part.cols], part.mask.row(r)).unwrap();
            });
            // Of weights up to 2: the level missing at the far end (q4 2 / 8, q5 2 / 16; sparse q4 2 * 14 / 120 and what
            // a scale rounded down to 1 of 127 cuts off, 2 / 254), or half a step of 2 / 127.
            let tolerance = match encoding.name() {
                name if name.ends_with("q4") => 0.26,
                "q5" => 0.13,
                _ => 0.01,
            };
            for ((_, w), got) in part.kept().zip(read(&encoder.finish().unwrap())) {
                prop_assert!((got - w).abs() <= tolerance, "{}: {w} became {got}", encoding.name());
            }
        }
    }

    /// A row may be asked for alone and in any run, with the same result.
    #[test]
    fn rows_are_read_alike_alone_and_together(case in case()) {
        for encoding in Encoding::ALL {
            let matrix = case.for_encoding(encoding).encode(encoding);
            let (mut all, cols) = (read(&matrix), matrix.cols());
            let mut one = vec![0.0; cols];
            for row in 0..matrix.rows() {
                matrix.read_row(row, &mut one);
                prop_assert_eq!(&one[..], &all[row * cols..(row + 1) * cols]);
            }
            prop_assert!(matrix.read_rows(1, &mut all).is_none());
        }
    }

    /// What ggml's Q4_0 and Q5_0 hold: the largest weight of a block has the lowest code.
    #[test]
    fn halves_times_codes_come_back_exactly(
        scales in prop::collection::vec(0x0C00..0x5C00u16, 7),
        codes in prop::collection::vec(-16..16i8, 7 * BLOCK),
        negative in any::<bool>(),
    ) {
        let (cols, sign) = (7 * BLOCK - 7, u16::from(negative) << 15);
        let scale_of = |block: usize| f16::from_bits(scales[block] | sign);
        for (encoding, lowest) in [(Encoding::Q5, -16), (Encoding::Q4, -8)] {
            let code = |(i, code): (usize, &i8)| match i {
                _ if i >= cols => 0,
                _ if i % BLOCK == 5 => lowest,
                _ => (*code).clamp(lowest, -lowest - 1),
            };
            let codes: Vec<i8> = codes.iter().enumerate().map(code).collect();
            let weight = |(i, code): (usize, &i8)| scale_of(i / BLOCK).to_f32() * f32::from(*code);
            let weights: Vec<f32> = codes.iter().enumerate().map(weight).collect();
            let weights = [&weights[..cols], &weights[..cols]].concat();
            let searched = encode(encoding, 2, cols, &weights, None).unwrap();
            prop_assert_eq!(read(&searched), weights);

            let mut planes = DensePlanes::new(encoding, 2, cols).unwrap();
            for (block, codes) in codes.as_chunks().0.iter().enumerate() {
                (0..2).for_each(|row| planes.set(row, block, scale_of(block), codes));
            }
            let set = planes.finish().unwrap();
            prop_assert_eq!(set.stored_bytes(), searched.stored_bytes());
        }
    }
}

/// How far a weight may be from its code, for the largest weights of its row and block.
fn largest_error(encoding: Encoding, (row, block): (f64, f64)) -> f64 {
    match encoding {
        Encoding::F32 => 0.0,
        Encoding::F16 | Encoding::SparseF16 => block / 2048.0 + 1e-6,
        // Half a step; the largest weight has a code of 64 or more.
        Encoding::Q8 => block * (0.5 / 64.0 + 1e-3),
        // One of the scales tried leaves half a step in each of 32 weights, and is the block's own and at most a step of
        // the row's scales; a better one leaves no more in all of them together.
        Encoding::SparseQ8 | Encoding::Q8Keep2Of4 => {
            32f64.sqrt() * 0.5 * (block / 127.0 + row / (127.0 * 127.0)) * 1.001
        }
        // The search may clip the extreme to make the others better: never by more than its narrowest scale does.
        Encoding::Q4 | Encoding::Q5 => block * (0.3 + 1e-3),
        // And a step and a half of the row's scales, of which there are 127, times the largest level.
        Encoding::SparseQ4 | Encoding::Q4Keep2Of4 => block * (0.3 + 1e-3) + row * 0.02,
    }
}

#[test]
fn searched_scales_are_better_than_the_plain_ones() {
    let weights: Vec<f32> =
        (0..32 * 64).map(|i| ((i * 2_654_435_761u64 % 1000) as f32 / 500.0 - 1.0).powi(3)).collect();
    for (encoding, half) in [(Encoding::Q4, 8.0), (Encoding::Q5, 16.0)] {
        let found = read(&encode(encoding, 64, 32, &weights, None).unwrap());
        let searched: f64 = weights.iter().zip(&found).map(|(w, r)| f64::from(w - r).powi(2)).sum();
        let plain: f64 = weights.chunks_exact(32).map(|block| plain_error(block, half)).sum();
        assert!(searched < plain, "{}: {searched} is not below {plain}", encoding.name());
    }
}

/// Q4_0 and Q5_0 of ggml: the scale is the extreme weight over -8 or -16.
fn plain_error(block: &[f32], half: f64) -> f64 {
    let extreme = block.iter().fold(0.0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
    let scale = f64::from(extreme) / -half;
    let error = |v: &f32| f64::from(*v) - scale * (f64::from(*v) / scale).round().clamp(-half, half - 1.0);
    block.iter().map(|v| error(v).powi(2)).sum()
}

/// Scales of a byte, and the few that are tried, lose little against the best real scale of every block.
#[test]
fn scales_of_rows_are_near_the_best() {
    let (rows, cols) = (16, 512);
    let weights = normal_weights(rows * cols);
    let mask = Mask::from_fn(rows, cols, |r, c| (r * 31 + c * 7) % 5 < 3 && (r + c) % 7 != 0);
    let found = read(&encode(Encoding::SparseQ4, rows, cols, &weights, Some(&mask)).unwrap());
    let (mut ours, mut best) = (0.0, 0.0);
    for first in (0..weights.len()).step_by(BLOCK) {
        let kept = (first..first + BLOCK).filter(|i| mask.is_kept(i / cols, i % cols));
        ours += kept.clone().map(|i| f64::from(weights[i] - found[i]).powi(2)).sum::<f64>();
        best += best_error(&kept.map(|i| f64::from(weights[i])).collect::<Vec<_>>());
    }
    assert!(ours <= best * 1.04, "squared error {ours}, at best {best}");
}

/// Least squared error of a block over 2000 scales of either sign.
fn best_error(block: &[f64]) -> f64 {
    let levels = SPARSE_Q4_LEVELS.map(f64::from);
    let nearest = |v: f64, scale: f64| levels.iter().map(|l| (v - l * scale).powi(2)).fold(f64::INFINITY, f64::min);
    let error = |scale: f64| block.iter().map(|&v| nearest(v, scale)).sum::<f64>();
    let largest = block.iter().fold(0.0f64, |m, v| m.max(v.abs())) / 120.0;
    let scales = (1..=1000).map(|i| largest * f64::from(i) / 700.0);
    scales.flat_map(|s| [error(s), error(-s)]).fold(f64::INFINITY, f64::min)
}

fn normal_weights(n: usize) -> Vec<f32> {
    let mut random = SplitMix::new(1);
    let mut uniform = || (random.bits() >> 40) as f32 / (1u64 << 24) as f32;
    (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

#[test]
fn impossible_shapes_are_refused() {
    for encoding in Encoding::ALL {
        assert!(encode(encoding, 0, 64, &[], None).is_err());
        assert!(encode(encoding, 1, 0, &[], None).is_err());
        assert_eq!(Encoding::from_number(encoding as u16), Some(encoding));
    }
    assert_eq!(Encoding::from_number(5), None);
}

#[test]
fn patterns_need_whole_chunks_and_masks_that_fit() {
    for encoding in Encoding::ALL {
        let Some((n, m)) = encoding.fixed_pattern() else { continue };
        let name = encoding.name();
        for cols in [32, 96, 65] {
            let refused = encode(encoding, 1, cols, &vec![1.0; cols], Some(&Mask::none(1, cols)));
            assert_eq!(refused.unwrap_err(), ShapeError::Columns { cols, encoding: name });
        }
        // One too many in the last group of the second row.
        let last = 128 - m;
        let mask = Mask::from_fn(2, 128, |r, c| (r, c) >= (1, last) && c <= last + n);
        let refused = encode(encoding, 2, 128, &[1.0; 256], Some(&mask)).unwrap_err();
        assert_eq!(refused, ShapeError::Pattern { encoding: name, n, m, row: 1, col: last, kept: n + 1 });
        assert!(encode(encoding, 2, 128, &[1.0; 256], None).is_err(), "{name} keeps everything");
    }
}

/// A file may say that columns are kept which are not there.
#[test]
fn masks_end_with_their_columns() {
    for encoding in [Encoding::SparseF16, Encoding::SparseQ8, Encoding::SparseQ4] {
        for cols in [3, 40, 64, 260, 300] {
            let matrix = encode(encoding, 2, cols, &vec![1.0; 2 * cols], Some(&Mask::none(2, cols))).unwrap();
            let mut bytes = vec![0; matrix.byte_len() + 2 * 4096];
            bytes[..2 * row_bytes(cols)].fill(0xFF);
            let starts = matrix.row_starts().map(|starts| starts.into());
            let corrupt = Matrix::new(encoding, 2, cols, Bytes::from(bytes), starts).unwrap();
            assert_eq!(corrupt.mask(), Mask::all(2, cols), "{} of {cols} columns", encoding.name());
        }
    }
}
