//! What the libraries show to linkers, and the words that README and header have for users.

use std::process::Command;

use super::{library, root, stdout_of, succeed, write_model};

#[test]
fn the_shared_library_shows_its_functions_only() {
    let listed = succeed(Command::new("nm").args(["-D", "--defined-only"]).arg(library("libsparse_run.so")));
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert!(names.iter().all(|name| name.starts_with("spr_")), "{names:?}");

    let header = std::fs::read_to_string(root().join("runtime/include/sparse_run.h")).unwrap();
    let declared = |name: &str| header.contains(&format!("{name}("));
    assert!(names.len() > 20 && names.iter().all(|name| declared(name)), "not in the header: {names:?}");
}

/// The program of the header's comment, built by the line of the README.
#[test]
fn the_headers_program_and_the_readmes_line_work() {
    let folder = tempfile::tempdir().unwrap();
    let header = std::fs::read_to_string(root().join("runtime/include/sparse_run.h")).unwrap();
    let program = header.lines().skip_while(|line| !line.contains("#include <stdio.h>"));
    let program = program.take_while(|line| !line.contains("cc program.c")).map(|line| line.trim_start_matches(" *"));
    std::fs::write(folder.path().join("hello.c"), program.collect::<Vec<_>>().join("\n")).unwrap();

    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let line = readme.lines().find(|line| line.starts_with("cc hello.c")).expect("the README has a linker line");
    let here = library("libsparse_run.a");
    let line = line.replace("target/release/libsparse_run.a", here.to_str().unwrap());
    let line = line.replace("runtime/include", root().join("runtime/include").to_str().unwrap());
    succeed(Command::new("sh").args(["-ec", &line]).current_dir(folder.path()));

    let model = write_model(folder.path());
    let said = stdout_of(&folder.path().join("hello"), &[&model, "def f"]);
    assert_eq!(said, said_by_default(&model));
}

/// Two static libraries that each bring Rust's own along: ours as it is installed.
#[test]
fn it_works_beside_another_rust_library() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "other.rs",
        "#[unsafe(no_mangle)] pub extern \"C\" fn other_len() -> usize {\n\
         std::panic::catch_unwind(|| std::hint::black_box(vec![format!(\"{}\", 12)])[0].len()).unwrap_or(0) }\n",
    );
    write(
        "main.c",
        "#include <stdio.h>\n#include \"sparse_run.h\"\nsize_t other_len(void);\n\
         int main(void) { spr_model *model; spr_status status = spr_model_load_file(\"none\", NULL, &model);\n\
         printf(\"%d %d\\n\", (int)other_len(), (int)status); return 0; }\n",
    );
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let in_folder = |command: &mut Command| succeed(command.current_dir(folder.path()));
    in_folder(Command::new(rustc).args(["--edition=2024", "--crate-type=staticlib", "-O", "other.rs"]));
    let sparse = folder.path().join("libsparse_run.a");
    succeed(Command::new(root().join("tools/one-object")).arg(library("libsparse_run.a")).arg(&sparse));
    for (name, order) in [("first", ["libother.a", "sparse"]), ("second", ["sparse", "libother.a"])] {
        let place = |name: &str| if name == "sparse" { sparse.clone() } else { name.into() };
        let mut link = Command::new("gcc");
        link.args(["main.c", "-o", name, "-I"]).arg(root().join("runtime/include"));
        in_folder(link.args(order.map(place)).args(["-lpthread", "-ldl", "-lm"]));
        assert_eq!(stdout_of(&folder.path().join(name), &[]), "2 1\n");
    }
}

fn said_by_default(model: &str) -> String {
    let whole = super::common::output_of(super::common::SPARSE_RUN, &[model, "def f", "--seed", "0"]);
    whole["def f".len()..].to_owned()
}
