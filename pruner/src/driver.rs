//! The streaming driver: layer by layer, and inside a layer site by site, observe, prune, store, go on.
//!
//! Every site sees what is already pruned and rounded upstream of it, in its own layer too: the statistics
//! are those of the model that will run. (The published Wanda gathers all sites of a layer before it prunes
//! the first; that costs a second pass and sees inputs that the sub-model never has.)

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use rayon::ThreadPool;
use runtime::Layer;
use spm::{Checkpoint, Config, Encoding, Matrix, POSITIONS};

use crate::error::Error;
use crate::importance;
use crate::journal::{Fingerprint, Journal};
use crate::method::Needs;
use crate::options::PruneOptions;
use crate::outcome::{Outcome, encode_table, expanded, outcome, store};
use crate::pattern::Group;
use crate::plan::{self, Work};
use crate::progress::{Meter, Progress};
use crate::report::{JudgedBy, Report, TensorReport, Warning};
use crate::shortlist::{shortened, source_rows};
use crate::sink::Sink;
use crate::site::Site;
use crate::statistics::{ColumnNorms, Inputs};
use crate::stream::Stream;
use crate::tensors::{check_finite, check_tensors, expect, is_layer_matrix, outside_layers, read_all};

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
        let work = self.options.cost(&name, shape) * shape.0 as u64 * shape.1 as u64;
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
