//! Several texts that one model goes on with together: its weights are read once for a token of each.

use std::sync::Arc;

use crate::error::Error;
use crate::kv_cache::{KvCache, KvType};
use crate::linear::zeroed;
use crate::model::Model;
use crate::transformer::{LayerIo, Place, Workspace};

/// Tokens of one text that go through the layers together.
const BATCH: usize = 64;

/// The state of several texts. What becomes of one does not depend on the others.
pub struct Sessions {
    model: Arc<Model>,
    /// By layer, by text.
    caches: Vec<Vec<KvCache>>,
    context: usize,
    /// Tokens of each text so far.
    positions: Vec<usize>,
    ws: Workspace,
    io: LayerIo,
    /// `n x vocab_size`, of the last step.
    logits: Vec<f32>,
}

impl Sessions {
    /// Room for `texts` texts of `context` tokens each.
    pub fn new(model: &Arc<Model>, texts: usize, context: usize, kv: KvType) -> Result<Self, Error> {
        let c = model.config();
        let context = if c.learned_positions { context.min(c.context_len) } else { context };
        let caches = |index| (0..texts).map(|_| KvCache::of_layer(c, index, context, BATCH, kv)).collect();
        let mut ws = Workspace::new(model.engine(), context);
        ws.reserve(context)?;
        Ok(Sessions {
            caches: (0..c.n_layers).map(caches).collect::<Result<_, Error>>()?,
            context,
            positions: vec![0; texts],
            ws,
            io: LayerIo::default(),
            logits: zeroed("the logits", texts.saturating_mul(c.vocab_size))?,
            model: Arc::clone(model),
        })
    }

    /// About how many bytes [`Self::new`] allocates.
    pub fn memory_needed(model: &Model, texts: usize, context: usize, kv: KvType) -> usize {
        let c = model.config();
        let widths = 4 * c.dim + 3 * c.q_dim() + 2 * c.kv_dim() + 4 * c.hidden_dim;
        let of_a_text = KvCache::byte_len_of_layers(c, context, BATCH, kv).saturating_add(4 * c.vocab_size);
        texts.saturating_mul(of_a_text).saturating_add(4 * widths * texts.max(BATCH))
    }

    /// How many texts there is room for.
    pub fn texts(&self) -> usize {
        self.positions.len()
    }

    /// Tokens that each text has room for.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Tokens of text `text` so far.
    pub fn position(&self, text: usize) -> usize {
        self.positions[text]
    }

    /// Begins text `text` anew.
    pub fn restart(&mut self, text: usize) {
        self.positions[text] = 0;
    }

    /// Begins text `to` with the first `n` tokens of text `from`. False, and nothing done, if layers with a window no longer
    /// have what these saw.
    ///
    /// # Panics
    ///
    /// If `from` has fewer tokens.
    pub fn fork(&mut self, from: usize, to: usize, n: usize) -> bool {
        let end = self.positions[from];
        assert!(n <= end, "the first {n} of {end} tokens");
        let layers = self.model.layers().iter().zip(&mut self.caches);
        if from == to || !layers.into_iter().all(|(layer, caches)| caches[from].reaches_back(n, end, layer.window())) {
            return false;
        }
        let mut kept = Vec::new();
        for caches in &mut self.caches {
            for position in caches[from].first_kept(end).min(n)..n {
                kept.clear();
                caches[from].save(position, &mut kept);
                caches[to].restore(position, &kept);
            }
        }
        self.positions[to] = n;
        true
    }

    /// Adds `tokens` to text `text`; their logits are not computed.
    pub fn feed(&mut self, text: usize, tokens: &[u32]) -> Result<(), Error> {
        self.check(text, tokens)?;
        let Sessions { model, caches, positions, ws, io, .. } = self;
        for tokens in tokens.chunks(BATCH) {
            let caches = caches.iter_mut().map(|of_layer| &mut of_layer[text]);
            model.run_layers(ws, io, caches, tokens, positions[text])?;
            positions[text] += tokens.len();
        }
        Ok(())
    }

    /// Adds a token to each of some texts, `(text, token)`, no text twice, and returns the logits after it (`vocab_size`
    /// each, in the order of `next`). Bits are those of a [`Session`](crate::Session) that has the text alone.
    ///
    /// # Panics
    ///
    /// If a text is named twice, or is none of these.
    pub fn step(&mut self, next: &[(usize, u32)]) -> Result<impl ExactSizeIterator<Item = &[f32]>, Error> {
        for (i, &(text, token)) in next.iter().enumerate() {
            assert!(next[..i].iter().all(|(other, _)| *other != text), "text {text} twice in a step");
            self.check(text, &[token])?;
        }
        let Sessions { model, caches, positions, ws, io, logits, .. } = self;
        let (c, engine) = (model.config(), model.engine());
        let at: Vec<Place> = next.iter().map(|&(text, _)| Place { text, position: positions[text] }).collect();
        io.resize(engine, next.len());
        for ((place, (_, token)), hidden) in at.iter().zip(next).zip(io.hidden.chunks_exact_mut(c.dim)) {
            model.embed(&[*token], place.position, hidden)?;
        }
        for (layer, caches) in model.layers().iter().zip(caches) {
            layer.forward_each(engine, ws, caches, &at, io);
        }
        at.iter().for_each(|place| positions[place.text] += 1);
        let logits = &mut logits[..next.len() * c.vocab_size];
        model.logits(ws, &io.hidden, &mut io.dim_wide, logits)?;
        Ok(logits.chunks_exact(c.vocab_size))
    }

    fn check(&self, text: usize, tokens: &[u32]) -> Result<(), Error> {
        let needed = self.positions[text].saturating_add(tokens.len());
        if needed > self.context {
            return Err(Error::ContextFull { needed, context: self.context });
        }
        self.model.check_tokens(tokens)
    }
}
