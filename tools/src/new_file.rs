//! Files that a command makes: they appear whole or not at all, and replace nothing.

use std::fs;
use std::io::Write;
use std::path::Path;

use spm::claim::unfinished;

use crate::failure::Failure;

/// Refuses before any work is done if something is at `path` already.
pub fn refuse_existing(path: &Path) -> Result<(), Failure> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(exists(path)),
        Err(_) => Ok(()),
    }
}

/// Writes `contents` to a new file at `path`.
pub fn write_new(path: &Path, contents: impl AsRef<[u8]>) -> Result<(), Failure> {
    let refused = |e: std::io::Error| Failure::Runtime(format!("{}: cannot write: {e}", path.display()));
    let mut file = unfinished(path).map_err(|e| Failure::Runtime(e.to_string()))?;
    file.write_all(contents.as_ref()).map_err(refused)?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => Err(exists(path)),
        Err(e) => Err(refused(e.error)),
    }
}

fn exists(path: &Path) -> Failure {
    Failure::Runtime(format!("{}: exists already; move it away or give another name", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.html");
        fs::write(folder.path().join(".a.html.unfinished"), "of a killed process, longer than what comes").unwrap();
        refuse_existing(&path).unwrap();
        write_new(&path, "first").unwrap();
        for refused in [refuse_existing(&path), write_new(&path, "second")] {
            let Err(Failure::Runtime(message)) = refused else { panic!("{refused:?}") };
            assert!(message.ends_with("a.html: exists already; move it away or give another name"), "{message}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing unfinished is left");
    }
}
