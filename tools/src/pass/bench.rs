//! A run over the items: the model writes programs in one thread, others run them.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use super::args::PassArgs;
use super::items::Item;
use super::program::{Program, program};
use super::protocol;
use super::results::{Record, Results, Sample};
use super::sandbox::{Limits, Sandbox};
use super::summary::Summary;
use super::toolchain::{Toolchain, Tools};
use super::verdict::{Outcome, Verdict, judge};
use crate::cli::Ready;
use crate::failure::Failure;
use crate::process;
use crate::writer::{self, Sampling, Until, Writer};

/// A run over the items.
pub(super) struct Bench<'a> {
    pub(super) args: &'a PassArgs,
    pub(super) chat: bool,
    pub(super) shots: &'a [Item],
    pub(super) tools: &'a Tools,
    pub(super) sandbox: &'a Sandbox,
    pub(super) interrupted: &'a Arc<AtomicBool>,
    pub(super) results: Option<Results>,
    pub(super) records: BTreeMap<String, Record>,
    pub(super) asked: &'a [Item],
    pub(super) bar: indicatif::ProgressBar,
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
    /// Has everything written and run that there is no record of yet.
    pub(super) fn run(&mut self, ready: Option<&Ready>) -> Result<(), Failure> {
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
        let samples = self.samples();
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
        let samples = (0..self.samples()).map(|_| sample()).collect();
        self.finish(Record { task_id: item.task_id.clone(), samples })
    }

    /// Programs of an item.
    fn samples(&self) -> usize {
        if self.args.canonical { 1 } else { usize::from(self.args.samples) }
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

    pub(super) fn summary<'s>(&'s self, ks: &'s [usize]) -> Summary<'s> {
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
