//! OWL (Yin et al.: Outlier Weighed Layerwise Sparsity: A Missing Secret Sauce for Pruning LLMs to High Sparsity, 2024,
//! section 3). `D_l` is the share of layer `l`'s weights whose score `|W_ij| ||X_j||_2` is above `M` times the layer's mean;
//! the densities `2 lambda (D_l - min D) / (max D - min D)` are moved to the wanted mean. `M` = 5, `lambda` = 0.08.

use std::ops::ControlFlow;

use runtime::Layer;
use spm::{Checkpoint, Config};

use super::{MOST, by_layer, shared};
use crate::allocation::Allocation;
use crate::error::Error;
use crate::method::Needs;
use crate::options::PruneOptions;
use crate::progress::Progress;
use crate::site::Site;
use crate::stream::{self, Stream};
use crate::tensors::layer_matrices;

const M: f64 = 5.0;
const LAMBDA: f64 = 0.08;

pub(super) fn allocate(
    source: &dyn Checkpoint,
    options: &PruneOptions,
    windows: &[Vec<u32>],
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Allocation, Error> {
    let sparsity = shared(options, "owl")?;
    let layers = source.config().n_layers;
    let mut stream = Stream::new(source, windows, Needs::ColumnNorms, options.threads, &options.residence)?;
    let mut outliers = Vec::with_capacity(layers);
    for index in 0..layers {
        let layer = Layer::load(source, stream.engine(), index)?;
        let mut scores = Scores::default();
        for site in Site::ALL {
            let inputs = stream.observe(&layer, None, site, Needs::ColumnNorms, &mut |_| Ok(()))?;
            let norms = inputs.norms.norms();
            for short in site.matrices(source.config()) {
                let name = format!("blk.{index}.{short}");
                let weights = source.read_all(&name).ok_or(runtime::Error::MissingTensor { name })?;
                scores.add(&weights, &norms);
            }
        }
        stream.leave(&layer, &mut |_| Ok(()))?;
        outliers.push(scores.outliers());
        let (done, total) = (index as u64 + 1, layers as u64);
        Progress { layer: index, layers, step: "outliers", done, total, resumed: 0 }.tell(progress)?;
    }
    Ok(by_layer(source.config(), options, &sparsities(&outliers, sparsity)))
}

/// Most memory in use at a time while layers are looked at: the stream, a layer's scores, and a matrix.
pub(super) fn peak_bytes(c: &Config, options: &PruneOptions, nsamples: usize, seqlen: usize) -> u64 {
    let threads = options.threads.clamp(1, nsamples.max(1));
    let streaming = stream::byte_len(c, Needs::ColumnNorms, (nsamples, seqlen), threads, &options.residence);
    let matrices = || layer_matrices(c).map(|(_, (rows, cols))| (rows * cols) as u64);
    streaming + 2 * 4 * matrices().sum::<u64>() / c.n_layers as u64 + 4 * matrices().max().unwrap_or(0)
}

/// The scores of a layer.
#[derive(Default)]
struct Scores(Vec<f32>);

impl Scores {
    fn add(&mut self, weights: &[f32], norms: &[f32]) {
        let rows = weights.chunks_exact(norms.len());
        self.0.extend(rows.flat_map(|row| row.iter().zip(norms).map(|(w, n)| w.abs() * n)));
    }

    /// The share above `M` times the mean.
    fn outliers(&self) -> f64 {
        let all = self.0.len() as f64;
        let bound = (M * self.0.iter().map(|s| f64::from(*s)).sum::<f64>() / all) as f32;
        self.0.iter().filter(|s| **s > bound).count() as f64 / all
    }
}

/// Around the wanted mean, nearer to it where a layer would get less than 0 or more than `MOST`.
fn sparsities(outliers: &[f64], sparsity: f64) -> Vec<f64> {
    let min = outliers.iter().copied().fold(f64::INFINITY, f64::min);
    let max = outliers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let range = if max > min { max - min } else { 1.0 };
    let mean = outliers.iter().sum::<f64>() / outliers.len() as f64;
    let room = |room: f64, distance: f64| if distance > 0.0 { room.max(0.0) * range / distance } else { f64::INFINITY };
    let spread = (2.0 * LAMBDA).min(room(sparsity, max - mean)).min(room(MOST - sparsity, mean - min));
    // Rounding can leave a bound by its last digit.
    outliers.iter().map(|d| (sparsity - spread * (d - mean) / range).clamp(0.0, MOST.max(sparsity))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outliers_are_counted_over_the_layer() {
        let mut scores = Scores::default();
        scores.add(&[1.0, -1.0, 1.0, 1.0], &[1.0, 2.0]);
        scores.add(&[0.0, 100.0], &[1.0, 1.0]);
        // 1, 2, 1, 2, 0 and 100: five times the mean is 88.3.
        assert_eq!(scores.outliers(), 1.0 / 6.0);
    }

    #[test]
    fn layers_with_outliers_lose_less() {
        let found = sparsities(&[0.01, 0.03, 0.02], 0.6);
        let expected = [0.68, 0.52, 0.60];
        assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-12), "{found:?}");
        assert_eq!(sparsities(&[0.01, 0.01], 0.5), [0.5, 0.5]);
    }

    #[test]
    fn the_mean_is_the_wanted_one() {
        for seed in 0..200 {
            let outliers: Vec<f64> = crate::linalg::noise(24, seed).iter().map(|n| f64::from(n.abs()) / 50.0).collect();
            for sparsity in [0.0, 0.03, 0.05, 0.1, 0.5, 0.9, 0.95, 0.97, 0.99] {
                let found = sparsities(&outliers, sparsity);
                let mean = found.iter().sum::<f64>() / 24.0;
                assert!((mean - sparsity).abs() < 1e-12, "{sparsity}: {mean}");
                assert!(found.iter().all(|s| (0.0..=MOST.max(sparsity)).contains(s)), "{found:?}");
            }
        }
    }
}
