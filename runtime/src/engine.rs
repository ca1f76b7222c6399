//! What every product needs to know: the shape, the kernels, the threads, the precision.

use spm::Config;

use crate::error::Error;
use crate::pool::{Pool, Spawn, spawn};
use crate::simd::{self, Kernels};

/// How activations enter the products with integer-coded weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As int8 in blocks of 32: fast, the default.
    #[default]
    Int8,
    /// As f32, with weights exactly as stored: the reference, for evaluation and calibration.
    Exact,
}

/// How to run.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Threads of the engine's own pool; 0 counts as 1.
    pub threads: usize,
    /// Precision of the activations.
    pub precision: Precision,
    /// Kernels by name; the best of this machine if `None`.
    pub kernel: Option<String>,
    /// How the pool's threads are begun.
    pub spawn: Spawn,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions { threads: 0, precision: Precision::default(), kernel: None, spawn }
    }
}

/// Shape, kernels, threads and precision, shared by everything that multiplies.
pub struct Engine {
    config: Config,
    kernels: &'static Kernels,
    pool: Pool,
    precision: Precision,
}

impl Engine {
    /// An engine for models of this shape.
    pub fn new(config: &Config, options: &EngineOptions) -> Result<Self, Error> {
        config.validate()?;
        Ok(Engine {
            config: config.clone(),
            kernels: choose(options.kernel.as_deref())?,
            pool: Pool::new(options.threads, options.spawn)?,
            precision: options.precision,
        })
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The kernels in use.
    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Precision of the activations.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Cuts vectors of `width` into one run a thread and calls `work` with the index of a run's first and the run.
    /// One vector stays on this thread.
    pub(crate) fn for_each_part(&self, vectors: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
        let n = vectors.len() / width;
        if n == 1 {
            return work(0, vectors);
        }
        let share = n.div_ceil(self.threads());
        let mut parts: Vec<_> = vectors.chunks_mut(share * width).collect();
        self.pool.for_each(&mut parts, |i, part| work(i * share, part));
    }
}

fn choose(name: Option<&str>) -> Result<&'static Kernels, Error> {
    let Some(name) = name else { return Ok(simd::best()) };
    let found = simd::available().iter().find(|k| k.name() == name);
    found.copied().ok_or_else(|| Error::UnknownKernel {
        name: name.to_owned(),
        available: simd::available().iter().map(|k| k.name()).collect::<Vec<_>>().join(", "),
    })
}
