//! Bytes that are mapped from a file, copied from one, or owned, shared without a lifetime.

use std::fs::File;
use std::ops::{ControlFlow, Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::{Mmap, MmapMut};

use crate::error::Error;

/// How the bytes of a file come into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Load {
    /// As the file's own pages, read when they are needed and shared with other processes. Who changes the file changes
    /// the bytes, and who cuts it short ends this process.
    #[default]
    Mmap,
    /// As a copy in huge pages where the system has them: no change of the file reaches it. It takes the time to read
    /// the file, and its size in memory.
    Arena,
}

/// The size of huge pages on x86-64 and, with pages of 4 KiB, on ARM.
const HUGE_PAGE: usize = 2 << 20;
/// A cache line.
const LINE: usize = 64;

/// Bytes that are copied between two looks at whether to go on.
const STEP: usize = 16 << 20;

/// Told how many bytes of how many have been copied; breaks off.
pub type Watch<'a> = dyn FnMut(u64, u64) -> ControlFlow<()> + 'a;

/// A cheap-to-clone slice of a mapped file or of owned memory.
#[derive(Clone)]
pub struct Bytes {
    storage: Storage,
    range: Range<usize>,
}

#[derive(Clone)]
enum Storage {
    Mapped(Arc<Mmap>),
    Arena(Arc<Mmap>),
    Owned(Arc<Vec<u8>>),
    Static(&'static [u8]),
}

impl Bytes {
    /// Loads a whole file. Only regular files: a device or a pipe is refused.
    pub fn load(path: &Path, how: Load) -> Result<Self, Error> {
        Self::load_file(&File::open(path).map_err(Error::io("open", path))?, path, how)
    }

    /// The same from an open file, wherever it is read at the moment; `path` is what errors call it.
    pub fn load_file(file: &File, path: &Path, how: Load) -> Result<Self, Error> {
        Self::load_file_watched(file, path, how, &mut |_, _| ControlFlow::Continue(()))
    }

    /// The same; `watch` is told how many bytes of how many there are so far, and may break off a copy.
    pub fn load_file_watched(file: &File, path: &Path, how: Load, watch: &mut Watch) -> Result<Self, Error> {
        let meta = file.metadata().map_err(Error::io("read the size of", path))?;
        if !meta.is_file() {
            return Err(Error::NotAFile { path: path.to_owned() });
        }
        match how {
            _ if meta.len() == 0 => Ok(Bytes::from(Vec::new())),
            Load::Mmap => map_file(file, path),
            Load::Arena => read_file(file, meta.len(), path, watch),
        }
    }

    /// Maps a whole file, read-only.
    pub fn map(path: &Path) -> Result<Self, Error> {
        Self::load(path, Load::Mmap)
    }

    /// Copies `data` into memory of its own, a cache line's alignment included.
    pub fn copy_of(data: &[u8], path: &Path) -> Result<Self, Error> {
        let mut owned = Vec::new();
        owned.try_reserve_exact(data.len() + LINE).map_err(|_| Error::OutOfMemory {
            path: path.to_owned(),
            bytes: data.len() as u64,
            source: std::io::ErrorKind::OutOfMemory.into(),
        })?;
        owned.extend_from_slice(data);
        Ok(Bytes::from(owned))
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

impl From<&'static [u8]> for Bytes {
    /// Bytes that are there as long as the program: fastest where they begin a cache line.
    fn from(all: &'static [u8]) -> Self {
        Bytes { storage: Storage::Static(all), range: 0..all.len() }
    }
}

impl From<Vec<u8>> for Bytes {
    /// Moves the bytes within their memory to where a cache line begins, so that aligned planes are aligned for loads.
    fn from(mut owned: Vec<u8>) -> Self {
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
            Storage::Mapped(map) | Storage::Arena(map) => map,
            Storage::Owned(owned) => owned,
            Storage::Static(all) => all,
        };
        &all[self.range.clone()]
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({} bytes)", self.range.len())
    }
}

fn map_file(file: &File, path: &Path) -> Result<Bytes, Error> {
    // SAFETY: the map is read-only and private to this type, which hands out shared slices only. Another
    // process may change the file meanwhile: every reader of these bytes treats each value as untrusted
    // data that can differ from one read to the next, and takes sizes and offsets from private memory.
    // Truncation raises SIGBUS, as for any mapped file; callers that cannot rule it out load an arena.
    let map = unsafe { Mmap::map(file) }.map_err(Error::io("map", path))?;
    let range = 0..map.len();
    Ok(Bytes { storage: Storage::Mapped(Arc::new(map)), range })
}

/// Reads `len` bytes to the start of a huge page, so that they keep every alignment that they have in the file.
fn read_file(file: &File, len: u64, path: &Path, watch: &mut Watch) -> Result<Bytes, Error> {
    let no_memory = |source| Error::OutOfMemory { path: path.to_owned(), bytes: len, source };
    let too_much = || no_memory(std::io::ErrorKind::OutOfMemory.into());
    let len = usize::try_from(len).map_err(|_| too_much())?;
    let mut map = MmapMut::map_anon(len.checked_add(HUGE_PAGE).ok_or_else(too_much)?).map_err(no_memory)?;
    let start = map.as_ptr().addr().wrapping_neg() % HUGE_PAGE;
    let range = start..start + len;
    // Only for speed: small pages hold the same bytes.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    for (i, to) in map[range.clone()].chunks_mut(STEP).enumerate() {
        read_at(file, to, (i * STEP) as u64).map_err(Error::io("read", path))?;
        if watch((i * STEP + to.len()) as u64, len as u64).is_break() {
            return Err(Error::Interrupted { path: path.to_owned() });
        }
    }
    let map = map.make_read_only().map_err(no_memory)?;
    Ok(Bytes { storage: Storage::Arena(Arc::new(map)), range })
}

/// Without a look at where the file is read at the moment, nor a change of it: that is its owner's.
#[cfg(unix)]
fn read_at(file: &File, to: &mut [u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, to, at)
}

#[cfg(not(unix))]
fn read_at(mut file: &File, to: &mut [u8], at: u64) -> std::io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(to)
}
