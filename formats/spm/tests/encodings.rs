//! Every encoding against plain arithmetic in f64: what is kept, and how far a code may be from its weight.

use proptest::prelude::*;
use spm::encode::{RowEncoder, encode};
use spm::{BLOCK, Encoding, Mask};

fn case() -> impl Strategy<Value = (usize, usize, Vec<f32>, Vec<bool>)> {
    (1..5usize, 1..100usize).prop_flat_map(|(rows, cols)| {
        let n = rows * cols;
        (Just(rows), Just(cols), prop::collection::vec(-2.0f32..2.0, n), prop::collection::vec(any::<bool>(), n))
    })
}

proptest! {
    #[test]
    fn kept_weights_come_back_and_others_are_zero((rows, cols, weights, keep) in case()) {
        let mask = Mask::from_fn(rows, cols, |r, c| keep[r * cols + c]);
        for encoding in Encoding::ALL {
            let matrix = encode(encoding, rows, cols, &weights, Some(&mask)).unwrap();
            let mut read = vec![0.0; rows * cols];
            matrix.read_rows(0, &mut read).unwrap();
            for (i, (&w, &got)) in weights.iter().zip(&read).enumerate() {
                if !keep[i] {
                    prop_assert_eq!(got, 0.0, "{} column {}", encoding.name(), i % cols);
                    continue;
                }
                let first = i / cols * cols + i % cols / BLOCK * BLOCK;
                let last = (first + BLOCK).min((i / cols + 1) * cols);
                let largest = (first..last).filter(|&j| keep[j]).map(|j| f64::from(weights[j].abs())).fold(0.0, f64::max);
                let tolerance = largest * step(encoding);
                let error = (f64::from(w) - f64::from(got)).abs();
                prop_assert!(error <= tolerance, "{}: {w} became {got}, tolerance {tolerance}", encoding.name());
            }
            if encoding.is_sparse() {
                prop_assert_eq!(matrix.mask(), mask.clone());
                prop_assert_eq!(matrix.kept(), keep.iter().filter(|k| **k).count() as u64);
            }
        }
    }

    #[test]
    fn the_dense_matrix_has_the_same_values((rows, cols, weights, keep) in case()) {
        let mask = Mask::from_fn(rows, cols, |r, c| keep[r * cols + c]);
        for encoding in Encoding::ALL {
            let matrix = encode(encoding, rows, cols, &weights, Some(&mask)).unwrap();
            let dense = matrix.to_dense().unwrap();
            let mut expected = vec![0.0; rows * cols];
            let mut found = expected.clone();
            matrix.read_rows(0, &mut expected).unwrap();
            dense.read_rows(0, &mut found).unwrap();
            prop_assert_eq!(found, expected, "{} as {}", encoding.name(), dense.encoding().name());
            prop_assert!(!dense.encoding().is_sparse());
        }
    }

    #[test]
    fn parts_make_the_same_matrix((rows, cols, weights, keep) in case(), cut in 0..5usize, plain in any::<bool>()) {
        let mask = Mask::from_fn(rows, cols, |r, c| keep[r * cols + c]);
        for encoding in Encoding::ALL {
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
    fn plain_scales_are_near_enough((rows, cols, weights, keep) in case()) {
        let mask = Mask::from_fn(rows, cols, |r, c| keep[r * cols + c]);
        for encoding in Encoding::ALL {
            let mut encoder = RowEncoder::new(encoding, rows, cols).unwrap().with_plain_scales();
            (0..rows).for_each(|r| encoder.push(&weights[r * cols..][..cols], mask.row(r)).unwrap());
            let matrix = encoder.finish().unwrap();
            // A step is an eighth of 2 at most, and the largest level of the other sign an eighth short.
            let tolerance = if matches!(encoding, Encoding::Q4 | Encoding::SparseQ4) { 0.27 } else { 0.01 };
            let mut read = vec![0.0; rows * cols];
            matrix.read_rows(0, &mut read).unwrap();
            for (i, (w, got)) in weights.iter().zip(&read).enumerate() {
                let expected = if keep[i] { *w } else { 0.0 };
                prop_assert!((got - expected).abs() <= tolerance, "{}: {w} became {got}", encoding.name());
            }
        }
    }

    /// A row may be asked for alone and in any run, with the same result.
    #[test]
    fn rows_are_read_alike_alone_and_together((rows, cols, weights, keep) in case()) {
        let mask = Mask::from_fn(rows, cols, |r, c| keep[r * cols + c]);
        for encoding in Encoding::ALL {
            let matrix = encode(encoding, rows, cols, &weights, Some(&mask)).unwrap();
            let mut all = vec![0.0; rows * cols];
            matrix.read_rows(0, &mut all).unwrap();
            let mut one = vec![0.0; cols];
            for row in 0..rows {
                matrix.read_row(row, &mut one);
                prop_assert_eq!(&one[..], &all[row * cols..(row + 1) * cols]);
            }
            prop_assert!(matrix.read_rows(1, &mut all).is_none());
        }
    }
}

/// Largest error in units of the block's largest weight: half a step, wider where the scale is searched for.
fn step(encoding: Encoding) -> f64 {
    match encoding {
        Encoding::F32 => 0.0,
        Encoding::F16 | Encoding::SparseF16 => 1.0 / 2048.0 + 1e-6,
        // The largest weight has a code of 64 or more.
        Encoding::Q8 | Encoding::SparseQ8 => 0.5 / 64.0 + 1e-3,
        // The search may clip the extreme to make the others better: never by more than its narrowest scale does.
        Encoding::Q4 | Encoding::SparseQ4 => 0.3 + 1e-3,
    }
}

#[test]
fn four_bit_scales_are_better_than_the_plain_ones() {
    let weights: Vec<f32> =
        (0..32 * 64).map(|i| ((i * 2_654_435_761u64 % 1000) as f32 / 500.0 - 1.0).powi(3)).collect();
    let mut read = vec![0.0; weights.len()];
    encode(Encoding::Q4, 64, 32, &weights, None).unwrap().read_rows(0, &mut read).unwrap();
    let searched: f64 = weights.iter().zip(&read).map(|(w, r)| f64::from(w - r).powi(2)).sum();
    let plain: f64 = weights.chunks_exact(32).map(plain_error).sum();
    assert!(searched < plain, "{searched} is not below {plain}");
}

/// Q4_0 of ggml: the scale is the extreme weight over -8.
fn plain_error(block: &[f32]) -> f64 {
    let extreme = block.iter().fold(0.0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
    let scale = f64::from(extreme) / -8.0;
    let error = |v: &f32| f64::from(*v) - scale * (f64::from(*v) / scale).round().clamp(-8.0, 7.0);
    block.iter().map(|v| error(v).powi(2)).sum()
}

#[test]
fn impossible_shapes_are_refused() {
    for encoding in Encoding::ALL {
        assert!(encode(encoding, 0, 32, &[], None).is_err());
        assert!(encode(encoding, 1, 0, &[], None).is_err());
        assert_eq!(Encoding::from_number(encoding as u16), Some(encoding));
    }
    assert_eq!(Encoding::from_number(4), None);
}
