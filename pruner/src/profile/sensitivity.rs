//! What was measured of each matrix, and a file that keeps it: for a run that is resumed, or for another size of the same model
//! and text.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::allocation::Treatment;
use crate::error::Error;

const FORMAT: &str = "sparse-prune sensitivity 1";

/// No such file of ours is longer.
const MOST_BYTES: u64 = 64 << 20;

/// A file that keeps what [`super::Profile::Auto`] measures, and gives it to a later run.
#[derive(Clone, Debug)]
pub struct SensitivityFile {
    /// Where it is.
    pub path: PathBuf,
    /// What the hash of the source's files is: measures of another are not taken.
    pub source_sha256: String,
    /// Whether measures of another model, text or program are written over; an error if not.
    pub replace: bool,
}

/// Expected losses, nats, of the treatments of each tensor.
pub(super) struct Sensitivity<'a> {
    file: Option<&'a SensitivityFile>,
    found: Found,
}

/// What the file says.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Found {
    format: String,
    /// What it was measured of, and with.
    of: BTreeMap<String, String>,
    losses: BTreeMap<String, BTreeMap<String, f64>>,
}

impl<'a> Sensitivity<'a> {
    /// What `file` has of a measurement that is told by `facts`; nothing without a file.
    pub(super) fn open(file: Option<&'a SensitivityFile>, facts: &[(&str, String)]) -> Result<Self, Error> {
        let sources = file.map(|file| ("source", file.source_sha256.clone()));
        let of = facts.iter().cloned().chain(sources).map(|(key, value)| (key.to_owned(), value)).collect();
        let none = Found { format: FORMAT.to_owned(), of, losses: BTreeMap::new() };
        let found = match file.map(|file| (file, Found::read(&file.path))) {
            Some((file, found)) => match found? {
                Some(found) if found.of == none.of => found,
                Some(found) if !file.replace => return Err(found.other(&none, &file.path)),
                _ => none,
            },
            None => none,
        };
        Ok(Sensitivity { file, found })
    }

    /// The losses of `tensor`, if all of `treatments` were measured.
    pub(super) fn losses(&self, tensor: &str, treatments: &[Treatment]) -> Option<Vec<f64>> {
        let losses = self.found.losses.get(tensor)?;
        treatments.iter().map(|t| losses.get(&t.to_string()).copied()).collect()
    }

    /// Takes note of what was measured.
    pub(super) fn add(&mut self, tensor: &str, treatments: &[Treatment], losses: &[f64]) {
        let losses = treatments.iter().zip(losses).map(|(t, loss)| (t.to_string(), *loss));
        self.found.losses.entry(tensor.to_owned()).or_default().extend(losses);
    }

    /// Writes the file, if there is one to be kept.
    pub(super) fn save(&self) -> Result<(), Error> {
        self.file.map_or(Ok(()), |file| self.found.write(&file.path))
    }
}

impl Found {
    /// What the file at `path` says; `None` if there is none.
    fn read(path: &Path) -> Result<Option<Found>, Error> {
        let mut text = String::new();
        match File::open(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text)),
        }
        .map_err(Error::io("read", path))?;
        let damaged = |problem: String| Error::NoSensitivity { path: path.to_owned(), problem };
        let found: Found = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
        match found.losses.values().flat_map(BTreeMap::values).all(|loss| loss.is_finite()) {
            _ if found.format != FORMAT => Err(damaged(format!("it is of `{}`", found.format))),
            true => Ok(Some(found)),
            false => Err(damaged("a loss is not finite".to_owned())),
        }
    }

    /// Beside its place first, so that a kill leaves the old one or the new one.
    fn write(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::io("write", path)(e.into()))?;
        Ok(spm::claim::write_whole(path, text.as_bytes())?)
    }

    fn other(&self, wanted: &Found, path: &Path) -> Error {
        let all = self.of.keys().chain(wanted.of.keys());
        let mut differing: Vec<&str> =
            all.filter(|key| self.of.get(*key) != wanted.of.get(*key)).map(String::as_str).collect();
        differing.sort_unstable();
        differing.dedup();
        Error::OtherSensitivity { path: path.to_owned(), differences: differing.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocation::ValueType;

    fn file(path: PathBuf, source: &str, replace: bool) -> SensitivityFile {
        SensitivityFile { path, source_sha256: source.to_owned(), replace }
    }

    #[test]
    fn what_is_kept_is_found_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept");
        let facts = [("tokens", "abc".to_owned())];
        let treatments = [Treatment::dense(ValueType::Q8), Treatment::dense(ValueType::Q4)];
        let losses = [0.1 + 0.2, 1.0 / 3.0 * 1e-17];
        let own = file(path.clone(), "s", false);
        let mut kept = Sensitivity::open(Some(&own), &facts).unwrap();
        assert_eq!(kept.losses("a", &treatments), None);
        kept.add("a", &treatments, &losses);
        kept.save().unwrap();
        let again = Sensitivity::open(Some(&own), &facts).unwrap();
        assert_eq!(again.losses("a", &treatments), Some(losses.to_vec()));
        assert_eq!(again.losses("a", &[Treatment::dense(ValueType::Q5)]), None, "not measured");
        let other = Sensitivity::open(Some(&file(path.clone(), "t", false)), &facts).err().unwrap().to_string();
        assert!(other.contains("source"), "{other}");
        let replacing = file(path, "t", true);
        assert_eq!(Sensitivity::open(Some(&replacing), &facts).unwrap().losses("a", &treatments), None);
    }

    /// A user's file at that place is never written over.
    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.json");
        let facts = [("tokens", "abc".to_owned())];
        for text in [
            "",
            "my notes",
            "{}",
            r#"{"format": "other", "of": {}, "losses": {}}"#,
            r#"{"format": "sparse-prune sensitivity 1", "of": {}, "losses": {"a": {"q8": 1e999}}}"#,
            r#"{"format": "sparse-prune sensitivity 1", "of": {}, "losses": {"a": {"q8": null}}}"#,
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Sensitivity::open(Some(&file(path.clone(), "s", true)), &facts).err();
            let error = error.unwrap_or_else(|| panic!("taken: {text}")).to_string();
            assert!(error.contains("mine.json"), "{error}");
        }
    }
}
