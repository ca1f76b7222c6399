//! The records of a journal: appended one after another, and found again up to the first that is not whole.
//!
//! A record is its length in eight bytes, its contents, and the hash of the header and all records, itself included.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom, Write};

use super::Hash;
use super::header::Header;
use super::record;

/// Where the contents of a record lie.
#[derive(Clone, Copy)]
pub(super) struct Place {
    offset: u64,
    pub(super) len: u64,
}

pub(super) struct Log {
    file: File,
    /// Where the next record begins.
    end: u64,
    /// Of the header and all records so far.
    hasher: blake3::Hasher,
    /// `hashes[n]` is that of the header and `n` records.
    hashes: Vec<Hash>,
    matrices: Vec<Place>,
    finished: Option<String>,
}

impl Log {
    /// Makes `file` a journal without records.
    pub(super) fn begin(mut file: File, header: &Header, start: u64) -> std::io::Result<Log> {
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(header.bytes())?;
        file.sync_data()?;
        Ok(Log::new(file, header, start))
    }

    /// Finds the records of an earlier run.
    pub(super) fn find(file: File, header: &Header, start: u64) -> std::io::Result<Log> {
        let mut log = Log::new(file, header, start);
        let file_len = log.file.metadata()?.len();
        log.file.seek(SeekFrom::Start(start.min(file_len)))?;
        let mut reader = BufReader::with_capacity(1 << 16, log.file.try_clone()?);
        while log.accept_next(&mut reader, file_len)? {}
        Ok(log)
    }

    /// Cuts off what follows the last whole record.
    pub(super) fn cut(&mut self) -> std::io::Result<()> {
        match self.file.metadata()?.len() > self.end {
            true => self.file.set_len(self.end),
            false => Ok(()),
        }
    }

    fn new(file: File, header: &Header, start: u64) -> Log {
        let mut hasher = blake3::Hasher::new();
        hasher.update(header.bytes());
        let hashes = vec![hasher.finalize().into()];
        Log { file, end: start, hasher, hashes, matrices: Vec::new(), finished: None }
    }

    /// Reads the next record; whether it is whole.
    fn accept_next(&mut self, reader: &mut impl Read, file_len: u64) -> std::io::Result<bool> {
        let mut hasher = self.hasher.clone();
        let left = file_len.saturating_sub(self.end);
        let overhead = (size_of::<u64>() + size_of::<Hash>()) as u64;
        let Some(len) = left.checked_sub(overhead).map(|_| read_array(reader)).transpose()? else { return Ok(false) };
        hasher.update(&len);
        let len = u64::from_le_bytes(len);
        if len == 0 || len > left - overhead {
            return Ok(false);
        }
        // What tells of a finished file is short enough to be looked at whole, of a matrix the first byte is.
        let mut first = vec![0; len.min(record::FINISHED_LEN) as usize];
        reader.read_exact(&mut first)?;
        hasher.update(&first);
        copy_to(&mut hasher, reader, len - first.len() as u64)?;
        let hash: Hash = hasher.finalize().into();
        if read_array(reader)? != hash {
            return Ok(false);
        }
        match record::parse_finished(&first) {
            Some(identity) => self.finished = Some(identity),
            None => self.matrices.push(Place { offset: self.end + size_of::<u64>() as u64, len }),
        }
        self.hasher = hasher;
        self.hashes.push(hash);
        self.end += overhead + len;
        Ok(true)
    }

    /// Appends a record of these parts.
    pub(super) fn append(&mut self, parts: &[&[u8]]) -> std::io::Result<()> {
        let len = parts.iter().map(|p| p.len() as u64).sum::<u64>();
        let mut hasher = self.hasher.clone();
        self.file.seek(SeekFrom::Start(self.end))?;
        for part in [&len.to_le_bytes()[..]].iter().chain(parts) {
            hasher.update(part);
            self.file.write_all(part)?;
        }
        let hash: Hash = hasher.finalize().into();
        self.file.write_all(&hash)?;
        self.hasher = hasher;
        self.hashes.push(hash);
        self.end += size_of::<u64>() as u64 + len + size_of::<Hash>() as u64;
        Ok(())
    }

    /// The contents of a record.
    pub(super) fn read(&self, place: Place) -> std::io::Result<Vec<u8>> {
        let too_large = |_| std::io::Error::from(ErrorKind::OutOfMemory);
        let len = usize::try_from(place.len).map_err(|_| std::io::Error::from(ErrorKind::OutOfMemory))?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(too_large)?;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(place.offset))?;
        match file.take(place.len).read_to_end(&mut bytes)? {
            read if read == len => Ok(bytes),
            _ => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Of the header and the first 0, 1, 2 ... records.
    pub(super) fn hashes(&self) -> &[Hash] {
        &self.hashes
    }

    /// Matrices of earlier runs, in order.
    pub(super) fn matrices(&self) -> &[Place] {
        &self.matrices
    }

    /// The identity of the file that was about to get its name.
    pub(super) fn finished(&self) -> Option<&str> {
        self.finished.as_deref()
    }
}

/// Hashes the next `len` bytes.
pub(super) fn copy_to(hasher: &mut blake3::Hasher, reader: &mut impl Read, len: u64) -> std::io::Result<()> {
    match std::io::copy(&mut reader.take(len), hasher)? {
        copied if copied == len => Ok(()),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}

pub(super) fn read_array<const N: usize>(reader: &mut impl Read) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}
