//! Questions with answers to choose from.

use std::path::Path;

use serde::Deserialize;

use crate::failure::Failure;
use crate::jsonl::{self, Line};

/// One question.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Item {
    /// The question.
    pub(super) question: String,
    /// The answers.
    pub(super) choices: Vec<String>,
    /// The right one.
    pub(super) answer: usize,
    /// Where it is in the file, from 1.
    #[serde(skip)]
    pub(super) line: usize,
}

/// Reads the questions of `path`.
pub(super) fn read(path: &Path) -> Result<Vec<Item>, Failure> {
    let lines: Vec<Line<Item>> = jsonl::read(path)?;
    if lines.is_empty() {
        return Err(Failure::Usage(format!("{}: no items; expected one JSON object a line", path.display())));
    }
    let check = |Line { number, value }: Line<Item>| match problem(&value) {
        Some(problem) => Err(jsonl::bad(path, number, &problem)),
        None => Ok(Item { line: number, ..value }),
    };
    lines.into_iter().map(check).collect()
}

fn problem(item: &Item) -> Option<String> {
    let n = item.choices.len();
    if n < 2 {
        return Some(format!("{n} choices, expected 2 or more"));
    }
    if item.choices.iter().any(|choice| choice.trim().is_empty()) {
        return Some("an empty choice".into());
    }
    (item.answer >= n).then(|| format!("answer {} of {n} choices; the first is 0", item.answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_questions_name_their_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let good = r#"{"id": 3, "question": "q", "choices": ["a", "b"], "answer": 1}"#;
        std::fs::write(file.path(), format!("{good}\n{good}\n")).unwrap();
        assert_eq!(read(file.path()).unwrap()[1].line, 2);
        for (line, expected) in [
            (r#"{"question": "q", "choices": ["a", "b"], "answer": 2}"#, "line 2: answer 2 of 2 choices"),
            (r#"{"question": "q", "choices": ["a"], "answer": 0}"#, "line 2: 1 choices"),
            (r#"{"question": "q", "choices": ["a", " "], "answer": 0}"#, "line 2: an empty choice"),
            (r#"{"question": "q", "choices": ["a", "b"], "answer": -1}"#, "line 2: `answer`: invalid value"),
            (r#"{"question": "q", "choices": ["a", "b"]}"#, "line 2: missing field `answer`"),
        ] {
            std::fs::write(file.path(), format!("{good}\n{line}\n")).unwrap();
            let Err(Failure::Usage(found)) = read(file.path()) else { panic!("{line}") };
            assert!(found.contains(expected), "{found}");
        }
    }
}
