//! A weight that knows how to multiply: a matrix in any encoding, an optional bias, rows over threads.

use std::ops::Range;

use half::f16;
use spm::{Checkpoint, Matrix};

use crate::engine::{Engine, Precision};
use crate::error::Error;
use crate::ops;
use crate::simd::{Aligned, Codes, PANEL, Scratch, padded};

/// `y = W x + b`, W `rows x cols`.
pub(crate) struct Linear {
    weights: Matrix,
    /// Rows that are multiplied: all, or the first ones.
    rows: usize,
    bias: Option<Vec<f32>>,
    /// Where a thread's rows end, for every thread.
    ends: Vec<usize>,
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
        let rows = weights.rows();
        let ends = ends_of_shares(&weights, rows, engine.threads().min(MAX_PARTS));
        Ok(Linear { weights, rows, bias: None, ends })
    }

    /// The first rows alone, of the same weights. There must be as many.
    pub(crate) fn first_rows(&self, rows: usize) -> Self {
        let weights = self.weights.clone();
        Linear { ends: ends_of_shares(&weights, rows, self.ends.len()), weights, rows, bias: None }
    }

    /// The same with a bias.
    pub(crate) fn with_bias(mut self, bias: Option<Vec<f32>>) -> Self {
        self.bias = bias;
        self
    }

    /// Replaces the weights by others of the same shape.
    pub(crate) fn replace(&mut self, name: &str, weights: Matrix) -> Result<Matrix, Error> {
        check_shape(name, (self.weights.rows(), self.weights.cols()), (weights.rows(), weights.cols()))?;
        self.ends = ends_of_shares(&weights, self.rows, self.ends.len());
        Ok(std::mem::replace(&mut self.weights, weights))
    }

    pub(crate) fn weights(&self) -> &Matrix {
        &self.weights
    }

    pub(crate) fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// Bytes that multiplying by it reads.
    pub(crate) fn byte_len(&self) -> usize {
        self.weights.bytes_of_rows(0..self.rows)
    }

    fn multiply_rows(
        &self,
        engine: &Engine,
        rows: Range<usize>,
        x: &Activations,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        if self.takes_codes(engine) {
            engine.kernels().rows_i8(&self.weights, rows, &x.codes, scratch, out);
        } else {
            engine.kernels().rows_f32(&self.weights, rows, &x.values, scratch, out);
        }
    }

    /// Whether it multiplies activations in int8.
    fn takes_codes(&self, engine: &Engine) -> bool {
        engine.precision() == Precision::Int8 && self.weights.encoding().is_integer()
    }
}

/// Multiplies all vectors of `x` with several weights at once; each output is `n x rows`.
pub(crate) fn multiply<const N: usize>(
    engine: &Engine,
    x: &Activations,
    parts: &mut Parts,
    mut products: [(&Linear, &mut [f32]); N],
) {
    let n = x.n;
    for (linear, out) in &products {
        let (rows, cols) = (linear.rows, linear.weights.cols());
        assert!(x.cols == cols && out.len() == n * rows, "{n} vectors of {} columns, {rows}x{cols}", x.cols);
    }
    // The kernels write panels of rows; for one vector that is the result's own order.
    let total = if n == 1 { 0 } else { products.iter().map(|(_, out)| out.len()).sum() };
    let Parts { scratch, panels } = parts;
    let mut panels = fitted(panels, total);
    let mut jobs: [Job<N>; MAX_PARTS] = std::array::from_fn(|_| Job { scratch: None, pieces: [const { None }; N] });
    let jobs = &mut jobs[..scratch.len()];
    jobs.iter_mut().zip(scratch).for_each(|(job, scratch)| job.scratch = Some(scratch));
    for (k, (linear, out)) in products.iter_mut().enumerate() {
        let out = if n == 1 { &mut **out } else { panels.split_off_mut(..out.len()).unwrap_or_default() };
        cut(linear, n, out, jobs, k);
    }
    engine.pool().for_each(jobs, |_, job| {
        let Some(scratch) = &mut job.scratch else { return };
        for piece in job.pieces.iter_mut().flatten() {
            piece.linear.multiply_rows(engine, piece.rows.clone(), x, scratch, piece.out);
        }
    });
    let mut panels = &parts.panels[..];
    for (linear, out) in products {
        let rows = linear.rows;
        if n > 1 {
            let (now, later) = panels.split_at(out.len());
            engine.for_each_part(out, rows, |first, out| unfold(now, n, first, out));
            panels = later;
        }
        if let Some(bias) = &linear.bias {
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

/// What one thread does: some rows of every product.
struct Job<'a, const N: usize> {
    scratch: Option<&'a mut Scratch>,
    pieces: [Option<Piece<'a>>; N],
}

/// Some rows of a product, and where their results go.
struct Piece<'a> {
    linear: &'a Linear,
    rows: Range<usize>,
    out: &'a mut [f32],
}

/// Gives every job its rows of product `k`.
fn cut<'a, const N: usize>(linear: &'a Linear, n: usize, mut out: &'a mut [f32], jobs: &mut [Job<'a, N>], k: usize) {
    let mut first = 0;
    for (job, &end) in jobs.iter_mut().zip(&linear.ends) {
        let (now, later) = out.split_at_mut((end - first) * n);
        job.pieces[k] = Some(Piece { linear, rows: first..end, out: now });
        (out, first) = (later, end);
    }
}

/// The ends of `parts` runs of whole panels of the first `rows` rows, of about equally many bytes.
fn ends_of_shares(weights: &Matrix, rows: usize, parts: usize) -> Vec<usize> {
    let total = weights.bytes_of_rows(0..rows);
    let mut ends = Vec::with_capacity(parts);
    for part in 1..parts {
        let first = ends.last().copied().unwrap_or(0);
        ends.push(end_of_share(weights, first..rows, total / parts * part).next_multiple_of(PANEL).min(rows));
    }
    ends.push(rows);
    ends
}

/// The first of `rows` with which the matrix has more than `share` bytes.
fn end_of_share(weights: &Matrix, rows: Range<usize>, share: usize) -> usize {
    let (mut low, mut high) = (rows.start, rows.end);
    while low < high {
        let middle = (low + high) / 2;
        if weights.bytes_of_rows(0..middle + 1) <= share { low = middle + 1 } else { high = middle }
    }
    low
}

fn fitted(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// From panels of rows of `n` vectors to the vectors from `first` on.
fn unfold(panels: &[f32], n: usize, first: usize, out: &mut [f32]) {
    let rows = panels.len() / n;
    for (p, panel) in panels.chunks(PANEL * n).enumerate() {
        let height = panel.len() / n;
        for (part, out) in panel[first * height..].chunks_exact(height).zip(out.chunks_exact_mut(rows)) {
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
    /// Each padded with zeros to [`padded`] columns; none if no weight wants them.
    values: Aligned<f32>,
    codes: Codes,
}

impl Activations {
    /// Takes `x`, some vectors, in the forms in which the weights `of`, all of as many columns, multiply them.
    pub(crate) fn set<const N: usize>(&mut self, engine: &Engine, x: &[f32], of: [&Linear; N]) {
        let Some(first) = of.first() else { return };
        let cols = first.weights.cols();
        (self.n, self.cols) = (x.len() / cols, cols);
        if of.iter().any(|linear| linear.takes_codes(engine)) {
            self.set_codes(engine, x);
        }
        if !of.iter().all(|linear| linear.takes_codes(engine)) {
            self.set_values(x);
        }
    }

    fn set_codes(&mut self, engine: &Engine, x: &[f32]) {
        let kernels = engine.kernels();
        self.codes.fit(kernels, self.n, self.cols);
        if self.n == 1 {
            return self.codes.parts(1).for_each(|mut part| part.fill(kernels, x));
        }
        let mut parts: Vec<_> = self.codes.parts(self.n.div_ceil(engine.threads())).collect();
        engine.pool().for_each(&mut parts, |_, part| part.fill(kernels, x));
    }

    fn set_values(&mut self, x: &[f32]) {
        let stride = padded(self.cols);
        self.values.resize(self.n * stride);
        for (to, from) in self.values.chunks_exact_mut(stride).zip(x.chunks_exact(self.cols)) {
            to[..self.cols].copy_from_slice(from);
            to[self.cols..].fill(0.0);
        }
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
    let mut all = reserved(what, len)?;
    all.resize(len, T::default());
    Ok(all)
}

/// Room for `len` values, or an error.
pub(crate) fn reserved<T>(what: &'static str, len: usize) -> Result<Vec<T>, Error> {
    let mut all = Vec::new();
    let bytes = len.saturating_mul(size_of::<T>());
    all.try_reserve_exact(len).map_err(|_| Error::OutOfMemory { what, bytes })?;
    Ok(all)
}

/// Halves, so that callers need not name the crate.
pub(crate) type Half = f16;
