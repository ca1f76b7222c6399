//! What a file is, whatever it is called.

use std::fs::File;
use std::path::Path;

use crate::failure::Failure;

/// A BLAKE3 hash of all of it, as 64 hexadecimal digits.
pub fn of_file(path: &Path) -> Result<String, Failure> {
    let failed = |e: std::io::Error| Failure::Runtime(format!("{}: cannot read: {e}", path.display()));
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).map_err(failed)?).map_err(failed)?;
    Ok(hasher.finalize().to_hex().to_string())
}
