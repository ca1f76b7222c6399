//! Prompts, and how models continue them: always by the most likely token.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use runtime::{Event, GenerateOptions, SamplerOptions, Session, SessionOptions, Special, generate};
use serde::Deserialize;

use super::Continuation;
use crate::cli::{Ready, text_argument};
use crate::failure::Failure;
use crate::jsonl;

/// The prompts given, and those of a file.
pub(super) fn read(given: &[String], file: Option<&PathBuf>) -> Result<Vec<String>, Failure> {
    let mut all = given.to_vec();
    if let Some(path) = file {
        let found = match is_jsonl(path) {
            true => jsonl::read::<Fields>(path)?.into_iter().map(|line| line.value.prompt).collect(),
            false => of_parts(&text_argument(None, Some(path))?.unwrap_or_default()),
        };
        if found.is_empty() {
            return Err(Failure::Usage(format!("{}: no prompts in it", path.display())));
        }
        all.extend(found);
    }
    Ok(all)
}

/// What is read of a line.
#[derive(Deserialize)]
struct Fields {
    prompt: String,
}

fn is_jsonl(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.ends_with(".jsonl") || name.ends_with(".jsonl.gz")
}

/// What is between lines of `---`; blank parts are none, and the end of a part's last line is not part of it.
fn of_parts(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for line in text.split_inclusive('\n') {
        match parts.last_mut() {
            Some(part) if line.trim_end() != "---" => part.push_str(line),
            _ => parts.push(String::new()),
        }
    }
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
    parts.map(|part| part.strip_suffix('\n').map(str::to_owned).unwrap_or(part)).collect()
}

/// What both models write after every prompt, `most` tokens at most.
pub(super) fn continue_all(
    ready: [&Ready; 2],
    prompts: Vec<String>,
    most: usize,
    interrupted: &AtomicBool,
) -> Result<Vec<Continuation>, Failure> {
    let mut all = Vec::new();
    for (i, prompt) in prompts.into_iter().enumerate() {
        let text = |side: usize| continue_one(ready[side], &prompt, most, interrupted);
        let texts = [text(0), text(1)].map(|text| {
            text.map_err(|failure| match failure {
                Failure::Runtime(message) => Failure::Runtime(format!("prompt {}: {message}", i + 1)),
                other => other,
            })
        });
        let [a, b] = texts;
        all.push(Continuation { texts: [a?, b?], prompt });
    }
    Ok(all)
}

fn continue_one(ready: &Ready, prompt: &str, most: usize, interrupted: &AtomicBool) -> Result<String, Failure> {
    let tokens = ready.tokenizer.encode(prompt, Special::AsText);
    let context = tokens.len().max(1).saturating_add(most).min(ready.model.config().context_len);
    let mut session = Session::new(&ready.model, &SessionOptions { context, ..SessionOptions::default() })?;
    let sampler = SamplerOptions { temperature: 0.0, ..SamplerOptions::default() };
    let options = GenerateOptions { max_tokens: most, sampler, stop: Vec::new() };
    let mut text = String::new();
    generate(&mut session, &ready.tokenizer, &tokens, &options, &mut |event| {
        if let Event::Text(more) = event {
            text.push_str(more);
        }
        if interrupted.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    match interrupted.load(Ordering::SeqCst) {
        true => Err(Failure::Interrupted),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_parts_of_a_file_or_lines_of_jsonl() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let text = write("p.txt", "def f():\n    \"\"\"F\"\"\"\n---\n\n---\nint g(\n");
        let found = read(&["first".into()], Some(&text)).unwrap();
        assert_eq!(found, ["first", "def f():\n    \"\"\"F\"\"\"", "int g("]);
        let lines = write("p.jsonl", "{\"prompt\": \"a\\nb\", \"id\": 1}\n\n{\"prompt\": \"c\"}\n");
        assert_eq!(read(&[], Some(&lines)).unwrap(), ["a\nb", "c"]);
        for (name, text, expected) in [
            ("bad.jsonl", "{\"prompt\": \"a\"}\n{\"text\": \"b\"}\n", "bad.jsonl: line 2: missing field `prompt`"),
            ("empty.txt", "\n---\n", "empty.txt: no prompts in it"),
        ] {
            let Err(Failure::Usage(message)) = read(&[], Some(&write(name, text))) else { panic!("{name}") };
            assert!(message.contains(expected), "{message}");
        }
    }
}
