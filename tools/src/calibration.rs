//! Which text to calibrate on, or which statistics to take instead, as the command line says it.

use std::path::{Path, PathBuf};

use clap::Args;
use pruner::calibration::{CalibrationOptions, Domain, Joints, Mix, Part};
use pruner::method::Needs;
use pruner::{Calibration, Known, Language, Profile, PruneOptions, Warning};
use runtime::Tokenizer;
use spm::Checkpoint;

use crate::chat::DocumentTokens;
use crate::cli;
use crate::failure::Failure;
use crate::imatrix::ImportedNorms;
use crate::own_text::{self, Author, Wanted};

/// Tokens a window, unless another number is asked for.
const SEQLEN: usize = 512;

/// What to calibrate on.
#[derive(Args, Clone, Debug)]
pub struct CalibrationArgs {
    /// Calibration text: a file or folder, the user's own repository for example; may be given several times. Of folders
    /// only what people wrote is taken: nothing that .gitignore excludes, hidden, vendored, generated or twice there, and
    /// where there is code, only code. .jsonl files have a document in each line: its `text`, a `question` and its `answer`,
    /// or `messages`, a conversation that the model's chat template makes text of. With --mix DOMAIN=PATH. self:DOMAIN, such as
    /// self:python, has the dense model write the text itself, self:python:chat conversations, into a file beside the output
    #[arg(long, value_name = "[DOMAIN=]PATH")]
    pub calib: Vec<PathBuf>,
    /// In folders, only files of this language: python, java, cpp, javascript, typescript, go, rust, c, csharp, php, ruby,
    /// shell
    #[arg(long, conflicts_with = "mix")]
    pub lang: Option<Language>,
    /// Shares of the calibration tokens by domain, such as python:0.7,code:0.2,text:0.1. A domain is a language, `code` or
    /// `text`; each has its own --calib DOMAIN=PATH
    #[arg(long, value_name = "DOMAIN:SHARE,...")]
    pub mix: Option<Mix>,
    /// Norms of inputs that llama.cpp's llama-imatrix measured, in place of calibration text: for the methods wanda and ria
    #[arg(long, value_name = "FILE", conflicts_with_all = ["calib", "lang", "mix"])]
    pub imatrix: Option<PathBuf>,
    /// Calibration windows
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub nsamples: usize,
    /// Tokens a window [default: 512, or the model's context if that is less]
    #[arg(long, value_name = "N")]
    pub seqlen: Option<usize>,
    /// Chooses the calibration documents
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// What is known of the text beyond its files.
    #[arg(skip)]
    pub notes: Vec<String>,
}

/// What is known of the inputs of matrices.
pub enum Statistics {
    /// Nothing: the method needs none.
    None,
    /// They are measured on windows of text.
    Text(Calibration),
    /// They were measured before.
    Imatrix(ImportedNorms),
}

impl Statistics {
    /// The same for the pruner.
    pub fn known(&self) -> Known<'_> {
        match self {
            Statistics::None => Known::Windows(&[]),
            Statistics::Text(text) => Known::Windows(&text.windows),
            Statistics::Imatrix(imatrix) => Known::Norms(&imatrix.norms),
        }
    }

    /// What it was made from, for the file's provenance, and the hash of that.
    pub fn provenance(&self) -> Option<(String, String)> {
        match self {
            Statistics::None => None,
            Statistics::Text(text) => Some((text.description().to_owned(), text.sha256.clone())),
            Statistics::Imatrix(norms) => Some((norms.description(), norms.sha256.clone())),
        }
    }

    /// What about them may make a worse model than need be.
    pub fn warnings(&self) -> Vec<Warning> {
        if let Statistics::Text(text) = self { text.warnings() } else { Vec::new() }
    }
}

impl CalibrationArgs {
    /// The same for a model of this context.
    pub fn within(&self, context: usize) -> CalibrationArgs {
        CalibrationArgs { seqlen: Some(self.seqlen.unwrap_or(SEQLEN.min(context))), ..self.clone() }
    }

    /// Windows and tokens a window that the model will be run on; none with an imatrix.
    pub fn size(&self) -> (usize, usize) {
        if self.imatrix.is_some() { (0, 0) } else { (self.nsamples, self.seqlen()) }
    }

    fn seqlen(&self) -> usize {
        self.seqlen.unwrap_or(SEQLEN)
    }

    /// Gets the statistics that `options` and `profile` need for the model `source`, which is at `path`.
    pub fn statistics(
        &self,
        options: &PruneOptions,
        profile: Profile,
        source: &dyn Checkpoint,
        path: &Path,
    ) -> Result<Statistics, Failure> {
        let (asking, needs) = match profile.needs_calibration() {
            true => (format!("--profile {profile}"), Needs::Gram),
            false => (what_asks(options), options.needs()),
        };
        match (&self.imatrix, needs) {
            (_, Needs::Nothing) => Ok(Statistics::None),
            (Some(_), Needs::Gram | Needs::DenseOutputs) => Err(Failure::Usage(format!(
                "{asking} needs calibration text, an imatrix has only norms: give --calib FILE or FOLDER in place of \
                 --imatrix, or use --method wanda or ria alone"
            ))),
            (Some(imatrix), Needs::ColumnNorms) => {
                ImportedNorms::read(imatrix, options, source.config()).map(Statistics::Imatrix)
            }
            (None, _) if self.calib.is_empty() => {
                Err(Failure::Usage(format!("{asking} needs calibration text: give --calib FILE or FOLDER")))
            }
            (None, _) => {
                let tokenizer = tokenizer_of(source, path)?;
                let options = self.options(&tokenizer)?;
                let mut calibration = Calibration::collect(&options, &document_tokens(source, &tokenizer))?;
                self.notes.iter().for_each(|note| calibration.note(note));
                Ok(Statistics::Text(calibration))
            }
        }
    }

    /// How text is read and cut into windows for the tokens of `tokenizer`.
    pub fn options(&self, tokenizer: &Tokenizer) -> Result<CalibrationOptions, Failure> {
        let options = self.options_as_given(tokenizer)?;
        match options.parts.iter().flat_map(|part| &part.sources).find(|source| own_text::kind_of(source).is_some()) {
            Some(source) => Err(Failure::Usage(format!(
                "--calib {}: nothing is written in a dry run, so its tokens cannot be counted; leave --vocab-shortlist or \
                 --dry-run out",
                source.display()
            ))),
            None => Ok(options),
        }
    }

    /// Whether the model is to write text itself.
    pub fn asks_for_own_text(&self) -> bool {
        let is_own = |source: &PathBuf| {
            let after_domain = split(source).map(|(_, rest)| rest);
            [Some(source), after_domain.as_ref()].into_iter().flatten().any(|s| own_text::kind_of(s).is_some())
        };
        self.calib.iter().any(is_own)
    }

    /// The same with files in `folder` in place of the text that the model is to write itself: `author` writes it.
    pub fn with_own_text(
        &self,
        author: &mut Author,
        tokenizer: &Tokenizer,
        folder: &Path,
    ) -> Result<CalibrationArgs, Failure> {
        let options = self.options_as_given(tokenizer)?;
        let mut resolved = CalibrationArgs { calib: Vec::new(), ..self.clone() };
        for (part, tokens) in options.parts.iter().zip(options.tokens_of_parts()?) {
            let own = part.sources.iter().filter_map(|s| own_text::kind_of(s)).collect::<Result<Vec<_>, _>>()?;
            if let Some(twice) = (1..own.len()).find(|&i| own[..i].contains(&own[i])) {
                // It would be the same text.
                return Err(Failure::Usage(format!("--calib self:{}: given twice", own[twice])));
            }
            for source in &part.sources {
                let path = match own_text::kind_of(source).transpose()? {
                    Some(kind) => {
                        let wanted = Wanted { kind, tokens: tokens.div_ceil(own.len()), seed: self.seed };
                        resolved.notes.push(own_text::note(kind));
                        author.write(&wanted, folder)?
                    }
                    None => source.clone(),
                };
                let with_domain = |path: &Path| format!("{}={}", part.domain, path.display()).into();
                resolved.calib.push(if self.mix.is_some() { with_domain(&path) } else { path });
            }
            if self.mix.is_none() && own.len() == part.sources.len() {
                resolved.lang = self.lang.or(own_text::one_language(&own));
            }
        }
        Ok(resolved)
    }

    /// The same, also if the model has not written yet what it is to.
    fn options_as_given(&self, tokenizer: &Tokenizer) -> Result<CalibrationOptions, Failure> {
        Ok(CalibrationOptions {
            parts: self.parts()?,
            nsamples: self.nsamples,
            seqlen: self.seqlen(),
            seed: self.seed,
            joints: Joints {
                window_start: tokenizer.bos().filter(|_| tokenizer.adds_bos()),
                document_end: tokenizer.token_id("<|endoftext|>").or(tokenizer.eos()),
            },
        })
    }

    /// What to calibrate on; an error if sources and shares do not belong to each other.
    fn parts(&self) -> Result<Vec<Part>, Failure> {
        let Some(mix) = &self.mix else {
            self.calib.iter().try_for_each(|path| refuse_domain(path))?;
            self.calib.iter().filter_map(|path| own_text::kind_of(path)).try_for_each(|kind| kind.map(|_| ()))?;
            return Ok(vec![Part::whole(self.lang.into(), self.calib.clone())]);
        };
        let shares = mix.shares().iter();
        let mut parts: Vec<Part> = shares.map(|&(domain, share)| Part { domain, share, sources: Vec::new() }).collect();
        for source in &self.calib {
            let (domain, path) = with_domain(source)?;
            let part = parts.iter_mut().find(|part| part.domain == domain);
            let part = part.ok_or_else(|| {
                Failure::Usage(format!(
                    "--calib {}: --mix has no share of `{domain}`; add \
                 {domain}:SHARE, or leave it out",
                    source.display()
                ))
            })?;
            part.sources.push(path);
        }
        match parts.iter().find(|part| part.sources.is_empty()) {
            Some(Part { domain, .. }) => Err(Failure::Usage(format!(
                "--mix {mix} needs text for `{domain}`: give --calib {domain}=FILE or {domain}=FOLDER"
            ))),
            None => Ok(parts),
        }
    }
}

/// The tokenizer of the model `source`, which is at `path`.
pub fn tokenizer_of(source: &dyn Checkpoint, path: &Path) -> Result<Tokenizer, Failure> {
    let vocabulary = source.vocabulary().ok_or(runtime::Error::NoVocabulary);
    vocabulary.and_then(Tokenizer::new).map_err(|e| cli::name_file(e.into(), path))
}

/// How documents are made tokens of for the model `source`, whose `tokenizer` is given.
pub fn document_tokens<'a>(source: &'a dyn Checkpoint, tokenizer: &'a Tokenizer) -> DocumentTokens<'a> {
    DocumentTokens { tokenizer, template: source.vocabulary().and_then(|v| v.chat_template.as_deref()) }
}

/// The option that asks for most statistics.
fn what_asks(options: &PruneOptions) -> String {
    match options.needs() > options.method.needs() {
        true if options.refit => "--refit".to_owned(),
        true => "--rounding compensated".to_owned(),
        false => format!("--method {}", options.method.name()),
    }
}

/// `DOMAIN=PATH` of a mix.
fn with_domain(source: &Path) -> Result<(Domain, PathBuf), Failure> {
    let named = format!("--calib {}", source.display());
    if let Some(kind) = own_text::kind_of(source) {
        return Ok((kind?.domain, source.to_owned()));
    }
    let (domain, path) = split(source).ok_or_else(|| {
        Failure::Usage(format!(
            "{named}: with --mix each path needs its domain: give --calib DOMAIN={}",
            source.display()
        ))
    })?;
    let domain = domain.parse().map_err(|e: pruner::Error| Failure::Usage(format!("{named}: {e}")))?;
    Ok((domain, path))
}

/// Without a mix all of `source` is a path; if there is no such file and it reads like a part of a mix, it was one.
fn refuse_domain(source: &Path) -> Result<(), Failure> {
    match split(source) {
        Some((domain, path)) if domain.parse::<Domain>().is_ok() && !source.exists() => Err(Failure::Usage(format!(
            "--calib {}: a domain is for --mix; give --calib {}, or --mix with the share of `{domain}`",
            source.display(),
            path.display()
        ))),
        _ => Ok(()),
    }
}

fn split(source: &Path) -> Option<(&str, PathBuf)> {
    source.to_str()?.split_once('=').map(|(domain, path)| (domain, PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: CalibrationArgs,
    }

    fn parts(line: &str) -> Result<Vec<Part>, String> {
        let line = <Line as clap::Parser>::try_parse_from(line.split(' ')).map_err(|e| e.to_string())?;
        line.args.parts().map_err(|failure| match failure {
            Failure::Usage(message) => message,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn paths_alone_are_one_part() {
        let found = parts("p --calib a --calib b/c=d").unwrap();
        assert_eq!(found, [Part::whole(Domain::Any, vec!["a".into(), "b/c=d".into()])]);
        let found = parts("p --calib a --lang rust").unwrap();
        assert_eq!(found, [Part::whole(Domain::Language(Language::Rust), vec!["a".into()])]);
    }

    #[test]
    fn a_mix_has_its_sources_by_domain() {
        let found = parts("p --mix python:3,text:1 --calib text=docs --calib python=a=b --calib python=c").unwrap();
        let python =
            Part { share: 3.0, ..Part::whole(Domain::Language(Language::Python), vec!["a=b".into(), "c".into()]) };
        assert_eq!(found, [python, Part::whole(Domain::Text, vec!["docs".into()])]);
    }

    #[test]
    fn a_model_can_be_asked_for_its_own_text() {
        let asks =
            |line: &str| <Line as clap::Parser>::try_parse_from(line.split(' ')).unwrap().args.asks_for_own_text();
        assert!(asks("p --calib a --calib self:python") && asks("p --mix code:1 --calib code=self:java"));
        assert!(!asks("p --calib self") && !asks("p --calib ./self:python") && !asks("p"));
        let found = parts("p --mix python:3,code:1 --calib self:python --calib code=self:java").unwrap();
        let sources: Vec<_> = found.iter().flat_map(|part| &part.sources).collect();
        assert_eq!(sources, ["self:python", "self:java"].map(Path::new));
    }

    #[test]
    fn what_does_not_belong_together_is_refused_by_name() {
        for (line, expected) in [
            ("p --calib self:perl", "--calib self:perl: domain `perl`: expected `code`, `text` or one of"),
            ("p --mix python:1 --calib self:java", "--calib self:java: --mix has no share of `java`; add java:SHARE"),
            (
                "p --calib python=self:python",
                "--calib python=self:python: a domain is for --mix; give --calib self:python",
            ),
            ("p --mix python:1 --calib a", "--calib a: with --mix each path needs its domain: give --calib DOMAIN=a"),
            ("p --mix python:1 --calib perl=a", "--calib perl=a: domain `perl`: expected `code`, `text` or one of"),
            ("p --mix python:1 --calib text=a", "--calib text=a: --mix has no share of `text`; add text:SHARE"),
            ("p --mix python:1,text:2 --calib python=a", "--mix python:1,text:2 needs text for `text`: give --calib"),
            ("p --mix python:0 --calib python=a", "mix `python:0`: expected a share above 0"),
            ("p --calib python=a", "--calib python=a: a domain is for --mix; give --calib a, or --mix"),
            ("p --mix python:1 --lang python --calib python=a", "cannot be used with"),
        ] {
            let message = parts(line).unwrap_err();
            assert!(message.contains(expected), "{line}: {message}");
        }
    }
}
