//! The published algorithms, transcribed to plain f64 loops on small matrices, for the tests of the methods.

use super::{Job, METHODS, Method};
use crate::linalg::noise;
use crate::pattern::{Group, Pattern};
use crate::statistics::{Beside, ColumnNorms, Gram, HeldOut, Inputs, Wanted};

type Matrix = Vec<Vec<f64>>;

const ROWS: usize = 24;
const COLS: usize = 40;

/// Correlated inputs of features of very different sizes.
fn tokens(n: usize, seed: u64) -> Vec<f32> {
    let raw = noise(n * COLS, seed);
    let value = |x: &[f32], j: usize| (x[j] + 0.6 * x[(j + 1) % COLS] + 0.3 * x[j / 2]) * (1.0 + (j % 7) as f32);
    raw.chunks_exact(COLS).flat_map(|x| (0..COLS).map(|j| value(x, j)).collect::<Vec<_>>()).collect()
}

fn inputs() -> Inputs {
    inputs_of(&tokens(700, 1), None)
}

fn inputs_of(x: &[f32], wanted: Option<Wanted>) -> Inputs {
    let (mut norms, mut gram) = (ColumnNorms::new(COLS), Gram::new(COLS).unwrap());
    norms.add(x);
    gram.add(x);
    gram.finish();
    Inputs::new(norms, Some(gram), wanted, None)
}

/// The weights that a method makes, zeros where it prunes.
fn pruned(name: &str, pattern: Pattern, group: Option<Group>, inputs: &Inputs) -> Vec<f32> {
    pruned_weighing(name, pattern, group, inputs, None)
}

fn pruned_weighing(
    name: &str,
    pattern: Pattern,
    group: Option<Group>,
    inputs: &Inputs,
    importance: Option<&[f32]>,
) -> Vec<f32> {
    let mut weights = noise(ROWS * COLS, 2);
    let method: &dyn Method = METHODS.into_iter().find(|m| m.name() == name).unwrap();
    let mut job = Job {
        tensor: "t",
        shape: (ROWS, COLS),
        weights: &mut weights,
        inputs: Some(inputs),
        importance,
        pattern,
        group,
        fell_back: false,
    };
    let mask = method.prune(&mut job).unwrap();
    (0..ROWS * COLS).map(|i| if mask.is_kept(i / COLS, i % COLS) { weights[i] } else { 0.0 }).collect()
}

fn gram() -> Matrix {
    products(&tokens(700, 1), &tokens(700, 1))
}

/// `A^T B` of two lists of tokens, of `COLS` features and of any number of them.
fn products(a: &[f32], b: &[f32]) -> Matrix {
    let width = b.len() / (a.len() / COLS);
    let product = |i: usize, j: usize| -> f64 {
        a.chunks(COLS).zip(b.chunks(width)).map(|(a, b)| f64::from(a[i]) * f64::from(b[j])).sum()
    };
    (0..COLS).map(|i| (0..width).map(|j| product(i, j)).collect()).collect()
}

fn times(a: &Matrix, x: &[f64]) -> Vec<f64> {
    a.iter().map(|row| row.iter().zip(x).map(|(a, x)| a * x).sum()).collect()
}

fn inverse(a: &Matrix) -> Matrix {
    let n = a.len();
    let mut a = a.clone();
    let mut b: Matrix = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for k in 0..n {
        let pivot = a[k][k];
        for j in 0..n {
            a[k][j] /= pivot;
            b[k][j] /= pivot;
        }
        for i in (0..n).filter(|i| *i != k) {
            let factor = a[i][k];
            for j in 0..n {
                a[i][j] -= factor * a[k][j];
                b[i][j] -= factor * b[k][j];
            }
        }
    }
    b
}

/// `U` of `a = U^T U`.
fn upper_cholesky(a: &Matrix) -> Matrix {
    let n = a.len();
    let mut u = vec![vec![0.0; n]; n];
    for i in 0..n {
        let diagonal: f64 = a[i][i] - (0..i).map(|k| u[k][i] * u[k][i]).sum::<f64>();
        u[i][i] = diagonal.sqrt();
        for j in i + 1..n {
            u[i][j] = (a[i][j] - (0..i).map(|k| u[k][i] * u[k][j]).sum::<f64>()) / u[i][i];
        }
    }
    u
}

fn weights() -> Matrix {
    noise(ROWS * COLS, 2).chunks(COLS).map(|row| row.iter().map(|w| f64::from(*w)).collect()).collect()
}

/// Prunes the lowest of `scores`, all rows compared.
fn lowest(scores: &[f64], count: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let mut kept = vec![true; scores.len()];
    order[..count].iter().for_each(|&i| kept[i] = false);
    kept
}

/// SparseGPT, one block as all columns fit in it; for N:M groups are chosen when they are reached.
fn sparsegpt(pattern: Pattern) -> Matrix {
    let mut h = gram();
    let mean = (0..COLS).map(|j| h[j][j]).sum::<f64>() / COLS as f64;
    (0..COLS).for_each(|j| h[j][j] += 0.01 * mean);
    let u = upper_cholesky(&inverse(&h));
    let mut w = weights();
    let scores: Vec<f64> = w.iter().flat_map(|row| (0..COLS).map(|j| (row[j] / u[j][j]).powi(2))).collect();
    let mut kept = match pattern {
        Pattern::Unstructured { sparsity } => lowest(&scores, (scores.len() as f64 * sparsity) as usize),
        Pattern::KeepNofM { .. } => vec![true; scores.len()],
    };
    for (r, row) in w.iter_mut().enumerate() {
        for i in 0..COLS {
            if let Pattern::KeepNofM { n, m } = pattern
                && i % m == 0
            {
                let scores: Vec<f64> = (i..i + m).map(|j| (row[j] / u[j][j]).powi(2)).collect();
                kept[r * COLS + i..r * COLS + i + m].copy_from_slice(&lowest(&scores, m - n));
            }
            let fixed = if kept[r * COLS + i] { row[i] } else { 0.0 };
            let error = (row[i] - fixed) / u[i][i];
            row[i] = fixed;
            (i + 1..COLS).for_each(|j| row[j] -= error * u[i][j]);
        }
    }
    w
}

/// ADMM for the outputs of the dense weights.
fn admm(sparsity: f64) -> Matrix {
    let g = gram();
    let wanted: Matrix = weights().iter().map(|row| times(&g, row)).collect();
    admm_towards(&g, &wanted, &[1.0; ROWS], sparsity)
}

/// ADMM with a rising mask over the whole matrix, rows weighing what `importance` says, damping 0.1 towards the dense weights;
/// `wanted` is `X^T Y`, a row an output.
fn admm_towards(g: &Matrix, wanted: &Matrix, importance: &[f64], sparsity: f64) -> Matrix {
    let n: Vec<f64> = (0..COLS).map(|j| g[j][j].sqrt()).collect();
    let entry = |i: usize, j: usize| g[i][j] / (n[i] * n[j]) + if i == j { 0.1 + 1.0 } else { 0.0 };
    let system: Matrix = (0..COLS).map(|i| (0..COLS).map(|j| entry(i, j)).collect()).collect();
    let inverse = inverse(&system);
    let x0: Matrix = weights().iter().map(|row| row.iter().zip(&n).map(|(w, n)| w * n).collect()).collect();
    let (mut x, mut u) = (x0.clone(), vec![vec![0.0; COLS]; ROWS]);
    let (mut z, mut kept) = (x0.clone(), vec![true; ROWS * COLS]);
    for t in 0..20 {
        if t < 15 {
            let sizes: Vec<f64> = (0..ROWS * COLS)
                .map(|i| (x[i / COLS][i % COLS] + u[i / COLS][i % COLS]).abs() * importance[i / COLS])
                .collect();
            let rising = sparsity - sparsity * (1.0 - (t + 1) as f64 / 15.0).powi(3);
            kept = lowest(&sizes, (sizes.len() as f64 * rising) as usize);
        }
        for r in 0..ROWS {
            for j in 0..COLS {
                z[r][j] = if kept[r * COLS + j] { x[r][j] + u[r][j] } else { 0.0 };
                u[r][j] += x[r][j] - z[r][j];
            }
            let target = |j: usize| wanted[r][j] / n[j] + 0.1 * x0[r][j];
            let right: Vec<f64> = (0..COLS).map(|j| target(j) + z[r][j] - u[r][j]).collect();
            x[r] = times(&inverse, &right);
        }
    }
    z.iter().map(|row| row.iter().zip(&n).map(|(z, n)| z / n).collect()).collect()
}

/// `||X (W - Z)||^2`, in f64.
fn loss(z: &Matrix) -> f64 {
    let (g, w) = (gram(), weights());
    let mut sum = 0.0;
    for (w, z) in w.iter().zip(z) {
        let lost: Vec<f64> = w.iter().zip(z).map(|(w, z)| w - z).collect();
        sum += (0..COLS)
            .flat_map(|i| (0..COLS).map(move |j| (i, j)))
            .map(|(i, j)| lost[i] * g[i][j] * lost[j])
            .sum::<f64>();
    }
    sum
}

fn as_matrix(found: &[f32]) -> Matrix {
    as_rows(found, COLS)
}

fn as_rows(found: &[f32], width: usize) -> Matrix {
    found.chunks(width).map(|row| row.iter().map(|w| f64::from(*w)).collect()).collect()
}

fn check(name: &str, pattern: Pattern, expected: &Matrix) {
    let found = as_matrix(&pruned(name, pattern, Some(Group::Matrix), &inputs()));
    let (ours, theirs) = (loss(&found), loss(expected));
    assert!((ours / theirs - 1.0).abs() <= 0.01, "{name} {pattern}: {ours} where {theirs} is right");
    let differing = (0..ROWS * COLS).filter(|i| {
        let (a, b) = (found[i / COLS][i % COLS], expected[i / COLS][i % COLS]);
        (a == 0.0) != (b == 0.0)
    });
    assert!(differing.count() <= ROWS * COLS / 100, "{name} {pattern}: another mask");
}

#[test]
fn sparsegpt_is_the_published_one() {
    for pattern in [0.3, 0.5, 0.7].map(|sparsity| Pattern::Unstructured { sparsity }) {
        check("sparsegpt", pattern, &sparsegpt(pattern));
    }
    let pattern = Pattern::KeepNofM { n: 2, m: 4 };
    check("sparsegpt", pattern, &sparsegpt(pattern));
}

#[test]
fn admm_is_the_published_one() {
    for sparsity in [0.3, 0.5, 0.7] {
        check("admm", Pattern::Unstructured { sparsity }, &admm(sparsity));
    }
}

/// Inputs `P` of a pruned model, those of the dense one times a matrix near to one, and noise.
fn pruned_tokens() -> Vec<f32> {
    let (x, other) = (tokens(700, 1), tokens(700, 31));
    let value = |i: usize| 0.8 * x[i] + 0.2 * x[i / COLS * COLS + (i + 5) % COLS] + 0.3 * other[i];
    (0..x.len()).map(value).collect()
}

/// `||Y - P Z||^2`, in f64.
fn loss_of_outputs(y: &Matrix, p: &[f32], z: &Matrix) -> f64 {
    let of_token = |(y, p): (&Vec<f64>, &[f32])| -> f64 {
        let p: Vec<f64> = p.iter().map(|v| f64::from(*v)).collect();
        times(z, &p).iter().zip(y).map(|(found, y)| (y - found).powi(2)).sum()
    };
    y.iter().zip(p.chunks(COLS)).map(of_token).sum()
}

#[test]
fn admm_moves_towards_the_outputs_of_the_dense_model() {
    let (x, p, w) = (tokens(700, 1), pruned_tokens(), weights());
    let outputs = |x: &[f32]| -> Matrix {
        x.chunks(COLS).map(|x| times(&w, &x.iter().map(|v| f64::from(*v)).collect::<Vec<_>>())).collect()
    };
    let (of_dense, own) = (outputs(&x), outputs(&p));
    // What is missing in a stream is not made of these inputs alone.
    let missing: Vec<f32> =
        of_dense.iter().flatten().zip(noise(700 * ROWS, 8)).map(|(y, more)| *y as f32 + 4.0 * more).collect();
    let differences: Vec<f32> = x.iter().zip(&p).map(|(x, p)| x - p).collect();
    let cases = [
        (Beside::Inputs, COLS, &differences, of_dense.clone()),
        (Beside::Outputs, ROWS, &missing, as_rows(&missing, ROWS)),
    ];
    for (beside, width, gathered, y) in cases {
        let mut wanted = Wanted::new(beside, COLS, width).unwrap();
        wanted.add(&p[..300 * COLS], &gathered[..300 * width]);
        wanted.add(&p[300 * COLS..], &gathered[300 * width..]);
        let inputs = inputs_of(&p, Some(wanted));
        let half_way = |(y, own): (&Vec<f64>, &Vec<f64>)| y.iter().zip(own).map(|(y, own)| 0.5 * (y + own)).collect();
        let aim: Matrix = y.iter().zip(&own).map(half_way).collect();
        let flat: Vec<f32> = aim.iter().flatten().map(|v| *v as f32).collect();
        let transposed = products(&p, &flat);
        let right: Matrix = (0..ROWS).map(|r| (0..COLS).map(|j| transposed[j][r]).collect()).collect();
        let expected = admm_towards(&products(&p, &p), &right, &[1.0; ROWS], 0.5);
        let pattern = Pattern::Unstructured { sparsity: 0.5 };
        let found = as_matrix(&pruned("admm", pattern, Some(Group::Matrix), &inputs));
        let (ours, theirs) = (loss_of_outputs(&aim, &p, &found), loss_of_outputs(&aim, &p, &expected));
        assert!((ours / theirs - 1.0).abs() <= 0.01, "{beside:?}: {ours} where {theirs} is right");
        let alone = as_matrix(&pruned("admm", pattern, Some(Group::Matrix), &inputs_of(&p, None)));
        assert!(loss_of_outputs(&y, &p, &found) < loss_of_outputs(&y, &p, &alone), "{beside:?}");
    }
}

#[test]
fn admm_prunes_more_of_rows_that_weigh_less() {
    let (x, inputs) = (tokens(700, 1), inputs());
    let importance: Vec<f64> = (0..ROWS).map(|r| 0.5 + (r % 5) as f64).collect();
    let g = products(&x, &x);
    let wanted: Matrix = weights().iter().map(|row| times(&g, row)).collect();
    let expected = admm_towards(&g, &wanted, &importance, 0.5);
    let ours: Vec<f32> = importance.iter().map(|v| *v as f32).collect();
    let pattern = Pattern::Unstructured { sparsity: 0.5 };
    let found = as_matrix(&pruned_weighing("admm", pattern, Some(Group::Matrix), &inputs, Some(&ours)));
    assert!((loss(&found) / loss(&expected) - 1.0).abs() <= 0.01);
    let kept = |rows: &Matrix, r: usize| rows[r].iter().filter(|w| **w != 0.0).count();
    let differing: usize = (0..ROWS).map(|r| kept(&found, r).abs_diff(kept(&expected, r))).sum();
    assert!(differing <= ROWS * COLS / 100, "{differing} of the rows' weights");
    assert!(kept(&found, 4) > kept(&found, 0) + COLS / 4, "{} and {}", kept(&found, 4), kept(&found, 0));
}

#[test]
fn updates_lose_less_than_masks_alone() {
    let inputs = inputs();
    let losses = |name| {
        [0.5, 0.7].map(|sparsity| {
            loss(&as_matrix(&pruned(name, Pattern::Unstructured { sparsity }, Some(Group::Matrix), &inputs)))
        })
    };
    let [wanda, sparsegpt, admm] = ["wanda", "sparsegpt", "admm"].map(losses);
    for i in 0..2 {
        assert!(admm[i] < sparsegpt[i] && sparsegpt[i] < wanda[i], "{wanda:?} {sparsegpt:?} {admm:?}");
    }
}

#[test]
fn admm_falls_back_to_wanda_where_it_is_worse_on_tokens_held_out() {
    let mut inputs = inputs();
    // Other tokens altogether: features that the calibration hardly moved are loud, and none goes with another.
    let x: Vec<f32> =
        noise(400 * COLS, 77).iter().enumerate().map(|(i, v)| v * 1000.0f32.powi((i % COLS % 2) as i32)).collect();
    let mut held_out = HeldOut::new(COLS, None);
    held_out.add(&x, &[]);
    inputs.held_out = Some(held_out);
    let pattern = Pattern::Unstructured { sparsity: 0.5 };
    let (found, wanda) =
        (pruned("admm", pattern, Some(Group::Matrix), &inputs), pruned("wanda", pattern, None, &inputs));
    let held_out = inputs.held_out.as_ref().unwrap();
    let dense = noise(ROWS * COLS, 2);
    assert!(held_out.relative_error(&dense, &found) <= held_out.relative_error(&dense, &wanda));
}
