//! The beginning of a journal: that it is one, and of which pruning.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use super::{Fingerprint, Hash};
use crate::error::Error;

const MAGIC: [u8; 8] = *b"\x8ASPMJNL\n";

const VERSION: u32 = 2;

/// Magic, version, bytes of the fingerprint, bytes of the hidden states.
const LENGTHS_END: usize = 8 + 4 + 4 + 8;

/// And a hash of their own: a wrong length is not to pass for a header of which a kill left only a part.
const FIXED_LEN: usize = LENGTHS_END + size_of::<Hash>();

/// Most bytes of a fingerprint.
const MAX_FINGERPRINT: usize = 1 << 20;

/// A header as it lies in the file.
pub(super) struct Header {
    bytes: Vec<u8>,
    fingerprint: Fingerprint,
}

impl Header {
    /// The header of the journal of a pruning.
    pub(super) fn of(fingerprint: &Fingerprint) -> Header {
        let said = fingerprint.to_bytes();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((said.len() as u32).to_le_bytes());
        bytes.extend(fingerprint.state_bytes().to_le_bytes());
        bytes.extend(Hash::from(blake3::hash(&bytes)));
        bytes.extend(said);
        bytes.extend(Hash::from(blake3::hash(&bytes)));
        Header { bytes, fingerprint: fingerprint.clone() }
    }

    /// The header at the start of `file`; `None` where a kill left no more than a part of one. A file of another kind is
    /// an error.
    pub(super) fn find(file: &File, path: &Path) -> Result<Option<Header>, Error> {
        let bytes = read_start(file).map_err(Error::io("read", path))?;
        let damaged = |problem: String| Error::DamagedJournal { path: path.to_owned(), problem };
        let magic = &bytes[..bytes.len().min(MAGIC.len())];
        if !MAGIC.starts_with(magic) {
            return Err(Error::NotAJournal { path: path.to_owned() });
        }
        let Some(fixed) = bytes.get(..FIXED_LEN) else { return Ok(None) };
        let (version, len, state_bytes) = (le_u32(&fixed[8..]), le_u32(&fixed[12..]) as usize, le_u64(&fixed[16..]));
        if version != VERSION {
            return Err(damaged(format!("version {version}, this program knows {VERSION}")));
        }
        if Hash::from(blake3::hash(&fixed[..LENGTHS_END])) != fixed[LENGTHS_END..] {
            return Err(damaged("the lengths in its header do not have the hash it states".into()));
        }
        if len > MAX_FINGERPRINT {
            return Err(damaged(format!("a header of {len} bytes, expected at most {MAX_FINGERPRINT}")));
        }
        let end = FIXED_LEN + len;
        let Some(hash) = bytes.get(end..end + size_of::<Hash>()) else { return Ok(None) };
        if Hash::from(blake3::hash(&bytes[..end])) != hash {
            return Err(damaged("its header does not have the hash it states".into()));
        }
        let fingerprint = Fingerprint::parse(&bytes[FIXED_LEN..end], state_bytes);
        let fingerprint = fingerprint.ok_or_else(|| damaged("its header cannot be read".into()))?;
        Ok(Some(Header { bytes: bytes[..end + size_of::<Hash>()].to_vec(), fingerprint }))
    }

    pub(super) fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(super) fn state_bytes(&self) -> u64 {
        self.fingerprint.state_bytes()
    }
}

/// As many bytes as the longest header has, or all.
fn read_start(mut file: &File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take((FIXED_LEN + MAX_FINGERPRINT + size_of::<Hash>()) as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn le_u32(b: &[u8]) -> u32 {
    u32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

fn le_u64(b: &[u8]) -> u64 {
    u64::from(le_u32(b)) | u64::from(le_u32(&b[4..])) << 32
}
