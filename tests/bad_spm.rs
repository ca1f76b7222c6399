//! A table of sparse model files that are wrong in one way each: the error says which, the exit code is 3, and
//! no memory is taken on a bad file's word.

mod common;

use std::fs;
use std::path::Path;

use peak_alloc::PeakAlloc;
use spm::synthetic::SyntheticModel;
use spm::{Encoding, SparseModel};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// A file taken apart: sections by name, put together again with right checksums.
#[derive(Clone)]
struct Parts {
    sections: Vec<(String, u32, Vec<u8>)>,
}

impl Parts {
    fn of(file: &[u8]) -> Self {
        let u64_at = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
        let section = |i: usize| {
            let entry = 64 + 32 * i;
            let (from, len) = (u64_at(entry + 8), u64_at(entry + 16));
            (String::from_utf8(file[entry..entry + 4].to_vec()).unwrap(), 1, file[from..from + len].to_vec())
        };
        Parts { sections: (0..5).map(section).collect() }
    }

    fn get(&mut self, name: &str) -> &mut Vec<u8> {
        &mut self.sections.iter_mut().find(|s| s.0 == name).unwrap().2
    }

    fn build(&self) -> Vec<u8> {
        let mut table = Vec::new();
        let mut body = Vec::new();
        for (name, flags, content) in &self.sections {
            body.resize(body.len().next_multiple_of(1 << 16), 0);
            table.extend(name.as_bytes());
            table.extend(flags.to_le_bytes());
            table.extend((body.len() as u64 + (1 << 16)).to_le_bytes());
            table.extend((content.len() as u64).to_le_bytes());
            table.extend(crc32c::crc32c(content).to_le_bytes());
            table.extend([0; 4]);
            body.extend(content);
        }
        let mut file = b"\x93SPM\r\n\x1a\n".to_vec();
        file.extend(2u32.to_le_bytes());
        file.extend((self.sections.len() as u32).to_le_bytes());
        file.extend((body.len() as u64 + (1 << 16)).to_le_bytes());
        file.extend(blake3::hash(&body).as_bytes());
        file.extend([0; 4]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&file), &table);
        file.extend(crc.to_le_bytes());
        file.extend(table);
        file.resize(1 << 16, 0);
        file.extend(body);
        file
    }

    /// Puts `new` where `old` is found first in a section; they need not be of one length.
    fn replace(&mut self, section: &str, old: &[u8], new: &[u8]) {
        let content = self.get(section);
        let at = content.windows(old.len()).position(|w| w == old).unwrap_or_else(|| panic!("{old:?} in {section}"));
        content.splice(at..at + old.len(), new.iter().copied());
    }

    /// Overwrites the value of a key in META: 2 bytes length, key, 1 byte type, value.
    fn set_key(&mut self, key: &str, value: &[u8]) {
        let content = self.get("META");
        let at = content.windows(key.len()).position(|w| w == key.as_bytes()).unwrap() + key.len() + 1;
        content[at..at + value.len()].copy_from_slice(value);
    }

    /// Overwrites a field of a tensor's entry, counted from after its name.
    fn set_entry(&mut self, tensor: &str, field: usize, value: &[u8]) {
        let content = self.get("TENS");
        let at = content.windows(tensor.len()).position(|w| w == tensor.as_bytes()).unwrap() + tensor.len() + field;
        content[at..at + value.len()].copy_from_slice(value);
    }

    fn put(&mut self, section: &str, at: usize, value: &[u8]) {
        self.get(section)[at..at + value.len()].copy_from_slice(value);
    }
}

/// Fields of a tensor's entry after its name.
const ENCODING: usize = 0;
const RESERVED: usize = 2;
const ROWS: usize = 4;
const COLS: usize = 8;
const OFFSET: usize = 12;
const LENGTH: usize = 20;
const KEPT: usize = 28;
/// Places in the vocabulary section.
const BOS: usize = 4;
const N_TOKENS: usize = 20;
const N_SCORES: usize = 24;
const N_MERGES: usize = 28;
const N_ENDS: usize = 32;
const TEMPLATE: usize = 36;

type Edit = fn(&mut Parts);
type RawEdit = fn(&mut Vec<u8>);

/// Wrong inside, with checksums that are right.
const STRUCTURE: &[(&str, Edit, &str)] = &[
    ("no META", |p| drop(p.sections.remove(3)), "no section META"),
    ("no DATA", |p| drop(p.sections.remove(0)), "no section DATA"),
    ("a section twice", |p| p.sections.push(p.sections[2].clone()), "section TENS: occurs twice"),
    (
        "unknown necessary section",
        |p| p.sections.push(("LORA".into(), 1, vec![1])),
        "section LORA: unknown and necessary",
    ),
    ("unknown section flags", |p| p.sections[4].1 = 3, "section VOCB: flags 3 and 0"),
    ("65 sections", |p| p.sections = vec![p.sections[0].clone(); 65], "65 sections, expected 1 to 64"),
    ("no section", |p| p.sections.clear(), "0 sections"),
    ("empty META", |p| p.get("META").clear(), "metadata: keys needs 4 bytes, 0 are left"),
    ("too many keys", |p| p.put("META", 0, &u32::MAX.to_le_bytes()), "4294967295 keys of at least 4 bytes"),
    ("bytes after META", |p| p.get("META").push(0), "1 bytes after the last field"),
    ("key not UTF-8", |p| p.put("META", 6, &[0xFF]), "key is not UTF-8 from byte 0 on"),
    (
        "value of unknown type",
        |p| p.replace("META", b"model.dim\x02", b"model.dim\x09"),
        "key `model.dim`: value type 9",
    ),
    ("number of wrong type", |p| p.replace("META", b"model.norm_eps\x03", b"model.norm_eps\x05"), "are left"),
    ("truth of 2", |p| p.set_key("model.tied_head", &[2]), "key `model.tied_head`: truth value 2"),
    ("missing key", |p| p.replace("META", b"model.dim\x02", b"modem.dim\x02"), "after"),
    (
        "unknown model key",
        |p| p.replace("META", b"model.vocab_size", b"model.vocab_sizf"),
        "key `model.vocab_size`: is missing",
    ),
    ("zero layers", |p| p.set_key("model.layers", &0u64.to_le_bytes()), "`n_layers`: is 0, expected 1 to 1024"),
    ("2^60 layers", |p| p.set_key("model.layers", &(1u64 << 60).to_le_bytes()), "`n_layers`: is 1152921504606846976"),
    ("dim beyond the limit", |p| p.set_key("model.dim", &u64::MAX.to_le_bytes()), "`dim`: is 18446744073709551615"),
    ("kv heads that do not divide", |p| p.set_key("model.kv_heads", &3u64.to_le_bytes()), "`n_kv_heads`: is 3"),
    ("odd rope", |p| p.set_key("model.rope.dims", &7u64.to_le_bytes()), "`rope.dims`: is 7, expected an even"),
    ("rope base not a number", |p| p.set_key("model.rope.base", &f32::NAN.to_le_bytes()), "`rope.base`: is NaN"),
    ("negative epsilon", |p| p.set_key("model.norm_eps", &(-1f32).to_le_bytes()), "`norm_eps`: is -1"),
    ("unknown rope layout", |p| p.replace("META", b"interleaved", b"interleavex"), "is `interleavex`, expected"),
    (
        "context beyond the limit",
        |p| p.set_key("model.context_length", &(1u64 << 40).to_le_bytes()),
        "`context_len`: is 1099511627776",
    ),
    ("another dim than the tensors", |p| p.set_key("model.dim", &96u64.to_le_bytes()), "the model's shape needs"),
    (
        "more layers than tensors",
        |p| p.set_key("model.layers", &3u64.to_le_bytes()),
        "tensor `blk.2.attn_k.weight`: is missing",
    ),
    (
        "fewer layers than tensors",
        |p| p.set_key("model.layers", &1u64.to_le_bytes()),
        "tensor `blk.1.attn_norm.weight`: is not part",
    ),
    ("too many tensors", |p| p.put("TENS", 0, &u32::MAX.to_le_bytes()), "4294967295 tensors of at least"),
    ("one tensor less", |p| p.put("TENS", 0, &20u32.to_le_bytes()), "bytes after the last field"),
    ("tensor table cut", |p| p.get("TENS").truncate(100), "tensors of at least"),
    (
        "unknown encoding",
        |p| p.set_entry("token_embd.weight", ENCODING, &[99, 0]),
        "tensor `token_embd.weight`: encoding number 99",
    ),
    (
        "a pattern with row starts",
        |p| p.set_entry("blk.1.ffn_up.weight", ENCODING, &[29, 0]),
        "tensor `blk.1.ffn_up.weight`: is ",
    ),
    (
        "reserved field",
        |p| p.set_entry("token_embd.weight", RESERVED, &[1]),
        "tensor `token_embd.weight`: reserved field is 1",
    ),
    (
        "a tensor twice",
        |p| p.replace("TENS", b"blk.0.attn_k.weight", b"blk.0.attn_q.weight"),
        "tensor `blk.0.attn_q.weight`: occurs twice",
    ),
    (
        "a tensor of no model",
        |p| p.replace("TENS", b"blk.0.attn_k.weight", b"blk.0.attn_x.weight"),
        "tensor `blk.0.attn_x.weight`: is not part",
    ),
    (
        "too many rows",
        |p| p.set_entry("token_embd.weight", ROWS, &u32::MAX.to_le_bytes()),
        "is 4294967295x64, the model's shape needs",
    ),
    ("no columns", |p| p.set_entry("token_embd.weight", COLS, &[0; 4]), "x0, the model's shape needs"),
    (
        "offset past the end",
        |p| p.set_entry("blk.0.attn_q.weight", OFFSET, &(1u64 << 40).to_le_bytes()),
        "begins at byte 1099511627776, expected",
    ),
    (
        "offset not aligned",
        |p| p.set_entry("output_norm.weight", OFFSET, &1u64.to_le_bytes()),
        "begins at byte 1, expected",
    ),
    (
        "length too long",
        |p| p.set_entry("blk.0.ffn_down.weight", LENGTH, &(1u64 << 50).to_le_bytes()),
        "leave the data section",
    ),
    (
        "length too short",
        |p| p.set_entry("blk.0.attn_q.weight", LENGTH, &64u64.to_le_bytes()),
        "where 64x64 sparse-q8 needs",
    ),
    (
        "length overflows",
        |p| p.set_entry("blk.0.attn_q.weight", LENGTH, &u64::MAX.to_le_bytes()),
        "leave the data section",
    ),
    (
        "keeps more than there is",
        |p| p.set_entry("blk.0.attn_q.weight", KEPT, &(1u64 << 50).to_le_bytes()),
        "keeps 1125899906842624 weights of 64x64",
    ),
    (
        "no slack",
        |p| {
            let data = p.get("DATA");
            data.truncate(data.len() - 200)
        },
        "leave the data section",
    ),
    ("row starts missing", |p| p.get("ROWS").truncate(8), "table of row starts"),
    ("row starts too many", |p| p.get("ROWS").extend([0; 4]), "4 bytes after the last field"),
    ("first row not at 0", |p| p.put("ROWS", 0, &[1]), "row start table: entry 0 is 1"),
    ("a row backwards", |p| p.put("ROWS", 8, &[0]), "row start table: entry 2 is 0"),
    ("a row too long", |p| p.put("ROWS", 4, &200u32.to_le_bytes()), "row start table: entry 1 is 200"),
    ("a row far away", |p| p.put("ROWS", 4, &u32::MAX.to_le_bytes()), "row start table: entry 1 is 4294967295"),
    ("vocabulary of unknown kind", |p| p.put("VOCB", 0, &[7]), "vocabulary: kind 7"),
    ("vocabulary flags", |p| p.put("VOCB", 1, &[255]), "vocabulary: flags 255"),
    ("too many tokens", |p| p.put("VOCB", N_TOKENS, &u32::MAX.to_le_bytes()), "4294967295 tokens of at least 3 bytes"),
    ("no tokens", |p| p.put("VOCB", N_TOKENS, &[0; 4]), "vocabulary: "),
    ("too many merges", |p| p.put("VOCB", N_MERGES, &u32::MAX.to_le_bytes()), "4294967295 merges of at least 8 bytes"),
    ("scores for some", |p| p.put("VOCB", N_SCORES, &[3]), "vocabulary: "),
    ("too many ends", |p| p.put("VOCB", N_ENDS, &u32::MAX.to_le_bytes()), "ends of generation of at least 4 bytes"),
    ("bos beyond the tokens", |p| p.put("VOCB", BOS, &1000u32.to_le_bytes()), "`bos` is token 1000 of"),
    (
        "merge beyond the tokens",
        |p| {
            let at = merges_at(p);
            p.put("VOCB", at, &9999u32.to_le_bytes())
        },
        "merge 0 joins tokens 9999",
    ),
    ("token type 0", |p| p.put("VOCB", 47, &[0]), "token type 0, expected 1 to 6"),
    (
        "template longer than the file",
        |p| p.put("VOCB", TEMPLATE, &(u32::MAX - 1).to_le_bytes()),
        "chat template needs 4294967294 bytes",
    ),
    (
        "vocabulary cut",
        |p| {
            let v = p.get("VOCB");
            v.truncate(v.len() - 3)
        },
        "vocabulary: token needs",
    ),
    ("a head that may be skipped", |p| head(p, 0, 0..263), "section HEAD: flags 0, expected 1"),
    ("a head of no tokens", |p| head(p, 1, 0..0), "section HEAD: no tokens, expected 1 or more"),
    ("half a token in the head", |p| p.sections.push(("HEAD".into(), 1, vec![0; 6])), "2 bytes after the last field"),
    ("a token twice in the head", |p| head(p, 1, [0, 1, 1]), "section HEAD: token 1 after 1, expected ascending order"),
    ("tokens backwards in the head", |p| head(p, 1, [5, 4]), "section HEAD: token 4 after 5"),
    ("no such token in the head", |p| head(p, 1, 0..264), "section HEAD: token 263 of a vocabulary of 263"),
    ("a token far away in the head", |p| head(p, 1, [u32::MAX]), "token 4294967295 of a vocabulary of 263"),
    (
        "a byte not in the head",
        |p| head(p, 1, (0..263).filter(|id| *id != 10)),
        "section HEAD: token 10, \"Ċ\", is not",
    ),
    ("no end in the head", |p| head(p, 1, 0..262), "section HEAD: token 262, \"<|end|>\", is not listed"),
    (
        "a head of more rows than tokens",
        |p| head(p, 1, (0..256).chain([262])),
        "tensor `output.weight`: is 263x64, the model's shape needs 257x64",
    ),
    ("more tokens than embeddings", |p| p.set_key("model.vocab_size", &9u64.to_le_bytes()), "the embedding has 9 rows"),
];

/// Adds a section that lists the tokens of the head; the model has 256 bytes, 6 merges, and an end.
fn head(p: &mut Parts, flags: u32, ids: impl IntoIterator<Item = u32>) {
    let bytes = ids.into_iter().flat_map(u32::to_le_bytes).collect();
    p.sections.push(("HEAD".into(), flags, bytes));
}

/// 40 bytes of fields, 2 of length and `gpt-2`, then a type for each token.
fn merges_at(p: &mut Parts) -> usize {
    let n = u32::from_le_bytes(p.get("VOCB")[N_TOKENS..N_TOKENS + 4].try_into().unwrap());
    47 + n as usize
}

/// Wrong from the outside.
const RAW: &[(&str, RawEdit, &str)] = &[
    ("empty", |f| f.clear(), "it is empty"),
    ("one byte", |f| f.truncate(1), "not a sparse model file"),
    ("only the magic", |f| f.truncate(8), "the file has 8 bytes, a header 64"),
    ("half a header", |f| f.truncate(40), "header: "),
    ("cut in the table", |f| f.truncate(100), "the file has 100 bytes and should have"),
    ("cut in the data", |f| f.truncate(70_000), "the file has 70000 bytes and should have"),
    ("one byte short", |f| f.truncate(f.len() - 1), "it was cut or appended to"),
    ("one byte long", |f| f.push(0), "it was cut or appended to"),
    (
        "version 1",
        |f| f[8] = 1,
        "version 1 of the sparse model file, this program reads version 2; update it, or prune",
    ),
    ("version 3", |f| f[8] = 3, "version 3 of the sparse model file, this program reads version 2"),
    ("header damaged", |f| f[30] ^= 1, "header: checksum is"),
    ("table damaged", |f| f[70] ^= 1, "header: checksum is"),
    (
        "vocabulary damaged",
        |f| {
            let n = f.len();
            f[n - 10] ^= 1
        },
        "checksum is",
    ),
    ("SentencePiece", |f| f[0] = 0x0A, "SentencePiece tokenizer"),
    ("safetensors", |f| f.splice(0..9, *b"\x08\x01\0\0\0\0\0\0{").for_each(drop), "safetensors"),
    (
        "line ends changed",
        |f| {
            f.remove(4);
        },
        "as line ends are in text mode",
    ),
    ("git-lfs", |f| *f = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(), "git lfs pull"),
    ("web page", |f| *f = b"<!DOCTYPE html><html>404</html>".to_vec(), "web page"),
    ("zip", |f| *f = b"PK\x03\x04xxxxxxxxxxxx".to_vec(), "zip archive"),
    ("zeros", |f| f.fill(0), "never finished"),
    ("noise", |f| f.iter_mut().enumerate().for_each(|(i, b)| *b = (i * 167 + 200) as u8), "its first bytes"),
];

/// Opens, but `spm verify` finds it.
const CONTENT: &[(&str, Edit, &str)] = &[
    ("another weight", |p| p.put("DATA", 3, &[7]), "tensor `token_embd.weight`: checksum is"),
    (
        "other kept count",
        |p| p.set_entry("blk.0.attn_q.weight", KEPT, &[100, 0]),
        "weights are kept, the table says 100",
    ),
];

fn valid() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.spm");
    common::write_spm(&path, &SyntheticModel::tiny(1), Encoding::SparseQ8);
    fs::read(path).unwrap()
}

fn files() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let valid = valid();
    let edited = |edit: &Edit| {
        let mut parts = Parts::of(&valid);
        edit(&mut parts);
        parts.build()
    };
    let structure = STRUCTURE.iter().map(|(name, edit, error)| (*name, edited(edit), *error));
    let raw = RAW.iter().map(|(name, edit, error)| {
        let mut file = valid.clone();
        edit(&mut file);
        (*name, file, *error)
    });
    structure.chain(raw).collect()
}

/// One test, as memory is counted for the whole program.
#[test]
fn bad_files() {
    taking_apart_and_putting_together_changes_nothing();
    every_bad_file_is_refused_by_name_without_taking_memory();
    the_programs_say_the_same_and_exit_with_3();
    verify_finds_what_opening_does_not_look_at();
}

fn taking_apart_and_putting_together_changes_nothing() {
    assert!(Parts::of(&valid()).build() == valid());
}

fn every_bad_file_is_refused_by_name_without_taking_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.spm");
    let files = files();
    assert!(files.len() >= 60, "{} bad files", files.len());
    let mut wrong = Vec::new();
    for (name, file, expected) in files {
        fs::write(&path, &file).unwrap();
        drop(file);
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let error = match SparseModel::open(&path) {
            Ok(_) => "opened".to_owned(),
            Err(error) => error.to_string(),
        };
        let taken = MEMORY.peak_usage() - before;
        if !error.contains(expected) || !error.contains("bad.spm") || taken >= 16 << 20 {
            wrong.push(format!("{name}: `{error}` ({taken} bytes allocated), expected `{expected}`"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn the_programs_say_the_same_and_exit_with_3() {
    let folder = tempfile::tempdir().unwrap();
    for (i, (name, file, expected)) in files().into_iter().enumerate() {
        let path = folder.path().join(format!("{i}.spm"));
        fs::write(&path, file).unwrap();
        check_exit(common::SPARSE_RUN, &[path.to_str().unwrap(), "def fib"], name, expected);
        if i % 5 == 0 {
            check_exit(common::SPM, &["verify", path.to_str().unwrap()], name, expected);
            check_exit(common::SPM, &["inspect", path.to_str().unwrap()], name, expected);
        }
    }
}

fn verify_finds_what_opening_does_not_look_at() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.spm");
    for (name, edit, expected) in CONTENT {
        let mut parts = Parts::of(&valid());
        edit(&mut parts);
        fs::write(&path, parts.build()).unwrap();
        SparseModel::open(Path::new(&path)).unwrap();
        check_exit(common::SPM, &["verify", path.to_str().unwrap()], name, expected);
    }
}

fn check_exit(program: &str, args: &[&str], name: &str, expected: &str) {
    let done = common::run(program, args);
    let message = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(3), "{name}: {program}: {message}");
    assert!(message.contains(expected), "{name}: `{message}` does not say `{expected}`");
    assert!(done.stdout.is_empty(), "{name}: printed {} bytes", done.stdout.len());
}
