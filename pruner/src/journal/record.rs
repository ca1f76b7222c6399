//! What a record says.
//!
//! | of a matrix | of a finished file |
//! |---|---|
//! | 0 (u8), length of the name (u16), name | 1 (u8) |
//! | encoding (u16), rows (u32), columns (u32), relative error (f64), whether the method fell back (u8) | identity, 64 hexadecimal digits |
//! | number of row starts (u32), row starts (u32) | |
//! | the tensor as a sparse model file has it | |

use spm::{Bytes, Encoding, Matrix, matrix};

use crate::outcome::Outcome;

const MATRIX: u8 = 0;
const FINISHED: u8 = 1;

/// Bytes of the record of a finished file.
pub(super) const FINISHED_LEN: u64 = 1 + 64;

/// All of a matrix's record but the tensor's bytes.
pub(super) fn matrix_head(name: &str, found: &Outcome) -> Vec<u8> {
    let matrix = &found.stored;
    let starts = matrix.row_starts().unwrap_or_default();
    let mut head = vec![MATRIX];
    head.extend((name.len() as u16).to_le_bytes());
    head.extend(name.as_bytes());
    head.extend((matrix.encoding() as u16).to_le_bytes());
    head.extend((matrix.rows() as u32).to_le_bytes());
    head.extend((matrix.cols() as u32).to_le_bytes());
    head.extend(found.relative_error.to_le_bytes());
    head.push(found.fell_back.into());
    head.extend((starts.len() as u32).to_le_bytes());
    head.extend(starts.iter().flat_map(|start| start.to_le_bytes()));
    head
}

/// No record of a matrix of this name and shape is longer.
pub(crate) fn most_bytes(name: &str, (rows, cols): (usize, usize)) -> u64 {
    let tensor = Encoding::ALL.map(|e| {
        let longest = matrix::full_row_bytes(e, cols).and_then(|row| row.checked_mul(rows));
        longest.and_then(|kept| matrix::byte_len(e, rows, cols, kept)).unwrap_or(0)
    });
    (64 + name.len() + 4 * rows) as u64 + tensor.into_iter().max().unwrap_or(0) as u64
}

/// Takes a matrix's record apart, which must be of `name`; else says what is wrong.
pub(super) fn parse_matrix(mut record: &[u8], name: &str, shape: (usize, usize)) -> Result<Outcome, String> {
    let short = "it ends too early";
    let r = &mut record;
    let kind = u8::from_le_bytes(take(r).ok_or(short)?);
    let len = u16::from_le_bytes(take(r).ok_or(short)?);
    let found = take_slice(r, len.into()).ok_or(short)?;
    if (kind, found) != (MATRIX, name.as_bytes()) {
        return Err(format!("it is `{}`, expected `{name}`", String::from_utf8_lossy(found)));
    }
    let number = u16::from_le_bytes(take(r).ok_or(short)?);
    let encoding =
        Encoding::from_number(number).ok_or_else(|| format!("`{name}` has the unknown encoding {number}"))?;
    let (rows, cols) = (u32::from_le_bytes(take(r).ok_or(short)?), u32::from_le_bytes(take(r).ok_or(short)?));
    if (rows as usize, cols as usize) != shape {
        return Err(format!("`{name}` is {rows}x{cols}, expected {}x{}", shape.0, shape.1));
    }
    let relative_error = f64::from_le_bytes(take(r).ok_or(short)?);
    let fell_back = take(r).ok_or(short)? != [0];
    let starts = u32::from_le_bytes(take(r).ok_or(short)?) as usize;
    let starts = take_slice(r, starts.checked_mul(4).ok_or(short)?).ok_or(short)?;
    let starts: Vec<u32> = starts.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let starts = encoding.has_row_starts().then(|| starts.into());
    let slack = matrix::slack(encoding, shape.1).unwrap_or(0);
    let bytes = Bytes::from([r, &vec![0; slack][..]].concat());
    let stored = Matrix::new(encoding, shape.0, shape.1, bytes, starts).map_err(|e| format!("`{name}`: {e}"))?;
    match stored.byte_len() == r.len() {
        true => Ok(Outcome { stored, relative_error, fell_back }),
        false => Err(format!("`{name}` has {} bytes, expected {}", r.len(), stored.byte_len())),
    }
}

/// Tells of a file that is about to get its name.
pub(super) fn finished(identity: &str) -> Vec<u8> {
    [&[FINISHED], identity.as_bytes()].concat()
}

/// The identity in the record of a finished file; `None` for other records.
pub(super) fn parse_finished(record: &[u8]) -> Option<String> {
    let (kind, identity) = record.split_first()?;
    let is_whole = *kind == FINISHED && record.len() as u64 == FINISHED_LEN;
    is_whole.then(|| String::from_utf8_lossy(identity).into_owned())
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

fn take_slice<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}
