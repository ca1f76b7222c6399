//! llama.cpp's importance matrix as its `llama-imatrix` writes it to GGUF.
//!
//! For a weight `W` that was multiplied with inputs `x` (a column a token) there are two F32 tensors: `W.in_sum2`, the sum
//! of `x_j^2` over all tokens for every input feature `j`, and `W.counts`, the number of tokens. With a row more for every
//! further matrix of experts. Keys: `general.type` is `imatrix`; `imatrix.chunk_count` and `imatrix.chunk_size` say how much
//! text it was.

use std::path::Path;

use crate::dequant::expand;
use crate::error::Error;
use crate::ggml_type::GgmlType;
use crate::keys::Keys;
use crate::reader::{GgufFile, Tensor};

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const AGAIN: &str = "make it again with llama-imatrix";

/// An importance matrix.
#[derive(Debug)]
pub struct Imatrix {
    file: GgufFile,
    chunk_count: Option<u64>,
    chunk_size: Option<u64>,
}

/// What is known of the inputs of one weight.
#[derive(Clone, Debug, PartialEq)]
pub struct InputSums {
    /// Sum of squares of every input feature over all tokens: finite, not negative.
    pub squares: Vec<f64>,
    /// Tokens: 1 or more.
    pub tokens: u64,
}

impl Imatrix {
    /// Opens the file at `path`; an error if it is another kind of file, the binary format before GGUF among them.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = GgufFile::open(path)?;
        let keys = Keys::of(&file);
        match keys.text("general.type")? {
            Some("imatrix") => {}
            found => {
                let found = found.map_or("missing".to_owned(), |t| format!("`{}`", crate::error::shown(t)));
                let problem = format!("is {found}, expected `imatrix`; give a file that llama-imatrix wrote");
                return Err(Error::key(path, "general.type", problem));
            }
        }
        let (chunk_count, chunk_size) = (keys.u64("imatrix.chunk_count")?, keys.u64("imatrix.chunk_size")?);
        Ok(Imatrix { chunk_count, chunk_size, file })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Pieces of text that it was made from, if the file says.
    pub fn chunk_count(&self) -> Option<u64> {
        self.chunk_count
    }

    /// Tokens of a piece, if the file says.
    pub fn chunk_size(&self) -> Option<u64> {
        self.chunk_size
    }

    /// What is known of the inputs of `weight`, which has `cols` of them. An error that names the tensor if that is missing,
    /// misshapen, or no sum of squares.
    pub fn inputs_of(&self, weight: &str, cols: usize) -> Result<InputSums, Error> {
        let sums = Named::find(&self.file, weight, SUMS)?;
        let counts = Named::find(&self.file, weight, COUNTS)?;
        let squares = sums.values(cols)?.into_iter().map(f64::from).collect::<Vec<_>>();
        let tokens = f64::from(counts.values(1)?[0]);
        if let Some(j) = squares.iter().position(|s| !s.is_finite() || *s < 0.0) {
            let problem = format!("is {} at column {j}, expected a sum of squares; {AGAIN}", squares[j]);
            return Err(sums.refuse(problem));
        }
        // llama.cpp counts in integers and stores them as f32.
        if !(1.0..=9e18).contains(&tokens) {
            let problem = format!("is {tokens}, expected 1 token or more; {AGAIN}, on more text");
            return Err(counts.refuse(problem));
        }
        Ok(InputSums { squares, tokens: tokens.round() as u64 })
    }
}

/// A tensor that belongs to a weight.
struct Named<'a> {
    file: &'a GgufFile,
    name: String,
    tensor: &'a Tensor,
}

impl<'a> Named<'a> {
    fn find(file: &'a GgufFile, weight: &str, suffix: &str) -> Result<Self, Error> {
        let name = format!("{weight}{suffix}");
        match file.tensors().iter().find(|t| t.name == name) {
            Some(tensor) => Ok(Named { file, name, tensor }),
            None => {
                let problem = format!("is missing; make the imatrix with the model that is to be pruned: {AGAIN}");
                Err(Error::tensor(file.path(), &name, problem))
            }
        }
    }

    fn values(&self, expected: usize) -> Result<Vec<f32>, Error> {
        let (rows, cols) = (self.tensor.rows(), self.tensor.cols());
        if (rows, cols) != (1, expected) {
            let problem = format!("is {rows}x{cols}, expected 1x{expected}; it was made with another model: {AGAIN}");
            return Err(self.refuse(problem));
        }
        if self.tensor.kind != GgmlType::F32 {
            let problem = format!("is stored as {}, expected F32; {AGAIN}", self.tensor.kind.name());
            return Err(self.refuse(problem));
        }
        let mut values = vec![0.0; cols];
        let bytes = self.file.bytes().get(self.tensor.range.clone());
        let bytes = bytes.ok_or_else(|| self.refuse("is no longer in the file, which was cut short".to_owned()))?;
        expand(GgmlType::F32, bytes, &mut values);
        Ok(values)
    }

    fn refuse(&self, problem: String) -> Error {
        Error::tensor(self.file.path(), &self.name, problem)
    }
}
