//! The report's figures: how much masks differ on a ruler, by layer and projection, by pair of models, and what each model
//! keeps alone.

use super::words::percent;
use super::{Alone, Overlap, Reading, Shared};
use crate::svg::{Anchor, GREY, INK, Svg, blue, on_blue, shortened, text_width};

/// Names of the figures, in the order of [`all`].
pub(super) const NAMES: [&str; 4] = ["ruler", "heatmap", "languages", "alone"];

/// Every figure as SVG, by name.
pub(super) fn all(overlap: &Overlap) -> [(&'static str, String); 4] {
    [
        (NAMES[0], ruler(overlap)),
        (NAMES[1], heat_map(overlap)),
        (NAMES[2], languages(overlap)),
        (NAMES[3], alone(overlap)),
    ]
}

const SIZE: f64 = 12.0;
/// Width of the figures, as that of the page.
const WIDTH: f64 = 940.0;
const LONGEST_LABEL: usize = 24;

/// The part of a reading that a panel shows.
type Part = fn(Reading) -> Option<Shared>;

/// From no difference to that of random masks, with other seeds and other models on the way.
pub(super) fn ruler(overlap: &Overlap) -> String {
    let all = overlap.reading(&|_| true);
    let chance = all.between.or(all.reseeded).map_or(1.0, |s| s.chance_difference());
    let found = [all.between, all.reseeded].into_iter().flatten().map(|s| s.difference());
    let most = found.fold(chance, f64::max);
    let (left, right) = (100.0, WIDTH - 110.0);
    let mut svg = Svg::new(WIDTH, 100.0);
    let at = |share: f64| left + (right - left) * share / most.max(f64::MIN_POSITIVE);
    svg.text((left - 8.0, 51.0), Anchor::End, SIZE, GREY, "0 %");
    svg.rect((left, 40.0), (right - left, 14.0), "#e6ebf0", "");
    let mark = |svg: &mut Svg, share: f64, (from, to): (f64, f64), y: f64, name: &str| {
        svg.line((at(share), from), (at(share), to), INK);
        svg.text((at(share), y), Anchor::Middle, SIZE, INK, &format!("{name}: {}", percent(share)));
    };
    // Names of near marks do not meet: above the bar, and below it in two lines.
    mark(&mut svg, chance, (40.0, 62.0), 76.0, "random masks");
    for (shared, shade, ends, y, name) in [
        (all.between, 0.5, (32.0, 54.0), 26.0, "different models"),
        (all.reseeded, 0.2, (40.0, 78.0), 92.0, "another seed"),
    ] {
        let Some(shared) = shared else { continue };
        svg.rect((left, 40.0), (at(shared.difference()) - left, 14.0), &blue(shade), name);
        mark(&mut svg, shared.difference(), ends, y, name);
    }
    svg.finish("Share of the kept weights in which masks differ")
}

/// Layer by projection, of different models and of other seeds on one scale.
pub(super) fn heat_map(overlap: &Overlap) -> String {
    let kinds: [(&str, Part); 2] =
        [("Different models", |r| r.between), ("Same calibration text, another seed", |r| r.reseeded)];
    let all = overlap.reading(&|_| true);
    let panels: Vec<_> = kinds.into_iter().filter(|(_, of)| of(all).is_some()).collect();
    let each = panels.iter().flat_map(|(_, of)| overlap.matrices.iter().filter_map(|m| of(overlap.reading_of(m))));
    let most = each.map(|s| s.difference()).fold(0.0, f64::max);
    let in_layers = |p: &&str| overlap.matrices.iter().any(|m| m.projection == *p && m.layer.is_some());
    let projections: Vec<&str> = overlap.projections().into_iter().filter(in_layers).collect();
    let left = projections.iter().map(|p| text_width(p, SIZE)).fold(60.0, f64::max) + 16.0;
    let layers = overlap.layers();
    let cell = ((WIDTH - left - 8.0) / layers.len().max(1) as f64).min(44.0);
    let grid = Grid { layers, projections, left, cell, most };
    let height = 62.0 + HEAT_ROW * grid.projections.len() as f64;
    let mut svg = Svg::new(WIDTH, height * panels.len() as f64 + 48.0);
    for (i, (title, of)) in panels.iter().enumerate() {
        let top = height * i as f64 + 40.0;
        svg.text((left, top - 20.0), Anchor::Start, 14.0, INK, title);
        grid.panel(&mut svg, overlap, top, *of);
    }
    legend(&mut svg, (left, height * panels.len() as f64 + 14.0), most);
    svg.finish("Share of the kept weights in which masks differ, by layer and projection")
}

const HEAT_ROW: f64 = 24.0;

/// Where the cells of a heat map are.
struct Grid<'a> {
    layers: Vec<usize>,
    projections: Vec<&'a str>,
    left: f64,
    /// Width of a cell.
    cell: f64,
    /// The difference that is the darkest.
    most: f64,
}

impl Grid<'_> {
    fn panel(&self, svg: &mut Svg, overlap: &Overlap, top: f64, of: Part) {
        for (row, projection) in self.projections.iter().enumerate() {
            let y = top + HEAT_ROW * row as f64;
            svg.text((self.left - 8.0, y + 16.0), Anchor::End, SIZE, INK, projection);
            for (column, layer) in self.layers.iter().enumerate() {
                let found = overlap.matrices.iter().find(|m| m.layer == Some(*layer) && m.projection == *projection);
                let found = found.and_then(|m| Some((m.tensor.as_str(), of(overlap.reading_of(m))?)));
                heat_cell(svg, (self.left + self.cell * column as f64, y), self.cell, found, self.most);
            }
        }
        let y = top + HEAT_ROW * self.projections.len() as f64 + 15.0;
        layer_numbers(svg, &self.layers, (self.left, y), self.cell);
        svg.text((self.left - 8.0, y), Anchor::End, 11.0, GREY, "layer");
    }
}

fn heat_cell(svg: &mut Svg, (x, y): (f64, f64), width: f64, found: Option<(&str, Shared)>, most: f64) {
    let gap = if width > 8.0 { 1.0 } else { 0.0 };
    let size = (width - gap, HEAT_ROW - 1.0);
    let Some((tensor, shared)) = found else {
        return svg.rect((x, y), size, "#f0f0f0", "left out");
    };
    let share = if most > 0.0 { shared.difference() / most } else { 0.0 };
    let tip = format!(
        "{tensor}: masks differ in {}, Jaccard distance {:.4}; random masks {}, {:.4}",
        percent(shared.difference()),
        shared.distance(),
        percent(shared.chance_difference()),
        shared.chance_distance()
    );
    svg.rect((x, y), size, &blue(share), &tip);
    // Where all differ by little the digit after the point is what there is to see.
    let digits = usize::from(most < 0.1);
    let number = format!("{:.digits$}", 100.0 * shared.difference());
    if text_width(&number, 11.0) + 3.0 < width {
        svg.text((x + size.0 / 2.0, y + 16.0), Anchor::Middle, 11.0, on_blue(share), &number);
    }
}

/// As many of the layers' numbers as have room.
fn layer_numbers(svg: &mut Svg, layers: &[usize], (left, y): (f64, f64), cell: f64) {
    let widest = layers.last().map_or(0.0, |last| text_width(&last.to_string(), 11.0)) + 6.0;
    let step = (widest / cell.max(0.1)).ceil().max(1.0) as usize;
    for (column, layer) in layers.iter().enumerate().step_by(step) {
        let x = left + cell * (column as f64 + 0.5);
        svg.text((x, y), Anchor::Middle, 11.0, GREY, &layer.to_string());
    }
}

/// What the colours mean, from 0 to `most`.
fn legend(svg: &mut Svg, (x, y): (f64, f64), most: f64) {
    const STEPS: usize = 40;
    let width = 200.0;
    for i in 0..STEPS {
        let at = x + 36.0 + width * i as f64 / STEPS as f64;
        svg.rect((at, y), (width / STEPS as f64 + 0.5, 12.0), &blue((i as f64 + 0.5) / STEPS as f64), "");
    }
    svg.text((x, y + 11.0), Anchor::Start, 11.0, GREY, "0 %");
    let words = format!("{} of the kept weights differ", percent(most));
    svg.text((x + 44.0 + width, y + 11.0), Anchor::Start, 11.0, GREY, &words);
}

/// Model by model; on the diagonal another seed of the same.
pub(super) fn languages(overlap: &Overlap) -> String {
    let labels: Vec<String> = overlap.labels().iter().map(|l| shortened(l, LONGEST_LABEL)).collect();
    let n = labels.len();
    let found = |a: usize, b: usize| match a == b {
        true => overlap.reseeded(a),
        false => Some(overlap.shared(a, b, &|_| true)),
    };
    let cells = (0..n).flat_map(|a| (0..n).map(move |b| (a, b)));
    let most = cells.filter_map(|(a, b)| found(a, b)).map(|s| s.difference()).fold(0.0, f64::max);
    let widest = labels.iter().map(|l| text_width(l, SIZE)).fold(0.0, f64::max);
    let (left, cell) = (widest + 16.0, (widest + 16.0).clamp(72.0, 160.0));
    let mut svg = Svg::new((left + cell * n as f64 + 16.0).max(left + 460.0), 36.0 * n as f64 + 76.0);
    for (a, label) in labels.iter().enumerate() {
        let y = 28.0 + 36.0 * a as f64;
        svg.text((left - 8.0, y + 22.0), Anchor::End, SIZE, INK, label);
        svg.text((left + cell * (a as f64 + 0.5), 18.0), Anchor::Middle, SIZE, INK, label);
        for b in 0..n {
            let shared = found(a, b);
            let share = shared.map_or(0.0, |s| if most > 0.0 { s.difference() / most } else { 0.0 });
            let tip = shared.map_or("no --reseed".to_owned(), |s| format!("Jaccard distance {:.4}", s.distance()));
            let fill = if shared.is_some() { blue(share) } else { "#f0f0f0".into() };
            let words = shared.map_or("?".to_owned(), |s| percent(s.difference()));
            let x = left + cell * b as f64;
            svg.rect((x, y), (cell - 2.0, 34.0), &fill, &tip);
            svg.text((x + cell / 2.0 - 1.0, y + 22.0), Anchor::Middle, SIZE, on_blue(share), &words);
        }
    }
    let y = 28.0 + 36.0 * n as f64;
    legend(&mut svg, (left, y + 8.0), most);
    svg.text((left, y + 40.0), Anchor::Start, 11.0, GREY, "On the diagonal: the same calibration text, another seed.");
    svg.finish("Share of the kept weights in which masks differ, by pair of models")
}

/// By model and projection the share of weights that no other model keeps; below them what it would be by chance, which is
/// nearly the same for all, as they keep nearly as many.
pub(super) fn alone(overlap: &Overlap) -> String {
    let labels = overlap.labels();
    let columns: Vec<&str> = overlap.projections().into_iter().chain(["all"]).collect();
    let found = |model: usize, column: &str| overlap.alone(model, &|m| column == "all" || m.projection == column);
    let all = (0..labels.len()).flat_map(|i| columns.iter().map(move |c| (i, *c)));
    let most = all.map(|(i, c)| found(i, c).share()).fold(f64::MIN_POSITIVE, f64::max);
    let names: Vec<String> = labels.iter().map(|l| shortened(l, LONGEST_LABEL)).collect();
    let chance = "random masks";
    let left = names.iter().map(|l| text_width(l, SIZE)).fold(text_width(chance, SIZE), f64::max) + 16.0;
    let width = columns.iter().map(|c| text_width(c, SIZE)).fold(56.0, f64::max) + 8.0;
    let last = 34.0 + ALONE_ROW * names.len() as f64;
    let mut svg = Svg::new((left + width * columns.len() as f64 + 16.0).max(WIDTH), last + ALONE_ROW);
    for (c, column) in columns.iter().enumerate() {
        let x = left + width * c as f64;
        svg.text((x + width / 2.0, 18.0), Anchor::Middle, SIZE, INK, column);
        for i in 0..names.len() {
            alone_cell(&mut svg, (x, 28.0 + ALONE_ROW * i as f64), width, found(i, column), most);
        }
        svg.rect((x, last), (width - 2.0, ALONE_ROW - 2.0), "#f0f0f0", "");
        let words = percent(found(0, column).chance_share());
        svg.text((x + width / 2.0 - 1.0, last + 19.0), Anchor::Middle, SIZE, GREY, &words);
    }
    for (i, name) in names.iter().enumerate() {
        svg.text((left - 8.0, 47.0 + ALONE_ROW * i as f64), Anchor::End, SIZE, INK, name);
    }
    svg.text((left - 8.0, last + 19.0), Anchor::End, SIZE, GREY, chance);
    svg.finish("Share of all weights that one model alone keeps")
}

const ALONE_ROW: f64 = 30.0;

fn alone_cell(svg: &mut Svg, (x, y): (f64, f64), width: f64, found: Alone, most: f64) {
    let again = found.again_share().map(|a| format!("{} of these again with another seed", percent(a)));
    let shade = found.share() / most;
    svg.rect((x, y), (width - 2.0, ALONE_ROW - 2.0), &blue(shade), &again.unwrap_or_default());
    svg.text((x + width / 2.0 - 1.0, y + 19.0), Anchor::Middle, SIZE, on_blue(shade), &percent(found.share()));
}
