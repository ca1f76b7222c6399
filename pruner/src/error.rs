//! What can go wrong while pruning, with the numbers and the next step.

use std::path::{Path, PathBuf};

use crate::calibration::{Domain, Skipped};

/// Why a model could not be pruned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// What was being done, such as `read`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// An option has no such value.
    #[error("{option} `{value}`: expected {expected}")]
    Option {
        /// What is being set, such as `pattern`.
        option: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// Nothing to calibrate on, or not enough.
    #[error(
        "calibration text ({domain}) gives {have} tokens from {documents} documents{skipped}; {nsamples} windows of \
         {seqlen} need {need}: {}", more_text(*fitting)
    )]
    TooFewTokens {
        /// What the text was to be.
        domain: Domain,
        /// Tokens found, separators included.
        have: usize,
        /// Tokens the windows hold.
        need: usize,
        /// Windows asked for, of this domain.
        nsamples: usize,
        /// Tokens a window.
        seqlen: usize,
        /// Windows of all domains that there is text for.
        fitting: usize,
        /// Documents read.
        documents: usize,
        /// What was passed over.
        skipped: Box<Skipped>,
    },
    /// The method needs statistics and there are no calibration windows.
    #[error("method `{method}` needs calibration text; give files or folders of it, or use `magnitude`")]
    NoCalibration {
        /// The method.
        method: &'static str,
    },
    /// There are norms of inputs, and the method or the rounding needs their products.
    #[error(
        "method `{method}`, a refit or compensated rounding needs calibration text, not only the norms of an imatrix; give \
         files or folders of text, or use `wanda` or `ria`"
    )]
    NormsAlone {
        /// The method.
        method: &'static str,
    },
    /// Norms of inputs from elsewhere are missing or of another model.
    #[error(
        "tensor `{tensor}`: {found} norms of input features, expected {expected}; measure them with the same model"
    )]
    Norms {
        /// GGUF's name.
        tensor: String,
        /// How many there are.
        found: usize,
        /// Columns of the matrix.
        expected: usize,
    },
    /// The products of a matrix's inputs have no Cholesky factor.
    #[error(
        "tensor `{tensor}`: the products of its inputs are not positive definite, even damped; calibrate on more text, or \
         use `wanda`"
    )]
    NotDefinite {
        /// GGUF's name.
        tensor: String,
    },
    /// A conversation cannot be made text of.
    #[error("a conversation (`messages`) to calibrate on: {problem}; give `text`")]
    Chat {
        /// Why.
        problem: String,
    },
    /// A calibration token is not in the model's vocabulary.
    #[error("calibration token {token} is not below the vocabulary's {vocab_size}; use the model's own tokenizer")]
    Token {
        /// The id.
        token: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// A shortlist with which some text cannot be written.
    #[error("token {token} is not in the shortlist, and without it some text cannot be written; add it")]
    NotListed {
        /// The id.
        token: u32,
    },
    /// A number that should be finite is not.
    #[error("tensor `{tensor}`: {what} at row {row}, column {col} is {value}; the source may be damaged")]
    NotFinite {
        /// GGUF's name of the tensor.
        tensor: String,
        /// Such as `the score`.
        what: &'static str,
        /// Output feature.
        row: usize,
        /// Input feature.
        col: usize,
        /// What it is.
        value: f32,
    },
    /// The inputs of a site are not finite.
    #[error("layer {layer}: column {col} of the inputs of {site} has the norm {value}; the source may be damaged")]
    Statistics {
        /// Decoder layer.
        layer: usize,
        /// Where in the layer.
        site: &'static str,
        /// Input feature.
        col: usize,
        /// Its norm.
        value: f64,
    },
    /// A value does not fit in the encoding.
    #[error("tensor `{tensor}`: {value} at row {row}, column {col} does not fit in {encoding}; use another value type")]
    Overflow {
        /// GGUF's name of the tensor.
        tensor: String,
        /// Output feature.
        row: usize,
        /// Input feature.
        col: usize,
        /// What does not fit.
        value: f32,
        /// The encoding's name.
        encoding: &'static str,
    },
    /// A tensor to leave alone does not exist.
    #[error("`{pattern}` matches no weight of a decoder layer; such as `blk.0.` or `attn_v` do")]
    NothingIgnored {
        /// What was to be ignored.
        pattern: String,
    },
    /// A tensor's shape cannot be encoded.
    #[error("tensor `{tensor}`: {source}")]
    Shape {
        /// GGUF's name of the tensor.
        tensor: String,
        /// What is wrong with it.
        source: spm::ShapeError,
    },
    /// The decoder could not run.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] spm::Error),
    /// Memory could not be had.
    #[error("cannot allocate {bytes} bytes for {what}; ask for fewer or shorter calibration windows")]
    OutOfMemory {
        /// What it was for.
        what: &'static str,
        /// How much.
        bytes: usize,
    },
    /// Less memory is allowed, or there is less, than the least that is needed.
    #[error(
        "pruning needs {needed} bytes of memory even with the hidden states on disk, and {memory} are allowed; allow more \
         with --max-memory, or ask for shorter windows with --seqlen, or fewer --threads"
    )]
    TooLittleMemory {
        /// The least that is needed.
        needed: u64,
        /// What is allowed.
        memory: u64,
    },
    /// No mix is as small as was asked for.
    #[error("{limit} bytes are too few: the smallest mix takes {least}; ask for at least that")]
    TooSmall {
        /// What was asked for.
        limit: u64,
        /// The smallest there is.
        least: u64,
    },
    /// Threads could not be started.
    #[error("cannot start {threads} threads: {reason}; ask for fewer")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// What the system said.
        reason: String,
    },
    /// An earlier run left its journal.
    #[error("{}: an earlier run was interrupted; go on with --resume, or start anew with --force", path.display())]
    Unfinished {
        /// The journal.
        path: PathBuf,
    },
    /// The journal is of another pruning.
    #[error("{}: was kept for another pruning ({differences}); make them equal, or start anew with --force", path.display())]
    OtherJournal {
        /// The journal.
        path: PathBuf,
        /// What differs.
        differences: String,
    },
    /// A journal contradicts itself.
    #[error("{}: {problem}; start anew with --force", path.display())]
    DamagedJournal {
        /// The journal.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Another kind of file is where sensitivities would be.
    #[error("{}: holds no sensitivities ({problem}), so it is left alone; move it, or name another file", path.display())]
    NoSensitivity {
        /// The file.
        path: PathBuf,
        /// Why it is none.
        problem: String,
    },
    /// The sensitivities are of another model or text.
    #[error("{}: was measured otherwise ({differences} differ); make them equal, or name another file", path.display())]
    OtherSensitivity {
        /// The file.
        path: PathBuf,
        /// What differs.
        differences: String,
    },
    /// Another kind of file is where the journal would be.
    #[error("{}: is no journal, so it is left alone; move it, or give the output another name", path.display())]
    NotAJournal {
        /// The file.
        path: PathBuf,
    },
    /// The caller's progress callback said to stop.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// For `map_err`: the operating system refused `action` on `path`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }

    pub(crate) fn option(option: &'static str, value: &str, expected: impl Into<String>) -> Self {
        Error::Option { option, value: value.to_owned(), expected: expected.into() }
    }
}

fn more_text(fitting: usize) -> String {
    match fitting {
        0 => "add text, or ask for shorter windows with --seqlen".to_owned(),
        n => format!("add text, or ask for the {n} windows that it fills with --nsamples {n}"),
    }
}
