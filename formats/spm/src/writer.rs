//! Writes a sparse model file tensor by tensor, beside its place, and puts it there when it is whole.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::claim::{reserve, unfinished};
use crate::config::Config;
use crate::error::{Error, Fault};
use crate::header::{self, Header, MAGIC, SECTION_ALIGN, Section};
use crate::matrix::{self, Matrix, PLANE_ALIGN};
use crate::metadata::{self, Provenance};
use crate::tensor_table::{self, Entry};
use crate::tokenizer::Vocabulary;
use crate::vocabulary_codec;

/// How a file is to be written.
#[derive(Clone, Debug, Default)]
pub struct WriterOptions {
    /// Bytes to reserve, so that a full disk is noticed at the start; 0 reserves nothing.
    pub expected_bytes: u64,
    /// Whether an earlier sparse model of that name may be replaced. Any other file never is.
    pub replace: bool,
    /// Files being read meanwhile; writing to one of them is refused.
    pub sources: Vec<PathBuf>,
}

/// A file being written. Dropped before [`SpmWriter::finish`], it leaves nothing behind.
pub struct SpmWriter {
    path: PathBuf,
    out: Hashed,
    entries: Vec<Entry>,
    names: HashSet<String>,
    row_starts: Vec<u8>,
    slack: usize,
}

impl SpmWriter {
    /// Begins a file next to `path`, `.NAME.unfinished`; nothing appears under its own name before [`Self::finish`].
    /// One process at a time may write to a path; what a killed one left is written over.
    pub fn create(path: &Path, options: &WriterOptions) -> Result<Self, Error> {
        refuse_to_overwrite(path, options)?;
        let file = unfinished(path)?;
        reserve(file.as_file(), options.expected_bytes).map_err(Error::io("reserve room for", path))?;
        let mut out = Hashed { file, at: SECTION_ALIGN, identity: blake3::Hasher::new(), crc: 0 };
        out.file.seek(SeekFrom::Start(SECTION_ALIGN)).map_err(Error::io("write", path))?;
        Ok(SpmWriter {
            path: path.to_owned(),
            out,
            entries: Vec::new(),
            names: HashSet::new(),
            row_starts: Vec::new(),
            slack: 0,
        })
    }

    /// Appends a tensor.
    pub fn push(&mut self, name: &str, matrix: &Matrix) -> Result<(), Error> {
        if !self.names.insert(name.to_owned()) {
            return Err(Error::Tensor { name: name.to_owned(), problem: "written twice, expected once".into() });
        }
        let slack = matrix::slack(matrix.encoding(), matrix.cols()).unwrap_or(0);
        self.slack = self.slack.max(slack);
        self.out.align(PLANE_ALIGN as u64).map_err(Error::io("write", &self.path))?;
        let bytes = matrix.stored_bytes();
        self.entries.push(Entry {
            name: name.to_owned(),
            encoding: matrix.encoding(),
            rows: matrix.rows(),
            cols: matrix.cols(),
            offset: self.out.at - SECTION_ALIGN,
            len: bytes.len() as u64,
            kept: matrix.kept(),
            crc: crc32c::crc32c(bytes),
        });
        let starts = matrix.row_starts().unwrap_or_default();
        self.row_starts.extend(starts.iter().flat_map(|s| s.to_le_bytes()));
        self.out.write(bytes).map_err(Error::io("write", &self.path))
    }

    /// Writes the tables and the header, waits for the disk, and gives the file its name. Returns its length.
    pub fn finish(
        self,
        config: &Config,
        vocabulary: Option<&Vocabulary>,
        provenance: &Provenance,
    ) -> Result<u64, Error> {
        self.seal(config, vocabulary, provenance)?.publish()
    }

    /// All of [`Self::finish`] but the name.
    pub fn seal(
        mut self,
        config: &Config,
        vocabulary: Option<&Vocabulary>,
        provenance: &Provenance,
    ) -> Result<SealedFile, Error> {
        config.validate()?;
        let path = self.path.clone();
        let at = |fault: Fault| fault.at(&path);
        if let Some(list) = &config.shortlist {
            list.check(config.vocab_size, vocabulary).map_err(at)?;
        }
        tensor_table::check_names(&self.entries, config).map_err(at)?;
        self.out.write(&vec![0; self.slack]).map_err(Error::io("write", &path))?;
        let mut sections = vec![self.out.end_section(header::DATA, SECTION_ALIGN)];
        let rest = [
            (header::ROWS, std::mem::take(&mut self.row_starts)),
            (header::TENSORS, tensor_table::to_bytes(&self.entries).map_err(at)?),
            (header::META, metadata::to_bytes(config, vocabulary.map(|v| v.infill), provenance).map_err(at)?),
            (header::VOCABULARY, vocabulary_codec::to_bytes(vocabulary).map_err(at)?),
        ];
        let shortlist = config.shortlist.as_ref().map(|list| (header::HEAD, list.to_bytes()));
        for (id, bytes) in rest.into_iter().chain(shortlist) {
            sections.push(self.out.section(id, &bytes).map_err(Error::io("write", &path))?);
        }
        self.out.seal(path.clone(), sections).map_err(Error::io("finish", &path))
    }
}

/// A whole file, on the disk, without its name. Dropped, it leaves nothing behind.
pub struct SealedFile {
    path: PathBuf,
    file: NamedTempFile,
    len: u64,
    identity: blake3::Hash,
}

impl SealedFile {
    /// As [`crate::SparseModel::identity`] will tell it.
    pub fn identity(&self) -> String {
        self.identity.to_hex().to_string()
    }

    /// Its length.
    pub fn file_len(&self) -> u64 {
        self.len
    }

    /// Gives the file its name. Returns its length.
    pub fn publish(self) -> Result<u64, Error> {
        let SealedFile { path, file, len, .. } = self;
        file.persist(&path).map_err(|e| Error::io("finish", &path)(e.error))?;
        // The name lives in the folder, which has to reach the disk as well.
        #[cfg(unix)]
        File::open(folder_of(&path)).and_then(|folder| folder.sync_all()).map_err(Error::io("finish", &path))?;
        Ok(len)
    }
}

/// A file that is hashed as it is written, from the first section on.
struct Hashed {
    file: NamedTempFile,
    at: u64,
    identity: blake3::Hasher,
    crc: u32,
}

impl Hashed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)?;
        self.identity.update(bytes);
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn align(&mut self, to: u64) -> std::io::Result<()> {
        let gap = self.at.next_multiple_of(to) - self.at;
        self.write(&vec![0; gap as usize])
    }

    fn section(&mut self, id: [u8; 4], bytes: &[u8]) -> std::io::Result<Section> {
        self.align(SECTION_ALIGN)?;
        self.crc = 0;
        let from = self.at;
        self.write(bytes)?;
        Ok(self.end_section(id, from))
    }

    fn end_section(&self, id: [u8; 4], from: u64) -> Section {
        Section::new(id, from, self.at - from, self.crc)
    }

    fn seal(self, path: PathBuf, sections: Vec<Section>) -> std::io::Result<SealedFile> {
        let Hashed { mut file, at: len, identity, .. } = self;
        let identity = identity.finalize();
        let header = Header { file_len: len, identity: identity.into(), sections };
        file.as_file().set_len(len)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header.to_bytes())?;
        file.as_file().sync_all()?;
        Ok(SealedFile { path, file, len, identity })
    }
}

fn refuse_to_overwrite(path: &Path, options: &WriterOptions) -> Result<(), Error> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let is_source = |source: &PathBuf| same_file::is_same_file(source, path).unwrap_or(false);
    if options.sources.iter().any(is_source) {
        return Err(Error::IsSource { path: path.to_owned() });
    }
    let advice = match (options.replace, is_sparse_model(path)) {
        (true, true) => return Ok(()),
        (false, true) => "give another name, or allow replacing it with --force",
        (_, false) => "it is no sparse model, so it is left alone; give another name",
    };
    Err(Error::Exists { path: path.to_owned(), advice })
}

fn is_sparse_model(path: &Path) -> bool {
    let mut start = [0; MAGIC.len()];
    let is_file = fs::metadata(path).is_ok_and(|m| m.is_file());
    is_file && File::open(path).and_then(|mut f| f.read_exact(&mut start)).is_ok() && start == MAGIC
}

/// Where a file at `path` is, also where that is said without a folder.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if p != Path::new("") => p,
        _ => Path::new("."),
    }
}
