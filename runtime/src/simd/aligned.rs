//! Buffers that start at a cache line, so that no register that is loaded from them lies in two.

use std::ops::{Deref, DerefMut};

const LINE: usize = 64;

/// A growing buffer of numbers that starts at a cache line.
#[derive(Default)]
pub(crate) struct Aligned<T> {
    data: Vec<T>,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// Makes its length `len`; the contents are any. Allocates only for more than ever before.
    pub(crate) fn resize(&mut self, len: usize) {
        self.len = len;
        let needed = len + LINE / size_of::<T>();
        if self.data.len() < needed {
            self.data.resize(needed, T::default());
        }
    }

    /// Makes its length at least `len`.
    pub(crate) fn fit(&mut self, len: usize) {
        self.resize(len.max(self.len));
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let first = self.data.as_ptr().align_offset(LINE).min(self.data.len() - self.len);
        &self.data[first..first + self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let first = self.data.as_ptr().align_offset(LINE).min(self.data.len() - self.len);
        &mut self.data[first..first + self.len]
    }
}
