//! Which matrices of the files can be compared, and their counts.

use std::path::Path;

use spm::{Checkpoint, Encoding, Matrix, SparseModel, TensorInfo};

use super::{Counts, Family, LeftOut, MatrixCounts, ModelFacts, Overlap};
use crate::failure::Failure;
use crate::subjects::Subject;

/// Opens the models and counts over every matrix that is sparse in all of them.
pub(super) fn measure(subjects: Vec<Subject>) -> Result<Overlap, Failure> {
    if subjects.len() < 2 {
        return Err(Failure::Usage("one model has nothing to differ from; give another, or --reseed MODEL".into()));
    }
    let opened: Vec<(Subject, SparseModel)> = subjects
        .into_iter()
        .map(|subject| SparseModel::open(&subject.path).map(|model| (subject, model)))
        .collect::<Result<_, _>>()?;
    let family = Family {
        different: opened.iter().filter(|(s, _)| s.reseed_of.is_none()).count(),
        reseed_of: opened.iter().filter_map(|(s, _)| s.reseed_of).collect(),
    };
    let (mut matrices, mut left_out) = (Vec::new(), Vec::new());
    for tensor in names(&opened) {
        match compared(&opened, &tensor)? {
            Ok(found) => {
                let (layer, projection) = place(&tensor);
                matrices.push(MatrixCounts { counts: Counts::of(&found, &family), tensor, layer, projection });
            }
            Err(reason) => left_out.push(LeftOut { tensor, reason }),
        }
    }
    if matrices.is_empty() {
        let paths: Vec<String> = opened.iter().map(|(s, _)| s.path.display().to_string()).collect();
        let advice =
            "no matrix is sparse in all of them, so there are no masks to compare; prune with sparse-prune first";
        return Err(Failure::Usage(format!("{}: {advice}", paths.join(", "))));
    }
    let models: Vec<ModelFacts> = opened.iter().map(facts).collect();
    let mut warnings = other_settings(&opened);
    warnings.extend(same_tokens(&models));
    Ok(Overlap { models, family, matrices, left_out, warnings })
}

/// Matrices, vectors not among them, that any of the models has.
fn names(opened: &[(Subject, SparseModel)]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for info in opened.iter().flat_map(|(_, model)| model.tensors()).filter(|t| t.rows > 1) {
        if seen.insert(&info.name) {
            all.push(info.name.clone());
        }
    }
    all
}

/// The matrix of every model, or why its masks are not compared; an error if its shapes differ.
fn compared(opened: &[(Subject, SparseModel)], tensor: &str) -> Result<Result<Vec<Matrix>, String>, Failure> {
    let infos: Vec<Option<&TensorInfo>> = opened.iter().map(|(_, model)| model.tensor(tensor)).collect();
    let is_sparse = |info: &TensorInfo| Encoding::ALL.iter().any(|e| e.is_sparse() && e.name() == info.encoding);
    if infos.iter().flatten().all(|info| !is_sparse(info)) {
        return Ok(Err("dense in all models".into()));
    }
    if !tensor.starts_with("blk.") && opened.windows(2).any(|w| w[0].1.config().shortlist != w[1].1.config().shortlist)
    {
        return Ok(Err("rows of other tokens: the models' shortlists differ".into()));
    }
    check_shapes(opened, tensor, &infos)?;
    let dense: Vec<&str> = opened
        .iter()
        .zip(&infos)
        .filter(|(_, info)| info.is_some_and(|info| !is_sparse(info)))
        .map(|((subject, _), _)| subject.label.as_str())
        .collect();
    if !dense.is_empty() {
        return Ok(Err(format!("dense in {}", dense.join(", "))));
    }
    // Every model has it by now.
    Ok(Ok(opened.iter().filter_map(|(_, model)| model.matrix(tensor)).collect()))
}

fn check_shapes(opened: &[(Subject, SparseModel)], tensor: &str, infos: &[Option<&TensorInfo>]) -> Result<(), Failure> {
    let path = |i: usize| -> &Path { &opened[i].0.path };
    let advice = "only sub-models of one parent have masks to compare";
    let Some((known, first)) = infos.iter().enumerate().find_map(|(i, info)| info.map(|info| (i, info))) else {
        return Ok(());
    };
    for (i, info) in infos.iter().enumerate() {
        let found = match info {
            Some(info) if (info.rows, info.cols) == (first.rows, first.cols) => continue,
            Some(info) => format!("tensor `{tensor}` is {}x{}", info.rows, info.cols),
            None => format!("there is no tensor `{tensor}`"),
        };
        return Err(Failure::Usage(format!(
            "{}: {found}, in {} it is {}x{}; {advice}",
            path(i).display(),
            path(known).display(),
            first.rows,
            first.cols
        )));
    }
    Ok(())
}

/// Layer and projection of `blk.3.ffn_up.weight`; the name alone of `output.weight`.
fn place(tensor: &str) -> (Option<usize>, String) {
    let name = tensor.strip_suffix(".weight").unwrap_or(tensor);
    let in_layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    match in_layer.and_then(|(layer, projection)| Some((layer.parse().ok()?, projection))) {
        Some((layer, projection)) => (Some(layer), projection.to_owned()),
        None => (None, name.to_owned()),
    }
}

/// What should be the same in all files beside the calibration text.
fn other_settings(opened: &[(Subject, SparseModel)]) -> Vec<String> {
    let mut found = Vec::new();
    let mut differ = |what: &str, of: &dyn Fn(&SparseModel) -> String, so: &str| {
        let first = of(&opened[0].1);
        for (subject, model) in &opened[1..] {
            let other = of(model);
            if other != first {
                let (known, other) = (&opened[0].0.label, (&subject.label, other));
                found.push(format!("{what}: {known} has `{first}`, {} has `{}`; {so}", other.0, other.1));
            }
        }
    };
    let so = "masks differ by that too, not only by what they were calibrated on";
    differ("source", &|m| m.provenance().source_sha256.clone(), "they are not sub-models of one parent");
    differ("method", &|m| m.provenance().method.clone(), so);
    differ("pattern", &|m| m.provenance().pattern.clone(), so);
    differ("sparsity", &|m| m.provenance().sparsity.to_string(), so);
    found
}

/// Models calibrated on tokens that should be others.
fn same_tokens(models: &[ModelFacts]) -> Vec<String> {
    let mut found = Vec::new();
    for (i, one) in models.iter().enumerate() {
        for (j, of) in models[..i].iter().enumerate().filter(|(_, of)| one.has_tokens_of(of)) {
            let so = match one.subject.reseed_of {
                Some(known) if known == j => "so it is no other seed",
                None => "so what they differ in is no effect of the text",
                _ => continue,
            };
            let (one, of) = (&one.subject.label, &of.subject.label);
            found.push(format!("{one} was calibrated on the same tokens as {of}, {so}"));
        }
    }
    found
}

fn facts((subject, model): &(Subject, SparseModel)) -> ModelFacts {
    let p = model.provenance();
    ModelFacts {
        subject: subject.clone(),
        method: p.method.clone(),
        calibration: p.calibration.clone(),
        calibration_sha256: p.calibration_sha256.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_placed_by_their_names() {
        for (tensor, expected) in [
            ("blk.3.ffn_up.weight", (Some(3), "ffn_up")),
            ("blk.12.attn_q.weight", (Some(12), "attn_q")),
            ("output.weight", (None, "output")),
            ("blk.x.odd", (None, "blk.x.odd")),
        ] {
            assert_eq!(place(tensor), (expected.0, expected.1.to_owned()));
        }
    }
}
