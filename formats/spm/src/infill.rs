//! The tokens that models are trained with to fill in the middle of a text, and to tell files of a repository apart.

use crate::error::Fault;
use crate::metadata::{Value, Values, take};

/// Ids of those tokens, as far as a vocabulary has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Infill {
    /// Before the text that precedes the hole.
    pub prefix: Option<u32>,
    /// Before the text that follows the hole.
    pub suffix: Option<u32>,
    /// Before the text that fills the hole.
    pub middle: Option<u32>,
    /// Filler, which the model has no use for.
    pub pad: Option<u32>,
    /// Before a repository's name.
    pub repository: Option<u32>,
    /// Before a file's name.
    pub file: Option<u32>,
}

/// Of a token: its place in [`Infill`].
type Place = fn(&mut Infill) -> &mut Option<u32>;

/// Texts by which they are known, most trusted first; of Qwen, StarCoder and Granite, DeepSeek, CodeLlama, CodeGemma,
/// GLM, Falcon. The key is that of the metadata.
const KNOWN: [(&str, Place, &[&str]); 6] = [
    (
        "prefix",
        |all| &mut all.prefix,
        &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
    ),
    (
        "suffix",
        |all| &mut all.suffix,
        &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
    ),
    (
        "middle",
        |all| &mut all.middle,
        &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
    ),
    ("pad", |all| &mut all.pad, &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    (
        "repository",
        |all| &mut all.repository,
        &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<repo_name>", "<reponame>"],
    ),
    ("file", |all| &mut all.file, &["<|file_sep|>", "<file_sep>", "<|file_separator|>", "<filename>"]),
];

impl Infill {
    /// Those among `tokens` (texts by id) that are known by their text and that `accepts` agrees to.
    pub fn by_text(tokens: &[String], accepts: impl Fn(&str) -> bool) -> Self {
        let mut best = [usize::MAX; KNOWN.len()];
        let mut all = Infill::default();
        let marks = (0u32..).zip(tokens).filter(|(_, text)| text.starts_with(['<', '[', '▁']));
        for (id, text) in marks {
            for (best, (_, place, texts)) in best.iter_mut().zip(KNOWN) {
                let rank = texts.iter().position(|known| known == text).filter(|rank| rank < best);
                if let Some(rank) = rank.filter(|_| accepts(text)) {
                    *best = rank;
                    *place(&mut all) = Some(id);
                }
            }
        }
        all
    }

    /// Those of `self`, and of `other` where `self` has none.
    pub fn or(mut self, mut other: Self) -> Self {
        for (_, place, _) in KNOWN {
            let here = place(&mut self);
            *here = here.or(*place(&mut other));
        }
        self
    }

    /// Tokens that only come after what was to be filled in: they end it.
    pub fn ends(&self) -> impl Iterator<Item = u32> + use<> {
        [self.pad, self.repository, self.file].into_iter().flatten()
    }

    /// All that there are.
    pub fn ids(mut self) -> impl Iterator<Item = u32> {
        KNOWN.into_iter().filter_map(move |(_, place, _)| *place(&mut self))
    }

    pub(crate) fn put(mut self, values: &mut Values) {
        for (name, place, _) in KNOWN {
            if let Some(id) = *place(&mut self) {
                values.insert(key(name), Value::U64(id.into()));
            }
        }
    }

    pub(crate) fn take(values: &mut Values) -> Result<Self, Fault> {
        let mut all = Infill::default();
        for (name, place, _) in KNOWN {
            let key = key(name);
            if values.contains_key(&key) {
                let id: usize = take(values, &key)?;
                *place(&mut all) = u32::try_from(id).ok();
            }
        }
        Ok(all)
    }
}

fn key(name: &str) -> String {
    format!("infill.{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn the_families_are_known_by_their_texts() {
        let qwen = texts(&["a", "<|fim_middle|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|repo_name|>", "<|file_sep|>"]);
        let all = Infill::by_text(&qwen, |_| true);
        assert_eq!((all.prefix, all.suffix, all.middle, all.pad), (Some(2), Some(3), Some(1), None));
        assert_eq!((all.repository, all.file, all.ends().collect::<Vec<_>>()), (Some(4), Some(5), vec![4, 5]));
        let deepseek = texts(&["<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>"]);
        let all = Infill::by_text(&deepseek, |_| true);
        assert_eq!((all.prefix, all.suffix, all.middle), (Some(1), Some(0), Some(2)));
        let llama = texts(&["▁<SUF>", "▁<MID>", "▁<PRE>", "<filename>", "<file_sep>"]);
        let all = Infill::by_text(&llama, |_| true);
        assert_eq!((all.prefix, all.suffix, all.middle, all.file), (Some(2), Some(0), Some(1), Some(4)));
        assert_eq!(Infill::by_text(&llama, |text| text != "<file_sep>").file, Some(3));
        assert_eq!(Infill::by_text(&texts(&["fim_prefix", "<s>"]), |_| true), Infill::default());
    }

    #[test]
    fn metadata_keeps_them() {
        let all = Infill { prefix: Some(7), file: Some(0), ..Infill::default() };
        let mut values = Values::new();
        all.put(&mut values);
        assert_eq!(values.len(), 2);
        assert_eq!((Infill::take(&mut values).expect("ids"), values.len()), (all, 0));
        let other = Infill { prefix: Some(1), middle: Some(2), ..Infill::default() };
        assert_eq!(all.or(other), Infill { middle: Some(2), ..all });
    }
}
