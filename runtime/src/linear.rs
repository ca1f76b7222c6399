//! A weight that knows how to multiply: a matrix in any encoding, an optional bias, rows over threads.

use half::f16;
use spm::{Checkpoint, Matrix};

use crate::engine::{Engine, Precision};
use crate::error::Error;
use crate::ops;
use crate::simd::{Aligned, Codes, PANEL, Scratch, padded};

/// `y = W x + b`, W `rows x cols`.
pub(crate) struct Linear {
    weights: Matrix,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// Loads `name` and checks its shape, here and nowhere later.
    pub(crate) fn load(
        from: &dyn Checkpoint,
        engine: &Engine,
        name: &str,
        shape: (usize, usize),
    ) -> Result<Self, Error> {
        let matrix = match engine.precision() {
            Precision::Exact => from.exact_matrix(name),
            Precision::Int8 => from.matrix(name),
        };
        let weights = matrix.ok_or_else(|| Error::MissingTensor { name: name.to_owned() })?;
        check_shape(name, shape, (weights.rows(), weights.cols()))?;
        Ok(Linear { weights, bias: None })
    }

    /// The same with a bias.
    pub(crate) fn with_bias(mut self, bias: Option<Vec<f32>>) -> Self {
        self.bias = bias;
        self
    }

    /// Replaces the weights by others of the same shape.
    pub(crate) fn set(&mut self, name: &str, weights: Matrix) -> Result<(), Error> {
        check_shape(name, (self.weights.rows(), self.weights.cols()), (weights.rows(), weights.cols()))?;
        self.weights = weights;
        Ok(())
    }

    pub(crate) fn weights(&self) -> &Matrix {
        &self.weights
    }

    /// Multiplies all vectors of `x`; `out` is `n x rows`.
    pub(crate) fn forward(&self, engine: &Engine, x: &Activations, parts: &mut Parts, out: &mut [f32]) {
        let (n, rows) = (x.n, self.weights.rows());
        assert!(x.cols == self.weights.cols() && out.len() == n * rows, "{n} vectors of {} columns", x.cols);
        let Parts { scratch, panels } = parts;
        // The kernels write panels of rows; for one vector that is the result's own order.
        let panels = if n == 1 { &mut *out } else { fitted(panels, n * rows) };
        let mut jobs = [const { None }; MAX_PARTS];
        let jobs = cut(&self.weights, n, panels, &mut scratch[..engine.pool().threads().min(MAX_PARTS)], &mut jobs);
        engine.pool().for_each(jobs, |_, job| {
            if let Some(Job { first, end, scratch, out }) = job {
                let rows = *first..*end;
                match &x.codes {
                    Some(codes) if self.weights.encoding().is_integer() => {
                        engine.kernels().rows_i8(&self.weights, rows, codes, scratch, out);
                    }
                    _ => engine.kernels().rows_f32(&self.weights, rows, &x.values, scratch, out),
                }
            }
        });
        if n > 1 {
            unfold(&parts.panels[..n * rows], n, out);
        }
        if let Some(bias) = &self.bias {
            out.chunks_exact_mut(rows).for_each(|y| ops::add(y, bias));
        }
    }
}

/// Refuses a tensor that is not `expected` rows by columns.
pub(crate) fn check_shape(name: &str, expected: (usize, usize), found: (usize, usize)) -> Result<(), Error> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Shape {
        name: name.to_owned(),
        expected_rows: expected.0,
        expected_cols: expected.1,
        rows: found.0,
        cols: found.1,
    })
}

/// Most parts that a product is cut into.
const MAX_PARTS: usize = 64;

/// Rows for one thread: where they begin and end, its scratch, and where the result goes.
struct Job<'a> {
    first: usize,
    end: usize,
    scratch: &'a mut Scratch,
    out: &'a mut [f32],
}

/// Cuts the rows into one run of whole panels a thread, of about equally many bytes.
fn cut<'j, 'a>(
    weights: &Matrix,
    n: usize,
    mut out: &'a mut [f32],
    scratch: &'a mut [Scratch],
    jobs: &'j mut [Option<Job<'a>>; MAX_PARTS],
) -> &'j mut [Option<Job<'a>>] {
    let (rows, parts) = (weights.rows(), scratch.len());
    let total = weights.bytes_of_rows(0..rows);
    let mut first = 0;
    for (i, scratch) in scratch.iter_mut().enumerate() {
        let share = total / parts * (i + 1);
        let share_end = (first + end_of_share(weights, first, share)).next_multiple_of(PANEL);
        let end = if i + 1 == parts { rows } else { share_end.min(rows) };
        let (now, later) = out.split_at_mut((end - first) * n);
        jobs[i] = Some(Job { first, end, scratch, out: now });
        (out, first) = (later, end);
    }
    &mut jobs[..parts]
}

/// How many rows from `first` on until `share` bytes of the whole matrix are reached.
fn end_of_share(weights: &Matrix, first: usize, share: usize) -> usize {
    let (mut low, mut high) = (first, weights.rows());
    while low < high {
        let middle = (low + high) / 2;
        if weights.bytes_of_rows(0..middle + 1) <= share { low = middle + 1 } else { high = middle }
    }
    low - first
}

fn fitted(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// From panels of rows to `out`, n x rows.
fn unfold(panels: &[f32], n: usize, out: &mut [f32]) {
    let rows = panels.len() / n;
    for (p, panel) in panels.chunks(PANEL * n).enumerate() {
        let height = panel.len() / n;
        for (part, out) in panel.chunks_exact(height).zip(out.chunks_exact_mut(rows)) {
            out[p * PANEL..p * PANEL + height].copy_from_slice(part);
        }
    }
}

/// What the threads need to multiply: their scratch, and room for results in panels.
#[derive(Default)]
pub(crate) struct Parts {
    scratch: Vec<Scratch>,
    panels: Vec<f32>,
}

impl Parts {
    pub(crate) fn new(threads: usize) -> Self {
        let scratch = (0..threads.min(MAX_PARTS)).map(|_| Scratch::default()).collect();
        Parts { scratch, panels: Vec::new() }
    }
}

/// `n` input vectors in the forms that the kernels want.
#[derive(Default)]
pub(crate) struct Activations {
    n: usize,
    cols: usize,
    /// Each padded with zeros to [`padded`] columns.
    values: Aligned<f32>,
    codes: Option<Codes>,
}

impl Activations {
    /// Takes `x` (`n x cols`), quantizing it where the engine's precision asks for it.
    pub(crate) fn set(&mut self, engine: &Engine, x: &[f32], cols: usize) {
        (self.n, self.cols) = (x.len() / cols, cols);
        let stride = padded(cols);
        self.values.resize(self.n * stride);
        for (to, from) in self.values.chunks_exact_mut(stride).zip(x.chunks_exact(cols)) {
            to[..cols].copy_from_slice(from);
            to[cols..].fill(0.0);
        }
        if engine.precision() == Precision::Exact {
            self.codes = None;
            return;
        }
        self.codes.get_or_insert_default().set(engine.kernels(), x, cols);
    }
}

/// Reads a vector tensor of `len` values.
pub(crate) fn load_vector(from: &dyn Checkpoint, name: &str, len: usize) -> Result<Vec<f32>, Error> {
    let info = from.tensor(name).ok_or_else(|| Error::MissingTensor { name: name.to_owned() })?;
    check_shape(name, (1, len), (info.rows, info.cols))?;
    from.read_all(name).ok_or_else(|| Error::MissingTensor { name: name.to_owned() })
}

/// Zeroed memory whose size a file or a caller decides, or an error instead of an abort.
pub(crate) fn zeroed<T: Clone + Default>(what: &'static str, len: usize) -> Result<Vec<T>, Error> {
    let mut all = Vec::new();
    let bytes = len.saturating_mul(size_of::<T>());
    all.try_reserve_exact(len).map_err(|_| Error::OutOfMemory { what, bytes })?;
    all.resize(len, T::default());
    Ok(all)
}

/// Halves, so that callers need not name the crate.
pub(crate) type Half = f16;
