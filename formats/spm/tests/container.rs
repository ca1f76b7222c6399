//! The container: what is written is read, nothing is overwritten, no damage goes unnoticed or does harm.

mod common;

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use spm::{
    Bytes, Checkpoint, Encoding, Error, Load, Mask, Matrix, Shortlist, SparseModel, SpmWriter, WriterOptions, encode,
    matrix, row_bytes,
};

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.spm");
    let len = common::write(&path, &common::model());
    let source = common::model();
    let model = SparseModel::open(&path).unwrap();
    model.verify().unwrap();
    assert_eq!(len, fs::metadata(&path).unwrap().len());
    assert_eq!(model.file_len(), len);
    assert_eq!(model.config(), source.config());
    assert_eq!(model.vocabulary(), source.vocabulary());
    assert_eq!(model.provenance(), &common::provenance());
    for (name, written) in common::matrices(&source) {
        let read = model.matrix(&name).unwrap();
        assert!(read.is_mapped(), "{name} was copied");
        assert_eq!(read.encoding(), written.encoding(), "{name}");
        assert_eq!(read.stored_bytes(), written.stored_bytes(), "{name}");
        assert_eq!(read.row_starts(), written.row_starts(), "{name}");
        assert_eq!(model.tensor(&name).unwrap().kept, written.kept(), "{name}");
    }
    let held = |e: &Encoding| model.tensors().iter().any(|t| t.encoding == e.name());
    assert!(Encoding::ALL.iter().all(held), "a tensor in every encoding");
    assert!(model.matrix("blk.9.attn_q.weight").is_none());
}

#[test]
fn a_shortlist_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    for tied_head in [false, true] {
        let path = folder.path().join(format!("{tied_head}.spm"));
        let source = common::shortlisted_model(tied_head);
        common::write(&path, &source);
        let model = SparseModel::open(&path).unwrap();
        model.verify().unwrap();
        assert_eq!(model.config(), source.config());
        let listed = source.config().head_rows();
        assert!(listed < source.config().vocab_size);
        assert_eq!(model.tensor("output.weight").map(|t| t.rows), (!tied_head).then_some(listed));
    }
}

#[test]
fn the_writer_refuses_a_shortlist_that_cannot_write_every_text() {
    let folder = tempfile::tempdir().unwrap();
    let model = common::shortlisted_model(true);
    let mut config = model.config().clone();
    let ids = config.shortlist.unwrap().ids()[1..].to_vec();
    config.shortlist = Some(Shortlist::new(ids, config.vocab_size).unwrap());
    let mut writer = SpmWriter::create(&folder.path().join("model.spm"), &WriterOptions::default()).unwrap();
    for (name, matrix) in common::matrices(&model) {
        writer.push(&name, &matrix).unwrap();
    }
    let error = writer.finish(&config, model.vocabulary(), &common::provenance()).unwrap_err().to_string();
    assert!(error.contains("section HEAD: token 0") && error.contains("is not listed"), "{error}");
}

/// Damage that opening does not look at, in one matrix of a model whose checksums are right.
#[test]
fn verify_finds_what_no_encoder_writes() {
    type Damage = fn(&mut Damaged);
    let (q, down) = ("blk.0.attn_q.weight", "blk.0.ffn_down.weight");
    // Even columns are kept: of a group of four those at places 0 and 2.
    let cases: [(Encoding, &str, Damage, &str); 6] = [
        (Encoding::Q8Keep2Of4, q, |d| d.flip(2, 9), "row 2 keeps columns 0 and 0 in this order, expected ascending"),
        (Encoding::Q4Keep2Of4, q, |d| d.flip(2, 1), "row 2 keeps columns 2 and 2 in this order, expected ascending"),
        (Encoding::SparseQ8, q, |d| d.bytes[64 * 8 + 5 * 4..][..4].fill(0xFF), "number 5 is not finite"),
        (Encoding::Q5, q, |d| d.bytes[64 * 8 + 7 * 2..][..2].fill(0xFF), "number 7 is not finite"),
        // As many weights as before, but 17 in one stream and 15 in the other.
        (
            Encoding::SparseQ4,
            q,
            |d| [31, 62].into_iter().for_each(|col| d.flip(1, col)),
            "row 1 has 16 bytes, its 32 kept weights need 17",
        ),
        (
            Encoding::SparseF16,
            down,
            |d| [160, 0].into_iter().for_each(|col| d.flip(1, col)),
            "row 1 has a bit for column 160 of 160",
        ),
    ];
    for (encoding, tensor, damage, expected) in cases {
        let message = verified(encoding, tensor, damage);
        assert!(message.contains(tensor) && message.contains(expected), "{}: {message}", encoding.name());
    }
    let untouched = verified(Encoding::SparseQ4, down, |_| ());
    assert_eq!(untouched, "ok");
}

/// What is said of a model in which `tensor` was damaged before checksums were made.
fn verified(encoding: Encoding, tensor: &str, damage: fn(&mut Damaged)) -> String {
    let model = common::model();
    let mut all = common::matrices(&model);
    let (_, matrix) = all.iter_mut().find(|(name, _)| name == tensor).unwrap();
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let even = Mask::from_fn(rows, cols, |_, col| col % 2 == 0);
    let good = encode::encode(encoding, rows, cols, &model.read_all(tensor).unwrap(), Some(&even)).unwrap();
    let mut damaged = Damaged { bytes: good.stored_bytes().to_vec(), bits_of_row: row_bytes(cols) };
    damage(&mut damaged);
    damaged.bytes.resize(good.byte_len() + matrix::slack(encoding, cols).unwrap(), 0);
    let starts = good.row_starts().map(Into::into);
    *matrix = Matrix::new(encoding, rows, cols, Bytes::from(damaged.bytes), starts).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.spm");
    common::write_matrices(&path, &model, all);
    SparseModel::open(&path).unwrap().verify().map_or_else(|e| e.to_string(), |()| "ok".into())
}

struct Damaged {
    bytes: Vec<u8>,
    bits_of_row: usize,
}

impl Damaged {
    /// Turns a bit of a row in the plane of bits.
    fn flip(&mut self, row: usize, bit: usize) {
        self.bytes[row * self.bits_of_row + bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn a_copy_is_apart_from_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.spm");
    common::write(&path, &common::model());
    let bytes = fs::read(&path).unwrap();
    let copy = Bytes::load(&path, Load::Arena).unwrap();
    let model = SparseModel::open_with(&path, Load::Arena).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    assert!(*copy == bytes, "other bytes");
    assert_eq!(copy.as_ptr().addr() % (2 << 20), 0);
    model.verify().unwrap();
    let written = common::matrices(&common::model());
    for (name, written) in written {
        let read = model.matrix(&name).unwrap();
        assert!(!read.is_mapped(), "{name} is the file's own");
        assert_eq!(read.stored_bytes(), written.stored_bytes(), "{name}");
    }
}

#[test]
fn what_cannot_be_copied() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.spm");
    let load = || Bytes::load(&path, Load::Arena);
    assert!(matches!(load(), Err(Error::Io { action: "open", .. })));
    fs::write(&path, b"").unwrap();
    assert!(load().unwrap().is_empty());
    assert!(matches!(Bytes::load(folder.path(), Load::Arena), Err(Error::NotAFile { .. })));
    // More than any address space, in a file that takes no room; some file systems do not make it.
    if fs::File::create(&path).unwrap().set_len(1 << 47).is_ok() {
        let error = load().unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { bytes, .. } if bytes == 1 << 47), "{error}");
    }
}

#[test]
fn the_same_model_is_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.spm"), folder.path().join("b.spm"));
    common::write(&a, &common::model());
    common::write(&b, &common::model());
    assert_eq!(fs::read(&a).unwrap(), fs::read(&b).unwrap());
}

#[test]
fn an_unfinished_file_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let writer = SpmWriter::create(&folder.path().join("model.spm"), &WriterOptions::default()).unwrap();
    drop(writer);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn one_writer_at_a_time_has_a_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.spm");
    let unfinished = folder.path().join(".model.spm.unfinished");
    // What a killed process left is no hindrance, and not in the file.
    fs::write(&unfinished, vec![0xEE; 1 << 20]).unwrap();
    let first = SpmWriter::create(&path, &WriterOptions::default()).unwrap();
    assert!(matches!(SpmWriter::create(&path, &WriterOptions::default()), Err(Error::Busy { .. })));
    drop(first);
    common::write(&path, &common::model());
    assert_eq!(fs::read(&path).unwrap(), valid());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    #[cfg(unix)]
    {
        let mine = folder.path().join("mine");
        fs::write(&mine, "mine").unwrap();
        std::os::unix::fs::symlink(&mine, folder.path().join(".other.spm.unfinished")).unwrap();
        let error = SpmWriter::create(&folder.path().join("other.spm"), &WriterOptions::default()).map(drop);
        assert!(matches!(error, Err(Error::NotAFile { .. })));
        assert_eq!(fs::read_to_string(&mine).unwrap(), "mine");
    }
}

#[test]
fn nothing_of_the_users_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.spm");
    common::write(&model, &common::model());
    let before = fs::read(&model).unwrap();
    let create = |path: &Path, replace, sources| {
        SpmWriter::create(path, &WriterOptions { replace, sources, ..WriterOptions::default() }).map(drop)
    };
    assert!(matches!(create(&model, false, vec![]), Err(Error::Exists { .. })));
    assert!(matches!(create(&model, true, vec![model.clone()]), Err(Error::IsSource { .. })));
    let link = folder.path().join("link.spm");
    fs::hard_link(&model, &link).unwrap();
    assert!(matches!(create(&link, true, vec![model.clone()]), Err(Error::IsSource { .. })));
    let notes = folder.path().join("notes.txt");
    fs::write(&notes, "mine").unwrap();
    assert!(matches!(create(&notes, true, vec![]), Err(Error::Exists { .. })));
    assert!(matches!(create(folder.path(), true, vec![]), Err(Error::Exists { .. })));
    create(&model, true, vec![]).unwrap();
    assert_eq!(fs::read(&model).unwrap(), before);
    assert_eq!(fs::read_to_string(&notes).unwrap(), "mine");
}

#[test]
fn the_writer_refuses_an_incomplete_model() {
    let folder = tempfile::tempdir().unwrap();
    let model = common::model();
    let mut all = common::matrices(&model);
    let (last, _) = all.pop().unwrap();
    let mut writer = SpmWriter::create(&folder.path().join("model.spm"), &WriterOptions::default()).unwrap();
    for (name, matrix) in &all {
        writer.push(name, matrix).unwrap();
    }
    assert!(matches!(writer.push(&all[0].0, &all[0].1), Err(Error::Tensor { .. })));
    let error = writer.finish(model.config(), model.vocabulary(), &common::provenance()).unwrap_err().to_string();
    assert!(error.contains(&last) && error.contains("missing"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

fn valid() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.spm");
    common::write(&path, &common::model());
    fs::read(path).unwrap()
}

fn open(bytes: Vec<u8>) -> Result<SparseModel, Error> {
    SparseModel::from_bytes(Bytes::from(bytes), Path::new("test.spm"))
}

/// Reads everything the way a kernel would; wrong numbers are fine, a panic is not.
fn read_everything(model: &SparseModel) {
    for info in model.tensors() {
        model.read_all(&info.name).unwrap();
        model.matrix(&info.name).unwrap().mask();
    }
}

#[test]
fn every_cut_is_noticed() {
    let bytes = valid();
    let cuts = (0..70_000).step_by(997).chain((0..200).step_by(3)).chain([bytes.len() - 1]);
    for len in cuts.filter(|&len| len < bytes.len()) {
        assert!(open(bytes[..len].to_vec()).is_err(), "cut to {len} bytes");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(open(longer).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_flipped_bit_goes_unnoticed_or_does_harm(at in any::<prop::sample::Index>(), bit in 0..8u32) {
        let mut bytes = valid();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(model) = open(bytes) {
            read_everything(&model);
            prop_assert!(model.verify().is_err(), "bit {bit} of byte {at}");
        }
    }

    /// Damage whose checksums are made right again: it may be refused or give other weights, nothing worse.
    #[test]
    fn resealed_damage_does_no_harm(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = valid();
        for (at, value) in edits {
            let at = 64 + at.index(bytes.len() - 64);
            bytes[at] = value;
        }
        reseal(&mut bytes);
        if let Ok(model) = open(bytes) {
            read_everything(&model);
            let _ = model.verify();
        }
    }

    /// The same aimed at the small sections, where the structure is.
    #[test]
    fn resealed_damage_of_the_tables_does_no_harm(section in 1..5usize, at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = valid();
        let (offset, len) = place(&bytes, section);
        bytes[offset + at.index(len)] = value;
        reseal(&mut bytes);
        if let Ok(model) = open(bytes) {
            read_everything(&model);
            let _ = model.verify();
        }
    }
}

fn place(bytes: &[u8], section: usize) -> (usize, usize) {
    let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    (field(64 + 32 * section + 8), field(64 + 32 * section + 16))
}

fn reseal(bytes: &mut [u8]) {
    for section in 0..5 {
        let (offset, len) = place(bytes, section);
        let Some(content) = offset.checked_add(len).and_then(|end| bytes.get(offset..end)) else { continue };
        let crc = crc32c::crc32c(content);
        bytes[64 + 32 * section + 24..][..4].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..60]), &bytes[64..64 + 160]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
}
