//! Manual pages and shell completions, made of the programs' own options when packages are made.

use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory, ValueEnum};
use clap_complete::Shell;

use crate::failure::Failure;

/// How packaging asks a program for its documentation.
const ASKS: &str = "--write-docs";

/// What the program `T` ends with if it was asked, by `--write-docs FOLDER`, for `FOLDER/man` and
/// `FOLDER/completions`.
pub fn written<T: CommandFactory>() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let folder = args.next().filter(|arg| arg == ASKS).and(args.next())?;
    let command = T::command();
    let program = command.get_name().to_owned();
    Some(crate::run(&program, || write(command, Path::new(&folder))))
}

fn write(command: Command, folder: &Path) -> Result<(), Failure> {
    // `spm help eval` needs no page of its own.
    let mut command = command.disable_help_subcommand(true);
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    for folder in [&man, &completions] {
        std::fs::create_dir_all(folder)?;
    }
    let name = command.get_name().to_owned();
    for &shell in Shell::value_variants() {
        clap_complete::generate_to(shell, &mut command, &name, &completions)?;
    }
    clap_mangen::generate_to(command.disable_help_subcommand(true), &man)?;
    Ok(())
}
