//! Problems whose answer is a number.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::number;
use crate::failure::Failure;
use crate::jsonl::{self, Line};

/// One problem.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    /// The problem.
    pub(super) question: String,
    /// How it is solved; ends in `#### NUMBER`.
    pub(super) solution: String,
    /// That number.
    pub(super) number: f64,
    /// Where it is in the file, from 1.
    pub(super) line: usize,
}

#[derive(Deserialize)]
struct Raw {
    question: Option<String>,
    answer: Option<String>,
    #[serde(rename = "Body")]
    body: Option<String>,
    #[serde(rename = "sQuestion")]
    s_question: Option<String>,
    #[serde(rename = "Equation")]
    equation: Option<String>,
    #[serde(rename = "lSolutions")]
    /// SVAMP has been published with a number, and with a list of one.
    solutions: Option<Value>,
}

/// Reads the problems of `path`.
pub(super) fn read(path: &Path) -> Result<Vec<Item>, Failure> {
    let lines: Vec<Line<Raw>> = jsonl::read(path)?;
    if lines.is_empty() {
        return Err(Failure::Usage(format!("{}: no items; expected one JSON object a line", path.display())));
    }
    let convert =
        |Line { number, value }: Line<Raw>| to_item(value, number).map_err(|problem| jsonl::bad(path, number, problem));
    lines.into_iter().map(convert).collect()
}

fn to_item(raw: Raw, line: usize) -> Result<Item, &'static str> {
    if let (Some(question), Some(solution)) = (raw.question, raw.answer) {
        let number = number::marked(&solution).ok_or("no number after `####` in `answer`")?;
        return Ok(Item { question, solution, number, line });
    }
    let (Some(body), Some(question)) = (raw.body, raw.s_question) else {
        return Err("neither `question` and `answer` (GSM8K) nor `Body` and `sQuestion` (SVAMP)");
    };
    let number = match &raw.solutions {
        Some(Value::Array(all)) if all.len() == 1 => all[0].as_f64(),
        Some(number) => number.as_f64(),
        None => None,
    };
    let number = number.ok_or("not one number in `lSolutions`")?;
    let body = body.trim();
    let stop = if body.ends_with(['.', '?', '!', ',']) { "" } else { "." };
    let solution = format!("{}\n#### {number}", raw.equation.as_deref().unwrap_or("").trim());
    Ok(Item { question: format!("{body}{stop} {}", question.trim()), solution, number, line })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Item, &'static str> {
        to_item(serde_json::from_str(line).unwrap(), 1)
    }

    #[test]
    fn both_formats_are_read() {
        let item = parse(r#"{"id": 1, "question": "q?", "answer": "1+1=<<1+1=2>>2\n#### 1,002"}"#).unwrap();
        assert_eq!((item.question.as_str(), item.number), ("q?", 1002.0));
        let item = parse(
            r#"{"ID": "c-1", "Body": "Ann has 3", "sQuestion": "How many?", "Equation": "( 3.0 )", "lSolutions": 3.0}"#,
        )
        .unwrap();
        assert_eq!((item.question.as_str(), item.solution.as_str()), ("Ann has 3. How many?", "( 3.0 )\n#### 3"));
        assert_eq!(parse(r#"{"Body": "b.", "sQuestion": "q?", "lSolutions": [2.5]}"#).unwrap().number, 2.5);
    }

    #[test]
    fn bad_problems_say_what_they_lack() {
        assert!(parse(r#"{"question": "q", "answer": "2"}"#).unwrap_err().contains("####"));
        assert!(parse(r#"{"question": "q"}"#).unwrap_err().contains("neither"));
        assert!(parse(r#"{"Body": "b", "sQuestion": "q", "lSolutions": []}"#).unwrap_err().contains("lSolutions"));
    }
}
