//! The options of `spm pass`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::items::Kind;
use super::language::Language;
use crate::cli::{ByteSize, RunArgs};

/// What is run and how.
#[derive(Args, Debug)]
pub struct PassArgs {
    /// Model file; not with --canonical and --compare
    #[arg(required_unless_present_any = ["canonical", "compare"], conflicts_with_all = ["canonical", "compare"])]
    pub model: Option<PathBuf>,
    /// Problems: one JSON object a line, as HumanEval, MBPP and HumanEval-X are published; may be packed by gzip
    #[arg(long, value_name = "FILE", required_unless_present = "compare", conflicts_with = "compare")]
    pub items: Option<PathBuf>,
    /// Only problems of this language; of HumanEval-X items whose task_id names none, what it is
    #[arg(long, value_enum)]
    pub language: Option<Language>,
    /// Format and protocol of the items
    #[arg(long, value_enum, default_value_t = KindChoice::Auto)]
    pub kind: KindChoice,
    /// Run the items' own solutions, which must all pass, in place of a model's
    #[arg(long)]
    pub canonical: bool,
    /// Compare two results files item by item: table, McNemar's exact test
    #[arg(long, num_args = 2, value_names = ["A.jsonl", "B.jsonl"])]
    pub compare: Option<Vec<PathBuf>>,
    /// Programs that the model writes for each problem
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub samples: u16,
    /// Randomness; 0 is greedy. pass@k of the literature: 0.2 for k = 1, 0.8 for more
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = number)]
    pub temperature: f32,
    /// Choose among the most likely tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = number)]
    pub top_p: f32,
    /// Which pass@k to estimate, of at most as many as there are samples
    #[arg(long, value_name = "K", value_delimiter = ',', default_values_t = [1], value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub k: Vec<u16>,
    /// Same seed, same programs
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Tokens of a program at most
    #[arg(long, value_name = "N", default_value_t = 768, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub max_tokens: u32,
    /// Only the first N problems
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Only problems whose number at the end of the task_id is in this range, such as 11-510, the test part of MBPP
    #[arg(long, value_name = "A-B", value_parser = parse_range)]
    pub ids: Option<(u64, u64)>,
    /// Ask for the program in a message, using the model's chat template [default: if it has one]
    #[arg(long)]
    pub chat: bool,
    /// Let the model continue the text
    #[arg(long, conflicts_with = "chat")]
    pub raw: bool,
    /// Programs that are run at once, beside the model [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,
    /// Seconds for the tests of a program
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = seconds)]
    pub timeout: f64,
    /// Memory for a program, 64MiB or more
    #[arg(long, value_name = "SIZE", default_value = "2GB", value_parser = enough_memory)]
    pub program_memory: ByteSize,
    /// Run programs though they cannot be kept from this machine's files and network
    #[arg(long)]
    pub unisolated: bool,
    /// Write what came of every problem; an earlier run with the same model, items and options is gone on with
    #[arg(long, value_name = "RESULTS.jsonl")]
    pub out: Option<PathBuf>,
    /// For programs
    #[arg(long)]
    pub json: bool,
    /// How the model runs
    #[command(flatten)]
    pub run: RunArgs,
}

/// The kinds of items, and finding out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KindChoice {
    /// By the fields
    Auto,
    /// `task_id`, `prompt`, `entry_point`, `canonical_solution`, `test`; Python
    Humaneval,
    /// `task_id`, `text`, `code`, `test_list`, `test_setup_code`; Python
    Mbpp,
    /// `task_id` such as `Java/0`, `prompt`, `canonical_solution`, `test`; four languages
    HumanevalX,
}

impl KindChoice {
    /// The kind, if it was named.
    pub fn kind(self) -> Option<Kind> {
        match self {
            KindChoice::Auto => None,
            KindChoice::Humaneval => Some(Kind::Humaneval),
            KindChoice::Mbpp => Some(Kind::Mbpp),
            KindChoice::HumanevalX => Some(Kind::HumanevalX),
        }
    }
}

/// What no compiler and no interpreter starts with would be no fault of the model's.
fn enough_memory(text: &str) -> Result<ByteSize, String> {
    let least = ByteSize(64 << 20);
    match text.parse::<ByteSize>()? {
        size if size.0 >= least.0 => Ok(size),
        _ => Err("expected 64MiB or more: compilers and interpreters take as much".to_owned()),
    }
}

fn number(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if (0.0..=10.0).contains(&x) => Ok(x),
        _ => Err("expected a number from 0 to 10".into()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if (0.1..=3600.0).contains(&x) => Ok(x),
        _ => Err("expected seconds from 0.1 to 3600".into()),
    }
}

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let range = text.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    range.filter(|(a, b)| a <= b).ok_or_else(|| "expected two numbers such as 11-510".into())
}
