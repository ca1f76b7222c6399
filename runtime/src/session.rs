//! One conversation with a model: the tokens so far, their keys and values, and the scratch to go on.

use std::sync::Arc;

use spm::Config;

use crate::error::Error;
use crate::kv_cache::{KvCache, KvType};
use crate::linear::{reserved, zeroed};
use crate::model::Model;
use crate::transformer::{LayerIo, Workspace};

/// Tokens whose logits [`Session::feed_each`] computes together: more are hardly faster, and take a vocabulary of numbers each.
const HEAD_BATCH: usize = 32;

/// How a session is set up.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Positions to make room for; 0 means the model's own context.
    pub context: usize,
    /// How keys and values are kept.
    pub kv: KvType,
    /// Prompt tokens that go through the layers together.
    pub batch: usize,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions { context: 0, kv: KvType::F16, batch: 64 }
    }
}

impl SessionOptions {
    /// Positions that there will be room for.
    fn context_of(&self, config: &Config) -> usize {
        match self.context {
            0 => config.context_len,
            // There is no embedding for later ones.
            n if config.learned_positions => n.min(config.context_len),
            n => n,
        }
    }
}

/// The state of one conversation. Not shared between threads; the model is.
pub struct Session {
    model: Arc<Model>,
    caches: Vec<KvCache>,
    kv: KvType,
    context: usize,
    batch: usize,
    /// What was fed.
    tokens: Vec<u32>,
    /// The most positions that were in the caches since the beginning.
    end: usize,
    ws: Workspace,
    io: LayerIo,
    logits: Vec<f32>,
}

impl Session {
    /// Allocates everything a conversation needs.
    pub fn new(model: &Arc<Model>, options: &SessionOptions) -> Result<Self, Error> {
        let c = model.config();
        let context = options.context_of(c);
        let batch = options.batch.max(1);
        let cache = |index| KvCache::of_layer(c, index, context, batch, options.kv);
        let mut ws = Workspace::new(model.engine(), context);
        ws.reserve(context)?;
        Ok(Session {
            caches: (0..c.n_layers).map(cache).collect::<Result<_, _>>()?,
            kv: options.kv,
            context,
            batch,
            tokens: reserved("the tokens", context)?,
            end: 0,
            ws,
            io: LayerIo::default(),
            logits: zeroed("the logits", c.vocab_size)?,
            model: Arc::clone(model),
        })
    }

    /// Bytes that [`Session::new`] allocates for the keys and values of `context` positions.
    pub fn cache_bytes(model: &Model, context: usize, kv: KvType) -> usize {
        KvCache::byte_len_of_layers(model.config(), context, SessionOptions::default().batch, kv)
    }

    /// Bytes that a session allocates by the time it has read all that it has room for, on an engine of so many threads:
    /// keys, values, and scratch.
    pub fn memory_needed(config: &Config, options: &SessionOptions, threads: usize) -> usize {
        let c = config;
        let (context, batch) = (options.context_of(c), options.batch.max(1));
        let cache = KvCache::byte_len_of_layers(c, context, batch, options.kv);
        let scratch = LayerIo::byte_len(c, batch).saturating_add(Workspace::byte_len(c, context, batch, threads));
        let tokens = 4usize.saturating_mul(context.saturating_add(c.vocab_size));
        [scratch, tokens].into_iter().fold(cache, usize::saturating_add)
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Positions there is room for.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Tokens fed so far.
    pub fn position(&self) -> usize {
        self.tokens.len()
    }

    /// The tokens fed so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Forgets all but the first `position` tokens, and returns how many are left: none if layers with a window no longer have
    /// what these saw, and the text has to be fed again.
    pub fn truncate(&mut self, position: usize) -> usize {
        let position = position.min(self.position());
        let layers = self.model.layers().iter().zip(&self.caches);
        let reach = layers.into_iter().all(|(layer, cache)| cache.reaches_back(position, self.end, layer.window()));
        self.tokens.truncate(if reach { position } else { 0 });
        self.tokens.len()
    }

    /// Forgets all but what the text so far and `tokens` begin with alike, and returns how many of `tokens` that is: the
    /// others are to be fed. At least one is, so that there are logits.
    pub fn reuse(&mut self, tokens: &[u32]) -> usize {
        let alike = self.tokens.iter().zip(tokens).take_while(|(old, new)| old == new).count();
        self.truncate(alike.min(tokens.len().saturating_sub(1)))
    }

    /// Feeds `tokens` and returns the logits after the last of them (`vocab_size`; empty input: as before). Of tokens
    /// that the model has no row of the head for, they are negative infinity. Where they are no numbers
    /// ([`Error::NotFinite`]), all tokens are forgotten.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], Error> {
        self.check_room(tokens)?;
        let batches = tokens.chunks(self.batch);
        let last = batches.len().saturating_sub(1);
        for (i, batch) in batches.enumerate() {
            self.run_layers(batch)?;
            if i == last {
                let mut logits = std::mem::take(&mut self.logits);
                let done = self.run_head(batch.len() - 1, &mut logits);
                self.logits = logits;
                if let Err(error) = done {
                    self.truncate(0);
                    self.logits.fill(0.0);
                    return Err(error);
                }
            }
        }
        Ok(&self.logits)
    }

    /// Feeds `tokens` and shows `each` the logits after every one of them, by index.
    pub fn feed_each(&mut self, tokens: &[u32], mut each: impl FnMut(usize, &[f32])) -> Result<(), Error> {
        self.check_room(tokens)?;
        let vocab_size = self.model.config().vocab_size;
        let mut many = zeroed("the logits", HEAD_BATCH.min(self.batch) * vocab_size)?;
        let mut index = 0;
        for batch in tokens.chunks(self.batch) {
            self.run_layers(batch)?;
            for first in (0..batch.len()).step_by(HEAD_BATCH) {
                let n = HEAD_BATCH.min(batch.len() - first);
                self.run_head(first, &mut many[..n * vocab_size])?;
                for logits in many[..n * vocab_size].chunks_exact(vocab_size) {
                    each(index, logits);
                    index += 1;
                }
            }
        }
        Ok(())
    }

    /// The logits after the last token; zeros before the first.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// How keys and values are kept.
    pub fn kv_type(&self) -> KvType {
        self.kv
    }

    pub(crate) fn caches(&self) -> &[KvCache] {
        &self.caches
    }

    pub(crate) fn caches_mut(&mut self) -> &mut [KvCache] {
        &mut self.caches
    }

    /// The most positions that were in the caches since the beginning.
    pub(crate) fn end(&self) -> usize {
        self.end
    }

    /// Becomes a session that was fed `tokens`, no more than there is room for, whose caches hold the last of as many as
    /// `end` positions; `logits` are f32, little-endian, one a token of the vocabulary.
    pub(crate) fn set_state(&mut self, tokens: &[u32], logits: &[u8], end: usize) {
        self.tokens.clear();
        self.tokens.extend_from_slice(tokens);
        self.logits.iter_mut().zip(logits.as_chunks().0).for_each(|(to, &from)| *to = f32::from_le_bytes(from));
        self.end = end;
    }

    fn check_room(&self, tokens: &[u32]) -> Result<(), Error> {
        let needed = self.position().saturating_add(tokens.len());
        if needed > self.context {
            return Err(Error::ContextFull { needed, context: self.context });
        }
        self.check_tokens(tokens)
    }

    /// Refuses what is no token.
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<(), Error> {
        self.model.check_tokens(tokens)
    }

    fn run_layers(&mut self, tokens: &[u32]) -> Result<(), Error> {
        let first = self.position();
        let Session { model, caches, ws, io, .. } = self;
        model.run_layers(ws, io, caches.iter_mut(), tokens, first)?;
        // From the beginning on, what other texts left in the caches does not matter.
        self.end = if first == 0 { 0 } else { self.end };
        self.tokens.extend_from_slice(tokens);
        self.end = self.end.max(self.position());
        Ok(())
    }

    /// Logits of the tokens from `first` of the last batch on, as many as fit in `logits`.
    fn run_head(&mut self, first: usize, logits: &mut [f32]) -> Result<(), Error> {
        let Session { model, ws, io, .. } = self;
        let c = model.config();
        let n = logits.len() / c.vocab_size;
        let LayerIo { hidden, dim_wide, .. } = io;
        let hidden = &hidden[first * c.dim..][..n * c.dim];
        model.logits(ws, hidden, &mut dim_wide[..n * c.dim], logits)
    }
}
