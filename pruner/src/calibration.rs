//! From files and folders of text to windows of token ids.
//!
//! Documents of a domain are shuffled with a seed and packed one after another, so that every position of every window
//! is a real token, and of that windows are taken at equal distances: those that follow one another are much alike, and 64
//! from as many documents show a model more of a language than 64 from twenty. Reading stops as soon as there is sixteen
//! times as much as is taken. Of a folder is taken what people wrote and what belongs to it: not what its `.gitignore`
//! excludes, what is hidden, vendored, generated or minified, nor a file twice.

mod document;
mod documents;
mod domain;
mod generated;
mod language;
mod mix;
mod skipped;

use std::collections::{BTreeSet, VecDeque};
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

use documents::Documents;

use crate::error::Error;
use crate::provenance::sha256_of_windows;
use crate::report::Warning;
use crate::rng::SplitMix;

pub use document::{Document, Tokenize, Turn};
pub use domain::Domain;
pub use language::Language;
pub use mix::Mix;
pub use skipped::Skipped;

/// Far above any use; bounds the list of them.
const MAX_WINDOWS: usize = 1 << 20;

/// The same of all their tokens; what is foreseen of their bytes stays below 2^64.
const MAX_TOKENS: usize = i32::MAX as usize;

/// How many times the tokens that are taken are read, at most.
const SPREAD: usize = 16;

/// What to calibrate on.
#[derive(Clone, Debug)]
pub struct CalibrationOptions {
    /// One part, or those of a mix, each with its own domain.
    pub parts: Vec<Part>,
    /// Windows.
    pub nsamples: usize,
    /// Tokens a window.
    pub seqlen: usize,
    /// Chooses the order of the documents.
    pub seed: u64,
    /// How documents are joined.
    pub joints: Joints,
}

/// Text of one domain, and how much of the whole it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Which files of folders are taken. Files named in `sources` themselves are taken whatever they are, in parts if they are
    /// large; JSONL in a folder, where it holds no file of the domain.
    pub domain: Domain,
    /// Share of the windows, and so of the tokens; shares of all parts are divided by their sum.
    pub share: f64,
    /// Files and folders.
    pub sources: Vec<PathBuf>,
}

/// Tokens put between documents and windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Joints {
    /// First token of every window, for models that expect one.
    pub window_start: Option<u32>,
    /// Put after every document.
    pub document_end: Option<u32>,
}

/// The windows, and what they were made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// `nsamples` windows of `seqlen` token ids.
    pub windows: Vec<Vec<u32>>,
    /// What each part gave, in the order of the parts.
    pub parts: Vec<PartTaken>,
    /// What was passed over.
    pub skipped: Skipped,
    /// Hash of the token ids, see [`sha256_of_windows`].
    pub sha256: String,
    description: String,
}

/// What a part gave.
#[derive(Clone, Debug, PartialEq)]
pub struct PartTaken {
    /// Its domain.
    pub domain: Domain,
    /// Its share, of 1.
    pub share: f64,
    /// Its windows.
    pub windows: usize,
    /// Documents that they hold, or some of.
    pub documents: usize,
    /// Documents there were to choose from.
    pub available: usize,
}

impl Default for CalibrationOptions {
    fn default() -> Self {
        CalibrationOptions { parts: Vec::new(), nsamples: 64, seqlen: 512, seed: 0, joints: Joints::default() }
    }
}

impl Part {
    /// All there is to calibrate on.
    pub fn whole(domain: Domain, sources: Vec<PathBuf>) -> Self {
        Part { domain, share: 1.0, sources }
    }
}

impl Calibration {
    /// Reads the sources and packs them; `tokenize` turns documents into ids.
    pub fn collect(options: &CalibrationOptions, tokenize: &dyn Tokenize) -> Result<Self, Error> {
        options.check()?;
        let dealt = mix::deal(&options.shares(), options.nsamples);
        let needs = options.windows_of_parts(&dealt)?;
        let mut documents = Documents::default();
        let packed = options.parts.iter().zip(&needs);
        let packed = packed.map(|(part, need)| options.pack(part, *need, &mut documents, tokenize));
        let packed = packed.collect::<Result<Vec<_>, _>>()?;
        options.check_enough(&dealt, &needs, &packed, documents.skipped)?;

        let windows = options.cut(&dealt, &packed);
        let sha256 = sha256_of_windows(&windows);
        let parts = options.taken(&needs, &packed);
        let description = options.describe(&parts, &sha256);
        Ok(Calibration { windows, parts, skipped: documents.skipped, sha256, description })
    }

    /// Documents that the windows hold.
    pub fn documents(&self) -> usize {
        self.parts.iter().map(|p| p.documents).sum()
    }

    /// Documents there were to choose from.
    pub fn available(&self) -> usize {
        self.parts.iter().map(|p| p.available).sum()
    }

    /// Tokens of all windows.
    pub fn tokens(&self) -> usize {
        self.windows.iter().map(Vec::len).sum()
    }

    /// One line for the file's provenance. It names no paths.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Adds to the description what files do not tell: who wrote them, for example.
    pub fn note(&mut self, note: &str) {
        self.description = format!("{}, {note}", self.description);
    }

    /// What about the text may make a worse model than need be.
    pub fn warnings(&self) -> Vec<Warning> {
        if self.documents() == 1 { vec![Warning::OneDocument { tokens: self.tokens() }] } else { Vec::new() }
    }
}

/// The tokens of a part, more than are taken if there are.
struct Packed {
    ids: Vec<u32>,
    /// Where each document ends.
    ends: Vec<usize>,
    available: usize,
    /// How far windows are moved on towards the next of them, of 2^64.
    phase: u64,
}

impl Packed {
    /// `windows` of `len` tokens at equal distances.
    fn windows(&self, windows: usize, len: usize) -> impl Iterator<Item = Range<usize>> {
        let fitting = self.ids.len() / len;
        let moved = ((self.phase as u128 * fitting as u128) >> 64) as usize;
        (0..windows).map(move |i| (i * fitting + moved) / windows * len).map(move |first| first..first + len)
    }

    /// Documents that these windows hold some of.
    fn documents(&self, windows: usize, len: usize) -> usize {
        let of = |token: usize| self.ends.partition_point(|end| *end <= token);
        let touched = self.windows(windows, len).flat_map(|window| of(window.start)..=of(window.end - 1));
        touched.collect::<BTreeSet<_>>().len()
    }
}

impl CalibrationOptions {
    /// Tokens that the text of each part must have at least, one for the end of each document among them.
    pub fn tokens_of_parts(&self) -> Result<Vec<usize>, Error> {
        self.check()?;
        let windows = self.windows_of_parts(&mix::deal(&self.shares(), self.nsamples))?;
        Ok(windows.iter().map(|n| n * self.text_len()).collect())
    }

    fn check(&self) -> Result<(), Error> {
        let least = 1 + self.start_len();
        check_size(self.nsamples, self.seqlen)?;
        if self.seqlen < least {
            return Err(Error::option("tokens a window", &self.seqlen.to_string(), format!("{least} or more")));
        }
        if self.parts.is_empty() {
            return Err(Error::option("calibration text", "", "at least one file or folder"));
        }
        self.parts.iter().enumerate().try_for_each(|(i, part)| self.check_part(i, part))
    }

    fn check_part(&self, i: usize, part: &Part) -> Result<(), Error> {
        let name = part.domain.name();
        if !mix::is_share(part.share) {
            return Err(mix::refuse(&format!("{name}:{}", part.share), "a share above 0"));
        }
        if self.parts[..i].iter().any(|other| other.domain == part.domain) {
            return Err(mix::refuse(name, "each domain once"));
        }
        match part.sources.is_empty() {
            true => Err(Error::option("calibration text", name, "at least one file or folder")),
            false => Ok(()),
        }
    }

    fn shares(&self) -> Vec<f64> {
        let sum: f64 = self.parts.iter().map(|p| p.share).sum();
        self.parts.iter().map(|p| p.share / sum).collect()
    }

    /// How many windows each part has; an error if one has none.
    fn windows_of_parts(&self, dealt: &[usize]) -> Result<Vec<usize>, Error> {
        let counts: Vec<usize> = (0..self.parts.len()).map(|i| count(dealt, i)).collect();
        match counts.iter().position(|n| *n == 0) {
            None => Ok(counts),
            Some(i) => {
                let share = self.shares()[i];
                let (windows, least) = (self.nsamples, (1.0 / share).ceil());
                let expected =
                    format!("{share:.3} of {windows} windows to be one; ask for {least} with --nsamples {least}");
                Err(mix::refuse(&format!("{}:{}", self.parts[i].domain, self.parts[i].share), &expected))
            }
        }
    }

    /// Documents of `part` until they fill `windows` often enough, or all there are.
    fn pack(
        &self,
        part: &Part,
        windows: usize,
        documents: &mut Documents,
        tokenize: &dyn Tokenize,
    ) -> Result<Packed, Error> {
        let mut places = documents.find(&part.sources, part.domain)?;
        SplitMix::new(self.seed).shuffle(&mut places);
        // Also of one long document every seed takes other windows: multiples of the golden ratio lie evenly.
        let phase = self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut packed = Packed { ids: Vec::new(), ends: Vec::new(), available: places.len(), phase };
        let most = windows.saturating_mul(self.text_len()).saturating_mul(SPREAD);
        for place in &places {
            if packed.ids.len() >= most {
                break;
            }
            let Some(document) = documents.read(place)? else { continue };
            packed.ids.extend(document.tokens(tokenize)?);
            packed.ids.extend(self.joints.document_end);
            packed.ends.push(packed.ids.len());
        }
        Ok(packed)
    }

    /// An error if a part has too few tokens, with how many windows there could be.
    fn check_enough(&self, dealt: &[usize], needs: &[usize], packed: &[Packed], skipped: Skipped) -> Result<(), Error> {
        let fit: Vec<usize> = packed.iter().map(|p| p.ids.len() / self.text_len()).collect();
        let Some(i) = (0..needs.len()).find(|&i| fit[i] < needs[i]) else { return Ok(()) };
        Err(Error::TooFewTokens {
            domain: self.parts[i].domain,
            have: packed[i].ids.len(),
            need: needs[i] * self.text_len(),
            nsamples: needs[i],
            seqlen: self.seqlen,
            fitting: mix::fitting(dealt, fit),
            documents: packed[i].ends.len(),
            skipped: Box::new(skipped),
        })
    }

    fn cut(&self, dealt: &[usize], packed: &[Packed]) -> Vec<Vec<u32>> {
        let of_part = |(i, packed): (usize, &Packed)| packed.windows(count(dealt, i), self.text_len()).collect();
        let mut left: Vec<VecDeque<Range<usize>>> = packed.iter().enumerate().map(of_part).collect();
        let windows = dealt.iter().filter_map(|&i| left[i].pop_front().map(|window| &packed[i].ids[window]));
        windows.map(|text| self.joints.window_start.iter().chain(text).copied().collect()).collect()
    }

    fn taken(&self, needs: &[usize], packed: &[Packed]) -> Vec<PartTaken> {
        let parts = self.parts.iter().zip(self.shares()).zip(needs).zip(packed);
        let taken = parts.map(|(((part, share), windows), packed)| PartTaken {
            domain: part.domain,
            share,
            windows: *windows,
            documents: packed.documents(*windows, self.text_len()),
            available: packed.available,
        });
        taken.collect()
    }

    fn describe(&self, parts: &[PartTaken], sha256: &str) -> String {
        let kind = match parts {
            [all] => all.domain.to_string(),
            parts => {
                let shares: Vec<String> = parts.iter().map(|p| format!("{} {:.3}", p.domain, p.share)).collect();
                format!("mix of {}", shares.join(" + "))
            }
        };
        let documents: usize = parts.iter().map(|p| p.documents).sum();
        let CalibrationOptions { nsamples, seqlen, seed, .. } = self;
        format!("{nsamples} windows of {seqlen} tokens, {kind}, {documents} documents, seed {seed}, sha256 {sha256}")
    }

    /// Tokens of text in a window.
    fn text_len(&self) -> usize {
        self.seqlen - self.start_len()
    }

    fn start_len(&self) -> usize {
        usize::from(self.joints.window_start.is_some())
    }
}

/// Refuses no windows, and more tokens than can be counted with.
pub(crate) fn check_size(nsamples: usize, seqlen: usize) -> Result<(), Error> {
    let expected = match nsamples.checked_mul(seqlen) {
        _ if nsamples == 0 => "1 or more".to_owned(),
        Some(tokens) if nsamples <= MAX_WINDOWS && tokens <= MAX_TOKENS => return Ok(()),
        _ => format!("at most {MAX_WINDOWS}, of at most {MAX_TOKENS} tokens together; they have {seqlen} each"),
    };
    Err(Error::option("calibration windows", &nsamples.to_string(), expected))
}

fn count(dealt: &[usize], part: usize) -> usize {
    dealt.iter().filter(|d| **d == part).count()
}

/// Shows `each` the documents of files and folders, in an order that depends on names alone, until it breaks or fails.
/// What is taken and what passed over is as for calibration.
pub fn each_document(
    sources: &[PathBuf],
    domain: Domain,
    each: &mut dyn FnMut(&Document) -> Result<ControlFlow<()>, Error>,
) -> Result<Skipped, Error> {
    let mut documents = Documents::default();
    for place in documents.find(sources, domain)? {
        if let Some(document) = documents.read(&place)?
            && each(&document)?.is_break()
        {
            break;
        }
    }
    Ok(documents.skipped)
}
