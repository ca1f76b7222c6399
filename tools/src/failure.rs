//! How a program ends: one sentence for people on standard error, one number for scripts.

use std::io::Write;
use std::process::ExitCode;

use crate::notes::Notes;

/// Why a program stops before its end.
#[derive(Debug)]
pub enum Failure {
    /// Something went wrong while running: exit code 1.
    Runtime(String),
    /// The arguments make no sense together: exit code 2.
    Usage(String),
    /// A model file is not what it should be: exit code 3.
    BadFile(String),
    /// More memory is needed than there is: exit code 4.
    OutOfMemory(String),
    /// The user pressed Ctrl-C: exit code 130.
    Interrupted,
    /// Nobody reads the output any more (`| head`): a normal end.
    OutputClosed,
}

/// Runs a program's main function and turns its result into an exit code.
pub fn run(program: &str, main: impl FnOnce() -> Result<(), Failure>) -> ExitCode {
    let failure = match main() {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    let code = match failure {
        Failure::Runtime(_) => 1,
        Failure::Usage(_) => 2,
        Failure::BadFile(_) => 3,
        Failure::OutOfMemory(_) => 4,
        Failure::Interrupted => 130,
        Failure::OutputClosed => return ExitCode::SUCCESS,
    };
    let _ = writeln!(Notes, "{program}: {}", failure.into_message());
    ExitCode::from(code)
}

impl Failure {
    /// The sentence for people.
    pub fn into_message(self) -> String {
        match self {
            Failure::Runtime(m) | Failure::Usage(m) | Failure::BadFile(m) | Failure::OutOfMemory(m) => m,
            Failure::Interrupted => "interrupted".into(),
            Failure::OutputClosed => "nobody reads the output".into(),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Runtime(error.to_string()),
        }
    }
}

impl From<spm::Error> for Failure {
    fn from(error: spm::Error) -> Self {
        match error {
            spm::Error::Io { .. }
            | spm::Error::Exists { .. }
            | spm::Error::Busy { .. }
            | spm::Error::IsSource { .. } => Failure::Runtime(error.to_string()),
            spm::Error::OutOfMemory { .. } => Failure::OutOfMemory(error.to_string()),
            _ => Failure::BadFile(error.to_string()),
        }
    }
}

impl From<gguf::Error> for Failure {
    fn from(error: gguf::Error) -> Self {
        match error.is_io() {
            true => Failure::Runtime(error.to_string()),
            false => Failure::BadFile(error.to_string()),
        }
    }
}

impl From<hf::Error> for Failure {
    fn from(error: hf::Error) -> Self {
        match error.is_io() {
            true => Failure::Runtime(error.to_string()),
            false => Failure::BadFile(error.to_string()),
        }
    }
}

impl From<runtime::Error> for Failure {
    fn from(error: runtime::Error) -> Self {
        use runtime::Error as E;
        match error {
            E::File(e) => e.into(),
            E::OutOfMemory { .. } => Failure::OutOfMemory(error.to_string()),
            E::UnknownKernel { .. } | E::NoInfill | E::Token { .. } => Failure::Usage(error.to_string()),
            E::MissingTensor { .. } | E::Shape { .. } | E::NoVocabulary | E::Tokenizer { .. } | E::NotFinite => {
                Failure::BadFile(error.to_string())
            }
            _ => Failure::Runtime(error.to_string()),
        }
    }
}

impl From<pruner::Error> for Failure {
    fn from(error: pruner::Error) -> Self {
        use pruner::Error as E;
        match error {
            E::Interrupted => Failure::Interrupted,
            E::OutOfMemory { .. } | E::TooLittleMemory { .. } => Failure::OutOfMemory(error.to_string()),
            E::Option { option, .. } => Failure::Usage(match flag_of(option) {
                Some(flag) => format!("{flag}: {error}"),
                None => error.to_string(),
            }),
            E::OtherJournal { .. } | E::OtherSensitivity { .. } => Failure::Usage(error.to_string()),
            E::File(e) => e.into(),
            E::Runtime(e) => e.into(),
            E::NotFinite { .. } | E::Statistics { .. } => Failure::BadFile(error.to_string()),
            _ => Failure::Runtime(error.to_string()),
        }
    }
}

/// By which argument something is set.
fn flag_of(option: &str) -> Option<&'static str> {
    Some(match option {
        "calibration text" => "--calib",
        "calibration windows" => "--nsamples",
        "tokens a window" => "--seqlen",
        "sparsity" => "--sparsity",
        "pattern" => "--pattern",
        "mix" => "--mix",
        "tensor to treat otherwise" => "--ignore",
        "vocabulary shortlist" => "--vocab-shortlist",
        _ => return None,
    })
}
