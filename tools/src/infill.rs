//! The options that say what is around the place where a model is to write: text before and after it, files beside it.

use std::path::{Path, PathBuf};

use clap::Args;
use runtime::{OtherFile, Surroundings, Tokenizer};

use crate::cli::text_argument;
use crate::failure::Failure;

/// Filling in the middle of a text, and files that the model sees first.
#[derive(Args, Clone, Debug, Default)]
pub struct InfillArgs {
    /// Write what belongs between this text and --fim-suffix; `-` reads standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["prompt", "file", "chat", "special"])]
    fim_prefix: Option<String>,
    /// The text after the place that is written to; `-` reads standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["prompt", "file", "chat", "special"])]
    fim_suffix: Option<String>,
    /// --fim-prefix from a file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["fim_prefix", "prompt", "file", "chat", "special"])]
    fim_prefix_file: Option<PathBuf>,
    /// --fim-suffix from a file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["fim_suffix", "prompt", "file", "chat", "special"])]
    fim_suffix_file: Option<PathBuf>,
    /// Other files of the repository, which the model reads first; the most related ones last
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["chat", "special"])]
    repo_context: Vec<PathBuf>,
    /// Name of the repository, for --repo-context
    #[arg(long, value_name = "NAME", default_value = "project", requires = "repo_context")]
    repo_name: String,
    /// Name of the file that is written, for --repo-context [default: that of the file with the text before it]
    #[arg(long, value_name = "NAME", requires = "repo_context")]
    repo_file: Option<String>,
}

impl InfillArgs {
    /// Whether the middle of a text is to be filled in.
    pub fn is_hole(&self) -> bool {
        let texts = [&self.fim_prefix, &self.fim_suffix].into_iter().any(Option::is_some);
        texts || [&self.fim_prefix_file, &self.fim_suffix_file].into_iter().any(Option::is_some)
    }

    /// Whether there are other files.
    pub fn has_others(&self) -> bool {
        !self.repo_context.is_empty()
    }

    /// The texts before and after the hole; one that is not given is empty.
    pub fn hole(&self) -> Result<(String, String), Failure> {
        if self.fim_prefix.as_deref() == Some("-") && self.fim_suffix.as_deref() == Some("-") {
            return Err(Failure::Usage("standard input can be --fim-prefix or --fim-suffix, not both".into()));
        }
        let before = text_argument(self.fim_prefix.as_deref(), self.fim_prefix_file.as_ref())?;
        let after = text_argument(self.fim_suffix.as_deref(), self.fim_suffix_file.as_ref())?;
        Ok((before.unwrap_or_default(), after.unwrap_or_default()))
    }

    /// The tokens of a prompt; `file` is where `before` came from, if from a file.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        before: &str,
        after: Option<&str>,
        file: Option<&Path>,
    ) -> Result<Vec<u32>, Failure> {
        let others = self.repo_context.iter().map(|path| other_file(path)).collect::<Result<Vec<_>, _>>()?;
        let file = self.fim_prefix_file.as_deref().or(file).map(name_of);
        let file = self.repo_file.clone().or(file).unwrap_or_default();
        let around = Surroundings { before, after, file: &file, repository: &self.repo_name, others: &others };
        Ok(tokenizer.encode_infill(&around)?)
    }
}

fn other_file(path: &Path) -> Result<OtherFile, Failure> {
    if path.is_dir() {
        return Err(Failure::Usage(format!("{}: is a folder; --repo-context takes files", path.display())));
    }
    let text = text_argument(None, Some(&path.to_owned()))?.unwrap_or_default();
    Ok(OtherFile { name: name_of(path), text })
}

/// As models have seen paths in repositories.
fn name_of(path: &Path) -> String {
    let parts = path.components().filter(|part| matches!(part, std::path::Component::Normal(_)));
    parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_within_the_repository() {
        assert_eq!(name_of(Path::new("./src/main.rs")), "src/main.rs");
        assert_eq!(name_of(Path::new("/a/../b.py")), "a/b.py");
    }
}
