//! What a model that answers is asked, to write conversations: some hundred thousand requests. None is anybody's.

use pruner::Language;

/// Forms of requests for programs; `{l}` is the language, the rest as in [`super::starts`].
const FOR_CODE: [&str; 24] = [
    "Write a {l} function that {v}s the {n}s of a {m}.",
    "Write a {l} function to {v} a list of {n}s by their {m}.",
    "Write a function in {l} that takes a list of numbers and returns the {n} of the largest ones.",
    "Write a {l} function that takes a string and returns how often each {n} is in it.",
    "How do I {v} a {n} in {l}?",
    "How can I {v} all {n}s of a {m} in {l} without {v}ing them twice?",
    "Write a {l} class {N} that keeps {m}s and can {v} them.",
    "Please provide a self-contained {l} program that {v}s a {n} and prints the {m}.",
    "Implement {v}_{n}({m}) in {l}. It should return true if the {n} is in the {m}, else false.",
    "I have two {n}s. Write {l} code that finds the {m}s that are in both.",
    "Solve this problem in {l}: given an array of {n}s, find the longest {m} that can be {v}ed.",
    "Solve this problem in {l}: given an integer n, return the sum of all {n}s up to n that have an even {m}.",
    "Write a recursive {l} function that {v}s a tree of {n}s.",
    "Write {l} code that reads a file of {n}s, one a line, and {v}s each {m}.",
    "Write a unit test in {l} for a function that {v}s a {n}.",
    "What is the fastest way to {v} a sorted {n} in {l}?",
    "Explain with an example how to {v} a {n} with a {m} in {l}.",
    "Complete this {l} code:\n```\n// {V} the {n} of the {m}.\n```",
    "My {l} program should {v} the {n}, but it fails when the {m} is empty. How do I handle that?",
    "Write a {l} function that checks whether the brackets and {n}s of a {m} match.",
    "Write a {l} function that converts a {n} to a {m}, and its inverse.",
    "Refactor this so that it can {v} any {n}: a {l} function with a loop over {m}s and three nested ifs.",
    "Write a {l} function that rounds every {n} to two decimals and returns the sorted {m}s.",
    "Give me a short {l} script to {v} {n}s and {m}s.",
];

/// Forms of other requests.
const FOR_TEXT: [&str; 16] = [
    "How do I {v} a {n}?",
    "What is the difference between a {n} and a {m}?",
    "Explain what a {n} is to a child.",
    "Write a short story about a {n} and a {m}.",
    "Give me five ideas for a {n}.",
    "Tom has 3 {n}s and buys 4 {m}s for 2 dollars each. How much did he pay?",
    "Summarize in two sentences why people {v} their {n}s.",
    "Write an email to a {n} about a {m}.",
    "What should I know before I {v} a {n}?",
    "List the steps to {v} a {n} with a {m}.",
    "Is it better to {v} the {n} or the {m}?",
    "Where does the word \"{n}\" come from?",
    "Write a poem about a {n}.",
    "Who invented the {n}?",
    "Translate to French: I want to {v} the {n}.",
    "Why would a {n} need a {m}?",
];

/// The forms of requests about a language, or about none, and what is put for `{l}`.
pub(super) fn forms(language: Option<Language>) -> (&'static [&'static str], &'static str) {
    match language {
        Some(language) => (&FOR_CODE, title(language)),
        None => (&FOR_TEXT, ""),
    }
}

fn title(language: Language) -> &'static str {
    match language {
        Language::Python => "Python",
        Language::Java => "Java",
        Language::Cpp => "C++",
        Language::JavaScript => "JavaScript",
        Language::TypeScript => "TypeScript",
        Language::Go => "Go",
        Language::Rust => "Rust",
        Language::C => "C",
        Language::CSharp => "C#",
        Language::Php => "PHP",
        Language::Ruby => "Ruby",
        Language::Shell => "Bash",
    }
}
