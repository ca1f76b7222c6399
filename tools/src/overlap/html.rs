//! The report for people.

use super::text::describe_left_out;
use super::words::{percent, sentences};
use super::{Overlap, Shared, figures};
use crate::page::{cards, page, paragraph, section, table};
use crate::svg::escape;

pub(super) fn render(overlap: &Overlap) -> String {
    let title = format!("Where {} differ", list(&overlap.labels()));
    let warnings = overlap.warnings.iter().map(|w| format!("<p class=\"warning\">{}</p>\n", escape(w)));
    let mut body = warnings.collect::<String>();
    body += &summary(overlap);
    body += &section("By layer and projection", &[note(HEAT_MAP), figures::heat_map(overlap)].concat());
    if overlap.family.different > 1 {
        body += &section("By pair of models", &figures::languages(overlap));
        body += &section("What each keeps that the others drop", &[note(ALONE), figures::alone(overlap)].concat());
    }
    body += &section("Numbers", &numbers(overlap));
    body += &section("Models", &models(overlap));
    page(&title, &body)
}

const HEAT_MAP: &str = "Share of the kept weights in which masks differ, in percent. Rest the pointer on a cell for Jaccard's distance and chance.";
const ALONE: &str = "Share of all weights of a projection that this model keeps and every other model drops.";

fn note(text: &str) -> String {
    format!("<p class=\"note\">{}</p>\n", escape(text))
}

fn summary(overlap: &Overlap) -> String {
    let all = overlap.reading(&|_| true);
    let number = |shared: Option<Shared>| shared.map_or("?".to_owned(), |s| percent(s.difference()));
    let chance = all.between.or(all.reseeded).map_or("?".to_owned(), |s| percent(s.chance_difference()));
    let numbers = [
        (number(all.between), "of the kept weights differ between models"),
        (number(all.reseeded), "differ between two seeds of one calibration"),
        (chance, "differ between random masks of the same densities"),
    ];
    let numbers = numbers.map(|(number, words)| (number, words.to_owned()));
    let words: String = sentences(overlap).iter().map(|s| paragraph(s)).collect();
    [cards(&numbers), figures::ruler(overlap), words].concat()
}

fn numbers(overlap: &Overlap) -> String {
    let label = |i: usize| overlap.models[i].subject.label.as_str();
    let row = |(a, b): (usize, usize)| {
        let s = overlap.shared(a, b, &|_| true);
        let numbers = [s.overlap(), s.distance(), s.chance_overlap(), s.chance_distance()];
        let name = format!("{} and {}", label(a), label(b));
        [vec![name], numbers.iter().map(|v| format!("{v:.4}")).collect()].concat()
    };
    let pairs = overlap.family.different_pairs().chain(overlap.family.reseeded_pairs());
    let head = ["models", "overlap", "Jaccard distance", "random overlap", "random Jaccard distance"];
    let explained = "Overlap: share of the kept weights that both keep. Jaccard distance: 1 less the intersection by the \
                     union. Random: expected of independent masks of the same densities in every matrix.";
    [table(&head, &pairs.map(row).collect::<Vec<_>>()), note(explained)].concat()
}

fn models(overlap: &Overlap) -> String {
    let weights: u64 = overlap.matrices.iter().map(|m| m.counts.weights).sum();
    let row = |(i, model): (usize, &super::ModelFacts)| {
        let kept: u64 = overlap.matrices.iter().map(|m| m.counts.kept[i]).sum();
        let density = format!("{:.4}", kept as f64 / weights as f64);
        vec![model.subject.label.clone(), kept.to_string(), density, model.method.clone(), model.calibration.clone()]
    };
    let rows: Vec<_> = overlap.models.iter().enumerate().map(row).collect();
    let table = table(&["model", "kept", "density", "method", "calibration"], &rows);
    let compared = format!("Compared: {weights} weights of {} matrices. ", overlap.matrices.len());
    let left_out = match overlap.left_out.is_empty() {
        true => "No matrix was left out.".to_owned(),
        false => format!("Left out: {}.", describe_left_out(overlap)),
    };
    [table, note(&(compared + &left_out))].concat()
}

fn list(labels: &[&str]) -> String {
    match labels {
        [one] => format!("calibrations of {one}"),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
        [] => String::new(),
    }
}
