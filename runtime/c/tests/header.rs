//! The header is what the functions say, and its macros are the defaults.

use std::path::Path;

/// Made of the sources, in an order to read them in.
fn made() -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).unwrap();
    let files = ["version", "status", "callbacks", "options", "model", "session", "generate", "tokens", "state"];
    let sources = files.map(|file| here.join(format!("src/{file}.rs")));
    let builder = sources.into_iter().fold(cbindgen::Builder::new().with_config(config), cbindgen::Builder::with_src);
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    String::from_utf8(header).unwrap()
}

#[test]
fn the_header_is_made_of_the_sources() {
    let made = made();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include/sparse_run.h");
    if std::fs::read_to_string(&path).is_ok_and(|committed| committed == made) {
        return;
    }
    let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sparse_run.h");
    std::fs::write(&fresh, made).unwrap();
    panic!("{} is out of date: copy {} there", path.display(), fresh.display());
}
