//! What was passed over, and why.

use std::fmt;

/// Files, folders and lines that were not used, by reason. Contents are judged as they are read, so of what nobody came
/// to read only names count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Not UTF-8, or with a zero byte.
    pub binary: usize,
    /// Not to be opened, in a folder.
    pub unreadable: usize,
    /// Above 2 MiB.
    pub too_large: usize,
    /// Lines of JSONL without a `text`, `messages`, or a `question` and its `answer`.
    pub without_text: usize,
    /// Blank.
    pub empty: usize,
    /// Folders of others' code or of build products.
    pub vendored: usize,
    /// Of another kind than is asked for, such as images and data beside code.
    pub of_another_kind: usize,
    /// Written by a program, by the name or the first lines.
    pub generated: usize,
    /// With lines too long for people.
    pub minified: usize,
    /// The same to the byte as one before.
    pub duplicate: usize,
}

impl Skipped {
    /// How many for each reason, those of none too.
    pub fn counts(&self) -> [(usize, &'static str); 10] {
        [
            (self.binary, "not text"),
            (self.unreadable, "not readable"),
            (self.too_large, "above 2 MiB"),
            (self.without_text, "without a `text`, `messages`, or a `question` and its `answer`"),
            (self.empty, "empty"),
            (self.vendored, "vendored folders"),
            (self.of_another_kind, "of another kind"),
            (self.generated, "generated"),
            (self.minified, "minified"),
            (self.duplicate, "duplicates"),
        ]
    }
}

/// For the middle of a sentence: empty if nothing was skipped.
impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts().into_iter().filter(|(n, _)| *n > 0);
        let said: Vec<String> = counts.map(|(n, why)| format!("{n} {why}")).collect();
        if said.is_empty() { Ok(()) } else { write!(f, " ({} passed over)", said.join(", ")) }
    }
}
