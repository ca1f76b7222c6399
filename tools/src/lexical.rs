//! What the bytes of source code are: names, keywords, literals, comments, punctuation, white space.
//!
//! A scanner for each language, not a parser: it knows how words, numbers, strings and comments are written. `True`, `None`,
//! `null` and the like are literals in every language, as they stand for values, whatever a language calls them. Where a
//! `/` of JavaScript begins a regular expression is told by what is before it; code inside of template strings counts as
//! text of theirs.

mod grammar;

use pruner::Language;

use grammar::Grammar;

/// What a byte or a token of source code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A name.
    Identifier,
    /// A word of the language, or a directive of C++'s preprocessor.
    Keyword,
    /// A number, a string, a regular expression, `true`, `null`.
    Literal,
    /// A comment.
    Comment,
    /// Operators, brackets, and all else.
    Punctuation,
    /// Blanks and ends of lines between the others.
    Whitespace,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] =
        [Kind::Identifier, Kind::Keyword, Kind::Literal, Kind::Comment, Kind::Punctuation, Kind::Whitespace];

    /// In the plural, as tables and JSON call it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Identifier => "identifiers",
            Kind::Keyword => "keywords",
            Kind::Literal => "literals",
            Kind::Comment => "comments",
            Kind::Punctuation => "punctuation",
            Kind::Whitespace => "whitespace",
        }
    }
}

/// The kind of every byte of `text`; `None` for a language that has no scanner.
pub fn kinds(language: Language, text: &[u8]) -> Option<Vec<Kind>> {
    let scanner = Scanner { grammar: grammar::of(language)?, text, kinds: Vec::with_capacity(text.len()) };
    Some(scanner.scan())
}

/// The kind of a token by those of its bytes: the one that most of them are, white space not counted if there is anything
/// else; of equals the first.
pub fn of_token(bytes: &[Kind]) -> Kind {
    let mut counts = [0; Kind::ALL.len()];
    for kind in bytes.iter().filter(|k| **k != Kind::Whitespace) {
        counts[*kind as usize] += 1;
    }
    let most = counts.iter().max().copied().unwrap_or(0);
    let is_most = |kind: &&Kind| most > 0 && counts[**kind as usize] == most;
    bytes.iter().find(is_most).copied().unwrap_or(Kind::Whitespace)
}

struct Scanner<'a> {
    grammar: &'static Grammar,
    text: &'a [u8],
    /// Of the bytes read so far.
    kinds: Vec<Kind>,
}

impl Scanner<'_> {
    fn scan(mut self) -> Vec<Kind> {
        while self.kinds.len() < self.text.len() {
            let (len, kind) = self.next();
            let end = self.kinds.len() + len.clamp(1, self.rest().len());
            self.kinds.resize(end, kind);
        }
        self.kinds
    }

    fn rest(&self) -> &[u8] {
        &self.text[self.kinds.len()..]
    }

    /// Length and kind of what comes next.
    fn next(&self) -> (usize, Kind) {
        let (rest, grammar) = (self.rest(), self.grammar);
        let second = rest.get(1).copied().unwrap_or(0);
        match rest[0] {
            c if c.is_ascii_whitespace() => (1, Kind::Whitespace),
            _ if rest.starts_with(grammar.line_comment) => (line_len(rest), Kind::Comment),
            b'/' if grammar.block_comments && second == b'*' => (2 + len_to(&rest[2..], b"*/"), Kind::Comment),
            c if is_word(c) && !c.is_ascii_digit() => self.word(),
            c if c.is_ascii_digit() || c == b'.' && second.is_ascii_digit() => (self.number_len(), Kind::Literal),
            b'"' | b'\'' => (self.string_len(0, false), Kind::Literal),
            b'`' if grammar.templates => (quoted_len(rest, b"`", false), Kind::Literal),
            b'/' if grammar.regular_expressions && self.regular_expression_may_begin() => match regex_len(rest) {
                Some(len) => (len, Kind::Literal),
                None => (1, Kind::Punctuation),
            },
            b'#' if grammar.preprocessor && self.begins_line() => {
                let blanks = rest[1..].iter().take_while(|c| matches!(c, b' ' | b'\t')).count();
                (1 + blanks + word_len(&rest[1 + blanks..]), Kind::Keyword)
            }
            _ => (1, Kind::Punctuation),
        }
    }

    /// A word, or a string that begins with one: `f"..."`, `R"x(...)x"`.
    fn word(&self) -> (usize, Kind) {
        let (rest, grammar) = (self.rest(), self.grammar);
        let len = word_len(rest);
        let word = &rest[..len];
        let quoted = rest.get(len).is_some_and(|c| matches!(c, b'"' | b'\''));
        if quoted && grammar.string_prefixes.iter().any(|p| p.as_bytes().eq_ignore_ascii_case(word)) {
            let is_raw = word.iter().any(|c| c.eq_ignore_ascii_case(&b'r'));
            return (self.string_len(len, is_raw), Kind::Literal);
        }
        let is_member = grammar.members_are_names && self.last_before() == Some(b'.');
        let is_one_of = |words: &[&str]| words.iter().any(|w| w.as_bytes() == word);
        match () {
            () if is_member => (len, Kind::Identifier),
            () if is_one_of(grammar.keywords) => (len, Kind::Keyword),
            () if is_one_of(grammar.constants) => (len, Kind::Literal),
            () => (len, Kind::Identifier),
        }
    }

    /// Length of a string whose quote is `prefix` bytes away, the prefix counted.
    fn string_len(&self, prefix: usize, is_raw: bool) -> usize {
        let text = &self.rest()[prefix..];
        let quote = &text[..1];
        let thrice = [quote[0]; 3];
        prefix
            + match () {
                () if is_raw && self.grammar.delimited_raw_strings => delimited_len(text),
                () if self.grammar.triple_quotes.contains(&quote[0]) && text.starts_with(&thrice) => {
                    quoted_len(text, &thrice, false)
                }
                // A backslash of a raw string stays in it, but the quote after it does not end the string either.
                () => quoted_len(text, quote, true),
            }
    }

    fn number_len(&self) -> usize {
        let rest = self.rest();
        let is_hexadecimal = rest.len() > 1 && rest[1].eq_ignore_ascii_case(&b'x');
        let mut len = 1;
        while let Some(&c) = rest.get(len) {
            let before = rest[len - 1].to_ascii_lowercase();
            let next_is_word = rest.get(len + 1).is_some_and(|c| c.is_ascii_alphanumeric());
            let is_sign = matches!(c, b'+' | b'-')
                && (before == b'p' || before == b'e' && !is_hexadecimal)
                && rest.get(len + 1).is_some_and(u8::is_ascii_digit);
            let is_separator = c == b'\'' && self.grammar.quotes_in_numbers && next_is_word;
            if !(is_word(c) || c == b'.' || is_sign || is_separator) {
                break;
            }
            len += 1;
        }
        len
    }

    /// After a value a `/` divides.
    fn regular_expression_may_begin(&self) -> bool {
        let Some(at) = self.kinds.iter().rposition(|k| !matches!(k, Kind::Whitespace | Kind::Comment)) else {
            return true;
        };
        match self.kinds[at] {
            Kind::Identifier | Kind::Literal => false,
            Kind::Keyword => !self.text[..=at].ends_with(b"this") && !self.text[..=at].ends_with(b"super"),
            _ => !matches!(self.text[at], b')' | b']' | b'}'),
        }
    }

    /// The last byte before this one that is no white space.
    fn last_before(&self) -> Option<u8> {
        let at = self.kinds.iter().rposition(|k| *k != Kind::Whitespace)?;
        (self.kinds[at] == Kind::Punctuation).then_some(self.text[at])
    }

    fn begins_line(&self) -> bool {
        let before = self.text[..self.kinds.len()].iter().rev();
        before.take_while(|c| **c != b'\n').all(u8::is_ascii_whitespace)
    }
}

/// Letters, digits and all that is not ASCII.
fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$') || !c.is_ascii()
}

fn word_len(text: &[u8]) -> usize {
    text.iter().take_while(|c| is_word(**c)).count()
}

fn line_len(text: &[u8]) -> usize {
    text.iter().take_while(|c| **c != b'\n').count()
}

/// Bytes to the end of the first `end`, or all.
fn len_to(text: &[u8], end: &[u8]) -> usize {
    text.windows(end.len()).position(|w| w == end).map_or(text.len(), |at| at + end.len())
}

/// Length of a string that begins and ends with `quote`; one that ends with its line at the latest is not closed there.
fn quoted_len(text: &[u8], quote: &[u8], ends_with_line: bool) -> usize {
    let mut at = quote.len();
    while at < text.len() {
        match text[at] {
            b'\\' => at += 2,
            b'\n' if ends_with_line => return at,
            _ if text[at..].starts_with(quote) => return at + quote.len(),
            _ => at += 1,
        }
    }
    text.len()
}

/// Length of `"x(...)x"`.
fn delimited_len(text: &[u8]) -> usize {
    let Some(open) = text.iter().take(18).position(|c| *c == b'(') else {
        return quoted_len(text, &text[..1], true);
    };
    let end = [&b")"[..], &text[1..open], b"\""].concat();
    open + len_to(&text[open..], &end)
}

/// Longer ones are none, so that looking for their ends takes no time that grows with the text.
const LONGEST_REGEX: usize = 1000;

/// Length of a regular expression and its flags; `None` if it does not end in its line.
fn regex_len(text: &[u8]) -> Option<usize> {
    let (mut at, mut in_class) = (1, false);
    loop {
        match text.get(at).filter(|_| at < LONGEST_REGEX)? {
            b'\n' => return None,
            b'\\' => at += 1,
            b'[' => in_class = true,
            b']' => in_class = false,
            b'/' if !in_class => return Some(at + 1 + word_len(&text[at + 1..])),
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One letter a byte: i, k, l, c, p, and blanks.
    fn letters(language: Language, text: &str) -> String {
        let letter = |kind: Kind| match kind {
            Kind::Identifier => 'i',
            Kind::Keyword => 'k',
            Kind::Literal => 'l',
            Kind::Comment => 'c',
            Kind::Punctuation => 'p',
            Kind::Whitespace => '_',
        };
        kinds(language, text.as_bytes()).unwrap().into_iter().map(letter).collect()
    }

    fn check(language: Language, cases: &[(&str, &str)]) {
        for (text, expected) in cases {
            assert_eq!(letters(language, text), *expected, "{text}");
        }
    }

    #[test]
    fn python() {
        check(
            Language::Python,
            &[
                ("def f(x):  # no", "kkk_ipipp__cccc"),
                ("return None if a else -1.5e-3j", "kkkkkk_llll_kk_i_kkkk_plllllll"),
                ("s = f'a\\'b' + \"#\"", "i_p_lllllll_p_lll"),
                ("'''a\n'b'''x", "lllllllllli"),
                ("rb'\\' + x'+y", "llllllllllpi"),
                ("'open\nx", "lllll_i"),
                ("defer.not_é", "iiiiipiiiiii"),
                ("x[1:0x1e-2]", "iplpllllplp"),
            ],
        );
    }

    #[test]
    fn java() {
        check(
            Language::Java,
            &[
                ("final int x = 0x1FL; // c", "kkkkk_kkk_i_p_lllllp_cccc"),
                ("/* a */return null;", "ccccccckkkkkk_llllp"),
                ("\"\"\"a\n\"b\"\"\";'\\''", "llllllllllpllll"),
                ("@Override Foo.class", "piiiiiiii_iiipkkkkk"),
            ],
        );
    }

    #[test]
    fn cpp() {
        check(
            Language::Cpp,
            &[
                ("#include <a>", "kkkkkkkk_pip"),
                ("x # y", "i_p_i"),
                ("auto n = 1'000'000u;", "kkkk_i_p_llllllllllp"),
                ("R\"x(a)\"b)x\";", "lllllllllllp"),
                ("u8\"a\" nullptr", "lllll_lllllll"),
                ("1.5e+3f-2", "lllllllpl"),
            ],
        );
    }

    #[test]
    fn javascript() {
        check(
            Language::JavaScript,
            &[
                ("let a = b / c / d;", "kkk_i_p_i_p_i_p_ip"),
                ("x = /[/]\\//gi.test(y)", "i_p_lllllllllpiiiipip"),
                ("return /a/", "kkkkkk_lll"),
                ("`a${b}\n` + p.catch(null)", "llllllll_p_ipiiiiipllllp"),
                ("(a) / 2 / b", "pip_p_l_p_i"),
                ("a // b\n/ 2", "i_cccc_p_l"),
            ],
        );
    }

    #[test]
    fn other_languages_have_no_scanner() {
        assert_eq!(kinds(Language::Rust, b"fn"), None);
        assert_eq!(kinds(Language::Cpp, b""), Some(Vec::new()));
    }

    #[test]
    fn any_bytes_are_classified() {
        let odd: [&[u8]; 9] = [b"\"\\", b"'", b"R\"", b"`${", b"/*", b"//", b"/", b"\xff\xfe\"\"\"", b"1e+"];
        for language in [Language::Python, Language::Java, Language::Cpp, Language::JavaScript] {
            for text in odd {
                assert_eq!(kinds(language, text).unwrap().len(), text.len(), "{language} {text:?}");
            }
        }
    }

    #[test]
    fn tokens_are_what_most_of_their_bytes_are() {
        use Kind::{Identifier as I, Keyword as K, Punctuation as P, Whitespace as W};
        assert_eq!(of_token(&[W, K, K, K]), K);
        assert_eq!(of_token(&[P, I, I]), I);
        assert_eq!(of_token(&[P, P, I]), P);
        assert_eq!(of_token(&[W, I, P]), I);
        assert_eq!(of_token(&[P, I]), P);
        assert_eq!((of_token(&[W, W]), of_token(&[])), (W, W));
    }
}
