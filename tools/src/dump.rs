//! NumPy's array file (format version 1.0), so that any tool can look at a tensor.

use std::io::{self, Write};

use spm::{Checkpoint, TensorInfo};

/// Writes `tensor` expanded to f32; a vector (one row) becomes one-dimensional.
pub fn write_npy(model: &dyn Checkpoint, tensor: &TensorInfo, out: &mut impl Write) -> io::Result<()> {
    let shape = match tensor.rows {
        1 => format!("({},)", tensor.cols),
        rows => format!("({rows}, {})", tensor.cols),
    };
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    // Magic, version and length take 10 bytes; the values begin at a multiple of 64.
    let padded = (header.len() + 1 + 10).next_multiple_of(64) - 10;
    header.extend(std::iter::repeat_n(' ', padded - header.len() - 1));
    header.push('\n');
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&(header.len() as u16).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    let mut row = vec![0.0f32; tensor.cols];
    for r in 0..tensor.rows {
        model.read_rows(&tensor.name, r, &mut row).ok_or_else(|| io::Error::other("row out of range"))?;
        out.write_all(&row.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())?;
    }
    Ok(())
}
