//! `spm compare`: two models side by side, so that a user can decide between them.
//!
//! Speed is measured in turns: noise of the machine meets both. Quality is of the models as they run; what B is compared
//! with is A, not a reference of higher precision.

mod html;
mod json;
mod measure;
mod prompts;
mod table;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::bench::Test;
use crate::cli::RunArgs;
use crate::eval::{Text, TextArgs};
use crate::evaluate::Evaluation;
use crate::failure::Failure;
use crate::new_file::{refuse_existing, write_new};

/// What is compared, by what.
#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// Model file: what is there
    pub a: PathBuf,
    /// Model file: what may take its place
    pub b: PathBuf,
    /// The texts
    #[command(flatten)]
    pub texts: TextArgs,
    /// A text that both models continue; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub prompt: Vec<String>,
    /// Prompts: the fields `prompt` of a .jsonl file, packed by gzip or not; of others the whole text, or the parts between lines of `---`
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// Tokens that a prompt is continued by, at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    pub predict: u32,
    /// Tokens read at once to measure speed; 0 measures none
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1 << 16))]
    pub n_prompt: u32,
    /// Tokens written one by one to measure speed; 0 measures none
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(0..=1 << 16))]
    pub n_gen: u32,
    /// Measurements of speed, each of both models
    #[arg(short, long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    pub repetitions: u16,
    /// Write a page for people: one file that needs nothing else
    #[arg(long, value_name = "OUT.html")]
    pub html: Option<PathBuf>,
    /// For programs
    #[arg(long)]
    pub json: bool,
    /// How models are run
    #[command(flatten)]
    pub run: RunArgs,
}

/// Compares, writes the page if it was asked for, and prints the rest to `out`.
pub fn run(args: &CompareArgs, out: &mut dyn Write) -> Result<(), Failure> {
    args.html.iter().try_for_each(|path| refuse_existing(path))?;
    args.texts.check()?;
    let compared = measure::measure(args)?;
    if let Some(path) = &args.html {
        write_new(path, html::render(&compared))?;
    }
    match args.json {
        true => writeln!(out, "{:#}", json::to_json(&compared))?,
        false => table::write(&compared, out)?,
    }
    Ok(())
}

/// Two models, measured.
pub(crate) struct Compared {
    /// A and B.
    pub(crate) sides: [Side; 2],
    /// Threads and kernels that both ran with.
    pub(crate) engine: String,
    /// What was timed.
    pub(crate) speeds: Vec<Speed>,
    /// What both made of the texts.
    pub(crate) texts: Vec<Quality>,
    /// What both made of the prompts.
    pub(crate) continuations: Vec<Continuation>,
}

/// What is known of a model's file.
pub(crate) struct Side {
    /// What it is called.
    pub(crate) label: String,
    /// Its file.
    pub(crate) path: PathBuf,
    /// Bytes of the file, of all parts of a split one.
    pub(crate) file_bytes: u64,
    /// Bytes of weights that one decoded token reads.
    pub(crate) bytes_per_token: u64,
    /// Share of the layers' weights that are not stored.
    pub(crate) sparsity: f64,
    /// The encoding of most weights of the layers, as they are multiplied with.
    pub(crate) encoding: &'static str,
}

/// Times of both models, in turns.
pub(crate) struct Speed {
    /// What was run.
    pub(crate) test: Test,
    /// Of A and B.
    pub(crate) times: [Vec<Duration>; 2],
}

impl Speed {
    /// Tokens a second of one side: of the median time, of the longest and of the shortest.
    pub(crate) fn tokens_per_second(&self, side: usize) -> (f64, f64, f64) {
        let mut times = self.times[side].clone();
        times.sort_unstable();
        let rate = |time: Duration| self.test.tokens() as f64 / time.as_secs_f64().max(1e-9);
        (rate(median(&times)), rate(times[times.len() - 1]), rate(times[0]))
    }

    /// How many times as fast B is, by the medians.
    pub(crate) fn ratio(&self) -> f64 {
        self.tokens_per_second(1).0 / self.tokens_per_second(0).0
    }
}

/// Of sorted times.
fn median(times: &[Duration]) -> Duration {
    (times[(times.len() - 1) / 2] + times[times.len() / 2]) / 2
}

/// What both models make of a text.
pub(crate) struct Quality {
    /// The text as A reads it, and as B does: the same if they have one vocabulary.
    pub(crate) texts: [Text; 2],
    /// Whether they have.
    pub(crate) one_vocabulary: bool,
    /// Of A and B; B is compared to A if they have one vocabulary and A can write all of it.
    pub(crate) found: [Evaluation; 2],
}

impl Quality {
    /// How B was compared to A, if it was.
    pub(crate) fn against(&self) -> Option<&Evaluation> {
        Some(&self.found[1]).filter(|found| found.is_compared())
    }
}

/// What both models write after a prompt.
pub(crate) struct Continuation {
    pub(crate) prompt: String,
    pub(crate) texts: [String; 2],
}

impl Compared {
    /// What a user wants to know first.
    pub(crate) fn sentences(&self) -> Vec<String> {
        let [a, b] = &self.sides;
        let size = b.file_bytes as f64 / a.file_bytes.max(1) as f64;
        let mut said = vec![format!("B's file is {size:.2} times as large as A's.")];
        said.extend(self.speeds.iter().map(|speed| {
            let verb = if matches!(speed.test, Test::Prompt(_)) { "reads" } else { "writes" };
            format!("B {verb} {:.2} times as many tokens a second.", speed.ratio())
        }));
        said.extend(self.texts.iter().map(|quality| {
            let [a, b] = [0, 1].map(|side| quality.found[side].bits_per_byte().value);
            format!(
                "B needs {b:.3} bits for a byte of {}, A {a:.3}: {:+.1} %.",
                quality.texts[0].name,
                100.0 * (b / a - 1.0)
            )
        }));
        if !self.continuations.is_empty() {
            let same = self.continuations.iter().filter(|c| c.texts[0] == c.texts[1]).count();
            said.push(format!("Of {} prompts they continue {same} alike.", self.continuations.len()));
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_those_of_the_median_times() {
        let times = |all: &[u64]| all.iter().map(|ms| Duration::from_millis(*ms)).collect();
        let speed = Speed { test: Test::Generate(10), times: [times(&[400, 100, 200]), times(&[50, 100, 200, 70])] };
        assert_eq!(speed.tokens_per_second(0), (50.0, 25.0, 100.0));
        // The middle of 70 and 100 ms.
        assert!((speed.tokens_per_second(1).0 - 10.0 / 0.085).abs() < 1e-9);
        assert!((speed.ratio() - 0.2 / 0.085).abs() < 1e-9);
    }
}
