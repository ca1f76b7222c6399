//! Opens a model whatever its format, told by its first bytes and not by its name; a folder is a Hugging Face model.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use gguf::GgufModel;
use hf::HfModel;
use spm::{Checkpoint, Load, SparseModel, Vocabulary};

use crate::failure::Failure;
use crate::process;

/// How weights come into memory.
///
/// A token reads every weight, and small pages keep the processor looking for the next: a copy in huge pages wrote
/// tokens with 6 % less processor time, and was read at about 10 GB/s, once the file was in the system's cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LoadMode {
    /// arena if there are huge pages and the file fits twice in the memory that is free, else mmap
    #[default]
    Auto,
    /// The file's own pages, shared with other processes; the file must not change meanwhile
    Mmap,
    /// A copy in huge pages: faster to run, slower to start, safe from changes of the file
    Arena,
}

/// An open model.
pub enum AnyModel {
    /// A sparse model file.
    Sparse(Box<SparseModel>),
    /// A GGUF file.
    Gguf(Box<GgufModel>),
    /// A Hugging Face folder.
    Folder(Box<HfModel>),
}

impl AnyModel {
    /// Opens `path`, mapped.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        Self::open_with(path, LoadMode::Mmap)
    }

    /// Opens `path` to run it.
    pub fn open_with(path: &Path, mode: LoadMode) -> Result<Self, Failure> {
        Self::open_within(path, mode, None)
    }

    /// The same in as many bytes as `limit`.
    pub fn open_within(path: &Path, mode: LoadMode, limit: Option<u64>) -> Result<Self, Failure> {
        if path.is_dir() {
            return Ok(AnyModel::Folder(Box::new(HfModel::open(path)?)));
        }
        Ok(match begins_with_gguf(path) {
            true => AnyModel::Gguf(Box::new(GgufModel::open(path)?)),
            false => AnyModel::Sparse(Box::new(SparseModel::open_with(path, how_to_load(path, mode, limit)?)?)),
        })
    }

    /// The files that it was read from, opened as `path`.
    pub fn files(&self, path: &Path) -> Vec<PathBuf> {
        match self {
            AnyModel::Sparse(_) => vec![path.to_owned()],
            AnyModel::Gguf(model) => model.shard_paths().to_vec(),
            AnyModel::Folder(model) => model.paths(),
        }
    }

    /// Bytes of the files whose own pages the weights are, opened as `path`; 0 if they are a copy.
    pub fn mapped_bytes(&self, path: &Path) -> u64 {
        let copied = matches!(self, AnyModel::Sparse(model) if !model.is_mapped());
        let files = if copied { Vec::new() } else { self.files(path) };
        files.iter().filter_map(|file| std::fs::metadata(file).ok()).map(|meta| meta.len()).sum()
    }

    /// What the rest of the workspace reads.
    pub fn checkpoint(&self) -> &dyn Checkpoint {
        match self {
            AnyModel::Sparse(model) => &**model,
            AnyModel::Gguf(model) => &**model,
            AnyModel::Folder(model) => &**model,
        }
    }
}

fn how_to_load(path: &Path, mode: LoadMode, limit: Option<u64>) -> Result<Load, Failure> {
    // A file that cannot be seen fails when it is opened, with the better error.
    let needed = std::fs::metadata(path).map_or(0, |meta| meta.len());
    Ok(match mode {
        LoadMode::Auto => {
            automatic(needed, limit.into_iter().chain(process::available_memory()).min(), process::has_huge_pages())
        }
        LoadMode::Mmap => Load::Mmap,
        LoadMode::Arena => {
            process::check_memory("a copy of the model", needed, "use --load mmap")?;
            Load::Arena
        }
    })
}

/// A copy must leave as much memory for all else as it takes. Unknown memory is none.
fn automatic(needed: u64, available: Option<u64>, huge_pages: bool) -> Load {
    match available {
        Some(available) if huge_pages && available / 2 >= needed => Load::Arena,
        _ => Load::Mmap,
    }
}

/// Only the vocabulary: of a GGUF file, that need not hold a model.
pub fn open_vocabulary(path: &Path) -> Result<Option<Vocabulary>, Failure> {
    if path.is_dir() {
        return Ok(HfModel::open(path)?.vocabulary().cloned());
    }
    Ok(match begins_with_gguf(path) {
        true => gguf::read_vocabulary(path)?,
        false => SparseModel::open(path)?.vocabulary().cloned(),
    })
}

/// Opening as a sparse model gives the better error for everything else, a missing file among them.
fn begins_with_gguf(path: &Path) -> bool {
    let is_file = std::fs::metadata(path).is_ok_and(|m| m.is_file());
    let mut start = [0; 4];
    is_file && File::open(path).and_then(|mut f| f.read_exact(&mut start)).is_ok() && &start == b"GGUF"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_needs_room_and_huge_pages() {
        assert_eq!(automatic(100, Some(200), true), Load::Arena);
        assert_eq!(automatic(100, Some(199), true), Load::Mmap);
        assert_eq!(automatic(100, Some(200), false), Load::Mmap);
        assert_eq!(automatic(100, None, true), Load::Mmap);
    }
}
