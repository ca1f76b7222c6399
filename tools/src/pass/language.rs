//! The languages whose programs can be run.

use clap::ValueEnum;

/// A programming language of the benchmarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Language {
    /// Run by `python3`
    Python,
    /// Built by `javac`, run by `java`
    Java,
    /// Built by `g++`
    Cpp,
    /// Run by `node`
    Javascript,
}

impl Language {
    /// What it is called in results and options.
    pub fn name(self) -> &'static str {
        match self {
            Language::Python => "python",
            Language::Java => "java",
            Language::Cpp => "cpp",
            Language::Javascript => "javascript",
        }
    }

    /// What people call it.
    pub fn title(self) -> &'static str {
        match self {
            Language::Python => "Python",
            Language::Java => "Java",
            Language::Cpp => "C++",
            Language::Javascript => "JavaScript",
        }
    }

    /// The name after the three backticks that begin a block of code.
    pub fn fence(self) -> &'static str {
        self.name()
    }

    /// That of HumanEval-X task ids, `Java/3`.
    pub fn of_task_id(task_id: &str) -> Option<Self> {
        let (name, _) = task_id.split_once('/')?;
        match &name.to_ascii_lowercase()[..] {
            "python" => Some(Language::Python),
            "java" => Some(Language::Java),
            "cpp" => Some(Language::Cpp),
            "javascript" | "js" => Some(Language::Javascript),
            _ => None,
        }
    }
}
