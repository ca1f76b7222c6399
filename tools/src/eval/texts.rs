//! Which texts to evaluate on, cut into windows of tokens.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use pruner::Language;
use pruner::calibration::{Domain, Skipped, each_document};
use runtime::Tokenizer;

use crate::chat::DocumentTokens;
use crate::evaluate::Token;
use crate::failure::Failure;
use crate::lexical;
use crate::notes::Notes;

/// Tokens a window, unless another number is asked for.
const CONTEXT: u32 = 1024;

/// Texts, and how they are cut.
#[derive(Args, Clone, Debug)]
pub struct TextArgs {
    /// Files and folders of text; .jsonl files have a document in the `text` field of each line. With names, such as
    /// python=FILE java=FOLDER, each name is a text of its own; a language's name also tells how its tokens are split into
    /// identifiers, keywords and literals (python, java, cpp, javascript)
    #[arg(long, num_args = 1.., value_name = "[NAME=]PATH")]
    pub text: Vec<PathBuf>,
    /// In folders, only files of this language: python, java, cpp, javascript, typescript, go, rust, c, csharp, php, ruby,
    /// shell; for text without a name
    #[arg(long)]
    pub lang: Option<Language>,
    /// Tokens a window [default: 1024, or the model's context if that is less]
    #[arg(short, long = "ctx-size", value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub ctx_size: Option<u32>,
    /// Windows at most of each text, from the first on
    #[arg(long, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub windows: Option<usize>,
    /// Tokens at the beginning of each window that are not scored (llama-perplexity: half a window and one)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub unscored: u32,
}

/// A text to evaluate on.
#[derive(Clone, Debug)]
pub struct Text {
    /// What it is called: its language, or `text`, if nothing else.
    pub name: String,
    /// Its programming language, if it has one.
    pub language: Option<Language>,
    /// Tokens a window.
    pub context: u32,
    /// The windows.
    pub windows: Vec<Vec<Token>>,
}

/// A text that is not read yet.
#[derive(Clone, Debug, PartialEq)]
struct Source {
    name: String,
    domain: Domain,
    paths: Vec<PathBuf>,
}

impl TextArgs {
    /// Refuses what cannot be, before anything is loaded.
    pub fn check(&self) -> Result<(), Failure> {
        self.sources().map(drop)
    }

    /// Tokens a window for models that read `own`.
    fn context(&self, own: usize) -> Result<u32, Failure> {
        let own = u32::try_from(own).unwrap_or(u32::MAX);
        let context = self.ctx_size.unwrap_or(CONTEXT.min(own));
        if context > own {
            return Err(Failure::Usage(format!("-c {context}: the model reads {own} tokens; ask for no more")));
        }
        if self.unscored >= context {
            let unscored = self.unscored;
            return Err(Failure::Usage(format!("--unscored {unscored} leaves nothing of windows of {context}")));
        }
        Ok(context)
    }

    /// Tokens of a window that are not scored.
    pub fn unscored(&self) -> usize {
        self.unscored as usize
    }

    /// Reads the texts for models that read `own` tokens at a time; each text must fill a window.
    pub fn read(&self, tokens: &DocumentTokens<'_>, own: usize) -> Result<Vec<Text>, Failure> {
        let context = self.context(own)?;
        self.sources()?.into_iter().map(|source| self.read_one(source, context, tokens)).collect()
    }

    fn sources(&self) -> Result<Vec<Source>, Failure> {
        let mut all: Vec<Source> = Vec::new();
        for given in &self.text {
            let (name, domain, path) = match named(given) {
                Some((name, _)) if self.lang.is_some() => {
                    let message = format!("--text {}: {name} is its name already; leave out --lang", given.display());
                    return Err(Failure::Usage(message));
                }
                Some((name, path)) => (name.to_owned(), name.parse().unwrap_or(Domain::Any), path),
                None => (self.lang.map_or("text", Language::name).to_owned(), self.lang.into(), given.clone()),
            };
            match all.iter_mut().find(|source| source.name == name) {
                Some(source) => source.paths.push(path),
                None => all.push(Source { name, domain, paths: vec![path] }),
            }
        }
        Ok(all)
    }

    fn read_one(&self, source: Source, context: u32, tokenize: &DocumentTokens<'_>) -> Result<Text, Failure> {
        let tokenizer = tokenize.tokenizer;
        let language = match source.domain {
            Domain::Language(language) => Some(language),
            _ => None,
        };
        let start = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let step = context as usize - usize::from(start.is_some());
        let enough = self.windows.map(|n| n.saturating_mul(step));
        let (mut tokens, mut documents) = (Vec::new(), 0);
        let skipped = each_document(&source.paths, source.domain, &mut |document| {
            tokens.extend(tokens_of(document.tokens(tokenize)?, documents, language, tokenizer));
            documents += 1;
            Ok(match enough {
                Some(n) if tokens.len() >= n => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
        })?;
        let begin = |first: &Token| start.map(|id| Token { id, bytes: 0, kind: None, ..*first });
        let windows = tokens.chunks_exact(step).take(self.windows.unwrap_or(usize::MAX));
        let windows: Vec<Vec<Token>> =
            windows.map(|text| begin(&text[0]).into_iter().chain(text.iter().copied()).collect()).collect();
        match windows.is_empty() {
            true => {
                let paths: Vec<String> = source.paths.iter().map(|path| path.display().to_string()).collect();
                let advice = "give more text, or ask for shorter windows with -c";
                Err(Failure::Usage(format!(
                    "{}: {} tokens of text from {documents} documents{skipped}, a window needs {step}; {advice}",
                    paths.join(", "),
                    tokens.len(),
                )))
            }
            false => {
                if skipped != Skipped::default() {
                    writeln!(Notes, "{}: {documents} documents{skipped}", source.name)?;
                }
                Ok(Text { name: source.name, language, context, windows })
            }
        }
    }
}

/// Tokens of one document. What they are is told of the bytes of all its tokens, which a tokenizer may have added to.
fn tokens_of(ids: Vec<u32>, document: u32, language: Option<Language>, tokenizer: &Tokenizer) -> Vec<Token> {
    let kinds = language.and_then(|language| {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id)).copied().collect();
        lexical::kinds(language, &bytes)
    });
    let mut at = 0;
    let token = |id: u32| {
        let bytes = tokenizer.token_bytes(id).len();
        let kind = kinds.as_ref().map(|kinds| lexical::of_token(&kinds[at..at + bytes]));
        at += bytes;
        Token { id, document, bytes: bytes as u32, kind }
    };
    ids.into_iter().map(token).collect()
}

/// `NAME=PATH`, unless there is a file of that whole name.
fn named(given: &Path) -> Option<(&str, PathBuf)> {
    let (name, path) = given.to_str()?.split_once('=')?;
    let is_name =
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '#'));
    (is_name && !given.exists()).then(|| (name, path.into()))
}

#[cfg(test)]
mod tests {
    use spm::synthetic::padded_vocabulary;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: TextArgs,
    }

    fn args(line: &str) -> TextArgs {
        <Line as clap::Parser>::try_parse_from(line.split(' ')).unwrap().args
    }

    #[test]
    fn texts_are_told_apart_by_their_names() {
        let found = args("p --text python=a b/c=d --text math=e python=f").sources().unwrap();
        let source = |name: &str, domain, paths: &[&str]| Source {
            name: name.into(),
            domain,
            paths: paths.iter().map(PathBuf::from).collect(),
        };
        let python = Domain::Language(Language::Python);
        let expected = [
            source("python", python, &["a", "f"]),
            source("text", Domain::Any, &["b/c=d"]),
            source("math", Domain::Any, &["e"]),
        ];
        assert_eq!(found, expected);
        let found = args("p --lang java --text a b").sources().unwrap();
        assert_eq!(found, [source("java", Domain::Language(Language::Java), &["a", "b"])]);
        let Err(Failure::Usage(message)) = args("p --lang java --text python=a").check() else { panic!() };
        assert_eq!(message, "--text python=a: python is its name already; leave out --lang");
    }

    #[test]
    fn tokens_know_their_document_and_what_they_are() {
        let tokenizer = Tokenizer::new(&padded_vocabulary(300)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, "{\"text\": \"def f\"}\n{\"text\": \"x = 1  # c\\n\"}\n").unwrap();
        let args = args(&format!("p --text python={} -c 4", path.display()));
        let found = &args.read(&DocumentTokens { tokenizer: &tokenizer, template: None }, 4).unwrap()[0];
        // `def`, blank, f, x, blank, =, blank, 1, two blanks, #, blank; `c` and the end of the line fill no window.
        let kinds: Vec<&str> = found.windows.iter().flatten().map(|t| t.kind.unwrap().name()).collect();
        let (i, k, l, c, p, w) = ("identifiers", "keywords", "literals", "comments", "punctuation", "whitespace");
        assert_eq!(kinds, [k, w, i, i, w, p, w, l, w, w, c, c]);
        let documents: Vec<u32> = found.windows.iter().flatten().map(|t| t.document).collect();
        assert_eq!(documents, [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        let bytes: Vec<u32> = found.windows.iter().flatten().map(|t| t.bytes).collect();
        assert_eq!(bytes, [3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    }
}
