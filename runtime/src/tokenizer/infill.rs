//! Prompts for filling in the middle of a text, and for continuing a file of a repository, in the tokens that a model was
//! trained with.

use super::merge::Merger;
use super::{Special, Tokenizer};
use crate::error::Error;

/// What is around the place where a model is to write.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings<'a> {
    /// The text before it.
    pub before: &'a str,
    /// The text after it; `None` if the text is to be continued.
    pub after: Option<&'a str>,
    /// The name of the file that this is, where there are others.
    pub file: &'a str,
    /// The name of the repository, where there are other files.
    pub repository: &'a str,
    /// Other files of the repository.
    pub others: &'a [OtherFile],
}

/// A file of a repository.
#[derive(Clone, Debug)]
pub struct OtherFile {
    /// Its name, as models have seen such: a path within the repository.
    pub name: String,
    /// What is in it.
    pub text: String,
}

impl Tokenizer {
    /// Whether the model has tokens for filling in the middle of a text.
    pub fn can_infill(&self) -> bool {
        self.hole().is_ok()
    }

    /// The tokens to which the model answers with what belongs between two texts.
    pub fn infill(&self, prefix: &str, suffix: &str) -> Result<Vec<u32>, Error> {
        self.encode_infill(&Surroundings { before: prefix, after: Some(suffix), ..Surroundings::default() })
    }

    /// The tokens to which the model answers with what belongs between `before` and `after`. An error if it has no tokens
    /// for that.
    ///
    /// Other files come first, as the families of the tokens had them in training; a model without such tokens gets the
    /// files' texts.
    pub fn encode_infill(&self, around: &Surroundings) -> Result<Vec<u32>, Error> {
        let hole = around.after.map(|after| Ok::<_, Error>((self.hole()?, after))).transpose()?;
        let mut ids: Vec<u32> = self.bos().filter(|_| self.adds_bos()).into_iter().collect();
        self.append_others(around, &mut ids);
        match hole {
            None => self.append(around.before, Special::AsText, &mut ids),
            Some(([prefix, suffix, middle], after)) => {
                ids.push(prefix);
                self.append(around.before, Special::AsText, &mut ids);
                ids.push(suffix);
                // It goes on where the hole ends: no space belongs before it.
                self.append_joined(after, &mut ids);
                ids.push(middle);
            }
        }
        Ok(ids)
    }

    fn hole(&self) -> Result<[u32; 3], Error> {
        match [self.infill.prefix, self.infill.suffix, self.infill.middle] {
            [Some(prefix), Some(suffix), Some(middle)] => Ok([prefix, suffix, middle]),
            _ => Err(Error::NoInfill),
        }
    }

    fn append_others(&self, around: &Surroundings, ids: &mut Vec<u32>) {
        if around.others.is_empty() {
            return;
        }
        let Some(file) = self.infill.file else {
            let texts = around.others.iter().map(|other| ended(&other.text) + "\n");
            return self.append(&texts.collect::<String>(), Special::AsText, ids);
        };
        if let Some(repository) = self.infill.repository {
            ids.push(repository);
            // Qwen's name ends its line, StarCoder's does not.
            let end = if self.token_text(repository).starts_with("<|") { "\n" } else { "" };
            self.append_joined(&format!("{}{end}", around.repository), ids);
        }
        for other in around.others {
            ids.push(file);
            self.append_joined(&format!("{}\n{}", other.name, ended(&other.text)), ids);
        }
        ids.push(file);
        self.append_joined(&format!("{}\n", around.file), ids);
    }

    /// Appends a text without the space that some vocabularies put first.
    fn append_joined(&self, text: &str, ids: &mut Vec<u32>) {
        self.append_parts_of(text, Special::AsText, false, &mut Merger::default(), ids);
    }
}

/// With a line end.
fn ended(text: &str) -> String {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{end}")
}
