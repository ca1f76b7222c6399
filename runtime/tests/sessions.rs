//! Sessions of opened models: texts as iterators, what is read again, states that are saved, restored, damaged and forged.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use sparse_run::{
    Error, Event, Finish, GenerateOptions, KvType, MemoryNeeded, Model, SamplerOptions, Session, SessionOptions,
    Special, generate,
};
use spm::synthetic::{SyntheticModel, padded_vocabulary};
use spm::{Config, Encoding, LayerKind, LayerRope, LongRope, SparseModel, TokenType};

const PROMPT: &str = "def fibonacci(n):\n    ";

fn write(folder: &Path, window: Option<usize>, seed: u64) -> std::path::PathBuf {
    let mut config = Config::new(2, 64, 160, 4, 2);
    config.window = window;
    config.layers = vec![LayerKind { windowed: window.is_some(), rope: LayerRope::Main }; 2];
    config.rope.long = Some(LongRope { trained: 1000, freq_factors: vec![4.0; 8] });
    let mut vocabulary = padded_vocabulary(263);
    for text in ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"] {
        vocabulary.tokens.push(text.into());
        vocabulary.types.push(TokenType::Control);
    }
    let path = folder.join(format!("{seed}.spm"));
    SyntheticModel::with_vocabulary(config, vocabulary, seed).write(&path, Encoding::SparseQ8).unwrap();
    path
}

fn model(window: Option<usize>, seed: u64) -> Arc<Model> {
    let folder = tempfile::tempdir().unwrap();
    Model::open(write(folder.path(), window, seed)).unwrap()
}

fn session(model: &Arc<Model>, context: usize, batch: usize) -> Session {
    Session::new(model, &SessionOptions { context, batch, kv: KvType::F16 }).unwrap()
}

/// Random, and with a penalty for what was there, so that the whole prompt matters.
fn options() -> GenerateOptions {
    let sampler = SamplerOptions { temperature: 0.7, repeat_penalty: 1.3, seed: 3, ..SamplerOptions::default() };
    GenerateOptions { max_tokens: 30, sampler, stop: Vec::new() }
}

fn text_of(session: &mut Session, prompt: &str) -> String {
    session.pieces(prompt, &options()).unwrap().map(Result::unwrap).collect()
}

#[test]
fn pieces_are_what_generate_says_whatever_was_read_before() {
    let model = model(None, 1);
    let tokenizer = model.tokenizer().unwrap();
    let mut said = String::new();
    let mut show = |event: Event| {
        if let Event::Text(text) = event {
            said.push_str(text);
        }
        ControlFlow::Continue(())
    };
    let prompt = tokenizer.encode(PROMPT, Special::AsText);
    let generated = generate(&mut session(&model, 256, 64), tokenizer, &prompt, &options(), &mut show).unwrap();
    assert_eq!(generated.finish, Finish::Length);

    let mut session = session(&model, 256, 64);
    assert_eq!(text_of(&mut session, PROMPT), said);
    assert_eq!(text_of(&mut session, PROMPT), said, "all of the prompt was read before");
    text_of(&mut session, "def fib");
    assert_eq!(text_of(&mut session, PROMPT), said, "its beginning was");
    text_of(&mut session, "x");
    assert_eq!(text_of(&mut session, PROMPT), said, "nothing was");
    assert_eq!(session.reuse(&prompt), prompt.len() - 1);
}

#[test]
fn prompts_that_cannot_be_are_refused() {
    let model = model(None, 1);
    let mut session = session(&model, 16, 64);
    assert!(matches!(session.pieces(&"x".repeat(50), &options()), Err(Error::ContextFull { needed: 50, context: 16 })));
    assert!(session.pieces("", &options()).is_ok(), "nothing begins with the token that ends texts");
    // Unless the model happens to end its text before.
    let finishes = (0..8).map(|seed| {
        let sampler = SamplerOptions { seed, ..options().sampler };
        let mut pieces = session.pieces("abc", &GenerateOptions { sampler, ..options() }).unwrap();
        assert!(pieces.by_ref().all(|piece| piece.is_ok()));
        pieces.finish().unwrap()
    });
    let finishes: Vec<Finish> = finishes.collect();
    assert!(finishes.iter().all(|finish| matches!(finish, Finish::ContextFull | Finish::EndOfText)), "{finishes:?}");
    assert!(finishes.contains(&Finish::ContextFull), "{finishes:?}");
}

#[test]
fn filling_in_marks_both_sides() {
    let model = model(None, 1);
    let tokenizer = model.tokenizer().unwrap();
    assert!(tokenizer.can_infill());
    let written = "<|fim_prefix|>a = <|fim_suffix|>\nprint(a)<|fim_middle|>";
    assert_eq!(tokenizer.infill("a = ", "\nprint(a)").unwrap(), tokenizer.encode(written, Special::Parse));
    // A text cannot spell a mark.
    assert_ne!(tokenizer.infill("<|fim_middle|>", "").unwrap().len(), 4);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plain.spm");
    SyntheticModel::tiny(1).write(&path, Encoding::Q8).unwrap();
    let plain = Model::open(&path).unwrap();
    assert!(matches!(plain.tokenizer().unwrap().infill("a", "b"), Err(Error::NoInfill)));
}

/// Read on after it was restored, a state goes on as if nothing had happened; with windows too, gone round or cut.
#[test]
fn a_restored_session_goes_on() {
    let ids: Vec<u32> = (0..100).map(|i| (i * i * 7 + i * 31) % 250).collect();
    for window in [None, Some(11)] {
        let model = model(window, 2);
        for (read, left) in [(1, 1), (70, 70), (70, 66)] {
            let mut first = session(&model, 128, 4);
            first.feed(&ids[..read]).unwrap();
            assert_eq!(first.truncate(left - 1), left - 1);
            first.feed(&ids[left - 1..left]).unwrap();
            let state = first.save().unwrap();
            assert_eq!(state.len(), first.state_len());
            for (context, batch) in [(128, 4), (100, 1), (200, 64)] {
                let mut second = session(&model, context, batch);
                second.feed(&ids[50..55]).unwrap();
                second.restore(&state).unwrap();
                assert_eq!((second.tokens(), second.logits()), (first.tokens(), first.logits()));
                let mut clone = session(&model, 128, 4);
                clone.restore(&state).unwrap();
                let expected = clone.feed(&ids[left..]).unwrap();
                assert_eq!(second.feed(&ids[left..]).unwrap(), expected, "{window:?}, {read}, {left}, {context}");
                let mut plain = session(&model, 128, 64);
                assert_eq!(plain.feed(&ids).unwrap(), expected);
                // What a window has lost cannot be gone back to, whatever the caches hold.
                let back = second.truncate(left);
                assert!(back == left || window.is_some() && back == 0);
                assert_eq!(second.feed(&ids[back..]).unwrap(), plain.logits());
            }
        }
    }
}

/// However keys and values are kept.
#[test]
fn a_state_has_every_type_of_cache() {
    for kv in [KvType::F16, KvType::F32, KvType::Q8] {
        let model = model(Some(11), 2);
        let session = || Session::new(&model, &SessionOptions { context: 64, batch: 4, kv }).unwrap();
        let (mut first, mut second) = (session(), session());
        first.feed(&[5, 9, 2, 77, 31, 8, 100, 4, 66, 12, 3, 54, 21]).unwrap();
        let state = first.save().unwrap();
        assert_eq!(state.len(), first.state_len(), "{kv:?}");
        second.restore(&state).unwrap();
        assert_eq!(second.feed(&[7, 8, 9]).unwrap(), first.feed(&[7, 8, 9]).unwrap(), "{kv:?}");
    }
}

#[test]
fn a_state_is_of_its_model_alone_and_fits() {
    let (one, other) = (model(None, 1), model(None, 2));
    let mut saved = session(&one, 64, 64);
    saved.feed(&[1, 2, 3, 4, 5]).unwrap();
    let state = saved.save().unwrap();
    let refused = |mut session: Session| session.restore(&state).unwrap_err().to_string();
    assert!(refused(session(&other, 64, 64)).contains("of another model"));
    assert!(refused(session(&one, 4, 64)).contains("5 tokens do not fit in a context of 4"));
    let singles = SessionOptions { context: 64, kv: KvType::F32, ..SessionOptions::default() };
    assert!(refused(Session::new(&one, &singles).unwrap()).contains("in another type"));
    assert!(refused(session(&one, 1001, 64)).contains("room for longer texts"));
    let newer = |version: u8| {
        let mut state = state.clone();
        state[8] = version;
        saved.restore(&state).unwrap_err().to_string()
    };
    let mut newer = newer;
    assert!(newer(2).contains("version 2, this library reads 1"));
}

#[test]
fn files_of_states_are_whole_or_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let model = model(None, 1);
    let mut saved = session(&model, 64, 64);
    saved.feed(&[1, 2, 3]).unwrap();
    std::fs::write(folder.path().join(".state.unfinished"), "of a killed process").unwrap();
    saved.save_file(&path).unwrap();
    let names = || std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(names(), ["state"]);
    let mut restored = session(&model, 64, 64);
    restored.restore_file(&path).unwrap();
    assert_eq!(restored.tokens(), [1, 2, 3]);
    let error = saved.save_file(&folder.path().join("none/state")).unwrap_err().to_string();
    assert!(error.contains("none/state: cannot create"), "{error}");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let error = restored.restore_file(&path).unwrap_err().to_string();
    assert!(error.contains("1048576 bytes, expected a file of at most"), "{error}");
    std::fs::write(&path, b"SPRSTATE, they say").unwrap();
    let error = restored.restore_file(&path).unwrap_err().to_string();
    assert!(error.contains("state: not the saved state"), "{error}");
}

/// What is foreseen is what a session allocates, to a few percent; a test of the whole program measures the rest.
#[test]
fn more_context_needs_more_memory() {
    let folder = tempfile::tempdir().unwrap();
    let file = SparseModel::open(&write(folder.path(), None, 1)).unwrap();
    let needed = |context| MemoryNeeded::new(&file, 2, &SessionOptions { context, ..SessionOptions::default() });
    assert!(needed(0).session > needed(100).session && needed(100).session > needed(10).session);
    assert_eq!(needed(10).file, file.file_len());
    assert_eq!(needed(10).total(), needed(10).file + needed(10).allocated());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A forger can make the model write nonsense, and nothing else.
    #[test]
    fn forged_states_are_harmless(
        changes in prop::collection::vec((0usize..6000, any::<u8>()), 1..20), len in 0usize..6000, cut: bool,
    ) {
        let model = model(Some(11), 1);
        let mut saved = session(&model, 64, 4);
        saved.feed(&[1, 2, 3, 4, 5, 6, 7]).unwrap();
        let mut state = saved.save().unwrap();
        state.truncate(state.len() - 32);
        let len = if cut { len.min(state.len()) } else { state.len() };
        state.truncate(len);
        // The header's first fields are checked in other tests: here what comes after them.
        for (at, byte) in changes {
            if let Some(place) = state.get_mut(at.max(48)) {
                *place = byte;
            }
        }
        let hash = blake3::hash(&state);
        state.extend(hash.as_bytes());
        let before = saved.logits().to_vec();
        match saved.restore(&state) {
            // What was put into the caches may be no number.
            Ok(()) => {
                let harmless = |fed: Result<&[f32], Error>| matches!(fed, Ok(_) | Err(Error::NotFinite));
                prop_assert!(harmless(saved.feed(&[8, 9])));
                saved.truncate(3);
                prop_assert!(harmless(saved.feed(&[8, 9])));
            }
            Err(_) => prop_assert_eq!((saved.position(), saved.logits()), (7, &before[..])),
        }
    }
}
