//! Every kernel against plain f64 loops over the expanded matrix, and, where the arithmetic is integer,
//! against `portable` bit for bit.

use half::f16;
use proptest::prelude::*;
use spm::encode::encode;
use spm::order::stored_column;
use spm::{BLOCK, Bytes, CHUNK, Encoding, Mask, Matrix};

use super::*;

/// Columns around the sizes at which a loop changes its step.
const COLS: [usize; 12] = [1, 7, 31, 32, 33, 63, 64, 172, 255, 256, 576, 1000];

/// `SPM_EXPECTED_KERNELS` are those of the core that an emulator runs as.
#[test]
fn this_machine_has_the_kernels_that_it_should() {
    let names: Vec<&str> = available().iter().map(|kernels| kernels.name()).collect();
    assert_eq!(names.last(), Some(&"portable"), "{names:?}");
    if let Ok(expected) = std::env::var("SPM_EXPECTED_KERNELS") {
        assert_eq!(names.join(", "), expected);
    }
}

fn shapes() -> impl Strategy<Value = (usize, usize)> {
    (1usize..40, prop_oneof![prop::sample::select(&COLS[..]), 1usize..700])
}

fn encodings() -> impl Strategy<Value = Encoding> {
    prop::sample::select(&Encoding::ALL[..])
}

/// Values in -4..4 that look random, the same on every machine.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 * 8.0 - 4.0
    };
    (0..n).map(|_| next()).collect()
}

/// A mask whose rows are empty, full, or of the given density; of a pattern N:M no more than N of every M.
fn mask(encoding: Encoding, rows: usize, cols: usize, density: f32, seed: u64) -> Mask {
    let dice = noise(rows * cols, seed ^ 77);
    let (n, m) = encoding.fixed_pattern().unwrap_or((1, 1));
    // The dice of a group say which of it are first.
    let is_first = |r: usize, c: usize| {
        let (at, group) = (r * cols + c, r * cols + c / m * m);
        (group..group + m).filter(|&i| dice[i] < dice[at] || dice[i] == dice[at] && i < at).count() < n
    };
    Mask::from_fn(rows, cols, |r, c| match (r + seed as usize) % 5 {
        0 => false,
        1 => is_first(r, c),
        _ => dice[r * cols + c] < density * 8.0 - 4.0 && is_first(r, c),
    })
}

/// `cols` in whole chunks where the encoding needs that.
fn fitting(encoding: Encoding, (rows, cols): (usize, usize)) -> (usize, usize) {
    (rows, if encoding.fixed_pattern().is_some() { cols.next_multiple_of(CHUNK) } else { cols })
}

fn matrix(encoding: Encoding, shape: (usize, usize), density: f32, seed: u64) -> Matrix {
    let (rows, cols) = fitting(encoding, shape);
    let mask = mask(encoding, rows, cols, density, seed);
    encode(encoding, rows, cols, &noise(rows * cols, seed), Some(&mask)).unwrap()
}

struct Input {
    codes: Codes,
    values: Vec<f32>,
}

fn input(kernels: &Kernels, n: usize, cols: usize, seed: u64) -> Input {
    let raw = noise(n * cols, seed ^ 5);
    let codes = Codes::from_f32(kernels, &raw, cols);
    let mut values = vec![0.0; n * padded(cols)];
    for (t, x) in raw.chunks_exact(cols).enumerate() {
        values[t * padded(cols)..][..cols].copy_from_slice(x);
    }
    Input { codes, values }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn product_i8(kernels: &Kernels, m: &Matrix, x: &Input) -> Vec<f32> {
    let mut out = vec![0.0; m.rows() * x.codes.n()];
    kernels.rows_i8(m, 0..m.rows(), &x.codes, &mut Scratch::default(), &mut out);
    by_row(&out, x.codes.n())
}

fn product_f32(kernels: &Kernels, m: &Matrix, x: &Input) -> Vec<f32> {
    let mut out = vec![0.0; m.rows() * x.codes.n()];
    kernels.rows_f32(m, 0..m.rows(), &x.values, &mut Scratch::default(), &mut out);
    by_row(&out, x.codes.n())
}

/// From panels to `out[r * n + t]`.
fn by_row(panels: &[f32], n: usize) -> Vec<f32> {
    let rows_of = |panel: &[f32]| {
        let height = panel.len() / n;
        (0..height).flat_map(|r| (0..n).map(move |t| (r, t))).map(|(r, t)| panel[t * height + r]).collect::<Vec<_>>()
    };
    panels.chunks(PANEL * n).flat_map(rows_of).collect()
}

/// Plain f64 loop over the expanded matrix and the given vectors; also the sum of magnitudes, for tolerances.
fn reference(m: &Matrix, n: usize, value: impl Fn(usize, usize) -> f64) -> Vec<(f64, f64)> {
    let mut row = vec![0.0; m.cols()];
    let mut out = Vec::new();
    for r in 0..m.rows() {
        m.read_row(r, &mut row);
        for t in 0..n {
            let products = row.iter().enumerate().map(|(c, w)| f64::from(*w) * value(t, c));
            out.push(products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs())));
        }
    }
    out
}

fn close(got: &[f32], expected: &[(f64, f64)]) -> bool {
    got.iter().zip(expected).all(|(g, (e, size))| (f64::from(*g) - e).abs() <= 1e-5 * size + 1e-30)
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn integer_products_agree_with_f64_and_portable(
        encoding in encodings().prop_filter("integer", |e| e.is_integer()),
        shape in shapes(), n in 1usize..20, density in 0.0f32..1.0, seed in any::<u64>(),
    ) {
        let shape = fitting(encoding, shape);
        let m = matrix(encoding, shape, density, seed);
        let kernels = portable::detect().unwrap();
        let x = input(kernels, n, shape.1, seed);
        let value = |t: usize, c: usize| {
            let x = x.codes.vector(t);
            f64::from(x.codes[stored_column(c, shape.1.div_ceil(BLOCK))]) * f64::from(x.scales[c / BLOCK])
        };
        let expected = reference(&m, n, value);
        let portable = product_i8(kernels, &m, &x);
        prop_assert!(close(&portable, &expected));
        for kernels in available() {
            let x = input(kernels, n, shape.1, seed);
            prop_assert_eq!(bits(&product_i8(kernels, &m, &x)), bits(&portable), "{}", kernels.name());
        }
    }

    #[test]
    fn float_products_agree_with_f64(
        encoding in encodings(), shape in shapes(), n in 1usize..15, density in 0.0f32..1.0, seed in any::<u64>(),
    ) {
        let shape = fitting(encoding, shape);
        let m = matrix(encoding, shape, density, seed);
        let x = input(best(), n, shape.1, seed);
        let expected = reference(&m, n, |t, c| f64::from(x.values[t * padded(shape.1) + c]));
        for kernels in available() {
            prop_assert!(close(&product_f32(kernels, &m, &x), &expected), "{}", kernels.name());
        }
    }

    /// Sparsity 0 is the dense result; the same codes and scales in another encoding give the same bits.
    #[test]
    fn sparse_products_are_the_dense_products_of_the_expansion(
        shape in shapes(), n in 1usize..15, density in 0.0f32..=1.0, seed in any::<u64>(),
    ) {
        let s = matrix(Encoding::SparseF16, shape, density, seed);
        let d = s.to_dense().unwrap();
        let x = input(best(), n, shape.1, seed);
        for kernels in available() {
            prop_assert_eq!(bits(&product_f32(kernels, &s, &x)), bits(&product_f32(kernels, &d, &x)));
        }
    }

    #[test]
    fn patterns_give_what_any_mask_gives(
        (pattern, any_mask) in prop::sample::select(&[
            (Encoding::Q8Keep2Of4, Encoding::SparseQ8),
            (Encoding::Q4Keep2Of4, Encoding::SparseQ4),
        ][..]),
        shape in shapes(), n in 1usize..15, seed in any::<u64>(),
    ) {
        let p = matrix(pattern, shape, 0.5, seed);
        let weights = noise(p.rows() * p.cols(), seed);
        // Where fewer are kept than the pattern wants, it stores zeros.
        let mask = mask(pattern, p.rows(), p.cols(), 0.5, seed);
        let a = encode(any_mask, p.rows(), p.cols(), &weights, Some(&mask)).unwrap();
        for kernels in available() {
            let x = input(kernels, n, p.cols(), seed);
            prop_assert_eq!(bits(&product_f32(kernels, &p, &x)), bits(&product_f32(kernels, &a, &x)));
            prop_assert_eq!(bits(&product_i8(kernels, &p, &x)), bits(&product_i8(kernels, &a, &x)));
        }
    }

    /// Neither the batch nor the split of the rows may change a bit.
    #[test]
    fn batch_and_row_split_do_not_matter(
        encoding in encodings(), shape in shapes(), n in 2usize..15, seed in any::<u64>(),
    ) {
        let shape = fitting(encoding, shape);
        let m = matrix(encoding, shape, 0.5, seed);
        let (raw, stride) = (noise(n * shape.1, seed ^ 5), padded(shape.1));
        for kernels in available() {
            let whole = input(kernels, n, shape.1, seed);
            let all = product_f32(kernels, &m, &whole);
            let all_i8 = encoding.is_integer().then(|| product_i8(kernels, &m, &whole));
            for t in 0..n {
                let x = &whole.values[t * stride..(t + 1) * stride];
                let codes = Codes::from_f32(kernels, &raw[t * shape.1..(t + 1) * shape.1], shape.1);
                for r in 0..m.rows() {
                    let (mut one, scratch) = ([0.0], &mut Scratch::default());
                    kernels.rows_f32(&m, r..r + 1, x, scratch, &mut one);
                    prop_assert_eq!(one[0].to_bits(), all[r * n + t].to_bits(), "{}", kernels.name());
                    if let Some(all) = &all_i8 {
                        kernels.rows_i8(&m, r..r + 1, &codes, scratch, &mut one);
                        prop_assert_eq!(one[0].to_bits(), all[r * n + t].to_bits(), "{}", kernels.name());
                    }
                }
            }
        }
    }

    /// Whatever the mask says, reading stays inside: wrong numbers at worst. (Run under valgrind or ASan to see more.)
    #[test]
    fn a_corrupt_mask_is_harmless(
        encoding in encodings().prop_filter("sparse", |e| e.is_sparse()),
        shape in shapes(), seed in any::<u64>(), noise_bytes in prop::collection::vec(any::<u8>(), 64),
    ) {
        let shape = fitting(encoding, shape);
        let m = matrix(encoding, shape, 0.1, seed);
        let starts = m.row_starts().map(|starts| starts.into());
        let need = spm::matrix::byte_len(encoding, shape.0, shape.1, m.row_range(shape.0 - 1).end).unwrap()
            + spm::matrix::slack(encoding, shape.1).unwrap();
        // Exactly the bytes that are promised, so that a tool that watches memory sees a read past them.
        let bytes: Vec<u8> = noise_bytes.iter().copied().cycle().take(need).collect();
        let corrupt = Matrix::new(encoding, shape.0, shape.1, Bytes::from(bytes), starts).unwrap();
        for n in [1, 2, 9] {
            for kernels in available() {
                let x = input(kernels, n, shape.1, seed);
                if encoding.is_integer() {
                    product_i8(kernels, &corrupt, &x);
                }
                product_f32(kernels, &corrupt, &x);
            }
        }
    }

    #[test]
    fn quantizing_rounds_to_the_nearest_code(blocks in 1usize..5, seed in any::<u64>(), zero in any::<bool>()) {
        let mut x = noise(blocks * BLOCK, seed);
        if zero {
            x[..BLOCK].fill(0.0);
        }
        let mut first: Option<(Vec<i8>, Vec<u32>)> = None;
        for kernels in available() {
            let (mut codes, mut scales, mut lifts) = (vec![0; x.len()], vec![0.0; blocks], vec![0; blocks]);
            kernels.quantize(&x, &mut codes, &mut scales, &mut lifts);
            for (lift, block) in lifts.iter().zip(codes.chunks_exact(BLOCK)) {
                prop_assert_eq!(*lift, -128 * block.iter().map(|&c| i32::from(c)).sum::<i32>());
            }
            for (i, (&v, &code)) in x.iter().zip(&codes).enumerate() {
                let step = scales[i / BLOCK];
                prop_assert!((v - f32::from(code) * step).abs() <= step * 0.501);
            }
            let now = (codes, bits(&scales));
            prop_assert_eq!(first.get_or_insert_with(|| now.clone()), &now, "{}", kernels.name());
        }
    }

    #[test]
    fn attention_agrees_with_f64_and_portable(
        dim in prop_oneof![1usize..40, prop::sample::select(&[64usize, 80, 128, 256][..])],
        lens in prop::collection::vec(1usize..70, 1..9), kind in 0..3, seed in any::<u64>(),
    ) {
        let positions = *lens.iter().max().unwrap();
        let stride = positions.next_multiple_of(KEY_BLOCK);
        let (queries, keys) = (noise(lens.len() * dim, seed), noise(stride * dim, seed ^ 1));
        let (values, weights) = (noise(positions * dim, seed ^ 2), noise(lens.len() * stride, seed ^ 3));
        let q = Queries { dim, queries: &queries, lens: &lens, stride };
        let half = |v: &[f32]| v.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>();
        let (key_halves, value_halves) = (half(&keys), half(&values));
        let code = |v: f32| (v * 60.0) as i8;
        let codes = |v: &[f32]| v.iter().map(|&v| code(v)).collect::<Vec<_>>();
        let (key_codes, value_codes) = (codes(&keys), codes(&values));
        // A scale of its own for every run of dimensions of every position.
        let scale = |p: usize, d: usize| 0.02 + (p * 5 + d / SCALED) as f32 * 1e-4;
        let runs = dim.div_ceil(SCALED);
        let key_scales: Vec<f32> = (0..stride * runs).map(|i| {
            let (block, run, lane) = (i / (runs * KEY_BLOCK), i / KEY_BLOCK % runs, i % KEY_BLOCK);
            scale(block * KEY_BLOCK + lane, run * SCALED)
        }).collect();
        let value_scales: Vec<f32> = (0..positions * runs).map(|i| scale(i / runs, i % runs * SCALED)).collect();
        let stored = |v: f32, p: usize, d: usize| f64::from(match kind {
            0 => f16::from_f32(v).to_f32(),
            1 => v,
            _ => f32::from(code(v)) * scale(p, d),
        });
        let bytes = |codes, scales, lanes| Cached::Q8(ScaledBytes { codes, scales, dim, lanes });
        let (k, v) = match kind {
            0 => (Cached::F16(&key_halves), Cached::F16(&value_halves)),
            1 => (Cached::F32(&keys), Cached::F32(&values)),
            _ => (bytes(&key_codes[..], &key_scales[..], KEY_BLOCK), bytes(&value_codes[..], &value_scales[..], 1)),
        };
        let mut first: Option<Vec<u32>> = None;
        for kernels in available() {
            let (mut scores, mut out) = (vec![0.0; lens.len() * stride], vec![0.0; lens.len() * dim]);
            kernels.scores(&q, k, &mut Aligned::default(), &mut scores);
            kernels.mix(&q, v, &mut Aligned::default(), &weights, &mut out);
            for (i, &len) in lens.iter().enumerate() {
                for p in 0..len {
                    let key = |d: usize| stored(keys[(p / KEY_BLOCK * dim + d) * KEY_BLOCK + p % KEY_BLOCK], p, d);
                    let exact: f64 = (0..dim).map(|d| f64::from(queries[i * dim + d]) * key(d)).sum();
                    prop_assert!((f64::from(scores[i * stride + p]) - exact).abs() < 1e-2, "{}", kernels.name());
                }
                for d in 0..dim {
                    let term = |p: usize| f64::from(weights[i * stride + p]) * stored(values[p * dim + d], p, d);
                    let exact: f64 = (0..len).map(term).sum();
                    prop_assert!((f64::from(out[i * dim + d]) - exact).abs() < 1e-2, "{}", kernels.name());
                }
            }
            let seen = |i: usize| scores[i * stride..i * stride + lens[i]].iter();
            let now: Vec<u32> = (0..lens.len()).flat_map(seen).chain(&out).map(|v| v.to_bits()).collect();
            prop_assert_eq!(first.get_or_insert_with(|| now.clone()), &now, "{}", kernels.name());
        }
    }

    #[test]
    fn small_operations_agree_bit_for_bit(n in 1usize..140, seed in any::<u64>(), scale in 0.01f32..2.0) {
        let (a, b) = (noise(n, seed), noise(n, seed ^ 1));
        let results = |kernels: &Kernels| {
            let (mut halves, mut soft, mut gate, mut normed) = (vec![f16::ZERO; n], a.clone(), a.clone(), vec![0.0; n]);
            kernels.store_f16(&b, &mut halves);
            kernels.softmax(&mut soft, scale);
            kernels.swiglu(&mut gate, &b);
            kernels.rms_norm(&a, &b, 1e-5, &mut normed);
            (halves, bits(&soft), bits(&gate), bits(&normed))
        };
        let reference = results(portable::detect().unwrap());
        for kernels in available() {
            prop_assert_eq!(&results(kernels), &reference, "{}", kernels.name());
        }
    }
}

#[test]
fn the_list_ends_with_portable_and_names_are_unique() {
    let names: Vec<_> = available().iter().map(|k| k.name()).collect();
    assert_eq!(names.last(), Some(&"portable"));
    assert!(names.iter().all(|n| names.iter().filter(|m| *m == n).count() == 1));
}

#[cfg(target_arch = "aarch64")]
#[test]
fn dot_products_are_offered_where_the_cpu_has_them_and_neon_always() {
    let names: Vec<_> = available().iter().map(|k| k.name()).collect();
    match std::arch::is_aarch64_feature_detected!("dotprod") {
        true => assert_eq!(names, ["neon-dotprod", "neon", "portable"]),
        false => assert_eq!(names, ["neon", "portable"]),
    }
}
