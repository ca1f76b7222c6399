//! Standard error: what is said to people beside the output.

use std::io::{Result, Write};

/// Loses what nobody reads: that standard error is closed must not end the work.
#[derive(Clone, Copy, Debug)]
pub struct Notes;

impl Write for Notes {
    fn write(&mut self, text: &[u8]) -> Result<usize> {
        Ok(std::io::stderr().write(text).unwrap_or(text.len()))
    }

    fn flush(&mut self) -> Result<()> {
        let _ = std::io::stderr().flush();
        Ok(())
    }
}
