//! Models split over several files, `name-00001-of-0000N.gguf`, as llama.cpp's gguf-split writes them.
//!
//! The first file is given and has the metadata; the others are found beside it by name and must say that
//! they belong: same count, their own number, and as many tensors together as the first one promises.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::reader::GgufFile;

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";
/// Far above any real model; bounds how many files are opened.
const MAX_SHARDS: u64 = 4096;

/// The file at `path`, and the other shards if it is the first of several.
pub(crate) fn open_all(path: &Path) -> Result<Vec<GgufFile>, Error> {
    let first = GgufFile::open(path)?;
    let count = number(&first, COUNT)?.unwrap_or(1);
    if count <= 1 {
        return Ok(vec![first]);
    }
    if count > MAX_SHARDS {
        return Err(Error::key(path, COUNT, format!("is {count}, expected at most {MAX_SHARDS}; the file is damaged")));
    }
    let names = ShardNames::parse(path, count)?;
    if number(&first, NUMBER)? != Some(0) {
        return Err(split_error(path, format!("is not the first of {count} files; open {}", names.path(1).display())));
    }
    let mut shards = vec![first];
    for i in 1..count {
        shards.push(open_part(&names.path(i + 1), i, count)?);
    }
    check_together(&shards)?;
    Ok(shards)
}

fn open_part(path: &Path, i: u64, count: u64) -> Result<GgufFile, Error> {
    if !path.exists() {
        let problem = format!("is missing: it is part {} of the {count} files of this model; fetch it too", i + 1);
        return Err(split_error(path, problem));
    }
    let shard = GgufFile::open(path)?;
    for (key, expected) in [(NUMBER, i), (COUNT, count)] {
        match number(&shard, key)? {
            Some(n) if n == expected => {}
            found => {
                let found = found.map_or("missing".to_owned(), |n| n.to_string());
                let problem = format!("is {found}, expected {expected}; this file is not of the same model");
                return Err(Error::key(path, key, problem));
            }
        }
    }
    Ok(shard)
}

fn check_together(shards: &[GgufFile]) -> Result<(), Error> {
    let have: u64 = shards.iter().map(|s| s.tensors().len() as u64).sum();
    if let Some(promised) = number(&shards[0], TENSORS)?.filter(|n| *n != have) {
        let problem = format!("is {promised}, but the files hold {have} tensors; fetch all of them again");
        return Err(Error::key(shards[0].path(), TENSORS, problem));
    }
    let mut names = HashSet::new();
    for shard in shards {
        if let Some(twice) = shard.tensors().iter().find(|t| !names.insert(&t.name)) {
            return Err(Error::tensor(
                shard.path(),
                &twice.name,
                "is in an earlier file too; the files do not belong together",
            ));
        }
    }
    Ok(())
}

fn number(file: &GgufFile, key: &str) -> Result<Option<u64>, Error> {
    let Some(value) = file.metadata().get(key) else {
        return Ok(None);
    };
    let wrong = || Error::key(file.path(), key, format!("is {}, expected a number from 0 up", value.describe()));
    value.as_u64().map(Some).ok_or_else(wrong)
}

fn split_error(path: &Path, problem: String) -> Error {
    Error::Split { path: path.to_owned(), problem }
}

/// What the names of a split model's files have in common.
struct ShardNames {
    folder: PathBuf,
    prefix: String,
    count: u64,
}

impl ShardNames {
    fn parse(path: &Path, count: u64) -> Result<Self, Error> {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let tail = format!("-of-{count:05}.gguf");
        let prefix = name.strip_suffix(&tail).and_then(|stem| {
            let (prefix, digits) = stem.split_at_checked(stem.len().checked_sub(6)?)?;
            let digits = digits.strip_prefix('-')?;
            digits.bytes().all(|b| b.is_ascii_digit()).then_some(prefix)
        });
        let Some(prefix) = prefix else {
            let problem = format!("is part of a model in {count} files and must keep its name, NAME-00001{tail}");
            return Err(split_error(path, problem));
        };
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(ShardNames { folder, prefix: prefix.to_owned(), count })
    }

    /// The file of shard `n`, from 1.
    fn path(&self, n: u64) -> PathBuf {
        self.folder.join(format!("{}-{n:05}-of-{:05}.gguf", self.prefix, self.count))
    }
}
