//! The figures as files of a folder.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Overlap, OverlapArgs, figures};
use crate::failure::Failure;
use crate::new_file::write_new;
use crate::png::Painter;

/// Where figures go, and what draws them: SVG without a painter.
pub(super) struct FigureFiles<'a> {
    folder: &'a Path,
    painter: Option<Painter>,
}

impl<'a> FigureFiles<'a> {
    /// Those that were asked for.
    pub(super) fn of(args: &'a OverlapArgs) -> Result<Vec<Self>, Failure> {
        let as_svg = args.svg.iter().map(|folder| Ok(FigureFiles { folder, painter: None }));
        let as_png = args.png.iter().map(|folder| Ok(FigureFiles { folder, painter: Some(Painter::new()?) }));
        as_svg.chain(as_png).collect()
    }

    /// The files that will be written.
    pub(super) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        figures::NAMES.into_iter().map(|name| self.path(name))
    }

    /// Draws all into the folder, which is made.
    pub(super) fn write(&self, overlap: &Overlap) -> Result<(), Failure> {
        let refused = |e| Failure::Runtime(format!("{}: cannot make the folder: {e}", self.folder.display()));
        fs::create_dir_all(self.folder).map_err(refused)?;
        figures::all(overlap).iter().try_for_each(|(name, svg)| match &self.painter {
            Some(painter) => write_new(&self.path(name), painter.paint(svg)?),
            None => write_new(&self.path(name), svg),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        let extension = if self.painter.is_some() { "png" } else { "svg" };
        self.folder.join(name).with_extension(extension)
    }
}
