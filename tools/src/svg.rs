//! Small figures as SVG: shapes and words at given places, nothing that must be fetched.

use std::fmt::Write;

/// Dark text on the white ground of a figure.
pub const INK: &str = "#1b2733";
/// Text of less weight.
pub const GREY: &str = "#5b6875";

/// Where a text stands from its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// To the right of it.
    Start,
    /// Around it.
    Middle,
    /// To the left of it.
    End,
}

/// A figure that grows shape by shape; lengths are pixels.
#[derive(Clone, Debug)]
pub struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    /// An empty white figure.
    pub fn new(width: f64, height: f64) -> Self {
        let mut svg = Svg { width, height, body: String::new() };
        svg.rect((0.0, 0.0), (width, height), "#ffffff", "");
        svg
    }

    /// A filled rectangle from its upper left corner on; `tip` is shown where a pointer rests on it.
    pub fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str, tip: &str) {
        let shape =
            format!("<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"");
        let end = if tip.is_empty() { "/>".into() } else { format!("><title>{}</title></rect>", escape(tip)) };
        // Writing to a text cannot fail.
        let _ = writeln!(self.body, "{shape}{end}");
    }

    /// A straight line.
    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" stroke-width=\"1\"/>"
        );
    }

    /// One line of text, its base line at `y`; `size` is the height of its letters' box.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, size: f64, colour: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"{colour}\">{}</text>",
            escape(text)
        );
    }

    /// The whole file, called `title`.
    pub fn finish(self, title: &str) -> String {
        let Svg { width, height, body } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
             height=\"{height:.0}\" font-family=\"system-ui, 'DejaVu Sans', Arial, sans-serif\" \
             shape-rendering=\"crispEdges\" role=\"img\">\n\
             <title>{}</title>\n{body}</svg>\n",
            escape(title)
        )
    }
}

/// About how wide a text is, in pixels: letters of sans-serif fonts are some 0.6 of their size.
pub fn text_width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * 0.6
}

/// At most `most` characters, the last one of a longer text an ellipsis.
pub fn shortened(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        true => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// Text as SVG and HTML write it; control characters, which neither may hold, are replaced.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}') => out.push('\u{FFFD}'),
            c => out.push(c),
        }
    }
    out
}

/// From nearly white at 0 to a dark blue at 1.
pub fn blue(share: f64) -> String {
    const STOPS: [[f64; 3]; 5] =
        [[247.0, 251.0, 255.0], [198.0, 219.0, 239.0], [107.0, 174.0, 214.0], [33.0, 113.0, 181.0], [8.0, 48.0, 107.0]];
    let at = if share.is_finite() { share.clamp(0.0, 1.0) * 4.0 } else { 0.0 };
    let low = (at as usize).min(3);
    let mixed = |i: usize| STOPS[low][i] + (STOPS[low + 1][i] - STOPS[low][i]) * (at - low as f64);
    format!("#{:02x}{:02x}{:02x}", mixed(0).round() as u8, mixed(1).round() as u8, mixed(2).round() as u8)
}

/// The colour of text that can be read on [`blue`].
pub fn on_blue(share: f64) -> &'static str {
    if share > 0.55 { "#ffffff" } else { INK }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_place() {
        assert_eq!(escape("a<b> & \"c\"\u{1b}[0m"), "a&lt;b&gt; &amp; &quot;c&quot;\u{FFFD}[0m");
        let mut svg = Svg::new(10.0, 20.0);
        svg.text((1.0, 2.0), Anchor::End, 9.0, INK, "</text><script>");
        svg.rect((0.0, 0.0), (1.0, 1.0), "#fff", "\"<tip>");
        let file = svg.finish("a & b");
        assert!(!file.contains("<script") && file.contains("&lt;/text&gt;&lt;script&gt;</text>"), "{file}");
        assert!(file.contains("<title>a &amp; b</title>") && file.contains("<title>&quot;&lt;tip&gt;</title>"));
    }

    #[test]
    fn colours_run_from_light_to_dark() {
        assert_eq!((blue(-1.0), blue(0.0), blue(f64::NAN)), ("#f7fbff".into(), "#f7fbff".into(), "#f7fbff".into()));
        assert_eq!((blue(0.5), blue(1.0), blue(7.0)), ("#6baed6".into(), "#08306b".into(), "#08306b".into()));
        assert_eq!(blue(0.125), "#dfebf7");
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(shortened("javascript", 10), "javascript");
        assert_eq!(shortened("javascripts", 10), "javascrip…");
    }
}
