//! Profiles on a small random model: what they allocate, and what comes of it.

use std::ops::ControlFlow;

use pruner::{
    Allocation, Budget, Error, Pattern, Profile, Progress, PruneOptions, SensitivityFile, Treatment, ValueType,
};
use pruner::{prune, shortlist};
use spm::synthetic::{SyntheticModel, padded_vocabulary};
use spm::{Checkpoint, Config, Encoding, Matrix, Provenance, Shortlist, SpmWriter, needed_tokens};

fn windows() -> Vec<Vec<u32>> {
    (0..14).map(|w| (0..60).map(|t| (t * t * 7 + t * 31 + w * 13) % 260).collect()).collect()
}

fn options(sparsity: f64) -> PruneOptions {
    let options = PruneOptions { pattern: Pattern::Unstructured { sparsity }, ..PruneOptions::default() };
    options.with_method("sparsegpt").unwrap()
}

fn allocate(profile: Profile, options: &PruneOptions) -> Result<Allocation, Error> {
    profile.allocate(&SyntheticModel::tiny(3), options, &windows(), None, &mut |_| ControlFlow::Continue(()))
}

fn file_bytes(options: &PruneOptions) -> u64 {
    bytes_of_file(&SyntheticModel::tiny(3), options)
}

fn bytes_of_file(model: &SyntheticModel, options: &PruneOptions) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = SpmWriter::create(&folder.path().join("m.spm"), &Default::default()).unwrap();
    prune(model, options, &windows(), &mut writer, &mut |_| ControlFlow::Continue(())).unwrap();
    let config = shortlist::shortened(model, options.shortlist.as_ref()).unwrap();
    writer.finish(&config, model.vocabulary(), &Provenance::default()).unwrap()
}

fn tensors(options: &PruneOptions) -> Vec<(String, Matrix)> {
    tensors_of(&SyntheticModel::tiny(3), options)
}

fn tensors_of(model: &SyntheticModel, options: &PruneOptions) -> Vec<(String, Matrix)> {
    let mut tensors = Vec::new();
    prune(model, options, &windows(), &mut tensors, &mut |_| ControlFlow::Continue(())).unwrap();
    tensors
}

#[test]
fn layers_share_a_sparsity_out() {
    let options = options(0.6);
    assert_eq!(allocate(Profile::Uniform, &options).unwrap(), Allocation::default());
    for profile in [Profile::Owl, Profile::Depth] {
        let allocation = allocate(profile, &options).unwrap();
        let of = |layer| allocation.matrices[&format!("blk.{layer}.ffn_up.weight")].pattern.sparsity();
        assert_eq!(allocation.matrices.len(), 14, "{profile}");
        assert!((of(0) + of(1) - 1.2).abs() < 1e-9 && of(0) != of(1), "{profile}: {} and {}", of(0), of(1));
        let tensors = tensors(&PruneOptions { allocation, ..options.clone() });
        let (kept, all) = tensors
            .iter()
            .filter(|(name, m)| name.starts_with("blk.") && m.rows() > 1)
            .fold((0, 0), |(kept, all), (_, m)| (kept + m.kept(), all + (m.rows() * m.cols()) as u64));
        assert!((kept as f64 / all as f64 - 0.4).abs() < 0.01, "{profile}: {kept} of {all}");
    }
    let fixed = PruneOptions { pattern: Pattern::KeepNofM { n: 2, m: 4 }, ..options };
    assert!(allocate(Profile::Owl, &fixed).unwrap_err().to_string().contains("2:4 has one sparsity for all"));
}

/// Files are no larger than was asked for, use what there is, and are sparse only where bytes are few.
#[test]
fn a_mix_fits_its_size() {
    let options = options(0.5);
    let (smallest, largest) = (1 << 20, 1 << 30);
    let too_small = allocate(Profile::Auto(Budget::File(1000)), &options).unwrap_err();
    let Error::TooSmall { limit: 1000, least } = too_small else { panic!("{too_small}") };
    assert!(least < smallest);
    let with = |size| {
        let allocation = allocate(Profile::Auto(Budget::File(size)), &options).unwrap();
        PruneOptions { allocation, ..options.clone() }
    };
    // The smallest model is 16 sections of padding and little else, so sizes are of the tensors.
    let sizes = [least, least + 20_000, least + 60_000, largest];
    let found: Vec<u64> = sizes.iter().map(|size| tensor_bytes(&tensors(&with(*size)))).collect();
    assert!(found.windows(2).all(|b| b[0] <= b[1]) && found[0] < found[3], "{found:?}");
    for size in &sizes[..3] {
        assert!(file_bytes(&with(*size)) <= *size);
    }
    let encodings = |size| tensors(&with(size)).into_iter().filter(|(_, m)| m.rows() > 1).map(|(_, m)| m.encoding());
    assert!(encodings(largest).all(|e| e == Encoding::Q8));
    assert!(encodings(least).any(Encoding::is_sparse));
}

/// A head of fewer rows and matrices that must stay dense are reckoned with.
#[test]
fn a_mix_fits_beside_other_options() {
    let vocabulary = padded_vocabulary(4000);
    let list = Shortlist::new(needed_tokens(&vocabulary), 4000).unwrap();
    let mut config = Config::new(2, 64, 160, 4, 2);
    config.tied_head = false;
    let model = SyntheticModel::with_vocabulary(config, vocabulary, 5);
    let options = PruneOptions { shortlist: Some(list), ignore: vec!["blk.0.".into()], ..options(0.5) };
    let allocate = |size| {
        let profile = Profile::Auto(Budget::File(size));
        profile.allocate(&model, &options, &windows(), None, &mut |_| ControlFlow::Continue(()))
    };
    let Error::TooSmall { least, .. } = allocate(1000).unwrap_err() else { panic!("1000 bytes were enough") };
    let options = PruneOptions { allocation: allocate(least).unwrap(), ..options.clone() };
    assert!(bytes_of_file(&model, &options) <= least);
    let tensors = tensors_of(&model, &options);
    let of = |prefix: &str| {
        let matrices = tensors.iter().filter(|(name, m)| m.rows() > 1 && name.starts_with(prefix));
        matrices.map(|(_, m)| m.encoding()).collect::<Vec<_>>()
    };
    assert!(of("blk.0.").into_iter().all(|e| e == Encoding::Q4));
    assert!(of("blk.1.").into_iter().any(Encoding::is_sparse));
}

#[test]
fn a_mix_fits_the_bytes_of_a_token() {
    let options = options(0.5);
    let allocation = allocate(Profile::Auto(Budget::Token(60_000)), &options).unwrap();
    let tied = SyntheticModel::tiny(3).config().tied_head;
    let read: u64 = tensors(&PruneOptions { allocation, ..options })
        .iter()
        .filter(|(name, m)| m.rows() > 1 && (tied || name != "token_embd.weight"))
        .map(|(_, m)| m.byte_len() as u64)
        .sum();
    assert!((40_000..=60_000).contains(&read), "{read}");
}

/// Without a size there are sparsities to share out, and nothing else: values stay as they were asked for.
#[test]
fn sparsities_are_shared_out_by_what_they_lose() {
    let model = SyntheticModel::new(Config::new(3, 128, 352, 4, 2), 7);
    let options = PruneOptions { values: ValueType::Q8, ..options(0.5) };
    let profile = Profile::Auto(Budget::OfUniform);
    let allocation = profile.allocate(&model, &options, &windows(), None, &mut |_| ControlFlow::Continue(())).unwrap();
    let given = || allocation.matrices.values();
    assert_eq!(allocation.matrices.len(), 21);
    assert!(given().all(|t| t.values == ValueType::Q8) && allocation.tables.values().all(|v| *v == options.head));
    let sparsity = |t: &Treatment| t.pattern.sparsity();
    assert!(given().any(|t| sparsity(t) < 0.5) && given().any(|t| sparsity(t) > 0.5), "{allocation:?}");
    let uniform = bytes_of_file(&model, &options);
    let mixed = bytes_of_file(&model, &PruneOptions { allocation, ..options });
    // Sections begin at multiples of 65536.
    assert!(mixed <= uniform + (1 << 16) && mixed > uniform / 4 * 3, "{mixed} of {uniform}");
}

#[test]
fn threads_change_no_mix() {
    let with = |threads| allocate(Profile::Auto(Budget::OfUniform), &PruneOptions { threads, ..options(0.5) }).unwrap();
    assert_eq!(with(1), with(3));
}

/// What is measured is kept, so that a run that is stopped goes on, and one for another size has nothing to measure.
#[test]
fn measures_are_kept_for_later_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (model, options) = (SyntheticModel::tiny(3), options(0.5));
    let file = |source: &str| SensitivityFile {
        path: folder.path().join("kept.json"),
        source_sha256: source.to_owned(),
        replace: false,
    };
    // The mix, unless it is stopped after so many measures, and how many there were.
    let run = |bytes, stop, file: Option<&SensitivityFile>| {
        let (mut measured, budget) = (0, Budget::File(bytes));
        let progress = &mut |p: Progress| {
            measured = p.done - p.resumed;
            if measured >= stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let found = Profile::Auto(budget).allocate(&model, &options, &windows(), file, progress);
        (found, measured)
    };
    let (expected, all) = run(1 << 20, u64::MAX, None);
    assert!(matches!(run(1 << 20, 10, Some(&file("a"))), (Err(Error::Interrupted), 10)));
    let (found, rest) = run(1 << 20, u64::MAX, Some(&file("a")));
    assert_eq!(found.unwrap(), expected.unwrap());
    // A layer's are kept together.
    assert!((all - 10..all).contains(&rest), "{rest} of {all}");
    let (smallest, none) = run(least_of(&model, &options), u64::MAX, Some(&file("a")));
    assert_eq!((smallest.is_ok(), none), (true, 0));
    let other = run(1 << 20, u64::MAX, Some(&file("b"))).0.unwrap_err();
    assert!(matches!(other, Error::OtherSensitivity { .. }) && other.to_string().contains("source"), "{other}");
}

/// Bytes of the smallest mix.
fn least_of(model: &SyntheticModel, options: &PruneOptions) -> u64 {
    let profile = Profile::Auto(Budget::File(1000));
    match profile.allocate(model, options, &windows(), None, &mut |_| ControlFlow::Continue(())).unwrap_err() {
        Error::TooSmall { least, .. } => least,
        other => panic!("{other}"),
    }
}

#[test]
fn a_mix_needs_windows_to_judge_by() {
    let model = SyntheticModel::tiny(3);
    let profile = Profile::Auto(Budget::OfUniform);
    let found = profile.allocate(&model, &options(0.5), &windows()[..2], None, &mut |_| ControlFlow::Continue(()));
    assert!(found.unwrap_err().to_string().contains("3 or more"));
}

fn tensor_bytes(tensors: &[(String, Matrix)]) -> u64 {
    tensors.iter().map(|(_, m)| m.byte_len() as u64).sum()
}
