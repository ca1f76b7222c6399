//! `sparse-run --memory-limit`: a context that does not fit is cut, with a sentence, or refused with the numbers.

mod common;

use spm::synthetic::SyntheticModel;
use spm::{Config, Encoding};

/// Of a model made for a million tokens, which take some 400 MB; the program itself takes a few.
const LIMIT: &str = "60MB";

fn write_model(folder: &std::path::Path) -> String {
    let mut config = Config::new(2, 64, 160, 4, 2);
    config.context_len = 1_000_000;
    let path = folder.join("model.spm");
    common::write_spm(&path, &SyntheticModel::new(config, 5), Encoding::SparseQ8);
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_context_that_does_not_fit_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let model = write_model(folder.path());
    let args = |more: &[&'static str]| [&[&model[..], "def f", "--temp", "0"], more].concat();
    let text = common::output_of(common::SPARSE_RUN, &args(&["-n", "8", "--no-display-prompt"]));
    // Ends the text at once, whatever the context.
    let stop: String = text.chars().take(1).collect();
    let mut with_limit = args(&["-n", "1000000", "--no-display-prompt", "--memory-limit", LIMIT, "--stop"]);
    with_limit.push(&stop);
    let done = common::run(common::SPARSE_RUN, &with_limit);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{said}");
    assert!(said.contains("a context of 1000000 tokens needs"), "{said}");
    let tokens = said.split("it has ").nth(1).and_then(|rest| rest.split(' ').next());
    let tokens: usize = tokens.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    assert!((10_000..200_000).contains(&tokens), "{said}");

    let plain = common::run(common::SPARSE_RUN, &args(&["-n", "8", "--memory-limit", LIMIT]));
    assert!(plain.status.success() && plain.stderr.is_empty(), "{}", String::from_utf8_lossy(&plain.stderr));
}

#[test]
fn what_was_asked_for_is_refused_with_the_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let model = write_model(folder.path());
    let refuse = |limit| {
        let args = [&model[..], "def f", "-n", "1", "-c", "900000", "--memory-limit", limit];
        let done = common::run(common::SPARSE_RUN, &args);
        assert_eq!((done.status.code(), done.stdout.len()), (Some(4), 0));
        String::from_utf8_lossy(&done.stderr).into_owned()
    };
    let said = refuse(LIMIT);
    assert!(
        said.contains("a context of 900000 tokens needs") && said.contains("tokens fit: ask for them with -c"),
        "{said}"
    );
    let said = refuse("1000");
    assert!(said.contains("0.0 MB are left; free some, or raise --memory-limit"), "{said}");
}
