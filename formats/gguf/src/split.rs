//! Models in several files, `NAME-00001-of-0000N.gguf`: keys from the first, tensors from all.

use std::path::{Path, PathBuf};

use crate::error::{Error, Fault};
use crate::reader::{GgufFile, Keys, Tensor};

const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TOTAL: &str = "split.tensors.count";
const MAX_FILES: usize = 1000;

/// All files of a model together.
pub(crate) struct Whole {
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) keys: Keys,
    pub(crate) tensors: Vec<Tensor>,
}

pub(crate) fn open(path: &Path) -> Result<Whole, Error> {
    let first = GgufFile::open(path)?;
    let at = |f: Fault| f.at(path);
    let count = first.keys.integer(COUNT).map_err(at)?.unwrap_or(1);
    if count > MAX_FILES {
        return Err(at(Fault::key(COUNT, format!("is {count}, expected at most {MAX_FILES}"))));
    }
    if count <= 1 {
        return Ok(Whole { paths: vec![path.to_owned()], keys: first.keys, tensors: first.tensors });
    }
    let number = first.keys.integer(NUMBER).map_err(at)?.unwrap_or(0);
    let stem = stem(path, number, count).map_err(at)?;
    if number != 0 {
        let name = shard_name(&stem, 0, count);
        return Err(at(Fault::key(NUMBER, format!("is {number}: not the first file; give {name}"))));
    }
    let mut whole = Whole { paths: vec![path.to_owned()], keys: first.keys, tensors: first.tensors };
    for i in 1..count {
        let next = path.with_file_name(shard_name(&stem, i, count));
        let shard = GgufFile::open(&next)?;
        check_shard(&shard, i, count).map_err(|f| f.at(&next))?;
        whole.tensors.extend(shard.tensors);
        whole.paths.push(next);
    }
    check_total(&whole).map_err(at)?;
    Ok(whole)
}

/// The part of the name before `-00001-of-00003.gguf`, which must say what the keys say.
fn stem(path: &Path, number: usize, count: usize) -> Result<String, Fault> {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let suffix = shard_name("", number, count);
    match name.strip_suffix(&suffix) {
        Some(stem) => Ok(stem.to_owned()),
        None => Err(Fault::key(
            COUNT,
            format!("is {count}, so the file's name should end in {suffix}; name the files as they were"),
        )),
    }
}

fn shard_name(stem: &str, number: usize, count: usize) -> String {
    format!("{stem}-{:05}-of-{count:05}.gguf", number + 1)
}

fn check_shard(shard: &GgufFile, number: usize, count: usize) -> Result<(), Fault> {
    let said = (shard.keys.integer(NUMBER)?, shard.keys.integer(COUNT)?);
    match said {
        (Some(n), Some(c)) if (n, c) == (number, count) => Ok(()),
        (n, c) => Err(Fault::key(NUMBER, format!("says file {n:?} of {c:?}, expected {number} of {count}"))),
    }
}

fn check_total(whole: &Whole) -> Result<(), Fault> {
    let have = whole.tensors.len();
    match whole.keys.integer(TOTAL)? {
        Some(n) if n != have => Err(Fault::key(TOTAL, format!("is {n}, the files have {have} tensors"))),
        _ => Ok(()),
    }
}
