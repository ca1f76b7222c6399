//! `spm choice`: which of some answers a model finds most likely.
//!
//! The log-likelihood of an answer is that of its tokens after the question, as lm-evaluation-harness takes it: plain, or by
//! bytes of the answer, which does not prefer short ones.

mod items;
mod score;

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::cli::{Ready, RunArgs};
use crate::failure::Failure;
use crate::process;
use crate::progress::counting_bar;
use crate::stats::wilson;
use items::Item;
use score::Scorer;

/// The options of `spm choice`.
#[derive(Args, Debug)]
pub struct ChoiceArgs {
    /// Model file
    model: PathBuf,
    /// Questions: one JSON object a line with `question`, `choices` and `answer` (the right one's index, from 0); may be
    /// packed by gzip
    #[arg(long, value_name = "FILE")]
    items: PathBuf,
    /// How the question is put
    #[arg(long, value_enum, default_value_t = Style::Auto)]
    style: Style,
    /// Only the first N questions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// How a question and an answer become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Style {
    /// blank if every question has one `_` (WinoGrande), else question
    Auto,
    /// "Question: ...\nAnswer: ..." (ARC, OpenBookQA, BoolQ, PIQA, SIQA)
    Question,
    /// The answer goes on with the question's text (HellaSwag)
    Continuation,
    /// The answer stands in place of `_`, and the text after it is scored
    Blank,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Found {
    items: usize,
    plain: usize,
    by_bytes: usize,
    /// Sum over the items of what guessing would get.
    chance: f64,
}

/// Runs the command and prints its figures to `out`.
pub fn run(args: &ChoiceArgs, out: &mut impl Write) -> Result<(), Failure> {
    let interrupted = process::interrupt_flag()?;
    let mut items = items::read(&args.items)?;
    items.truncate(args.limit.map_or(usize::MAX, |n| n as usize));
    let style = settle(args, &items)?;
    let ready = Ready::load(&args.model, &args.run)?;
    let splitter = ready.splitter()?;
    let mut scorer = Scorer::new(&ready, splitter.as_ref(), (&args.items, &items), style)?;
    let bar = counting_bar(items.len(), "questions");
    let mut found = Found::default();
    for item in &items {
        if interrupted.load(Ordering::SeqCst) {
            return Err(Failure::Interrupted);
        }
        let scores = scorer.score(item)?;
        found.items += 1;
        found.plain += usize::from(best(scores.iter().map(|s| s.log_likelihood)) == item.answer);
        found.by_bytes += usize::from(best(scores.iter().map(|s| s.log_likelihood / s.bytes)) == item.answer);
        found.chance += 1.0 / item.choices.len() as f64;
        bar.inc(1);
    }
    bar.finish_and_clear();
    print(args, style, &found, out)
}

fn settle(args: &ChoiceArgs, items: &[Item]) -> Result<Style, Failure> {
    let lacks = items.iter().find(|item| item.question.matches('_').count() != 1);
    match (args.style, lacks) {
        (Style::Auto, None) => Ok(Style::Blank),
        (Style::Auto, Some(_)) => Ok(Style::Question),
        (Style::Blank, Some(item)) => {
            let message = format!("{}: line {}: not one `_` in the question", args.items.display(), item.line);
            Err(Failure::Usage(message + ", which --style blank fills"))
        }
        (style, _) => Ok(style),
    }
}

/// The first of the largest.
fn best(scores: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, score) in scores.enumerate() {
        if score > best.1 {
            best = (i, score);
        }
    }
    best.0
}

fn print(args: &ChoiceArgs, style: Style, found: &Found, out: &mut impl Write) -> Result<(), Failure> {
    let n = found.items as f64;
    let style = style.to_possible_value().map_or(String::new(), |v| v.get_name().to_owned());
    let share = |count: usize| (count as f64 / n, wilson(count as f64 / n, found.items));
    if args.json {
        let as_json = |count| {
            let (share, (low, high)) = share(count);
            json!({"accuracy": share, "low": low, "high": high})
        };
        let all = json!({
            "items": found.items,
            "style": style,
            "plain": as_json(found.plain),
            "by_bytes": as_json(found.by_bytes),
            "chance": found.chance / n,
        });
        writeln!(out, "{all:#}")?;
        return Ok(());
    }
    writeln!(out, "items      {}, put as {style}", found.items)?;
    for (name, count) in [("plain", found.plain), ("by bytes", found.by_bytes)] {
        let (share, (low, high)) = share(count);
        writeln!(out, "{name:<9}  {share:.4}, 95 % {low:.4} to {high:.4}")?;
    }
    writeln!(out, "chance     {:.4}", found.chance / n)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equals_is_best() {
        assert_eq!(best([-2.0, -1.0, -1.0].into_iter()), 1);
        assert_eq!(best([f64::NEG_INFINITY, f64::NAN].into_iter()), 0);
    }
}
