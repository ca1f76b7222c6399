//! Small random models, for tests and benches that need a real one's structure and no download.

use std::collections::HashMap;
use std::path::Path;

use crate::checkpoint::{Checkpoint, TensorInfo};
use crate::config::Config;
use crate::encode::encode;
use crate::encoding::Encoding;
use crate::error::Error;
use crate::infill::Infill;
use crate::matrix::Matrix;
use crate::metadata::Provenance;
use crate::tokenizer::{TokenType, TokenizerKind, Vocabulary};
use crate::writer::{SpmWriter, WriterOptions};

/// A decoder with random weights in memory.
pub struct SyntheticModel {
    config: Config,
    vocabulary: Vocabulary,
    infos: Vec<TensorInfo>,
    weights: HashMap<String, Vec<f32>>,
}

impl SyntheticModel {
    /// Weights drawn from `seed`, of about the size that keeps a decoder's activations near 1. The vocabulary has
    /// the 256 bytes, a few merges and an end token; `config.vocab_size` is set to fit.
    pub fn new(config: Config, seed: u64) -> Self {
        Self::with_vocabulary(config, vocabulary(), seed)
    }

    /// The same with another vocabulary.
    pub fn with_vocabulary(mut config: Config, vocabulary: Vocabulary, seed: u64) -> Self {
        config.vocab_size = vocabulary.tokens.len();
        let mut random = SplitMix::new(seed);
        let mut infos = Vec::new();
        let mut weights = HashMap::new();
        for (name, rows, cols) in config.tensors() {
            let is_norm = name.ends_with("norm.weight");
            let scale = if rows == 1 { 0.1 } else { 1.5 / (cols as f32).sqrt() };
            let values: Vec<f32> = (0..rows * cols).map(|_| random.normal() * scale + f32::from(is_norm)).collect();
            infos.push(TensorInfo {
                name: name.clone(),
                rows,
                cols,
                encoding: Encoding::F32.name().into(),
                kept: (rows * cols) as u64,
                bytes: (rows * cols * 4) as u64,
            });
            weights.insert(name, values);
        }
        SyntheticModel { config, vocabulary, infos, weights }
    }

    /// A model of 2 layers and width 64, with grouped-query attention.
    pub fn tiny(seed: u64) -> Self {
        Self::new(Config::new(2, 64, 160, 4, 2), seed)
    }

    /// Writes the model to a file, its matrices in `encoding` with all weights kept.
    pub fn write(&self, path: &Path, encoding: Encoding) -> Result<(), Error> {
        let mut writer = SpmWriter::create(path, &WriterOptions::default())?;
        for info in &self.infos {
            let encoding = if info.rows == 1 { Encoding::F32 } else { encoding };
            let weights = self.weights.get(&info.name).map(Vec::as_slice).unwrap_or_default();
            let matrix = encode(encoding, info.rows, info.cols, weights, None)
                .map_err(|e| Error::Tensor { name: info.name.clone(), problem: e.to_string() })?;
            writer.push(&info.name, &matrix)?;
        }
        writer.finish(&self.config, Some(&self.vocabulary), &Provenance::default())?;
        Ok(())
    }
}

impl Checkpoint for SyntheticModel {
    fn config(&self) -> &Config {
        &self.config
    }

    fn vocabulary(&self) -> Option<&Vocabulary> {
        Some(&self.vocabulary)
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.infos
    }

    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Option<()> {
        let from = first_row.checked_mul(self.tensor(name)?.cols)?;
        out.copy_from_slice(self.weights.get(name)?.get(from..from.checked_add(out.len())?)?);
        Some(())
    }

    fn matrix(&self, name: &str) -> Option<Matrix> {
        let info = self.tensor(name)?;
        encode(Encoding::F32, info.rows, info.cols, self.weights.get(name)?, None).ok()
    }
}

/// A model with other weights for all its tensors, in f32.
pub struct Reweighted<'a> {
    /// Whose shape and vocabulary it has.
    pub source: &'a dyn Checkpoint,
    /// By name, row after row; a tensor that is not here cannot be read.
    pub weights: HashMap<String, Vec<f32>>,
}

impl Checkpoint for Reweighted<'_> {
    fn config(&self) -> &Config {
        self.source.config()
    }

    fn vocabulary(&self) -> Option<&Vocabulary> {
        self.source.vocabulary()
    }

    fn tensors(&self) -> &[TensorInfo] {
        self.source.tensors()
    }

    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Option<()> {
        let from = first_row * self.tensor(name)?.cols;
        out.copy_from_slice(self.weights.get(name)?.get(from..from + out.len())?);
        Some(())
    }

    fn matrix(&self, name: &str) -> Option<Matrix> {
        let info = self.tensor(name)?;
        encode(Encoding::F32, info.rows, info.cols, self.weights.get(name)?, None).ok()
    }
}

/// Sebastiano Vigna's SplitMix64: enough for tests and benches.
pub struct SplitMix(u64);

impl SplitMix {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        SplitMix(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// About normal with variance 1: four uniform numbers, centred.
    fn normal(&mut self) -> f32 {
        let sum: f32 = (0..4).map(|_| (self.bits() >> 40) as f32 / (1u64 << 24) as f32).sum();
        (sum - 2.0) * 3f32.sqrt()
    }
}

/// The vocabulary of these models followed by unused tokens, `n` in all.
pub fn padded_vocabulary(n: usize) -> Vocabulary {
    let mut vocabulary = vocabulary();
    for id in vocabulary.tokens.len()..n {
        vocabulary.tokens.push(format!("<|unused_{id}|>"));
        vocabulary.types.push(TokenType::Unused);
    }
    vocabulary
}

fn vocabulary() -> Vocabulary {
    let mut tokens: Vec<String> = (0..=255u8).map(|b| byte_char(b).to_string()).collect();
    let id = |tokens: &[String], text: &str| tokens.iter().position(|t| t == text).unwrap_or(0) as u32;
    let mut merges = Vec::new();
    for (left, right) in [("Ġ", "Ġ"), ("d", "e"), ("de", "f"), ("r", "e"), ("i", "n"), ("ĠĠ", "ĠĠ")] {
        merges.push((id(&tokens, left), id(&tokens, right)));
        tokens.push(format!("{left}{right}"));
    }
    let mut types = vec![TokenType::Normal; tokens.len()];
    let end = tokens.len() as u32;
    tokens.push("<|end|>".into());
    types.push(TokenType::Control);
    Vocabulary {
        kind: TokenizerKind::ByteLevelBpe,
        pre: "gpt-2".into(),
        tokens,
        types,
        scores: Vec::new(),
        merges,
        bos: None,
        eos: Some(end),
        unk: None,
        pad: None,
        add_bos: false,
        add_eos: false,
        add_space_prefix: false,
        ignore_merges: false,
        end_of_generation: vec![end],
        infill: Infill::default(),
        chat_template: None,
    }
}

/// GPT-2's alphabet: printable bytes stand for themselves, the others for characters from U+0100 on, in order.
fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let nth = (0..byte).filter(|&b| !printable(b)).count() as u32;
    char::from_u32(0x100 + nth).unwrap_or(char::REPLACEMENT_CHARACTER)
}
