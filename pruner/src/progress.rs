//! How far a pruning has come.

use std::ops::ControlFlow;

use crate::error::Error;

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

/// Counts the work and passes it on.
pub(crate) struct Meter<'a> {
    pub(crate) progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    pub(crate) done: u64,
    pub(crate) total: u64,
    pub(crate) resumed: u64,
    pub(crate) layer: usize,
    pub(crate) layers: usize,
}

impl Meter<'_> {
    /// Counts work that an earlier run did.
    pub(crate) fn skip(&mut self, step: &'static str, work: u64) -> Result<(), Error> {
        self.resumed += work;
        self.tick(step, work)
    }

    pub(crate) fn tick(&mut self, step: &'static str, work: u64) -> Result<(), Error> {
        self.done = (self.done + work).min(self.total);
        let Meter { layer, layers, done, total, resumed, .. } = *self;
        Progress { layer, layers, step, done, total, resumed }.tell(self.progress)
    }
}
