//! The result as tables in a terminal.

use std::io::{self, Write};

use super::words::{percent, sentences};
use super::{MatrixCounts, Overlap, Reading, Shared};

pub(super) fn write(overlap: &Overlap, out: &mut dyn Write) -> io::Result<()> {
    models(overlap, out)?;
    writeln!(out)?;
    sentences(overlap).iter().try_for_each(|sentence| writeln!(out, "{sentence}"))?;
    pairs(overlap, out)?;
    readings(overlap, out)?;
    alone(overlap, out)?;
    left_out(overlap, out)?;
    overlap.warnings.iter().try_for_each(|warning| writeln!(out, "warning: {warning}"))
}

fn models(overlap: &Overlap, out: &mut dyn Write) -> io::Result<()> {
    let width = width(overlap.models.iter().map(|m| m.subject.label.as_str()), 5);
    writeln!(out, "{:<width$} {:>14} {:>8}  {:<10} calibration", "model", "kept", "density", "method")?;
    let weights: u64 = overlap.matrices.iter().map(|m| m.counts.weights).sum();
    for (i, model) in overlap.models.iter().enumerate() {
        let kept: u64 = overlap.matrices.iter().map(|m| m.counts.kept[i]).sum();
        let (label, density) = (&model.subject.label, kept as f64 / weights as f64);
        writeln!(out, "{label:<width$} {kept:>14} {density:>8.4}  {:<10} {}", model.method, model.calibration)?;
    }
    writeln!(out, "over the {weights} weights of {} matrices", overlap.matrices.len())
}

fn pairs(overlap: &Overlap, out: &mut dyn Write) -> io::Result<()> {
    let label = |i: usize| overlap.models[i].subject.label.as_str();
    let named = |(a, b): (usize, usize)| (format!("{} and {}", label(a), label(b)), overlap.shared(a, b, &|_| true));
    let different = overlap.family.different_pairs().map(named);
    let all: Vec<_> = different.chain(overlap.family.reseeded_pairs().map(named)).collect();
    let width = width(all.iter().map(|(name, _)| name.as_str()), 12);
    writeln!(
        out,
        "\n{:<width$} {:>8} {:>8} {:>15} {:>15}",
        "", "overlap", "jaccard", "random overlap", "random jaccard"
    )?;
    writeln!(out, "{:<width$} {:>8} {:>8} {:>15} {:>15}", "models", "", "distance", "", "distance")?;
    for (name, shared) in all {
        writeln!(
            out,
            "{name:<width$} {:>8.4} {:>8.4} {:>15.4} {:>15.4}",
            shared.overlap(),
            shared.distance(),
            shared.chance_overlap(),
            shared.chance_distance()
        )?;
    }
    Ok(())
}

/// By projection and by layer: different models, other seeds, chance.
fn readings(overlap: &Overlap, out: &mut dyn Write) -> io::Result<()> {
    let projections = overlap.projections();
    let width = width(projections.iter().copied(), 10);
    for (head, sub) in [
        (["", "overlap", "", "", "jaccard distance", "", ""], false),
        (["of", "models", "seeds", "random", "models", "seeds", "random"], true),
    ] {
        let [name, a, b, c, d, e, f] = head;
        let start = if sub { "" } else { "\n" };
        writeln!(out, "{start}{name:<width$} {a:>8} {b:>8} {c:>8}   {d:>16} {e:>8} {f:>8}")?;
    }
    for projection in projections {
        let of = |m: &MatrixCounts| m.projection == projection;
        reading(&format!("{projection:<width$}"), overlap.reading(&of), out)?;
    }
    for layer in overlap.layers() {
        let of = |m: &MatrixCounts| m.layer == Some(layer);
        reading(&format!("{:<width$}", format!("layer {layer}")), overlap.reading(&of), out)?;
    }
    reading(&format!("{:<width$}", "all"), overlap.reading(&|_| true), out)
}

fn reading(name: &str, found: Reading, out: &mut dyn Write) -> io::Result<()> {
    let cell = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.4}"));
    let any = found.between.or(found.reseeded);
    let overlaps = [found.between.map(|s| s.overlap()), found.reseeded.map(|s| s.overlap())];
    let distances = [found.between.map(|s| s.distance()), found.reseeded.map(|s| s.distance())];
    let chance: [Option<f64>; 2] = [any.map(|s: Shared| s.chance_overlap()), any.map(|s| s.chance_distance())];
    let [a, b, c, d, e, f] = [overlaps[0], overlaps[1], chance[0], distances[0], distances[1], chance[1]].map(cell);
    writeln!(out, "{name} {a:>8} {b:>8} {c:>8}   {d:>16} {e:>8} {f:>8}")
}

fn alone(overlap: &Overlap, out: &mut dyn Write) -> io::Result<()> {
    let labels = overlap.labels();
    if labels.len() < 2 {
        return Ok(());
    }
    let widths: Vec<usize> = labels.iter().map(|l| l.chars().count().max(8)).collect();
    let projections = overlap.projections();
    let width = width(projections.iter().copied(), 10);
    writeln!(out, "\nkept by one model alone, share of all weights")?;
    write!(out, "{:<width$}", "")?;
    labels.iter().zip(&widths).try_for_each(|(label, width)| write!(out, " {label:>width$}"))?;
    writeln!(out, " {:>8}", "random")?;
    let mut line = |name: &str, wanted: &dyn Fn(&MatrixCounts) -> bool| {
        write!(out, "{name:<width$}")?;
        for (i, width) in widths.iter().enumerate() {
            write!(out, " {:>width$}", percent(overlap.alone(i, wanted).share()))?;
        }
        writeln!(out, " {:>8}", percent(overlap.alone(0, wanted).chance_share()))
    };
    for projection in &projections {
        line(projection, &|m| m.projection == *projection)?;
    }
    line("all", &|_| true)
}

fn left_out(overlap: &Overlap, out: &mut dyn Write) -> io::Result<()> {
    if !overlap.left_out.is_empty() {
        writeln!(out, "\nleft out: {}", describe_left_out(overlap))?;
    }
    Ok(())
}

/// The first matrices that were left out, and how many more.
pub(super) fn describe_left_out(overlap: &Overlap) -> String {
    const SHOWN: usize = 8;
    let each = overlap.left_out.iter().take(SHOWN).map(|l| format!("{} ({})", l.tensor, l.reason));
    let text = each.collect::<Vec<_>>().join(", ");
    match overlap.left_out.len().saturating_sub(SHOWN) {
        0 => text,
        more => format!("{text} and {more} more, see --json"),
    }
}

fn width<'a>(names: impl Iterator<Item = &'a str>, least: usize) -> usize {
    names.map(|name| name.chars().count()).max().unwrap_or(0).max(least)
}
