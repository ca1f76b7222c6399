//! What a pruning has done so far, on disk while it lasts: a run that was killed goes on from there, to the same bytes.
//!
//! ```text
//! header    magic, version, lengths, a hash, what is pruned and how, a hash
//! slots     two: the hidden states of all windows where a layer begins, a hash
//! records   a finished matrix each, and in the end the identity of the finished file
//! ```
//!
//! Records are appended, each with a hash of the header and all records up to it: what a kill or a full disk tore is cut
//! off after the last whole one. Hidden states go to the slot with the older ones, so that at any time one of the two is
//! whole, and name the record that they follow. Hashes are BLAKE3's, numbers little-endian.
//!
//! Nothing in the file is trusted: lengths are compared with what the model's shapes allow before memory is asked for.

mod fingerprint;
mod header;
mod log;
mod record;
mod slots;

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use spm::claim::{claim, reserve};

pub use self::fingerprint::Fingerprint;
use self::header::Header;
use self::log::Log;
use self::slots::{SlotReader, SlotWriter, Slots};
use crate::error::Error;
use crate::outcome::Outcome;

/// What to do with the journal of an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Earlier {
    /// Leave it, and fail.
    Refuse,
    /// Write over it.
    Discard,
    /// Go on from it; from the beginning where there is none.
    Resume,
}

/// How a journal is kept.
#[derive(Clone, Copy, Debug)]
pub struct JournalOptions {
    /// What to do with the journal of an earlier run.
    pub earlier: Earlier,
    /// Bytes to reserve, so that a full disk is noticed at the start; 0 reserves nothing.
    pub expected_bytes: u64,
    /// How often, at most, hidden states are saved and the disk is waited for: about the work that a kill costs.
    pub interval: Duration,
}

impl Default for JournalOptions {
    fn default() -> Self {
        JournalOptions { earlier: Earlier::Refuse, expected_bytes: 0, interval: Duration::from_secs(30) }
    }
}

/// The journal of one pruning, this process's own while it is open. Dropped before anything was noted, it removes its
/// file.
pub struct Journal {
    path: PathBuf,
    fingerprint: Fingerprint,
    log: Log,
    slots: Slots,
    /// How many of the matrices found have been handed out.
    handed_out: usize,
    interval: Duration,
    saved: Instant,
    synced: Instant,
    is_removed: bool,
}

impl Journal {
    /// The journal of the pruning that writes `output`: `OUTPUT.journal`.
    pub fn path_for(output: &Path) -> PathBuf {
        let mut name = OsString::from(output);
        name.push(".journal");
        name.into()
    }

    /// Opens the journal at `path` of the pruning that `fingerprint` tells.
    ///
    /// Fails where the journal there is of another pruning ([`Error::OtherJournal`] says what differs), is not expected
    /// ([`Error::Unfinished`]), or in the hands of another process.
    pub fn open(path: &Path, fingerprint: Fingerprint, options: &JournalOptions) -> Result<Self, Error> {
        let file = claim(path)?;
        let header = Header::of(&fingerprint);
        let slots = Slots::new(header.len(), fingerprint.state_bytes());
        let log = match earlier_log(&file, path, options.earlier)? {
            Some(_) if options.earlier == Earlier::Refuse => return Err(Error::Unfinished { path: path.to_owned() }),
            Some((found, mut log)) => {
                found.fingerprint().check(&fingerprint, path)?;
                log.cut().map_err(Error::io("write", path))?;
                log
            }
            None => Log::begin(file, &header, slots.end()).map_err(Error::io("write", path))?,
        };
        let now = Instant::now();
        let mut journal = Journal {
            path: path.to_owned(),
            fingerprint,
            log,
            slots,
            handed_out: 0,
            interval: options.interval,
            saved: now,
            synced: now,
            is_removed: false,
        };
        journal.slots.scan(journal.log.file(), journal.log.hashes()).map_err(Error::io("read", path))?;
        reserve(journal.log.file(), options.expected_bytes).map_err(Error::io("reserve room", path))?;
        Ok(journal)
    }

    /// Matrices that earlier runs finished.
    pub fn found(&self) -> usize {
        self.log.matrices().len()
    }

    /// Whether there is anything to go on from.
    pub fn holds_work(&self) -> bool {
        self.log.hashes().len() > 1
    }

    /// Notes that the whole model is on the disk and about to get its name; `identity` is that of the file.
    pub fn finish(&mut self, identity: &str) -> Result<(), Error> {
        self.log.append(&[&record::finished(identity)]).map_err(Error::io("write", &self.path))?;
        self.sync()
    }

    /// Removes the file: what it was kept for is there.
    pub fn remove(mut self) -> Result<(), Error> {
        self.is_removed = true;
        fs::remove_file(&self.path).map_err(Error::io("remove", &self.path))
    }

    /// Removes the journal at `path` if a run was killed just after its file, of this `identity`, had got its name.
    /// Returns whether that was so.
    pub fn remove_if_finished(path: &Path, identity: &str) -> Result<bool, Error> {
        if fs::symlink_metadata(path).is_err() {
            return Ok(false);
        }
        let file = claim(path)?;
        let found = earlier_log(&file, path, Earlier::Resume)?;
        if found.is_none_or(|(_, log)| log.finished() != Some(identity)) {
            return Ok(false);
        }
        fs::remove_file(path).map_err(Error::io("remove", path))?;
        Ok(true)
    }

    /// Refuses to go on with another pruning than the one it was opened for.
    pub(crate) fn check(&self, now: &Fingerprint) -> Result<(), Error> {
        self.fingerprint.check(now, &self.path)
    }

    /// The hash of the source's files that it was opened with.
    pub(crate) fn source_sha256(&self) -> &str {
        self.fingerprint.source_sha256()
    }

    /// Whether an earlier run finished the `n` matrices that come next.
    pub(crate) fn has_next(&self, n: usize) -> bool {
        self.handed_out + n <= self.found()
    }

    /// The next matrix that an earlier run finished, which must be `name`; `None` after the last.
    pub(crate) fn next_matrix(&mut self, name: &str, shape: (usize, usize)) -> Result<Option<Outcome>, Error> {
        let n = self.handed_out;
        let Some(&place) = self.log.matrices().get(n) else { return Ok(None) };
        let damaged = |problem| Error::DamagedJournal { path: self.path.clone(), problem };
        if place.len > record::most_bytes(name, shape) {
            return Err(damaged(format!("matrix {n} has {} bytes, too many for `{name}`", place.len)));
        }
        let bytes = self.log.read(place).map_err(Error::io("read", &self.path))?;
        let found = record::parse_matrix(&bytes, name, shape);
        let found = found.map_err(|problem| damaged(format!("matrix {n}: {problem}")))?;
        self.handed_out += 1;
        Ok(Some(found))
    }

    /// Notes a finished matrix.
    pub(crate) fn note_matrix(&mut self, name: &str, found: &Outcome) -> Result<(), Error> {
        let head = record::matrix_head(name, found);
        self.log.append(&[&head, found.stored.stored_bytes()]).map_err(Error::io("write", &self.path))?;
        if self.synced.elapsed() < self.interval {
            return Ok(());
        }
        self.sync()
    }

    /// The layer that begins with the newest hidden states.
    pub(crate) fn saved_layer(&self) -> Option<usize> {
        self.slots.newest().map(|slot| slot.layer)
    }

    /// The hidden states that [`Self::saved_layer`] begins with, to be read one window after another.
    pub(crate) fn saved_states(&self) -> Result<SlotReader<'_>, Error> {
        self.slots.read(self.log.file(), &self.path)
    }

    /// Whether the newest hidden states are older than they may become.
    pub(crate) fn wants_states(&self) -> bool {
        self.saved.elapsed() >= self.interval
    }

    /// Begins to save the hidden states with which `layer` begins; [`Self::keep_states`] ends it.
    pub(crate) fn save_states(&mut self, layer: usize) -> Result<SlotWriter<'_>, Error> {
        let hashes = self.log.hashes();
        let after = hashes.len() - 1;
        self.slots.write(self.log.file(), &self.path, layer, (after as u64, hashes[after]))
    }

    /// Takes what [`Self::save_states`] wrote for the newest hidden states, once they are on the disk.
    pub(crate) fn keep_states(&mut self, layer: usize) -> Result<(), Error> {
        self.sync()?;
        self.slots.keep(layer);
        self.saved = Instant::now();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.log.file().sync_data().map_err(Error::io("write", &self.path))?;
        self.synced = Instant::now();
        Ok(())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if !self.is_removed && !self.holds_work() {
            // Nobody is left to be told, and an empty journal does no harm.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What an earlier run left in `file`, if there is any work in it and it is not to be discarded.
fn earlier_log(file: &File, path: &Path, earlier: Earlier) -> Result<Option<(Header, Log)>, Error> {
    let header = match Header::find(file, path) {
        Err(Error::DamagedJournal { .. }) if earlier == Earlier::Discard => return Ok(None),
        found => found?,
    };
    let Some(header) = header.filter(|_| earlier != Earlier::Discard) else { return Ok(None) };
    let records = Slots::new(header.len(), header.state_bytes()).end();
    let log = file.try_clone().and_then(|file| Log::find(file, &header, records));
    let log = log.map_err(Error::io("read", path))?;
    Ok((log.hashes().len() > 1).then_some((header, log)))
}

/// BLAKE3.
type Hash = [u8; 32];
