//! A small random model pruned from end to end, against an independent f64 decoder.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use pruner::{
    Allocation, ColumnNorms, Error, Group, Pattern, Plan, Progress, PruneOptions, Report, RoundingKind, Treatment,
    ValueType, plan, prune, prune_with_norms,
};
use runtime::{EngineOptions, KvType, Model, Precision, Session, SessionOptions};
use spm::synthetic::SyntheticModel;
use spm::{
    Checkpoint, Config, Encoding, Matrix, Provenance, RopeLayout, Shortlist, SparseModel, SpmWriter, TensorInfo,
    Vocabulary,
};

type Tensors = Vec<(String, Matrix)>;

fn windows() -> Vec<Vec<u32>> {
    (0..5).map(|w| (0..70 + w).map(|t| (t * t * 7 + t * 31 + w * 13) % 260).collect()).collect()
}

fn half(sparsity: f64) -> PruneOptions {
    PruneOptions { pattern: Pattern::Unstructured { sparsity }, ..Default::default() }
}

fn run(source: &dyn Checkpoint, options: &PruneOptions) -> (Tensors, Report) {
    let mut tensors = Tensors::new();
    let report = prune(source, options, &windows(), &mut tensors, &mut |_| ControlFlow::Continue(())).unwrap();
    (tensors, report)
}

fn failure(source: &dyn Checkpoint, options: &PruneOptions, windows: &[Vec<u32>]) -> Error {
    prune(source, options, windows, &mut Tensors::new(), &mut |_| ControlFlow::Continue(())).unwrap_err()
}

fn model() -> SyntheticModel {
    SyntheticModel::tiny(3)
}

/// Changes what `inner` says of its weights.
struct Altered<F> {
    inner: SyntheticModel,
    change: F,
}

impl<F: Fn(&str, usize, &mut [f32]) + Send + Sync> Checkpoint for Altered<F> {
    fn config(&self) -> &Config {
        self.inner.config()
    }
    fn vocabulary(&self) -> Option<&Vocabulary> {
        self.inner.vocabulary()
    }
    fn tensors(&self) -> &[TensorInfo] {
        self.inner.tensors()
    }
    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Option<()> {
        self.inner.read_rows(name, first_row, out)?;
        (self.change)(name, first_row, out);
        Some(())
    }
    fn matrix(&self, name: &str) -> Option<Matrix> {
        self.exact_matrix(name)
    }
}

fn to_halves(_: &str, _: usize, row: &mut [f32]) {
    row.iter_mut().for_each(|v| *v = half_rounded(*v));
}

/// The nearest value of 11 significant bits, for the sizes that weights have.
fn half_rounded(v: f32) -> f32 {
    let step = (v.abs().log2().floor() - 10.0).exp2().max(2f32.powi(-24));
    (v / step).round_ties_even() * step
}

#[test]
fn masks_are_those_of_an_independent_decoder() {
    for layout in [RopeLayout::Interleaved, RopeLayout::Halves] {
        let mut config = Config::new(2, 64, 160, 4, 2);
        config.rope.layout = layout;
        config.qkv_bias = layout == RopeLayout::Halves;
        config.tied_head = layout == RopeLayout::Interleaved;
        let model = SyntheticModel::new(config, 11);
        let (tensors, _) = run(&model, &half(0.6));
        let stored: HashMap<_, _> = tensors.into_iter().collect();
        let mut checked = 0;
        reference::norms_of_sites(&model, &stored, &windows(), |name, norms| {
            checked += 1;
            check_mask(&model, name, &stored[name], &norms, 0.6);
        });
        assert_eq!(checked, 14);
    }
}

/// Norms that were measured elsewhere give the masks that the formula gives with them.
#[test]
fn norms_from_elsewhere_are_used_as_they_are() {
    let model = model();
    let squares = |cols: usize| (0..cols).map(|j| ((j * 37 + 11) % 101) as f64 + 0.5).collect::<Vec<_>>();
    let options = PruneOptions { ignore: vec!["attn_v".into()], ..half(0.5) };
    let mut norms: BTreeMap<String, ColumnNorms> = options
        .matrices_with_norms(model.config())
        .map(|(name, (_, cols))| (name, ColumnNorms::from_squares(squares(cols), 7).unwrap()))
        .collect();
    assert_eq!(norms.len(), 12);
    let go_on = &mut |_| ControlFlow::Continue(());
    let mut tensors = Tensors::new();
    let report = prune_with_norms(&model, &options, &norms, &mut tensors, go_on).unwrap();
    assert_eq!((report.tensors.len(), report.tokens), (14, 0));
    for (name, stored) in tensors.iter().filter(|(name, _)| norms.contains_key(name)) {
        let roots: Vec<f64> = squares(stored.cols()).iter().map(|s| s.sqrt()).collect();
        check_mask(&model, name, stored, &roots, 0.5);
    }

    let mut fail = |options: &PruneOptions, norms: &_| {
        prune_with_norms(&model, options, norms, &mut Tensors::new(), go_on).unwrap_err().to_string()
    };
    let more = options.clone().with_method("admm").unwrap();
    assert!(fail(&more, &norms).starts_with("method `admm`, a refit or compensated rounding needs calibration text"));
    norms.insert("blk.0.attn_q.weight".into(), ColumnNorms::new(5));
    assert!(fail(&options, &norms).starts_with("tensor `blk.0.attn_q.weight`: 5 norms of input features, expected"));
    norms.remove("blk.1.ffn_down.weight");
    norms.remove("blk.0.attn_q.weight");
    assert!(fail(&options, &norms).starts_with("tensor `blk.0.attn_q.weight`: 0 norms of input features, expected"));
}

/// Wanda's equation in f64; where f32 may decide otherwise, the scores must be all but equal.
fn check_mask(model: &SyntheticModel, name: &str, stored: &Matrix, norms: &[f64], sparsity: f64) {
    let dense = model.read_all(name).unwrap();
    let cols = stored.cols();
    let count = (cols as f64 * sparsity) as usize;
    let mask = stored.mask();
    let mut differ = 0;
    for (r, row) in dense.chunks_exact(cols).enumerate() {
        let scores: Vec<f64> = row.iter().zip(norms).map(|(w, n)| f64::from(w.abs()) * n).collect();
        let mut sorted = scores.clone();
        sorted.sort_by(f64::total_cmp);
        let threshold = sorted[count];
        for (c, &score) in scores.iter().enumerate() {
            if mask.is_kept(r, c) != (score >= threshold) {
                differ += 1;
                assert!((score / threshold - 1.0).abs() < 1e-4, "{name} row {r} column {c}: {score} at {threshold}");
            }
        }
        let kept = (0..cols).filter(|&c| mask.is_kept(r, c)).count();
        assert_eq!(kept, cols - count, "{name} row {r}");
    }
    assert!(differ * 1000 <= dense.len(), "{name}: {differ} of {} differ", dense.len());
}

#[test]
fn kept_weights_are_the_source_s() {
    let model = Altered { inner: model(), change: to_halves };
    let (tensors, report) = run(&model, &half(0.5));
    for (name, stored) in tensors.iter().filter(|(_, m)| m.encoding().is_sparse()) {
        let (dense, mask) = (model.read_all(name).unwrap(), stored.mask());
        let mut row = vec![0.0; stored.cols()];
        for r in 0..stored.rows() {
            stored.read_row(r, &mut row);
            for (c, v) in row.iter().enumerate() {
                let expected = if mask.is_kept(r, c) { dense[r * stored.cols() + c] } else { 0.0 };
                assert_eq!(*v, expected, "{name} row {r} column {c}");
            }
        }
    }
    assert_eq!(report.tensors.len(), 14);
    assert!((report.sparsity() - 0.5).abs() < 1e-9, "{}", report.sparsity());
    assert_eq!(report.tokens, windows().iter().map(|w| w.len() as u64).sum::<u64>());
}

#[test]
fn every_tensor_comes_once_in_its_encoding() {
    let model = model();
    for (values, head) in
        [(ValueType::F16, ValueType::Q8), (ValueType::Q8, ValueType::Q5), (ValueType::Q4, ValueType::Q4)]
    {
        let options = PruneOptions { values, head, ignore: vec!["blk.0.".into(), "attn_v".into()], ..half(0.5) };
        let (tensors, report) = run(&model, &options);
        let mut names: Vec<_> = tensors.iter().map(|(n, m)| (n.clone(), m.rows(), m.cols())).collect();
        let mut expected = model.config().tensors();
        names.sort();
        expected.sort();
        assert_eq!(names, expected);
        for (name, matrix) in &tensors {
            let in_layer = name.starts_with("blk.");
            let encoding = match (in_layer, matrix.rows()) {
                (_, 1) => Encoding::F32,
                (false, _) => head.dense(),
                _ if name.contains("blk.0.") || name.contains("attn_v") => values.dense(),
                _ => values.sparse(options.pattern, matrix.cols()).unwrap(),
            };
            assert_eq!(matrix.encoding(), encoding, "{name}");
        }
        assert_eq!(report.bytes, tensors.iter().map(|(_, m)| m.byte_len() as u64).sum::<u64>());
    }
}

#[test]
fn an_allocation_holds_in_the_result_and_in_the_plan() {
    let model = model();
    let quarter = Treatment { pattern: Pattern::Unstructured { sparsity: 0.25 }, values: ValueType::Q8 };
    let matrices = [("blk.0.attn_q.weight", Treatment::dense(ValueType::Q5)), ("blk.1.ffn_up.weight", quarter)];
    let allocation = Allocation {
        matrices: matrices.iter().map(|(name, treatment)| (name.to_string(), *treatment)).collect(),
        tables: [("token_embd.weight".to_owned(), ValueType::Q4)].into(),
    };
    let options = PruneOptions { allocation: allocation.clone(), head: ValueType::F16, ..half(0.5) };
    let (tensors, report) = run(&model, &options);
    for (name, matrix) in tensors.iter().filter(|(_, m)| m.rows() > 1) {
        let expected = match &name[..] {
            "blk.0.attn_q.weight" => (Encoding::Q5, 1.0),
            "blk.1.ffn_up.weight" => (Encoding::SparseQ8, 0.75),
            "token_embd.weight" => (Encoding::Q4, 1.0),
            _ if name.starts_with("blk.") => (Encoding::SparseF16, 0.5),
            _ => (Encoding::F16, 1.0),
        };
        let kept = matrix.kept() as f64 / (matrix.rows() * matrix.cols()) as f64;
        assert_eq!((matrix.encoding(), kept), expected, "{name}");
    }
    let plan = plan(&model, &options, 4, 32).unwrap();
    assert_eq!(plan.tensor_bytes, report.bytes);

    let unknown = Allocation { tables: [("blk.0.attn_q.weight".to_owned(), ValueType::Q4)].into(), ..allocation };
    let message = failure(&model, &PruneOptions { allocation: unknown, ..half(0.5) }, &windows()).to_string();
    assert!(message.contains("`blk.0.attn_q.weight`: expected a matrix of this model"), "{message}");
}

#[test]
fn threads_change_nothing() {
    let model = model();
    for (method, values) in [
        ("wanda", ValueType::F16),
        ("wanda", ValueType::Q4),
        ("admm", ValueType::F16),
        ("admm", ValueType::Q4),
        ("sparsegpt", ValueType::Q8),
    ] {
        let options = half(0.5).with_method(method).unwrap();
        let with = |threads| run(&model, &PruneOptions { threads, values, refit: true, ..options.clone() });
        let (one, report) = with(1);
        for threads in [0, 2, 3, 8] {
            let (other, same) = with(threads);
            assert_eq!(report, same);
            for ((name, a), (_, b)) in one.iter().zip(&other) {
                assert!(a.stored_bytes() == b.stored_bytes() && a.row_starts() == b.row_starts(), "{name}, {threads}");
            }
        }
    }
}

/// What the matrices of a model lose, on the same windows: weight updates lose less than masks, compensated rounding
/// less than rounding to the nearest.
#[test]
fn updates_and_compensation_lose_less() {
    let model = model();
    let loss = |method: &str, values, rounding, refit| {
        let options = PruneOptions { values, rounding, refit, ..half(0.6).with_method(method).unwrap() };
        run(&model, &options).1.tensors.iter().map(|t| t.relative_error).sum::<f64>()
    };
    use RoundingKind::{Auto, Compensated, Nearest};
    // Q8 compensated is for the products of inputs: without them losses would be told by norms alone.
    let wanda = loss("wanda", ValueType::Q8, Compensated, false);
    assert!(loss("wanda", ValueType::Q8, Compensated, true) <= wanda);
    assert!(loss("admm", ValueType::F16, Auto, false) < wanda);
    // What ADMM and its rounding aim at are not the outputs that losses are told of.
    assert!(loss("sparsegpt", ValueType::Q4, Compensated, false) < loss("sparsegpt", ValueType::Q4, Nearest, false));
}

/// Sparsity 0 in f16 of a source in f16 gives the dense logits to the bit, from a file too.
#[test]
fn sparsity_zero_is_the_dense_model() {
    let source = Altered { inner: model(), change: to_halves };
    let folder = tempfile::tempdir().unwrap();
    for (name, options) in [
        ("dense", PruneOptions { head: ValueType::F16, ..half(0.0) }),
        ("4:4", PruneOptions { head: ValueType::F16, pattern: Pattern::KeepNofM { n: 4, m: 4 }, ..half(0.0) }),
        // Rounds to no weight at all, but goes through the whole path.
        ("tiny", PruneOptions { head: ValueType::F16, ..half(0.001) }),
    ] {
        let path = folder.path().join(format!("{}.spm", name.replace(':', "of")));
        let mut writer = SpmWriter::create(&path, &Default::default()).unwrap();
        let report = prune(&source, &options, &windows(), &mut writer, &mut |_| ControlFlow::Continue(())).unwrap();
        writer.finish(source.config(), source.vocabulary(), &Provenance::default()).unwrap();
        assert!(report.tensors.iter().all(|t| t.encoding == Encoding::F16 && t.relative_error == 0.0), "{name}");
        let stored = SparseModel::open(&path).unwrap();
        stored.verify().unwrap();
        assert_eq!(logits(&stored), logits(&source), "{name}");
    }
}

/// A shortlist changes which logits there are and none of those; tokens that are not listed are read as ever.
#[test]
fn a_shortlist_leaves_the_logits_of_its_tokens() {
    let folder = tempfile::tempdir().unwrap();
    for tied_head in [false, true] {
        let mut config = Config::new(2, 64, 160, 4, 2);
        config.tied_head = tied_head;
        let source = Altered { inner: SyntheticModel::new(config, 3), change: to_halves };
        let vocab_size = source.config().vocab_size;
        // 257 stays, 256 and 258 to 261 go.
        let mut ids = spm::needed_tokens(source.vocabulary().unwrap());
        ids.insert(256, 257);
        let list = Shortlist::new(ids, vocab_size).unwrap();
        let options = PruneOptions { head: ValueType::F16, shortlist: Some(list.clone()), ..half(0.0) };
        let path = folder.path().join(format!("{tied_head}.spm"));
        let stored = prune_to(&path, &source, &options);
        assert_eq!(plan(&source, &options, 4, 32).unwrap().file_bytes, stored.file_len());

        let tokens = [5, 9, 256, 33, 260, 257];
        let whole = all_logits(&source, &tokens, 1);
        for threads in [1, 3] {
            for (whole, found) in whole.iter().zip(all_logits(&stored, &tokens, threads)) {
                for (id, (whole, found)) in whole.iter().zip(found).enumerate() {
                    let expected = if list.contains(id as u32) { *whole } else { f32::NEG_INFINITY };
                    assert_eq!(found, expected, "token {id}, tied {tied_head}, {threads} threads");
                }
            }
        }
        // Pruned again, with calibration on tokens that are not listed, the list stays; another is refused.
        let again = prune_to(&folder.path().join("again.spm"), &stored, &half(0.5));
        assert_eq!(again.config(), stored.config());
        let error = failure(&stored, &options, &windows()).to_string();
        assert!(error.contains("expected none, as the source has one of 258 tokens"), "{error}");
        std::fs::remove_file(folder.path().join("again.spm")).unwrap();
    }
}

#[test]
fn a_shortlist_without_a_byte_is_refused_before_any_work() {
    let list = Shortlist::new((1..263).collect(), 263).unwrap();
    let error = failure(&model(), &PruneOptions { shortlist: Some(list), ..half(0.5) }, &windows());
    assert!(matches!(error, Error::NotListed { token: 0 }), "{error}");
}

fn prune_to(path: &std::path::Path, source: &dyn Checkpoint, options: &PruneOptions) -> SparseModel {
    let mut writer = SpmWriter::create(path, &Default::default()).unwrap();
    prune(source, options, &windows(), &mut writer, &mut |_| ControlFlow::Continue(())).unwrap();
    let config = pruner::shortlist::shortened(source, options.shortlist.as_ref()).unwrap();
    writer.finish(&config, source.vocabulary(), &Provenance::default()).unwrap();
    let stored = SparseModel::open(path).unwrap();
    stored.verify().unwrap();
    stored
}

/// Logits after every token, of all at once and of the last one alone.
fn all_logits(from: &dyn Checkpoint, tokens: &[u32], threads: usize) -> Vec<Vec<f32>> {
    let options = EngineOptions { threads, precision: Precision::Exact, ..EngineOptions::default() };
    let model = Arc::new(Model::load(from, &options).unwrap());
    let options = SessionOptions { context: 64, kv: KvType::F32, ..Default::default() };
    let mut session = Session::new(&model, &options).unwrap();
    let mut all = Vec::new();
    session.feed_each(tokens, |_, logits| all.push(logits.to_vec())).unwrap();
    session.truncate(0);
    all.push(session.feed(tokens).unwrap().to_vec());
    all
}

fn logits(from: &dyn Checkpoint) -> Vec<f32> {
    let options = EngineOptions { threads: 1, precision: Precision::Exact, ..EngineOptions::default() };
    let model = Arc::new(Model::load(from, &options).unwrap());
    let options = SessionOptions { context: 64, kv: KvType::F32, ..Default::default() };
    Session::new(&model, &options).unwrap().feed(&[5, 9, 200, 33, 7]).unwrap().to_vec()
}

#[test]
fn a_plan_is_what_happens() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let patterns = [
        (Pattern::Unstructured { sparsity: 0.0 }, Group::Row),
        (Pattern::Unstructured { sparsity: 0.37 }, Group::Row),
        (Pattern::Unstructured { sparsity: 0.5 }, Group::Matrix),
        (Pattern::KeepNofM { n: 2, m: 4 }, Group::Row),
        (Pattern::KeepNofM { n: 16, m: 32 }, Group::Row),
    ];
    for (i, (pattern, group)) in patterns.into_iter().enumerate() {
        for values in [ValueType::F16, ValueType::Q8, ValueType::Q4] {
            let options = PruneOptions {
                pattern,
                group: Some(group),
                values,
                ignore: vec!["blk.1.ffn_down".into()],
                ..half(0.5)
            };
            let path = folder.path().join(format!("{i}{values}.spm"));
            let mut writer = SpmWriter::create(&path, &Default::default()).unwrap();
            let mut seen: Vec<Progress> = Vec::new();
            let ids = vec![vec![1; 32]; 4];
            let progress = &mut |p| {
                seen.push(p);
                ControlFlow::Continue(())
            };
            let report = prune(&model, &options, &ids, &mut writer, progress).unwrap();
            let len = writer.finish(model.config(), model.vocabulary(), &Provenance::default()).unwrap();
            let Plan { tensor_bytes, file_bytes, work, .. } = plan(&model, &options, 4, 32).unwrap();

            // Which of two streams of nibbles is the longer, and by how much, is not known beforehand.
            let guessed = report.tensors.iter().any(|t| t.encoding == Encoding::SparseQ4);
            let room = if guessed { report.bytes / 30 } else { 0 };
            let off = report.bytes.abs_diff(tensor_bytes);
            assert!(off <= room, "{pattern} {group} {values}: {tensor_bytes} for {}", report.bytes);
            // Sections begin at multiples of 65536.
            let room = if guessed { 1 << 16 } else { 0 };
            assert!(file_bytes.abs_diff(len) <= room, "{pattern} {values}: {file_bytes} for {len}");
            assert!(seen.windows(2).all(|p| p[0].done <= p[1].done));
            let last = seen.last().unwrap();
            assert_eq!((last.done, last.total, last.layers), (work, work, 2), "{pattern} {values}");
        }
    }
}

#[test]
fn groups_hold_in_the_result() {
    let model = model();
    let (tensors, _) = run(&model, &PruneOptions { group: Some(Group::Matrix), ..half(0.7) });
    for (name, m) in tensors.iter().filter(|(_, m)| m.encoding().is_sparse()) {
        let all = m.rows() * m.cols();
        assert_eq!(m.kept() as usize, all - (all as f64 * 0.7) as usize, "{name}");
    }
}

/// Rows of 64 columns have whole chunks, those of 160, of `ffn_down`, have not.
#[test]
fn patterns_choose_encodings_that_hold_them() {
    let model = model();
    for (n, m, values, even, ragged) in [
        (2, 4, ValueType::Q8, Encoding::Q8Keep2Of4, Encoding::SparseQ8),
        (2, 4, ValueType::Q4, Encoding::Q4Keep2Of4, Encoding::SparseQ4),
        (2, 4, ValueType::F16, Encoding::SparseF16, Encoding::SparseF16),
        (4, 8, ValueType::Q4, Encoding::SparseQ4, Encoding::SparseQ4),
        (1, 4, ValueType::Q4, Encoding::SparseQ4, Encoding::SparseQ4),
        (5, 10, ValueType::Q8, Encoding::SparseQ8, Encoding::SparseQ8),
    ] {
        // Comparing over the matrix is for unstructured masks; a pattern has its groups.
        for group in [Group::Row, Group::Matrix] {
            let pattern = Pattern::KeepNofM { n, m };
            let (tensors, report) = run(&model, &PruneOptions { pattern, group: Some(group), values, ..half(0.5) });
            for t in &report.tensors {
                let expected = if t.name.contains("ffn_down") { ragged } else { even };
                assert_eq!(t.encoding, expected, "{pattern} {values}: {}", t.name);
            }
            for (name, matrix) in tensors.iter().filter(|(_, m)| m.encoding().is_sparse()) {
                let mask = matrix.mask();
                let groups = (0..matrix.rows()).flat_map(|r| (0..matrix.cols() / m).map(move |g| (r, g * m)));
                for (row, first) in groups {
                    let kept = (first..first + m).filter(|&c| mask.is_kept(row, c)).count();
                    assert_eq!(kept, n, "{pattern} {name} row {row} from column {first}");
                }
            }
        }
    }
}

#[test]
fn q5_is_for_what_stays_dense() {
    let model = model();
    let message = failure(&model, &PruneOptions { values: ValueType::Q5, ..half(0.5) }, &windows()).to_string();
    assert!(message.contains("`q5`: expected `f16`, `q8` or `q4`"), "{message}");
    assert!(plan(&model, &PruneOptions { values: ValueType::Q5, ..half(0.5) }, 4, 32).is_err());
    let (_, report) = run(&model, &PruneOptions { values: ValueType::Q5, ..half(0.0) });
    assert!(report.tensors.iter().all(|t| t.encoding == Encoding::Q5 && t.relative_error < 0.05));
}

#[test]
fn wanda_keeps_the_outputs_closer_than_magnitude() {
    // A few inputs far larger than the others, as in real models: only statistics tell.
    let loud = |name: &str, _: usize, row: &mut [f32]| {
        if name.ends_with("norm.weight") {
            row.iter_mut().enumerate().for_each(|(i, v)| *v *= if i % 9 == 0 { 12.0 } else { 0.5 });
        }
    };
    let model = Altered { inner: model(), change: loud };
    let change = |name: &str| {
        let (tensors, _) = run(&model, &half(0.5).with_method(name).unwrap());
        let stored: HashMap<_, _> = tensors.into_iter().collect();
        let first: Vec<&String> =
            stored.keys().filter(|n| n.starts_with("blk.0.") && n.ends_with("k.weight")).collect();
        assert_eq!(first, ["blk.0.attn_k.weight"]);
        let x = reference::inputs_of_first_site(&model, &windows());
        reference::output_error(&model.read_all(first[0]).unwrap(), &stored[first[0]], &x)
    };
    let (wanda, magnitude) = (change("wanda"), change("magnitude"));
    assert!(wanda < 0.5 * magnitude, "wanda {wanda}, magnitude {magnitude}");
}

#[test]
fn relative_errors_are_the_formula_s() {
    let model = model();
    let options = half(0.5).with_method("magnitude").unwrap();
    let (tensors, report) = run(&model, &options);
    assert_eq!(report.tokens, 0, "magnitude runs nothing");
    for t in &report.tensors {
        let stored = &tensors.iter().find(|(name, _)| *name == t.name).unwrap().1;
        let dense = model.read_all(&t.name).unwrap();
        let mut expanded = vec![0.0; dense.len()];
        stored.read_rows(0, &mut expanded).unwrap();
        let square = |v: f64| v * v;
        let lost: f64 = dense.iter().zip(&expanded).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
        let all: f64 = dense.iter().map(|a| square(f64::from(*a))).sum();
        let expected = (lost / all).sqrt();
        assert!((t.relative_error - expected).abs() < 1e-6 && expected > 0.1, "{}: {expected}", t.name);
        assert_eq!((t.kept, t.total, t.bytes), (stored.kept(), dense.len() as u64, stored.byte_len() as u64));
    }
}

#[test]
fn a_pruned_model_can_be_pruned_again() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("once.spm");
    let mut writer = SpmWriter::create(&path, &Default::default()).unwrap();
    prune(&model, &half(0.3), &windows(), &mut writer, &mut |_| ControlFlow::Continue(())).unwrap();
    writer.finish(model.config(), model.vocabulary(), &Provenance::default()).unwrap();
    let once = SparseModel::open(&path).unwrap();
    let (twice, report) = run(&once, &half(0.6));
    assert!((report.sparsity() - 0.6).abs() < 0.02);
    for (name, again) in twice.iter().filter(|(_, m)| m.encoding().is_sparse()) {
        let (before, after) = (once.matrix(name).unwrap().mask(), again.mask());
        let grown = before.as_bytes().iter().zip(after.as_bytes()).any(|(b, a)| a & !b != 0);
        assert!(!grown, "{name}: what was pruned stays so");
    }
}

#[test]
fn stops_wherever_it_is_told_to() {
    let model = model();
    let mut total = 0;
    run_until(&model, usize::MAX, &mut total).unwrap();
    assert!(total > 20);
    for stop in (0..total).step_by(3) {
        let mut calls = 0;
        assert!(matches!(run_until(&model, stop, &mut calls), Err(Error::Interrupted)));
        assert_eq!(calls, stop + 1, "no more calls after a break");
    }
}

fn run_until(model: &SyntheticModel, stop: usize, calls: &mut usize) -> Result<Report, Error> {
    let progress = &mut |_| {
        *calls += 1;
        if *calls > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    prune(model, &half(0.5), &windows(), &mut Tensors::new(), progress)
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let model = model();
    let message = |options: &PruneOptions, windows: &[Vec<u32>]| failure(&model, options, windows).to_string();
    assert!(message(&half(0.5), &[]).contains("method `wanda` needs calibration text"));
    assert!(message(&half(0.5), &[vec![1, 99_999]]).contains("token 99999 is not below the vocabulary's 263"));
    assert!(message(&half(1.0), &windows()).contains("sparsity `1`"));
    assert!(message(&half(f64::NAN), &windows()).contains("sparsity `NaN`"));
    let typo = PruneOptions { ignore: vec!["attn_v".into(), "atn_v".into()], ..half(0.5) };
    assert!(message(&typo, &windows()).contains("`atn_v` matches no weight"));
    assert!(half(0.5).with_method("wonda").unwrap_err().to_string().contains("`wanda` or `admm`"));
}

#[test]
fn damaged_weights_are_refused_by_place() {
    let bad = |tensor: &'static str, value: f32| Altered {
        inner: model(),
        change: move |name: &str, first: usize, rows: &mut [f32]| {
            let width = if tensor.contains("down") { 160 } else { 64 };
            if name == tensor && (first..first + rows.len() / width).contains(&3) {
                rows[(3 - first) * width + 5] = value;
            }
        },
    };
    let message = |tensor, value| failure(&bad(tensor, value), &half(0.5), &windows()).to_string();
    for tensor in ["blk.1.ffn_down.weight", "blk.0.attn_q.weight", "token_embd.weight"] {
        let found = message(tensor, f32::NAN);
        assert!(found.contains(tensor) && found.contains("at row 3, column 5 is NaN"), "{found}");
    }
    let found = message("blk.1.attn_output.weight", 1e6);
    assert!(found.contains("1000000 at row 3, column 5 does not fit in sparse-f16"), "{found}");
}

#[test]
fn a_matrix_of_another_shape_is_refused_before_any_work() {
    struct Fewer(SyntheticModel, Vec<TensorInfo>);
    impl Checkpoint for Fewer {
        fn config(&self) -> &Config {
            self.0.config()
        }
        fn vocabulary(&self) -> Option<&Vocabulary> {
            None
        }
        fn tensors(&self) -> &[TensorInfo] {
            &self.1
        }
        fn read_rows(&self, _: &str, _: usize, _: &mut [f32]) -> Option<()> {
            panic!("nothing is read");
        }
        fn matrix(&self, _: &str) -> Option<Matrix> {
            None
        }
    }
    let mut infos = model().tensors().to_vec();
    let i = infos.iter().position(|t| t.name == "blk.1.ffn_up.weight").unwrap();
    infos[i].cols = 63;
    let error = failure(&Fewer(model(), infos.clone()), &half(0.5), &windows()).to_string();
    assert_eq!(error, "tensor `blk.1.ffn_up.weight`: expected 160x64, file has 160x63");
    infos.remove(i);
    let error = failure(&Fewer(model(), infos), &half(0.5), &windows()).to_string();
    assert!(error.contains("`blk.1.ffn_up.weight` is missing"), "{error}");
}

/// A decoder in plain f64 loops, written from the papers' formulas and sharing no code with the runtime.
mod reference {
    use super::*;

    type Vector = Vec<f64>;

    struct Weights<'a> {
        dense: &'a dyn Checkpoint,
        pruned: &'a HashMap<String, Matrix>,
    }

    /// Shows `each` the norms of the inputs of every prunable matrix, the model upstream being the pruned one.
    pub(crate) fn norms_of_sites(
        dense: &dyn Checkpoint,
        pruned: &HashMap<String, Matrix>,
        windows: &[Vec<u32>],
        mut each: impl FnMut(&str, Vector),
    ) {
        let (w, c) = (Weights { dense, pruned }, dense.config());
        let mut streams: Vec<Vec<Vector>> = windows.iter().map(|ids| w.embed(ids)).collect();
        for i in 0..c.n_layers {
            let name = |short: &str| format!("blk.{i}.{short}.weight");
            let per_window =
                |f: &dyn Fn(&Vec<Vector>) -> Vec<Vector>, s: &[Vec<Vector>]| s.iter().map(f).collect::<Vec<_>>();

            let x = per_window(&|h| w.norm(&name("attn_norm"), h), &streams);
            ["attn_q", "attn_k", "attn_v"].iter().for_each(|m| each(&name(m), norms(&x)));
            let attended = per_window(&|x| w.attention(i, x), &x);
            each(&name("attn_output"), norms(&attended));
            for (h, a) in streams.iter_mut().zip(&attended) {
                add(h, &w.product(&name("attn_output"), a));
            }
            let x = per_window(&|h| w.norm(&name("ffn_norm"), h), &streams);
            ["ffn_gate", "ffn_up"].iter().for_each(|m| each(&name(m), norms(&x)));
            let hidden = per_window(&|x| w.gated(i, x), &x);
            each(&name("ffn_down"), norms(&hidden));
            for (h, x) in streams.iter_mut().zip(&hidden) {
                add(h, &w.product(&name("ffn_down"), x));
            }
        }
    }

    pub(crate) fn inputs_of_first_site(dense: &dyn Checkpoint, windows: &[Vec<u32>]) -> Vec<Vector> {
        let w = Weights { dense, pruned: &HashMap::new() };
        windows.iter().flat_map(|ids| w.norm("blk.0.attn_norm.weight", &w.embed(ids))).collect()
    }

    /// `||(W - W') X|| / ||W X||`, exactly.
    pub(crate) fn output_error(dense: &[f32], stored: &Matrix, x: &[Vector]) -> f64 {
        let mut expanded = vec![0.0; dense.len()];
        stored.read_rows(0, &mut expanded).unwrap();
        let (mut lost, mut all) = (0.0, 0.0);
        for x in x {
            for (a, b) in dense.chunks(x.len()).zip(expanded.chunks(x.len())) {
                let (y, z) = (dot(a, x), dot(b, x));
                lost += (y - z).powi(2);
                all += y.powi(2);
            }
        }
        (lost / all).sqrt()
    }

    impl Weights<'_> {
        /// As stored in the sub-model where it is a matrix, else as in the source.
        fn get(&self, name: &str) -> Vec<f32> {
            let Some(m) = self.pruned.get(name) else { return self.dense.read_all(name).unwrap() };
            let mut all = vec![0.0; m.rows() * m.cols()];
            m.read_rows(0, &mut all).unwrap();
            all
        }

        fn embed(&self, ids: &[u32]) -> Vec<Vector> {
            let table = self.dense.read_all("token_embd.weight").unwrap();
            let dim = self.dense.config().dim;
            ids.iter().map(|&id| table[id as usize * dim..][..dim].iter().map(|&v| f64::from(v)).collect()).collect()
        }

        fn norm(&self, name: &str, rows: &[Vector]) -> Vec<Vector> {
            let weight = self.get(name);
            let eps = f64::from(self.dense.config().norm_eps);
            let normed = |x: &Vector| {
                let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
                x.iter().zip(&weight).map(|(v, w)| v / (mean + eps).sqrt() * f64::from(*w)).collect()
            };
            rows.iter().map(normed).collect()
        }

        fn product(&self, name: &str, x: &[Vector]) -> Vec<Vector> {
            let w = self.get(name);
            let mut out: Vec<Vector> = x.iter().map(|x| w.chunks(x.len()).map(|row| dot(row, x)).collect()).collect();
            let bias = name.replace(".weight", ".bias");
            if self.dense.tensor(&bias).is_some() {
                let bias = self.get(&bias);
                out.iter_mut().for_each(|y| y.iter_mut().zip(&bias).for_each(|(y, b)| *y += f64::from(*b)));
            }
            out
        }

        fn gated(&self, layer: usize, x: &[Vector]) -> Vec<Vector> {
            let gate = self.product(&format!("blk.{layer}.ffn_gate.weight"), x);
            let up = self.product(&format!("blk.{layer}.ffn_up.weight"), x);
            let silu = |g: f64| g / (1.0 + (-g).exp());
            gate.iter().zip(&up).map(|(g, u)| g.iter().zip(u).map(|(g, u)| silu(*g) * u).collect()).collect()
        }

        fn attention(&self, layer: usize, x: &[Vector]) -> Vec<Vector> {
            let c = self.dense.config();
            let part = |short: &str| self.product(&format!("blk.{layer}.{short}.weight"), x);
            let (mut q, mut k, v) = (part("attn_q"), part("attn_k"), part("attn_v"));
            for (t, (q, k)) in q.iter_mut().zip(&mut k).enumerate() {
                q.chunks_mut(c.head_dim).chain(k.chunks_mut(c.head_dim)).for_each(|head| turn(c, t, head));
            }
            let attend = |t: usize, h: usize| -> Vector {
                let kv = h / (c.n_heads / c.n_kv_heads) * c.head_dim;
                let query = &q[t][h * c.head_dim..][..c.head_dim];
                let score = |s: usize| {
                    let key = &k[s][kv..kv + c.head_dim];
                    (query.iter().zip(key).map(|(a, b)| a * b).sum::<f64>() / (c.head_dim as f64).sqrt()).exp()
                };
                let scores: Vector = (0..=t).map(score).collect();
                let sum: f64 = scores.iter().sum();
                (kv..kv + c.head_dim).map(|d| (0..=t).map(|s| scores[s] / sum * v[s][d]).sum()).collect()
            };
            (0..x.len()).map(|t| (0..c.n_heads).flat_map(|h| attend(t, h)).collect()).collect()
        }
    }

    fn turn(c: &Config, position: usize, head: &mut [f64]) {
        let dims = c.rope.dims;
        for i in 0..dims / 2 {
            let angle = position as f64 * f64::from(c.rope.base).powf(-2.0 * i as f64 / dims as f64);
            let (a, b) = match c.rope.layout {
                RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                RopeLayout::Halves => (i, i + dims / 2),
            };
            let (x, y) = (head[a], head[b]);
            head[a] = x * angle.cos() - y * angle.sin();
            head[b] = x * angle.sin() + y * angle.cos();
        }
    }

    fn norms(windows: &[Vec<Vector>]) -> Vector {
        let mut sums = vec![0.0; windows[0][0].len()];
        for x in windows.iter().flatten() {
            sums.iter_mut().zip(x).for_each(|(s, v)| *s += v * v);
        }
        sums.into_iter().map(f64::sqrt).collect()
    }

    fn add(to: &mut [Vector], more: &[Vector]) {
        to.iter_mut().zip(more).for_each(|(a, b)| a.iter_mut().zip(b).for_each(|(a, b)| *a += b));
    }

    fn dot(row: &[f32], x: &[f64]) -> f64 {
        row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()
    }
}
