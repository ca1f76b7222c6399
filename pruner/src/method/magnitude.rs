//! The smallest weights go. The baseline that every method must beat; needs no text.

use spm::Mask;

use super::{Job, Method, Needs};
use crate::error::Error;

pub(super) struct Magnitude;

impl Method for Magnitude {
    fn name(&self) -> &'static str {
        "magnitude"
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn prune(&self, job: &mut Job<'_>) -> Result<Mask, Error> {
        let scores: Vec<f32> = job.weights.iter().map(|w| w.abs()).collect();
        job.select(self, &scores)
    }
}
