//! Sparsities that rise with depth by equal steps (as in arXiv 2502.14770): from `s - SPREAD` in the first layer to
//! `s + SPREAD` in the last.

use spm::Config;

use super::{MOST, by_layer, shared};
use crate::allocation::Allocation;
use crate::error::Error;
use crate::options::PruneOptions;

/// Half of what lies between the first and the last layer.
const SPREAD: f64 = 0.05;

pub(super) fn allocate(config: &Config, options: &PruneOptions) -> Result<Allocation, Error> {
    let sparsity = shared(options, "depth")?;
    Ok(by_layer(config, options, &rising(sparsity, config.n_layers)))
}

fn rising(sparsity: f64, layers: usize) -> Vec<f64> {
    let spread = SPREAD.min(sparsity).min((MOST - sparsity).max(0.0));
    let place = |layer: usize| if layers > 1 { 2.0 * layer as f64 / (layers - 1) as f64 - 1.0 } else { 0.0 };
    (0..layers).map(|layer| sparsity + spread * place(layer)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_equal_and_the_mean_is_kept() {
        for (sparsity, layers) in [(0.5, 30), (0.03, 4), (0.97, 3), (0.6, 1)] {
            let found = rising(sparsity, layers);
            let mean = found.iter().sum::<f64>() / layers as f64;
            assert!((mean - sparsity).abs() < 1e-12, "{sparsity} {layers}: {mean}");
            assert!(found.iter().all(|s| (0.0..1.0).contains(s)));
            assert!(found.windows(3).all(|s| (s[0] + s[2] - 2.0 * s[1]).abs() < 1e-12));
        }
        assert_eq!(rising(0.5, 3), [0.45, 0.5, 0.55]);
    }
}
