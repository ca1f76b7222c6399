//! What came of one program.

use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use super::items::Item;
use super::language::Language;
use super::program::Program;
use super::sandbox::{End, Ended, Job, Limits, Sandbox, Step};
use crate::failure::Failure;

/// Seconds for compilers and for checks of the syntax: on a busy machine they must not decide.
const BUILD_SECONDS: f64 = 60.0;

/// The longest explanation that is kept, in characters.
const MAX_WHY: usize = 300;

/// How a program fared, one of all that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All tests passed.
    Passed,
    /// A test failed, or the program crashed or ended before its tests did.
    Failed,
    /// It did not end in time.
    TimedOut,
    /// It took too much memory.
    OutOfMemory,
    /// It is no program: the compiler or the parser refused it.
    NotBuilt,
    /// This machine lacks what it needs; says nothing about the model.
    NotRun,
}

impl Outcome {
    /// All of them, in the order they are told in.
    pub const ALL: [Outcome; 6] =
        [Outcome::Passed, Outcome::Failed, Outcome::TimedOut, Outcome::OutOfMemory, Outcome::NotBuilt, Outcome::NotRun];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
            Outcome::TimedOut => "timed out",
            Outcome::OutOfMemory => "out of memory",
            Outcome::NotBuilt => "not built",
            Outcome::NotRun => "not run",
        }
    }
}

/// An outcome with its circumstances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// How it fared.
    pub outcome: Outcome,
    /// What was said where it did not pass, in short.
    pub why: String,
    /// Seconds that building and running took.
    pub seconds: f64,
}

impl Verdict {
    /// One without a program.
    pub fn without_run(outcome: Outcome, why: &str) -> Self {
        Verdict { outcome, why: shorten(why), seconds: 0.0 }
    }
}

/// Runs `program`, the tests within `seconds`.
pub fn judge(
    sandbox: &Sandbox,
    item: &Item,
    program: &Program,
    seconds: f64,
    limits: Limits,
    cancelled: &AtomicBool,
) -> Result<Verdict, Failure> {
    let build = Step { argv: program.build.clone(), seconds: BUILD_SECONDS };
    let run = Step { argv: program.run.clone(), seconds };
    let job = Job { files: program.files.clone(), steps: vec![build, run], limits };
    let ended = sandbox.run(&job, cancelled)?;
    let total = ended.iter().map(|e| e.seconds).sum();
    let (outcome, why) = match ended.as_slice() {
        [build] => not_built(item, build),
        [_, run] => outcome_of(item, run, &program.token),
        other => return Err(Failure::Runtime(format!("the sandbox ran {} of 2 programs", other.len()))),
    };
    Ok(Verdict { outcome, why: shorten(&why), seconds: total })
}

fn not_built(item: &Item, build: &Ended) -> (Outcome, String) {
    if let Some(why) = lacking(item, &build.stderr) {
        return (Outcome::NotRun, why);
    }
    match build.end {
        End::TimedOut => (Outcome::NotBuilt, format!("the compiler did not end within {BUILD_SECONDS} s")),
        End::OutOfMemory => (Outcome::NotBuilt, "the compiler took too much memory".into()),
        _ => (Outcome::NotBuilt, first_error(&build.stderr)),
    }
}

/// A library that a program did not find and that the item itself has to do with.
fn lacking(item: &Item, said: &str) -> Option<String> {
    let name = match item.language {
        Language::Cpp => said.split_once(": No such file or directory")?.0.rsplit_once("fatal error: ")?.1,
        Language::Javascript => said.split_once("Cannot find module '")?.1.split_once('\'')?.0,
        Language::Python => said.split_once("ModuleNotFoundError: No module named '")?.1.split_once('\'')?.0,
        Language::Java => return None,
    };
    let own = format!("{}\n{}\n{}\n{}", item.prompt, item.setup, item.test, item.canonical);
    let quoted = [format!("<{name}>"), format!("\"{name}\""), format!("'{name}'")];
    let imports = [format!("import {name}"), format!("from {name} ")];
    let marks: &[String] = if item.language == Language::Python { &imports } else { &quoted };
    let is_own = marks.iter().any(|mark| own.contains(mark.as_str()));
    is_own.then(|| format!("`{name}`, which items themselves use, is not installed"))
}

fn outcome_of(item: &Item, run: &Ended, token: &str) -> (Outcome, String) {
    match run.end {
        End::Exit(0) if run.stdout_end.contains(token) => (Outcome::Passed, String::new()),
        End::Exit(0) => (Outcome::Failed, "the program ended before its tests did".into()),
        End::Exit(_) => match lacking(item, &run.stderr) {
            Some(why) => (Outcome::NotRun, why),
            None => (Outcome::Failed, last_line(&run.stderr)),
        },
        End::Signal(signal) => (Outcome::Failed, format!("ended by signal {signal}")),
        End::TimedOut => (Outcome::TimedOut, String::new()),
        End::OutOfMemory => (Outcome::OutOfMemory, String::new()),
    }
}

fn first_error(said: &str) -> String {
    let line = said.lines().find(|line| line.contains("error:") || line.contains("Error:"));
    line.map_or_else(|| last_line(said), str::to_owned)
}

/// Errors of Python and of Java end with what matters; Java's begin with it.
fn last_line(said: &str) -> String {
    let mut lines = said.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("at "));
    let named = lines.clone().find(|line| line.contains("Exception in thread") || line.contains("Error:"));
    named.or_else(|| lines.next_back()).unwrap_or_default().trim().to_owned()
}

fn shorten(why: &str) -> String {
    why.chars().take(MAX_WHY).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pass::items::Kind;

    fn ended(end: End, stdout_end: &str, stderr: &str) -> Ended {
        let (stdout, stdout_end, stderr) = (String::new(), stdout_end.to_owned(), stderr.to_owned());
        Ended { end, seconds: 0.0, stdout, stdout_end, stderr }
    }

    fn item(language: Language, prompt: &str) -> Item {
        Item {
            task_id: "X/1".into(),
            kind: Kind::HumanevalX,
            language,
            prompt: prompt.into(),
            canonical: String::new(),
            test: String::new(),
            setup: String::new(),
            entry_point: String::new(),
        }
    }

    #[test]
    fn only_tests_that_came_to_their_end_pass() {
        let python = item(Language::Python, "");
        let outcome = |end, out| outcome_of(&python, &ended(end, out, "Traceback\n  x\nValueError: y\n"), "token");
        assert_eq!(outcome(End::Exit(0), "\ntoken\n").0, Outcome::Passed);
        assert_eq!(outcome(End::Exit(0), "").0, Outcome::Failed);
        assert_eq!(outcome(End::Exit(1), "\ntoken\n"), (Outcome::Failed, "ValueError: y".into()));
        assert_eq!(outcome(End::Signal(11), "\ntoken\n").0, Outcome::Failed);
        assert_eq!(outcome(End::TimedOut, "\ntoken\n").0, Outcome::TimedOut);
    }

    #[test]
    fn a_library_that_the_item_needs_is_not_the_models_fault() {
        let said = "program.cpp:1:9: fatal error: lib/a.h: No such file or directory\n    1 | #include <lib/a.h>\n";
        let failed = ended(End::Exit(1), "", said);
        let outcome = |prompt| not_built(&item(Language::Cpp, prompt), &failed).0;
        assert_eq!(outcome("#include <lib/a.h>\nint f(){\n"), Outcome::NotRun);
        assert_eq!(outcome("int f(){\n"), Outcome::NotBuilt);
        let said = "node:internal\nError: Cannot find module 'a-b'\nRequire stack:\n";
        let outcome = |prompt| outcome_of(&item(Language::Javascript, prompt), &ended(End::Exit(1), "", said), "t").0;
        assert_eq!(outcome("const a = require('a-b')\n"), Outcome::NotRun);
        assert_eq!(outcome("const a = 1\n"), Outcome::Failed);
        let said = "Traceback\nModuleNotFoundError: No module named 'abc'\n";
        let outcome = |prompt| outcome_of(&item(Language::Python, prompt), &ended(End::Exit(1), "", said), "t").0;
        assert_eq!(outcome("from abc import d\n"), Outcome::NotRun);
        assert_eq!(outcome("import abd\n"), Outcome::Failed);
    }
}
