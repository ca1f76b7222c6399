//! `sparse-prune` killed at random moments and resumed: the file is that of a run that was left alone.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use spm::synthetic::{SplitMix, SyntheticModel};
use spm::{Config, Encoding, SparseModel};

/// A model with some seconds of work, and text to calibrate on.
fn prepare(folder: &Path) -> Vec<String> {
    let (model, text) = (folder.join("dense.spm"), folder.join("text.py"));
    common::write_spm(&model, &SyntheticModel::new(Config::new(4, 128, 256, 4, 2), 5), Encoding::F16);
    let lines = (0..1500).map(|i| format!("def f{i}(x):\n    return x * {} + {i}\n", i * 7919 % 1009));
    fs::write(&text, lines.collect::<String>()).unwrap();
    let args = ["--nsamples", "12", "--seqlen", "128", "--values", "q4", "--save-every", "0", "-t", "1"];
    let paths = [model.to_str().unwrap(), "--calib", text.to_str().unwrap()];
    paths.into_iter().chain(args).map(str::to_owned).collect()
}

fn prune(args: &[String], out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(common::SPARSE_PRUNE);
    command.args(args).arg("-o").arg(out).args(more).stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Whether the command ended well within `time`, after which it is killed.
fn ends_within(mut command: Command, time: Duration) -> bool {
    let (mut child, started) = (command.spawn().unwrap(), Instant::now());
    while started.elapsed() < time {
        if child.try_wait().unwrap().is_some() {
            let done = child.wait_with_output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    false
}

fn message(mut command: Command, code: i32) -> String {
    let done = command.output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(code), "{said}");
    said
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What nobody reads is no reason to stop: `sparse-prune ... 2>&1 | head`.
#[test]
fn a_closed_standard_error_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model.spm");
    let mut child = prune(&prepare(folder.path()), &out, &["--resume", "--method", "magnitude"]).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    SparseModel::open(&out).unwrap();
}

#[test]
fn a_killed_run_goes_on_to_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let args = prepare(folder.path());
    let expected = folder.path().join("expected.spm");
    let started = Instant::now();
    message(prune(&args, &expected, &[]), 0);
    let whole = started.elapsed();

    let outputs = folder.path().join("outputs");
    fs::create_dir(&outputs).unwrap();
    let (out, journal) = (outputs.join("model.spm"), outputs.join("model.spm.journal"));
    let mut random = SplitMix::new(7);
    let mut kills = 0;
    for run in 0..4 {
        let mut moment = || whole.mul_f64((random.bits() >> 11) as f64 / (1u64 << 53) as f64);
        while !ends_within(prune(&args, &out, &["--resume"]), moment()) {
            kills += 1;
            if out.exists() && !journal.exists() {
                // It had nothing left to do.
                break;
            }
        }
        assert!(fs::read(&out).unwrap() == fs::read(&expected).unwrap(), "run {run}");
        assert_eq!(names(&outputs), ["model.report.json", "model.report.md", "model.spm"], "run {run}");
        fs::remove_dir_all(&outputs).unwrap();
        fs::create_dir(&outputs).unwrap();
    }
    assert!(kills > 0);
}

#[test]
fn an_interrupted_run_is_neither_lost_nor_taken_for_another() {
    let folder = tempfile::tempdir().unwrap();
    let args = prepare(folder.path());
    let out = folder.path().join("model.spm");
    let journal = folder.path().join("model.spm.journal");
    // Long enough for a matrix, not for all of them.
    let mut child = prune(&args, &out, &[]).spawn().unwrap();
    while !fs::read(&journal).is_ok_and(|bytes| has_record(&bytes)) {
        assert!(child.try_wait().unwrap().is_none(), "ended before it could be interrupted");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(message(prune(&args, &out, &["--force"]), 1).contains("another process is writing it"));
    child.kill().unwrap();
    child.wait().unwrap();

    let kept = fs::read(&journal).unwrap();
    assert!(message(prune(&args, &out, &[]), 1).contains("go on with --resume, or start anew with --force"));
    let other = message(prune(&args, &out, &["--resume", "--sparsity", "0.6"]), 2);
    assert!(other.contains("sparsity was 0.5, is 0.6"), "{other}");
    assert!(fs::read(&journal).unwrap() == kept && !out.exists());

    assert!(message(prune(&args, &out, &["--resume"]), 0).contains("resuming after "));
    let resumed = fs::read(&out).unwrap();
    let again = message(prune(&args, &out, &["--resume", "--force"]), 0);
    assert!(again.contains("nothing to resume"), "{again}");
    assert!(fs::read(&out).unwrap() == resumed && !journal.exists());
    assert!(message(prune(&args, &out, &["--resume"]), 1).contains("replace it with --force"));

    // Killed after the file had got its name, before the journal was gone.
    let identity = SparseModel::open(&out).unwrap().identity();
    fs::write(&journal, finished(kept, &identity)).unwrap();
    assert!(message(prune(&args, &out, &["--resume"]), 0).contains("was finished already"));
    assert!(fs::read(&out).unwrap() == resumed && !journal.exists());
}

/// Whether a matrix is noted.
fn has_record(journal: &[u8]) -> bool {
    journal.len() >= 24 && record_len(journal, first_record(journal)).is_some()
}

/// Where records begin, as the journal's format says: after two slots of hidden states.
fn first_record(journal: &[u8]) -> usize {
    let number = |at: usize| u32::from_le_bytes(journal[at..at + 4].try_into().unwrap()) as usize;
    let slot = (number(16) + 8 + 8 + 32 + 32).next_multiple_of(4096);
    header_len(journal).next_multiple_of(4096) + 2 * slot
}

fn header_len(journal: &[u8]) -> usize {
    24 + 32 + u32::from_le_bytes(journal[12..16].try_into().unwrap()) as usize + 32
}

/// Bytes of the record at `at`, its length and its hash not counted; zeros are reserved room.
fn record_len(journal: &[u8], at: usize) -> Option<usize> {
    let len = journal.get(at..at + 8)?;
    Some(u64::from_le_bytes(len.try_into().unwrap()) as usize).filter(|&len| len > 0 && at + len + 40 <= journal.len())
}

/// The same journal with a last record, which says that the file of this identity is about to get its name.
fn finished(mut journal: Vec<u8>, identity: &str) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&journal[..header_len(&journal)]);
    let mut at = first_record(&journal);
    while let Some(len) = record_len(&journal, at) {
        hasher.update(&journal[at..at + 8 + len]);
        at += 8 + len + 32;
    }
    let record = [&65u64.to_le_bytes()[..], &[1], identity.as_bytes()].concat();
    hasher.update(&record);
    journal.truncate(at);
    [journal, record, hasher.finalize().as_bytes().to_vec()].concat()
}
