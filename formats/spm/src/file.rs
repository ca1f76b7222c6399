//! A sparse model file opened for reading: mapped or copied, checked once, then without errors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use half::f16;

use crate::bytes::{Bytes, Load};
use crate::checkpoint::{Checkpoint, TensorInfo};
use crate::config::Config;
use crate::encoding::{BLOCK, Encoding, ScaleKind};
use crate::error::{Error, Fault};
use crate::header::{self, Header, SECTION_ALIGN, Section};
use crate::infill::Infill;
use crate::levels::{in_high_nibbles, kept_2_of_4};
use crate::matrix::Matrix;
use crate::metadata::{self, Provenance};
use crate::order::stored_column;
use crate::shortlist::Shortlist;
use crate::tensor_table::{self, Entry};
use crate::tokenizer::Vocabulary;
use crate::vocabulary_codec;

/// An open `.spm` file.
pub struct SparseModel {
    path: PathBuf,
    bytes: Bytes,
    header: Header,
    config: Config,
    provenance: Provenance,
    vocabulary: Option<Vocabulary>,
    entries: Vec<Entry>,
    infos: Vec<TensorInfo>,
    matrices: Vec<Matrix>,
    by_name: HashMap<String, usize>,
}

impl SparseModel {
    /// Maps and checks a file: everything but the contents of the tensors, which [`Self::verify`] reads.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, Load::Mmap)
    }

    /// The same with the file's bytes loaded as told.
    pub fn open_with(path: &Path, how: Load) -> Result<Self, Error> {
        Self::from_bytes(Bytes::load(path, how)?, path)
    }

    /// The same from bytes; `path` is what errors call them.
    pub fn from_bytes(bytes: Bytes, path: &Path) -> Result<Self, Error> {
        recognise(&bytes, path)?;
        let header = Header::parse(&bytes).map_err(|f| f.at(path))?;
        let section = |id| checked_section(&header, &bytes, id, path);
        let (mut config, infill, provenance) = metadata::parse(&section(header::META)?).map_err(|f| f.at(path))?;
        let mut vocabulary = vocabulary_codec::parse(&section(header::VOCABULARY)?).map_err(|f| f.at(path))?;
        check_vocabulary(vocabulary.as_ref(), &config).map_err(|f| f.at(path))?;
        if let Some(vocabulary) = &mut vocabulary {
            vocabulary.infill = known_infill(infill, vocabulary);
        }
        if header.find(header::HEAD).is_some() {
            let shortlist = Shortlist::parse(&section(header::HEAD)?, config.vocab_size, vocabulary.as_ref());
            config.shortlist = Some(shortlist.map_err(|f| f.at(path))?);
        }
        let entries = tensor_table::parse(&section(header::TENSORS)?).map_err(|f| f.at(path))?;
        tensor_table::check_names(&entries, &config).map_err(|f| f.at(path))?;
        let data = header.section(header::DATA).and_then(|s| slice(&bytes, s)).map_err(|f| f.at(path))?;
        let matrices = tensor_table::matrices(&entries, &data, &section(header::ROWS)?).map_err(|f| f.at(path))?;
        Ok(SparseModel {
            path: path.to_owned(),
            by_name: entries.iter().enumerate().map(|(i, e)| (e.name.clone(), i)).collect(),
            infos: entries.iter().map(Entry::info).collect(),
            bytes,
            header,
            config,
            provenance,
            vocabulary,
            entries,
            matrices,
        })
    }

    /// Reads every byte: checksums, padding, masks against row starts, scales that are not numbers.
    pub fn verify(&self) -> Result<(), Error> {
        let at = |f: Fault| f.at(&self.path);
        for section in &self.header.sections {
            let crc = crc32c::crc32c(&slice(&self.bytes, section).map_err(at)?);
            self.compare(section.name(), section.crc, crc)?;
        }
        for (entry, matrix) in self.entries.iter().zip(&self.matrices) {
            self.compare(tensor_table::place(&entry.name), entry.crc, crc32c::crc32c(matrix.stored_bytes()))?;
            verify_matrix(entry, matrix).map_err(at)?;
        }
        self.verify_padding().map_err(at)?;
        let body = &self.bytes[SECTION_ALIGN as usize..];
        let computed = blake3::hash(body);
        if computed != self.header.identity {
            return Err(Error::Checksum {
                path: self.path.clone(),
                place: "identity".into(),
                stored: self.identity(),
                computed: computed.to_hex().to_string(),
            });
        }
        Ok(())
    }

    /// BLAKE3 of the file's contents in hexadecimal: the name of exactly this model.
    pub fn identity(&self) -> String {
        blake3::Hash::from(self.header.identity).to_hex().to_string()
    }

    /// Whether weights are read from the file's own pages and not from a copy.
    pub fn is_mapped(&self) -> bool {
        self.bytes.is_mapped()
    }

    /// Where the model came from.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// Bytes of the whole file.
    pub fn file_len(&self) -> u64 {
        self.header.file_len
    }

    fn compare(&self, place: String, stored: u32, computed: u32) -> Result<(), Error> {
        if stored == computed {
            return Ok(());
        }
        let hex = |crc: u32| format!("{crc:08x}");
        Err(Error::Checksum { path: self.path.clone(), place, stored: hex(stored), computed: hex(computed) })
    }

    /// Everything between the sections is zeros.
    fn verify_padding(&self) -> Result<(), Fault> {
        let table_end = self.header.to_bytes().len() as u64;
        let mut from = table_end;
        for s in &self.header.sections {
            let gap = &self.bytes[from as usize..s.offset as usize];
            if let Some(i) = gap.iter().position(|&b| b != 0) {
                let at = from + i as u64;
                return Err(Fault::new("padding", format!("byte {at} is {}, expected 0", self.bytes[at as usize])));
            }
            from = s.offset + s.len;
        }
        Ok(())
    }
}

impl Checkpoint for SparseModel {
    fn config(&self) -> &Config {
        &self.config
    }

    fn vocabulary(&self) -> Option<&Vocabulary> {
        self.vocabulary.as_ref()
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.infos
    }

    fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.infos.get(*self.by_name.get(name)?)
    }

    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Option<()> {
        self.matrices.get(*self.by_name.get(name)?)?.read_rows(first_row, out)
    }

    fn matrix(&self, name: &str) -> Option<Matrix> {
        self.matrices.get(*self.by_name.get(name)?).cloned()
    }

    /// None: it is part of the file.
    fn matrix_bytes(&self, name: &str) -> Option<u64> {
        self.tensor(name).map(|_| 0)
    }

    /// Every encoding of the file is exact already.
    fn exact_matrix(&self, name: &str) -> Option<Matrix> {
        self.matrix(name)
    }
}

/// Tells a file of another kind by its first bytes, and says what to do with it.
fn recognise(bytes: &[u8], path: &Path) -> Result<(), Error> {
    let other = |found: &str| Err(Error::NotSpm { path: path.to_owned(), found: found.into() });
    let is_json_header = bytes.len() > 9 && bytes[8] == b'{' && bytes[3..8] == [0; 5];
    match bytes {
        [] => other("it is empty; fetch or make it again"),
        _ if bytes.starts_with(&header::MAGIC) => check_version(bytes, path),
        _ if bytes.starts_with(b"GGUF") => other("it is a GGUF file; prune it with sparse-prune first"),
        [0x0a, ..] => other(
            "it looks like a SentencePiece tokenizer, which may also be called .spm; give a model pruned with sparse-prune",
        ),
        _ if header::MAGIC.starts_with(bytes) => other("it ends after its first bytes; fetch it again"),
        _ if bytes.starts_with(b"\x93SPM") => other(
            "its first bytes were changed on the way, as line ends are in text mode; fetch it again in binary mode",
        ),
        _ if bytes.starts_with(b"version https://git-lfs") => {
            other("it is a git-lfs pointer; run `git lfs pull` to get the file itself")
        }
        [b'<', ..] => other("it looks like a web page; the download failed, fetch it again"),
        [b'P', b'K', 3, 4, ..] => other("it is a zip archive; unpack it first"),
        _ if is_json_header => other("it looks like a safetensors file; give the folder that it is in"),
        _ if bytes.iter().take(1 << 16).all(|&b| b == 0) => {
            other("it begins with zeros; it was never finished, make it again")
        }
        _ => other("its first bytes are not those of one, nor of a GGUF file; give the model file itself"),
    }
}

fn check_version(bytes: &[u8], path: &Path) -> Result<(), Error> {
    let Some(&[a, b, c, d]) = bytes.get(8..12) else {
        return Err(Fault::new("header", format!("the file has {} bytes, a header 64", bytes.len())).at(path));
    };
    match u32::from_le_bytes([a, b, c, d]) {
        header::VERSION => Ok(()),
        version => Err(Error::Version { path: path.to_owned(), version, known: header::VERSION }),
    }
}

/// A small section, copied to private memory and compared with its checksum.
fn checked_section(header: &Header, bytes: &Bytes, id: [u8; 4], path: &Path) -> Result<Vec<u8>, Error> {
    let section = header.section(id).map_err(|f| f.at(path))?;
    let copy = slice(bytes, section).map_err(|f| f.at(path))?.to_vec();
    let computed = crc32c::crc32c(&copy);
    if computed != section.crc {
        return Err(Error::Checksum {
            path: path.to_owned(),
            place: section.name(),
            stored: format!("{:08x}", section.crc),
            computed: format!("{computed:08x}"),
        });
    }
    Ok(copy)
}

fn slice(bytes: &Bytes, section: &Section) -> Result<Bytes, Fault> {
    let range = usize::try_from(section.offset).ok().zip(usize::try_from(section.len).ok());
    let found = range.and_then(|(offset, len)| bytes.slice(offset..offset.checked_add(len)?));
    found.ok_or_else(|| Fault::new(section.name(), format!("leaves the file of {} bytes", bytes.len())))
}

fn check_vocabulary(vocabulary: Option<&Vocabulary>, config: &Config) -> Result<(), Fault> {
    match vocabulary {
        Some(v) if v.tokens.len() > config.vocab_size => Err(Fault::new(
            "vocabulary",
            format!("{} tokens, the embedding has {} rows", v.tokens.len(), config.vocab_size),
        )),
        _ => Ok(()),
    }
}

/// What the metadata say, or the tokens' texts where they say nothing: files of earlier versions.
fn known_infill(infill: Infill, vocabulary: &Vocabulary) -> Infill {
    let is_token = |id: u32| (id as usize) < vocabulary.tokens.len();
    match infill == Infill::default() || !infill.ids().all(is_token) {
        true => Infill::by_text(&vocabulary.tokens, |_| true),
        false => infill,
    }
}

fn verify_matrix(entry: &Entry, matrix: &Matrix) -> Result<(), Fault> {
    let fault = |problem: String| Err(Fault::new(tensor_table::place(&entry.name), problem));
    if let Some(i) = not_finite(matrix) {
        return fault(format!("number {i} is not finite"));
    }
    if matrix.kept() != entry.kept {
        return fault(format!("{} weights are kept, the table says {}", matrix.kept(), entry.kept));
    }
    if !matrix.encoding().is_sparse() {
        return Ok(());
    }
    let problem = (0..matrix.rows()).find_map(|row| match matrix.encoding() {
        Encoding::Q8Keep2Of4 | Encoding::Q4Keep2Of4 => bad_places(matrix, row),
        _ => bad_mask(matrix, row),
    });
    problem.map_or(Ok(()), fault)
}

/// Bits past the last column, or a row as long as its mask does not say.
fn bad_mask(matrix: &Matrix, row: usize) -> Option<String> {
    let (bits, chunks) = (matrix.bits(row), matrix.chunks());
    let stored_at = |c: usize| match matrix.encoding() {
        Encoding::SparseF16 => c,
        _ => stored_column(c, matrix.blocks()),
    };
    let is_set = |c: &usize| bits[stored_at(*c) / 8] >> (stored_at(*c) % 8) & 1 == 1;
    if let Some(col) = (matrix.cols()..bits.len() * 8).find(is_set) {
        return Some(format!("row {row} has a bit for column {col} of {}", matrix.cols()));
    }
    let mut kept = [0; 2];
    for (block, bits) in bits.chunks(BLOCK / 8).enumerate() {
        let high = matrix.encoding() == Encoding::SparseQ4 && in_high_nibbles(block, chunks);
        kept[usize::from(high)] += bits.iter().map(|b| b.count_ones() as usize).sum::<usize>();
    }
    let expected = match matrix.encoding() {
        Encoding::SparseF16 => kept[0] * 2,
        Encoding::SparseQ4 => kept[0].max(kept[1]),
        _ => kept[0],
    };
    let len = matrix.row_range(row).len();
    let kept = kept[0] + kept[1];
    (len != expected).then(|| format!("row {row} has {len} bytes, its {kept} kept weights need {expected}"))
}

/// A pair of places that is not ascending.
fn bad_places(matrix: &Matrix, row: usize) -> Option<String> {
    let column = |(_, col)| stored_column(col, matrix.blocks());
    let cols: Vec<usize> = kept_2_of_4(matrix.bits(row)).map(column).collect();
    let pair = cols.chunks_exact(2).find(|pair| pair[0] >= pair[1])?;
    Some(format!("row {row} keeps columns {} and {} in this order, expected ascending", pair[0], pair[1]))
}

/// The first scale (or value, for encodings without scales) that is not a finite number.
fn not_finite(matrix: &Matrix) -> Option<usize> {
    let stored = &matrix.values()[..matrix.row_range(matrix.rows() - 1).end];
    let bad_f16 = |plane: &[u8]| plane.chunks_exact(2).position(|b| !f16::from_le_bytes([b[0], b[1]]).is_finite());
    let bad_f32 =
        |plane: &[u8]| plane.chunks_exact(4).position(|b| !f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite());
    match (matrix.encoding(), matrix.encoding().scale_kind()) {
        (Encoding::F32, _) => bad_f32(stored),
        (_, ScaleKind::None) => bad_f16(stored),
        (_, ScaleKind::Half) => bad_f16(matrix.scale_plane()),
        (_, ScaleKind::Row) => bad_f32(&matrix.scale_plane()[..matrix.rows() * 4]),
    }
}
