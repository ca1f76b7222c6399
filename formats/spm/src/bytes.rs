//! Bytes that are either mapped from a file or owned, shared without a lifetime.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::Error;

/// A cheap-to-clone slice of a mapped file or of owned memory.
#[derive(Clone)]
pub struct Bytes {
    storage: Storage,
    range: Range<usize>,
}

#[derive(Clone)]
enum Storage {
    Mapped(Arc<Mmap>),
    Owned(Arc<Vec<u8>>),
}

impl Bytes {
    /// Maps a whole file, read-only. Only regular files: a device or a pipe is refused.
    pub fn map(path: &Path) -> Result<Self, Error> {
        let io = |action| move |source| Error::Io { action, path: path.to_owned(), source };
        let file = File::open(path).map_err(io("open"))?;
        let meta = file.metadata().map_err(io("read the size of"))?;
        if !meta.is_file() {
            return Err(Error::NotAFile { path: path.to_owned() });
        }
        if meta.len() == 0 {
            return Ok(Bytes::from(Vec::new()));
        }
        // SAFETY: the map is read-only and private to this type, which hands out shared slices only. Another
        // process may change the file meanwhile: every reader of these bytes treats each value as untrusted
        // data that can differ from one read to the next, and takes sizes and offsets from private memory.
        // Truncation raises SIGBUS, as for any mapped file; callers that cannot rule it out read a copy.
        let map = unsafe { Mmap::map(&file) }.map_err(io("map"))?;
        let range = 0..map.len();
        Ok(Bytes { storage: Storage::Mapped(Arc::new(map)), range })
    }

    /// The part `range` of these bytes, or `None` if it is not inside them.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        self.get(range.clone())?;
        let start = self.range.start + range.start;
        Some(Bytes { storage: self.storage.clone(), range: start..start + range.len() })
    }

    /// Whether the bytes are a file's own pages and not a copy.
    pub fn is_mapped(&self) -> bool {
        matches!(self.storage, Storage::Mapped(_))
    }
}

impl From<Vec<u8>> for Bytes {
    /// Moves the bytes within their memory to where a cache line begins, so that aligned planes are aligned for loads.
    fn from(mut owned: Vec<u8>) -> Self {
        const LINE: usize = 64;
        let len = owned.len();
        owned.reserve_exact(LINE);
        let start = owned.as_ptr().align_offset(LINE).min(LINE);
        owned.resize(start + len, 0);
        owned.copy_within(0..len, start);
        Bytes { storage: Storage::Owned(Arc::new(owned)), range: start..start + len }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.storage {
            Storage::Mapped(map) => map,
            Storage::Owned(owned) => owned,
        };
        &all[self.range.clone()]
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({} bytes)", self.range.len())
    }
}
