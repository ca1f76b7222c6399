//! Runs programs that nobody has read: written by a model, perhaps harmful by accident.
//!
//! On Linux a program gets namespaces of its own, without privileges: no network, no processes but its own, and a root
//! directory that holds the system's programs and libraries, read-only, and one small writable folder in memory, which is
//! its working directory and HOME. Time, memory, number of processes, size of files and output are limited, its environment
//! is empty, and when it is over all that it started is killed.
//!
//! `spm` starts itself for this, in three stages, since a process can only give up for itself what it must not have:
//! `outer` enters the namespaces and builds the root directory, `supervisor` is the first process there and watches,
//! `program` sets limits, gives up the last privileges and becomes the program. The stages are given where to go as
//! arguments; the job comes on standard input, which then stays open: its end means that nobody waits any more.

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod namespaces;
#[cfg(target_os = "linux")]
mod program;
#[cfg(target_os = "linux")]
mod root;
#[cfg(target_os = "linux")]
mod supervisor;
#[cfg(target_os = "linux")]
mod tree;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// The hidden subcommand of `spm` that is a stage.
pub const SUBCOMMAND: &str = "sandboxed";

/// How much a program may take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory of all its processes together, bytes.
    pub memory: u64,
    /// Processes and threads.
    pub processes: u64,
    /// What it can write, files together and each, bytes.
    pub files: u64,
    /// Bytes of each of its two outputs that are kept; the others are read and dropped.
    pub output: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { memory: 2 << 30, processes: 128, files: 128 << 20, output: 16 << 10 }
    }
}

/// Programs that run one after another in the same folder, each if those before succeeded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// Name and content of what lies there at the beginning.
    pub files: Vec<(String, String)>,
    /// The programs.
    pub steps: Vec<Step>,
    /// For each of them.
    pub limits: Limits,
}

/// One program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// An absolute path and arguments.
    pub argv: Vec<String>,
    /// Wall-clock time, and processor time of each process, seconds.
    pub seconds: f64,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// By itself, with this code.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// It was killed when its time was up.
    TimedOut,
    /// It was killed when its processes together had more memory than allowed.
    OutOfMemory,
}

/// What a program did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ended {
    /// How it ended.
    pub end: End,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// The beginning of its standard output.
    pub stdout: String,
    /// The last of its standard output, at most 1 KiB.
    pub stdout_end: String,
    /// The beginning of its standard error.
    pub stderr: String,
}

/// Where programs run: what the stages must know.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Place {
    isolated: bool,
    /// An empty folder: where the root directory is mounted or, without isolation, the working directory.
    folder: PathBuf,
    /// What the programs need beside the system's own folders.
    visible: Vec<PathBuf>,
    files: u64,
}

/// What the supervisor says on standard output, as JSON.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Ended(Vec<Ended>),
    Refused(String),
}

/// The size an answer can have: a hostile program must not fill our memory either.
const MAX_ANSWER: u64 = 4 << 20;

/// A place for programs, used by many threads.
#[derive(Debug)]
pub struct Sandbox {
    launcher: PathBuf,
    isolated: bool,
    visible: Vec<PathBuf>,
    /// Empty; every job mounts its own root directory over it, where only its processes see it.
    mount_point: Folder,
}

/// A temporary folder, and its path as the kernel has it, without links.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Removes it in the end.
    _removed: tempfile::TempDir,
}

impl Folder {
    fn new(prefix: &str) -> Result<Self, Failure> {
        let made = tempfile::Builder::new().prefix(prefix).tempdir().and_then(|f| Ok((f.path().canonicalize()?, f)));
        match made {
            Ok((path, removed)) => Ok(Folder { path, _removed: removed }),
            Err(e) => Err(Failure::Runtime(format!("cannot make a temporary folder: {e}"))),
        }
    }
}

impl Sandbox {
    /// `launcher` is `spm`; `visible` are folders that programs can read beside those of the system. Runs a program to
    /// see whether it works; an error says why not and what to do.
    pub fn new(launcher: &Path, visible: Vec<PathBuf>, isolated: bool) -> Result<Self, Failure> {
        if !cfg!(target_os = "linux") {
            return Err(Failure::Runtime("programs of models are only run on Linux, where they can be limited".into()));
        }
        let mount_point = Folder::new("spm-sandbox-")?;
        let sandbox = Sandbox { launcher: launcher.to_owned(), isolated, visible, mount_point };
        let step = Step { argv: vec!["/bin/sh".into(), "-c".into(), "exit 0".into()], seconds: 10.0 };
        let job = Job { files: Vec::new(), steps: vec![step], limits: Limits::default() };
        let ended = sandbox.run(&job, &AtomicBool::new(false)).map_err(|failure| sandbox.explain(failure))?;
        match ended.as_slice() {
            [Ended { end: End::Exit(0), .. }] => Ok(sandbox),
            other => Err(sandbox.explain(Failure::Runtime(format!("a first program did not run: {other:?}")))),
        }
    }

    /// Whether programs are kept from the rest of the machine.
    pub fn is_isolated(&self) -> bool {
        self.isolated
    }

    /// Runs a job to its end; what is left out of the result was not run, since a program before it failed.
    pub fn run(&self, job: &Job, cancelled: &AtomicBool) -> Result<Vec<Ended>, Failure> {
        // Without namespaces there is no folder in memory that ends with the job.
        let own = match self.isolated {
            true => None,
            false => Some(Folder::new("spm-program-")?),
        };
        let place = Place {
            isolated: self.isolated,
            folder: own.as_ref().unwrap_or(&self.mount_point).path.clone(),
            visible: self.visible.clone(),
            files: job.limits.files,
        };
        let mut child = self.start(&place)?;
        let answer = converse(&mut child, job, cancelled);
        // Whatever happened, nothing of it stays.
        let _ = child.kill();
        let _ = child.wait();
        match answer? {
            Some(Answer::Ended(ended)) => Ok(ended),
            Some(Answer::Refused(why)) => Err(Failure::Runtime(why)),
            None => Err(Failure::Interrupted),
        }
    }

    fn start(&self, place: &Place) -> Result<Child, Failure> {
        let mut command = Command::new(&self.launcher);
        command.args([SUBCOMMAND, "outer", &to_json(place)?]).env_clear().current_dir("/");
        // Ctrl-C is for this process alone, which then ends the others in order.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().map_err(|e| Failure::Runtime(format!("{}: cannot start: {e}", self.launcher.display())))
    }

    fn explain(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Runtime(why) if self.isolated => Failure::Runtime(format!(
                "programs of models cannot be isolated here: {why}; allow unprivileged user namespaces (in a container: \
                 run it with them, or as privileged), or use a machine that has nothing to lose and --unisolated"
            )),
            other => other,
        }
    }
}

/// Gives the job to a started supervisor and waits for its answer; `None` if cancelled.
fn converse(child: &mut Child, job: &Job, cancelled: &AtomicBool) -> Result<Option<Answer>, Failure> {
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Failure::Runtime("the sandbox has no pipes".into()));
    };
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        output.take(MAX_ANSWER).read_to_end(&mut text).map(|_| text)
    });
    // A stage that ended early is told by its answer, or by none.
    let _ = writeln!(input, "{}", to_json(job)?).and_then(|()| input.flush());
    let seconds: f64 = job.steps.iter().map(|s| s.seconds + 10.0).sum();
    let deadline = Instant::now() + Duration::from_secs_f64(seconds.min(1e6));
    while !reader.is_finished() && Instant::now() < deadline {
        if cancelled.load(Ordering::SeqCst) {
            // The supervisor sees its input end and kills what it started.
            drop(input);
            let _ = child.wait();
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(2));
    }
    if !reader.is_finished() {
        return Err(Failure::Runtime(format!("the sandbox did not end a program within {seconds:.0} s")));
    }
    let text = reader.join().map_err(|_| Failure::Runtime("the sandbox's reader broke off".into()))??;
    let answer = serde_json::from_slice(&text);
    answer.map(Some).map_err(|e| Failure::Runtime(format!("the sandbox gave no answer ({} bytes: {e})", text.len())))
}

fn to_json<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|e| Failure::Runtime(format!("the sandbox: {e}")))
}

/// What the hidden subcommand does: never returns but with the exit code.
#[cfg(target_os = "linux")]
pub fn stage(name: &str, settings: &str, argv: &[String]) -> Result<(), Failure> {
    match name {
        "outer" => namespaces::enter(&from_json(settings)?),
        "supervisor" => supervisor::run(&from_json(settings)?),
        _ => program::become_program(&from_json(settings)?, argv),
    }
}

/// Elsewhere there is no sandbox.
#[cfg(not(target_os = "linux"))]
pub fn stage(_name: &str, _settings: &str, _argv: &[String]) -> Result<(), Failure> {
    Err(Failure::Usage("only Linux has this".into()))
}

#[cfg(target_os = "linux")]
fn from_json<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|e| Failure::Usage(format!("`spm {SUBCOMMAND}` is for spm itself: {e}")))
}

/// Says `answer` to who started the sandbox.
#[cfg(target_os = "linux")]
fn answer(answer: &Answer) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", to_json(answer)?)?;
    Ok(out.flush()?)
}
