//! Pre-tokenizers: where a text may be cut and never merged across, by the names that GGUF has for them.
//!
//! The published patterns end in `\s+(?!\S)|\s+`: spaces, but not the last one before a word. A look-ahead needs a
//! backtracking engine, which is slow and gives up on long runs; so the patterns here end in `\s+`, which runs in
//! linear time, and the last space is given back afterwards.

use regex::Regex;

use crate::error::Error;

/// GPT-2's words.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
/// GPT-4's words with numbers of up to three digits: Llama 3.
const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
/// The same with single digits: Qwen 2.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
/// The same, where marks belong to letters: Qwen 3.5.
const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|",
    r"\s*[\r\n]+|\s+"
);
/// The same, where line ends are no part of what is before them: Seed-Coder.
const SEED_CODER: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+";
/// GPT-4o's words, which begin with capitals: Phi-4-mini, Llama 4.
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+"
);
/// The same with single digits, and no English endings: Mistral.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+"
);
/// DeepSeek-V3's words; numbers and CJK are cut before.
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"##,
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+"
);
/// CJK ideographs and Hangul, as DeepSeek has them.
const CJK: &str = r"[\u{4E00}-\u{9FA5}\u{800}-\u{4E00}\u{AC00}-\u{D7FF}]+";
/// Letters with case, as DeepSeek lists them: not all that Unicode has.
const CASED: &str = concat!(
    r"\s?[",
    r"A-Za-z\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BC}-\u{1BF}\u{1C4}-\u{293}\u{295}-\u{2AF}",
    r"\u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}\u{388}-\u{38A}\u{38C}\u{38E}-\u{3A1}",
    r"\u{3A3}-\u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}\u{531}-\u{556}\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}",
    r"\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}\u{1D6B}-\u{1D77}",
    r"\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}",
    r"\u{1F50}-\u{1F57}\u{1F59}\u{1F5B}\u{1F5D}\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}",
    r"\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}",
    r"\u{1FF2}-\u{1FF4}\u{1FF6}-\u{1FFC}\u{2102}\u{2107}\u{210A}-\u{2113}\u{2115}\u{2119}-\u{211D}\u{2124}",
    r"\u{2126}\u{2128}\u{212A}-\u{212D}\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}\u{2145}-\u{2149}\u{214E}",
    r"\u{2183}\u{2184}\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}",
    r"\u{A680}-\u{A69B}\u{A722}-\u{A76F}\u{A771}-\u{A787}\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}",
    r"\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}",
    r"\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}",
    r"\u{1E900}-\u{1E943}",
    r"]+",
);
const PUNCTUATION: &str = r"\s?[!-/:-~\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF5E}\u{2018}-\u{201F}\u{3000}-\u{3002}]+";

/// Patterns applied one after the other, each cutting what the ones before left.
const KNOWN: &[(&str, &[&str])] = &[
    ("default", &[r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"]),
    ("gpt-2", &[GPT2]),
    ("starcoder", &[r"\p{N}", GPT2]),
    ("refact", &[r"\p{N}", GPT2]),
    ("smollm", &[r"\p{N}", GPT2]),
    ("qwen2", &[QWEN2]),
    ("llama-bpe", &[LLAMA3]),
    ("deepseek-coder", &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"]),
    ("qwen35", &[QWEN35]),
    ("seed-coder", &[SEED_CODER]),
    ("gpt-4o", &[GPT4O]),
    ("tekken", &[TEKKEN]),
    ("falcon", &[r"[\p{P}$+<=>^~|`]+", GPT2, r"[0-9][0-9][0-9]"]),
    ("deepseek-v3", &[r"\p{N}{1,3}", r"[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+", DEEPSEEK3]),
    ("deepseek-llm", &[r"[\r\n]", CASED, PUNCTUATION, r"\s+$", CJK, r"\p{N}+"]),
];

/// Names that GGUF files use for one of the above.
const SAME_AS: &[(&str, &[&str])] = &[
    ("default", &[""]),
    (
        "gpt-2",
        &[
            "gpt2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "mellum",
            "exaone4",
            "trillion",
            "gigachat",
            "a.x-4.0",
            "granite-docling",
        ],
    ),
    ("starcoder", &["command-r", "codeshell", "exaone", "minerva-7b", "mellum2"]),
    ("qwen2", &["deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez", "kormo", "f2llmv2", "grok-2", "solar-open"]),
    (
        "llama-bpe",
        &[
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "dbrx",
            "smaug-bpe",
            "chatglm-bpe",
            "glm4",
            "glm5",
        ],
    ),
    ("gpt-4o", &["llama4", "kanana2", "talkie", "minimax-m2"]),
    ("deepseek-v3", &["hunyuan-dense", "joyai-llm", "hy_v4"]),
];

/// A pre-tokenizer.
pub(super) struct Words {
    cuts: Vec<Cut>,
}

struct Cut {
    regex: Regex,
    /// Whether a run of spaces before a word leaves its last one to the word.
    gives_back: bool,
    /// Whether line ends stay with what comes before them.
    keeps_line_ends: bool,
}

impl Words {
    /// The pre-tokenizer of that name.
    pub(super) fn new(pre: &str) -> Result<Self, Error> {
        let cuts = patterns(pre)?.iter().map(|pattern| Cut::new(pattern)).collect::<Result<_, _>>()?;
        Ok(Words { cuts })
    }

    /// Shows every word in order; together they are the text.
    pub(super) fn each(&self, text: &str, word: &mut dyn FnMut(&str)) {
        each(&self.cuts, text, word);
    }
}

/// No deeper than there are patterns.
fn each(cuts: &[Cut], text: &str, word: &mut dyn FnMut(&str)) {
    match cuts {
        [] => word(text),
        [cut, rest @ ..] => cut.each(text, &mut |part| each(rest, part, word)),
    }
}

impl Cut {
    fn new(pattern: &str) -> Result<Self, Error> {
        let regex = Regex::new(pattern).map_err(|e| Error::Tokenizer { problem: format!("`{pattern}`: {e}") })?;
        Ok(Cut { regex, gives_back: pattern.ends_with(r"|\s+"), keeps_line_ends: pattern.contains(r"|\s*[\r\n]+|") })
    }

    /// Shows what matches and what lies between.
    fn each(&self, text: &str, part: &mut dyn FnMut(&str)) {
        let mut rest = text;
        while let Some(found) = self.regex.find(rest).filter(|found| !found.is_empty()) {
            let (from, to) = (found.start(), found.end());
            if from > 0 {
                part(&rest[..from]);
            }
            let to = if to < rest.len() { from + self.kept(&rest[from..to]) } else { to };
            part(&rest[from..to]);
            rest = &rest[to..];
        }
        if !rest.is_empty() {
            part(rest);
        }
    }

    /// How much of a match is kept that a word follows: of several spaces all but the last. Only the last alternative
    /// of the patterns ends in a space, and only it ends in a line end unless those are kept.
    fn kept(&self, matched: &str) -> usize {
        let goes = |c: &char| c.is_whitespace() && !(self.keeps_line_ends && matches!(c, '\r' | '\n'));
        let last = matched.chars().next_back().filter(|c| self.gives_back && goes(c));
        match last.map_or(0, char::len_utf8) {
            back if back < matched.len() => matched.len() - back,
            all => all,
        }
    }
}

fn patterns(pre: &str) -> Result<&'static [&'static str], Error> {
    let name = SAME_AS.iter().find(|(_, others)| others.contains(&pre)).map_or(pre, |(name, _)| name);
    let found = KNOWN.iter().find(|(known, _)| *known == name).map(|(_, patterns)| *patterns);
    found.ok_or_else(|| {
        let known: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
        let known = known.join(", ");
        let problem =
            format!("pre-tokenizer `{pre}` is unknown; known are {known}; update this program, or take another model");
        Error::Tokenizer { problem }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior};

    /// The published patterns, look-ahead and all, for the `tokenizers` crate's own engine.
    fn published(pre: &str) -> Vec<Split> {
        let split = |pattern: &&str| {
            let pattern = match pattern.strip_suffix(r"|\s+") {
                Some(start) => format!(r"{start}|\s+(?!\S)|\s+"),
                None => (*pattern).to_owned(),
            };
            Split::new(SplitPattern::Regex(pattern), SplitDelimiterBehavior::Isolated, false).unwrap()
        };
        patterns(pre).unwrap().iter().map(split).collect()
    }

    fn theirs(steps: &[Split], text: &str) -> Vec<String> {
        let mut words = PreTokenizedString::from(text);
        steps.iter().for_each(|split| split.pre_tokenize(&mut words).unwrap());
        let words = words.get_splits(OffsetReferential::Original, OffsetType::Byte);
        words.into_iter().map(|(word, _, _)| word.to_owned()).collect()
    }

    fn all(words: &Words, text: &str) -> Vec<String> {
        let mut all = Vec::new();
        words.each(text, &mut |word| all.push(word.to_owned()));
        all
    }

    fn ours(pre: &str, text: &str) -> Vec<String> {
        all(&Words::new(pre).unwrap(), text)
    }

    /// Made once: patterns take longer to compile than texts to be cut.
    static KINDS: LazyLock<Vec<(&str, Words, Vec<Split>)>> =
        LazyLock::new(|| KNOWN.iter().map(|(pre, _)| (*pre, Words::new(pre).unwrap(), published(pre))).collect());

    #[test]
    fn words_are_what_they_are_known_to_be() {
        assert_eq!(ours("gpt-2", "if  x:\n\n  y = 12"), ["if", " ", " x", ":", "\n\n ", " y", " =", " 12"]);
        assert_eq!(ours("qwen2", "I'M  x:\n\n  y12 "), ["I", "'M", " ", " x", ":\n\n", " ", " y", "1", "2", " "]);
        assert_eq!(ours("llama-bpe", "1234 \n\n5"), ["123", "4", " \n\n", "5"]);
        assert_eq!(ours("smollm", " 12  a"), [" ", "1", "2", " ", " a"]);
        assert_eq!(ours("deepseek-coder", " 中文ab\n1 "), [" ", "中文", "ab", "\n", "1", " "]);
        assert_eq!(ours("deepseek-llm", "ab ª12  "), ["ab", " ª", "12", "  "]);
        assert_eq!(ours("falcon", "f(x)=1234"), ["f", "(", "x", ")=", "123", "4"]);
        assert_eq!(ours("gpt-4o", "HelloWorld's 1234/\n"), ["Hello", "World's", " ", "123", "4", "/\n"]);
        assert_eq!(ours("tekken", "HTMLPage's 12"), ["HTMLPage", "'s", " ", "1", "2"]);
        assert_eq!(ours("deepseek-v3", "x.foo  1234 中文é"), ["x", ".foo", "  ", "123", "4", " ", "中文", "é"]);
        assert_eq!(ours("qwen35", "e\u{301}a 1"), ["e\u{301}a", " ", "1"]);
        assert_eq!(ours("seed-coder", "a);\n\n b"), ["a", ");", "\n\n", " b"]);
        assert_eq!(ours("qwen2", "a);\n\n b"), ["a", ");\n\n", " b"]);
    }

    #[test]
    fn other_names_mean_the_same_words() {
        for (name, others) in SAME_AS {
            assert!(KNOWN.iter().any(|(known, _)| known == name), "{name}");
            for other in *others {
                assert!(KNOWN.iter().all(|(known, _)| known != other), "{other}");
                assert_eq!(patterns(other).unwrap(), patterns(name).unwrap());
            }
        }
        assert_eq!(ours("phi-2", "a  12b"), ours("gpt-2", "a  12b"));
        assert_eq!(ours("dbrx", "a  1234b"), ours("llama-bpe", "a  1234b"));
    }

    proptest! {
        #[test]
        fn words_are_those_of_the_published_patterns(
            text in prop_oneof!["[a-zA-Z0-9 \t\r\n'.;(){}中é\u{a0}\u{3000}\u{301}Ⅷ]{0,40}", any::<String>(), "[ \n\u{85}x1']{0,20}"],
        ) {
            for (pre, words, steps) in KINDS.iter() {
                prop_assert_eq!(all(words, &text), theirs(steps, &text), "{}", pre);
            }
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let refused = Words::new("gpt-5").err().unwrap().to_string();
        assert!(refused.contains("`gpt-5`") && KNOWN.iter().all(|(name, _)| refused.contains(name)), "{refused}");
    }
}
