//! Problems, as the benchmarks' authors publish them: HumanEval, HumanEval-X and MBPP.
//!
//! The formats are described in the README beside this crate's manifest.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;

use super::language::Language;
use crate::failure::Failure;
use crate::jsonl::{self, Line};

/// A benchmark, which is a format and a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `task_id`, `prompt`, `entry_point`, `canonical_solution`, `test`; Python
    Humaneval,
    /// `task_id`, `text`, `code`, `test_list`, `test_setup_code`; Python
    Mbpp,
    /// `task_id` such as `Java/0`, `prompt`, `canonical_solution`, `test`; four languages
    HumanevalX,
}

impl Kind {
    /// What it is called in results and options.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Humaneval => "humaneval",
            Kind::Mbpp => "mbpp",
            Kind::HumanevalX => "humaneval-x",
        }
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// As in the file; a number is written as `MBPP/number`.
    pub task_id: String,
    /// Which protocol it goes by.
    pub kind: Kind,
    /// What the program is to be written in.
    pub language: Language,
    /// The beginning of the program, or for MBPP what it shall do.
    pub prompt: String,
    /// The rest of the program by the authors, or for MBPP all of it.
    pub canonical: String,
    /// Code that checks the program; for MBPP the assertions, a line each.
    pub test: String,
    /// Code that goes before the assertions (MBPP).
    pub setup: String,
    /// The function that is asked for (HumanEval).
    pub entry_point: String,
}

/// The fields of all formats.
#[derive(Deserialize)]
struct Raw {
    task_id: Option<TaskId>,
    prompt: Option<String>,
    entry_point: Option<String>,
    canonical_solution: Option<String>,
    test: Option<String>,
    text: Option<String>,
    code: Option<String>,
    test_list: Option<Vec<String>>,
    test_setup_code: Option<String>,
    /// The sanitized MBPP has this in place of `test_setup_code`, and `prompt` in place of `text`.
    test_imports: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TaskId {
    Number(u64),
    Text(String),
}

/// Reads the problems of `path`. `kind` is told by the fields unless given; `language` is that of HumanEval-X items whose
/// task id names none.
pub fn read(path: &Path, kind: Option<Kind>, language: Option<Language>) -> Result<Vec<Item>, Failure> {
    let lines: Vec<Line<Raw>> = jsonl::read(path)?;
    let mut items: Vec<Item> = Vec::with_capacity(lines.len());
    let mut seen = HashSet::new();
    for Line { number, value } in lines {
        let item = to_item(value, kind, language).map_err(|problem| jsonl::bad(path, number, &problem))?;
        if !seen.insert(item.task_id.clone()) {
            let problem = format!("task_id `{}` is there twice; results could not tell them apart", item.task_id);
            return Err(jsonl::bad(path, number, &problem));
        }
        items.push(item);
    }
    match items.is_empty() {
        true => Err(Failure::Usage(format!("{}: no items; expected one JSON object a line", path.display()))),
        false => Ok(items),
    }
}

fn to_item(raw: Raw, kind: Option<Kind>, language: Option<Language>) -> Result<Item, String> {
    let kind = kind.or_else(|| kind_of(&raw)).ok_or(
        "neither `entry_point` (HumanEval), `test_list` (MBPP) nor `task_id` with a language (HumanEval-X); \
         say which with --kind",
    )?;
    let task_id = match raw.task_id {
        Some(TaskId::Text(id)) => id,
        Some(TaskId::Number(n)) => format!("MBPP/{n}"),
        None => return Err("no `task_id`".into()),
    };
    let named = Language::of_task_id(&task_id);
    let language = match kind {
        Kind::HumanevalX => named.or(language).ok_or_else(|| {
            format!("`{task_id}` does not begin with Python, Java, CPP or JavaScript; say which with --language")
        })?,
        _ => Language::Python,
    };
    let field = |value: Option<String>, name: &str| value.ok_or_else(|| format!("`{task_id}` has no `{name}`"));
    if kind == Kind::Mbpp {
        let tests = raw.test_list.filter(|t| !t.is_empty()).ok_or_else(|| format!("`{task_id}` has no `test_list`"))?;
        let setup: Vec<String> = raw.test_imports.unwrap_or_default().into_iter().chain(raw.test_setup_code).collect();
        return Ok(Item {
            prompt: field(raw.text.or(raw.prompt), "text")?,
            canonical: raw.code.unwrap_or_default().replace("\r\n", "\n"),
            test: tests.join("\n").replace("\r\n", "\n"),
            setup: setup.join("\n").replace("\r\n", "\n"),
            entry_point: String::new(),
            task_id,
            kind,
            language,
        });
    }
    let entry_point = match kind {
        Kind::Humaneval => field(raw.entry_point, "entry_point")?,
        _ => String::new(),
    };
    Ok(Item {
        prompt: field(raw.prompt, "prompt")?,
        canonical: raw.canonical_solution.unwrap_or_default(),
        test: field(raw.test, "test")?,
        setup: String::new(),
        entry_point,
        task_id,
        kind,
        language,
    })
}

fn kind_of(raw: &Raw) -> Option<Kind> {
    match &raw.task_id {
        _ if raw.test_list.is_some() => Some(Kind::Mbpp),
        _ if raw.entry_point.is_some() => Some(Kind::Humaneval),
        Some(TaskId::Text(id)) if Language::of_task_id(id).is_some() => Some(Kind::HumanevalX),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str, kind: Option<Kind>, language: Option<Language>) -> Result<Vec<Item>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        match read(file.path(), kind, language) {
            Err(Failure::Usage(message)) => Err(message),
            other => Ok(other.unwrap()),
        }
    }

    #[test]
    fn formats_are_told_apart() {
        let text = r#"{"task_id": "HumanEval/7", "prompt": "def f():\n", "entry_point": "f", "canonical_solution": "    return 1\n", "test": "def check(c):\n    assert c() == 1\n"}
{"task_id": 601, "text": "Write f.", "code": "def f():\r\n  return 1", "test_list": ["assert f() == 1", "assert f() < 2"], "test_setup_code": "", "challenge_test_list": []}
{"task_id": 602, "prompt": "Write g.", "code": "", "test_list": ["assert g"], "test_imports": ["import math"]}
{"task_id": "CPP/3", "prompt": "int f(){\n", "canonical_solution": "return 1;}\n", "test": "int main(){}", "declaration": "", "example_test": ""}
"#;
        let items = read_text(text, None, None).unwrap();
        let told: Vec<_> = items.iter().map(|i| (i.task_id.as_str(), i.kind, i.language)).collect();
        assert_eq!(
            told,
            [
                ("HumanEval/7", Kind::Humaneval, Language::Python),
                ("MBPP/601", Kind::Mbpp, Language::Python),
                ("MBPP/602", Kind::Mbpp, Language::Python),
                ("CPP/3", Kind::HumanevalX, Language::Cpp),
            ]
        );
        assert_eq!((items[1].canonical.as_str(), items[1].test.lines().count()), ("def f():\n  return 1", 2));
        assert_eq!((items[2].prompt.as_str(), items[2].setup.as_str()), ("Write g.", "import math"));
    }

    #[test]
    fn bad_items_name_their_line_and_what_they_lack() {
        let good = r#"{"task_id": "Java/1", "prompt": "", "test": ""}"#;
        for (line, expected) in [
            (r#"{"task_id": "x", "prompt": "p", "test": ""}"#, "line 2: neither `entry_point`"),
            (r#"{"entry_point": "f", "prompt": "p", "test": ""}"#, "line 2: no `task_id`"),
            (r#"{"task_id": "HumanEval/1", "entry_point": "f", "prompt": "p"}"#, "`HumanEval/1` has no `test`"),
            (r#"{"task_id": 4, "text": "t", "test_list": []}"#, "`MBPP/4` has no `test_list`"),
            (r#"{"task_id": 4, "text": 5, "test_list": ["a"]}"#, "line 2: `text`: invalid type"),
            (r#"{"task_id": "Java/1", "prompt": "", "test": ""}"#, "line 2: task_id `Java/1` is there twice"),
            ("[]", "line 2: "),
        ] {
            let found = read_text(&format!("{good}\n{line}\n"), None, None).unwrap_err();
            assert!(found.contains(expected), "{line}: {found}");
        }
        assert!(read_text("\n", None, None).unwrap_err().contains("no items"));
        let other = r#"{"task_id": "Go/1", "prompt": "", "test": ""}"#;
        assert!(read_text(other, Some(Kind::HumanevalX), None).unwrap_err().contains("--language"));
    }
}
