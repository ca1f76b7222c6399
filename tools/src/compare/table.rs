//! The comparison as a table: a line a number, A and B beside each other.

use std::io::Write;

use super::{Compared, Quality, Side, Speed};
use crate::bench::Test;
use crate::eval::shown;
use crate::evaluate::Evaluation;
use crate::failure::Failure;
use crate::lexical::Kind;
use crate::process::megabytes;

/// A line of the table: what it is, of A, of B, and B by A where that means something.
pub(super) type Line = [String; 4];

pub(super) fn write(compared: &Compared, out: &mut dyn Write) -> Result<(), Failure> {
    let [a, b] = &compared.sides;
    writeln!(out, "A: {} ({})\nB: {} ({})\n", a.label, a.path.display(), b.label, b.path.display())?;
    let head = ["", "A", "B", "B / A"].map(str::to_owned);
    let lines: Vec<Line> = std::iter::once(head).chain(lines(compared)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3].map(width);
    for [name, a, b, ratio] in &lines {
        let line = format!("{name:<0$}  {a:>1$}  {b:>2$}  {ratio:>3$}", widths[0], widths[1], widths[2], widths[3]);
        writeln!(out, "{}", line.trim_end())?;
    }
    writeln!(out)?;
    notes(compared).iter().try_for_each(|note| writeln!(out, "{note}"))?;
    for (i, continuation) in compared.continuations.iter().enumerate() {
        writeln!(out, "\n=== prompt {}\n{}", i + 1, continuation.prompt)?;
        for (name, text) in ["A", "B"].iter().zip(&continuation.texts) {
            writeln!(out, "--- {name}\n{text}")?;
        }
    }
    Ok(())
}

/// The numbers.
pub(super) fn lines(compared: &Compared) -> Vec<Line> {
    let [a, b] = &compared.sides;
    let both = |name: &str, of: &dyn Fn(&Side) -> String| [name.to_owned(), of(a), of(b), String::new()];
    let bytes = |name: &str, of: &dyn Fn(&Side) -> u64| {
        let ratio = of(b) as f64 / of(a).max(1) as f64;
        [name.to_owned(), megabytes(of(a)), megabytes(of(b)), format!("{ratio:.2}")]
    };
    let mut all = vec![
        bytes("file", &|s| s.file_bytes),
        bytes("read for a token", &|s| s.bytes_per_token),
        both("sparsity of the layers", &|s| format!("{:.3}", s.sparsity)),
        both("encoding, as it runs", &|s| s.encoding.to_owned()),
    ];
    all.extend(compared.speeds.iter().map(speed));
    all.extend(compared.texts.iter().flat_map(quality));
    all
}

/// What must be known to read them.
pub(super) fn notes(compared: &Compared) -> Vec<String> {
    let mut all = vec![format!("Both run with {}.", compared.engine)];
    if let Some(speed) = compared.speeds.first() {
        let runs = speed.times[0].len();
        all.push(format!("tokens/s: median of {runs} runs in turns, in brackets the slowest and the fastest."));
    }
    if let Some(quality) = compared.texts.first() {
        all.push(match quality.one_vocabulary {
            true if quality.against().is_none() => {
                "Quality: in brackets 95 % intervals, documents resampled. A cannot write every token, so B is not judged by it."
            }
            true => "Quality: in brackets 95 % intervals, documents resampled. KL and agreement: of B to A, as both run.",
            false => "Quality: the models have other vocabularies, so of these numbers only bits per byte can be compared.",
        }
        .to_owned());
    }
    all
}

fn speed(speed: &Speed) -> Line {
    let verb = if matches!(speed.test, Test::Prompt(_)) { "reading" } else { "writing" };
    let [a, b] = [0, 1].map(|side| {
        let (median, slowest, fastest) = speed.tokens_per_second(side);
        format!("{median:.1} ({slowest:.1} to {fastest:.1})")
    });
    [format!("{verb} {}, tokens/s", speed.test.tokens()), a, b, format!("{:.2}", speed.ratio())]
}

fn quality(quality: &Quality) -> Vec<Line> {
    let name = &quality.texts[0].name;
    let ratio = |a: f64, b: f64| format!("{:.3}", b / a);
    let found = &quality.found;
    let line = |what: &str, of: &dyn Fn(&Evaluation) -> crate::bootstrap::Estimate, with_ratio: bool| {
        let [a, b] = [of(&found[0]), of(&found[1])];
        let by = if with_ratio { ratio(a.value, b.value) } else { String::new() };
        [format!("{name}: {what}"), shown(a, 3), shown(b, 3), by]
    };
    let alike = quality.one_vocabulary;
    let mut all = vec![
        line("perplexity", &|e| e.perplexity_unsplit(), alike),
        line("bits per byte", &|e| e.bits_per_byte(), true),
        line("next-token accuracy", &|e| e.accuracy(), alike),
    ];
    for kind in Kind::ALL.into_iter().filter(|k| found.iter().all(|e| e.accuracy_of(*k).is_some())) {
        let of = |e: &Evaluation| e.accuracy_of(kind).map_or(f64::NAN, |a| a.value);
        let [a, b] = [of(&found[0]), of(&found[1])];
        all.push([format!("{name}: accuracy of {}", kind.name()), format!("{a:.3}"), format!("{b:.3}"), String::new()]);
    }
    if let Some(b) = quality.against() {
        let only = |what: &str, value: String| [format!("{name}: {what}"), String::new(), value, String::new()];
        all.push(only("KL to A, mean, nats", shown(b.mean_kl(), 4)));
        all.push(only("KL to A, 99th percentile", shown(b.kl_percentile(99.0), 3)));
        all.push(only("top-1 agreement with A", shown(b.agreement(), 3)));
    }
    all
}
