//! Published files, in the folder that the environment variable SPM_TEST_DATA names; without it nothing is tested
//! here and each test says so.
//!
//! Expected there: `models/stories260K/` with `stories260K.{F32,F16,Q8_0}.gguf` and the `stories260K.bin` they were
//! made from, and `tokenizer-cases/public/` with llama.cpp's `ggml-vocab-*.gguf`.

use std::path::PathBuf;

use half::f16;
use spm::Checkpoint;

use crate::gguf_rs::compare;

fn folder(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("SPM_TEST_DATA").map(PathBuf::from);
    if folder.is_none() {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "{test}: not run, SPM_TEST_DATA names no folder of published files");
    }
    folder
}

#[test]
fn stories_in_three_types() {
    let Some(folder) = folder("stories_in_three_types").map(|f| f.join("models/stories260K")) else { return };
    let open = |kind: &str| gguf::open(&folder.join(format!("stories260K.{kind}.gguf"))).unwrap();
    let (exact, half, q8) = (open("F32"), open("F16"), open("Q8_0"));
    assert_eq!(exact.config(), half.config());
    for info in exact.tensors() {
        let values = exact.read_all(&info.name).unwrap();
        let halves = half.read_all(&info.name).unwrap();
        let is_f16 = half.tensor(&info.name).unwrap().encoding == "F16";
        let rounded = |v: f32| if is_f16 { f16::from_f32(v).to_f32() } else { v };
        assert!(values.iter().zip(&halves).all(|(v, h)| rounded(*v).to_bits() == h.to_bits()), "{}", info.name);
        for (v, q) in values.chunks(32).zip(q8.read_all(&info.name).unwrap().chunks(32)) {
            let max = v.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            assert!(v.iter().zip(q).all(|(v, q)| (v - q).abs() <= max * (0.51 / 127.0 + 1e-3)), "{}", info.name);
        }
    }
    // llama2.c's file: seven numbers, then the embedding.
    let original = std::fs::read(folder.join("stories260K.bin")).unwrap();
    let embedding: Vec<u8> =
        exact.read_all("token_embd.weight").unwrap().iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(original[28..28 + embedding.len()], embedding);
    for kind in ["F32", "F16", "Q8_0"] {
        compare(&folder.join(format!("stories260K.{kind}.gguf")));
    }
}

/// What llama.cpp's own library says of each vocabulary: bos, eos, add_bos, ends of generation, control tokens.
#[test]
fn vocabularies_are_as_llama_cpp_has_them() {
    let Some(folder) = folder("vocabularies_are_as_llama_cpp_has_them") else { return };
    type Expected = (&'static str, u32, u32, bool, &'static [u32], usize);
    let expected: [Expected; 7] = [
        ("deepseek-coder", 32013, 32014, true, &[32014], 5),
        ("gpt-2", 50256, 50256, false, &[50256], 1),
        ("llama-bpe", 128000, 128001, true, &[128001, 128009], 256),
        ("llama-spm", 1, 2, true, &[2], 2),
        ("phi-3", 1, 32000, true, &[2, 32000, 32007], 14),
        ("qwen2", 151643, 151643, false, &[128247, 151643, 151645], 4),
        ("starcoder", 0, 0, false, &[0, 4], 38),
    ];
    for (name, bos, eos, add_bos, ends, control) in expected {
        let path = folder.join(format!("tokenizer-cases/public/ggml-vocab-{name}.gguf"));
        let v = gguf::read_vocabulary(&path).unwrap().unwrap();
        assert_eq!(
            (v.bos, v.eos, v.add_bos, &v.end_of_generation[..]),
            (Some(bos), Some(eos), add_bos, ends),
            "{name}"
        );
        assert_eq!(v.types.iter().filter(|t| **t == spm::TokenType::Control).count(), control, "{name}");
    }
}
