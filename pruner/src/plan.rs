//! What a pruning will cost, before it is done: bytes, memory, work.

use std::path::Path;
use std::time::{Duration, Instant};

use runtime::Layer;
use spm::levels::in_high_nibbles;
use spm::matrix::{self, PLANE_ALIGN};
use spm::{BLOCK, CHUNK, Checkpoint, Config, Encoding, POSITIONS, Shortlist, Vocabulary};

use crate::calibration;
use crate::error::Error;
use crate::method::Needs;
use crate::options::PruneOptions;
use crate::pattern::{Group, Pattern};
use crate::profile::{Budget, Profile};
use crate::shortlist::shortened;
use crate::site::Site;
use crate::states::{self, Residence};
use crate::stream::{self, Stream};
use crate::tensors::{layer_matrices, tables};

/// Work of scoring, selecting, encoding and reading back one weight, in multiply-adds.
pub(crate) const PRUNE_COST: u64 = 500;

/// Work of encoding one weight of the embedding.
pub(crate) const ENCODE_COST: u64 = 50;

/// Bytes that a thread packs parts of large matrices into to multiply them.
const PACKED: u64 = 4 << 20;

/// Where sections of a file begin.
const SECTION_ALIGN: u64 = 1 << 16;

/// The cost of a pruning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Bytes of the file: tensors, row starts, names, metadata, vocabulary, padding. A few bytes more or less
    /// depend on the texts of the metadata.
    pub file_bytes: u64,
    /// Bytes of the journal of [`crate::prune_resumable`]: the layers' matrices and, twice, the hidden states.
    pub journal_bytes: u64,
    /// Bytes of hidden states on disk beside these while pruning, if they are spilled.
    pub spilled_bytes: u64,
    /// Most memory in use at a time; pages of the mapped source, which the system can take back, not counted.
    pub peak_bytes: u64,
    /// Work, in the units of [`crate::Progress`]: about one multiply-add.
    pub work: u64,
    /// Work before it: of measuring what a profile goes by.
    pub measuring_work: u64,
}

/// Foresees what pruning `source` with `nsamples` windows of `seqlen` tokens costs.
///
/// Bytes of tensors are exact but for sparse-q4, where a row takes the longer of its two streams: they are what masks
/// at random would take, mostly within a few percent. A file that outgrows them is written all the same; only a full
/// disk is noticed later than at the start.
pub fn plan(source: &dyn Checkpoint, options: &PruneOptions, nsamples: usize, seqlen: usize) -> Result<Plan, Error> {
    let config = &shortened(source, options.shortlist.as_ref())?;
    config.validate()?;
    options.check(config)?;
    let observing = options.needs_calibration();
    // With an imatrix there are none.
    if observing && (nsamples, seqlen) != (0, 0) {
        check_windows(config, (nsamples, seqlen))?;
    }
    let (nsamples, seqlen) = if observing { (nsamples, seqlen) } else { (0, 0) };
    let sizes = sizes(config, options)?;
    let tensor_bytes = sizes.iter().map(|s| s.bytes).sum();
    Ok(Plan {
        tensor_bytes,
        file_bytes: file_bytes(&sizes, source.vocabulary(), config.shortlist.as_ref()),
        journal_bytes: journal_bytes(config, options, &sizes, nsamples as u64 * seqlen as u64),
        spilled_bytes: states::spilled_bytes(config, follows(options), (nsamples, seqlen), &options.residence),
        peak_bytes: peak_bytes(config, options, &sizes, (nsamples, seqlen)),
        work: Work::of(config, options, nsamples as u64, seqlen as u64).total(),
        measuring_work: 0,
    })
}

/// Foresees what pruning by a profile costs, and chooses where hidden states are, so that it takes no more than `memory` bytes:
/// in memory if they fit, else in a file in `folder`. An error if not even that is enough.
pub fn plan_within(
    source: &dyn Checkpoint,
    options: &mut PruneOptions,
    profile: Profile,
    (nsamples, seqlen): (usize, usize),
    memory: u64,
    folder: &Path,
) -> Result<Plan, Error> {
    options.residence = Residence::default();
    let ample = plan_profile(source, options, profile, nsamples, seqlen)?;
    let too_many = ample.peak_bytes.saturating_sub(memory) as usize;
    if too_many == 0 {
        return Ok(ample);
    }
    let wide_bytes = states::wide_bytes(source.config(), &options.residence, nsamples, seqlen);
    let fewer = wide_bytes.checked_sub(too_many).map(|wide_bytes| Residence::Memory { wide_bytes });
    let mut needed = ample.peak_bytes;
    // Measuring for a profile keeps fewer windows, so that keeping less of them may not be enough for it.
    for residence in fewer.into_iter().chain([Residence::Spilled(folder.to_owned())]) {
        options.residence = residence;
        let plan = plan_profile(source, options, profile, nsamples, seqlen)?;
        if plan.peak_bytes <= memory {
            return Ok(plan);
        }
        needed = plan.peak_bytes;
    }
    Err(Error::TooLittleMemory { needed, memory })
}

/// Refuses windows that are longer than what the model reads, or too many.
pub fn check_windows(c: &Config, (nsamples, seqlen): (usize, usize)) -> Result<(), Error> {
    calibration::check_size(nsamples, seqlen)?;
    match seqlen > c.context_len {
        true => {
            let expected = format!("at most {}, the context of the model", c.context_len);
            Err(Error::option("tokens a window", &seqlen.to_string(), expected))
        }
        false => Ok(()),
    }
}

/// The same wherever hidden states are.
fn plan_profile(
    source: &dyn Checkpoint,
    options: &PruneOptions,
    profile: Profile,
    nsamples: usize,
    seqlen: usize,
) -> Result<Plan, Error> {
    profile.check(source, options)?;
    let mut plan = plan(source, options, nsamples, seqlen)?;
    plan.peak_bytes = plan.peak_bytes.max(profile.peak_bytes(source, options, nsamples, seqlen));
    plan.measuring_work = profile.work(source, nsamples, seqlen);
    if let Profile::Auto(Budget::File(bytes)) = profile {
        // The layers' part of it is not known beforehand.
        plan.journal_bytes = plan.journal_bytes.saturating_add(bytes).saturating_sub(plan.file_bytes);
        plan.file_bytes = bytes;
    }
    Ok(plan)
}

/// How long a plan takes here, judged by running the first layer on a few tokens with the method's own passes.
pub fn estimate_time(source: &dyn Checkpoint, options: &PruneOptions, plan: &Plan) -> Result<Duration, Error> {
    const TOKENS: usize = 128;
    let threads = options.threads.max(1);
    let windows = vec![vec![0; TOKENS]; 2 * threads];
    let mut stream = Stream::new(source, &windows, options.needs(), threads, &options.residence)?;
    let layer = Layer::load(source, stream.engine(), 0)?;
    let dense = follows(options).then_some(&layer);
    let started = Instant::now();
    for site in Site::ALL {
        stream.observe(&layer, dense, site, options.needs(), &mut |_| Ok(()))?;
    }
    stream.leave(&layer, &mut |_| Ok(()))?;
    let work = Work::of(source.config(), options, windows.len() as u64, TOKENS as u64);
    let done = work.tokens * (work.passes.iter().sum::<u64>() + work.leave);
    Ok(started.elapsed().mul_f64((plan.work + plan.measuring_work) as f64 / done.max(1) as f64))
}

/// Multiply-adds of a pruning, pass by pass.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    passes: [u64; 4],
    leave: u64,
    tokens: u64,
    layers: u64,
    pruning: u64,
    outside: u64,
}

impl Work {
    pub(crate) fn new(config: &Config, options: &PruneOptions, windows: &[Vec<u32>]) -> Self {
        let tokens = windows.iter().map(|w| w.len() as u64).sum::<u64>();
        let n = windows.len() as u64;
        Work { tokens, ..Self::of(config, options, n, tokens.checked_div(n).unwrap_or(0)) }
    }

    fn of(c: &Config, options: &PruneOptions, nsamples: u64, seqlen: u64) -> Self {
        let (dim, hidden, q, kv) = (c.dim as u64, c.hidden_dim as u64, c.q_dim() as u64, c.kv_dim() as u64);
        let ffn_hidden = if c.gated { 2 * dim * hidden } else { dim * hidden };
        // A token attends to half the window on average, once for the scores and once for the values.
        let attention = dim * (q + 2 * kv) + q * seqlen;
        // Half of a symmetric matrix, four times as fast as the products of calibration.
        let products = |width: u64| if options.needs() >= Needs::Gram { width * width / 8 } else { 0 };
        // The dense model's way to a site, and the products with it.
        let beside = |width: u64, way: u64| match options.needs() {
            Needs::DenseOutputs => way + width * dim / 4,
            _ => 0,
        };
        let attended_again = if c.residual.is_parallel() { attention + q * dim } else { 0 };
        let kept = states::kept_windows(c, &options.residence, nsamples as usize, seqlen as usize);
        let again = nsamples - kept as u64;
        Work {
            passes: [
                8 * dim + products(dim) + beside(dim, 8 * dim),
                attention + products(q) + beside(q, attention + q * dim),
                q * dim + products(dim) + beside(dim, 8 * dim),
                ffn_hidden + products(hidden) + beside(hidden, ffn_hidden + dim * hidden + attended_again),
            ],
            leave: dim * hidden + ffn_hidden * again / nsamples.max(1),
            tokens: nsamples.saturating_mul(seqlen),
            layers: c.n_layers as u64,
            pruning: layer_matrices(c)
                .map(|(name, shape)| (shape.0 * shape.1) as u64 * options.cost(&name, shape))
                .sum(),
            outside: tables(c).map(|(_, rows, cols)| rows as u64 * cols as u64).sum(),
        }
    }

    /// Of moving one token to `site`.
    pub(crate) fn pass(&self, site: Site) -> u64 {
        self.passes[site as usize]
    }

    /// Of moving one token from the last site to the next layer.
    pub(crate) fn leave(&self) -> u64 {
        self.leave
    }

    /// Of moving all tokens through a layer.
    pub(crate) fn layer(&self) -> u64 {
        self.tokens.saturating_mul(self.passes.iter().sum::<u64>() + self.leave)
    }

    pub(crate) fn total(&self) -> u64 {
        let moving = self.layer().saturating_mul(self.layers);
        moving.saturating_add(self.pruning + self.outside * ENCODE_COST)
    }
}

struct Size {
    name: String,
    shape: (usize, usize),
    in_layer: bool,
    encoding: Encoding,
    bytes: u64,
    start_bytes: u64,
}

fn sizes(config: &Config, options: &PruneOptions) -> Result<Vec<Size>, Error> {
    let matrices: Vec<String> = layer_matrices(config).map(|(name, _)| name).collect();
    let all = config.tensors().into_iter();
    all.map(|(name, rows, cols)| {
        let in_layer = matrices.contains(&name);
        let encoding = match (in_layer, rows) {
            (true, _) => options.treatment(&name).encoding(cols)?,
            (false, 1) => Encoding::F32,
            (false, _) if name == POSITIONS => Encoding::F32,
            (false, _) => options.table_values(&name).dense(),
        };
        let pattern = options.treatment(&name).pattern;
        let (bytes, start_bytes) = bytes_of(encoding, pattern, options.group_of_method(), (rows, cols));
        Ok(Size { name, shape: (rows, cols), in_layer, encoding, bytes, start_bytes })
    })
    .collect()
}

/// Bytes of a matrix and of its row starts.
pub(crate) fn bytes_of(encoding: Encoding, pattern: Pattern, group: Group, (rows, cols): (usize, usize)) -> (u64, u64) {
    let has_starts = encoding.has_row_starts();
    let kept = if has_starts { kept_bytes(encoding, pattern, group, (rows, cols)) } else { 0 };
    let bytes = matrix::byte_len(encoding, rows, cols, kept).unwrap_or(usize::MAX) as u64;
    (bytes, if has_starts { 4 * (rows as u64 + 1) } else { 0 })
}

fn kept_bytes(encoding: Encoding, pattern: Pattern, group: Group, (rows, cols): (usize, usize)) -> usize {
    let all = rows * cols;
    let kept = match (pattern, group) {
        (Pattern::Unstructured { sparsity }, Group::Matrix) => all - (all as f64 * sparsity) as usize,
        _ => rows * (cols - pattern.pruned_of_row(cols)),
    };
    match encoding {
        Encoding::SparseF16 => 2 * kept,
        Encoding::SparseQ4 => (rows as f64 * longer_stream(kept as f64 / rows as f64, cols)) as usize,
        _ => kept,
    }
}

/// Nibbles in the longer stream of a sparse-q4 row that keeps `kept` of `cols` weights, on average over all masks: those
/// of the stream with more columns and, as either of two equal ones may turn out the longer, their mean deviation, which
/// is 0.8 of the standard deviation.
fn longer_stream(kept: f64, cols: usize) -> f64 {
    let chunks = cols.div_ceil(CHUNK);
    let high = (0..cols).filter(|col| in_high_nibbles(col / BLOCK, chunks)).count();
    let share = high.max(cols - high) as f64 / cols as f64;
    let deviation = (kept * share * (1.0 - share) * (1.0 - kept / cols as f64)).sqrt();
    kept * share + 0.8 * deviation
}

/// Whether the dense model is followed beside the pruned one.
fn follows(options: &PruneOptions) -> bool {
    options.needs() == Needs::DenseOutputs
}

fn journal_bytes(c: &Config, options: &PruneOptions, sizes: &[Size], tokens: u64) -> u64 {
    let head = |s: &Size| s.name.len() as u64 + s.start_bytes + 128;
    let records: u64 = sizes.iter().filter(|s| s.in_layer).map(|s| head(s) + s.bytes).sum();
    let streams = if follows(options) { 2 } else { 1 };
    records + 2 * (streams * tokens * c.dim as u64 * 4 + SECTION_ALIGN)
}

/// While a matrix is pruned: the stream, one layer in f32, and for the matrix its weights twice, scores, sort
/// keys and the new encoding. While a table is encoded: its planes, and the tensor they are copied to, each
/// grown by doubling.
fn peak_bytes(c: &Config, options: &PruneOptions, sizes: &[Size], (nsamples, seqlen): (usize, usize)) -> u64 {
    let weights = |s: &Size| s.shape.0 as u64 * s.shape.1 as u64;
    let inside = || sizes.iter().filter(|s| s.in_layer);
    let layer = inside().map(weights).sum::<u64>() / c.n_layers as u64 * 4;
    let matrix = inside().map(|s| weights(s) * (4 + 4 + 4 + 4 + 1) + 2 * s.bytes).max().unwrap_or(0);
    let threads = options.threads.clamp(1, nsamples.max(1));
    let observing = stream::byte_len(c, options.needs(), (nsamples, seqlen), threads, &options.residence);
    let running = if nsamples > 0 { observing + layer } else { 0 };
    let table = sizes.iter().filter(|s| !s.in_layer).map(|s| 3 * s.bytes).max().unwrap_or(0);
    let seen = stream::seen_bytes(c, options.needs(), nsamples, seqlen, threads);
    let solving = if options.needs() >= Needs::Gram {
        seen + solving_bytes(c, options.needs(), inside().map(weights), threads)
    } else {
        0
    };
    let all = (running + matrix + solving).max(table);
    // Small things, and rows that threads work on.
    all + all / 32
}

/// What methods with products of inputs need besides: a Gram matrix, a damped one and its factor, the products with the dense
/// model, and ten copies of the widest of matrices of so many `weights`, all f32; and what threads multiply large matrices with. (The dense model's layer is gone when the widest matrix is pruned.)
pub(crate) fn solving_bytes(c: &Config, needs: Needs, weights: impl Iterator<Item = u64>, threads: usize) -> u64 {
    let widest = c.hidden_dim.max(c.dim).max(c.q_dim()) as u64;
    let weights = weights.max().unwrap_or(0);
    let beside = if needs == Needs::DenseOutputs { c.dim as u64 } else { 0 };
    4 * ((3 * widest + beside) * widest + 10 * weights) + PACKED * threads as u64
}

/// The sections one after another, as the file's specification lays them out.
fn file_bytes(sizes: &[Size], vocabulary: Option<&Vocabulary>, shortlist: Option<&Shortlist>) -> u64 {
    let slack = sizes.iter().filter_map(|s| matrix::slack(s.encoding, s.shape.1)).max().unwrap_or(0) as u64;
    let data = sizes.iter().fold(0, |at: u64, s| at.next_multiple_of(PLANE_ALIGN as u64) + s.bytes) + slack;
    let rows = sizes.iter().map(|s| s.start_bytes).sum();
    let table = 4 + sizes.iter().map(|s| s.name.len() as u64 + 42).sum::<u64>();
    let metadata = 2048;
    let sections = [SECTION_ALIGN, data, rows, table, metadata];
    let aligned: u64 = sections.iter().map(|n| n.next_multiple_of(SECTION_ALIGN)).sum();
    let vocabulary = vocabulary.map_or(0, vocabulary_bytes);
    aligned + shortlist.map_or(vocabulary, |list| vocabulary.next_multiple_of(SECTION_ALIGN) + 4 * list.len() as u64)
}

fn vocabulary_bytes(v: &Vocabulary) -> u64 {
    let tokens: usize = v.tokens.iter().map(|t| t.len() + 3).sum();
    let numbers = 4 * v.scores.len() + 8 * v.merges.len() + 4 * v.end_of_generation.len();
    let template = v.chat_template.as_ref().map_or(0, String::len);
    (42 + v.pre.len() + tokens + numbers + template) as u64
}
