//! Prunings that are stopped, cut off or damaged, and gone on with: the result is that of one that was left alone.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;
use pruner::{
    Earlier, Error, Fingerprint, Journal, JournalOptions, Known, Pattern, Progress, PruneOptions, Report, Residence,
    RoundingKind, ValueType, prune, prune_resumable,
};
use spm::Matrix;
use spm::synthetic::{SplitMix, SyntheticModel};

type Tensors = Vec<(String, Matrix)>;

const SOURCE: &str = "hash of the source";

static MODEL: LazyLock<SyntheticModel> = LazyLock::new(|| SyntheticModel::new(spm::Config::new(3, 64, 96, 4, 2), 3));

/// What a run that was left alone gives, and all of the journal it kept.
struct Whole {
    options: PruneOptions,
    tensors: Tensors,
    report: Report,
    journal: Vec<u8>,
}

static WANDA: LazyLock<Whole> = LazyLock::new(|| Whole::new(options("wanda", ValueType::Q8)));
static ADMM: LazyLock<Whole> = LazyLock::new(|| {
    Whole::new(PruneOptions { rounding: RoundingKind::Compensated, ..options("admm", ValueType::Q4) })
});

impl Whole {
    fn new(options: PruneOptions) -> Whole {
        let mut tensors = Tensors::new();
        let report = prune(&*MODEL, &options, &windows(), &mut tensors, &mut |_| ControlFlow::Continue(())).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (noted, same) = go_on(&path, &options, usize::MAX).unwrap();
        assert!(same == report && equal(&noted, &tensors), "a journal changes nothing");
        Whole { options, tensors, report, journal: fs::read(path).unwrap() }
    }

    /// Goes on from `journal`.
    fn resume(&self, journal: &[u8]) -> Result<(), Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        fs::write(&path, journal).unwrap();
        let (tensors, report) = go_on(&path, &self.options, usize::MAX)?;
        assert_eq!(report, self.report);
        assert!(equal(&tensors, &self.tensors));
        Ok(())
    }
}

fn options(method: &str, values: ValueType) -> PruneOptions {
    let options = PruneOptions { pattern: Pattern::Unstructured { sparsity: 0.5 }, values, ..PruneOptions::default() };
    options.with_method(method).unwrap()
}

fn windows() -> Vec<Vec<u32>> {
    (0..12).map(|w| (0..20 + w).map(|t| (t * t * 7 + t * 31 + w * 13) % 260).collect()).collect()
}

fn open(path: &Path, options: &PruneOptions, earlier: Earlier) -> Result<Journal, Error> {
    let fingerprint = Fingerprint::new(&*MODEL, SOURCE, options, Known::Windows(&windows()));
    let interval = Duration::ZERO;
    Journal::open(path, fingerprint, &JournalOptions { earlier, expected_bytes: 0, interval })
}

/// Prunes with the journal at `path`, until `stop` calls of the progress callback.
fn go_on(path: &Path, options: &PruneOptions, stop: usize) -> Result<(Tensors, Report), Error> {
    let mut journal = open(path, options, Earlier::Resume)?;
    let (mut tensors, mut calls, mut last) = (Tensors::new(), 0, None);
    let progress = &mut |p: Progress| {
        assert!(p.resumed <= p.done && p.done <= p.total);
        last = Some(p);
        calls += 1;
        if calls > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let report = prune_resumable(&*MODEL, options, Known::Windows(&windows()), &mut tensors, &mut journal, progress)?;
    assert!(last.is_some_and(|p| p.done == p.total));
    Ok((tensors, report))
}

fn equal(a: &Tensors, b: &Tensors) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|((name, a), (other, b))| {
            name == other
                && (a.encoding(), a.rows(), a.cols()) == (b.encoding(), b.rows(), b.cols())
                && a.stored_bytes() == b.stored_bytes()
                && a.row_starts() == b.row_starts()
        })
}

#[test]
fn however_often_it_is_stopped_the_result_is_the_same() {
    let mut random = SplitMix::new(1);
    for (method, values, refit) in [
        ("wanda", ValueType::F16, false),
        ("ria", ValueType::Q8, true),
        ("admm", ValueType::Q4, false),
        ("sparsegpt", ValueType::Q8, false),
        ("magnitude", ValueType::Q8, false),
    ] {
        let options = PruneOptions { refit, ..options(method, values) };
        let mut expected = Tensors::new();
        let report = prune(&*MODEL, &options, &windows(), &mut expected, &mut |_| ControlFlow::Continue(())).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut stops = 0;
        let (tensors, same) = loop {
            // Hidden states may be elsewhere than in the run before.
            let residence = match stops % 2 {
                0 => Residence::default(),
                _ => Residence::Spilled(folder.path().to_owned()),
            };
            let options = PruneOptions { residence, ..options.clone() };
            // A little further each time, so that there is an end.
            match go_on(&path, &options, stops + (random.bits() % 16) as usize) {
                Err(Error::Interrupted) => stops += 1,
                done => break done.unwrap(),
            }
        };
        assert!(stops >= 3, "{method}: stopped {stops} times");
        assert_eq!(report, same, "{method}");
        assert!(equal(&expected, &tensors), "{method}");
    }
}

/// What an earlier run did is not done again.
#[test]
fn matrices_and_layers_are_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    for (keep, expected) in [(21, 21), (20, 20), (8, 8)] {
        fs::write(&path, &WANDA.journal[..records(&WANDA.journal)[keep]]).unwrap();
        let mut journal = open(&path, &WANDA.options, Earlier::Resume).unwrap();
        assert_eq!(journal.found(), expected);
        let mut resumed = 0;
        let progress = &mut |p: Progress| {
            resumed = p.resumed * 21 / p.total;
            ControlFlow::Continue(())
        };
        let mut tensors = Tensors::new();
        prune_resumable(&*MODEL, &WANDA.options, Known::Windows(&windows()), &mut tensors, &mut journal, progress)
            .unwrap();
        assert!(equal(&tensors, &WANDA.tensors));
        assert!(resumed as usize + 8 > keep, "{resumed} of 21 parts of the work for {keep} matrices");
        journal.remove().unwrap();
        assert!(!path.exists());
    }
}

/// Where the records of a journal end, as its format says; the first is where they begin.
fn records(journal: &[u8]) -> Vec<usize> {
    let states: usize = windows().iter().map(|w| w.len() * 64 * 4).sum();
    let slot = (8 + 8 + 32 + states + 32).next_multiple_of(4096);
    let mut ends = vec![header_len(journal).next_multiple_of(4096) + 2 * slot];
    while let Some(len) = journal.get(ends[ends.len() - 1]..).and_then(|rest| rest.first_chunk::<8>()) {
        ends.push(ends[ends.len() - 1] + 8 + u64::from_le_bytes(*len) as usize + 32);
    }
    ends
}

fn header_len(journal: &[u8]) -> usize {
    24 + 32 + u32::from_le_bytes(journal[12..16].try_into().unwrap()) as usize + 32
}

#[test]
fn a_journal_cut_anywhere_gives_the_same() {
    let ends = records(&WANDA.journal);
    assert_eq!((ends.len(), ends[21]), (22, WANDA.journal.len()), "three layers of seven matrices");
    let (header, first) = (header_len(&WANDA.journal), ends[0]);
    let slots = [header, header + 1, 4096, 4097, (4096 + first) / 2, first - 1];
    let edges = ends.iter().flat_map(|&end| [end.saturating_sub(1), end, end + 1, end + 8, end + 9]);
    for len in (0..header).step_by(7).chain(slots).chain(edges).filter(|&len| len <= WANDA.journal.len()) {
        WANDA.resume(&WANDA.journal[..len]).unwrap_or_else(|e| panic!("cut to {len}: {e}"));
        // As a file system leaves it that had given the room but not yet the bytes.
        let mut zeros = WANDA.journal.clone();
        zeros[len.max(header)..].fill(0);
        WANDA.resume(&zeros).unwrap_or_else(|e| panic!("zeros from {len}: {e}"));
    }
}

#[test]
fn a_flipped_bit_of_the_header_is_an_error_by_name() {
    let at_lengths = 0..24 * 8;
    let after = (24 * 8..header_len(&WANDA.journal) * 8).step_by(61);
    for at in at_lengths.chain(after) {
        let mut journal = WANDA.journal.clone();
        journal[at / 8] ^= 1 << (at % 8);
        let error = WANDA.resume(&journal).map_or_else(|e| e, |()| panic!("bit {at} is not noticed"));
        assert!(matches!(error, Error::DamagedJournal { .. } | Error::NotAJournal { .. }), "bit {at}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_damaged_journal_gives_the_same_or_an_error(
        at in any::<prop::sample::Index>(),
        bit in 0..8u32,
        cut in any::<prop::sample::Index>(),
        admm in any::<bool>(),
    ) {
        let whole = if admm { &*ADMM } else { &*WANDA };
        let mut journal = whole.journal[..=cut.index(whole.journal.len())].to_vec();
        let at = at.index(journal.len());
        journal[at] ^= 1 << bit;
        match whole.resume(&journal) {
            Ok(()) => {}
            Err(e) => prop_assert!(at < header_len(&whole.journal), "bit {bit} of byte {at}: {e}"),
        }
    }

    /// Damage whose hashes are made right again: other weights or an error, nothing worse.
    #[test]
    fn resealed_damage_does_no_harm(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..40usize, any::<u8>()), 1..4),
    ) {
        let mut journal = WANDA.journal.clone();
        let ends = records(&journal);
        for (record, offset, value) in edits {
            // The heads of records, where the lengths are.
            journal[ends[record.index(21)] + 8 + offset] = value;
        }
        reseal(&mut journal);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        fs::write(&path, &journal).unwrap();
        if let Err(e) = go_on(&path, &WANDA.options, usize::MAX) {
            prop_assert!(matches!(e, Error::DamagedJournal { .. } | Error::Statistics { .. }), "{e}");
        }
    }
}

fn reseal(journal: &mut [u8]) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&journal[..header_len(journal)]);
    let ends = records(journal);
    for (from, to) in ends.iter().zip(&ends[1..]) {
        hasher.update(&journal[*from..to - 32]);
        journal[to - 32..*to].copy_from_slice(hasher.finalize().as_bytes());
    }
}

#[test]
fn a_journal_of_another_pruning_is_refused_by_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    fs::write(&path, &WANDA.journal).unwrap();
    let refusal = |options: &PruneOptions, source: &str, windows: &[Vec<u32>]| {
        let fingerprint = Fingerprint::new(&*MODEL, source, options, Known::Windows(windows));
        let resume = JournalOptions { earlier: Earlier::Resume, ..Default::default() };
        Journal::open(&path, fingerprint, &resume).map(drop).unwrap_err().to_string()
    };
    let wanda = || WANDA.options.clone();
    let sparser = PruneOptions { pattern: Pattern::Unstructured { sparsity: 0.6 }, ..wanda() };
    assert!(refusal(&sparser, SOURCE, &windows()).contains("(sparsity was 0.5, is 0.6)"));
    let q4 = PruneOptions { values: ValueType::Q4, refit: true, ..wanda() };
    let said = refusal(&q4, SOURCE, &windows());
    assert!(said.contains("(refit was false, is true; values was q8, is q4)") && said.contains("--force"), "{said}");
    assert!(refusal(&wanda(), "another", &windows()).contains("source was hash of the source, is another"));
    let fewer = refusal(&wanda(), SOURCE, &windows()[1..]);
    assert!(fewer.contains("calibration windows was 20, 21,") && fewer.contains("calibration tokens was"), "{fewer}");
    assert_eq!(fs::read(&path).unwrap(), WANDA.journal, "left as it is");

    // Other threads are no other pruning.
    go_on(&path, &PruneOptions { threads: 2, ..wanda() }, usize::MAX).unwrap();
}

#[test]
fn a_journal_is_for_the_pruning_it_was_opened_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(&folder.path().join("journal"), &WANDA.options, Earlier::Refuse).unwrap();
    let other = PruneOptions { refit: true, ..WANDA.options.clone() };
    let progress = &mut |_| ControlFlow::Continue(());
    let done =
        prune_resumable(&*MODEL, &other, Known::Windows(&windows()), &mut Tensors::new(), &mut journal, progress);
    assert!(matches!(done, Err(Error::OtherJournal { .. })));
}

#[test]
fn nothing_is_lost_that_was_not_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("journal");
    // Without work a journal leaves nothing behind, and hinders nobody.
    drop(open(&path, &WANDA.options, Earlier::Refuse).unwrap());
    assert!(!path.exists());
    fs::write(&path, &WANDA.journal[..records(&WANDA.journal)[0]]).unwrap();
    drop(open(&path, &WANDA.options, Earlier::Refuse).unwrap());

    fs::write(&path, &WANDA.journal).unwrap();
    let error = open(&path, &WANDA.options, Earlier::Refuse).map(drop).unwrap_err();
    assert!(error.to_string().contains("go on with --resume, or start anew with --force"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), WANDA.journal);

    let first = open(&path, &WANDA.options, Earlier::Resume).unwrap();
    let busy = open(&path, &WANDA.options, Earlier::Discard).map(drop);
    assert!(matches!(busy, Err(Error::File(spm::Error::Busy { .. }))));
    drop(first);
    assert_eq!(open(&path, &WANDA.options, Earlier::Resume).unwrap().found(), 21);
    assert_eq!(open(&path, &WANDA.options, Earlier::Discard).unwrap().found(), 0);

    for earlier in [Earlier::Refuse, Earlier::Resume, Earlier::Discard] {
        fs::write(&path, "mine").unwrap();
        let error = open(&path, &WANDA.options, earlier).map(drop);
        assert!(matches!(error, Err(Error::NotAJournal { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
    // A damaged one can be given up.
    let mut damaged = WANDA.journal.clone();
    damaged[30] ^= 1;
    fs::write(&path, &damaged).unwrap();
    assert!(matches!(open(&path, &WANDA.options, Earlier::Refuse).map(drop), Err(Error::DamagedJournal { .. })));
    assert_eq!(open(&path, &WANDA.options, Earlier::Discard).unwrap().found(), 0);
}

/// A kill between the file's getting its name and the journal's end.
#[test]
fn a_finished_file_s_journal_is_known_by_its_identity() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let identity = "ab".repeat(32);
    fs::write(&path, &WANDA.journal).unwrap();
    assert!(!Journal::remove_if_finished(&path, &identity).unwrap());
    let mut journal = open(&path, &WANDA.options, Earlier::Resume).unwrap();
    journal.finish(&identity).unwrap();
    drop(journal);
    WANDA.resume(&fs::read(&path).unwrap()).unwrap();
    assert!(!Journal::remove_if_finished(&path, &"cd".repeat(32)).unwrap());
    assert!(Journal::remove_if_finished(&path, &identity).unwrap());
    assert!(!path.exists() && !Journal::remove_if_finished(&path, &identity).unwrap());
}
