//! Figures as PNG, drawn from their SVG.

use resvg::{tiny_skia, usvg};
use usvg::fontdb;

use crate::failure::Failure;

/// Pixels of a picture for each of its figure.
const SCALE: f32 = 2.0;

/// Draws figures, their text in the fonts of the system.
pub struct Painter {
    options: usvg::Options<'static>,
}

impl Painter {
    /// Looks the fonts up; an error if there are none.
    pub fn new() -> Result<Self, Failure> {
        let mut fonts = fontdb::Database::new();
        fonts.load_system_fonts();
        Self::with(fonts)
    }

    fn with(mut fonts: fontdb::Database) -> Result<Self, Failure> {
        // What usvg takes where it has none of the figure's fonts: without it there would be no text.
        let last = last_resort(&fonts).ok_or_else(|| {
            let advice = "install one (Debian: fonts-dejavu-core), or take the figures as SVG";
            Failure::Runtime(format!("there is no font to draw the figures' text with; {advice}"))
        })?;
        fonts.set_serif_family(last);
        Ok(Painter { options: usvg::Options { fontdb: fonts.into(), ..usvg::Options::default() } })
    }

    /// The picture of `svg`, a figure of [`Svg`](crate::svg::Svg), as a file.
    pub fn paint(&self, svg: &str) -> Result<Vec<u8>, Failure> {
        let failed = |e: &dyn std::fmt::Display| Failure::Runtime(format!("cannot draw a figure: {e}"));
        let figure = usvg::Tree::from_str(svg, &self.options).map_err(|e| failed(&e))?;
        let side = |length: f32| (length * SCALE).ceil() as u32;
        let (width, height) = (side(figure.size().width()), side(figure.size().height()));
        let mut picture = tiny_skia::Pixmap::new(width, height)
            .ok_or_else(|| failed(&format_args!("{width}x{height} pixels are too many")))?;
        resvg::render(&figure, tiny_skia::Transform::from_scale(SCALE, SCALE), &mut picture.as_mut());
        picture.encode_png().map_err(|e| failed(&e))
    }
}

/// A family to set any text in: an upright one of letters of their own width, if there is one.
fn last_resort(fonts: &fontdb::Database) -> Option<String> {
    let plain = |face: &&fontdb::FaceInfo| face.style == fontdb::Style::Normal && !face.monospaced;
    let face = fonts.faces().find(plain).or_else(|| fonts.faces().next())?;
    face.families.first().map(|(name, _)| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_font_there_is_no_picture_without_text() {
        let Err(Failure::Runtime(said)) = Painter::with(fontdb::Database::new()) else { panic!("no font is enough") };
        assert!(said.contains("fonts-dejavu-core"), "{said}");
    }
}
