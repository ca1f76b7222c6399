//! `spm pass`: the model writes programs in one thread, others run them.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::args::PassArgs;
use super::items::{self, Item, Kind};
use super::language::Language;
use super::program::{Program, program};
use super::results::{Record, Results, Sample};
use super::sandbox::{Limits, Sandbox};
use super::summary::Summary;
use super::toolchain::Toolchain;
use super::verdict::{Outcome, Verdict, judge};
use super::{compare, protocol};
use crate::cli::Ready;
use crate::failure::Failure;
use crate::fingerprint;
use crate::open::AnyModel;
use crate::process;
use crate::progress::counting_bar;
use crate::writer::{self, Sampling, Until, Writer};

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

/// The toolchains of all languages that come up.
struct Tools(Vec<(Language, Result<Toolchain, String>)>);

impl Tools {
    fn find(items: &[Item]) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut all: Vec<(Language, Result<Toolchain, String>)> = Vec::new();
        for item in items {
            if !all.iter().any(|(language, _)| *language == item.language) {
                all.push((item.language, Toolchain::find(item.language, &path)));
            }
        }
        Tools(all)
    }

    fn folders(&self) -> Vec<PathBuf> {
        let mut folders: Vec<PathBuf> =
            self.0.iter().flat_map(|(_, t)| t.iter().flat_map(|t| t.folders.clone())).collect();
        folders.sort();
        folders
    }

    fn of(&self, language: Language) -> Result<&Toolchain, &str> {
        let found = self.0.iter().find(|(l, _)| *l == language);
        found.map_or(Err("not looked for"), |(_, tools)| tools.as_ref().map_err(String::as_str))
    }
}

/// A run over the items.
struct Bench<'a> {
    args: &'a PassArgs,
    chat: bool,
    shots: &'a [Item],
    tools: &'a Tools,
    sandbox: &'a Sandbox,
    interrupted: &'a Arc<AtomicBool>,
    results: Option<Results>,
    records: BTreeMap<String, Record>,
    asked: &'a [Item],
    bar: indicatif::ProgressBar,
}

/// A program to be run.
struct Task<'a> {
    item: &'a Item,
    sample: usize,
    completion: String,
    program: Program,
}

/// One that was run.
struct Done<'a> {
    item: &'a Item,
    sample: usize,
    result: Result<Sample, Failure>,
}

/// Programs on their way.
struct Running<'a> {
    tasks: SyncSender<Task<'a>>,
    finished: Receiver<Done<'a>>,
    /// By item, of those that have not all been run, a place a sample.
    open: HashMap<&'a str, Vec<Option<Sample>>>,
}

impl<'a> Bench<'a> {
    fn run(&mut self, ready: Option<&Ready>) -> Result<(), Failure> {
        let jobs = self.args.jobs.map_or_else(process::default_threads, usize::from);
        // Few wait, so that a run that is broken off wrote little in vain.
        let (tasks, queue) = sync_channel::<Task>(2 * jobs);
        let (done, finished) = channel::<Done>();
        let (queue, stop) = (Mutex::new(queue), AtomicBool::new(false));
        let (sandbox, args) = (self.sandbox, self.args);
        thread::scope(|scope| {
            for _ in 0..jobs {
                let (queue, done, stop) = (&queue, done.clone(), &stop);
                scope.spawn(move || work(queue, &done, sandbox, args, stop));
            }
            drop(done);
            let result = self.write_all(ready, tasks, finished);
            // What still runs is of no use then.
            stop.store(result.is_err(), Ordering::SeqCst);
            result
        })
    }

    fn write_all(
        &mut self,
        ready: Option<&Ready>,
        tasks: SyncSender<Task<'a>>,
        finished: Receiver<Done<'a>>,
    ) -> Result<(), Failure> {
        let asked = self.asked;
        let todo: Vec<&Item> = asked.iter().filter(|i| !self.records.contains_key(&i.task_id)).collect();
        self.bar.set_position((asked.len() - todo.len()) as u64);
        let tools = self.tools;
        let (todo, lacking): (Vec<&Item>, Vec<&Item>) =
            todo.into_iter().partition(|item| tools.of(item.language).is_ok());
        for item in lacking {
            self.finish_without_run(item, Outcome::NotRun, tools.of(item.language).err().unwrap_or_default())?;
        }
        let mut running = Running { tasks, finished, open: HashMap::new() };
        match ready {
            Some(ready) => self.write_answers(ready, &todo, &mut running)?,
            None => todo.into_iter().try_for_each(|item| self.hand_over(item, 0, String::new(), &mut running))?,
        }
        while !running.open.is_empty() {
            self.collect(&mut running, Duration::from_millis(50))?;
        }
        self.bar.finish_and_clear();
        Ok(())
    }

    /// What the model writes, several answers at a time; programs are run meanwhile.
    fn write_answers(&mut self, ready: &Ready, todo: &[&'a Item], running: &mut Running<'a>) -> Result<(), Failure> {
        let (args, chat, samples) = (self.args, self.chat, usize::from(self.args.samples));
        let prompts = todo.iter().map(|item| writer::encode(ready, &protocol::prompt(item, chat, self.shots)));
        let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let max_tokens = args.max_tokens as usize;
        let mut writer = Writer::new(ready, todo.len() * samples, longest, max_tokens, self.interrupted)?;
        let (fit, long): (Vec<_>, Vec<_>) = todo.iter().zip(&prompts).partition(|(_, prompt)| writer.fits(prompt));
        for (item, _) in long {
            self.finish_without_run(item, Outcome::Failed, "the prompt leaves no room in the model's context")?;
        }
        let mut waiting = fit.into_iter().flat_map(|of_item| (0..samples).map(move |sample| (of_item, sample)));
        loop {
            while writer.is_free()
                && let Some(((item, prompt), sample)) = waiting.next()
            {
                writer.begin((*item, sample), prompt, until(item, chat), &sampling(args, item, sample))?;
            }
            if writer.is_idle() {
                return Ok(());
            }
            for ((item, sample), answer) in writer.step()? {
                self.hand_over(item, sample, answer, running)?;
            }
            self.collect(running, Duration::ZERO)?;
        }
    }

    /// Has a program run, as soon as there is room for it.
    fn hand_over(
        &mut self,
        item: &'a Item,
        sample: usize,
        answer: String,
        running: &mut Running<'a>,
    ) -> Result<(), Failure> {
        let Ok(tools) = self.tools.of(item.language) else { return Ok(()) };
        let samples = if self.args.canonical { 1 } else { usize::from(self.args.samples) };
        running.open.entry(item.task_id.as_str()).or_insert_with(|| vec![None; samples]);
        let mut task = self.task(item, sample, answer, tools);
        // Full if programs take longer than writing them.
        while let Err(TrySendError::Full(back)) = running.tasks.try_send(task) {
            task = back;
            self.collect(running, Duration::from_millis(20))?;
        }
        Ok(())
    }

    fn task(&self, item: &'a Item, sample: usize, answer: String, tools: &Toolchain) -> Task<'a> {
        let code = match self.args.canonical {
            true => item.canonical.clone(),
            false => protocol::truncate(item, self.chat, &answer),
        };
        let program = program(item, &code, self.chat, tools, &token());
        Task { item, sample, completion: answer, program }
    }

    /// Takes what has been run, waiting at most so long for the first.
    fn collect(&mut self, running: &mut Running<'a>, mut wait: Duration) -> Result<(), Failure> {
        if self.interrupted.load(Ordering::SeqCst) {
            return Err(Failure::Interrupted);
        }
        while let Ok(done) = running.finished.recv_timeout(wait) {
            wait = Duration::ZERO;
            let sample = done.result?;
            let task_id = done.item.task_id.as_str();
            let Some(samples) = running.open.get_mut(task_id) else { continue };
            samples[done.sample] = Some(sample);
            if let Some(samples) = samples.iter().cloned().collect::<Option<Vec<Sample>>>() {
                running.open.remove(task_id);
                self.finish(Record { task_id: task_id.to_owned(), samples })?;
            }
        }
        Ok(())
    }

    fn finish_without_run(&mut self, item: &Item, outcome: Outcome, why: &str) -> Result<(), Failure> {
        let sample = || Sample {
            verdict: Verdict::without_run(outcome, why),
            program: String::new(),
            completion: String::new(),
        };
        let n = if self.args.canonical { 1 } else { usize::from(self.args.samples) };
        let samples = (0..n).map(|_| sample()).collect();
        self.finish(Record { task_id: item.task_id.clone(), samples })
    }

    fn finish(&mut self, record: Record) -> Result<(), Failure> {
        if let Some(results) = &mut self.results {
            results.add(&record)?;
        }
        self.records.insert(record.task_id.clone(), record);
        self.bar.inc(1);
        if let Some((share, _)) = self.summary(&[1]).pass_at(1) {
            self.bar.set_message(format!("pass@1 {share:.3}"));
        }
        Ok(())
    }

    fn summary<'s>(&'s self, ks: &'s [usize]) -> Summary<'s> {
        Summary::new(self.asked.iter().filter_map(|item| self.records.get(&item.task_id)).collect(), ks)
    }
}

fn until(item: &Item, chat: bool) -> Until<'_> {
    let finished = Box::new(move |added: &str| protocol::is_finished(item, chat, added));
    Until { stops: protocol::stops(item, chat), finished }
}

fn sampling(args: &PassArgs, item: &Item, sample: usize) -> Sampling {
    Sampling {
        max_tokens: args.max_tokens as usize,
        temperature: args.temperature,
        top_p: args.top_p,
        seed: writer::seed_of(args.seed, &item.task_id, sample),
    }
}

/// One of the threads that run programs.
fn work<'a>(
    queue: &Mutex<Receiver<Task<'a>>>,
    done: &Sender<Done<'a>>,
    sandbox: &Sandbox,
    args: &PassArgs,
    stop: &AtomicBool,
) {
    let limits = Limits { memory: args.program_memory.0, ..Limits::default() };
    loop {
        let task = match queue.lock() {
            Ok(queue) => queue.recv(),
            Err(_) => return,
        };
        let Ok(Task { item, sample, completion, program }) = task else { return };
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let judged = judge(sandbox, item, &program, args.timeout, limits, stop);
        let result = judged.map(|verdict| Sample { verdict, program: program.hash(), completion });
        // Nobody listens any more after an error.
        if done.send(Done { item, sample, result }).is_err() {
            return;
        }
    }
}

/// A word that no program knows before it is run.
fn token() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let seed = format!("{now} {} {}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    blake3::hash(seed.as_bytes()).to_hex()[..32].to_owned()
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
