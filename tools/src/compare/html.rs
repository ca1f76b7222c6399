//! The comparison as a page.

use super::table::{lines, notes};
use super::{Compared, Continuation};
use crate::bench::Test;
use crate::page::{cards, page, paragraph, section, table};
use crate::svg::{Anchor, GREY, INK, Svg, blue, escape, shortened};

pub(super) fn render(compared: &Compared) -> String {
    let [a, b] = &compared.sides;
    let title = format!("{} or {}?", shortened(&a.label, 40), shortened(&b.label, 40));
    let names = format!(
        "<p><b>A</b> is {} <span class=\"note\">({})</span><br/><b>B</b> is {} <span class=\"note\">({})</span></p>\n",
        escape(&a.label),
        escape(&a.path.to_string_lossy()),
        escape(&b.label),
        escape(&b.path.to_string_lossy())
    );
    let words: String = compared.sentences().iter().map(|s| paragraph(s)).collect();
    let rows: Vec<Vec<String>> = lines(compared).into_iter().map(Vec::from).collect();
    let notes: String = notes(compared).iter().map(|n| format!("<p class=\"note\">{}</p>\n", escape(n))).collect();
    let mut body = [names, cards(&numbers(compared)), bars(compared), words].concat();
    body += &section("Numbers", &[table(&["", "A", "B", "B / A"], &rows), notes].concat());
    if !compared.continuations.is_empty() {
        let all: String = compared.continuations.iter().map(continuation).collect();
        body += &section("The same prompts, continued by the most likely tokens", &all);
    }
    page(&title, &body)
}

/// B by A, of what counts most.
fn numbers(compared: &Compared) -> Vec<(String, String)> {
    let [a, b] = &compared.sides;
    let times = |ratio: f64| format!("{ratio:.2} ×");
    let mut all = vec![(times(b.file_bytes as f64 / a.file_bytes.max(1) as f64), "B's file by A's".to_owned())];
    for speed in &compared.speeds {
        let what = if matches!(speed.test, Test::Prompt(_)) { "reading" } else { "writing" };
        all.push((times(speed.ratio()), format!("speed of {what}, B by A")));
    }
    for quality in &compared.texts {
        let [a, b] = [0, 1].map(|side| quality.found[side].bits_per_byte().value);
        all.push((
            format!("{:+.1} %", 100.0 * (b / a - 1.0)),
            format!("bits for a byte of {}, B to A", quality.texts[0].name),
        ));
    }
    all
}

/// A bar of A and one of B for each number; the longer of the two is full.
fn bars(compared: &Compared) -> String {
    let [a, b] = &compared.sides;
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let mut all: Vec<(String, [f64; 2], &str)> = vec![
        ("file, less is better".into(), [mb(a.file_bytes), mb(b.file_bytes)], "MB"),
        ("read for a token, less is better".into(), [mb(a.bytes_per_token), mb(b.bytes_per_token)], "MB"),
    ];
    for speed in &compared.speeds {
        let what = if matches!(speed.test, Test::Prompt(_)) { "reading" } else { "writing" };
        let speeds = [0, 1].map(|side| speed.tokens_per_second(side).0);
        all.push((format!("{what}, more is better"), speeds, "tokens/s"));
    }
    for quality in &compared.texts {
        let bits = [0, 1].map(|side| quality.found[side].bits_per_byte().value);
        all.push((format!("{}, less is better", shortened(&quality.texts[0].name, 24)), bits, "bits per byte"));
    }
    let (left, full, row) = (250.0, 470.0, 50.0);
    let mut svg = Svg::new(940.0, row * all.len() as f64 + 4.0);
    for (i, (name, values, unit)) in all.iter().enumerate() {
        let top = row * i as f64 + 6.0;
        svg.text((left - 32.0, top + 22.0), Anchor::End, 13.0, INK, name);
        let most = values[0].max(values[1]).max(f64::MIN_POSITIVE);
        for (side, (value, colour)) in values.iter().zip([blue(0.28), blue(0.72)]).enumerate() {
            let (y, length) = (top + 19.0 * side as f64, full * value / most);
            svg.text((left - 8.0, y + 12.0), Anchor::End, 11.0, GREY, ["A", "B"][side]);
            svg.rect((left, y), (length, 16.0), &colour, "");
            let number = if *value < 10.0 { format!("{value:.3} {unit}") } else { format!("{value:.1} {unit}") };
            svg.text((left + length + 8.0, y + 12.5), Anchor::Start, 12.0, INK, &number);
        }
    }
    svg.finish("A and B, number by number")
}

fn continuation(continuation: &Continuation) -> String {
    let [a, b] = continuation.texts.each_ref().map(|text| escape(text));
    format!(
        "<pre><b>{}</b></pre>\n<div class=\"sides\"><div>A<pre>{a}</pre></div><div>B<pre>{b}</pre></div></div>\n",
        escape(&continuation.prompt)
    )
}
