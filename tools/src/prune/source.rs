//! What a model must be to be pruned.

use std::path::Path;

use spm::Checkpoint;

use crate::failure::Failure;

/// What was pruned once has lost what would tell what to prune.
pub(super) fn refuse_pruned(source: &dyn Checkpoint, path: &Path) -> Result<(), Failure> {
    let (mut kept, mut all) = (0, 0);
    for t in source.tensors().iter().filter(|t| t.name.starts_with("blk.") && t.rows > 1) {
        (kept, all) = (kept + t.kept, all + (t.rows * t.cols) as u64);
    }
    let advice = "give sparse-prune the dense model that it was made from";
    match &source.config().shortlist {
        _ if kept < all => {
            let share = 100.0 * (1.0 - kept as f64 / all as f64);
            Err(Failure::Usage(format!("{}: {share:.1} % of its weights are pruned already; {advice}", path.display())))
        }
        Some(list) => {
            let (rows, tokens) = (list.len(), source.config().vocab_size);
            Err(Failure::Usage(format!("{}: its head has {rows} of {tokens} rows already; {advice}", path.display())))
        }
        None => Ok(()),
    }
}
