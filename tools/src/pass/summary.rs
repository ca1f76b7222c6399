//! The figures of a run.

use std::io::Write;

use serde_json::{Value, json};

use super::results::Record;
use super::verdict::Outcome;
use crate::stats::{pass_at_k, wilson};

/// All items that were asked for and are finished.
pub struct Summary<'a> {
    records: Vec<&'a Record>,
    ks: &'a [usize],
}

impl<'a> Summary<'a> {
    /// Of `records`; pass@k for each of `ks`.
    pub fn new(records: Vec<&'a Record>, ks: &'a [usize]) -> Self {
        Summary { records, ks }
    }

    /// Mean over the items that were run, and how many those are; `None` if an item has less than `k` samples.
    pub fn pass_at(&self, k: usize) -> Option<(f64, usize)> {
        let run = self.records.iter().filter(|r| r.was_run());
        let each: Option<Vec<f64>> = run.map(|r| pass_at_k(r.samples.len(), r.passed(), k)).collect();
        let each = each.filter(|e| !e.is_empty())?;
        Some((each.iter().sum::<f64>() / each.len() as f64, each.len()))
    }

    /// Samples of each outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.samples().filter(|o| *o == outcome).count()
    }

    /// Share of the programs that compiled or parsed, of those that were run.
    pub fn built(&self) -> Option<f64> {
        let run = self.samples().filter(|o| *o != Outcome::NotRun).count();
        (run > 0).then(|| 1.0 - self.count(Outcome::NotBuilt) as f64 / run as f64)
    }

    /// Why samples were not run, each reason once.
    pub fn reasons(&self) -> Vec<&'a str> {
        let all = self.records.iter().flat_map(|r| &r.samples).filter(|s| s.verdict.outcome == Outcome::NotRun);
        let mut reasons: Vec<&str> = all.map(|s| s.verdict.why.as_str()).collect();
        reasons.sort_unstable();
        reasons.dedup();
        reasons
    }

    fn samples(&self) -> impl Iterator<Item = Outcome> + '_ {
        self.records.iter().flat_map(|r| r.samples.iter().map(|s| s.verdict.outcome))
    }

    /// For people.
    pub fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let run = self.records.iter().filter(|r| r.was_run()).count();
        writeln!(out, "items            {run} of {} run", self.records.len())?;
        for &k in self.ks {
            let name = format!("pass@{k}");
            let Some((share, n)) = self.pass_at(k) else {
                writeln!(out, "{name:<16} none: no item was run")?;
                continue;
            };
            let (low, high) = wilson(share, n);
            writeln!(out, "{name:<16} {share:.4}, 95 % {low:.4} to {high:.4}")?;
        }
        if let Some(built) = self.built() {
            writeln!(out, "compiles, parses {built:.4}")?;
        }
        let counts = Outcome::ALL.map(|o| format!("{} {}", o.name(), self.count(o)));
        writeln!(out, "programs         {}", counts.join(", "))?;
        for why in self.reasons() {
            writeln!(out, "not run          {why}")?;
        }
        Ok(())
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let pass = self.ks.iter().map(|&k| {
            let found = self.pass_at(k).map(|(share, n)| {
                let (low, high) = wilson(share, n);
                json!({"estimate": share, "low": low, "high": high, "items": n})
            });
            (k.to_string(), found.unwrap_or(Value::Null))
        });
        let outcomes = Outcome::ALL.map(|o| (o.name().to_owned(), json!(self.count(o))));
        json!({
            "items": self.records.len(),
            "items_run": self.records.iter().filter(|r| r.was_run()).count(),
            "pass_at": pass.collect::<serde_json::Map<_, _>>(),
            "built": self.built(),
            "outcomes": outcomes.into_iter().collect::<serde_json::Map<_, _>>(),
            "not_run_because": self.reasons(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pass::results::tests::record;

    #[test]
    fn what_was_not_run_counts_for_nothing() {
        use Outcome::*;
        let all = [
            record("a", &[Passed, Failed, Failed, Failed]),
            record("b", &[NotBuilt, TimedOut, Failed, OutOfMemory]),
            record("c", &[NotRun; 4]),
            record("d", &[Passed; 4]),
        ];
        let summary = Summary::new(all.iter().collect(), &[1, 2, 5]);
        assert_eq!(summary.pass_at(1), Some((1.25 / 3.0, 3)));
        assert_eq!(summary.pass_at(2), Some((1.5 / 3.0, 3)));
        assert_eq!(summary.pass_at(5), None);
        assert_eq!(summary.built(), Some(11.0 / 12.0));
        assert_eq!(Outcome::ALL.map(|o| summary.count(o)), [5, 4, 1, 1, 1, 4]);
        let nothing = Summary::new(vec![&all[2]], &[1]);
        assert_eq!((nothing.pass_at(1), nothing.built()), (None, None));
    }
}
