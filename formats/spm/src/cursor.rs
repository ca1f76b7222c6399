//! Reading and writing little-endian fields, every length checked before it is used.

use crate::error::Fault;

/// Reads fields one after another from the bytes of one section.
pub(crate) struct Cursor<'a> {
    place: &'static str,
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(place: &'static str, bytes: &'a [u8]) -> Self {
        Cursor { place, bytes, position: 0 }
    }

    /// The next `len` bytes; `what` names the field in the error.
    pub(crate) fn take(&mut self, what: &str, len: usize) -> Result<&'a [u8], Fault> {
        let left = self.bytes.len() - self.position;
        if len > left {
            return Err(self.fault(format!("{what} needs {len} bytes, {left} are left")));
        }
        let taken = &self.bytes[self.position..self.position + len];
        self.position += len;
        Ok(taken)
    }

    pub(crate) fn u8(&mut self, what: &str) -> Result<u8, Fault> {
        Ok(self.array::<1>(what)?[0])
    }

    pub(crate) fn u16(&mut self, what: &str) -> Result<u16, Fault> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, what: &str) -> Result<u32, Fault> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &str) -> Result<u64, Fault> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub(crate) fn f32(&mut self, what: &str) -> Result<f32, Fault> {
        self.array(what).map(f32::from_le_bytes)
    }

    /// A number of things that take at least `each` bytes, so that no count can promise more than is there.
    pub(crate) fn count(&mut self, what: &str, each: usize) -> Result<usize, Fault> {
        let n = self.u32(what)? as usize;
        let left = self.bytes.len() - self.position;
        if n > left / each {
            return Err(self.fault(format!("{n} {what} of at least {each} bytes, but {left} bytes are left")));
        }
        Ok(n)
    }

    /// `len` bytes of text.
    pub(crate) fn text(&mut self, what: &str, len: usize) -> Result<&'a str, Fault> {
        let bytes = self.take(what, len)?;
        std::str::from_utf8(bytes)
            .map_err(|e| self.fault(format!("{what} is not UTF-8 from byte {} on", e.valid_up_to())))
    }

    /// Text after its length in two bytes.
    pub(crate) fn short_text(&mut self, what: &str) -> Result<&'a str, Fault> {
        let len = self.u16(what)?;
        self.text(what, len.into())
    }

    /// Refuses bytes that nobody has read.
    pub(crate) fn end(self) -> Result<(), Fault> {
        match self.bytes.len() - self.position {
            0 => Ok(()),
            left => Err(self.fault(format!("{left} bytes after the last field, expected 0"))),
        }
    }

    pub(crate) fn fault(&self, problem: impl Into<String>) -> Fault {
        Fault::new(self.place, problem)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Fault> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(what, N)?);
        Ok(out)
    }
}

/// Appends text after its length in two bytes; longer text does not fit the format.
pub(crate) fn push_short_text(out: &mut Vec<u8>, what: &str, text: &str) -> Result<(), Fault> {
    let len = u16::try_from(text.len())
        .map_err(|_| Fault::new(what, format!("{} bytes of text, at most {} fit", text.len(), u16::MAX)))?;
    out.extend(len.to_le_bytes());
    out.extend(text.as_bytes());
    Ok(())
}
