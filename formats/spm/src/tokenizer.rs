//! A vocabulary as the file stores it: data only. `runtime` turns it into something that encodes text.

use crate::infill::Infill;

/// Everything needed to turn text into token ids and back.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocabulary {
    /// How text is cut into tokens.
    pub kind: TokenizerKind,
    /// GGUF's name of the pre-tokenizer (`tokenizer.ggml.pre`), such as `qwen2`; empty for SentencePiece.
    pub pre: String,
    /// Token texts by id: byte-level alphabet for byte-level BPE, `▁` for a space in SentencePiece.
    pub tokens: Vec<String>,
    /// What each token is, by id.
    pub types: Vec<TokenType>,
    /// SentencePiece scores by id; empty for byte-level BPE.
    pub scores: Vec<f32>,
    /// Merges in order of rank, as ids of left and right part; empty for SentencePiece.
    pub merges: Vec<(u32, u32)>,
    /// Token put before a text when `add_bos` is set.
    pub bos: Option<u32>,
    /// Token put after a text when `add_eos` is set.
    pub eos: Option<u32>,
    /// Unknown token (SentencePiece).
    pub unk: Option<u32>,
    /// Padding token.
    pub pad: Option<u32>,
    /// Whether a text begins with `bos`.
    pub add_bos: bool,
    /// Whether a text ends with `eos`.
    pub add_eos: bool,
    /// SentencePiece: put a space before the text.
    pub add_space_prefix: bool,
    /// A whole word that is a token is taken as it is, without merging.
    pub ignore_merges: bool,
    /// Tokens that end generation, ascending.
    pub end_of_generation: Vec<u32>,
    /// Tokens for filling in the middle of a text.
    pub infill: Infill,
    /// Jinja source of the chat template.
    pub chat_template: Option<String>,
}

/// How text is cut into tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerKind {
    /// Byte-level BPE (GGUF model `gpt2`).
    ByteLevelBpe,
    /// SentencePiece BPE by score with byte fallback (GGUF model `llama`).
    SentencePiece,
}

/// What a token is; the discriminants are GGUF's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TokenType {
    /// Ordinary text.
    Normal = 1,
    /// Stands for text outside the vocabulary.
    Unknown = 2,
    /// A control token such as `<|im_end|>`; never produced from plain text.
    Control = 3,
    /// Added by a user of the vocabulary; matched in text before BPE.
    UserDefined = 4,
    /// Has an id and no use.
    Unused = 5,
    /// One raw byte, written `<0x0A>`.
    Byte = 6,
}

impl TokenType {
    /// The type with GGUF's number `n`.
    pub fn from_gguf(n: i64) -> Option<Self> {
        Some(match n {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// Scores for SentencePiece where a file has merges, as ids of left and right part in order of rank: a token that is merged
/// earlier has a higher one. `id` finds a token by its text.
pub fn scores_of_merges(tokens: &[String], merges: &[(u32, u32)], id: impl Fn(&str) -> Option<u32>) -> Vec<f32> {
    let mut scores = vec![-(merges.len() as f32) - 1.0; tokens.len()];
    let text = |id: u32| tokens.get(id as usize).map_or("", String::as_str);
    let mut merged = String::new();
    // The first of several ranks is set last.
    for (rank, (left, right)) in merges.iter().enumerate().rev() {
        merged.clear();
        merged.push_str(text(*left));
        merged.push_str(text(*right));
        if let Some(score) = id(&merged).and_then(|id| scores.get_mut(id as usize)) {
            *score = -(rank as f32);
        }
    }
    scores
}
