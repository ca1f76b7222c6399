//! The second stage: starts the programs one after another, watches them, and kills all that they started.

use std::fs;
use std::io::{BufRead, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{Answer, End, Ended, Job, Limits, Place, SUBCOMMAND, Step, answer, program, root, to_json, tree};
use crate::failure::Failure;

/// Between two looks at the processes, or four times as long as a look takes where there are many.
const LOOK: Duration = Duration::from_millis(5);

/// The end of standard output that is kept.
const OUTPUT_END: usize = 1024;

pub(super) fn run(place: &Place) -> Result<(), Failure> {
    match prepare(place).and_then(|(job, cancelled)| run_job(place, &job, &cancelled)) {
        Ok(ended) => answer(&Answer::Ended(ended)),
        Err(why) => answer(&Answer::Refused(why)),
    }
}

fn prepare(place: &Place) -> Result<(Job, Arc<AtomicBool>), String> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|e| format!("no job: {e}"))?;
    let job = serde_json::from_str(&line).map_err(|e| format!("no job: {e}"))?;
    match place.isolated {
        true => root::enter(&place.folder)?,
        false => std::env::set_current_dir(&place.folder).map_err(|e| format!("{}: {e}", place.folder.display()))?,
    }
    // Processes whose parents end become this one's, so that none is lost.
    nix::sys::prctl::set_child_subreaper(true).map_err(|e| format!("a subreaper: {}", e.desc()))?;
    let cancelled = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&cancelled);
    thread::spawn(move || {
        // Nothing more is said; the end of input means that who started this has gone or lost interest.
        let _ = std::io::stdin().lock().read(&mut [0]);
        seen.store(true, Ordering::SeqCst);
    });
    Ok((job, cancelled))
}

fn run_job(place: &Place, job: &Job, cancelled: &AtomicBool) -> Result<Vec<Ended>, String> {
    for (name, text) in &job.files {
        fs::write(Path::new(name), text).map_err(|e| format!("{name}: {e}"))?;
    }
    let mut all = Vec::new();
    for step in &job.steps {
        let ended = run_step(place, step, &job.limits, cancelled)?;
        let goes_on = ended.end == End::Exit(0);
        all.push(ended);
        if !goes_on {
            break;
        }
    }
    Ok(all)
}

fn run_step(place: &Place, step: &Step, limits: &Limits, cancelled: &AtomicBool) -> Result<Ended, String> {
    let started = Instant::now();
    let mut child = start(place, step, limits)?;
    let stdout = child.stdout.take().map(|pipe| capture(pipe, limits.output));
    let stderr = child.stderr.take().map(|pipe| capture(pipe, limits.output));
    let end = watch(&child, Duration::from_secs_f64(step.seconds.clamp(0.0, 1e6)), limits.memory, cancelled);
    let seconds = started.elapsed().as_secs_f64();
    kill_all(place.isolated);
    let collect = |thread: Option<JoinHandle<Captured>>| thread.and_then(|t| t.join().ok()).unwrap_or_default();
    let (stdout, stderr) = (collect(stdout), collect(stderr));
    Ok(Ended { end, seconds, stdout_end: stdout.end(), stdout: stdout.start(), stderr: stderr.start() })
}

fn start(place: &Place, step: &Step, limits: &Limits) -> Result<Child, String> {
    // Without a namespace the limit counts all processes of the user.
    let others = if place.isolated { 0 } else { tree::threads_of_user() };
    let limits = Limits { processes: limits.processes + others, ..*limits };
    let settings = program::Settings { isolated: place.isolated, limits, seconds: step.seconds.ceil() as u64 };
    let settings = to_json(&settings).map_err(|e| format!("{e:?}"))?;
    let home = if place.isolated { Path::new("/tmp") } else { &place.folder };
    let mut command = Command::new("/proc/self/exe");
    command.args([SUBCOMMAND, "program", &settings, "--"]).args(&step.argv);
    command.env_clear().env("HOME", home).env("TMPDIR", home).env("LANG", "C.UTF-8");
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|e| format!("a program cannot start: {e}"))
}

/// Waits for the program's end, or that it must be ended.
fn watch(child: &Child, time: Duration, memory: u64, cancelled: &AtomicBool) -> End {
    let (pid, started) = (Pid::from_raw(child.id() as i32), Instant::now());
    loop {
        // Orphans are waited for too, else they would count as processes for ever.
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(ended, code)) if ended == pid => return End::Exit(code),
            // The processor time was up.
            Ok(WaitStatus::Signaled(ended, Signal::SIGXCPU, _)) if ended == pid => return End::TimedOut,
            Ok(WaitStatus::Signaled(ended, signal, _)) if ended == pid => {
                let used_up = signal == Signal::SIGKILL && started.elapsed() >= time;
                return if used_up { End::TimedOut } else { End::Signal(signal as i32) };
            }
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => continue,
            _ => {}
        }
        if started.elapsed() >= time || cancelled.load(Ordering::SeqCst) {
            return End::TimedOut;
        }
        let looked = Instant::now();
        if tree::memory(&tree::descendants()) > memory {
            return End::OutOfMemory;
        }
        thread::sleep(LOOK.max(4 * looked.elapsed()));
    }
}

/// Kills every process that descends from this one, and waits until they are gone.
fn kill_all(isolated: bool) {
    // Those that fork while they are killed are stopped first. What still goes on after that many rounds in the
    // namespace ends with this process.
    for round in 0..200 {
        let all = tree::descendants();
        if all.is_empty() {
            return;
        }
        let signal = if round == 0 && !isolated { Signal::SIGSTOP } else { Signal::SIGKILL };
        match isolated {
            // All but this process, at one moment.
            true => {
                let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
            }
            false => all.iter().for_each(|&pid| {
                let _ = kill(pid, signal);
            }),
        }
        while let Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {}
        thread::sleep(Duration::from_millis(1 + round / 4));
    }
}

/// The beginning and the end of what came through a pipe.
#[derive(Default)]
struct Captured {
    start: Vec<u8>,
    end: Vec<u8>,
}

impl Captured {
    fn start(&self) -> String {
        String::from_utf8_lossy(&self.start).into_owned()
    }

    fn end(&self) -> String {
        String::from_utf8_lossy(&self.end).into_owned()
    }
}

/// Reads until nobody can write any more, so that no writer is blocked, and keeps little.
fn capture(mut pipe: impl Read + Send + 'static, most: usize) -> JoinHandle<Captured> {
    thread::spawn(move || {
        let (mut captured, mut buffer) = (Captured::default(), vec![0; 64 << 10]);
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            let new = &buffer[..n];
            captured.start.extend(&new[..n.min(most - captured.start.len())]);
            captured.end.extend(&new[n.saturating_sub(OUTPUT_END)..]);
            captured.end.drain(..captured.end.len().saturating_sub(OUTPUT_END));
        }
        captured
    })
}
