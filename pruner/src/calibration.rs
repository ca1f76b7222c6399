//! From files and folders of text to windows of token ids.
//!
//! Documents are shuffled with a seed and packed one after another, so that every position of every window
//! is a real token. Reading stops as soon as there are enough. Which files are generated or vendored is not
//! judged here; what a `.gitignore` inside a folder excludes is not read.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::provenance::sha256_of_windows;
use crate::rng::SplitMix;

/// Larger files, and lines of JSONL, are not source code.
const MAX_DOCUMENT: u64 = 2 << 20;

/// What to calibrate on.
#[derive(Clone, Debug)]
pub struct CalibrationOptions {
    /// Files and folders. In a folder, hidden files, links and what its `.gitignore` excludes are passed over.
    pub sources: Vec<PathBuf>,
    /// Only files of this language, by extension; `None` takes every text. Files named in `sources`
    /// themselves, and JSONL, are taken whatever the language.
    pub language: Option<Language>,
    /// Windows.
    pub nsamples: usize,
    /// Tokens a window.
    pub seqlen: usize,
    /// Chooses the order of the documents.
    pub seed: u64,
    /// How documents are joined.
    pub joints: Joints,
}

/// Tokens put between documents and windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Joints {
    /// First token of every window, for models that expect one.
    pub window_start: Option<u32>,
    /// Put after every document.
    pub document_end: Option<u32>,
}

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
}

/// The windows, and what they were made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// `nsamples` windows of `seqlen` token ids.
    pub windows: Vec<Vec<u32>>,
    /// Documents that the windows hold, the last one perhaps cut.
    pub documents: usize,
    /// Documents there were to choose from.
    pub available: usize,
    /// What was passed over.
    pub skipped: Skipped,
    /// Hash of the token ids, see [`sha256_of_windows`].
    pub sha256: String,
    description: String,
}

/// Files and lines that were not used, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Not UTF-8, or with a zero byte.
    pub binary: usize,
    /// Above 2 MiB.
    pub too_large: usize,
    /// Lines of JSONL without a `text`.
    pub without_text: usize,
    /// Blank.
    pub empty: usize,
}

impl Default for CalibrationOptions {
    fn default() -> Self {
        CalibrationOptions {
            sources: Vec::new(),
            language: None,
            nsamples: 64,
            seqlen: 512,
            seed: 0,
            joints: Joints::default(),
        }
    }
}

impl Calibration {
    /// Reads the sources and packs them; `tokenize` turns a text into ids, adding nothing of its own.
    pub fn collect(options: &CalibrationOptions, tokenize: &dyn Fn(&str) -> Vec<u32>) -> Result<Self, Error> {
        let need = options.check()?;
        let mut skipped = Skipped::default();
        let mut places = find_documents(&options.sources, options.language, &mut skipped)?;
        let available = places.len();
        SplitMix::new(options.seed).shuffle(&mut places);

        let mut ids = Vec::new();
        let mut documents = 0;
        for place in &places {
            if ids.len() >= need {
                break;
            }
            let Some(text) = place.read(&mut skipped)? else { continue };
            documents += 1;
            ids.extend(tokenize(&text));
            ids.extend(options.joints.document_end);
        }
        let CalibrationOptions { nsamples, seqlen, .. } = *options;
        if ids.len() < need {
            return Err(Error::TooFewTokens { have: ids.len(), need, nsamples, seqlen, documents, skipped });
        }
        let windows = options.cut(&ids);
        let sha256 = sha256_of_windows(&windows);
        let description = options.describe(documents, &sha256);
        Ok(Calibration { windows, documents, available, skipped, sha256, description })
    }

    /// One line for the file's provenance. It names no paths.
    pub fn description(&self) -> &str {
        &self.description
    }
}

impl CalibrationOptions {
    /// Tokens of text that the windows need; an error if they cannot be made.
    fn check(&self) -> Result<usize, Error> {
        let least = 1 + usize::from(self.joints.window_start.is_some());
        if self.nsamples == 0 {
            return Err(Error::option("calibration windows", "0", "1 or more"));
        }
        if self.seqlen < least {
            return Err(Error::option("tokens a window", &self.seqlen.to_string(), format!("{least} or more")));
        }
        if self.sources.is_empty() {
            return Err(Error::option("calibration text", "", "at least one file or folder"));
        }
        let (nsamples, len) = (self.nsamples, self.text_len());
        let expected = "fewer windows, or shorter ones";
        nsamples.checked_mul(len).ok_or_else(|| Error::option("calibration windows", &nsamples.to_string(), expected))
    }

    /// Tokens of text in a window.
    fn text_len(&self) -> usize {
        self.seqlen - usize::from(self.joints.window_start.is_some())
    }

    fn cut(&self, ids: &[u32]) -> Vec<Vec<u32>> {
        let windows = ids.chunks_exact(self.text_len()).take(self.nsamples);
        windows.map(|text| self.joints.window_start.iter().chain(text).copied().collect()).collect()
    }

    fn describe(&self, documents: usize, sha256: &str) -> String {
        let language = self.language.map_or("any text".to_owned(), |l| l.to_string());
        let CalibrationOptions { nsamples, seqlen, seed, .. } = self;
        format!(
            "{nsamples} windows of {seqlen} tokens, {language}, {documents} documents, seed {seed}, sha256 {sha256}"
        )
    }
}

impl Language {
    /// All of them.
    pub const ALL: [Language; 4] = [Language::Python, Language::Java, Language::Cpp, Language::JavaScript];

    /// Lower-case name, such as `javascript`.
    pub fn name(self) -> &'static str {
        match self {
            Language::Python => "python",
            Language::Java => "java",
            Language::Cpp => "cpp",
            Language::JavaScript => "javascript",
        }
    }

    /// Extensions of its files, without the dot.
    pub fn extensions(self) -> &'static [&'static str] {
        match self {
            Language::Python => &["py", "pyi"],
            Language::Java => &["java"],
            Language::Cpp => &["cpp", "cc", "cxx", "hpp", "hh", "h"],
            Language::JavaScript => &["js", "mjs", "cjs", "jsx"],
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

/// For the middle of a sentence: empty if nothing was skipped.
impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.binary, "not text"),
            (self.too_large, "above 2 MiB"),
            (self.without_text, "without a `text` field"),
            (self.empty, "empty"),
        ];
        let said: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, why)| format!("{n} {why}")).collect();
        if said.is_empty() { Ok(()) } else { write!(f, " ({} passed over)", said.join(", ")) }
    }
}

/// Where one document is.
pub(crate) struct Place {
    path: PathBuf,
    /// A line of a JSONL file; the whole file if `None`.
    line: Option<Range<u64>>,
}

impl Place {
    pub(crate) fn read(&self, skipped: &mut Skipped) -> Result<Option<String>, Error> {
        let bytes = self.bytes().map_err(|source| Error::Io { action: "read", path: self.path.clone(), source })?;
        let text = match &self.line {
            None => text_of(bytes),
            Some(_) => match text_field(&bytes) {
                None => {
                    skipped.without_text += 1;
                    return Ok(None);
                }
                text => text,
            },
        };
        match text {
            None => skipped.binary += 1,
            Some(text) if text.trim().is_empty() => skipped.empty += 1,
            text => return Ok(text),
        }
        Ok(None)
    }

    fn bytes(&self) -> std::io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        let mut len = MAX_DOCUMENT;
        if let Some(line) = &self.line {
            file.seek(SeekFrom::Start(line.start))?;
            len = line.end - line.start;
        }
        let mut bytes = Vec::new();
        file.take(len).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

fn text_of(bytes: Vec<u8>) -> Option<String> {
    if bytes.contains(&0) { None } else { String::from_utf8(bytes).ok() }
}

fn text_field(line: &[u8]) -> Option<String> {
    match serde_json::from_slice(line).ok()? {
        serde_json::Value::Object(mut fields) => match fields.remove("text")? {
            serde_json::Value::String(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// Shows `each` the documents of files and folders, in an order that depends on names alone, until it breaks.
/// What is taken and what passed over is as for calibration.
pub fn each_document(
    sources: &[PathBuf],
    language: Option<Language>,
    each: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Skipped, Error> {
    let mut skipped = Skipped::default();
    for place in find_documents(sources, language, &mut skipped)? {
        if let Some(text) = place.read(&mut skipped)?
            && each(&text).is_break()
        {
            break;
        }
    }
    Ok(skipped)
}

/// Every document of the sources, in an order that depends on names alone.
pub(crate) fn find_documents(
    sources: &[PathBuf],
    language: Option<Language>,
    skipped: &mut Skipped,
) -> Result<Vec<Place>, Error> {
    let mut places = Vec::new();
    for source in sources {
        let meta = std::fs::metadata(source);
        let meta = meta.map_err(|e| Error::Io { action: "open", path: source.clone(), source: e })?;
        if meta.is_dir() {
            for file in files_below(source, language)? {
                add_file(&file, &mut places, skipped)?;
            }
        } else if meta.is_file() {
            add_file(source, &mut places, skipped)?;
        } else {
            let e = std::io::Error::other("neither a file nor a folder");
            return Err(Error::Io { action: "read", path: source.clone(), source: e });
        }
    }
    Ok(places)
}

fn files_below(folder: &Path, language: Option<Language>) -> Result<Vec<PathBuf>, Error> {
    // Only rules inside the folder count: what a user asks for is not hidden by rules above it or elsewhere.
    let walk = ignore::WalkBuilder::new(folder)
        .parents(false)
        .git_global(false)
        .git_exclude(false)
        .require_git(false)
        .follow_links(false)
        .sort_by_file_path(Path::cmp)
        .build();
    let mut files = Vec::new();
    for entry in walk {
        let entry = entry.map_err(|e| walk_error(folder, e))?;
        if entry.file_type().is_some_and(|t| t.is_file()) && is_wanted(entry.path(), language) {
            files.push(entry.into_path());
        }
    }
    Ok(files)
}

fn walk_error(folder: &Path, error: ignore::Error) -> Error {
    let reason = error.to_string();
    let source = error.into_io_error().unwrap_or_else(|| std::io::Error::other(reason));
    Error::Io { action: "list", path: folder.to_owned(), source }
}

fn is_wanted(path: &Path, language: Option<Language>) -> bool {
    let Some(language) = language else { return true };
    let extension = extension_of(path);
    extension == "jsonl" || language.extensions().contains(&extension.as_str())
}

fn extension_of(path: &Path) -> String {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase()
}

fn add_file(path: &Path, places: &mut Vec<Place>, skipped: &mut Skipped) -> Result<(), Error> {
    let io = |action| move |source| Error::Io { action, path: path.to_owned(), source };
    if extension_of(path) == "jsonl" {
        return add_lines(path, places, skipped).map_err(io("read"));
    }
    let meta = std::fs::metadata(path).map_err(io("open"))?;
    if meta.len() > MAX_DOCUMENT {
        skipped.too_large += 1;
    } else {
        places.push(Place { path: path.to_owned(), line: None });
    }
    Ok(())
}

/// Notes where the lines are, without keeping them.
fn add_lines(path: &Path, places: &mut Vec<Place>, skipped: &mut Skipped) -> std::io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path)?);
    let mut start = 0;
    loop {
        let len = skip_line(&mut reader)?;
        match len {
            0 => return Ok(()),
            1 => {}
            _ if len > MAX_DOCUMENT => skipped.too_large += 1,
            _ => places.push(Place { path: path.to_owned(), line: Some(start..start + len) }),
        }
        start += len;
    }
}

/// Bytes of the next line, its end included; 0 at the end of the file.
fn skip_line(reader: &mut impl BufRead) -> std::io::Result<u64> {
    let mut len = 0;
    loop {
        let buffer = reader.fill_buf()?;
        let (n, ended) = match buffer.iter().position(|&b| b == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        reader.consume(n);
        len += n as u64;
        if ended {
            return Ok(len);
        }
    }
}
