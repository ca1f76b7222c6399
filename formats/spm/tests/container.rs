//! The container: what is written is read, nothing is overwritten, no damage goes unnoticed or does harm.

mod common;

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use spm::synthetic::SyntheticModel;
use spm::{Bytes, Checkpoint, Error, Load, SparseModel, SpmWriter, WriterOptions};

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.spm");
    let len = common::write(&path);
    let source = SyntheticModel::tiny(1);
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
    assert!(model.matrix("blk.9.attn_q.weight").is_none());
}

#[test]
fn a_copy_is_apart_from_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.spm");
    common::write(&path);
    let bytes = fs::read(&path).unwrap();
    let copy = Bytes::load(&path, Load::Arena).unwrap();
    let model = SparseModel::open_with(&path, Load::Arena).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    assert!(*copy == bytes, "other bytes");
    assert_eq!(copy.as_ptr().addr() % (2 << 20), 0);
    model.verify().unwrap();
    let written = common::matrices(&SyntheticModel::tiny(1));
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
    common::write(&a);
    common::write(&b);
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
fn nothing_of_the_users_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.spm");
    common::write(&model);
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
    let model = SyntheticModel::tiny(1);
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
    common::write(&path);
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
