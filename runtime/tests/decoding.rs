//! What decoding promises: the same tokens for any number of threads, and no allocation for a token.

use std::alloc::System;
use std::collections::BTreeMap;
use std::sync::Arc;

use sparse_run::{EngineOptions, Model, Session, SessionOptions};
use spm::encode::encode;
use spm::synthetic::SyntheticModel;
use spm::{Checkpoint, Config, Encoding, Mask, Matrix, Shortlist, TensorInfo, Vocabulary};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const PROMPT: [u32; 7] = [100, 101, 102, 32, 102, 105, 98];

/// A model with all matrices in one encoding; of sparse ones half of every four neighbours are kept.
struct Encoded {
    inner: SyntheticModel,
    matrices: BTreeMap<String, Matrix>,
}

impl Encoded {
    fn new(encoding: Encoding, listed: Option<Vec<u32>>) -> Self {
        // Rows of whole groups and of a part of one; rows enough for eight threads.
        let mut config = Config::new(2, 320, 704, 5, 1);
        config.shortlist = listed.map(|ids| Shortlist::new(ids, 263).unwrap());
        config.tied_head = config.shortlist.is_some();
        let inner = SyntheticModel::new(config, 3);
        let matrices = inner.tensors().iter().filter(|t| t.rows > 1).map(|t| {
            let mask = Mask::from_fn(t.rows, t.cols, |r, c| (r + c / 4 + c % 4) % 2 == 0);
            let mask = encoding.is_sparse().then_some(&mask);
            let weights = inner.read_all(&t.name).unwrap();
            (t.name.clone(), encode(encoding, t.rows, t.cols, &weights, mask).unwrap())
        });
        Encoded { matrices: matrices.collect(), inner }
    }
}

impl Checkpoint for Encoded {
    fn config(&self) -> &Config {
        self.inner.config()
    }

    fn vocabulary(&self) -> Option<&Vocabulary> {
        self.inner.vocabulary()
    }

    fn tensors(&self) -> &[TensorInfo] {
        self.inner.tensors()
    }

    fn read_rows(&self, name: &str, first_row: usize, out: &mut [f32]) -> Option<()> {
        self.inner.read_rows(name, first_row, out)
    }

    fn matrix(&self, name: &str) -> Option<Matrix> {
        self.matrices.get(name).cloned().or_else(|| self.inner.matrix(name))
    }

    fn exact_matrix(&self, name: &str) -> Option<Matrix> {
        self.matrix(name)
    }
}

fn session(model: &Encoded, threads: usize) -> Session {
    let options = EngineOptions { threads, ..EngineOptions::default() };
    let model = Arc::new(Model::load(model, &options).unwrap());
    Session::new(&model, &SessionOptions { context: 128, ..SessionOptions::default() }).unwrap()
}

/// Tokens to compare. Other machines are mostly emulated, where threads that wait for each other take long.
const TOKENS: usize = if cfg!(target_arch = "x86_64") { 24 } else { 6 };

/// Greedy tokens after the prompt, and the bits of the last logits.
fn decode(session: &mut Session, tokens: usize) -> (Vec<u32>, Vec<u32>) {
    let mut next = argmax(session.feed(&PROMPT).unwrap());
    let mut all = vec![next];
    for _ in 0..tokens {
        next = argmax(session.feed(&[next]).unwrap());
        all.push(next);
    }
    let last = session.feed(&[next]).unwrap();
    (all, last.iter().map(|l| l.to_bits()).collect())
}

fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

/// One test, since the allocator counts for the whole program.
#[test]
fn decoding_is_the_same_for_any_number_of_threads_and_allocates_nothing() {
    let every_second = (0..263).step_by(2).collect::<Vec<u32>>();
    let whole = Encoding::ALL.map(|encoding| (encoding, None));
    for (encoding, listed) in whole.into_iter().chain([(Encoding::Q8, Some(every_second))]) {
        let model = Encoded::new(encoding, listed);
        let expected = decode(&mut session(&model, 1), TOKENS);
        for threads in [2, 3, 8] {
            assert!(
                decode(&mut session(&model, threads), TOKENS) == expected,
                "{}, {threads} threads",
                encoding.name()
            );
        }
        for threads in [1, 2] {
            let mut session = session(&model, threads);
            // The first token makes room for all others.
            let mut next = argmax(session.feed(&PROMPT).unwrap());
            next = argmax(session.feed(&[next]).unwrap());
            let mut allocations_of_tokens = || {
                let region = Region::new(COUNTED);
                for _ in 0..TOKENS + 16 {
                    next = argmax(session.feed(&[next]).unwrap());
                }
                let change = region.change();
                change.allocations + change.reallocations
            };
            // Others allocate, too: a thread that starts late, the test harness when it says that this takes long. A token
            // that did would do so every time.
            let counts: Vec<usize> = (0..3).map(|_| allocations_of_tokens()).collect();
            assert!(counts.contains(&0), "allocations {counts:?}, {}, {threads} threads", encoding.name());
        }
    }
}
