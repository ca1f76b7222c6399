//! Memory that pruning takes against what was foreseen, and hidden states on disk. One test, as all of a process's memory is
//! counted.

use std::ops::ControlFlow;
use std::path::Path;

use peak_alloc::PeakAlloc;
use pruner::{Budget, Error, Pattern, Plan, Profile, PruneOptions, Residence, ValueType, plan_within, prune};
use spm::synthetic::SyntheticModel;
use spm::{Checkpoint, Config, Matrix};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const NSAMPLES: usize = 16;
const SEQLEN: usize = 128;

fn windows() -> Vec<Vec<u32>> {
    let token = |t: usize, w: usize| (t * t * 7 + t * 31 + w * 13) as u32 % 260;
    (0..NSAMPLES).map(|w| (0..SEQLEN).map(|t| token(t, w)).collect()).collect()
}

fn options(method: &str, values: ValueType) -> PruneOptions {
    let options = PruneOptions { pattern: Pattern::Unstructured { sparsity: 0.5 }, values, ..Default::default() };
    PruneOptions { threads: 2, ..options.with_method(method).unwrap() }
}

fn planned(model: &SyntheticModel, options: &mut PruneOptions, memory: u64, folder: &Path) -> Result<Plan, Error> {
    plan_within(model, options, Profile::Uniform, (NSAMPLES, SEQLEN), memory, folder)
}

/// Counts bytes and keeps nothing, as a file does.
#[derive(Default)]
struct Hashed(Vec<(String, Vec<u8>)>);

impl pruner::Sink for Hashed {
    fn push(&mut self, name: &str, matrix: &Matrix) -> Result<(), Error> {
        self.0.push((name.to_owned(), blake3_of(matrix.stored_bytes())));
        Ok(())
    }
}

fn blake3_of(bytes: &[u8]) -> Vec<u8> {
    blake3::hash(bytes).as_bytes().to_vec()
}

/// What comes of it, and the most memory it took besides what there was before.
fn pruned(model: &SyntheticModel, options: &PruneOptions) -> (Hashed, u64) {
    let windows = windows();
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let mut sink = Hashed::default();
    prune(model, options, &windows, &mut sink, &mut |_| ControlFlow::Continue(())).unwrap();
    (sink, (MEMORY.peak_usage() - before) as u64)
}

#[test]
fn memory_is_foreseen_and_kept_to() {
    let model = SyntheticModel::new(Config::new(2, 256, 704, 4, 2), 7);
    let folder = tempfile::tempdir().unwrap();
    for (method, values) in
        [("wanda", ValueType::Q8), ("sparsegpt", ValueType::Q4), ("admm", ValueType::F16), ("admm", ValueType::Q4)]
    {
        let options = options(method, values);
        let mut first = options.clone();
        let ample = planned(&model, &mut first, u64::MAX, folder.path()).unwrap();
        assert_eq!((&first.residence, ample.spilled_bytes), (&Residence::default(), 0));
        let (expected, peak) = pruned(&model, &first);
        holds(method, &ample, peak);

        // A little less: some of the widest inputs are not kept.
        let mut second = options.clone();
        let leaner = planned(&model, &mut second, ample.peak_bytes - 1, folder.path()).unwrap();
        assert!(matches!(second.residence, Residence::Memory { wide_bytes } if wide_bytes > 0));
        let (found, peak) = pruned(&model, &second);
        assert!(leaner.peak_bytes < ample.peak_bytes && found.0 == expected.0, "{method}");
        holds(method, &leaner, peak);

        let mut third = PruneOptions { residence: Residence::Spilled(folder.path().to_owned()), ..options.clone() };
        let spilled = pruner::plan(&model, &third, NSAMPLES, SEQLEN).unwrap();
        let fitting = planned(&model, &mut third, spilled.peak_bytes, folder.path()).unwrap();
        assert_eq!((fitting, &third.residence), (spilled, &Residence::Spilled(folder.path().to_owned())));
        let (found, peak) = pruned(&model, &third);
        assert!(found.0 == expected.0, "{method}, on disk");
        holds(method, &spilled, peak);
        assert!(spilled.spilled_bytes >= (NSAMPLES * SEQLEN * 2 * model.config().dim * 4) as u64);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");

        let error = planned(&model, &mut third, spilled.peak_bytes - 1, folder.path()).unwrap_err().to_string();
        let (needed, allowed) = (spilled.peak_bytes.to_string(), (spilled.peak_bytes - 1).to_string());
        assert!(error.contains(&needed) && error.contains(&allowed) && error.contains("--max-memory"), "{error}");
    }
    let model = SyntheticModel::new(Config::new(2, 128, 352, 4, 2), 7);
    for profile in [Profile::Owl, Profile::Auto(Budget::File(1 << 30))] {
        let mut options = options("sparsegpt", ValueType::Q4);
        let pruning = planned(&model, &mut options, u64::MAX, folder.path()).unwrap();
        let plan = plan_within(&model, &mut options, profile, (NSAMPLES, SEQLEN), u64::MAX, folder.path()).unwrap();
        let windows = windows();
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        profile.allocate(&model, &options, &windows, None, &mut |_| ControlFlow::Continue(())).unwrap();
        let peak = (MEMORY.peak_usage() - before) as u64;
        assert!(plan.peak_bytes >= peak, "{profile}: {} foreseen, {peak} taken", plan.peak_bytes);
        assert!(plan.measuring_work > 0 && pruning.measuring_work == 0);
        // Whatever is allowed, from the least that works on, works.
        let mut within = |memory| {
            plan_within(&model, &mut options, profile, (NSAMPLES, SEQLEN), memory, folder.path())
                .map(|plan| assert!(plan.peak_bytes <= memory, "{profile}: {memory}"))
        };
        let works = |memory: &u64| within(*memory).is_ok();
        let found: Vec<bool> =
            (0..=40).map(|i| plan.peak_bytes * i / 40).collect::<Vec<_>>().iter().map(works).collect();
        assert!(found.is_sorted() && !found[0] && found[40], "{profile}: {found:?}");
    }
}

/// No more than was foreseen, and not much less but for what multiplying large matrices takes.
fn holds(method: &str, plan: &Plan, peak: u64) {
    let foreseen = plan.peak_bytes;
    assert!(peak <= foreseen && foreseen < 2 * peak + (16 << 20), "{method}: {foreseen} bytes foreseen, {peak} taken");
}
