//! Files that are written over hours: by one process at a time, on room reserved beforehand.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use fs4::FileExt;
use tempfile::{NamedTempFile, TempPath};

use crate::error::Error;
use crate::folder_of;

/// Opens `path` for reading and writing, with what it holds, or creates it; it is this process's own until it is closed.
/// Where a file system has no locks nothing keeps others off.
pub fn claim(path: &Path) -> Result<File, Error> {
    // A link would lead to a file of another name, a pipe nowhere.
    if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = opened.map_err(Error::io("create", path))?;
    match lock(&file) {
        Err(TryLockError::WouldBlock) => return Err(Error::Busy { path: path.to_owned() }),
        Err(TryLockError::Error(e)) if e.kind() != ErrorKind::Unsupported => return Err(Error::io("lock", path)(e)),
        _ => {}
    }
    // Who had it until now may have removed it, or given it another name.
    let locked = file.try_clone().and_then(same_file::Handle::from_file).map_err(Error::io("lock", path))?;
    match same_file::Handle::from_path(path) {
        Ok(named) if named == locked => Ok(file),
        _ => Err(Error::Busy { path: path.to_owned() }),
    }
}

/// An empty `.NAME.unfinished` beside `path`, this process's own, to get that name once it is whole. Dropped before, it
/// is gone; what a killed process left of it is written over.
pub fn unfinished(path: &Path) -> Result<NamedTempFile, Error> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".unfinished");
    let beside = folder_of(path).join(name);
    // Of the file that was asked for, not of the one that is to get its name.
    let named = |error| match error {
        Error::Io { action, source, .. } => Error::Io { action, path: path.to_owned(), source },
        other => other,
    };
    let file = claim(&beside).map_err(named)?;
    file.set_len(0).map_err(Error::io("write", path))?;
    let removed_on_drop = TempPath::try_from_path(&beside).map_err(Error::io("create", &beside))?;
    Ok(NamedTempFile::from_parts(file, removed_on_drop))
}

/// Writes a file that is there whole, or as it was before.
pub fn write_whole(path: &Path, contents: &[u8]) -> Result<(), Error> {
    let mut file = unfinished(path)?;
    file.write_all(contents)
        .and_then(|()| file.as_file().sync_all())
        .and_then(|()| file.persist(path).map(drop).map_err(std::io::Error::from))
        .map_err(Error::io("write", path))
}

/// Locks `file` for this process, or says that another has it.
///
/// A program that another thread is starting has all files of this process, and their locks, until it has begun: so a lock that
/// is held is waited for a little.
pub fn lock(file: &File) -> Result<(), TryLockError> {
    const TRIES: usize = 20;
    for _ in 1..TRIES {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(5)),
            other => return other,
        }
    }
    file.try_lock()
}

/// Makes `file` at least `bytes` long, on room that is there. File systems that cannot reserve are taken as they are; a
/// full one is an error now instead of later.
pub fn reserve(file: &File, bytes: u64) -> std::io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    match file.allocate(bytes) {
        Err(e) if matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Err(e),
        _ => Ok(()),
    }
}
