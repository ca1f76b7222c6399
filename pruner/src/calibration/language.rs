//! Programming languages, told by file extensions.

use std::fmt;

use crate::error::Error;

/// A programming language, told by file extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// `.py`, `.pyi`
    Python,
    /// `.java`
    Java,
    /// `.cpp`, `.cc`, `.cxx`, `.hpp`, `.hh`, `.h`
    Cpp,
    /// `.js`, `.mjs`, `.cjs`, `.jsx`
    JavaScript,
    /// `.ts`, `.mts`, `.cts`, `.tsx`
    TypeScript,
    /// `.go`
    Go,
    /// `.rs`
    Rust,
    /// `.c`, `.h`
    C,
    /// `.cs`
    CSharp,
    /// `.php`
    Php,
    /// `.rb`, `.rake`
    Ruby,
    /// `.sh`, `.bash`, `.zsh`
    Shell,
}

impl Language {
    /// All of them.
    pub const ALL: [Language; 12] = [
        Language::Python,
        Language::Java,
        Language::Cpp,
        Language::JavaScript,
        Language::TypeScript,
        Language::Go,
        Language::Rust,
        Language::C,
        Language::CSharp,
        Language::Php,
        Language::Ruby,
        Language::Shell,
    ];

    /// Lower-case name, such as `javascript`.
    pub fn name(self) -> &'static str {
        match self {
            Language::Python => "python",
            Language::Java => "java",
            Language::Cpp => "cpp",
            Language::JavaScript => "javascript",
            Language::TypeScript => "typescript",
            Language::Go => "go",
            Language::Rust => "rust",
            Language::C => "c",
            Language::CSharp => "csharp",
            Language::Php => "php",
            Language::Ruby => "ruby",
            Language::Shell => "shell",
        }
    }

    /// Extensions of its files, without the dot.
    pub fn extensions(self) -> &'static [&'static str] {
        match self {
            Language::Python => &["py", "pyi"],
            Language::Java => &["java"],
            Language::Cpp => &["cpp", "cc", "cxx", "hpp", "hh", "h"],
            Language::JavaScript => &["js", "mjs", "cjs", "jsx"],
            Language::TypeScript => &["ts", "mts", "cts", "tsx"],
            Language::Go => &["go"],
            Language::Rust => &["rs"],
            Language::C => &["c", "h"],
            Language::CSharp => &["cs"],
            Language::Php => &["php"],
            Language::Ruby => &["rb", "rake"],
            Language::Shell => &["sh", "bash", "zsh"],
        }
    }
}

impl std::str::FromStr for Language {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let known = || Language::ALL.map(|l| format!("`{}`", l.name())).join(", ");
        Language::ALL.into_iter().find(|l| l.name() == text).ok_or_else(|| Error::option("language", text, known()))
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
