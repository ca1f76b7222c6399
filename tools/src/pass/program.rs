//! From a problem and a model's code to a program that can be run.

use super::items::{Item, Kind};
use super::language::Language;
use super::toolchain::Toolchain;

/// Source files, and how they become a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Name and text.
    pub files: Vec<(String, String)>,
    /// What finds out whether it is a program at all.
    pub build: Vec<String>,
    /// What runs it and its tests.
    pub run: Vec<String>,
    /// What standard output ends with if the tests came to their end, and not just the program.
    pub token: String,
}

impl Program {
    /// What identifies it: a hash of what is run, without the token.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, text) in &self.files {
            let text = text.replace(&self.token, "");
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }
}

/// The program of `item` with `code`: the rest of its prompt or, if `whole`, all of the code that a model answered with.
/// Each has another `token`.
pub fn program(item: &Item, code: &str, whole: bool, tools: &Toolchain, token: &str) -> Program {
    let source = source(item, code, whole);
    match item.language {
        Language::Python => python(item, &source, tools, token),
        Language::Java => java(item, &source, tools, token),
        Language::Cpp => cpp(item, &source, tools, token),
        Language::Javascript => javascript(item, &source, tools, token),
    }
}

/// Everything but the tests.
fn source(item: &Item, code: &str, whole: bool) -> String {
    if item.kind == Kind::Mbpp {
        return code.to_owned();
    }
    let continued = format!("{}{code}", item.prompt);
    if !whole {
        return continued;
    }
    let given = Given::of(item);
    if !is_defined(code, given.name) {
        // Only the rest of the function, in spite of what was asked.
        return continued;
    }
    match item.language {
        // Defining a function twice does no harm.
        Language::Python => format!("{}\n{code}\n", given.before),
        Language::Java => whole_java(&given, code),
        Language::Cpp => format!("{}\n{}\n", given.missing_in(code), without(code, "int main(")),
        Language::Javascript => format!("{}\n{code}\n", given.missing_in(code)),
    }
}

/// What a prompt gives beside the function that is asked for, which is its last.
struct Given<'a> {
    /// The function's name.
    name: &'a str,
    /// The text before the line that declares it.
    before: &'a str,
}

impl<'a> Given<'a> {
    fn of(item: &'a Item) -> Self {
        let prompt = item.prompt.as_str();
        let declares = |line: &str| match item.language {
            Language::Python => {
                line.starts_with("def ") && item.entry_point.is_empty()
                    || !item.entry_point.is_empty() && line.starts_with(&format!("def {}(", item.entry_point))
            }
            _ => line.trim_end().ends_with('{') && declared_name(line).is_some(),
        };
        let mut at = 0;
        let mut found = Given { name: &item.entry_point, before: "" };
        for line in prompt.split_inclusive('\n') {
            if declares(line) {
                found = Given { name: declared_name(line).unwrap_or(found.name), before: &prompt[..at] };
            }
            at += line.len();
        }
        found
    }

    /// Includes and helper functions, the latter without those that `code` has itself.
    fn missing_in(&self, code: &str) -> String {
        let helpers = self.before.lines().filter(|l| l.trim_end().ends_with('{')).filter_map(declared_name);
        let repeats = helpers.into_iter().any(|name| is_defined(code, name));
        let head = |line: &&str| line.starts_with('#') || line.starts_with("using ");
        match repeats {
            true => self.before.lines().filter(head).map(|l| format!("{l}\n")).collect(),
            false => self.before.to_owned(),
        }
    }
}

/// `f` of `int f(int x) {`, `const f = (x) => {`, `function f(x) {` and `def f(x):`.
fn declared_name(line: &str) -> Option<&str> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let head = match line.split_once('=') {
        Some((head, _)) if head.trim_start().starts_with(['c', 'l', 'v']) && !head.contains('(') => head.trim_end(),
        _ => line.split_once('(')?.0.trim_end(),
    };
    let start = head.rfind(|c| !is_name(c)).map_or(0, |at| at + head[at..].chars().next().map_or(1, char::len_utf8));
    let name = &head[start..];
    let is_keyword = matches!(name, "if" | "for" | "while" | "switch" | "catch" | "class" | "return" | "");
    // A name alone is a call.
    (!is_keyword && !head[..start].trim().is_empty()).then_some(name)
}

fn is_defined(code: &str, name: &str) -> bool {
    !name.is_empty() && code.lines().any(|line| !line.trim_end().ends_with(';') && declared_name(line) == Some(name))
}

/// `code` without the function or class whose first line has `head`, found by its braces.
fn without(code: &str, head: &str) -> String {
    let Some(found) = code.find(head) else { return code.to_owned() };
    let start = code[..found].rfind('\n').map_or(0, |at| at + 1);
    let mut depth = 0;
    for (at, c) in code[found..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return format!("{}{}", &code[..start], &code[found + at + 1..]),
            '}' => depth -= 1,
            _ => {}
        }
    }
    code[..start].to_owned()
}

/// A class `Solution` with the prompt's imports and helper methods.
fn whole_java(given: &Given, code: &str) -> String {
    let code = without(&without(code, "class Main"), "public static void main(").replace("public class ", "class ");
    let is_import = |line: &&str| line.trim_start().starts_with("import ");
    let imports = given.before.lines().chain(code.lines()).filter(is_import);
    let imports: String = imports.map(|line| format!("{line}\n")).collect();
    let rest = code.lines().filter(|line| !is_import(line) && !line.trim_start().starts_with("package "));
    let rest: String = rest.map(|line| format!("{line}\n")).collect();
    let Some(at) = rest.find("class Solution").and_then(|at| Some(at + rest[at..].find('{')? + 1)) else {
        return format!("{imports}class Solution {{\n{rest}}}\n");
    };
    let before = given.before.split_once("class Solution {").map_or("", |(_, before)| before);
    let helpers: Vec<&str> = before.lines().filter(|l| l.trim_end().ends_with('{')).filter_map(declared_name).collect();
    let lacks = !helpers.is_empty() && !helpers.iter().any(|name| is_defined(&rest, name));
    format!("{imports}{}\n{}{}", &rest[..at], if lacks { before } else { "" }, &rest[at..])
}

/// What CodeGeeX imports before HumanEval-X's programs.
const PYTHON_IMPORTS: &str = "import math\nimport re\nimport sys\nimport copy\nimport datetime\nimport itertools\n\
    import collections\nimport heapq\nimport statistics\nimport functools\nimport hashlib\nimport string\n\
    from typing import *\nfrom collections import *\n";

fn python(item: &Item, source: &str, tools: &Toolchain, token: &str) -> Program {
    let text = match item.kind {
        Kind::Humaneval => format!("{source}\n{}\ncheck({})\n", item.test, item.entry_point),
        Kind::HumanevalX => {
            // It is slow to import and may not be there.
            let numpy = if source.contains("np.") { "import numpy\nimport numpy as np\n" } else { "" };
            format!("{PYTHON_IMPORTS}{numpy}{source}\n{}\n", item.test)
        }
        // The setup can be of objects that the program defines.
        Kind::Mbpp => format!("{source}\n{}\n{}\n", item.setup, item.test),
    };
    let check = "import sys; compile(open(sys.argv[1], encoding='utf-8').read(), sys.argv[1], 'exec')";
    // As in HumanEval's own harness, so that it is not `__main__`. A program that ends early does not get to the token.
    let run = format!(
        "import sys\ntext = open(sys.argv[1], encoding='utf-8').read()\nsys.argv = ['']\n\
         exec(compile(text, 'program.py', 'exec'), {{}})\n\
         sys.__stdout__.write('\\n{token}\\n'); sys.__stdout__.flush()\n"
    );
    let python = |arguments: [&str; 2]| {
        let all = [tools.program(0), "-I", "-B"].into_iter().chain(arguments);
        all.map(str::to_owned).collect::<Vec<_>>()
    };
    Program {
        files: vec![("program.py".into(), text), ("run.py".into(), run)],
        build: [python(["-c", check]), vec!["program.py".into()]].concat(),
        run: python(["run.py", "program.py"]),
        token: token.into(),
    }
}

fn java(item: &Item, source: &str, tools: &Toolchain, token: &str) -> Program {
    let run = format!(
        "public class RunTests {{\n    public static void main(String[] a) throws Throwable {{\n        Main.main(a);\n        \
         System.out.println(\"\\n{token}\");\n        System.out.flush();\n    }}\n}}\n"
    );
    let small = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xmx512m", "-Xss8m"];
    let for_compiler = small.iter().map(|option| format!("-J{option}"));
    let build = [tools.program(0).to_owned()].into_iter().chain(for_compiler);
    let run_options = [tools.program(1)].into_iter().chain(small).chain(["-cp", ".", "RunTests"]);
    Program {
        files: vec![("Main.java".into(), format!("{source}\n{}", item.test)), ("RunTests.java".into(), run)],
        build: build
            .chain(["-encoding", "UTF-8", "-nowarn", "Main.java", "RunTests.java"].map(str::to_owned))
            .collect(),
        run: run_options.map(str::to_owned).collect(),
        token: token.into(),
    }
}

/// What CodeGeeX includes before C++ programs.
const CPP_INCLUDES: &[&str] = &[
    "#include<stdlib.h>",
    "#include<algorithm>",
    "#include<math.h>",
    "#include<stdio.h>",
    "#include<vector>",
    "#include<string>",
    "#include<climits>",
    "#include<cstring>",
    "#include<iostream>",
];

/// Functions that end a program; they are linked to one that says so by its exit code.
const CPP_EXITS: &[&str] = &["exit", "_exit", "_Exit", "quick_exit"];

fn cpp(item: &Item, source: &str, tools: &Toolchain, token: &str) -> Program {
    let missing = CPP_INCLUDES.iter().filter(|include| !item.prompt.contains(**include));
    let includes: String = missing.map(|include| format!("{include}\n")).collect();
    let text = format!("{includes}\n{source}\n{}", item.test);
    let exits = CPP_EXITS.iter().map(|exit| format!("extern \"C\" void __wrap_{exit}(int) {{ abort(); }}\n"));
    let exits: String = ["#include <stdlib.h>\n".to_owned()].into_iter().chain(exits).collect();
    let mut build: Vec<String> =
        [tools.program(0), "-std=c++11", "-w", "-o", "program", "program.cpp", "exits.cpp"].map(str::to_owned).into();
    build.extend(CPP_EXITS.iter().map(|exit| format!("-Wl,--wrap={exit}")));
    if text.contains("<openssl/") {
        build.extend(["-lcrypto", "-lssl"].map(str::to_owned));
    }
    Program {
        files: vec![("program.cpp".into(), text), ("exits.cpp".into(), exits)],
        build,
        // A shell, since where the working directory will be is not known here.
        run: ["/bin/sh", "-c", "./program && echo && echo \"$0\"", token].map(str::to_owned).into(),
        token: token.into(),
    }
}

fn javascript(item: &Item, source: &str, tools: &Toolchain, token: &str) -> Program {
    // Node only prints what a failed assertion says.
    let assert = "console.assert = (condition) => { if (!condition) throw new Error('assertion failed'); };\n";
    let text = format!("{assert}{source}\n{}\n", item.test);
    let run = format!("require('./program.js');\nprocess.stdout.write('\\n{token}\\n');\n");
    let node = |arguments: [&str; 2]| {
        [[tools.program(0)].as_slice(), &arguments].concat().iter().map(|s| (*s).to_owned()).collect()
    };
    Program {
        files: vec![("program.js".into(), text), ("run.js".into(), run)],
        build: node(["--check", "program.js"]),
        run: node(["--stack-size=900", "run.js"]),
        token: token.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(language: Language, prompt: &str) -> Item {
        Item {
            task_id: "X/1".into(),
            kind: if language == Language::Python { Kind::Humaneval } else { Kind::HumanevalX },
            language,
            prompt: prompt.into(),
            canonical: String::new(),
            test: "TEST".into(),
            setup: String::new(),
            entry_point: if language == Language::Python { "f".into() } else { String::new() },
        }
    }

    /// The source of an answer, without blank lines.
    fn whole(language: Language, prompt: &str, code: &str) -> String {
        let text = source(&item(language, prompt), code, true);
        text.lines().filter(|l| !l.trim().is_empty()).map(|l| format!("{l}\n")).collect()
    }

    #[test]
    fn names_are_found_where_functions_are_declared() {
        for (line, name) in [
            ("bool is_it(vector<float> a, float b){", Some("is_it")),
            ("const isIt = (a, b) => {", Some("isIt")),
            ("function isIt(a) {", Some("isIt")),
            ("    public List<String> isIt(String a) {", Some("isIt")),
            ("def is_it(a: int = 3) -> int:", Some("is_it")),
            ("    if (x) {", None),
            ("    isIt(x)", None),
            ("class Solution {", None),
            ("  } while (x) {", None),
        ] {
            assert_eq!(declared_name(line), name, "{line}");
        }
    }

    #[test]
    fn the_rest_of_a_function_is_added_to_its_prompt() {
        let item = item(Language::Python, "def f():\n");
        let tools = Toolchain::named(&["python3"]);
        let made = program(&item, "    return 1\n", false, &tools, "token");
        assert_eq!(made.files[0].1, "def f():\n    return 1\n\nTEST\ncheck(f)\n");
        let again = program(&item, "    return 1\n", false, &tools, "another");
        assert_eq!(made.hash(), again.hash());
        assert_ne!(made.hash(), program(&item, "    return 2\n", false, &tools, "token").hash());
    }

    #[test]
    fn an_answer_in_python_keeps_the_prompts_imports_and_helpers() {
        let prompt = "import math\ndef g():\n    pass\ndef f():\n    # Does.\n";
        let given = "import math\ndef g():\n    pass\n";
        let code = "def f():\n    return g()\n";
        assert_eq!(whole(Language::Python, prompt, code), format!("{given}{code}"));
        assert_eq!(whole(Language::Python, prompt, "    return 2\n"), format!("{prompt}    return 2\n"));
    }

    #[test]
    fn an_answer_in_cpp_loses_its_main_and_gets_what_it_lacks() {
        let prompt = "#include<vector>\nusing namespace std;\nint g(int x){\n return x;\n}\nint f(int x){\n";
        let code = "int f(int x) {\n return g(x);\n}\n";
        let with_main = format!("{code}int main() {{\n if (f(1)) {{ return 1; }}\n}}\n");
        let given = "#include<vector>\nusing namespace std;\nint g(int x){\n return x;\n}\n";
        assert_eq!(whole(Language::Cpp, prompt, &with_main), format!("{given}{code}"));
        let both = format!("int g(int x) {{\n return 1;\n}}\n{code}");
        let head = "#include<vector>\nusing namespace std;\n";
        assert_eq!(whole(Language::Cpp, prompt, &both), format!("{head}{both}"));
    }

    #[test]
    fn an_answer_in_java_becomes_one_class_without_a_main() {
        let prompt = "import java.util.*;\nclass Solution {\n    /** Does. */\n    public int f(int x) {\n";
        let method = "    public int f(int x) {\n        return x;\n    }\n";
        let expected = format!("import java.util.*;\nclass Solution {{\n{method}}}\n");
        let main = "    public static void main(String[] args) {\n        f(1);\n    }\n";
        for code in [
            method.to_owned(),
            format!("class Solution {{\n{method}}}\n"),
            format!("package x;\npublic class Solution {{\n{method}{main}}}\n"),
            format!("class Solution {{\n{method}}}\npublic class Main {{\n{main}}}\n"),
        ] {
            assert_eq!(whole(Language::Java, prompt, &code), expected, "{code}");
        }
        let both = format!("import a.B;\nclass Solution {{\n{method}}}\n");
        let start = "import java.util.*;\nimport a.B;\nclass Solution {\n";
        assert!(whole(Language::Java, prompt, &both).starts_with(start));
    }

    #[test]
    fn an_answer_in_javascript_is_not_declared_twice() {
        let prompt = "const g = (x) => {\n  return x\n}\nconst f = (x) => {\n";
        let code = "function f(x) {\n  return g(x);\n}\n";
        let given = "const g = (x) => {\n  return x\n}\n";
        assert_eq!(whole(Language::Javascript, prompt, code), format!("{given}{code}"));
        let both = format!("const g = (x) => {{\n  return 1;\n}}\n{code}");
        assert_eq!(whole(Language::Javascript, prompt, &both), both);
    }
}
