//! `spm exact`: whether the number that a model comes to is the right one.
//!
//! As lm-evaluation-harness does for GSM8K: some solved problems, then the one to solve; what counts is the number after
//! `####` and, as a second figure, the last number of the answer whatever is before it. With `--chat` the same is asked in a
//! message, and how the answer is to end is said.

mod items;
mod number;

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::{Ready, RunArgs};
use crate::failure::Failure;
use crate::process;
use crate::progress::counting_bar;
use crate::stats::wilson;
use crate::writer::{self, Prompt, Sampling, Until, Writer};
use items::Item;

/// The options of `spm exact`.
#[derive(Args, Debug)]
pub struct ExactArgs {
    /// Model file
    model: PathBuf,
    /// Problems: one JSON object a line with `question` and `answer` that ends in `#### NUMBER` (GSM8K), or with `Body`,
    /// `sQuestion`, `Equation` and `lSolutions` (SVAMP); may be packed by gzip
    #[arg(long, value_name = "FILE")]
    items: PathBuf,
    /// Solved problems that are shown first are from this file [default: the first of --items, which then do not count]
    #[arg(long, value_name = "FILE")]
    examples: Option<PathBuf>,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(0..=100))]
    shots: u16,
    /// Only the first N problems
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Tokens of an answer at most
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    max_tokens: u32,
    /// Ask in a message, using the model's chat template; the solved problems are in it
    #[arg(long)]
    chat: bool,
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    items: usize,
    /// The number after `####` is right.
    marked: usize,
    /// The last number is right.
    last: usize,
    /// There is a number after `####`.
    answered: usize,
}

impl Found {
    fn add(&mut self, item: &Item, answer: &str) {
        let marked = number::marked(answer);
        self.items += 1;
        self.answered += usize::from(marked.is_some());
        self.marked += usize::from(marked.is_some_and(|n| number::equal(n, item.number)));
        self.last += usize::from(number::last(answer).is_some_and(|n| number::equal(n, item.number)));
    }
}

/// Runs the command and prints its figures to `out`, what else there is to say to `notes`.
pub fn run(args: &ExactArgs, out: &mut impl Write, notes: &mut impl Write) -> Result<(), Failure> {
    let interrupted = process::interrupt_flag()?;
    let (shots, items) = choose(args, notes)?;
    let ready = Ready::load(&args.model, &args.run)?;
    let prompts = items.iter().map(|item| writer::encode(&ready, &prompt(&shots, item, args.chat)));
    let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let mut writer = Writer::new(&ready, items.len(), longest, args.max_tokens as usize, &interrupted)?;
    if let Some((item, _)) = items.iter().zip(&prompts).find(|(_, prompt)| !writer.fits(prompt)) {
        return Err(too_long(args, item, &ready));
    }
    let sampling = Sampling { max_tokens: args.max_tokens as usize, temperature: 0.0, top_p: 1.0, seed: 0 };
    let bar = counting_bar(items.len(), "problems");
    let (mut found, mut waiting) = (Found::default(), items.iter().zip(&prompts));
    while found.items < items.len() {
        while writer.is_free()
            && let Some((item, prompt)) = waiting.next()
        {
            let until = Until { stops: vec!["Question:".into()], finished: Box::new(number::is_finished) };
            writer.begin(item, prompt, until, &sampling)?;
        }
        for (item, answer) in writer.step()? {
            found.add(item, &answer);
            bar.inc(1);
            bar.set_message(format!("{:.3} right", found.marked as f64 / found.items as f64));
        }
    }
    bar.finish_and_clear();
    print(args, shots.len(), &found, out)
}

/// The problems that are shown as solved, and those to solve.
fn choose(args: &ExactArgs, notes: &mut impl Write) -> Result<(Vec<Item>, Vec<Item>), Failure> {
    let mut items = items::read(&args.items)?;
    let n = usize::from(args.shots);
    let (from, there) = match &args.examples {
        Some(path) => (path, items::read(path)?),
        None => (&args.items, items.clone()),
    };
    if there.len() < n || args.examples.is_none() && there.len() == n {
        let message = format!("{}: {} items are too few for --shots {n}; ask for less", from.display(), there.len());
        return Err(Failure::Usage(message));
    }
    if args.examples.is_none() {
        items.drain(..n);
    }
    items.truncate(args.limit.map_or(usize::MAX, |n| n as usize));
    if n > 0 {
        let counted = if args.examples.is_none() { "; they are not counted" } else { "" };
        writeln!(notes, "shown as solved: the first {n} items of {}{counted}", from.display())?;
    }
    Ok((there.into_iter().take(n).collect(), items))
}

/// `shots`, solved, and then `item`.
fn prompt(shots: &[Item], item: &Item, chat: bool) -> Prompt {
    let solved: String = shots.iter().map(|shot| format!("{}\nAnswer: {}\n\n", ask(shot), shot.solution)).collect();
    match chat {
        true => {
            let message = format!("{solved}{}\n\nSolve it step by step. End with a line `#### NUMBER`.", ask(item));
            Prompt::Chat { message, answer: String::new() }
        }
        false => Prompt::Raw(format!("{solved}{}\nAnswer:", ask(item))),
    }
}

fn ask(item: &Item) -> String {
    format!("Question: {}", item.question)
}

fn too_long(args: &ExactArgs, item: &Item, ready: &Ready) -> Failure {
    let context = ready.model.config().context_len;
    let (path, line) = (args.items.display(), item.line);
    Failure::Usage(format!(
        "{path}: line {line}: with {} shots it does not fit in {context} tokens; ask for less",
        args.shots
    ))
}

fn print(args: &ExactArgs, shots: usize, found: &Found, out: &mut impl Write) -> Result<(), Failure> {
    let share = |count: usize| count as f64 / found.items as f64;
    let interval = |count: usize| wilson(share(count), found.items);
    if args.json {
        let as_json = |count| {
            let (low, high) = interval(count);
            json!({"accuracy": share(count), "low": low, "high": high})
        };
        let all = json!({
            "items": found.items,
            "shots": shots,
            "prompt": if args.chat { "chat" } else { "raw" },
            "marked": as_json(found.marked),
            "last_number": as_json(found.last),
            "answered": share(found.answered),
        });
        writeln!(out, "{all:#}")?;
        return Ok(());
    }
    let asked = if args.chat { ", asked in a message" } else { "" };
    writeln!(out, "items        {}, {shots} shown as solved{asked}", found.items)?;
    for (name, count) in [("after ####", found.marked), ("last number", found.last)] {
        let (low, high) = interval(count);
        writeln!(out, "{name:<11}  {:.4}, 95 % {low:.4} to {high:.4}", share(count))?;
    }
    writeln!(out, "answered     {:.4} with ####", share(found.answered))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_put_raw_or_in_a_message() {
        let item =
            |question: &str| Item { question: question.into(), solution: "s\n#### 1".into(), number: 1.0, line: 1 };
        let raw = "Question: a?\nAnswer: s\n#### 1\n\nQuestion: b?\nAnswer:";
        assert_eq!(prompt(&[item("a?")], &item("b?"), false), Prompt::Raw(raw.into()));
        let Prompt::Chat { message, answer } = prompt(&[item("a?")], &item("b?"), true) else { panic!() };
        assert!(message.starts_with("Question: a?\nAnswer: s\n#### 1\n\nQuestion: b?\n\n") && message.contains("####"));
        assert_eq!(answer, "");
    }
}
