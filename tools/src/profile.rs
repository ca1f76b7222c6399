//! Where to prune, as the command line says it.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use pruner::{Budget, Profile, SensitivityFile};

use crate::cli::ByteSize;
use crate::failure::Failure;

/// Where to prune.
#[derive(Args, Clone, Debug)]
pub struct ProfileArgs {
    /// What becomes of each matrix: the same for all; owl, layers with more outliers lose less; depth, later layers lose more;
    /// auto, the sparsities that are measured to lose least for the bytes that the same for all would take, or, with --size or
    /// --speed, the best mix of dense and sparse encodings for those
    /// [default: uniform]
    #[arg(long, value_enum)]
    profile: Option<Name>,
    /// The mix of encodings that loses least in a file of this size, such as 180MB; means --profile auto. With it or --speed
    /// --sparsity, --pattern, --values and --head do not matter
    #[arg(long, value_name = "SIZE", conflicts_with = "speed")]
    size: Option<ByteSize>,
    /// The mix that loses least with this size of weights read for a token, such as 150MB, on which the speed depends; means
    /// --profile auto
    #[arg(long, value_name = "SIZE")]
    speed: Option<ByteSize>,
    /// Keep what --profile auto measures in this file, and measure nothing that is there already: for several sizes of a model
    /// [default: beside the output, until it is finished]
    #[arg(long, value_name = "FILE")]
    sensitivity: Option<PathBuf>,
}

/// What a profile is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Name {
    #[default]
    Uniform,
    Owl,
    Depth,
    Auto,
}

impl ProfileArgs {
    /// Where the pruning that writes `output` keeps what it measures of the source with these files' hash.
    pub fn sensitivity_file(&self, output: &Path, source_sha256: &str) -> SensitivityFile {
        let beside = || {
            let mut name = OsString::from(output);
            name.push(".sensitivity");
            name.into()
        };
        SensitivityFile {
            path: self.sensitivity.clone().unwrap_or_else(beside),
            source_sha256: source_sha256.to_owned(),
            replace: self.sensitivity.is_none(),
        }
    }

    /// Removes the file once it is of no more use, unless it was asked for.
    pub fn forget(&self, file: &SensitivityFile) -> Result<(), Failure> {
        if self.sensitivity.is_some() || !matches!(self.profile(), Profile::Auto(_)) {
            return Ok(());
        }
        match fs::remove_file(&file.path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(Failure::Runtime(format!("{}: cannot remove: {e}", file.path.display())))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what would have no effect.
    pub fn check(&self) -> Result<(), Failure> {
        let budget = [("--size", self.size), ("--speed", self.speed)].into_iter().find(|(_, size)| size.is_some());
        match (self.profile, budget, &self.sensitivity) {
            (Some(name), Some((option, _)), _) if name != Name::Auto => {
                Err(Failure::Usage(format!("{option} means --profile auto; leave --profile or {option} out")))
            }
            (_, _, Some(_)) if !matches!(self.profile(), Profile::Auto(_)) => Err(Failure::Usage(
                "--sensitivity: only --profile auto, --size and --speed measure; add one of them, or leave it out"
                    .into(),
            )),
            _ => Ok(()),
        }
    }

    /// The profile.
    pub fn profile(&self) -> Profile {
        match (self.size, self.speed, self.profile.unwrap_or_default()) {
            (Some(size), _, _) => Profile::Auto(Budget::File(size.0)),
            (_, Some(size), _) => Profile::Auto(Budget::Token(size.0)),
            (_, _, Name::Uniform) => Profile::Uniform,
            (_, _, Name::Owl) => Profile::Owl,
            (_, _, Name::Depth) => Profile::Depth,
            (_, _, Name::Auto) => Profile::Auto(Budget::OfUniform),
        }
    }
}
