//! The report for people: a minute's reading.

use std::fmt::Write;

use super::facts::{Calibration, Facts, Matrix};
use crate::process::megabytes;

/// How many of the worst matrices are shown.
const WORST: usize = 10;

/// The whole file.
pub(super) fn render(facts: &Facts) -> String {
    let parts = [
        format!("{}: {}\n\n{}\n", super::MARKDOWN_START, code(&facts.output), summary(facts)),
        totals(facts),
        layers(facts),
        worst(facts),
        warnings(facts),
    ];
    parts.join("\n")
}

fn summary(f: &Facts) -> String {
    let o = &f.options;
    let mut text = format!(
        "{} is {} with {:.1} % of the weights of its layers pruned by {} ({}), values in {}, embedding and head in {}{}. The \
         outputs of a matrix are off by {:.3} on average, {}. It took {:.1} s",
        code(&f.output),
        code(&f.source.name),
        100.0 * f.totals.sparsity,
        o.method,
        o.pattern,
        o.values,
        o.head,
        f.calibration.as_ref().map_or(String::new(), calibrated),
        f.totals.mean_relative_error,
        judged_by(f.judged_by),
        f.seconds
    );
    let memory = f.peak_memory_bytes.map_or(String::new(), |bytes| format!(" and {} of memory", megabytes(bytes)));
    text += &memory;
    text + ". All numbers are in the `.report.json` beside this file."
}

fn calibrated(calibration: &Calibration) -> String {
    match calibration {
        Calibration::Imatrix { tokens, .. } => format!(", by the norms of an imatrix of {tokens} tokens"),
        Calibration::Text { tokens, documents, available, passed_over, mix, .. } => {
            let skipped = passed_over.iter().filter(|(_, n)| **n > 0).map(|(why, n)| format!("{n} {why}"));
            let skipped: Vec<String> = skipped.collect();
            let skipped = match skipped.is_empty() {
                true => String::new(),
                false => format!(" (passed over: {})", skipped.join(", ")),
            };
            let mix: Vec<String> = mix.iter().map(|p| format!("{} {:.0} %", p.domain, 100.0 * p.share)).collect();
            let mix = mix.join(", ");
            format!(", calibrated on {tokens} tokens ({mix}) from {documents} of {available} documents{skipped}")
        }
    }
}

fn judged_by(name: &str) -> &'static str {
    match name {
        "held_out" => "measured on tokens held out of the calibration",
        "calibration" => "measured on the calibration tokens themselves",
        "norms" => "estimated from the norms of its inputs",
        _ => "estimated from its weights alone",
    }
}

fn totals(f: &Facts) -> String {
    let t = &f.totals;
    let rest = t.file_bytes.saturating_sub(t.layer_bytes + t.embedding_bytes + t.head_bytes);
    let mut text = "## Size\n\n| part | bytes | share |\n|---|---:|---:|\n".to_owned();
    for (part, bytes) in [
        ("layers", t.layer_bytes),
        ("embedding", t.embedding_bytes),
        ("head", t.head_bytes),
        ("norms, vocabulary, tables", rest),
        ("file", t.file_bytes),
    ] {
        let share = 100.0 * bytes as f64 / t.file_bytes.max(1) as f64;
        push(&mut text, format_args!("| {part} | {bytes} | {share:.1} % |\n"));
    }
    let (kept, total, bits) = (t.kept, t.total, t.bits_per_weight);
    text + &format!(
        "\n{kept} of {total} weights of the layers are kept: {bits:.2} bits a weight of the dense layers.\n"
    )
}

/// Relative errors, a row a layer, a column a projection.
fn layers(f: &Facts) -> String {
    let mut columns: Vec<&str> = Vec::new();
    let mut rows: Vec<(&str, Vec<&Matrix>)> = Vec::new();
    for matrix in &f.matrices {
        let Some((layer, short)) = place(&matrix.name) else { continue };
        if !columns.contains(&short) {
            columns.push(short);
        }
        match rows.last_mut() {
            Some((last, of_layer)) if *last == layer => of_layer.push(matrix),
            _ => rows.push((layer, vec![matrix])),
        }
    }
    let mut text = format!("## Relative error\n\n| layer | {} |\n", columns.join(" | "));
    push(&mut text, format_args!("|---|{}\n", "---:|".repeat(columns.len())));
    for (layer, of_layer) in rows {
        let cells = columns.iter().map(|column| {
            let found = of_layer.iter().find(|m| place(&m.name).is_some_and(|(_, short)| short == *column));
            found.map_or(String::new(), |m| format!("{:.3}", m.relative_error))
        });
        push(&mut text, format_args!("| {layer} | {} |\n", cells.collect::<Vec<_>>().join(" | ")));
    }
    text
}

fn worst(f: &Facts) -> String {
    let mut matrices: Vec<&Matrix> = f.matrices.iter().collect();
    matrices.sort_by(|a, b| b.relative_error.total_cmp(&a.relative_error));
    let mut text =
        "## Worst matrices\n\n| matrix | encoding | sparsity | bits a weight | relative error |\n".to_owned();
    text += "|---|---|---:|---:|---:|\n";
    for m in matrices.into_iter().take(WORST) {
        let Matrix { name, encoding, sparsity, bits_per_weight, relative_error, .. } = m;
        push(
            &mut text,
            format_args!("| {name} | {encoding} | {sparsity:.3} | {bits_per_weight:.2} | {relative_error:.3} |\n"),
        );
    }
    text
}

fn warnings(f: &Facts) -> String {
    let all: String = f.warnings.iter().map(|w| format!("- {}\n", w.message)).collect();
    format!("## Warnings\n\n{}", if all.is_empty() { "None.\n" } else { &all })
}

/// Layer and projection of `blk.3.attn_q.weight`.
fn place(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("blk.")?.strip_suffix(".weight")?.split_once('.')
}

/// A file's name as text that is not markup.
fn code(name: &str) -> String {
    let plain: String = name.chars().map(|c| if c.is_control() || c == '`' || c == '|' { '_' } else { c }).collect();
    format!("`{plain}`")
}

fn push(text: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(more);
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::facts;
    use super::*;

    #[test]
    fn a_person_finds_what_was_done() {
        let text = render(&facts());
        assert!(text.starts_with(super::super::MARKDOWN_START));
        let summary = "`m.spm` is `m__x__.gguf` with 50.0 % of the weights of its layers pruned by wanda (unstructured), values \
                       in f16, embedding and head in q8. The outputs of a matrix are off by 0.055 on average, estimated from \
                       its weights alone. It took 1.5 s.";
        assert!(text.contains(summary), "{text}");
        assert!(text.contains("| layers | 900 | 45.0 % |\n") && text.contains("| file | 2000 | 100.0 % |\n"), "{text}");
        assert!(text.contains("| layer | attn_q | attn_k | attn_v | attn_output | ffn_gate | ffn_down |\n"), "{text}");
        assert!(text.contains("| 1 | 0.060 | 0.070 | 0.080 | 0.090 | 0.100 | 0.110 |\n"), "{text}");
        let worst: Vec<&str> = text.lines().filter(|line| line.starts_with("| blk.")).collect();
        assert_eq!(worst.len(), WORST);
        assert_eq!(worst[0], "| blk.1.ffn_down.weight | sparse-q8 | 0.500 | 6.00 | 0.110 |");
        assert!(
            text.ends_with(
                "## Warnings\n\n- all 5 calibration tokens are of one document: give --calib more files, or a \
                                folder of them\n"
            ),
            "{text}"
        );
    }
}
