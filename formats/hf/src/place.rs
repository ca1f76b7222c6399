//! Where one of our tensors is in the files: a whole tensor, some rows of a fused one, or some columns of one that is stored
//! the other way round.

use std::ops::Range;

use half::{bf16, f16};
use safetensors::Dtype;
use spm::encode::encode_rows;
use spm::{Bytes, Encoding, Matrix, matrix};

use crate::shard::Shard;

/// Which output features of a stored tensor are ours: `run` of every `stride`, from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Features {
    pub(crate) first: usize,
    pub(crate) run: usize,
    pub(crate) stride: usize,
    /// How many the stored tensor has.
    pub(crate) of: usize,
}

impl Features {
    /// All of `n`.
    pub(crate) fn all(n: usize) -> Self {
        Features { first: 0, run: n, stride: n, of: n }
    }

    /// `n` from `first` on, of a tensor that has `of`.
    pub(crate) fn part(first: usize, n: usize, of: usize) -> Self {
        Features { first, run: n, stride: of, of }
    }

    fn stored(&self, feature: usize) -> usize {
        self.first + feature / self.run * self.stride + feature % self.run
    }
}

/// A tensor of ours.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) shard: usize,
    pub(crate) dtype: Dtype,
    /// Bytes of the stored tensor in its file.
    pub(crate) range: Range<usize>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) features: Features,
    /// Stored as (inputs, outputs).
    pub(crate) transposed: bool,
    /// Added to every value: what the family leaves out of its norms.
    pub(crate) plus: f32,
}

impl Place {
    fn is_vector(&self) -> bool {
        self.rows == 1
    }

    fn data<'a>(&self, shards: &'a [Shard]) -> Option<&'a [u8]> {
        shards.get(self.shard)?.bytes.get(self.range.clone())
    }

    /// As [`spm::Checkpoint::read_rows`].
    pub(crate) fn read_rows(&self, shards: &[Shard], first_row: usize, out: &mut [f32]) -> Option<()> {
        let n = out.len() / self.cols;
        if !out.len().is_multiple_of(self.cols) || first_row.checked_add(n)? > self.rows {
            return None;
        }
        let data = self.data(shards)?;
        for (row, out) in (first_row..).zip(out.chunks_exact_mut(self.cols)) {
            self.read_row(data, row, out)?;
            out.iter_mut().filter(|_| self.plus != 0.0).for_each(|v| *v += self.plus);
        }
        Some(())
    }

    fn read_row(&self, data: &[u8], row: usize, out: &mut [f32]) -> Option<()> {
        let size = self.dtype.bitsize() / 8;
        if !self.is_vector() && !self.transposed {
            let start = self.features.stored(row).checked_mul(self.cols * size)?;
            return expand(self.dtype, data.get(start..start + self.cols * size)?, out);
        }
        for (col, out) in out.iter_mut().enumerate() {
            let at = match self.is_vector() {
                true => self.features.stored(col),
                false => col * self.features.of + self.features.stored(row),
            };
            expand(self.dtype, data.get(at * size..(at + 1) * size)?, std::slice::from_mut(out))?;
        }
        Some(())
    }

    /// The bytes of the file as a matrix, if they are one; copied only if the file ends before the slack that kernels may
    /// read.
    fn borrow(&self, shards: &[Shard], encoding: Encoding) -> Option<Matrix> {
        let row = self.cols * self.dtype.bitsize() / 8;
        let start = self.range.start + self.features.first * row;
        let end = start + self.rows * row;
        let slack = matrix::slack(encoding, self.cols)?;
        let file = &shards.get(self.shard)?.bytes;
        let bytes = file.slice(start..end.checked_add(slack)?).or_else(|| {
            let mut copy = Vec::with_capacity(end - start + slack);
            copy.extend(file.get(start..end)?);
            copy.resize(end - start + slack, 0);
            Some(Bytes::from(copy))
        })?;
        Matrix::new(encoding, self.rows, self.cols, bytes, None).ok()
    }

    /// Whether the values lie in the file as in a dense matrix of this encoding.
    fn lies_as(&self, encoding: Encoding) -> bool {
        let is_same = matches!((self.dtype, encoding), (Dtype::F32, Encoding::F32) | (Dtype::F16, Encoding::F16));
        let is_plain = !self.is_vector() && !self.transposed && self.features.run >= self.rows && self.plus == 0.0;
        is_same && is_plain
    }

    /// The tensor in `encoding`, borrowed where that is possible.
    pub(crate) fn matrix(&self, shards: &[Shard], encoding: Encoding) -> Option<Matrix> {
        if self.lies_as(encoding) {
            return self.borrow(shards, encoding);
        }
        encode_rows(encoding, self.rows, self.cols, |r, row| self.read_rows(shards, r, row))
    }

    /// Bytes of memory that this takes.
    pub(crate) fn matrix_bytes(&self, encoding: Encoding) -> Option<u64> {
        match self.lies_as(encoding) {
            true => Some(0),
            false => matrix::byte_len(encoding, self.rows, self.cols, 0).map(|n| n as u64),
        }
    }

    /// The encoding that keeps every value.
    pub(crate) fn exact_encoding(&self) -> Encoding {
        match self.dtype {
            Dtype::F16 if !self.is_vector() && self.plus == 0.0 => Encoding::F16,
            _ => Encoding::F32,
        }
    }

    /// Whether halves hold every value, but for digits of the smallest ones, which matter to no sum.
    pub(crate) fn fits_in_halves(&self, shards: &[Shard]) -> Option<bool> {
        let most = f16::MAX.to_f32();
        Some(match self.dtype {
            Dtype::BF16 => {
                let values = self.data(shards)?.as_chunks::<2>().0.iter();
                values.into_iter().all(|&bytes| bf16::from_le_bytes(bytes).to_f32().abs() <= most)
            }
            _ => self.dtype == Dtype::F16,
        })
    }
}

/// Expands little-endian values; `None` if there are not as many, or of a type that is not read.
fn expand(dtype: Dtype, bytes: &[u8], out: &mut [f32]) -> Option<()> {
    if bytes.len() != out.len() * dtype.bitsize() / 8 {
        return None;
    }
    let halves = || bytes.as_chunks::<2>().0.iter().copied();
    match dtype {
        Dtype::F32 => {
            let singles = bytes.as_chunks::<4>().0.iter();
            out.iter_mut().zip(singles).for_each(|(o, b)| *o = f32::from_le_bytes(*b));
        }
        Dtype::F16 => out.iter_mut().zip(halves()).for_each(|(o, b)| *o = f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => out.iter_mut().zip(halves()).for_each(|(o, b)| *o = bf16::from_le_bytes(b).to_f32()),
        _ => return None,
    }
    Some(())
}
