//! Hashes that say what a sub-model was made from.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::Error;

/// SHA-256 of a file's bytes, in hexadecimal.
pub fn sha256_of_file(path: &Path) -> Result<String, Error> {
    let io = |action| move |source| Error::Io { action, path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io("open"))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer).map_err(io("read"))? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// SHA-256 of a model's files: of the one file, or of several files' hashes (hexadecimal, one after another).
pub fn sha256_of_files(paths: &[PathBuf]) -> Result<String, Error> {
    let hashes = paths.iter().map(|p| sha256_of_file(p)).collect::<Result<Vec<_>, _>>()?;
    match &hashes[..] {
        [one] => Ok(one.clone()),
        all => Ok(hex(&Sha256::digest(all.concat()))),
    }
}

/// SHA-256 of all windows' ids, each as four little-endian bytes, in hexadecimal.
pub fn sha256_of_windows(windows: &[Vec<u32>]) -> String {
    let mut hash = Sha256::new();
    windows.iter().flatten().for_each(|id| hash.update(id.to_le_bytes()));
    hex(&hash.finalize())
}

/// Such as `64 of 512`, or each window's length.
pub(crate) fn lengths_of_windows(windows: &[Vec<u32>]) -> String {
    let (n, first) = (windows.len(), windows.first().map_or(0, Vec::len));
    if windows.iter().all(|w| w.len() == first) {
        return format!("{n} of {first}");
    }
    windows.iter().map(|w| w.len().to_string()).collect::<Vec<_>>().join(", ")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{b:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_sha256sum_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_of_file(&path).unwrap(), abc);
        let as_id = u32::from_le_bytes(*b"abcd");
        assert_eq!(
            sha256_of_windows(&[vec![as_id]]),
            "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589",
            "sha256 of \"abcd\""
        );
        // Of that text twice: checked with `hashlib`.
        let twice = "ef0b92fb2a4b58805e0538769342076c79f68fe9dae077fe6bc5c418a4bab706";
        assert_eq!(sha256_of_files(&[path.clone(), path.clone()]).unwrap(), twice);
        assert_eq!(sha256_of_files(std::slice::from_ref(&path)).unwrap(), abc);
        assert!(sha256_of_file(&folder.path().join("none")).unwrap_err().to_string().contains("cannot open"));
    }
}
