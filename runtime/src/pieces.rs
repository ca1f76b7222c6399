//! Text as an iterator: what a session writes, piece by piece.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::error::Error;
use crate::generate::{Finish, GenerateOptions, PROMPT_STEP, Step, Writer, begin};
use crate::model::Model;
use crate::session::Session;
use crate::tokenizer::Special;

/// The pieces of a text, complete characters only, each as soon as it is certain.
pub struct Pieces<'s> {
    session: &'s mut Session,
    model: Arc<Model>,
    writer: Writer,
    finish: Option<Finish>,
    failed: bool,
}

impl Session {
    /// Reads `prompt` as the whole text, and continues it. What the session's text so far has in common with it is not
    /// read again.
    ///
    /// The model must have been opened from a file, whose tokenizer this takes.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("python.spm");
    /// # spm::synthetic::SyntheticModel::tiny(1).write(&path, spm::Encoding::SparseQ8)?;
    /// # use sparse_run::{Finish, GenerateOptions, Model, SamplerOptions, Session, SessionOptions};
    /// # let model = Model::open(&path)?;
    /// # let mut session = Session::new(&model, &SessionOptions { context: 512, ..Default::default() })?;
    /// let greedy = SamplerOptions { temperature: 0.0, ..Default::default() };
    /// let options = GenerateOptions { max_tokens: 20, sampler: greedy, stop: vec!["\n\n".into()] };
    /// let mut pieces = session.pieces("def fib", &options)?;
    /// let text = pieces.by_ref().collect::<Result<String, _>>()?;
    /// assert!(!text.contains("\n\n") && pieces.finish() != Some(Finish::ContextFull));
    /// # Ok(())
    /// # }
    /// ```
    pub fn pieces(&mut self, prompt: &str, options: &GenerateOptions) -> Result<Pieces<'_>, Error> {
        let model = Arc::clone(self.model());
        let prompt = model.tokenizer()?.encode(prompt, Special::AsText);
        self.pieces_after(&prompt, options)
    }

    /// The same for a prompt of tokens, such as that of [`crate::Tokenizer::infill`].
    pub fn pieces_after(&mut self, prompt: &[u32], options: &GenerateOptions) -> Result<Pieces<'_>, Error> {
        let model = Arc::clone(self.model());
        // Nobody breaks off.
        let _ = self.read(prompt, &mut |_| ControlFlow::Continue(()))?;
        let mut writer = Writer::new(options);
        writer.accept(self.tokens());
        Ok(Pieces { session: self, model, writer, finish: None, failed: false })
    }

    /// Reads `prompt` as the whole text, so that there are logits after it; nothing is read as the beginning of a text.
    /// `watch` is told after every few tokens how many have been read, and may break off: the session then has those.
    pub fn read(
        &mut self,
        prompt: &[u32],
        watch: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        let begin = begin(self.model().tokenizer()?);
        let prompt = if prompt.is_empty() { begin.as_slice() } else { prompt };
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if prompt.len() > self.context() {
            return Err(Error::ContextFull { needed: prompt.len(), context: self.context() });
        }
        let known = self.reuse(prompt);
        for step in prompt[known..].chunks(PROMPT_STEP) {
            self.feed(step)?;
            if watch(self.position()).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl Pieces<'_> {
    /// Why the text ended, once it has.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.finish.is_none() && !self.failed {
            let tokenizer = self.model.tokenizer().ok()?;
            let text = match self.writer.step(self.session, tokenizer) {
                Ok(Step::More(text)) => text,
                Ok(Step::Last(text, finish)) => {
                    self.finish = Some(finish);
                    text
                }
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            };
            if !text.is_empty() {
                return Some(Ok(text));
            }
        }
        None
    }
}
