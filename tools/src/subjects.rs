//! Several models on one command line: what they are called, and which of them differ by the calibration's seed alone.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::failure::Failure;

/// The models of a command that compares sub-models.
#[derive(Args, Clone, Debug)]
pub struct SubjectArgs {
    /// Model files
    #[arg(required = true, num_args = 1.., value_name = "MODEL")]
    pub models: Vec<PathBuf>,
    /// What the models are called, such as python,java [default: their files' names]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// Models calibrated like one of the others but with another seed, which tells how much is noise. LABEL says like which;
    /// without labels the first belongs to the first model, the second to the second
    #[arg(long, value_name = "[LABEL=]MODEL", num_args = 1..)]
    pub reseed: Vec<PathBuf>,
}

/// A model to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// What it is called; no two are called the same.
    pub label: String,
    /// Its file.
    pub path: PathBuf,
    /// The index of the model that it differs from by its seed.
    pub reseed_of: Option<usize>,
}

impl SubjectArgs {
    /// The models in their order, and after them those of other seeds.
    pub fn subjects(&self) -> Result<Vec<Subject>, Failure> {
        if !self.labels.is_empty() && self.labels.len() != self.models.len() {
            let (labels, models) = (self.labels.len(), self.models.len());
            return Err(Failure::Usage(format!("--labels has {labels} names, there are {models} models; name each")));
        }
        let mut all: Vec<Subject> = Vec::new();
        for (i, path) in self.models.iter().enumerate() {
            let label = self.labels.get(i).map_or_else(|| name_of(path), |label| plain(label.trim()));
            if let Some(other) = all.iter().find(|other| other.label == label) {
                let (first, second) = (other.path.display(), path.display());
                let message = format!("{first} and {second} are both called `{label}`; tell them apart with --labels");
                return Err(Failure::Usage(message));
            }
            all.push(Subject { label, path: path.clone(), reseed_of: None });
        }
        for (i, given) in self.reseed.iter().enumerate() {
            let (owner, path) = owner(given, i, &all[..self.models.len()])?;
            let nth = 1 + all.iter().filter(|s| s.reseed_of == Some(owner)).count();
            let label = format!("{} (reseed {nth})", all[owner].label);
            all.push(Subject { label, path, reseed_of: Some(owner) });
        }
        Ok(all)
    }
}

/// Which model the `nth` of the other seeds belongs to, and its path.
fn owner(given: &Path, nth: usize, models: &[Subject]) -> Result<(usize, PathBuf), Failure> {
    let labelled = given.to_str().and_then(|text| text.split_once('=')).filter(|_| !given.exists());
    let known = || models.iter().map(|m| format!("`{}`", m.label)).collect::<Vec<_>>().join(", ");
    let named = format!("--reseed {}", given.display());
    match labelled {
        Some((label, path)) => match models.iter().position(|m| m.label == label) {
            Some(owner) => Ok((owner, path.into())),
            None => Err(Failure::Usage(format!("{named}: no model is called `{label}`; there are {}", known()))),
        },
        None if nth < models.len() => Ok((nth, given.to_owned())),
        None => Err(Failure::Usage(format!(
            "{named}: it is number {}, there are {} models; say which it belongs to: LABEL=MODEL, of {}",
            nth + 1,
            models.len(),
            known()
        ))),
    }
}

/// A file's name without `.spm` or `.gguf`.
pub fn name_of(path: &Path) -> String {
    let is_known = path.extension().is_some_and(|e| e == "spm" || e == "gguf");
    let name = if is_known { path.file_stem() } else { path.file_name() };
    plain(&name.unwrap_or_default().to_string_lossy())
}

/// Without what would end a line or a cell of a table.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c == '|' || c.is_control() { '\u{FFFD}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: SubjectArgs,
    }

    fn subjects(line: &str) -> Result<Vec<(String, String, Option<usize>)>, String> {
        let line = <Line as clap::Parser>::try_parse_from(line.split(' ')).map_err(|e| e.to_string())?;
        let found = line.args.subjects().map_err(|failure| match failure {
            Failure::Usage(message) => message,
            other => panic!("{other:?}"),
        })?;
        Ok(found.into_iter().map(|s| (s.label, s.path.to_string_lossy().into_owned(), s.reseed_of)).collect())
    }

    #[test]
    fn models_are_called_by_their_files_or_as_told() {
        let found = subjects("p a/python.spm java.q4.gguf c.bin").unwrap();
        let labels: Vec<&str> = found.iter().map(|(label, ..)| label.as_str()).collect();
        assert_eq!(labels, ["python", "java.q4", "c.bin"]);
        let found = subjects("p a.spm b.spm --labels python,java --reseed c.spm java=d.spm java=e.spm").unwrap();
        let expected = [
            ("python", "a.spm", None),
            ("java", "b.spm", None),
            ("python (reseed 1)", "c.spm", Some(0)),
            ("java (reseed 1)", "d.spm", Some(1)),
            ("java (reseed 2)", "e.spm", Some(1)),
        ];
        assert_eq!(found, expected.map(|(label, path, of)| (label.to_owned(), path.to_owned(), of)));
    }

    #[test]
    fn what_does_not_belong_together_is_refused_by_name() {
        for (line, expected) in [
            ("p a.spm b.spm --labels x", "--labels has 1 names, there are 2 models"),
            ("p a/m.spm b/m.spm", "a/m.spm and b/m.spm are both called `m`; tell them apart with --labels"),
            ("p a.spm --reseed b.spm c.spm", "--reseed c.spm: it is number 2, there are 1 models; say which"),
            ("p a.spm --reseed x=b.spm", "--reseed x=b.spm: no model is called `x`; there are `a`"),
        ] {
            let message = subjects(line).unwrap_err();
            assert!(message.contains(expected), "{line}: {message}");
        }
    }
}
