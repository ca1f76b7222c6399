//! The hidden states of all calibration windows: in memory, or in a file of which a few windows at a time are in memory.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use spm::Config;

use crate::error::Error;
use crate::linalg::zeroed;

/// Where the hidden states of the calibration windows are while a model is pruned. It changes no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Residence {
    /// In memory.
    Memory {
        /// Most bytes of down-projection inputs that are kept from the pass that observes them to the pass that uses them.
        /// They are the widest of all; those of further windows are computed again.
        wide_bytes: usize,
    },
    /// In a file without a name in this folder: slower, and as small as can be.
    Spilled(PathBuf),
}

impl Default for Residence {
    fn default() -> Self {
        Residence::Memory { wide_bytes: 192 << 20 }
    }
}

impl Residence {
    fn wide_bytes(&self) -> usize {
        match self {
            Residence::Memory { wide_bytes } => *wide_bytes,
            Residence::Spilled(_) => 0,
        }
    }
}

/// The states of one window of `n` tokens.
pub(crate) struct Window {
    /// `n x dim`: the residual stream.
    pub(crate) hidden: Vec<f32>,
    /// The dense model's; empty if it is not followed. It is ahead by the products that the site's matrices are yet to add.
    pub(crate) dense: Vec<f32>,
    /// `n x q_dim`: what attention made of it, between the sites `AttnOut` and `FfnIn`.
    pub(crate) attended: Vec<f32>,
    /// `n x hidden_dim`: inputs of the down projection from the site `FfnHidden` on; empty if not kept.
    pub(crate) wide: Vec<f32>,
}

/// A part of a window's states that a pass may leave where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Hidden,
    Dense,
    Attended,
}

/// What a pass does with the states.
pub(crate) struct Touched {
    pub(crate) reads: &'static [Part],
    pub(crate) writes: &'static [Part],
}

/// All of a window's states between two layers.
const BETWEEN_LAYERS: &[Part] = &[Part::Hidden, Part::Dense];

impl Window {
    fn new(n: usize, shape: &Shape, keep_wide: bool) -> Result<Self, Error> {
        let wide = if keep_wide { n.saturating_mul(shape.wide) } else { 0 };
        Ok(Window {
            hidden: zeroed("hidden states", n.saturating_mul(shape.dim))?,
            dense: zeroed("hidden states of the dense model", n.saturating_mul(shape.dense))?,
            attended: zeroed("attention outputs", n.saturating_mul(shape.attended))?,
            wide: zeroed("feed-forward inputs", wide)?,
        })
    }

    fn part(&self, part: Part) -> &[f32] {
        match part {
            Part::Hidden => &self.hidden,
            Part::Dense => &self.dense,
            Part::Attended => &self.attended,
        }
    }

    fn part_mut(&mut self, part: Part) -> &mut Vec<f32> {
        match part {
            Part::Hidden => &mut self.hidden,
            Part::Dense => &mut self.dense,
            Part::Attended => &mut self.attended,
        }
    }
}

/// Numbers a token.
#[derive(Clone, Copy)]
struct Shape {
    dim: usize,
    /// 0 if the dense model is not followed.
    dense: usize,
    attended: usize,
    wide: usize,
}

impl Shape {
    fn of(self, part: Part) -> usize {
        match part {
            Part::Hidden => self.dim,
            Part::Dense => self.dense,
            Part::Attended => self.attended,
        }
    }
}

/// The states of all windows.
pub(crate) struct States {
    place: Place,
}

enum Place {
    Memory(Vec<Window>),
    Spilled(Spilled),
}

impl States {
    /// Zeros for windows of `lens` tokens, with the dense model's beside them if it is `followed`.
    pub(crate) fn new(c: &Config, lens: &[usize], followed: bool, residence: &Residence) -> Result<Self, Error> {
        let dense = if followed { c.dim } else { 0 };
        let shape = Shape { dim: c.dim, dense, attended: c.q_dim(), wide: c.hidden_dim };
        let place = match residence {
            Residence::Spilled(folder) => Place::Spilled(Spilled::new(shape, lens, folder)?),
            Residence::Memory { wide_bytes } => Place::Memory(in_memory(shape, lens, *wide_bytes)?),
        };
        Ok(States { place })
    }

    /// Calls `work` for all windows, in their order, `size` at a time.
    pub(crate) fn each_batch(
        &mut self,
        size: usize,
        touched: &Touched,
        work: &mut dyn FnMut(&mut [Window]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match &mut self.place {
            Place::Memory(windows) => windows.chunks_mut(size).try_for_each(work),
            Place::Spilled(spilled) => spilled.each_batch(size, touched, work),
        }
    }

    /// Shows `see` the hidden states of each window and those of the dense model if it is followed: between layers, all that
    /// the rest depends on.
    pub(crate) fn each(&mut self, see: &mut dyn FnMut(&[f32]) -> Result<(), Error>) -> Result<(), Error> {
        let touched = Touched { reads: BETWEEN_LAYERS, writes: &[] };
        self.each_batch(1, &touched, &mut |windows| {
            windows.iter().try_for_each(|w| BETWEEN_LAYERS.iter().try_for_each(|part| see(w.part(*part))))
        })
    }

    /// The same to be filled.
    pub(crate) fn fill(&mut self, fill: &mut dyn FnMut(&mut [f32]) -> Result<(), Error>) -> Result<(), Error> {
        let touched = Touched { reads: &[], writes: BETWEEN_LAYERS };
        self.each_batch(1, &touched, &mut |windows| {
            windows.iter_mut().try_for_each(|w| BETWEEN_LAYERS.iter().try_for_each(|part| fill(w.part_mut(*part))))
        })
    }
}

/// Windows of `lens` tokens, with `room` bytes for the widest inputs.
fn in_memory(shape: Shape, lens: &[usize], mut room: usize) -> Result<Vec<Window>, Error> {
    let window = |&n: &usize| {
        let left = room.checked_sub(n.saturating_mul(4 * shape.wide));
        room = left.unwrap_or(room);
        Window::new(n, &shape, left.is_some())
    };
    lens.iter().map(window).collect()
}

/// How many of `nsamples` windows keep the inputs of the down projection.
pub(crate) fn kept_windows(c: &Config, residence: &Residence, nsamples: usize, seqlen: usize) -> usize {
    nsamples.min(residence.wide_bytes() / (seqlen.max(1) * c.hidden_dim * 4))
}

/// Bytes of the inputs that they keep.
pub(crate) fn wide_bytes(c: &Config, residence: &Residence, nsamples: usize, seqlen: usize) -> usize {
    kept_windows(c, residence, nsamples, seqlen) * seqlen * c.hidden_dim * 4
}

/// Bytes in memory of the states of these windows, of which `batch` are worked on at a time.
pub(crate) fn memory_bytes(
    c: &Config,
    followed: bool,
    (nsamples, seqlen): (usize, usize),
    residence: &Residence,
    batch: usize,
) -> u64 {
    let windows = if matches!(residence, Residence::Spilled(_)) { batch.min(nsamples) } else { nsamples };
    (windows * of_token(c, followed) * seqlen * 4 + wide_bytes(c, residence, nsamples, seqlen)) as u64
}

/// Bytes of the file that they are spilled to.
pub(crate) fn spilled_bytes(c: &Config, followed: bool, (nsamples, seqlen): (usize, usize), at: &Residence) -> u64 {
    let is_spilled = matches!(at, Residence::Spilled(_));
    if is_spilled { (nsamples * seqlen * of_token(c, followed) * 4) as u64 } else { 0 }
}

/// Numbers of a token's states.
fn of_token(c: &Config, followed: bool) -> usize {
    c.dim + if followed { c.dim } else { 0 } + c.q_dim()
}

/// Windows one after another in a file, each its parts one after another.
struct Spilled {
    shape: Shape,
    file: File,
    folder: PathBuf,
    /// The length of each window, and where it begins in the file.
    windows: Vec<(usize, u64)>,
    /// Memory for those that are worked on.
    batch: Vec<Window>,
}

impl Spilled {
    fn new(shape: Shape, lens: &[usize], folder: &Path) -> Result<Self, Error> {
        let file = tempfile::tempfile_in(folder).map_err(Error::io("make a file for hidden states", folder))?;
        let of_token = (shape.dim + shape.dense + shape.attended) as u64 * 4;
        let mut end = 0;
        let begins = |&n: &usize| {
            let start = end;
            end += n as u64 * of_token;
            (n, start)
        };
        let windows: Vec<(usize, u64)> = lens.iter().map(begins).collect();
        file.set_len(end).map_err(Error::io("reserve room for hidden states", folder))?;
        Ok(Spilled { shape, file, folder: folder.to_owned(), windows, batch: Vec::new() })
    }

    fn each_batch(
        &mut self,
        size: usize,
        touched: &Touched,
        work: &mut dyn FnMut(&mut [Window]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut batch = std::mem::take(&mut self.batch);
        for first in (0..self.windows.len()).step_by(size) {
            let all = first..(first + size).min(self.windows.len());
            while batch.len() < all.len() {
                batch.push(Window::new(0, &self.shape, false)?);
            }
            for (i, window) in all.clone().zip(&mut batch) {
                self.load(i, touched.reads, window)?;
            }
            work(&mut batch[..all.len()])?;
            for (i, window) in all.zip(&batch) {
                self.store(i, touched.writes, window)?;
            }
        }
        self.batch = batch;
        Ok(())
    }

    fn load(&self, window: usize, parts: &[Part], into: &mut Window) -> Result<(), Error> {
        let n = self.windows[window].0;
        for part in [Part::Hidden, Part::Dense, Part::Attended] {
            into.part_mut(part).resize(n * self.shape.of(part), 0.0);
        }
        for &part in parts {
            self.seek(window, part)?;
            let bytes = bytemuck::cast_slice_mut(into.part_mut(part));
            (&self.file).read_exact(bytes).map_err(Error::io("read hidden states", &self.folder))?;
        }
        Ok(())
    }

    fn store(&self, window: usize, parts: &[Part], from: &Window) -> Result<(), Error> {
        for &part in parts {
            self.seek(window, part)?;
            let bytes = bytemuck::cast_slice(from.part(part));
            (&self.file).write_all(bytes).map_err(Error::io("write hidden states", &self.folder))?;
        }
        Ok(())
    }

    fn seek(&self, window: usize, part: Part) -> Result<(), Error> {
        let (n, start) = self.windows[window];
        let Shape { dim, dense, .. } = self.shape;
        let before = match part {
            Part::Hidden => 0,
            Part::Dense => dim,
            Part::Attended => dim + dense,
        };
        let at = SeekFrom::Start(start + (4 * n * before) as u64);
        (&self.file).seek(at).map(|_| ()).map_err(Error::io("find hidden states", &self.folder))
    }
}

#[cfg(test)]
mod tests {
    use spm::Checkpoint;
    use spm::synthetic::SyntheticModel;

    use super::*;

    /// What was written to a part is there afterwards, and nothing else has changed, wherever it is.
    #[test]
    fn parts_stay_where_they_are() {
        let model = SyntheticModel::tiny(1);
        let folder = tempfile::tempdir().unwrap();
        let lens = [3, 5, 2, 4, 1];
        for residence in [Residence::default(), Residence::Spilled(folder.path().to_owned())] {
            let mut states = States::new(model.config(), &lens, true, &residence).unwrap();
            let mut next = 0.0;
            let mut write = |part: &'static [Part]| {
                let touched = Touched { reads: &[], writes: part };
                let fill = &mut |windows: &mut [Window]| {
                    for window in windows {
                        next += 1.0;
                        window.part_mut(part[0]).fill(next);
                    }
                    Ok(())
                };
                states.each_batch(2, &touched, fill).unwrap();
            };
            write(&[Part::Attended]);
            write(&[Part::Hidden]);
            write(&[Part::Dense]);
            let all = Touched { reads: &[Part::Hidden, Part::Dense, Part::Attended], writes: &[] };
            let mut seen = Vec::new();
            let see = &mut |windows: &mut [Window]| {
                for w in windows {
                    let n = w.hidden.len() / model.config().dim;
                    assert!(w.attended.len() == n * model.config().q_dim() && w.dense.len() == w.hidden.len());
                    let first = [&w.attended, &w.hidden, &w.dense].map(|part| part[0]);
                    let is_even = |part: &[f32], first: f32| part.iter().all(|v| *v == first);
                    assert!(
                        is_even(&w.attended, first[0]) && is_even(&w.hidden, first[1]) && is_even(&w.dense, first[2])
                    );
                    seen.push((n, first));
                }
                Ok(())
            };
            states.each_batch(3, &all, see).unwrap();
            let expected: Vec<_> = (0..5).map(|i| (lens[i], [1.0, 6.0, 11.0].map(|first| first + i as f32))).collect();
            assert_eq!(seen, expected, "{residence:?}");
            let mut firsts = Vec::new();
            states
                .each(&mut |part| {
                    firsts.push(part[0]);
                    Ok(())
                })
                .unwrap();
            assert_eq!(firsts, [6.0, 11.0, 7.0, 12.0, 8.0, 13.0, 9.0, 14.0, 10.0, 15.0]);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let model = SyntheticModel::tiny(1);
        let nowhere = Residence::Spilled("/nowhere/at/all".into());
        let error = States::new(model.config(), &[4], false, &nowhere).err().unwrap().to_string();
        assert!(error.starts_with("/nowhere/at/all: cannot make a file for hidden states: "), "{error}");
    }
}
