//! Files cut anywhere or with any bytes changed: opened or refused, never a panic; what opens can be read.

use proptest::prelude::*;
use spm::Checkpoint;

use crate::tiny::{self, Shape};

fn good() -> Vec<u8> {
    let shape = Shape { layers: 1, dim: 32, hidden: 32, vocab: 6, kind: gguf::GgmlType::Q8_0, ..Shape::default() };
    let mut keys = shape.keys();
    keys.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "qwen2");
    keys.texts("tokenizer.ggml.tokens", &["a", "b", "c", "ab", "abc", "<|im_end|>"]);
    keys.integers("tokenizer.ggml.token_type", &[1, 1, 1, 1, 1, 3]);
    keys.texts("tokenizer.ggml.merges", &["a b", "ab c"]);
    keys.u32("tokenizer.ggml.eos_token_id", 5);
    tiny::with(keys, &shape.weights()).to_bytes()
}

/// Where weights begin: what comes before is what can be wrong.
fn header_len(file: &[u8]) -> usize {
    let last = b"output.weight";
    file.windows(last.len()).position(|w| w == last).unwrap() + last.len() + 32
}

fn open_and_read(bytes: &[u8]) {
    let Ok(model) = tiny::open(bytes) else { return };
    for info in model.tensors() {
        assert_eq!(model.read_all(&info.name).unwrap().len(), info.rows * info.cols);
        model.matrix(&info.name).unwrap();
    }
}

#[test]
fn the_good_file_opens_and_a_shorter_one_does_not() {
    let file = good();
    open_and_read(&file);
    let model = tiny::open(&file).unwrap();
    assert_eq!(model.vocabulary().unwrap().end_of_generation, [5]);
    for len in 0..header_len(&file) {
        assert!(tiny::open(&file[..len]).is_err(), "{len} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn changed_bytes_do_not_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut file = good();
        let header = header_len(&file);
        for (at, byte) in changes {
            file[at.index(header)] = byte;
        }
        open_and_read(&file);
    }

    #[test]
    fn changed_words_do_not_panic(
        at in any::<prop::sample::Index>(),
        word in prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), (0..64u32).prop_map(|s| 1 << s)],
    ) {
        let mut file = good();
        let at = at.index(header_len(&file) - 8);
        file[at..at + 8].copy_from_slice(&word.to_le_bytes());
        open_and_read(&file);
    }

    #[test]
    fn cut_files_do_not_panic(len in any::<prop::sample::Index>()) {
        let file = good();
        open_and_read(&file[..len.index(file.len())]);
    }

    #[test]
    fn noise_after_the_magic_does_not_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        open_and_read(&[b"GGUF\x03\0\0\0", &noise[..]].concat());
    }
}
