//! Prompts that ask for what stands between two texts.

use super::{Special, Tokenizer};
use crate::error::Error;

/// The special tokens before a prefix, before a suffix, and before what is between them, by how models write them.
const MARKS: [[&str; 3]; 7] = [
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    ["▁<PRE>", "▁<SUF>", "▁<MID>"],
    ["<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"],
    ["<|prefix|>", "<|suffix|>", "<|middle|>"],
];

impl Tokenizer {
    /// A prompt that a model trained to fill in continues with what stands between `prefix` and `suffix`. An error if the
    /// vocabulary has no tokens for that.
    pub fn infill(&self, prefix: &str, suffix: &str) -> Result<Vec<u32>, Error> {
        let [before_prefix, before_suffix, before_middle] = self.infill_marks().ok_or(Error::NoInfill)?;
        let mut ids: Vec<u32> = self.bos.filter(|_| self.add_bos).into_iter().collect();
        ids.push(before_prefix);
        self.append(prefix, Special::AsText, &mut ids);
        ids.push(before_suffix);
        self.append(suffix, Special::AsText, &mut ids);
        ids.push(before_middle);
        Ok(ids)
    }

    /// Whether the vocabulary has tokens to ask for what stands between two texts.
    pub fn can_infill(&self) -> bool {
        self.infill_marks().is_some()
    }

    fn infill_marks(&self) -> Option<[u32; 3]> {
        let ids = |[prefix, suffix, middle]: [&str; 3]| {
            Some([self.token_id(prefix)?, self.token_id(suffix)?, self.token_id(middle)?])
        };
        MARKS.into_iter().find_map(ids)
    }
}
