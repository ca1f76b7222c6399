//! `spm pass`, `choice` and `exact` as programs, on items in the published formats.

mod common;

use std::fs;
use std::process::{Command, Output};

use serde_json::{Value, json};
use spm::Encoding;
use spm::synthetic::SyntheticModel;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// Writes one JSON object a line.
    fn items(&self, name: &str, items: &[Value]) -> String {
        let lines: String = items.iter().map(|item| format!("{item}\n")).collect();
        fs::write(self.path(name), lines).unwrap();
        self.path(name)
    }

    /// A model that writes nonsense.
    fn model(&self) -> String {
        let path = self.path("m.spm");
        common::write_spm(path.as_ref(), &SyntheticModel::tiny(3), Encoding::F32);
        path
    }
}

/// How programs can be run here: with namespaces where the system has them.
fn isolation() -> &'static [&'static str] {
    static FOUND: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let isolated = FOUND.get_or_init(|| {
        let folder = Folder::new();
        let items = folder.items("i.jsonl", &[python("HumanEval/0", "    return 1\n")]);
        let done = common::run(common::SPM, &["pass", "--canonical", "--items", &items]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success() || said.contains("cannot be isolated here"), "{said}");
        done.status.success()
    });
    if *isolated { &[] } else { &["--unisolated"] }
}

fn pass(args: &[&str]) -> Output {
    common::run(common::SPM, &[&["pass"], args, isolation()].concat())
}

/// Runs `spm pass ARGS --json`, which must succeed.
fn figures(args: &[&str]) -> Value {
    let done = pass(&[args, &["--json"]].concat());
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

fn refused(args: &[&str]) -> String {
    let done = pass(args);
    assert_eq!(done.status.code(), Some(2), "{args:?}");
    String::from_utf8(done.stderr).unwrap()
}

fn python(task_id: &str, solution: &str) -> Value {
    json!({
        "task_id": task_id,
        "prompt": "def one(n: int) -> int:\n    \"\"\" Gives 1.\n    >>> one(3)\n    1\n    \"\"\"\n",
        "entry_point": "one",
        "canonical_solution": solution,
        "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate(3) == 1\n    assert candidate(0) == 1\n",
    })
}

fn mbpp(task_id: u32, code: &str, setup: &str) -> Value {
    json!({
        "text": "Write a function that gives one.", "code": code, "task_id": task_id, "test_setup_code": setup,
        "test_list": ["assert one(3) == 1", "assert one(0) == 1"], "challenge_test_list": [],
    })
}

fn humaneval_x(task_id: &str, solution: &str) -> Value {
    let (prompt, test) = match task_id.split('/').next().unwrap() {
        "Python" => {
            ("def one(n):\n    \"\"\"Gives 1.\"\"\"\n", "def check(one):\n    assert one(3) == 1\n\ncheck(one)")
        }
        "Java" => (
            "import java.util.*;\n\nclass Solution {\n    /** Gives 1. */\n    public int one(int n) {\n",
            "public class Main {\n    public static void main(String[] args) {\n        Solution s = new Solution();\n        \
             if (s.one(3) != 1) {\n            throw new AssertionError();\n        }\n    }\n}\n",
        ),
        "CPP" => (
            "/* Gives 1. */\n#include<stdio.h>\nusing namespace std;\nint one(int n){\n",
            "#undef NDEBUG\n#include<assert.h>\nint main(){\n    assert (one(3)==1);\n}\n",
        ),
        _ => (
            "/* Gives 1. */\nconst one = (n) => {\n",
            "const testOne = () => {\n  console.assert(one(3) === 1)\n}\n\ntestOne()\n",
        ),
    };
    json!({"task_id": task_id, "prompt": prompt, "canonical_solution": solution, "test": test, "declaration": "", "example_test": ""})
}

/// Solutions in all formats and languages that are right.
fn right() -> Vec<Value> {
    vec![
        python("HumanEval/1", "    return 1\n"),
        mbpp(601, "def one(n):\r\n    return 1", "two = one(2)"),
        humaneval_x("Python/1", "    return math.floor(1.5)\n"),
        humaneval_x("Java/1", "        return 1;\n    }\n}"),
        humaneval_x("CPP/1", "    return min(1, 2);\n}\n"),
        humaneval_x("JavaScript/1", "  return 1\n}\n\n"),
    ]
}

/// The same that are wrong, then some that end before their tests, then some that are no programs.
fn wrong() -> [Vec<Value>; 3] {
    [
        vec![
            python("HumanEval/2", "    return n\n"),
            mbpp(602, "def one(n):\r\n    return n", ""),
            humaneval_x("Java/2", "        return n;\n    }\n}"),
            humaneval_x("CPP/2", "    return n;\n}\n"),
            humaneval_x("JavaScript/2", "  return n\n}\n"),
        ],
        vec![
            python("HumanEval/3", "    import sys\n    sys.exit(0)\n"),
            python("HumanEval/4", "    import os\n    os._exit(0)\n"),
            humaneval_x("Java/3", "        System.exit(0);\n        return 1;\n    }\n}"),
            humaneval_x("CPP/3", "    exit(0);\n}\n"),
            humaneval_x("JavaScript/3", "  process.exit(0)\n}\n"),
        ],
        vec![
            python("HumanEval/5", "    return (1\n"),
            mbpp(605, "def one(n)\r\n    return 1", ""),
            humaneval_x("Java/5", "        return 1\n    }\n}"),
            humaneval_x("CPP/5", "    return one;\n}\n"),
            humaneval_x("JavaScript/5", "  return (1\n}\n"),
        ],
    ]
}

fn languages_not_run(figures: &Value) -> u64 {
    let reasons = figures["not_run_because"].as_array().unwrap();
    assert!(reasons.iter().all(|r| r.as_str().unwrap().contains("is not in PATH")), "{reasons:?}");
    figures["outcomes"]["not run"].as_u64().unwrap()
}

#[test]
fn right_solutions_pass_in_every_language() {
    let folder = Folder::new();
    let found = figures(&["--canonical", "--items", &folder.items("i.jsonl", &right())]);
    let not_run = languages_not_run(&found);
    assert_eq!(found["outcomes"]["passed"], 6 - not_run, "{found}");
    assert!(not_run <= 3, "python3 is there: {found}");
    assert_eq!(found["pass_at"]["1"]["estimate"], 1.0);
    assert_eq!(found["built"], 1.0);
}

#[test]
fn wrong_solutions_fail_for_what_is_wrong_with_them() {
    let folder = Folder::new();
    let [wrong, early, broken] = wrong();
    for (name, items, outcome, built) in
        [("w.jsonl", wrong, "failed", 1.0), ("e.jsonl", early, "failed", 1.0), ("b.jsonl", broken, "not built", 0.0)]
    {
        let found = figures(&["--canonical", "--items", &folder.items(name, &items)]);
        assert_eq!(found["outcomes"][outcome], 5 - languages_not_run(&found), "{name}: {found}");
        assert_eq!(found["pass_at"]["1"]["estimate"], 0.0);
        assert_eq!(found["built"], built, "{name}");
    }
}

#[test]
fn programs_that_go_on_for_ever_are_ended() {
    let folder = Folder::new();
    let forever =
        ["    while True: pass\n", "    while True: print('x' * 10000)\n", "    import time; time.sleep(100)\n"];
    let items: Vec<Value> = (0..).zip(forever).map(|(i, code)| python(&format!("HumanEval/{i}"), code)).collect();
    let items = folder.items("i.jsonl", &items);
    let found = figures(&["--canonical", "--items", &items, "--timeout", "1.5"]);
    assert_eq!(found["outcomes"]["timed out"], 3, "{found}");
    let hog = [python("HumanEval/1", "    x = []\n    while True: x.append(bytearray(1000000))\n")];
    let items = folder.items("h.jsonl", &hog);
    let found = figures(&["--canonical", "--items", &items, "--program-memory", "200MB"]);
    assert_eq!(found["outcomes"]["passed"], 0, "{found}");
    assert_eq!(found["outcomes"]["timed out"], 0, "{found}");
}

#[test]
fn what_cannot_be_run_is_no_failure() {
    let folder = Folder::new();
    let items = folder.items("i.jsonl", &right());
    let mut command = Command::new(common::SPM);
    command
        .args(["pass", "--canonical", "--json", "--items", &items])
        .args(isolation())
        .env("PATH", folder.path("none"));
    let done = command.output().unwrap();
    assert!(done.status.success());
    let found: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&found["outcomes"]["not run"], &found["pass_at"]["1"]), (&json!(6), &Value::Null));
    assert_eq!(found["not_run_because"].as_array().unwrap().len(), 4, "{found}");
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.contains("warning: Java programs are not run: `javac` is not in PATH"), "{said}");
}

#[test]
fn a_run_is_gone_on_with_and_others_are_refused() {
    let folder = Folder::new();
    let items: Vec<Value> = (0..6).map(|i| python(&format!("HumanEval/{i}"), "")).collect();
    let (items, model, out) = (folder.items("i.jsonl", &items), folder.model(), folder.path("r.jsonl"));
    let args = ["--items", &items, "--out", &out, "--samples", "2", "--temperature", "1", "--max-tokens", "8"];
    let args = [&[model.as_str()], &args[..]].concat();
    let found = figures(&[&args[..], &["--limit", "2"]].concat());
    assert_eq!((&found["items"], &found["prompt"]), (&json!(2), &json!("raw")));
    let first = fs::read_to_string(&out).unwrap();
    assert_eq!(first.lines().count(), 3);
    let found = figures(&[&args[..], &["--k", "1,2"]].concat());
    assert_eq!((&found["items"], &found["outcomes"]["passed"]), (&json!(6), &json!(0)));
    assert_eq!(found["pass_at"]["2"]["estimate"], 0.0);
    let second = fs::read_to_string(&out).unwrap();
    assert!(second.starts_with(&first) && second.lines().count() == 7);
    let record: Value = serde_json::from_str(second.lines().nth(1).unwrap()).unwrap();
    let samples = record["samples"].as_array().unwrap();
    assert!(samples.len() == 2 && samples[0]["program"].as_str().unwrap().len() == 32, "{record}");
    assert_ne!(samples[0]["completion"], samples[1]["completion"], "samples differ");

    // Written alone, all is the same but for how long it took.
    let alone = folder.path("alone.jsonl");
    figures(&args.iter().map(|a| if *a == out { alone.as_str() } else { *a }).collect::<Vec<_>>());
    let completions = |path: &str| {
        let text = fs::read_to_string(path).unwrap();
        let mut all: Vec<(String, String)> = text
            .lines()
            .skip(1)
            .map(|line| {
                let record: Value = serde_json::from_str(line).unwrap();
                (
                    record["task_id"].to_string(),
                    record["samples"].as_array().unwrap().iter().map(|s| s["completion"].to_string()).collect(),
                )
            })
            .collect();
        all.sort();
        all
    };
    assert_eq!(completions(&alone), completions(&out));

    let said = refused(&[&args[..], &["--seed", "7"]].concat());
    assert!(said.contains("seed 0, asked for is 7"), "{said}");
    let said = refused(&["--canonical", "--items", &items, "--out", &items]);
    assert!(said.contains("no results file of spm pass"), "{said}");
    assert_eq!(fs::read_to_string(&out).unwrap(), second);
}

#[test]
fn two_results_are_compared_item_by_item() {
    let folder = Folder::new();
    let solutions = ["    return 1\n", "    return 1\n", "    return n\n"];
    let items: Vec<Value> = (0..).zip(solutions).map(|(i, s)| python(&format!("HumanEval/{i}"), s)).collect();
    let items = folder.items("i.jsonl", &items);
    let (a, b, other) = (folder.path("a.jsonl"), folder.path("b.jsonl"), folder.path("c.jsonl"));
    figures(&["--canonical", "--items", &items, "--out", &a]);
    figures(&[&folder.model(), "--items", &items, "--out", &b, "--max-tokens", "4"]);
    let found = figures_of_comparison(&a, &b);
    assert_eq!(found["only_a"], json!(["HumanEval/0", "HumanEval/1"]));
    assert_eq!((&found["neither"], &found["mcnemar_p"]), (&json!(1), &json!(0.5)));
    assert_eq!((&found["a"]["passed"], &found["b"]["passed"]), (&json!(2), &json!(0)));
    assert!(found["b"]["model"] == "m.spm" && found["other_settings"].is_object(), "{found}");
    let text = common::output_of(common::SPM, &["pass", "--compare", &a, &b]);
    assert!(text.contains("McNemar's exact test: p = 0.5000, of 2 items"), "{text}");
    let more = folder.items("more.jsonl", &[python("HumanEval/0", "    return 1\n")]);
    figures(&["--canonical", "--items", &more, "--out", &other]);
    assert!(refused(&["--compare", &a, &other]).contains("run both on one file"));
}

fn figures_of_comparison(a: &str, b: &str) -> Value {
    serde_json::from_str(&common::output_of(common::SPM, &["pass", "--compare", a, b, "--json"])).unwrap()
}

#[test]
fn senseless_arguments_are_refused() {
    let folder = Folder::new();
    let (items, model) = (folder.items("i.jsonl", &right()), folder.model());
    assert!(refused(&[&model, "--items", &items, "--program-memory", "1KB"]).contains("expected 64MiB or more"));
    assert!(refused(&[&model, "--items", &items, "--k", "2"]).contains("--k 2 needs as many --samples"));
    assert!(refused(&[&model, "--items", &items, "--samples", "2"]).contains("set --temperature"));
    assert!(refused(&[&model, "--items", &items, "--chat"]).contains("no chat template"));
    assert!(refused(&["--canonical", "--items", &items, "--ids", "900-999"]).contains("none of its 6 items"));
    assert!(refused(&["--items", &items]).contains("MODEL"));
    let one_language = figures(&["--canonical", "--items", &items, "--language", "python", "--ids", "1-601"]);
    assert_eq!(one_language["items"], 3);
}

#[test]
fn solved_problems_are_shown_before_mbpp_and_not_counted() {
    let folder = Folder::new();
    let items: Vec<Value> = (1..6).map(|i| mbpp(i, "def one(n):\r\n    return 1", "")).collect();
    let items = folder.items("i.jsonl", &items);
    let done = pass(&[&folder.model(), "--items", &items, "--max-tokens", "2", "--json"]);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.contains("shown to the model as solved, and not counted: MBPP/2, MBPP/3, MBPP/4"), "{said}");
    let found: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(found["items"], 2);
}

#[test]
fn answers_are_chosen_by_likelihood() {
    let folder = Folder::new();
    let item = |answer| json!({"id": 1, "question": "What is it?", "choices": ["this", "that one"], "answer": answer});
    let items = folder.items("i.jsonl", &[item(0), item(1), item(1), item(1)]);
    let model = folder.model();
    let found: Value =
        serde_json::from_str(&common::output_of(common::SPM, &["choice", &model, "--items", &items, "--json"]))
            .unwrap();
    assert_eq!((&found["items"], &found["chance"], &found["style"]), (&json!(4), &json!(0.5), &json!("question")));
    // The same question each time: one of the answers is right once, the other three times.
    for key in ["plain", "by_bytes"] {
        let accuracy = found[key]["accuracy"].as_f64().unwrap();
        assert!(accuracy == 0.25 || accuracy == 0.75, "{found}");
    }
    let blank = json!({"question": "A _ is here.", "choices": ["cat", "dog"], "answer": 0});
    let items = folder.items("b.jsonl", &[blank]);
    let text = common::output_of(common::SPM, &["choice", &model, "--items", &items]);
    assert!(text.contains("put as blank") && text.contains("chance     0.5000"), "{text}");
    let bad = folder.items("bad.jsonl", &[json!({"question": "q", "choices": ["a", "b"], "answer": 2})]);
    let done = common::run(common::SPM, &["choice", &model, "--items", &bad]);
    assert_eq!(done.status.code(), Some(2));
}

#[test]
fn numbers_are_asked_for_after_solved_problems() {
    let folder = Folder::new();
    let item = |n: u32| json!({"question": format!("What is {n}?"), "answer": format!("It is {n}.\n#### {n}")});
    let items = folder.items("i.jsonl", &[item(1), item(2), item(3)]);
    let args = ["exact", &folder.model(), "--items", &items, "--shots", "1", "--max-tokens", "4", "--json"];
    let done = common::run(common::SPM, &args);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.contains("shown as solved: the first 1 items of ") && said.contains("not counted"), "{said}");
    let found: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&found["items"], &found["shots"]), (&json!(2), &json!(1)));
    let done = common::run(common::SPM, &["exact", args[1], "--items", &items, "--shots", "3"]);
    assert!(String::from_utf8(done.stderr).unwrap().contains("too few for --shots 3"));
}
