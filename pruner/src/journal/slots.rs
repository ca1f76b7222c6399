//! Two places for the hidden states of all windows, so that while one is written the other is whole.
//!
//! A slot is the layer (u64), the number of records before it (u64), the hash of these, the states (f32), and a hash of
//! all that.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::Hash;
use super::log::{copy_to, read_array};
use crate::error::Error;

/// Slots begin at multiples of this, so that writing one touches no sector of the other.
const ALIGN: u64 = 4096;

/// Layer, number of records, their hash.
const PREFIX_LEN: u64 = 8 + 8 + size_of::<Hash>() as u64;

/// Floats that are converted at a time.
const PIECE: usize = 1 << 14;

pub(super) struct Slots {
    /// Where the first one begins.
    start: u64,
    state_bytes: u64,
    /// What the slots hold, where they are whole.
    held: [Option<Slot>; 2],
}

/// What a slot holds.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    /// The layer that begins with these states.
    pub(super) layer: usize,
}

impl Slots {
    /// Slots of `state_bytes` after a header; none for no states.
    pub(super) fn new(header_len: u64, state_bytes: u64) -> Slots {
        Slots { start: header_len.next_multiple_of(ALIGN), state_bytes, held: [None; 2] }
    }

    /// Where the second one ends.
    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.slot_len().saturating_mul(2))
    }

    /// Finds the slots that are whole, and follow records whose hashes are among `hashes`.
    pub(super) fn scan(&mut self, file: &File, hashes: &[Hash]) -> std::io::Result<()> {
        if self.state_bytes == 0 {
            return Ok(());
        }
        let file_len = file.metadata()?.len();
        for i in 0..2 {
            let end = self.offset(i).saturating_add(self.slot_len());
            self.held[i] = if end <= file_len { self.check(i, file, hashes)? } else { None };
        }
        Ok(())
    }

    fn check(&self, i: usize, mut file: &File, hashes: &[Hash]) -> std::io::Result<Option<Slot>> {
        file.seek(SeekFrom::Start(self.offset(i)))?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let prefix: [u8; PREFIX_LEN as usize] = read_array(&mut reader)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&prefix);
        let number = |at: usize| prefix[at..at + 8].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
        let follows = hashes.get(number(8)).is_some_and(|hash| prefix[16..] == hash[..]);
        if !follows {
            return Ok(None);
        }
        copy_to(&mut hasher, &mut reader, self.state_bytes)?;
        let is_whole = read_array(&mut reader)? == Hash::from(hasher.finalize());
        Ok(is_whole.then(|| Slot { layer: number(0) }))
    }

    /// The one of the two that is furthest.
    pub(super) fn newest(&self) -> Option<Slot> {
        self.held.into_iter().flatten().max_by_key(|slot| slot.layer)
    }

    /// Reads the newest, of which there must be one.
    pub(super) fn read<'a>(&self, mut file: &'a File, path: &'a Path) -> Result<SlotReader<'a>, Error> {
        let newest = usize::from(self.held[1].is_some() && self.oldest() == 0);
        file.seek(SeekFrom::Start(self.offset(newest) + PREFIX_LEN)).map_err(Error::io("read", path))?;
        Ok(SlotReader { file, path })
    }

    /// Writes to the slot without states, or with the older ones, those with which `layer` begins. `after` says how many
    /// records precede them, and their hash.
    pub(super) fn write<'a>(
        &mut self,
        mut file: &'a File,
        path: &'a Path,
        layer: usize,
        after: (u64, Hash),
    ) -> Result<SlotWriter<'a>, Error> {
        let i = self.oldest();
        self.held[i] = None;
        file.seek(SeekFrom::Start(self.offset(i))).map_err(Error::io("write", path))?;
        let mut writer = SlotWriter { file, path, hasher: blake3::Hasher::new(), left: self.state_bytes };
        let prefix = [&(layer as u64).to_le_bytes()[..], &after.0.to_le_bytes(), &after.1].concat();
        writer.write(&prefix)?;
        Ok(writer)
    }

    /// Takes what was written as whole.
    pub(super) fn keep(&mut self, layer: usize) {
        let i = self.oldest();
        self.held[i] = Some(Slot { layer });
    }

    fn oldest(&self) -> usize {
        match self.held {
            [Some(a), Some(b)] => usize::from(b.layer < a.layer),
            [Some(_), None] => 1,
            [None, _] => 0,
        }
    }

    fn offset(&self, i: usize) -> u64 {
        self.start.saturating_add(self.slot_len().saturating_mul(i as u64))
    }

    fn slot_len(&self) -> u64 {
        match self.state_bytes {
            0 => 0,
            n => n.saturating_add(PREFIX_LEN + size_of::<Hash>() as u64).div_ceil(ALIGN).saturating_mul(ALIGN),
        }
    }
}

/// Reads hidden states one window after another.
pub(crate) struct SlotReader<'a> {
    file: &'a File,
    path: &'a Path,
}

impl SlotReader<'_> {
    /// Fills `states`.
    pub(crate) fn read(&mut self, states: &mut [f32]) -> Result<(), Error> {
        let mut bytes = vec![0; 4 * PIECE.min(states.len())];
        for piece in states.chunks_mut(PIECE) {
            let bytes = &mut bytes[..4 * piece.len()];
            self.file.read_exact(bytes).map_err(Error::io("read", self.path))?;
            let numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            piece.iter_mut().zip(numbers).for_each(|(state, number)| *state = number);
        }
        Ok(())
    }
}

/// Writes hidden states one window after another.
pub(crate) struct SlotWriter<'a> {
    file: &'a File,
    path: &'a Path,
    hasher: blake3::Hasher,
    left: u64,
}

impl SlotWriter<'_> {
    /// Appends `states`. All together must be as many as the fingerprint told.
    pub(crate) fn push(&mut self, states: &[f32]) -> Result<(), Error> {
        self.left -= 4 * states.len() as u64;
        let mut bytes = Vec::with_capacity(4 * PIECE);
        for piece in states.chunks(PIECE) {
            bytes.clear();
            bytes.extend(piece.iter().flat_map(|state| state.to_le_bytes()));
            self.write(&bytes)?;
        }
        Ok(())
    }

    /// Appends the hash.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        debug_assert_eq!(self.left, 0);
        let hash = Hash::from(self.hasher.finalize());
        self.write(&hash)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(Error::io("write", self.path))
    }
}
