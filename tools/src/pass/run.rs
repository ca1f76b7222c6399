//! `spm pass`: what is asked, of whom, and what is said of it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::args::PassArgs;
use super::bench::Bench;
use super::compare;
use super::items::{self, Item, Kind};
use super::results::Results;
use super::sandbox::Sandbox;
use super::toolchain::Tools;
use super::verdict::{Outcome, Verdict};
use crate::cli::Ready;
use crate::failure::Failure;
use crate::fingerprint;
use crate::open::AnyModel;
use crate::process;
use crate::progress::counting_bar;

/// Runs the command and prints its figures to `out`, what else there is to say to `notes`.
pub fn run(args: &PassArgs, out: &mut impl Write, notes: &mut impl Write) -> Result<(), Failure> {
    if let Some([a, b]) = args.compare.as_deref() {
        return compare::run(a, b, args.json, out);
    }
    refuse_more_than_samples(args)?;
    let interrupted = process::interrupt_flag()?;
    let path = args.items.as_deref().unwrap_or(Path::new(""));
    let all = items::read(path, args.kind.kind(), args.language)?;
    let shots = solved(&all);
    let mut asked = choose(args, all, path)?;
    let tools = Tools::find(&asked);
    let sandbox = Sandbox::new(Path::new("/proc/self/exe"), tools.folders(), !args.unisolated)?;
    let ready = args.model.as_ref().map(|model| Ready::load(model, &args.run)).transpose()?;
    let chat = is_chat(args, ready.as_ref())?;
    let is_shown = !chat && ready.is_some() && asked.iter().any(|item| item.kind == Kind::Mbpp);
    let shots = if is_shown { shots } else { Vec::new() };
    asked.retain(|item| !shots.iter().any(|shot| shot.task_id == item.task_id));
    asked.truncate(args.limit.map_or(usize::MAX, |n| n as usize));
    if asked.is_empty() {
        return Err(Failure::Usage(format!("{}: no items are left but those shown to the model", path.display())));
    }
    say_what_is_done(&tools, &sandbox, &shots, notes)?;

    let settings = settings(args, path, &asked, chat, &shots)?;
    let opened = args.out.as_ref().map(|out| Results::open(out, &settings)).transpose()?;
    let (results, mut records) = opened.map_or((None, BTreeMap::new()), |(results, there)| (Some(results), there));
    records.retain(|_, record| record.was_run());
    let mut bench = Bench {
        args,
        chat,
        shots: &shots,
        tools: &tools,
        sandbox: &sandbox,
        interrupted: &interrupted,
        results,
        records,
        asked: &asked,
        bar: counting_bar(asked.len(), "programs"),
    };
    bench.run(ready.as_ref())?;
    if args.canonical {
        say_what_failed(&bench, notes)?;
    }
    print(args, &bench, out)
}

fn refuse_more_than_samples(args: &PassArgs) -> Result<(), Failure> {
    let samples = if args.canonical { 1 } else { args.samples };
    match args.k.iter().find(|k| **k > samples) {
        Some(k) => Err(Failure::Usage(format!("--k {k} needs as many --samples, there are {samples}"))),
        None if args.samples > 1 && args.temperature == 0.0 && !args.canonical => {
            Err(Failure::Usage(format!("--samples {}: greedy ones are all the same; set --temperature", args.samples)))
        }
        None => Ok(()),
    }
}

/// Solved problems that a base model is shown before MBPP's: those of its paper or, where they are not there, the first.
fn solved(all: &[Item]) -> Vec<Item> {
    let solved = || all.iter().filter(|item| item.kind == Kind::Mbpp && !item.canonical.is_empty());
    let published = solved().filter(|item| matches!(item.task_id.as_str(), "MBPP/2" | "MBPP/3" | "MBPP/4"));
    let published: Vec<Item> = published.cloned().collect();
    if published.len() == 3 { published } else { solved().take(3).cloned().collect() }
}

/// The items that are asked for, without a limit.
fn choose(args: &PassArgs, all: Vec<Item>, path: &Path) -> Result<Vec<Item>, Failure> {
    let in_range = |item: &Item| {
        let digits = item.task_id.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let number = item.task_id[digits..].parse::<u64>().ok();
        args.ids.is_none_or(|(first, last)| number.is_some_and(|n| (first..=last).contains(&n)))
    };
    let total = all.len();
    let chosen = all.into_iter().filter(|item| args.language.is_none_or(|l| l == item.language) && in_range(item));
    let chosen: Vec<Item> = chosen.collect();
    match chosen.is_empty() {
        true => Err(Failure::Usage(format!("{}: none of its {total} items is asked for", path.display()))),
        false => Ok(chosen),
    }
}

fn is_chat(args: &PassArgs, ready: Option<&Ready>) -> Result<bool, Failure> {
    let has_template = ready.is_some_and(|r| r.chat_template.is_some());
    match args.chat && !has_template && ready.is_some() {
        true => Err(Failure::Usage("this model has no chat template; run without --chat".into())),
        false => Ok(has_template && !args.raw),
    }
}

fn say_what_is_done(tools: &Tools, sandbox: &Sandbox, shots: &[Item], notes: &mut impl Write) -> std::io::Result<()> {
    if !sandbox.is_isolated() {
        let warning = "warning: not isolated: programs can read and change what you can, use the network, and start \
                       more processes than allowed if you are root; time, memory and output are limited";
        writeln!(notes, "{warning}")?;
    }
    for (language, tools) in &tools.0 {
        match tools {
            Ok(tools) => writeln!(notes, "{}: {}", language.title(), tools.version)?,
            Err(why) => writeln!(notes, "warning: {} programs are not run: {why}", language.title())?,
        }
    }
    if !shots.is_empty() {
        let ids: Vec<&str> = shots.iter().map(|s| s.task_id.as_str()).collect();
        writeln!(notes, "shown to the model as solved, and not counted: {}", ids.join(", "))?;
    }
    Ok(())
}

/// The authors' own solutions: each that does not pass is worth a look.
fn say_what_failed(bench: &Bench, notes: &mut impl Write) -> std::io::Result<()> {
    for record in bench.asked.iter().filter_map(|item| bench.records.get(&item.task_id)) {
        for Verdict { outcome, why, .. } in record.samples.iter().map(|s| &s.verdict) {
            if !matches!(outcome, Outcome::Passed | Outcome::NotRun) {
                writeln!(notes, "{}: {} {why}", record.task_id, outcome.name())?;
            }
        }
    }
    Ok(())
}

/// What results depend on.
fn settings(
    args: &PassArgs,
    path: &Path,
    asked: &[Item],
    chat: bool,
    shots: &[Item],
) -> Result<Map<String, Value>, Failure> {
    let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
    // Only a results file needs them, and a model takes its time.
    let hash = |files: &[PathBuf]| args.out.is_some().then(|| fingerprint::of_files(files)).transpose();
    let mut kinds: Vec<&str> = asked.iter().map(|i| i.kind.name()).collect();
    kinds.dedup();
    let mut all = json!({
        "items_file": name(path),
        "items": hash(&[path.to_owned()])?,
        "kind": kinds,
        "model": args.model.as_deref().and_then(name).unwrap_or_else(|| "canonical solutions".into()),
        "timeout": args.timeout,
        "program_memory": args.program_memory.0,
        "isolated": !args.unisolated,
    });
    if let Some(model) = &args.model {
        let precision = if args.run.exact { "exact" } else { "int8" };
        let of_model = json!({
            "model_hash": hash(&AnyModel::open(model)?.files(model))?,
            "prompt": if chat { "chat" } else { "raw" },
            "shots": shots.iter().map(|s| s.task_id.as_str()).collect::<Vec<_>>(),
            "samples": args.samples,
            // As they are written, not as the nearest f64.
            "temperature": args.temperature.to_string(),
            "top_p": if args.temperature > 0.0 { args.top_p.to_string() } else { "1".into() },
            "seed": if args.temperature > 0.0 { args.seed } else { 0 },
            "max_tokens": args.max_tokens,
            "activations": precision,
        });
        all.as_object_mut().into_iter().for_each(|all| all.extend(of_model.as_object().cloned().unwrap_or_default()));
    }
    Ok(all.as_object().cloned().unwrap_or_default())
}

fn print(args: &PassArgs, bench: &Bench, out: &mut impl Write) -> Result<(), Failure> {
    let ks: Vec<usize> = args.k.iter().map(|&k| usize::from(k)).collect();
    let summary = bench.summary(&ks);
    if !args.json {
        return Ok(summary.print(out)?);
    }
    let mut all = summary.to_json();
    all["prompt"] = match (args.canonical, bench.chat) {
        (true, _) => "none".into(),
        (false, true) => "chat".into(),
        (false, false) => "raw".into(),
    };
    all["isolated"] = bench.sandbox.is_isolated().into();
    Ok(writeln!(out, "{all:#}")?)
}
