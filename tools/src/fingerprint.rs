//! What files are, whatever they are called.

use std::fs::File;
use std::path::PathBuf;

use crate::failure::Failure;

/// A BLAKE3 hash of all that is in `files`, one after another, as 64 hexadecimal digits.
pub fn of_files(files: &[PathBuf]) -> Result<String, Failure> {
    let mut hasher = blake3::Hasher::new();
    for path in files {
        let failed = |e: std::io::Error| Failure::Runtime(format!("{}: cannot read: {e}", path.display()));
        hasher.update_reader(File::open(path).map_err(failed)?).map_err(failed)?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_counts() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| folder.path().join(name));
        let hash_of = |texts: [&str; 2]| {
            paths.iter().zip(texts).for_each(|(path, text)| std::fs::write(path, text).unwrap());
            of_files(&paths).unwrap()
        };
        let hash = hash_of(["one", "two"]);
        assert_eq!(hash, blake3::hash(b"onetwo").to_hex().as_str());
        assert_ne!(hash_of(["one", "twin"]), hash);
        let Err(Failure::Runtime(message)) = of_files(&[folder.path().join("none")]) else { panic!() };
        assert!(message.contains("none: cannot read"), "{message}");
    }
}
