//! What can go wrong while loading or running a model.

/// Why a model could not be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint lacks a tensor that its shape calls for.
    #[error("tensor `{name}` is missing; the file is incomplete")]
    MissingTensor {
        /// GGUF's name of the tensor.
        name: String,
    },
    /// A tensor's shape disagrees with the model's.
    #[error("tensor `{name}`: expected {expected_rows}x{expected_cols}, file has {rows}x{cols}")]
    Shape {
        /// GGUF's name of the tensor.
        name: String,
        /// Output features the model needs.
        expected_rows: usize,
        /// Input features the model needs.
        expected_cols: usize,
        /// Output features in the file.
        rows: usize,
        /// Input features in the file.
        cols: usize,
    },
    /// The file could not be read.
    #[error(transparent)]
    File(#[from] spm::Error),
    /// The vocabulary cannot be used.
    #[error("the model has no vocabulary; export it again together with its tokenizer")]
    NoVocabulary,
    /// The vocabulary contradicts itself or is of an unknown kind.
    #[error("vocabulary: {problem}")]
    Tokenizer {
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Nothing to continue, and the model has no token that begins a text.
    #[error("the prompt is empty and the model has no token to begin with; give some text")]
    EmptyPrompt,
    /// The model was not trained to fill in the middle of a text.
    #[error(
        "the model has no tokens for filling in the middle of a text; take a code model that has, such as Qwen2.5-Coder, or give only what comes before"
    )]
    NoInfill,
    /// The thread pool could not be built.
    #[error("cannot start {threads} threads; ask for fewer")]
    Threads {
        /// Threads asked for.
        threads: usize,
    },
    /// A token id is not in the vocabulary.
    #[error("token {token} is not below the vocabulary's {vocab_size}")]
    Token {
        /// The id.
        token: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// A model that computes what is no number.
    #[error(
        "the model's logits are not finite: a weight or a restored state is damaged, or too large for the computation; check the model's file, or fetch it again"
    )]
    NotFinite,
    /// More tokens than the session has room for.
    #[error("{needed} tokens do not fit in a context of {context}; ask for a larger context or a shorter prompt")]
    ContextFull {
        /// Positions needed.
        needed: usize,
        /// Positions the session has.
        context: usize,
    },
    /// Memory for the session could not be had.
    #[error("cannot allocate {bytes} bytes for {what}; ask for a shorter context")]
    OutOfMemory {
        /// What it was for.
        what: &'static str,
        /// How much.
        bytes: usize,
    },
    /// A saved state that cannot be restored.
    #[error("saved state: {problem}")]
    State {
        /// What is wrong, and what to do.
        problem: String,
    },
    /// No kernel of that name runs on this machine.
    #[error("no kernel called `{name}` on this machine; there are: {available}")]
    UnknownKernel {
        /// What was asked for.
        name: String,
        /// What there is.
        available: String,
    },
}
