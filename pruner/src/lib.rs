//! From a dense checkpoint to a sub-model for one programming language.
//!
//! ```text
//! files, folders ─ calibration ─► windows of token ids
//!                                       │
//! checkpoint ────────► driver ◄─────────┘
//!                        │ for each layer, and inside it for each site:
//!                        │   statistics of the site's inputs ─► method ─► mask ─► encoding
//!                        ▼
//!                      sink (a file being written, or memory)
//! ```
//!
//! One layer and the hidden states of the calibration tokens are in memory, never the model, but where
//! [`TokenCounts::expect`] runs it to rank the tokens of a shortlist, and [`Profile::Auto`] to measure matrices. The result
//! depends on the source, the options and the windows alone: not on threads, not on time.
//!
//! A [`Journal`] beside the file keeps what is done, so that a run that is killed can be resumed, to the same bytes.
//!
//! To add a pruning method: one file in `method/`, and its entry in [`method::METHODS`].
//!
//! This crate does not know file formats beyond [`spm::Checkpoint`] and [`Sink`], makes no tokens from text
//! (the caller's tokenizer does), prints nothing and starts no threads but its own.

mod allocation;
pub mod calibration;
mod compensate;
mod driver;
mod error;
mod importance;
mod journal;
mod linalg;
pub mod method;
mod options;
mod outcome;
pub mod pattern;
mod plan;
mod profile;
mod progress;
pub mod provenance;
mod refit;
mod report;
mod rng;
mod rounding;
pub mod shortlist;
mod sink;
mod site;
mod states;
mod statistics;
mod stream;
mod tensors;

pub use allocation::{Allocation, Treatment, ValueType};
pub use calibration::{Calibration, CalibrationOptions, Domain, Language};
pub use driver::{Known, prune, prune_resumable, prune_with_norms};
pub use error::Error;
pub use journal::{Earlier, Fingerprint, Journal, JournalOptions};
pub use method::Method;
pub use options::{PruneOptions, RoundingKind};
pub use pattern::{Group, Pattern};
pub use plan::{Plan, check_windows, estimate_time, plan, plan_within};
pub use profile::{Budget, Profile, SensitivityFile};
pub use progress::Progress;
pub use report::{JudgedBy, Report, TensorReport, Warning};
pub use shortlist::{ShortlistSize, TokenCounts};
pub use sink::Sink;
pub use site::Site;
pub use states::Residence;
pub use statistics::{Beside, ColumnNorms, Gram, HeldOut, Inputs, Wanted};
