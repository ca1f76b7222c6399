//! The first 64 KiB: magic, version, length, checksums, and where the sections are.

use crate::cursor::Cursor;
use crate::error::Fault;

/// First bytes of every file. The high bit catches 7-bit transfers, the line ends catch text-mode ones, and
/// it is not `0x0A`, with which a SentencePiece model (also called `.spm` by some) begins.
pub(crate) const MAGIC: [u8; 8] = *b"\x93SPM\r\n\x1a\n";
/// The version this crate reads and writes.
pub(crate) const VERSION: u32 = 2;
/// Sections begin at multiples of this: the largest page size among common machines.
pub(crate) const SECTION_ALIGN: u64 = 1 << 16;

const HEADER_LEN: usize = 64;
const ENTRY_LEN: usize = 32;
const MAX_SECTIONS: usize = 64;
const CRC_AT: usize = 60;
const MUST_UNDERSTAND: u32 = 1;

/// The sections that every file has, in file order.
pub(crate) const DATA: [u8; 4] = *b"DATA";
pub(crate) const ROWS: [u8; 4] = *b"ROWS";
pub(crate) const TENSORS: [u8; 4] = *b"TENS";
pub(crate) const META: [u8; 4] = *b"META";
pub(crate) const VOCABULARY: [u8; 4] = *b"VOCB";
/// The tokens that the head has rows for; only where they are not all.
pub(crate) const HEAD: [u8; 4] = *b"HEAD";
const KNOWN: [[u8; 4]; 6] = [DATA, ROWS, TENSORS, META, VOCABULARY, HEAD];

/// What the header says, all of it checked against the file's length.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) file_len: u64,
    /// BLAKE3 of everything from the first section to the end: the identity of the model.
    pub(crate) identity: [u8; 32],
    pub(crate) sections: Vec<Section>,
}

#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) id: [u8; 4],
    pub(crate) flags: u32,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) crc: u32,
}

impl Section {
    pub(crate) fn new(id: [u8; 4], offset: u64, len: u64, crc: u32) -> Self {
        Section { id, flags: MUST_UNDERSTAND, offset, len, crc }
    }

    /// The section's name for people.
    pub(crate) fn name(&self) -> String {
        format!("section {}", String::from_utf8_lossy(&self.id))
    }
}

impl Header {
    /// The header and section table as bytes; the rest of the first 64 KiB is zeros.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + ENTRY_LEN * self.sections.len());
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend((self.sections.len() as u32).to_le_bytes());
        out.extend(self.file_len.to_le_bytes());
        out.extend(self.identity);
        out.resize(HEADER_LEN, 0);
        for s in &self.sections {
            out.extend(s.id);
            out.extend(s.flags.to_le_bytes());
            out.extend(s.offset.to_le_bytes());
            out.extend(s.len.to_le_bytes());
            out.extend(s.crc.to_le_bytes());
            out.extend([0; 4]);
        }
        let crc = checksum(&out);
        out[CRC_AT..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads and checks the header of a file whose magic and version are already known to be ours.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, Fault> {
        let mut c = Cursor::new("header", file);
        c.take("magic", MAGIC.len())?;
        c.u32("version")?;
        let count = c.u32("section count")? as usize;
        let file_len = c.u64("file length")?;
        let mut identity = [0; 32];
        identity.copy_from_slice(c.take("identity", 32)?);
        let reserved = c.u32("reserved")?;
        let crc = c.u32("checksum")?;
        if count == 0 || count > MAX_SECTIONS {
            return Err(c.fault(format!("{count} sections, expected 1 to {MAX_SECTIONS}")));
        }
        if file_len != file.len() as u64 {
            let found = file.len();
            return Err(c.fault(format!(
                "the file has {found} bytes and should have {file_len}; it was cut or appended to, fetch it again"
            )));
        }
        let table = HEADER_LEN + ENTRY_LEN * count;
        if file.len() < table {
            return Err(c.fault(format!("{count} sections need {table} bytes, the file has {}", file.len())));
        }
        let computed = checksum(&file[..table]);
        if crc != computed {
            return Err(c.fault(format!(
                "checksum is {computed:08x}, the file says {crc:08x}; the file is damaged, fetch it again"
            )));
        }
        if reserved != 0 {
            return Err(c.fault(format!("reserved field is {reserved}, expected 0")));
        }
        let sections = (0..count).map(|_| parse_section(&mut c)).collect::<Result<Vec<_>, _>>()?;
        check_places(&sections, file_len)?;
        Ok(Header { file_len, identity, sections })
    }

    /// The section called `id`, one of those that every file has.
    pub(crate) fn section(&self, id: [u8; 4]) -> Result<&Section, Fault> {
        let missing = || Fault::new("section table", format!("no section {}", String::from_utf8_lossy(&id)));
        self.find(id).ok_or_else(missing)
    }

    /// The section called `id`, if the file has it.
    pub(crate) fn find(&self, id: [u8; 4]) -> Option<&Section> {
        self.sections.iter().find(|s| s.id == id)
    }
}

fn parse_section(c: &mut Cursor) -> Result<Section, Fault> {
    let mut id = [0; 4];
    id.copy_from_slice(c.take("section name", 4)?);
    let section = Section {
        id,
        flags: c.u32("section flags")?,
        offset: c.u64("section offset")?,
        len: c.u64("section length")?,
        crc: c.u32("section checksum")?,
    };
    let reserved = c.u32("section reserved")?;
    if section.flags > MUST_UNDERSTAND || reserved != 0 {
        return Err(Fault::new(
            section.name(),
            format!("flags {} and {reserved}, expected 0 or 1 and 0", section.flags),
        ));
    }
    if section.flags == MUST_UNDERSTAND && !KNOWN.contains(&id) {
        return Err(Fault::new(section.name(), "unknown and necessary; update this program, or prune the model again"));
    }
    // A reader that skipped it would take rows for other tokens.
    if section.flags != MUST_UNDERSTAND && id == HEAD {
        return Err(Fault::new(section.name(), format!("flags {}, expected {MUST_UNDERSTAND}", section.flags)));
    }
    Ok(section)
}

/// Sections follow one another at multiples of 64 KiB, without gaps, up to the end of the file.
fn check_places(sections: &[Section], file_len: u64) -> Result<(), Fault> {
    let mut expected = SECTION_ALIGN;
    for (i, s) in sections.iter().enumerate() {
        if s.offset != expected {
            return Err(Fault::new(s.name(), format!("begins at {}, expected {expected}", s.offset)));
        }
        let end = s.offset.checked_add(s.len).filter(|&end| end <= file_len);
        let end = end.ok_or_else(|| {
            Fault::new(s.name(), format!("{} bytes from {} on, the file has {file_len}", s.len, s.offset))
        })?;
        if sections[..i].iter().any(|other| other.id == s.id) {
            return Err(Fault::new(s.name(), "occurs twice, expected once"));
        }
        let is_last = i + 1 == sections.len();
        if is_last && end != file_len {
            return Err(Fault::new(s.name(), format!("is the last and ends at {end}, the file at {file_len}")));
        }
        expected = end.checked_next_multiple_of(SECTION_ALIGN).unwrap_or(u64::MAX);
    }
    Ok(())
}

/// CRC-32C of header and table, the field of the checksum itself left out.
fn checksum(header_and_table: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&header_and_table[..CRC_AT]);
    crc32c::crc32c_append(crc, &header_and_table[HEADER_LEN..])
}
