//! One mapped `.safetensors` file. The `safetensors` crate reads and checks its header: offsets without holes or overlap,
//! lengths that follow from shapes, an end where the file ends.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use spm::Bytes;

use crate::error::Error;

/// A file and what it holds.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Bytes,
    pub(crate) tensors: Vec<Stored>,
}

/// A tensor as the file has it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// Where its values are in the file.
    pub(crate) range: std::ops::Range<usize>,
}

impl Shard {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let bytes = Bytes::map(path)?;
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| {
            Error::folder(path, format!("{e}; the file is cut short, damaged or no safetensors: download it again"))
        })?;
        let data = header + size_of::<u64>();
        let stored = |(name, info): (String, &safetensors::tensor::TensorInfo)| Stored {
            name,
            dtype: info.dtype,
            shape: info.shape.clone(),
            range: data + info.data_offsets.0..data + info.data_offsets.1,
        };
        let mut tensors: Vec<Stored> = metadata.tensors().into_iter().map(stored).collect();
        tensors.sort_by(|a, b| (a.range.start, &a.name).cmp(&(b.range.start, &b.name)));
        Ok(Shard { path: path.to_owned(), bytes, tensors })
    }
}
