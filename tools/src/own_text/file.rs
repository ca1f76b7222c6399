//! The file that texts are kept in: JSON lines, each a whole text, in the order of their numbers.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use pruner::calibration::{Document, Tokenize};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// One text.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Line {
    /// Texts are numbered as they are begun; some are not good enough and have no line.
    pub(super) number: u64,
    /// Who wrote it.
    pub(super) origin: String,
    #[serde(flatten)]
    pub(super) document: Document,
}

impl Line {
    /// Of what it says.
    fn hash(&self) -> blake3::Hash {
        blake3::hash(format!("{:?}", self.document).as_bytes())
    }
}

/// The texts so far, and the file to add to. It is this process's own.
#[derive(Debug)]
pub(super) struct TextFile {
    path: PathBuf,
    file: File,
    /// Tokens of all texts.
    pub(super) tokens: usize,
    /// The number of the next text.
    pub(super) next: u64,
    /// Hashes of the texts: none is taken twice.
    seen: std::collections::HashSet<blake3::Hash>,
}

impl TextFile {
    /// Opens or creates the file at `path`. What a killed process left of a line is cut off. `tokenize` tells a text's tokens.
    pub(super) fn open(path: &Path, tokenize: &dyn Tokenize) -> Result<Self, Failure> {
        let failed = |e: std::io::Error| Failure::Runtime(format!("{}: {e}", path.display()));
        let mut file = spm::claim::claim(path).map_err(|e| Failure::Runtime(e.to_string()))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0))).map_err(failed)?;
        let mut found = TextFile { path: path.to_owned(), file, tokens: 0, next: 0, seen: Default::default() };
        for (i, line) in bytes[..whole].split(|b| *b == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
            let line = serde_json::from_slice::<Line>(line).ok().filter(|line| line.number >= found.next);
            let line = line.ok_or_else(|| found.damaged(i + 1))?;
            let tokens = line.document.tokens(tokenize)?.len();
            found.note(&line, tokens);
        }
        Ok(found)
    }

    /// Adds a text of `tokens` tokens, unless it is there already.
    pub(super) fn push(&mut self, line: &Line, tokens: usize) -> Result<(), Failure> {
        if self.seen.contains(&line.hash()) {
            return Ok(());
        }
        let failed = |e: std::io::Error| Failure::Runtime(format!("{}: cannot write: {e}", self.path.display()));
        let mut bytes = serde_json::to_vec(line).map_err(|e| failed(e.into()))?;
        bytes.push(b'\n');
        self.file.write_all(&bytes).map_err(failed)?;
        self.note(line, tokens);
        Ok(())
    }

    fn note(&mut self, line: &Line, tokens: usize) {
        self.seen.insert(line.hash());
        self.tokens += tokens;
        self.next = line.number + 1;
    }

    fn damaged(&self, line: usize) -> Failure {
        let path = self.path.display();
        Failure::Runtime(format!(
            "{path}: line {line}: not a text that the model wrote; delete the file to have it made anew"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pruner::calibration::Turn;

    fn line(number: u64, text: &str) -> Line {
        Line { number, origin: "m".into(), document: Document::Text(text.into()) }
    }

    fn open(path: &Path) -> Result<TextFile, Failure> {
        TextFile::open(path, &|text: &str| vec![0; text.len()])
    }

    #[test]
    fn texts_are_kept_and_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.jsonl");
        let mut file = open(&path).unwrap();
        file.push(&line(0, "one\n"), 4).unwrap();
        file.push(&line(3, "two"), 3).unwrap();
        file.push(&line(4, "two"), 3).unwrap();
        assert_eq!((file.tokens, file.next), (7, 4), "the same text once");
        assert!(open(&path).is_err(), "one process at a time");
        drop(file);
        let whole = std::fs::read(&path).unwrap();
        // However a kill tears the last line, it is written again as if nothing had been.
        for torn in [1, 10, 30] {
            std::fs::write(&path, &whole[..whole.len() - torn]).unwrap();
            let mut file = open(&path).unwrap();
            assert_eq!((file.tokens, file.next), (4, 1));
            file.push(&line(3, "two"), 3).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn lines_are_what_calibration_reads() {
        let chat = Document::Chat(vec![Turn::new("user", "a"), Turn::new("assistant", "b")]);
        for (document, expected) in [
            (Document::Text("a".into()), r#"{"number":1,"origin":"m","text":"a"}"#),
            (
                chat,
                r#"{"number":1,"origin":"m","messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#,
            ),
        ] {
            let line = Line { number: 1, origin: "m".into(), document };
            assert_eq!(serde_json::to_string(&line).unwrap(), expected);
            let read: Line = serde_json::from_str(expected).unwrap();
            assert_eq!((read.hash(), read), (line.hash(), line));
        }
    }

    #[test]
    fn what_is_no_such_file_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.jsonl");
        let good = serde_json::to_string(&line(5, "a")).unwrap();
        for bad in [format!("{good}\n{good}\n"), format!("{good}\n{{}}\n"), format!("{good}\n\u{7f}\n")] {
            std::fs::write(&path, &bad).unwrap();
            let Err(Failure::Runtime(message)) = open(&path) else { panic!("{bad}") };
            assert!(message.contains("t.jsonl: line 2: not a text"), "{message}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), bad, "nothing is destroyed");
        }
    }
}
