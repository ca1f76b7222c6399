//! The table of tensors and the table of row starts: from bytes to checked matrices and back.

use std::collections::HashSet;
use std::sync::Arc;

use crate::bytes::Bytes;
use crate::checkpoint::TensorInfo;
use crate::config::Config;
use crate::cursor::{Cursor, push_short_text};
use crate::encoding::Encoding;
use crate::error::Fault;
use crate::matrix::{self, Matrix, PLANE_ALIGN};

/// Fields of an entry without its name's text.
const ENTRY_LEN: usize = 2 + 2 + 2 + 4 + 4 + 8 + 8 + 8 + 4;

/// One tensor as the table has it.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) encoding: Encoding,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// From the start of the data section.
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) kept: u64,
    pub(crate) crc: u32,
}

impl Entry {
    pub(crate) fn info(&self) -> TensorInfo {
        TensorInfo {
            name: self.name.clone(),
            rows: self.rows,
            cols: self.cols,
            encoding: self.encoding.name().to_owned(),
            kept: self.kept,
            bytes: self.len,
        }
    }
}

pub(crate) fn to_bytes(entries: &[Entry]) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::new();
    out.extend((entries.len() as u32).to_le_bytes());
    for e in entries {
        push_short_text(&mut out, "tensor name", &e.name)?;
        out.extend((e.encoding as u16).to_le_bytes());
        out.extend([0; 2]);
        out.extend((e.rows as u32).to_le_bytes());
        out.extend((e.cols as u32).to_le_bytes());
        out.extend(e.offset.to_le_bytes());
        out.extend(e.len.to_le_bytes());
        out.extend(e.kept.to_le_bytes());
        out.extend(e.crc.to_le_bytes());
    }
    Ok(out)
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Entry>, Fault> {
    let mut c = Cursor::new("tensor table", bytes);
    let count = c.count("tensors", ENTRY_LEN)?;
    let mut names = HashSet::with_capacity(count);
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let entry = parse_entry(&mut c)?;
        if !names.insert(entry.name.clone()) {
            return Err(Fault::new(place(&entry.name), "occurs twice, expected once"));
        }
        entries.push(entry);
    }
    c.end()?;
    Ok(entries)
}

fn parse_entry(c: &mut Cursor) -> Result<Entry, Fault> {
    let name = c.short_text("tensor name")?.to_owned();
    let number = c.u16("encoding")?;
    let reserved = c.u16("reserved")?;
    let encoding = Encoding::from_number(number).ok_or_else(|| {
        Fault::new(
            place(&name),
            format!("encoding number {number} is unknown; update this program, or prune the model again"),
        )
    })?;
    if reserved != 0 {
        return Err(Fault::new(place(&name), format!("reserved field is {reserved}, expected 0")));
    }
    Ok(Entry {
        name,
        encoding,
        rows: c.u32("rows")? as usize,
        cols: c.u32("columns")? as usize,
        offset: c.u64("offset")?,
        len: c.u64("length")?,
        kept: c.u64("kept weights")?,
        crc: c.u32("checksum")?,
    })
}

/// Checks that the tensors are exactly those a decoder of this shape has.
pub(crate) fn check_names(entries: &[Entry], config: &Config) -> Result<(), Fault> {
    let mut expected: std::collections::HashMap<String, (usize, usize)> =
        config.tensors().into_iter().map(|(name, rows, cols)| (name, (rows, cols))).collect();
    for e in entries {
        let Some((rows, cols)) = expected.remove(&e.name) else {
            return Err(Fault::new(place(&e.name), "is not part of a model of this shape; update this program"));
        };
        if (e.rows, e.cols) != (rows, cols) {
            return Err(Fault::new(
                place(&e.name),
                format!("is {}x{}, the model's shape needs {rows}x{cols}", e.rows, e.cols),
            ));
        }
    }
    match expected.keys().min() {
        Some(name) => Err(Fault::new(place(name), "is missing; the file is incomplete")),
        None => Ok(()),
    }
}

/// Makes a matrix of every tensor: the one place where offsets of a file become memory.
pub(crate) fn matrices(entries: &[Entry], data: &Bytes, row_table: &[u8]) -> Result<Vec<Matrix>, Fault> {
    let mut row_table = Cursor::new("table of row starts", row_table);
    let mut expected = 0u64;
    let mut all = Vec::with_capacity(entries.len());
    for e in entries {
        if e.offset != expected {
            return Err(Fault::new(place(&e.name), format!("begins at byte {}, expected {expected}", e.offset)));
        }
        let starts = if e.encoding.has_row_starts() { Some(take_row_starts(e, &mut row_table)?) } else { None };
        all.push(matrix_of(e, data, starts)?);
        let end = e.offset + e.len;
        expected = end.checked_next_multiple_of(PLANE_ALIGN as u64).unwrap_or(u64::MAX);
    }
    row_table.end()?;
    Ok(all)
}

fn take_row_starts(e: &Entry, table: &mut Cursor) -> Result<Arc<[u32]>, Fault> {
    let bytes = table.take(&format!("tensor `{}`", e.name), (e.rows + 1).saturating_mul(4))?;
    Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn matrix_of(e: &Entry, data: &Bytes, starts: Option<Arc<[u32]>>) -> Result<Matrix, Fault> {
    let with_slack = matrix::slack(e.encoding, e.cols).and_then(|s| usize::try_from(e.len).ok()?.checked_add(s));
    let range = usize::try_from(e.offset).ok().and_then(|from| Some(from..from.checked_add(with_slack?)?));
    let bytes = range.and_then(|range| data.slice(range)).ok_or_else(|| {
        Fault::new(
            place(&e.name),
            format!("{} bytes from {} on with slack leave the data section of {}", e.len, e.offset, data.len()),
        )
    })?;
    let matrix = Matrix::new(e.encoding, e.rows, e.cols, bytes, starts);
    let matrix = matrix.map_err(|error| Fault::new(place(&e.name), error.to_string()))?;
    if matrix.byte_len() as u64 != e.len {
        return Err(Fault::new(
            place(&e.name),
            format!("is {} bytes long, its shape needs {}", e.len, matrix.byte_len()),
        ));
    }
    if e.kept > (e.rows as u64) * (e.cols as u64) {
        return Err(Fault::new(place(&e.name), format!("keeps {} weights of {}x{}", e.kept, e.rows, e.cols)));
    }
    Ok(matrix)
}

pub(crate) fn place(tensor: &str) -> String {
    format!("tensor `{tensor}`")
}
