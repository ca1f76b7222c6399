//! How texts begin: some hundred thousand short starts, made of forms and words. None is anybody's text.

mod forms;

use std::io::Read;

use pruner::Language;
use pruner::calibration::Domain;

use forms::Forms;

use super::requests;

const VERBS: [&str; 40] = [
    "add", "apply", "build", "check", "clean", "collect", "compare", "compute", "convert", "copy", "count", "create",
    "decode", "delete", "draw", "encode", "filter", "find", "format", "group", "insert", "join", "load", "measure",
    "merge", "move", "parse", "print", "read", "remove", "render", "replace", "save", "search", "send", "sort",
    "split", "update", "validate", "write",
];

const NOUNS: [&str; 60] = [
    "account",
    "array",
    "block",
    "book",
    "buffer",
    "button",
    "cache",
    "card",
    "channel",
    "city",
    "client",
    "color",
    "command",
    "config",
    "connection",
    "customer",
    "date",
    "document",
    "edge",
    "event",
    "field",
    "file",
    "game",
    "graph",
    "grid",
    "header",
    "image",
    "index",
    "item",
    "key",
    "line",
    "list",
    "matrix",
    "message",
    "model",
    "name",
    "node",
    "number",
    "order",
    "packet",
    "page",
    "path",
    "player",
    "point",
    "price",
    "product",
    "queue",
    "record",
    "request",
    "response",
    "result",
    "row",
    "score",
    "session",
    "shape",
    "stack",
    "student",
    "table",
    "token",
    "user",
];

/// Languages that text of the domain `code` takes turns in.
const OF_CODE: [Language; 6] =
    [Language::Python, Language::Java, Language::Cpp, Language::JavaScript, Language::C, Language::Go];

/// The start of text `number` of `domain`. It does not end in white space that a tokenizer would put to what comes next.
pub(super) fn start(domain: Domain, seed: u64, number: u64) -> String {
    let mut draw = Draw::new(&format!("{domain} {seed} {number}"));
    let forms = forms_of(domain, number);
    let mut start = String::new();
    // A file often begins with what it needs, and as often the text is from inside one.
    if !forms.heads.is_empty() && draw.below(2) == 0 {
        start += draw.of(forms.heads);
        start += forms.joint;
    }
    start += draw.of(forms.bodies);
    fill(&start, &mut draw)
}

/// Request `number` about `domain`.
pub(super) fn request(domain: Domain, seed: u64, number: u64) -> String {
    let mut draw = Draw::new(&format!("request {domain} {seed} {number}"));
    let (forms, language) = requests::forms(language_of(domain, number));
    let form = draw.of(forms).replace("{l}", language);
    fill(&form, &mut draw)
}

/// A hash of all that starts are made of, so that text of other starts is not taken for the same.
pub(super) fn fingerprint(domain: Domain) -> String {
    let forms: Vec<&Forms> = (0..OF_CODE.len() as u64).map(|number| forms_of(domain, number)).collect();
    blake3::hash(format!("{VERBS:?} {NOUNS:?} {forms:?}").as_bytes()).to_hex().to_string()
}

/// A hash of all that requests are made of.
pub(super) fn fingerprint_of_requests(domain: Domain) -> String {
    let forms: Vec<_> = (0..OF_CODE.len() as u64).map(|number| requests::forms(language_of(domain, number))).collect();
    blake3::hash(format!("{VERBS:?} {NOUNS:?} {forms:?}").as_bytes()).to_hex().to_string()
}

fn forms_of(domain: Domain, number: u64) -> &'static Forms {
    language_of(domain, number).map_or(&forms::PROSE, forms::of)
}

/// The programming language of text `number` of `domain`, if it has one.
fn language_of(domain: Domain, number: u64) -> Option<Language> {
    match domain {
        Domain::Language(language) => Some(language),
        Domain::Code => Some(OF_CODE[(number % OF_CODE.len() as u64) as usize]),
        Domain::Text | Domain::Any => None,
    }
}

/// Puts words in the places of a form: `{v}` a verb, `{n}` and `{m}` two nouns; a capital in the place is one in the word.
fn fill(form: &str, draw: &mut Draw) -> String {
    let words = [('v', *draw.of(&VERBS)), ('n', *draw.of(&NOUNS)), ('m', *draw.of(&NOUNS))];
    words.iter().fold(form.to_owned(), |text, (place, word)| {
        let capital = word[..1].to_uppercase() + &word[1..];
        text.replace(&format!("{{{place}}}"), word)
            .replace(&format!("{{{}}}", place.to_ascii_uppercase()), &capital)
            .replace(&format!("{{{}}}", place.to_string().repeat(2)), &word.to_uppercase())
    })
}

/// Numbers drawn from a hash: the same on every machine.
struct Draw(blake3::OutputReader);

impl Draw {
    fn new(seed: &str) -> Self {
        Draw(blake3::Hasher::new().update(seed.as_bytes()).finalize_xof())
    }

    fn below(&mut self, n: usize) -> usize {
        let mut bytes = [0; 8];
        // An endless reader: it fills whatever it is given.
        let _ = self.0.read(&mut bytes);
        (u64::from_le_bytes(bytes) % n.max(1) as u64) as usize
    }

    fn of<'a, T: ?Sized>(&mut self, all: &'a [&'a T]) -> &'a &'a T {
        &all[self.below(all.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn domains() -> impl Iterator<Item = Domain> {
        Language::ALL.map(Domain::Language).into_iter().chain([Domain::Code, Domain::Text])
    }

    /// The first 300 of seed 0, which differ, and are the same again.
    fn distinct(domain: Domain, make: fn(Domain, u64, u64) -> String) -> Vec<String> {
        let all: Vec<String> = (0..300).map(|number| make(domain, 0, number)).collect();
        let distinct: HashSet<&String> = all.iter().collect();
        assert!(distinct.len() > 250, "{domain}: {} of 300", distinct.len());
        assert_eq!(all[7], make(domain, 0, 7));
        all
    }

    #[test]
    fn starts_differ_and_are_the_same_again() {
        for domain in domains() {
            let all = distinct(domain, start);
            let same = all.iter().enumerate().filter(|(i, text)| start(domain, 1, *i as u64) == **text).count();
            assert!(same < 10, "{domain}: {same} are those of another seed");
        }
    }

    #[test]
    fn requests_differ_and_name_their_language() {
        for domain in domains() {
            distinct(domain, request);
        }
        let of_cpp = request(Domain::Language(Language::Cpp), 0, 5);
        assert!(of_cpp.contains("C++"), "{of_cpp}");
        let all = (0..300).map(|number| request(Domain::Code, 0, number));
        assert_eq!(all.filter(|text| text.contains("Java") && !text.contains("JavaScript")).count(), 50);
    }

    #[test]
    fn every_place_of_a_form_is_filled() {
        let of_requests = domains()
            .flat_map(|domain| requests::forms(language_of(domain, 0)).0.iter().map(move |form| (domain, *form)));
        let all = domains().flat_map(|domain| forms_of_all(domain).into_iter().map(move |form| (domain, form)));
        for (domain, form) in all.chain(of_requests) {
            let text = fill(&form.replace("{l}", "L"), &mut Draw::new("x"));
            for place in ["v", "n", "m", "V", "N", "M", "vv", "nn", "mm"] {
                assert!(!text.contains(&format!("{{{place}}}")), "{domain}: {text}");
            }
            assert!(!text.ends_with(' ') && !text.is_empty(), "{domain}: {text:?}");
        }
    }

    fn forms_of_all(domain: Domain) -> Vec<&'static str> {
        let forms = forms_of(domain, 0);
        forms.heads.iter().chain(forms.bodies).copied().collect()
    }
}
