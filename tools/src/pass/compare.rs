//! Two models on the same items, item by item.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::results::{self, Header, Record};
use super::verdict::Outcome;
use crate::failure::Failure;
use crate::stats::mcnemar_exact;

/// How many items both, one, or none of two models solve, by their first samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paired {
    /// Both.
    pub both: usize,
    /// Task ids that the first alone solves.
    pub only_a: Vec<String>,
    /// Task ids that the second alone solves.
    pub only_b: Vec<String>,
    /// Neither.
    pub neither: usize,
    /// Items that one of the files lacks or has as not run.
    pub left_out: usize,
}

impl Paired {
    fn new(a: &BTreeMap<String, Record>, b: &BTreeMap<String, Record>) -> Self {
        let mut paired = Paired { both: 0, only_a: vec![], only_b: vec![], neither: 0, left_out: 0 };
        for (task_id, first) in a {
            match (passes(first), b.get(task_id).and_then(passes)) {
                (Some(true), Some(true)) => paired.both += 1,
                (Some(true), Some(false)) => paired.only_a.push(task_id.clone()),
                (Some(false), Some(true)) => paired.only_b.push(task_id.clone()),
                (Some(false), Some(false)) => paired.neither += 1,
                _ => paired.left_out += 1,
            }
        }
        paired.left_out += b.keys().filter(|task_id| !a.contains_key(*task_id)).count();
        paired
    }

    /// Items of both.
    pub fn items(&self) -> usize {
        self.both + self.only_a.len() + self.only_b.len() + self.neither
    }

    fn p_value(&self) -> f64 {
        mcnemar_exact(self.only_a.len(), self.only_b.len())
    }
}

fn passes(record: &Record) -> Option<bool> {
    let first = record.samples.first()?.verdict.outcome;
    (first != Outcome::NotRun).then_some(first == Outcome::Passed)
}

/// Compares two results files, and prints it.
pub fn run(a: &Path, b: &Path, as_json: bool, out: &mut impl Write) -> Result<(), Failure> {
    let ((header_a, records_a), (header_b, records_b)) = (results::read(a)?, results::read(b)?);
    refuse_other_items(a, &header_a, b, &header_b)?;
    let paired = Paired::new(&records_a, &records_b);
    if paired.items() == 0 {
        let message = format!("{} and {}: no item that both have run", a.display(), b.display());
        return Err(Failure::Usage(message));
    }
    match as_json {
        true => writeln!(out, "{:#}", to_json(&paired, &header_a, &header_b))?,
        false => print(&paired, &header_a, &header_b, out)?,
    }
    Ok(())
}

fn refuse_other_items(a: &Path, header_a: &Header, b: &Path, header_b: &Header) -> Result<(), Failure> {
    for key in ["items", "kind"] {
        let (one, other) = (header_a.settings.get(key), header_b.settings.get(key));
        if one != other {
            let shown = |value: Option<&Value>| value.map_or("none".to_owned(), Value::to_string);
            let (one, other) = (shown(one), shown(other));
            let message = format!("{}: {key} {one}, {}: {other}; run both on one file", a.display(), b.display());
            return Err(Failure::Usage(message));
        }
    }
    Ok(())
}

fn to_json(paired: &Paired, a: &Header, b: &Header) -> Value {
    let n = paired.items() as f64;
    let side =
        |header: &Header, passed: usize| json!({"model": model(header), "passed": passed, "pass": passed as f64 / n});
    let other = |(key, a, b): Setting| (key.to_owned(), json!({"a": a, "b": b}));
    json!({
        "a": side(a, paired.both + paired.only_a.len()),
        "b": side(b, paired.both + paired.only_b.len()),
        "items": paired.items(),
        "left_out": paired.left_out,
        "both": paired.both,
        "only_a": paired.only_a,
        "only_b": paired.only_b,
        "neither": paired.neither,
        "pass_a": (paired.both + paired.only_a.len()) as f64 / n,
        "pass_b": (paired.both + paired.only_b.len()) as f64 / n,
        "mcnemar_p": paired.p_value(),
        "other_settings": other_settings(a, b).map(other).collect::<serde_json::Map<_, _>>(),
    })
}

fn model(header: &Header) -> &str {
    header.settings.get("model").and_then(Value::as_str).unwrap_or("?")
}

/// What it is called, and what it is for A and for B, if anything.
type Setting<'a> = (&'a str, Option<&'a Value>, Option<&'a Value>);

/// In what else than the model both runs differ.
fn other_settings<'a>(a: &'a Header, b: &'a Header) -> impl Iterator<Item = Setting<'a>> {
    let only_b = b.settings.keys().filter(|key| !a.settings.contains_key(*key));
    let all = a.settings.keys().chain(only_b).map(|key| (key.as_str(), a.settings.get(key), b.settings.get(key)));
    all.filter(|(key, a, b)| !key.starts_with("model") && a != b)
}

fn print(paired: &Paired, a: &Header, b: &Header, out: &mut impl Write) -> std::io::Result<()> {
    let (only_a, only_b, n) = (paired.only_a.len(), paired.only_b.len(), paired.items());
    for (letter, header, passed) in [("A", a, paired.both + only_a), ("B", b, paired.both + only_b)] {
        writeln!(out, "{letter}  {passed:>4} of {n}, {:.4}  {}", passed as f64 / n as f64, model(header))?;
    }
    for (key, a, b) in other_settings(a, b) {
        let [a, b] = [a, b].map(|value| value.map_or("none".to_owned(), Value::to_string));
        writeln!(out, "note: {key} is {a} for A, {b} for B")?;
    }
    writeln!(out)?;
    writeln!(out, "            B passed  B failed")?;
    writeln!(out, "A passed    {:>8}  {only_a:>8}", paired.both)?;
    writeln!(out, "A failed    {only_b:>8}  {:>8}", paired.neither)?;
    writeln!(out)?;
    writeln!(
        out,
        "McNemar's exact test: p = {:.4}, of {} items that one alone passes",
        paired.p_value(),
        only_a + only_b
    )?;
    for (letter, ids) in [("A", &paired.only_a), ("B", &paired.only_b)] {
        if !ids.is_empty() {
            writeln!(out, "only {letter}: {}", ids.join(", "))?;
        }
    }
    match paired.left_out {
        0 => Ok(()),
        n => writeln!(out, "left out: {n} items that one of the files lacks or has as not run"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pass::results::tests::record;

    #[test]
    fn items_are_paired_by_task_id_and_first_sample() {
        use Outcome::*;
        let map = |all: &[(&str, Outcome)]| {
            all.iter().map(|(id, o)| ((*id).to_owned(), record(id, &[*o, Passed]))).collect::<BTreeMap<_, _>>()
        };
        let a = map(&[("1", Passed), ("2", Passed), ("3", Failed), ("4", TimedOut), ("5", NotRun), ("6", Passed)]);
        let b = map(&[("1", Passed), ("2", NotBuilt), ("3", Passed), ("4", Failed), ("5", Passed), ("7", Passed)]);
        let paired = Paired::new(&a, &b);
        let expected = Paired { both: 1, only_a: vec!["2".into()], only_b: vec!["3".into()], neither: 1, left_out: 3 };
        assert_eq!(paired, expected);
        assert_eq!(paired.p_value(), 1.0);
    }
}
