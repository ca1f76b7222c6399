//! What a model is asked, when it has said enough, and what of it counts: the protocols that were published with the
//! benchmarks.
//!
//! Raw, for base models: HumanEval by Chen et al. 2021 (stop sequences of section 2.1 and of the paper's code release);
//! HumanEval-X by the release of CodeGeeX (a completion ends with the brace that closes the function, Python's at the first
//! line that is not indented); MBPP by Austin et al. 2021 (three solved problems first, `[DONE]` ends).
//! Chat, for models with a chat template: EvalPlus's request and beginning of the answer, for other languages in their names;
//! the code is the first block that is fenced by backticks.

use super::items::{Item, Kind};
use super::language::Language;
use crate::writer::Prompt;

/// The prompt for `item`; `shots` are solved problems for MBPP's raw one.
pub fn prompt(item: &Item, chat: bool, shots: &[Item]) -> Prompt {
    match (chat, item.kind) {
        (true, _) => chat_prompt(item),
        (false, Kind::Mbpp) => {
            let solved = shots.iter().map(|shot| format!("{}{}\n[DONE]\n\n", task(shot), shot.canonical.trim_end()));
            Prompt::Raw(solved.chain([task(item)]).collect())
        }
        (false, _) => Prompt::Raw(item.prompt.clone()),
    }
}

fn task(item: &Item) -> String {
    format!(
        "You are an expert Python programmer, and here is your task: {} Your code should pass these tests:\n\n{}\n[BEGIN]\n",
        item.prompt, item.test
    )
}

fn chat_prompt(item: &Item) -> Prompt {
    let title = match item.language {
        Language::Python => "Python script",
        Language::Java => "Java program",
        Language::Cpp => "C++ program",
        Language::Javascript => "JavaScript program",
    };
    let problem = match item.kind {
        Kind::Mbpp => format!("\"\"\"\n{}\n{}\n\"\"\"", item.prompt, item.test),
        _ => item.prompt.trim().to_owned(),
    };
    Prompt::Chat {
        message: format!(
            "Please provide a self-contained {title} that solves the following problem in a markdown code block:\n\
             ```\n{problem}\n```\n"
        ),
        answer: format!(
            "Below is a {title} with a self-contained function that solves the problem and passes corresponding tests:\n\
             ```{}\n",
            item.language.fence()
        ),
    }
}

/// Texts that end what the model adds.
pub fn stops(item: &Item, chat: bool) -> Vec<String> {
    let stops: &[&str] = match (chat, item.kind, item.language) {
        (true, _, Language::Python) => &["\nif __name__", "\ndef main(", "\nprint("],
        (true, ..) => &[],
        (false, Kind::Mbpp, _) => &["[DONE]"],
        (false, Kind::Humaneval, _) => &["\nclass", "\ndef", "\n#", "\nif", "\nprint"],
        (false, Kind::HumanevalX, Language::Python) => &["\nclass", "\ndef", "\n#", "\nif", "\nprint", "\nassert"],
        (false, Kind::HumanevalX, _) => &[],
    };
    stops.iter().map(|s| (*s).to_owned()).collect()
}

/// Whether what the model added is complete, where no stop sequence tells.
pub fn is_finished(item: &Item, chat: bool, added: &str) -> bool {
    match (chat, item.kind, item.language) {
        (true, ..) => Block::of(added).is_closed,
        (false, Kind::HumanevalX, Language::Python) => first_unindented(added).is_some(),
        (false, Kind::HumanevalX, _) => added.matches('{').count() + 1 == added.matches('}').count(),
        _ => false,
    }
}

/// What counts of what the model added: the rest of the function or, as chat and for MBPP, all of the code.
pub fn truncate(item: &Item, chat: bool, added: &str) -> String {
    let added = if chat { Block::of(added).code } else { added };
    let end = stops(item, chat).iter().filter_map(|stop| added.find(stop.as_str())).min();
    let added = &added[..end.unwrap_or(added.len())];
    match (chat, item.kind, item.language) {
        (true, ..) => added.to_owned(),
        (false, Kind::HumanevalX, Language::Python) => {
            added[..first_unindented(added).unwrap_or(added.len())].to_owned()
        }
        (false, Kind::HumanevalX, Language::Java) => end_java(added),
        (false, Kind::HumanevalX, _) => to_last_brace(added).to_owned(),
        _ => added.to_owned(),
    }
}

/// The code of an answer.
struct Block<'a> {
    code: &'a str,
    /// Whether it has come to its end.
    is_closed: bool,
}

impl<'a> Block<'a> {
    /// The block that the answer's given beginning has begun or, where the model begins one itself, that one.
    fn of(added: &'a str) -> Self {
        let Some((before, fence)) = added.split_once("```") else {
            return Block { code: added, is_closed: false };
        };
        // What follows the backticks tells whether they begin or end.
        let Some((info, rest)) = fence.split_once('\n') else {
            return Block { code: before, is_closed: false };
        };
        if info.trim().is_empty() && !before.trim().is_empty() {
            return Block { code: before, is_closed: true };
        }
        match rest.split_once("```") {
            Some((code, _)) => Block { code, is_closed: true },
            None => Block { code: rest, is_closed: false },
        }
    }
}

/// Where the first line begins that has something else than a space or tab at its beginning.
fn first_unindented(text: &str) -> Option<usize> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if !line.trim().is_empty() && !line.starts_with([' ', '\t']) {
            return Some(at);
        }
        at += line.len();
    }
    None
}

fn to_last_brace(text: &str) -> &str {
    text.rfind('}').map_or(text, |at| &text[..=at])
}

fn end_java(text: &str) -> String {
    let text = match text.find("public static void main") {
        Some(at) => format!("{}}}", &text[..at]),
        None => text.to_owned(),
    };
    let mut text = to_last_brace(&text).to_owned();
    // The method is closed, its class is not.
    if text.matches('{').count() + 1 == text.matches('}').count() {
        text.push_str("\n}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn item(kind: Kind, language: Language) -> Item {
        Item {
            task_id: "X/1".into(),
            kind,
            language,
            prompt: "def f():\n".into(),
            canonical: "    return 1\n".into(),
            test: "assert f() == 1".into(),
            setup: String::new(),
            entry_point: "f".into(),
        }
    }

    #[test]
    fn humaneval_ends_at_what_is_no_part_of_the_function() {
        let item = item(Kind::Humaneval, Language::Python);
        assert_eq!(prompt(&item, false, &[]), Prompt::Raw("def f():\n".into()));
        for rest in ["\ndef g():", "\nclass A:", "\n# more", "\nif __name__", "\nprint(f())"] {
            let added = format!("    if x:\n        return 1 # one\n{rest}\n    y\n");
            assert_eq!(truncate(&item, false, &added), "    if x:\n        return 1 # one\n", "{rest}");
        }
        assert_eq!(truncate(&item, false, "    return 1"), "    return 1");
    }

    #[test]
    fn humaneval_x_ends_with_the_function() {
        let java = item(Kind::HumanevalX, Language::Java);
        assert!(!is_finished(&java, false, " if (x) { y(); }\n"));
        assert!(is_finished(&java, false, " if (x) { y(); }\n }"));
        assert_eq!(truncate(&java, false, "  return 1;\n  }"), "  return 1;\n  }\n}");
        assert_eq!(truncate(&java, false, "  return 1;\n  }\n}\n\nmore"), "  return 1;\n  }\n}");
        let with_main = "  return 1;\n  }\n  public static void main(String[] a) { x(); }\n}";
        assert_eq!(truncate(&java, false, with_main), "  return 1;\n  }\n  }");
        for language in [Language::Cpp, Language::Javascript] {
            let item = item(Kind::HumanevalX, language);
            assert_eq!(truncate(&item, false, "  return {1};\n}\n\nint g"), "  return {1};\n}");
            assert_eq!(truncate(&item, false, "  return 1;"), "  return 1;");
        }
        let python = item(Kind::HumanevalX, Language::Python);
        assert!(is_finished(&python, false, "    x\n\ny"));
        assert!(!is_finished(&python, false, "    x\n\n\ty\n"));
        assert_eq!(truncate(&python, false, "    x\n\n    y\nz = 1\n"), "    x\n\n    y\n");
    }

    #[test]
    fn mbpp_has_solved_problems_first() {
        let item = item(Kind::Mbpp, Language::Python);
        let shot = Item { prompt: "Two.".into(), canonical: "def f():\n  return 2\n".into(), ..item.clone() };
        let Prompt::Raw(text) = prompt(&item, false, &[shot]) else { panic!() };
        let expected = "You are an expert Python programmer, and here is your task: Two. Your code should pass these \
                        tests:\n\nassert f() == 1\n[BEGIN]\ndef f():\n  return 2\n[DONE]\n\nYou are an expert Python \
                        programmer, and here is your task: def f():\n Your code should pass these tests:\n\nassert f() == \
                        1\n[BEGIN]\n";
        assert_eq!(text, expected);
        assert_eq!(truncate(&item, false, "def f():\n  return 1\n[DONE]\nmore"), "def f():\n  return 1\n");
    }

    #[test]
    fn an_answer_is_a_block_of_code() {
        let item = item(Kind::Humaneval, Language::Python);
        let Prompt::Chat { message, answer } = prompt(&item, true, &[]) else { panic!() };
        let expected = "Please provide a self-contained Python script that solves the following problem in a markdown \
                        code block:\n```\ndef f():\n```\n";
        assert_eq!(message, expected);
        assert!(answer.ends_with("passes corresponding tests:\n```python\n"), "{answer}");
        let code = "def f():\n    return 1";
        for added in [
            code.to_owned(),
            format!("{code}\n```\nThis is so."),
            format!("{code}\nprint(f())\n"),
            format!("```python\n{code}\n```\nThis is so."),
            format!("Sure:\n```python\n{code}\n```\nAnd:\n```python\nno\n```"),
        ] {
            assert_eq!(truncate(&item, true, &added).trim_end(), code, "{added}");
        }
        let finished = |added: &str| is_finished(&item, true, added);
        assert!(finished("x = 1\n```\n") && finished("```python\nx = 1\n```") && finished("So:\n```python\nx\n```"));
        assert!(!finished("x = 1\n```") && !finished("```python\nx = 1\n") && !finished("x = 1\n"));
    }
}
