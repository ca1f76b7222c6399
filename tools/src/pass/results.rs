//! The results file: a line that says what was asked, then a line for each item, in the order that they were finished.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::verdict::{Outcome, Verdict};
use crate::failure::Failure;

/// What the first line says it is.
pub const FORMAT: &str = "spm pass results 1";

/// The most that a results file can have.
const MAX_BYTES: u64 = 1 << 30;

/// The first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    format: String,
    /// What results depend on: model, items, protocol.
    pub settings: Map<String, Value>,
}

/// What came of one item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The item's.
    pub task_id: String,
    /// One each, in order.
    pub samples: Vec<Sample>,
}

/// One program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Flat", into = "Flat")]
pub struct Sample {
    /// How it fared.
    pub verdict: Verdict,
    /// A hash of what was run; empty if nothing was.
    pub program: String,
    /// What the model wrote of it; empty for the items' own solutions.
    pub completion: String,
}

/// A sample as it is written. (What serde flattens by itself is not read where any crate of a build asks serde_json for
/// arbitrary precision, as one of our tests' does.)
#[derive(Serialize, Deserialize)]
struct Flat {
    outcome: Outcome,
    why: String,
    seconds: f64,
    program: String,
    completion: String,
}

impl From<Flat> for Sample {
    fn from(Flat { outcome, why, seconds, program, completion }: Flat) -> Self {
        Sample { verdict: Verdict { outcome, why, seconds }, program, completion }
    }
}

impl From<Sample> for Flat {
    fn from(Sample { verdict: Verdict { outcome, why, seconds }, program, completion }: Sample) -> Self {
        Flat { outcome, why, seconds, program, completion }
    }
}

impl Record {
    /// Samples that passed.
    pub fn passed(&self) -> usize {
        self.samples.iter().filter(|s| s.verdict.outcome == Outcome::Passed).count()
    }

    /// Whether it says something about the model.
    pub fn was_run(&self) -> bool {
        self.samples.iter().all(|s| s.verdict.outcome != Outcome::NotRun)
    }
}

/// A results file that is written.
pub struct Results {
    path: PathBuf,
    file: File,
}

impl Results {
    /// Begins the file, or goes on with one of the same settings; with what it has so far by task id. Nobody else can
    /// write it meanwhile.
    pub fn open(path: &Path, settings: &Map<String, Value>) -> Result<(Self, BTreeMap<String, Record>), Failure> {
        let failed = |e: std::io::Error| Failure::Runtime(format!("{}: cannot write: {e}", path.display()));
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        match spm::claim::lock(&file) {
            Err(TryLockError::WouldBlock) => {
                let message = format!("{}: another run is writing it; wait for that, or name another", path.display());
                return Err(Failure::Runtime(message));
            }
            // Some file systems have no locks.
            Err(TryLockError::Error(_)) | Ok(()) => {}
        }
        let text = read_whole(&mut file, path)?;
        let mut results = Results { path: path.to_owned(), file };
        if text.is_empty() {
            results.write(&Header { format: FORMAT.into(), settings: settings.clone() })?;
            return Ok((results, BTreeMap::new()));
        }
        let (header, records) = parse(&text, path)?;
        refuse_other(path, &header.settings, settings)?;
        // A line that a kill cut short is written again.
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        results.file.set_len(whole as u64).map_err(failed)?;
        results.file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok((results, records))
    }

    /// Adds an item.
    pub fn add(&mut self, record: &Record) -> Result<(), Failure> {
        self.write(record)
    }

    fn write(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let failed = |e: std::io::Error| Failure::Runtime(format!("{}: cannot write: {e}", self.path.display()));
        let line = serde_json::to_string(value).map_err(|e| failed(e.into()))? + "\n";
        self.file.write_all(line.as_bytes()).map_err(failed)
    }
}

/// Reads a results file to compare it.
pub fn read(path: &Path) -> Result<(Header, BTreeMap<String, Record>), Failure> {
    let mut file = File::open(path).map_err(|e| Failure::Runtime(format!("{}: cannot read: {e}", path.display())))?;
    parse(&read_whole(&mut file, path)?, path)
}

fn read_whole(file: &mut File, path: &Path) -> Result<String, Failure> {
    let failed = |e: std::io::Error| Failure::Runtime(format!("{}: cannot read: {e}", path.display()));
    let len = file.metadata().map_err(failed)?.len();
    if len > MAX_BYTES {
        return Err(other_file(path, &format!("it has {len} bytes, results have at most {MAX_BYTES}")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    String::from_utf8(bytes).map_err(|_| other_file(path, "it is not UTF-8 text"))
}

/// Of an item that is there twice, the later line counts: it was not run at first.
fn parse(text: &str, path: &Path) -> Result<(Header, BTreeMap<String, Record>), Failure> {
    let whole = text.rfind('\n').map_or("", |at| &text[..at]);
    let mut lines = whole.lines().enumerate();
    let header = lines.next().and_then(|(_, line)| serde_json::from_str::<Header>(line).ok());
    let header = header.filter(|h| h.format == FORMAT);
    let header = header.ok_or_else(|| other_file(path, &format!("its first line does not say `{FORMAT}`")))?;
    let mut records = BTreeMap::new();
    for (i, line) in lines {
        let record: Record =
            serde_json::from_str(line).map_err(|e| other_file(path, &format!("its line {}: {e}", i + 1)))?;
        records.insert(record.task_id.clone(), record);
    }
    Ok((header, records))
}

fn other_file(path: &Path, why: &str) -> Failure {
    Failure::Usage(format!("{}: no results file of spm pass: {why}; it is left alone, name another", path.display()))
}

fn refuse_other(path: &Path, there: &Map<String, Value>, asked: &Map<String, Value>) -> Result<(), Failure> {
    let keys = asked.keys().chain(there.keys().filter(|key| !asked.contains_key(*key)));
    let differs = keys.into_iter().find(|key| there.get(*key) != asked.get(*key));
    let Some(key) = differs else { return Ok(()) };
    let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
    Err(Failure::Usage(format!(
        "{}: its results are for {key} {}, asked for is {}; they do not go together, name another file",
        path.display(),
        shown(there.get(key)),
        shown(asked.get(key))
    )))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn record(task_id: &str, outcomes: &[Outcome]) -> Record {
        let sample = |&outcome| Sample {
            verdict: Verdict::without_run(outcome, ""),
            program: String::new(),
            completion: "x\n\"".into(),
        };
        Record { task_id: task_id.into(), samples: outcomes.iter().map(sample).collect() }
    }

    fn settings(model: &str) -> Map<String, Value> {
        json!({"model": model, "samples": 1}).as_object().unwrap().clone()
    }

    fn message(result: Result<impl Sized, Failure>) -> String {
        match result {
            Err(Failure::Usage(message) | Failure::Runtime(message)) => message,
            _ => String::new(),
        }
    }

    #[test]
    fn a_file_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        let (mut results, there) = Results::open(&path, &settings("a")).unwrap();
        assert!(there.is_empty());
        results.add(&record("b", &[Outcome::NotRun])).unwrap();
        results.add(&record("a", &[Outcome::Passed, Outcome::Failed])).unwrap();
        assert!(message(Results::open(&path, &settings("a"))).contains("another run is writing it"));
        drop(results);
        // A line cut short, as by a kill.
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}{{\"task_id\":\"c\",\"sam")).unwrap();
        let (mut results, there) = Results::open(&path, &settings("a")).unwrap();
        assert_eq!(there.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((there["a"].passed(), there["a"].was_run(), there["b"].was_run()), (1, true, false));
        results.add(&record("b", &[Outcome::Passed])).unwrap();
        drop(results);
        let (_, there) = read(&path).unwrap();
        assert!(there.len() == 2 && there["b"].was_run(), "the later line counts");
        assert!(std::fs::read_to_string(&path).unwrap().starts_with(&whole));
    }

    #[test]
    fn other_settings_and_other_files_are_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        drop(Results::open(&path, &settings("a")).unwrap());
        let before = std::fs::read(&path).unwrap();
        let found = message(Results::open(&path, &settings("b")));
        assert!(found.contains("results are for model \"a\", asked for is \"b\""), "{found}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        for other in ["notes\n", "{\"format\":\"x\",\"settings\":{}}\n", "no end"] {
            std::fs::write(&path, other).unwrap();
            assert!(message(Results::open(&path, &settings("a"))).contains("no results file"), "{other}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), other);
        }
        std::fs::write(&path, [&before[..], b"{\"task_id\":1}\n"].concat()).unwrap();
        assert!(message(Results::open(&path, &settings("a"))).contains("its line 2"));
    }
}
