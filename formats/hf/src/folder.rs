//! Which files of a folder hold the weights: `model.safetensors`, or the shards that `model.safetensors.index.json` names.
//!
//! The index is a stranger's: it may name plain files of the folder and nothing else, no path, and no link out of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, shown};
use crate::json;
use crate::shard::Shard;

const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Of an index; Llama 3 405B's has 0.1 MB.
const MOST_INDEX_BYTES: u64 = 64 << 20;
/// Far above any real model; bounds how many files are opened.
const MAX_SHARDS: usize = 4096;

/// Opens the weights of a folder.
pub(crate) fn open_shards(folder: &Path) -> Result<Vec<Shard>, Error> {
    let (whole, index) = (folder.join(WHOLE), folder.join(INDEX));
    if whole.exists() {
        check_place(folder, &whole)?;
        return Ok(vec![Shard::open(&whole)?]);
    }
    if !index.exists() {
        return Err(Error::folder(folder, nothing_to_read(folder)));
    }
    let names = shard_names(&index)?;
    let open = |name: &String| {
        let path = folder.join(name);
        if !path.exists() {
            return Err(Error::folder(&path, format!("is missing: {INDEX} names it; fetch it too")));
        }
        check_place(folder, &path)?;
        Shard::open(&path)
    };
    names.iter().map(open).collect()
}

fn nothing_to_read(folder: &Path) -> String {
    let is_pickle = |path: &Path| path.extension().is_some_and(|e| e == "bin" || e == "pt" || e == "pth");
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    match files.into_iter().find(|path| is_pickle(path)) {
        Some(path) => {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            format!(
                "has its weights as {}, a Python pickle, which can run any code when it is read; fetch the model as \
                 safetensors, or convert it with transformers' `save_pretrained`",
                shown(&name)
            )
        }
        None => format!("has neither {WHOLE} nor {INDEX}; download the whole model"),
    }
}

/// The files that an index names, each once.
fn shard_names(index: &Path) -> Result<Vec<String>, Error> {
    const KEY: &str = "weight_map";
    let map = json::read(index, MOST_INDEX_BYTES)?;
    let weights = map.get(KEY).and_then(Value::as_object);
    let weights = weights.ok_or_else(|| Error::key(index, KEY, "is no object of file names; download it again"))?;
    let mut names = BTreeSet::new();
    for name in weights.values() {
        let name = name.as_str().filter(|name| is_plain(name));
        names.insert(name.map(str::to_owned).ok_or_else(|| {
            Error::key(index, KEY, "names something else than a plain .safetensors file of the same folder")
        })?);
    }
    match names.len() {
        1..=MAX_SHARDS => Ok(names.into_iter().collect()),
        n => Err(Error::key(index, KEY, format!("names {n} files, expected 1 to {MAX_SHARDS}"))),
    }
}

fn is_plain(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
    name.ends_with(".safetensors") && !name.starts_with('.') && name.chars().all(is_plain)
}

/// A link may lead to a file of the folder, or to where the hub's cache keeps a folder's files.
fn check_place(folder: &Path, file: &Path) -> Result<(), Error> {
    let real = |path: &Path| std::fs::canonicalize(path);
    let (Ok(folder), Ok(target)) = (real(folder), real(file)) else {
        return Ok(());
    };
    let inside = target.parent() == Some(&folder) || blobs_of(&folder).is_some_and(|b| target.parent() == Some(&b));
    match inside {
        true => Ok(()),
        false => Err(Error::folder(file, "is a link out of the folder; put the file itself there")),
    }
}

/// `models--X/blobs` of `models--X/snapshots/REVISION`.
fn blobs_of(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.parent().filter(|p| p.file_name().is_some_and(|n| n == "snapshots"))?;
    Some(snapshots.parent()?.join("blobs"))
}
