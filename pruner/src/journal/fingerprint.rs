//! What tells one pruning from another.

use std::collections::BTreeMap;
use std::path::Path;

use spm::Checkpoint;

use crate::driver::Known;
use crate::error::Error;
use crate::method::Needs;
use crate::options::PruneOptions;
use crate::provenance::{lengths_of_windows, sha256_of_windows};
use crate::statistics::ColumnNorms;

/// Differences that are told one by one.
const MOST_SAID: usize = 5;

/// All that a pruning's result depends on: of the program, the model, the options and the calibration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    facts: Vec<(String, String)>,
    state_bytes: u64,
}

impl Fingerprint {
    /// Of pruning `source`, whose files have the SHA-256 `source_sha256`.
    pub fn new(source: &dyn Checkpoint, source_sha256: &str, options: &PruneOptions, known: Known) -> Fingerprint {
        let program = format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        let mut facts = vec![("program".to_owned(), program), ("source".to_owned(), source_sha256.to_owned())];
        facts.extend(options.facts());
        if let Known::Norms(norms) = known {
            facts.push(("norms".to_owned(), hash_of_norms(norms)));
        }
        let windows = known.windows(options);
        if !windows.is_empty() {
            facts.push(("calibration windows".to_owned(), lengths_of_windows(windows)));
            facts.push(("calibration tokens".to_owned(), sha256_of_windows(windows)));
            // Other kernels add in another order.
            facts.push(("kernels".to_owned(), runtime::simd::best().name().to_owned()));
        }
        let tokens: usize = windows.iter().map(Vec::len).sum();
        let streams = if options.needs() == Needs::DenseOutputs { 2 } else { 1 };
        Fingerprint { facts, state_bytes: streams * tokens as u64 * source.config().dim as u64 * 4 }
    }

    /// Bytes of the hidden states of all windows, those of the dense model too where it is followed.
    pub(super) fn state_bytes(&self) -> u64 {
        self.state_bytes
    }

    /// The hash of the source's files.
    pub(super) fn source_sha256(&self) -> &str {
        self.facts.iter().find(|(key, _)| key == "source").map_or("", |(_, value)| value)
    }

    /// Refuses what differs from this, the fingerprint of the journal at `path`.
    pub(super) fn check(&self, now: &Fingerprint, path: &Path) -> Result<(), Error> {
        match self == now {
            true => Ok(()),
            false => Err(Error::OtherJournal { path: path.to_owned(), differences: self.differences(now) }),
        }
    }

    /// What `other` says differently, for people.
    fn differences(&self, other: &Fingerprint) -> String {
        let none = "nothing";
        let keys = self.facts.iter().chain(other.facts.iter().filter(|(key, _)| self.get(key).is_none()));
        let differing = keys.filter(|(key, _)| self.get(key) != other.get(key));
        let said = differing.map(|(key, _)| {
            format!("{key} was {}, is {}", self.get(key).unwrap_or(none), other.get(key).unwrap_or(none))
        });
        let said: Vec<String> = said.collect();
        match said.len() {
            0..=MOST_SAID => said.join("; "),
            n => format!("{}; and {} more", said[..MOST_SAID].join("; "), n - MOST_SAID),
        }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.facts.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// Keys and values, each after its length in four bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let texts = self.facts.iter().flat_map(|(key, value)| [key, value]);
        texts.flat_map(|text| [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()).collect()
    }

    pub(super) fn parse(mut bytes: &[u8], state_bytes: u64) -> Option<Fingerprint> {
        let mut facts = Vec::new();
        while !bytes.is_empty() {
            facts.push((take_text(&mut bytes)?, take_text(&mut bytes)?));
        }
        Some(Fingerprint { facts, state_bytes })
    }
}

fn hash_of_norms(norms: &BTreeMap<String, ColumnNorms>) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, norms) in norms {
        hasher.update(name.as_bytes());
        for square in norms.squares() {
            hasher.update(&square.to_le_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}

fn take_text(bytes: &mut &[u8]) -> Option<String> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).ok()
}
