//! `OUT.report.json` and `OUT.report.md`: what a pruning did, for programs and for people.

mod facts;
mod markdown;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use spm::claim::write_whole;

use crate::failure::Failure;

pub use facts::{Calibration, FORMAT, Facts, Matrix, Options, Source, Totals, Warning};

/// How every report begins, by which an earlier one is known.
const JSON_START: &str = "{\n  \"format\": \"sparse-prune report";
const MARKDOWN_START: &str = "# sparse-prune report";

/// Where the reports of a model go.
#[derive(Debug)]
pub struct ReportFiles {
    json: PathBuf,
    markdown: PathBuf,
}

impl ReportFiles {
    /// Those of the model at `output`. An error if one is there and may not be replaced: as with the model, only with
    /// `replace`, and only if it is a report.
    pub fn beside(output: &Path, replace: bool) -> Result<Self, Failure> {
        let files = ReportFiles { json: named(output, "json"), markdown: named(output, "md") };
        refuse_to_overwrite(&files.json, JSON_START, replace)?;
        refuse_to_overwrite(&files.markdown, MARKDOWN_START, replace)?;
        Ok(files)
    }

    /// The one for people.
    pub fn markdown(&self) -> &Path {
        &self.markdown
    }

    /// Writes both; each appears whole or not at all.
    pub fn write(&self, facts: &Facts) -> Result<(), Failure> {
        let json = serde_json::to_string_pretty(facts);
        let json = json.map_err(|e| Failure::Runtime(format!("{}: {e}", self.json.display())))?;
        write_whole(&self.json, (json + "\n").as_bytes())?;
        Ok(write_whole(&self.markdown, markdown::render(facts).as_bytes())?)
    }
}

/// `OUT.report.EXTENSION` for `OUT.spm`; the whole name is kept if it ends otherwise.
fn named(output: &Path, extension: &str) -> PathBuf {
    let is_spm = output.extension().is_some_and(|e| e == "spm");
    let mut name = if is_spm { output.file_stem() } else { output.file_name() }.unwrap_or_default().to_owned();
    name.push(format!(".report.{extension}"));
    output.with_file_name(name)
}

fn refuse_to_overwrite(path: &Path, start: &str, replace: bool) -> Result<(), Failure> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let advice = match (replace, begins_with(path, start)) {
        (true, true) => return Ok(()),
        (false, true) => "replace it with --force, or leave reports out with --no-report-files",
        (_, false) => {
            "it is no report of sparse-prune, so it is left alone; give the model another name, or leave reports out with \
             --no-report-files"
        }
    };
    Err(Failure::Runtime(format!("{}: exists already; {advice}", path.display())))
}

fn begins_with(path: &Path, start: &str) -> bool {
    let mut found = vec![0; start.len()];
    let is_file = fs::metadata(path).is_ok_and(|m| m.is_file());
    is_file && File::open(path).and_then(|mut f| f.read_exact(&mut found)).is_ok() && found == start.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_lie_beside_their_model() {
        for (output, expected) in [
            ("a/python.spm", "a/python.report.json"),
            ("python.q4.spm", "python.q4.report.json"),
            ("python", "python.report.json"),
            ("python.bin", "python.bin.report.json"),
        ] {
            assert_eq!(named(Path::new(output), "json"), Path::new(expected));
        }
    }

    #[test]
    fn only_a_report_is_replaced_and_only_when_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("m.spm");
        let found = |replace| match ReportFiles::beside(&output, replace) {
            Ok(_) => String::new(),
            Err(Failure::Runtime(message)) => message,
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(found(false), "");
        ReportFiles::beside(&output, false).unwrap().write(&facts::tests::facts()).unwrap();
        assert!(found(false).contains("m.report.json: exists already; replace it with --force"));
        assert_eq!(found(true), "");
        let markdown = folder.path().join("m.report.md");
        fs::write(&markdown, "# Notes of mine\n").unwrap();
        assert!(found(true).contains("m.report.md: exists already; it is no report of sparse-prune"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing unfinished is left");
    }
}
