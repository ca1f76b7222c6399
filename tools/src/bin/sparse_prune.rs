//! `sparse-prune SRC -o OUT.spm`: a dense model becomes a sparse one for a language.

use std::process::ExitCode;

use clap::Parser;
use tools::prune::{self, PruneArgs};

/// Prune a dense model (.gguf, or a Hugging Face folder) for a programming language and write a sparse one (.spm).
///
/// Exit codes: 0 ok, 1 runtime, 2 usage, 3 bad model file, 4 not enough memory, 130 interrupted.
#[derive(Parser)]
#[command(name = "sparse-prune", version, max_term_width = 100, allow_negative_numbers = true)]
struct Cli {
    #[command(flatten)]
    args: PruneArgs,
}

fn main() -> ExitCode {
    if let Some(written) = tools::docs::written::<Cli>() {
        return written;
    }
    let args = Cli::parse().args;
    tools::run("sparse-prune", || prune::run(&args))
}
