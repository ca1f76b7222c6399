//! The streaming driver: layer by layer, and inside a layer site by site, observe, prune, store, go on.
//!
//! Every site sees what is already pruned and rounded upstream of it, in its own layer too: the statistics
//! are those of the model that will run. (The published Wanda gathers all sites of a layer before it prunes
//! the first; that costs a second pass and sees inputs that the sub-model never has.)

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use rayon::ThreadPool;
use runtime::Layer;
use spm::encode::{RowEncoder, encode};
use spm::{Checkpoint, Config, Encoding, Mask, Matrix, POSITIONS, Shortlist, row_bytes};

use crate::allocation::{Allocation, Treatment, ValueType};
use crate::error::Error;
use crate::importance;
use crate::journal::{Fingerprint, Journal};
use crate::method::{Job, Method, Needs, by_name};
use crate::pattern::{Group, Pattern};
use crate::plan::{self, Work};
use crate::provenance::sha256_of_windows;
use crate::refit::refit;
use crate::report::{JudgedBy, Report, TensorReport, Warning};
use crate::rounding::Rounding;
use crate::shortlist::{shortened, source_rows};
use crate::sink::Sink;
use crate::states::Residence;
use crate::statistics::{ColumnNorms, Inputs};
use crate::stream::{MATRICES, Site, Stream};

/// How a model is pruned.
#[derive(Clone, Debug)]
pub struct PruneOptions {
    /// Which weights go.
    pub method: &'static dyn Method,
    /// How many of them, in which shape.
    pub pattern: Pattern,
    /// Among which weights scores are compared; `None` for the method's own choice.
    pub group: Option<Group>,
    /// Whether the kept weights are fitted anew, by least squares, after any mask.
    pub refit: bool,
    /// How weights become codes.
    pub rounding: RoundingKind,
    /// Tensors whose name contains one of these stay dense, in the encoding of the values.
    pub ignore: Vec<String>,
    /// How the decoder layers' weights are stored.
    pub values: ValueType,
    /// How the embedding and the output head are stored; they are never pruned.
    pub head: ValueType,
    /// What is treated otherwise.
    pub allocation: Allocation,
    /// The tokens that the output head keeps rows for; all if `None`.
    pub shortlist: Option<Shortlist>,
    /// Threads; 0 counts as 1.
    pub threads: usize,
    /// Where hidden states are meanwhile.
    pub residence: Residence,
}

/// How weights become the codes that are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoundingKind {
    /// Compensated where the method has products of inputs anyway, else to the nearest.
    #[default]
    Auto,
    /// Each to the nearest.
    Nearest,
    /// What rounding one changes is made up for in others.
    Compensated,
}

/// How far a pruning has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Decoder layer, from 0; `layers` when embedding and head are being stored.
    pub layer: usize,
    /// Decoder layers.
    pub layers: usize,
    /// What is being done, such as `ffn_in`.
    pub step: &'static str,
    /// Work done, in units of about one multiply-add: the time left is the time so far times what is left
    /// over what is done and was not resumed.
    pub done: u64,
    /// All the work.
    pub total: u64,
    /// Of the work done, what an earlier run did: it took no time in this one.
    pub resumed: u64,
}

impl Progress {
    /// Tells `whom`; an error if they want it to stop.
    pub(crate) fn tell(self, whom: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<(), Error> {
        match whom(self) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        }
    }
}

/// Wanda at 50 %, values in f16, head in q8.
impl Default for PruneOptions {
    fn default() -> Self {
        PruneOptions {
            method: crate::method::METHODS[0],
            pattern: Pattern::Unstructured { sparsity: 0.5 },
            group: None,
            refit: false,
            rounding: RoundingKind::Auto,
            ignore: Vec::new(),
            values: ValueType::F16,
            head: ValueType::Q8,
            allocation: Allocation::default(),
            shortlist: None,
            threads: 1,
            residence: Residence::default(),
        }
    }
}

impl PruneOptions {
    /// Refuses options that make no sense for a model of this shape.
    pub fn check(&self, config: &Config) -> Result<(), Error> {
        self.everywhere().check(config.dim)?;
        let matrices: Vec<(String, usize)> = layer_matrices(config).map(|(name, (_, cols))| (name, cols)).collect();
        matrices.iter().try_for_each(|(name, cols)| self.treatment(name).check(*cols))?;
        let tables: Vec<String> = tables(config).map(|(name, ..)| name).collect();
        let other_matrix = self.allocation.matrices.keys().find(|name| !matrices.iter().any(|(n, _)| n == *name));
        let other_table = self.allocation.tables.keys().find(|name| !tables.contains(name));
        if let Some(name) = other_matrix.or(other_table) {
            return Err(Error::option("tensor to treat otherwise", name, "a matrix of this model"));
        }
        match self.ignore.iter().find(|p| !matrices.iter().any(|(name, _)| name.contains(p.as_str()))) {
            Some(pattern) => Err(Error::NothingIgnored { pattern: pattern.clone() }),
            None => Ok(()),
        }
    }

    /// What becomes of the matrices that nothing else is said of.
    fn everywhere(&self) -> Treatment {
        Treatment { pattern: self.pattern, values: self.values }
    }

    /// What becomes of matrix `tensor`.
    pub fn treatment(&self, tensor: &str) -> Treatment {
        let allocated = self.allocation.matrices.get(tensor).copied();
        match self.ignores(tensor) {
            false => allocated.unwrap_or(self.everywhere()),
            true => allocated.filter(|t| t.pattern.is_dense()).unwrap_or(Treatment::dense(self.values)),
        }
    }

    /// Whether `tensor` is to stay dense whatever becomes of others.
    pub(crate) fn ignores(&self, tensor: &str) -> bool {
        self.ignore.iter().any(|p| tensor.contains(p.as_str()))
    }

    /// How `table`, the embedding or the head, is stored.
    pub fn table_values(&self, table: &str) -> ValueType {
        self.allocation.tables.get(table).copied().unwrap_or(self.head)
    }

    /// Whether calibration windows will be looked at.
    pub fn needs_calibration(&self) -> bool {
        self.needs() != Needs::Nothing
    }

    /// Statistics that will be gathered.
    pub fn needs(&self) -> Needs {
        let others = self.allocation.matrices.values().map(|t| self.needs_of(*t));
        others.fold(self.needs_of(self.everywhere()), Needs::max)
    }

    /// Statistics that a matrix needs.
    fn needs_of(&self, treatment: Treatment) -> Needs {
        match treatment.pattern.is_dense() {
            true if self.compensates(treatment) => Needs::Gram.max(self.method.needs()),
            true => Needs::Nothing,
            false if self.compensates(treatment) || self.refit => Needs::Gram.max(self.method.needs()),
            false => self.method.needs(),
        }
    }

    /// Whether rounding is compensated.
    fn compensates(&self, treatment: Treatment) -> bool {
        match self.rounding {
            RoundingKind::Auto => self.method.needs() >= Needs::Gram && treatment.values != ValueType::F16,
            RoundingKind::Nearest => false,
            RoundingKind::Compensated => treatment.values != ValueType::F16,
        }
    }

    /// Work of a weight of matrix `tensor` of `cols` columns: scoring, selecting, encoding, reading back, and what the method
    /// and compensated rounding add, which is one sweep and four rounds of descent.
    pub(crate) fn cost(&self, tensor: &str, cols: usize) -> u64 {
        let treatment = self.treatment(tensor);
        let method = if treatment.pattern.is_dense() { 0 } else { self.method.cost(cols) };
        let rounding = if self.compensates(treatment) { 5 * cols as u64 } else { 0 };
        let refit = if self.refit && !treatment.pattern.is_dense() { 30 * cols as u64 } else { 0 };
        plan::PRUNE_COST + method + rounding + refit
    }

    /// All that the result depends on, for people to compare.
    pub(crate) fn facts(&self) -> Vec<(String, String)> {
        let PruneOptions {
            method,
            pattern,
            group,
            refit,
            rounding,
            ignore,
            values,
            head,
            allocation,
            shortlist,
            threads: _,
            residence: _,
        } = self;
        let everywhere = [
            ("method", method.name().to_owned()),
            ("pattern", pattern.to_string()),
            ("sparsity", pattern.sparsity().to_string()),
            ("group", group.map_or("the method's own".to_owned(), |g| g.to_string())),
            ("refit", refit.to_string()),
            ("rounding", rounding.to_string()),
            ("ignored tensors", ignore.join(", ")),
            ("values", values.to_string()),
            ("head", head.to_string()),
            ("shortlist", shortlist.as_ref().map_or("none".to_owned(), said_shortlist)),
        ];
        let everywhere = everywhere.into_iter().map(|(key, value)| (key.to_owned(), value));
        let matrices = allocation.matrices.iter().map(|(name, treatment)| (name.clone(), treatment.to_string()));
        let tables = allocation.tables.iter().map(|(name, values)| (name.clone(), values.to_string()));
        everywhere.chain(matrices).chain(tables).collect()
    }

    /// Among which weights the method compares.
    pub fn group_of_method(&self) -> Group {
        self.group.unwrap_or(self.method.group())
    }

    /// The matrices for which norms of inputs are needed, with their shapes.
    pub fn matrices_with_norms(&self, config: &Config) -> impl Iterator<Item = (String, (usize, usize))> {
        layer_matrices(config).filter(|(name, _)| self.needs_of(self.treatment(name)) == Needs::ColumnNorms)
    }

    /// Takes the method by its name.
    pub fn with_method(mut self, name: &str) -> Result<Self, Error> {
        self.method = by_name(name)?;
        Ok(self)
    }
}

impl std::str::FromStr for RoundingKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(RoundingKind::Auto),
            "nearest" => Ok(RoundingKind::Nearest),
            "compensated" => Ok(RoundingKind::Compensated),
            _ => Err(Error::option("rounding", text, "`auto`, `nearest` or `compensated`")),
        }
    }
}

impl std::fmt::Display for RoundingKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            RoundingKind::Auto => "auto",
            RoundingKind::Nearest => "nearest",
            RoundingKind::Compensated => "compensated",
        })
    }
}

/// What is known of the inputs of matrices.
#[derive(Clone, Copy)]
pub enum Known<'a> {
    /// They are observed while the model runs on these windows of calibration tokens. A method that needs no statistics
    /// does not look at them.
    Windows(&'a [Vec<u32>]),
    /// Norms that were measured elsewhere, by GGUF's name of each matrix that is pruned: the model is not run.
    Norms(&'a BTreeMap<String, ColumnNorms>),
}

/// Prunes `source` and hands every tensor of the new model to `sink`.
///
/// `windows` are the calibration tokens; a method that needs no statistics does not look at them. `progress`
/// is called after every piece of work, from this thread; when it breaks, the result is [`Error::Interrupted`].
pub fn prune(
    source: &dyn Checkpoint,
    options: &PruneOptions,
    windows: &[Vec<u32>],
    sink: &mut dyn Sink,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Report, Error> {
    prune_noting(source, options, Known::Windows(windows), sink, None, progress)
}

/// The same with norms that were measured elsewhere. An error if a norm is missing, or if more than norms are needed.
pub fn prune_with_norms(
    source: &dyn Checkpoint,
    options: &PruneOptions,
    norms: &BTreeMap<String, ColumnNorms>,
    sink: &mut dyn Sink,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Report, Error> {
    prune_noting(source, options, Known::Norms(norms), sink, None, progress)
}

/// The same as these two, noting in `journal` all that is done, and taking from it what an earlier run has done: the result
/// is the same to the bit, however often a run was killed. `journal` must be of these options and of what is known.
pub fn prune_resumable(
    source: &dyn Checkpoint,
    options: &PruneOptions,
    known: Known,
    sink: &mut dyn Sink,
    journal: &mut Journal,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Report, Error> {
    journal.check(&Fingerprint::new(source, journal.source_sha256(), options, known))?;
    prune_noting(source, options, known, sink, Some(journal), progress)
}

fn prune_noting(
    source: &dyn Checkpoint,
    options: &PruneOptions,
    known: Known,
    sink: &mut dyn Sink,
    journal: Option<&mut Journal>,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Report, Error> {
    let config = &shortened(source, options.shortlist.as_ref())?;
    config.validate()?;
    options.check(config)?;
    check_tensors(source)?;
    let windows = known.windows(options);
    match known {
        Known::Windows(_) => check_windows(windows, options, options.needs_calibration(), config)?,
        Known::Norms(norms) => check_known_norms(norms, options, config)?,
    }
    let mut run = Run::new(source, config, options, windows, sink, journal, progress);
    run.report.judged_by = JudgedBy::of(options.needs(), windows.len());
    run.store_outside_layers()?;
    match known {
        Known::Windows(_) if options.needs_calibration() => {
            let (needs, threads) = (options.needs(), options.threads);
            run.prune_observed(&mut Stream::new(source, windows, needs, threads, &options.residence)?)?;
        }
        Known::Windows(_) => run.prune_unseen(&BTreeMap::new())?,
        Known::Norms(norms) => run.prune_unseen(norms)?,
    }
    if options.needs() >= Needs::Gram {
        run.report.warnings = Warning::of_few_tokens(config, windows);
    }
    run.report.warn_of_matrices(options.method.needs() >= Needs::Gram);
    Ok(run.report)
}

impl<'a> Known<'a> {
    /// The windows that will be looked at.
    pub(crate) fn windows(self, options: &PruneOptions) -> &'a [Vec<u32>] {
        match self {
            Known::Windows(windows) if options.needs_calibration() => windows,
            _ => &[],
        }
    }
}

struct Run<'a> {
    source: &'a dyn Checkpoint,
    /// Of the new model.
    config: &'a Config,
    options: &'a PruneOptions,
    sink: &'a mut dyn Sink,
    journal: Option<&'a mut Journal>,
    meter: Meter<'a>,
    work: Work,
    report: Report,
}

impl<'a> Run<'a> {
    fn new(
        source: &'a dyn Checkpoint,
        config: &'a Config,
        options: &'a PruneOptions,
        windows: &[Vec<u32>],
        sink: &'a mut dyn Sink,
        journal: Option<&'a mut Journal>,
        progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Self {
        let layers = config.n_layers;
        let work = Work::new(config, options, windows);
        let meter = Meter { progress, done: 0, total: work.total(), resumed: 0, layer: layers, layers };
        let tokens = windows.iter().map(|w| w.len() as u64).sum();
        Run { source, config, options, sink, journal, meter, work, report: Report { tokens, ..Report::default() } }
    }

    fn store_outside_layers(&mut self) -> Result<(), Error> {
        for (name, rows, cols) in outside_layers(self.config) {
            if rows == 1 || name == POSITIONS {
                self.store_vector(&name)?;
            } else {
                self.store_table(&name, (rows, cols))?;
            }
        }
        Ok(())
    }

    fn prune_observed(&mut self, stream: &mut Stream) -> Result<(), Error> {
        let n_layers = self.source.config().n_layers;
        let first = self.resume(stream)?;
        for index in 0..first {
            // All its matrices are in the journal.
            self.prune_layer_unseen(index, &BTreeMap::new())?;
            self.meter.skip("resume", self.work.layer())?;
        }
        for index in first..n_layers {
            self.meter.layer = index;
            self.store_vectors_of(index)?;
            let mut layer = Layer::load(self.source, stream.engine(), index)?;
            let (needs, group) = (self.options.needs(), self.options.group_of_method());
            let mut dense = match needs {
                Needs::DenseOutputs => Some(self.expanded_layer(index, stream)?),
                _ => None,
            };
            for site in Site::ALL {
                let mut inputs = self.look(stream, &layer, dense.as_ref(), index, site)?;
                let pool = stream.pool();
                if let (Needs::DenseOutputs, Group::Matrix, Some(inputs)) = (needs, group, &mut inputs) {
                    let held_out = inputs.held_out.as_ref();
                    inputs.importance = pool.install(|| importance::of_site(self.source, index, site, held_out))?;
                }
                if site == Site::FfnHidden {
                    // It has left the layer, and the widest matrix needs the room.
                    dense = None;
                }
                for short in site.matrices(self.config) {
                    let pruned = self.matrix(index, site, short, inputs.as_ref(), Some(&pool))?;
                    // Expanded once: every window multiplies with it, and that is where the time goes.
                    layer.set(short, expanded(short, &pruned)?)?;
                }
            }
            let (meter, cost) = (&mut self.meter, self.work.leave());
            stream.leave(&layer, &mut |tokens| meter.tick("leave", cost * tokens as u64))?;
            if index + 1 < n_layers {
                self.save(index + 1, stream)?;
            }
        }
        Ok(())
    }

    /// Moves the stream to a site; its inputs unless nothing is left to prune with them.
    fn look(
        &mut self,
        stream: &mut Stream,
        layer: &Layer,
        dense: Option<&Layer>,
        index: usize,
        site: Site,
    ) -> Result<Option<Inputs>, Error> {
        let (meter, cost) = (&mut self.meter, self.work.pass(site));
        let tick = &mut |tokens| meter.tick(site.name(), cost * tokens as u64);
        if self.journal.as_ref().is_some_and(|j| j.has_next(site.matrices(self.config).len())) {
            stream.pass(layer, dense, site, tick)?;
            return Ok(None);
        }
        let inputs = stream.observe(layer, dense, site, self.options.needs(), tick)?;
        check_norms(index, site, &inputs.norms)?;
        Ok(Some(inputs))
    }

    /// The dense layer in f32, for the dense model to be followed with.
    fn expanded_layer(&self, index: usize, stream: &Stream) -> Result<Layer, Error> {
        let mut layer = Layer::load(self.source, stream.engine(), index)?;
        for short in Site::ALL.iter().flat_map(|site| site.matrices(self.config)) {
            let name = format!("blk.{index}.{short}");
            let (shape, weights) = (expect(self.source, &name)?, read_all(self.source, &name)?);
            layer.set(short, store(&name, Encoding::F32, shape, &weights, None)?)?;
        }
        Ok(layer)
    }

    /// Without running the model: with `norms` by the name of the matrix, or none.
    fn prune_unseen(&mut self, norms: &BTreeMap<String, ColumnNorms>) -> Result<(), Error> {
        (0..self.source.config().n_layers).try_for_each(|index| self.prune_layer_unseen(index, norms))
    }

    fn prune_layer_unseen(&mut self, index: usize, norms: &BTreeMap<String, ColumnNorms>) -> Result<(), Error> {
        self.meter.layer = index;
        self.store_vectors_of(index)?;
        for site in Site::ALL {
            for short in site.matrices(self.config) {
                let norms = norms.get(&format!("blk.{index}.{short}"));
                let inputs = norms.map(|norms| Inputs::from(norms.clone()));
                self.matrix(index, site, short, inputs.as_ref(), None)?;
            }
        }
        Ok(())
    }

    /// Gives `stream` the newest hidden states of an earlier run; the layer that begins with them. It is the end where
    /// all matrices are known, as nothing has to be seen then.
    fn resume(&mut self, stream: &mut Stream) -> Result<usize, Error> {
        let Some(journal) = &mut self.journal else { return Ok(0) };
        let n_layers = self.source.config().n_layers;
        if journal.has_next(n_layers * Site::matrices_of_layer(self.config)) {
            return Ok(n_layers);
        }
        let is_known =
            |layer: &usize| *layer < n_layers && journal.has_next(layer * Site::matrices_of_layer(self.config));
        let Some(layer) = journal.saved_layer().filter(is_known) else { return Ok(0) };
        let mut states = journal.saved_states()?;
        stream.states().fill(&mut |part| states.read(part))?;
        Ok(layer)
    }

    /// Saves the hidden states with which `layer` begins, if it is time.
    fn save(&mut self, layer: usize, stream: &mut Stream) -> Result<(), Error> {
        let Some(journal) = self.journal.as_mut().filter(|j| j.wants_states()) else { return Ok(()) };
        let mut states = journal.save_states(layer)?;
        stream.states().each(&mut |part| states.push(part))?;
        states.finish()?;
        journal.keep_states(layer)
    }

    /// A matrix of the new model, from the journal if it is there.
    fn matrix(
        &mut self,
        layer: usize,
        site: Site,
        short: &str,
        inputs: Option<&Inputs>,
        pool: Option<&ThreadPool>,
    ) -> Result<Matrix, Error> {
        let name = format!("blk.{layer}.{short}");
        let shape = expect(self.source, &name)?;
        let work = self.options.cost(&name, shape.1) * shape.0 as u64 * shape.1 as u64;
        let noted = self.journal.as_mut().map(|j| j.next_matrix(&name, shape)).transpose()?.flatten();
        let is_noted = noted.is_some();
        let Outcome { stored, relative_error, fell_back } = match noted {
            Some(outcome) => outcome,
            None => self.prune_matrix(&name, shape, inputs, pool)?,
        };
        self.push(&name, &stored)?;
        self.report.tensors.push(TensorReport {
            encoding: stored.encoding(),
            kept: stored.kept(),
            total: shape.0 as u64 * shape.1 as u64,
            bytes: stored.byte_len() as u64,
            relative_error,
            fell_back,
            name,
        });
        match is_noted {
            true => self.meter.skip("resume", work)?,
            false => self.meter.tick(site.name(), work)?,
        }
        Ok(stored)
    }

    fn prune_matrix(
        &mut self,
        name: &str,
        shape: (usize, usize),
        inputs: Option<&Inputs>,
        pool: Option<&ThreadPool>,
    ) -> Result<Outcome, Error> {
        let dense = read_all(self.source, name)?;
        check_finite(name, &dense, shape.1)?;
        let options = self.options;
        let found = match pool {
            Some(pool) => pool.install(|| outcome(options, name, shape, &dense, inputs))?,
            None => outcome(options, name, shape, &dense, inputs)?,
        };
        if let Some(journal) = &mut self.journal {
            journal.note_matrix(name, &found)?;
        }
        Ok(found)
    }

    fn store_vectors_of(&mut self, layer: usize) -> Result<(), Error> {
        let prefix = format!("blk.{layer}.");
        for (name, rows, _) in self.source.config().tensors() {
            if rows == 1 && name.starts_with(&prefix) && !is_layer_matrix(&name) {
                self.store_vector(&name)?;
            }
        }
        Ok(())
    }

    fn store_vector(&mut self, name: &str) -> Result<(), Error> {
        let (rows, cols) = expect(self.source, name)?;
        let values = read_all(self.source, name)?;
        check_finite(name, &values, cols)?;
        let stored = store(name, Encoding::F32, (rows, cols), &values, None)?;
        self.push(name, &stored)
    }

    fn store_table(&mut self, name: &str, (rows, cols): (usize, usize)) -> Result<(), Error> {
        let encoding = self.options.table_values(name).dense();
        let meter = &mut self.meter;
        let tick = &mut |rows| meter.tick("embedding", plan::ENCODE_COST * (rows * cols) as u64);
        let from = source_rows(name, rows, self.config, self.source.config());
        let stored = encode_table(self.source, name, &from, cols, encoding, tick)?;
        self.push(name, &stored)
    }

    fn push(&mut self, name: &str, matrix: &Matrix) -> Result<(), Error> {
        let bytes = matrix.byte_len() as u64;
        self.report.bytes += bytes;
        match name {
            "token_embd.weight" => self.report.embedding_bytes = bytes,
            "output.weight" => self.report.head_bytes = bytes,
            _ => {}
        }
        self.sink.push(name, matrix)
    }
}

/// Encodes the rows `from` of table `name` one by one: embeddings are the largest tensors, and need never be expanded as a
/// whole. `tick` is called now and then with the number of rows done.
pub(crate) fn encode_table(
    source: &dyn Checkpoint,
    name: &str,
    from: &[usize],
    cols: usize,
    encoding: Encoding,
    tick: &mut dyn FnMut(usize) -> Result<(), Error>,
) -> Result<Matrix, Error> {
    const STEP: usize = 1024;
    let shape_error = |source| Error::Shape { tensor: name.to_owned(), source };
    let rows = from.len();
    let mut encoder = RowEncoder::new(encoding, rows, cols).map_err(shape_error)?;
    let everything = vec![0xFF; row_bytes(cols)];
    let mut row = vec![0.0; cols];
    for (r, &from) in from.iter().enumerate() {
        source.read_rows(name, from, &mut row).ok_or_else(|| missing(name))?;
        if let Some(col) = row.iter().position(|v| !v.is_finite()) {
            return Err(not_finite(name, from, col, row[col]));
        }
        encoder.push(&row, &everything).map_err(shape_error)?;
        if r % STEP == STEP - 1 {
            tick(STEP)?;
        }
    }
    let stored = encoder.finish().map_err(shape_error)?;
    for r in 0..rows {
        stored.read_row(r, &mut row);
        if let Some(col) = row.iter().position(|v| !v.is_finite()) {
            return Err(overflow(name, r, col, row[col], encoding));
        }
    }
    tick(rows % STEP)?;
    Ok(stored)
}

/// What is stored of a matrix, how far that is from it, and whether the method fell back to another.
pub(crate) struct Outcome {
    pub(crate) stored: Matrix,
    pub(crate) relative_error: f64,
    pub(crate) fell_back: bool,
}

/// Treats one matrix as `options` say.
pub(crate) fn outcome(
    options: &PruneOptions,
    name: &str,
    shape: (usize, usize),
    dense: &[f32],
    inputs: Option<&Inputs>,
) -> Result<Outcome, Error> {
    let mut fell_back = false;
    let treatment = options.treatment(name);
    let stored = if treatment.pattern.is_dense() {
        let everything = Mask::all(shape.0, shape.1);
        round(options, name, treatment, shape, (dense, dense), &everything, inputs)?
    } else {
        let mut weights = dense.to_vec();
        let job = &mut Job {
            tensor: name,
            shape,
            weights: &mut weights,
            inputs,
            importance: inputs.and_then(|inputs| inputs.importance.get(name)).map(Vec::as_slice),
            pattern: treatment.pattern,
            group: options.group,
            fell_back: false,
        };
        let mask = options.method.prune(job)?;
        fell_back = job.fell_back;
        weights.chunks_exact_mut(shape.1).enumerate().for_each(|(row, weights)| mask.clear(row, weights));
        if let (true, Some(gram)) = (options.refit, inputs.and_then(Inputs::damped)) {
            let shift = inputs.and_then(|inputs| inputs.shift(dense));
            refit(&mut weights, dense, shift.as_deref(), &mask, gram);
        }
        let nothing_went = mask.kept() == dense.len() as u64;
        let treatment = if nothing_went { Treatment::dense(treatment.values) } else { treatment };
        round(options, name, treatment, shape, (dense, &weights), &mask, inputs)?
    };
    let relative_error = compare(name, dense, &stored, inputs)?;
    Ok(Outcome { stored, relative_error, fell_back })
}

/// Stores `pruned`, which is to do what `dense` does.
fn round(
    options: &PruneOptions,
    name: &str,
    treatment: Treatment,
    shape: (usize, usize),
    (dense, pruned): (&[f32], &[f32]),
    mask: &Mask,
    inputs: Option<&Inputs>,
) -> Result<Matrix, Error> {
    let encoding = treatment.encoding(shape.1)?;
    let compensating = inputs.filter(|_| options.compensates(treatment) && encoding.is_integer());
    let Some((gram, factor)) = compensating.and_then(|inputs| inputs.damped().zip(inputs.factor())) else {
        return store(name, encoding, shape, pruned, Some(mask));
    };
    let shift = compensating.and_then(|inputs| inputs.shift(dense));
    let rounding = Rounding { encoding, shape, dense, shift: shift.as_deref(), pruned, mask, gram, factor };
    rounding.round().map_err(|source| Error::Shape { tensor: name.to_owned(), source })
}

/// How many tokens, and their hash.
fn said_shortlist(list: &Shortlist) -> String {
    format!("{} tokens {}", list.len(), sha256_of_windows(&[list.ids().to_vec()]))
}

/// Counts the work and passes it on.
struct Meter<'a> {
    progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    done: u64,
    total: u64,
    resumed: u64,
    layer: usize,
    layers: usize,
}

impl Meter<'_> {
    /// Counts work that an earlier run did.
    fn skip(&mut self, step: &'static str, work: u64) -> Result<(), Error> {
        self.resumed += work;
        self.tick(step, work)
    }

    fn tick(&mut self, step: &'static str, work: u64) -> Result<(), Error> {
        self.done = (self.done + work).min(self.total);
        let Meter { layer, layers, done, total, resumed, .. } = *self;
        Progress { layer, layers, step, done, total, resumed }.tell(self.progress)
    }
}

/// The matrices that may be pruned, with their shapes.
pub(crate) fn layer_matrices(config: &Config) -> impl Iterator<Item = (String, (usize, usize))> {
    let all = config.tensors().into_iter();
    all.filter(|(name, ..)| is_layer_matrix(name)).map(|(name, rows, cols)| (name, (rows, cols)))
}

/// Embedding, learned positions, output norm and head: name, rows, columns.
pub(crate) fn outside_layers(config: &Config) -> impl Iterator<Item = (String, usize, usize)> + use<> {
    config.tensors().into_iter().filter(|(name, ..)| !name.starts_with("blk."))
}

/// The embedding and the head, if that is another: name, rows, columns.
pub(crate) fn tables(config: &Config) -> impl Iterator<Item = (String, usize, usize)> + use<> {
    outside_layers(config).filter(|(name, rows, _)| *rows > 1 && name != POSITIONS)
}

fn is_layer_matrix(name: &str) -> bool {
    let short = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).map(|(_, short)| short);
    short.is_some_and(|short| MATRICES.contains(&short))
}

/// Every tensor must be there, in the shape that the model's calls for, before any work is done.
fn check_tensors(source: &dyn Checkpoint) -> Result<(), Error> {
    for (name, expected_rows, expected_cols) in source.config().tensors() {
        let (rows, cols) = expect(source, &name)?;
        if (rows, cols) != (expected_rows, expected_cols) {
            return Err(runtime::Error::Shape { name, expected_rows, expected_cols, rows, cols }.into());
        }
    }
    Ok(())
}

fn check_windows(windows: &[Vec<u32>], options: &PruneOptions, needed: bool, config: &Config) -> Result<(), Error> {
    if needed && windows.iter().all(Vec::is_empty) {
        return Err(Error::NoCalibration { method: options.method.name() });
    }
    match windows.iter().flatten().find(|&&t| t as usize >= config.vocab_size) {
        Some(&token) => Err(Error::Token { token, vocab_size: config.vocab_size }),
        None => Ok(()),
    }
}

/// Norms must be there for each matrix that needs them, and be enough.
fn check_known_norms(
    norms: &BTreeMap<String, ColumnNorms>,
    options: &PruneOptions,
    config: &Config,
) -> Result<(), Error> {
    if options.needs() >= Needs::Gram {
        return Err(Error::NormsAlone { method: options.method.name() });
    }
    for (name, (_, cols)) in options.matrices_with_norms(config) {
        let found = norms.get(&name).map_or(0, ColumnNorms::cols);
        if found != cols {
            return Err(Error::Norms { tensor: name, found, expected: cols });
        }
    }
    Ok(())
}

fn check_norms(layer: usize, site: Site, norms: &ColumnNorms) -> Result<(), Error> {
    match norms.squares().iter().position(|s| !s.is_finite()) {
        Some(col) => Err(Error::Statistics { layer, site: site.name(), col, value: norms.squares()[col].sqrt() }),
        None => Ok(()),
    }
}

pub(crate) fn check_finite(name: &str, weights: &[f32], cols: usize) -> Result<(), Error> {
    match weights.iter().position(|w| !w.is_finite()) {
        Some(i) => Err(not_finite(name, i / cols, i % cols, weights[i])),
        None => Ok(()),
    }
}

fn expect(source: &dyn Checkpoint, name: &str) -> Result<(usize, usize), Error> {
    source.tensor(name).map(|t| (t.rows, t.cols)).ok_or_else(|| missing(name))
}

pub(crate) fn read_all(source: &dyn Checkpoint, name: &str) -> Result<Vec<f32>, Error> {
    source.read_all(name).ok_or_else(|| missing(name))
}

fn store(
    name: &str,
    encoding: Encoding,
    (rows, cols): (usize, usize),
    weights: &[f32],
    mask: Option<&Mask>,
) -> Result<Matrix, Error> {
    encode(encoding, rows, cols, weights, mask).map_err(|source| Error::Shape { tensor: name.to_owned(), source })
}

/// The same weights as dense f32.
fn expanded(name: &str, stored: &Matrix) -> Result<Matrix, Error> {
    let (rows, cols) = (stored.rows(), stored.cols());
    let mut weights = vec![0.0; rows * cols];
    stored.read_rows(0, &mut weights).ok_or_else(|| missing(name))?;
    store(name, Encoding::F32, (rows, cols), &weights, None)
}

/// Reads back what was stored, refuses what did not fit, and says how far it is from `dense`; see
/// [`TensorReport::relative_error`].
fn compare(name: &str, dense: &[f32], stored: &Matrix, inputs: Option<&Inputs>) -> Result<f64, Error> {
    let cols = stored.cols();
    let mut found = vec![0.0; dense.len()];
    stored.read_rows(0, &mut found).ok_or_else(|| missing(name))?;
    if let Some(i) = found.iter().position(|v| !v.is_finite()) {
        return Err(overflow(name, i / cols, i % cols, dense[i], stored.encoding()));
    }
    if let Some(held_out) = inputs.and_then(|i| i.held_out.as_ref()) {
        return Ok(held_out.relative_error(dense, &found).sqrt());
    }
    if let Some(gram) = inputs.and_then(|i| i.gram.as_ref()) {
        return Ok(gram.relative_error(dense, &found).sqrt());
    }
    let unweighted = vec![1.0; cols];
    let weights = inputs.map_or(&unweighted[..], |i| i.norms.squares());
    let (mut lost, mut all) = (0.0, 0.0);
    for (dense, found) in dense.chunks_exact(cols).zip(found.chunks_exact(cols)) {
        for ((&w, &kept), n) in dense.iter().zip(found).zip(weights) {
            lost += f64::from(w - kept).powi(2) * n;
            all += f64::from(w).powi(2) * n;
        }
    }
    Ok(if all > 0.0 { (lost / all).sqrt() } else { 0.0 })
}

pub(crate) fn missing(name: &str) -> Error {
    runtime::Error::MissingTensor { name: name.to_owned() }.into()
}

fn not_finite(name: &str, row: usize, col: usize, value: f32) -> Error {
    Error::NotFinite { tensor: name.to_owned(), what: "the weight", row, col, value }
}

fn overflow(name: &str, row: usize, col: usize, value: f32, encoding: Encoding) -> Error {
    Error::Overflow { tensor: name.to_owned(), row, col, value, encoding: encoding.name() }
}
