//! From files and folders to documents: where they are, and reading them one by one.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};

use super::document::Document;
use super::domain::{Domain, is_code, is_jsonl};
use super::generated;
use super::skipped::Skipped;
use crate::error::Error;

/// Larger files, and lines of JSONL, are not source code.
const MAX_DOCUMENT: u64 = 2 << 20;

/// Where one document is.
pub(super) struct Place {
    /// Shared by the lines of a file: there can be millions.
    path: Arc<Path>,
    kind: Kind,
}

enum Kind {
    /// A file that was named, or a part of it that ends with a line: taken as it is.
    Named(Range<u64>),
    /// A file that a folder held: taken if people wrote it.
    Found,
    /// A line of a JSONL file, taken as it is: somebody chose it before.
    Line(Range<u64>),
}

/// Finds documents and reads them, and counts what it passes over.
#[derive(Default)]
pub(super) struct Documents {
    pub(super) skipped: Skipped,
    /// Hashes of the files of folders that were read.
    seen: HashSet<[u8; 32]>,
}

impl Documents {
    /// Every document of the sources, in an order that depends on names alone.
    pub(super) fn find(&mut self, sources: &[PathBuf], domain: Domain) -> Result<Vec<Place>, Error> {
        let mut places = Vec::new();
        for source in sources {
            let meta = std::fs::metadata(source);
            let meta = meta.map_err(|e| Error::Io { action: "open", path: source.clone(), source: e })?;
            if meta.is_dir() {
                self.add_folder(source, domain, &mut places)?;
            } else if meta.is_file() {
                self.add_named(source, meta.len(), &mut places)?;
            } else {
                let e = std::io::Error::other("neither a file nor a folder");
                return Err(Error::Io { action: "read", path: source.clone(), source: e });
            }
        }
        Ok(places)
    }

    fn add_folder(&mut self, folder: &Path, domain: Domain, places: &mut Vec<Place>) -> Result<(), Error> {
        let files = self.files_below(folder)?;
        let all = files.len();
        let chosen = domain.choose(files);
        self.skipped.of_another_kind += all - chosen.len();
        for file in chosen {
            if generated::has_generated_name(&file) {
                self.skipped.generated += 1;
            } else {
                self.add_found(&file, places)?;
            }
        }
        Ok(())
    }

    fn files_below(&mut self, folder: &Path) -> Result<Vec<PathBuf>, Error> {
        let vendored = Arc::new(AtomicUsize::new(0));
        let passed_over = Arc::clone(&vendored);
        let is_wanted = move |entry: &ignore::DirEntry| {
            let is_folder_inside = entry.depth() > 0 && entry.file_type().is_some_and(|t| t.is_dir());
            let is_vendored = is_folder_inside && generated::is_vendored(entry.path());
            passed_over.fetch_add(usize::from(is_vendored), Ordering::Relaxed);
            !is_vendored
        };
        // Only rules inside the folder count: what a user asks for is not hidden by rules above it or elsewhere.
        let walk = ignore::WalkBuilder::new(folder)
            .parents(false)
            .git_global(false)
            .git_exclude(false)
            .require_git(false)
            .follow_links(false)
            .filter_entry(is_wanted)
            .sort_by_file_path(Path::cmp)
            .build();
        let mut files = Vec::new();
        for entry in walk {
            let entry = entry.map_err(|e| walk_error(folder, e))?;
            if entry.file_type().is_some_and(|t| t.is_file()) {
                files.push(entry.into_path());
            }
        }
        self.skipped.vendored += vendored.load(Ordering::Relaxed);
        Ok(files)
    }

    fn add_found(&mut self, path: &Path, places: &mut Vec<Place>) -> Result<(), Error> {
        let io = |action| move |source| Error::Io { action, path: path.to_owned(), source };
        if is_jsonl(path) {
            return match self.add_lines(path, places) {
                Err(e) if is_not_for_us(&e) => {
                    self.skipped.unreadable += 1;
                    Ok(())
                }
                done => done.map_err(io("read")),
            };
        }
        let meta = std::fs::metadata(path).map_err(io("open"))?;
        if meta.len() > MAX_DOCUMENT {
            self.skipped.too_large += 1;
        } else {
            places.push(Place { path: path.into(), kind: Kind::Found });
        }
        Ok(())
    }

    fn add_named(&mut self, path: &Path, len: u64, places: &mut Vec<Place>) -> Result<(), Error> {
        let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
        if is_jsonl(path) {
            return self.add_lines(path, places).map_err(io);
        }
        if len > MAX_DOCUMENT {
            return self.add_parts(path, places).map_err(io);
        }
        places.push(Place { path: path.into(), kind: Kind::Named(0..len) });
        Ok(())
    }

    /// A large text as several documents: as many lines each as fit in one.
    fn add_parts(&mut self, path: &Path, places: &mut Vec<Place>) -> std::io::Result<()> {
        let path: Arc<Path> = path.into();
        let mut part = 0..0;
        let mut end = |part: &mut Range<u64>, next: u64| {
            if !part.is_empty() {
                places.push(Place { path: Arc::clone(&path), kind: Kind::Named(part.clone()) });
            }
            *part = next..next;
        };
        each_line(&path, |line| {
            if line.end - line.start > MAX_DOCUMENT {
                self.skipped.too_large += 1;
                return end(&mut part, line.end);
            }
            if line.end - part.start > MAX_DOCUMENT {
                end(&mut part, line.start);
            }
            part.end = line.end;
        })?;
        end(&mut part, 0);
        Ok(())
    }

    /// Notes where the lines are, without keeping them.
    fn add_lines(&mut self, path: &Path, places: &mut Vec<Place>) -> std::io::Result<()> {
        let path: Arc<Path> = path.into();
        each_line(&path, |line| match line.end - line.start {
            1 => {}
            len if len > MAX_DOCUMENT => self.skipped.too_large += 1,
            _ => places.push(Place { path: Arc::clone(&path), kind: Kind::Line(line) }),
        })
    }

    /// The document at `place`, unless it is to be passed over.
    pub(super) fn read(&mut self, place: &Place) -> Result<Option<Document>, Error> {
        let bytes = match (place.bytes(), &place.kind) {
            (Ok(bytes), _) => bytes,
            (Err(e), Kind::Found) if is_not_for_us(&e) => {
                self.skipped.unreadable += 1;
                return Ok(None);
            }
            (Err(source), _) => return Err(Error::Io { action: "read", path: place.path.to_path_buf(), source }),
        };
        let document = match place.kind {
            Kind::Line(_) => Document::of_line(&bytes),
            Kind::Named(_) | Kind::Found => text_of(bytes).map(Document::Text),
        };
        let fault = match (&place.kind, &document) {
            (Kind::Line(_), None) => Some(&mut self.skipped.without_text),
            (_, None) => Some(&mut self.skipped.binary),
            (_, Some(document)) if document.is_blank() => Some(&mut self.skipped.empty),
            (Kind::Found, Some(Document::Text(text))) => self.fault_of(&place.path, text),
            _ => None,
        };
        match fault {
            None => Ok(document),
            Some(count) => {
                *count += 1;
                Ok(None)
            }
        }
    }

    /// The counter of why a file that a folder held is passed over, if it is.
    fn fault_of(&mut self, path: &Path, text: &str) -> Option<&mut usize> {
        if generated::says_generated(text) {
            Some(&mut self.skipped.generated)
        } else if is_code(path) && generated::is_minified(text) {
            Some(&mut self.skipped.minified)
        } else if !self.seen.insert(Sha256::digest(text).into()) {
            Some(&mut self.skipped.duplicate)
        } else {
            None
        }
    }
}

impl Place {
    fn bytes(&self) -> std::io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        let mut len = MAX_DOCUMENT;
        if let Kind::Line(part) | Kind::Named(part) = &self.kind {
            file.seek(SeekFrom::Start(part.start))?;
            len = part.end - part.start;
        }
        let mut bytes = Vec::new();
        file.take(len).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Another's file, or one that went meanwhile: no reason to give up all others of a folder. Any other fault is.
fn is_not_for_us(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::NotFound)
}

fn text_of(bytes: Vec<u8>) -> Option<String> {
    if bytes.contains(&0) { None } else { String::from_utf8(bytes).ok() }
}

fn walk_error(folder: &Path, error: ignore::Error) -> Error {
    let reason = error.to_string();
    let source = error.into_io_error().unwrap_or_else(|| std::io::Error::other(reason));
    Error::Io { action: "list", path: folder.to_owned(), source }
}

/// Shows `each` where the lines of the file are, their ends included.
fn each_line(path: &Path, mut each: impl FnMut(Range<u64>)) -> std::io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path)?);
    let mut start = 0;
    loop {
        match skip_line(&mut reader)? {
            0 => return Ok(()),
            len => {
                each(start..start + len);
                start += len;
            }
        }
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
