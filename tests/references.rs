//! Other engines on the same files: recorded logits, continuations and token ids.
//!
//! The records are large and belong to others, so they are not in the repository. `SPM_TEST_DATA` names a folder with
//! `models/golden/*.json` (engine `hf`: weights expanded to f32; engine `lcp`: llama.cpp, 8-bit activations),
//! `models/stories260K/*.gguf` and `tokenizer-cases/`; `SPM_TEST_MODELS` one with the GGUF files that the records name.
//! Without them these tests say so and compare nothing.
#![allow(clippy::print_stderr)] // How near the engines are is worth reading.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gguf::GgufModel;
use runtime::{EngineOptions, KvType, Model, Precision, Session, SessionOptions, Special, Tokenizer};
use serde_json::Value;
use spm::Checkpoint;

/// A folder from the environment, or a word on why nothing is compared.
fn folder(variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        eprintln!("{variable} is not set: NOTHING COMPARED");
    }
    folder
}

fn load(file: &GgufModel, precision: Precision) -> Arc<Model> {
    let options = EngineOptions { threads: 2, precision, ..EngineOptions::default() };
    Arc::new(Model::load(file, &options).unwrap())
}

/// Logits after every token.
fn all_logits(model: &Arc<Model>, ids: &[u32]) -> Vec<Vec<f32>> {
    let mut session = Session::new(model, &SessionOptions { context: 512, kv: KvType::F32, batch: 64 }).unwrap();
    let mut all = Vec::new();
    session.feed_each(ids, |_, logits| all.push(logits.to_vec())).unwrap();
    all
}

fn greedy(model: &Arc<Model>, ids: &[u32], n: usize) -> Vec<u32> {
    let mut session = Session::new(model, &SessionOptions { context: 512, kv: KvType::F32, batch: 64 }).unwrap();
    let mut next = argmax(session.feed(ids).unwrap());
    let mut out = vec![next];
    while out.len() < n {
        next = argmax(session.feed(&[next]).unwrap());
        out.push(next);
    }
    out
}

fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

fn nll(logits: &[Vec<f32>], ids: &[u32]) -> f64 {
    let score = |(l, &id): (&Vec<f32>, &u32)| {
        let sum: f64 = l.iter().map(|&v| f64::from(v).exp()).sum();
        sum.ln() - f64::from(l[id as usize])
    };
    logits.iter().zip(&ids[1..]).map(score).sum()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// Models that there are records of, and how far 8-bit activations may be from the f32 ones on these: as far as llama.cpp's
/// are, for Gemma a little farther (0.72 of a range of 46).
const MODELS: [(&str, f64); 3] =
    [("SmolLM2-135M-Instruct.Q4_1", 0.4), ("qwen2.5-coder-0.5b-instruct-q4_k_m", 0.25), ("gemma-3-270m-q4_k_m", 0.8)];

/// Those of which the file is there.
fn present(models: &Path) -> Vec<(&'static str, f64, GgufModel)> {
    let open = |(name, tolerance)| {
        let path = models.join(format!("{name}.gguf"));
        if !path.exists() {
            eprintln!("{} is not there: NOT COMPARED", path.display());
            return None;
        }
        Some((name, tolerance, GgufModel::open(&path).unwrap()))
    };
    MODELS.into_iter().filter_map(open).collect()
}

fn records(data: &Path, name: &str, engine: &str) -> Value {
    let path = data.join(format!("models/golden/{name}.{engine}.json"));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Largest distance to the recorded top logits, and the range of our own.
fn distance(logits: &[f32], top: &Value) -> (f64, f64) {
    let error =
        |pair: &Value| (f64::from(logits[pair[0].as_u64().unwrap() as usize]) - pair[1].as_f64().unwrap()).abs();
    let worst = top.as_array().unwrap().iter().map(error).fold(0.0, f64::max);
    let (min, max) = logits.iter().fold((f32::MAX, f32::MIN), |(min, max), &l| (min.min(l), max.max(l)));
    (worst, f64::from(max - min))
}

#[test]
fn exact_logits_are_those_of_transformers() {
    let (Some(data), Some(models)) = (folder("SPM_TEST_DATA"), folder("SPM_TEST_MODELS")) else { return };
    for (name, _, file) in present(&models) {
        let model = load(&file, Precision::Exact);
        for (prompt, record) in records(&data, name, "hf")["prompts"].as_object().unwrap() {
            let tokens = ids(&record["ids"]);
            let logits = all_logits(&model, &tokens);
            let (worst, range) = distance(logits.last().unwrap(), &record["last_top20"]);
            eprintln!("{name} {prompt}: exact, largest error {worst:.6} of a range of {range:.2}");
            assert!(worst <= 1e-3 * range, "{name} {prompt}: {worst} of {range}");
            let most: Vec<u32> = logits.iter().map(|l| argmax(l)).collect();
            assert_eq!(most, ids(&record["argmax"]), "{name} {prompt}");
            assert!((nll(&logits, &tokens) - record["nll_sum"].as_f64().unwrap()).abs() < 0.01, "{name} {prompt}");
            assert_eq!(greedy(&model, &tokens, 32), ids(&record["greedy"]), "{name} {prompt}");
        }
    }
}

#[test]
fn int8_logits_are_as_near_as_those_of_llama_cpp() {
    let (Some(data), Some(models)) = (folder("SPM_TEST_DATA"), folder("SPM_TEST_MODELS")) else { return };
    for (name, tolerance, file) in present(&models) {
        let model = load(&file, Precision::Int8);
        for engine in ["hf", "lcp"] {
            for (prompt, record) in records(&data, name, engine)["prompts"].as_object().unwrap() {
                let tokens = ids(&record["ids"]);
                let logits = all_logits(&model, &tokens);
                let (worst, _) = distance(logits.last().unwrap(), &record["last_top20"]);
                let each = (nll(&logits, &tokens) - record["nll_sum"].as_f64().unwrap()) / (tokens.len() - 1) as f64;
                let expected = ids(&record["argmax"]);
                let same = logits.iter().zip(&expected).filter(|(l, e)| argmax(l) == **e).count();
                let agreement = same as f64 / expected.len() as f64;
                eprintln!(
                    "{name} {prompt} against {engine}: logit {worst:.3}, NLL {each:+.4} a token, argmax {agreement:.3}"
                );
                // Two engines that both round may be apart by both distances.
                let room = if engine == "lcp" { 2.0 } else { 1.0 };
                assert!(worst <= tolerance * room, "{name} {prompt} {engine}: logit {worst}");
                assert!(each.abs() <= 0.05 * room, "{name} {prompt} {engine}: NLL {each}");
                assert!(agreement >= 0.94 - 0.06 * (room - 1.0), "{name} {prompt} {engine}: argmax {agreement}");
            }
        }
    }
}

#[test]
fn stories_are_told_as_upstream_tells_them() {
    let Some(data) = folder("SPM_TEST_DATA") else { return };
    let start = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she \
                 saw a big, red ball.";
    let mut texts = Vec::new();
    for kind in ["F32", "F16", "Q8_0"] {
        let file = GgufModel::open(&data.join(format!("models/stories260K/stories260K.{kind}.gguf"))).unwrap();
        let tokenizer = Tokenizer::new(file.vocabulary().unwrap()).unwrap();
        for precision in [Precision::Exact, Precision::Int8] {
            let model = load(&file, precision);
            let text = tokenizer.decode(&greedy(&model, &[tokenizer.bos().unwrap()], 200));
            if precision == Precision::Exact {
                assert!(text.trim_start().starts_with(start), "{kind} {precision:?}: {text}");
            }
            texts.push(text);
        }
    }
    // F32 and F16 weights never meet 8-bit activations: all four are the same story.
    assert!(texts[..4].iter().all(|t| *t == texts[0]), "{texts:#?}");
}

#[test]
fn texts_become_the_tokens_that_their_models_were_trained_on() {
    let Some(data) = folder("SPM_TEST_DATA") else { return };
    let folder = data.join("tokenizer-cases/public");
    for name in ["gpt-2", "starcoder", "qwen2", "llama-bpe", "deepseek-coder", "llama-spm", "phi-3", "gemma-4"] {
        let path = folder.join(format!("ggml-vocab-{name}.gguf"));
        let tokenizer = Tokenizer::new(&gguf::read_vocabulary(&path).unwrap().unwrap()).unwrap();
        let inputs = fs::read_to_string(path.with_extension("gguf.inp")).unwrap();
        let outputs = fs::read_to_string(path.with_extension("gguf.out")).unwrap();
        let mut cases = 0;
        for (text, expected) in inputs.split("\n__ggml_vocab_test__\n").zip(outputs.lines()) {
            let expected: Vec<u32> = expected.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode_plain(text), expected, "{name}: {text:?}");
            cases += 1;
        }
        eprintln!("{name}: {cases} cases");
        assert!(cases >= 40, "{name}: {cases} cases");
    }
}

#[test]
fn real_models_cut_texts_as_llama_cpp_and_transformers_do() {
    let (Some(data), Some(models)) = (folder("SPM_TEST_DATA"), folder("SPM_TEST_MODELS")) else { return };
    for (name, _, file) in present(&models) {
        let tokenizer = Tokenizer::new(file.vocabulary().unwrap()).unwrap();
        let cases = fs::read_to_string(data.join(format!("tokenizer-cases/public/models/{name}.jsonl"))).unwrap();
        for line in cases.lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            let text = case["text"].as_str().unwrap();
            let special = if case["parse_special"] == true { Special::Parse } else { Special::AsText };
            // The records are of the text alone.
            let first = usize::from(tokenizer.adds_bos());
            assert_eq!(tokenizer.encode(text, special)[first..], ids(&case["ids"]), "{name}: {text:?} {special:?}");
        }
        eprintln!("{name}: {} cases", cases.lines().count());
    }
}

/// Random models of small shapes, one of each family, as transformers wrote them: prefill and decoding.
#[test]
fn folders_of_all_families_give_the_logits_of_transformers() {
    let Some(data) = folder("SPM_TEST_DATA") else { return };
    let mut families = 0;
    for entry in fs::read_dir(data.join("models/hf-tiny-random")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let record: Value = serde_json::from_slice(&fs::read(folder.join("reference.json")).unwrap()).unwrap();
        let tokens = ids(&record["ids"]);
        let options = EngineOptions { threads: 2, precision: Precision::Exact, ..EngineOptions::default() };
        let file = hf::open(&folder).unwrap();
        let tokenizer = Tokenizer::new(file.vocabulary().unwrap()).unwrap();
        assert_eq!(tokenizer.encode(record["text"].as_str().unwrap(), Special::AsText), tokens, "{name}");
        let model = Arc::new(Model::load(&file, &options).unwrap());
        let together = all_logits(&model, &tokens);
        let mut session = Session::new(&model, &SessionOptions { context: 0, kv: KvType::F32, batch: 64 }).unwrap();
        let apart: Vec<Vec<f32>> = tokens.iter().map(|id| session.feed(&[*id]).unwrap().to_vec()).collect();
        for (how, logits) in [("prefill", &together), ("decode", &apart)] {
            let recorded: Vec<Value> = record["last_logits"].as_array().unwrap().clone();
            let pairs: Value =
                recorded.into_iter().enumerate().map(|(i, v)| Value::from(vec![Value::from(i), v])).collect();
            let (worst, range) = distance(logits.last().unwrap(), &pairs);
            let off = nll(logits, &tokens) - record["nll_sum"].as_f64().unwrap();
            eprintln!("{name} {how}: largest error {:.1e} of the range, NLL {off:+.1e}", worst / range);
            assert!(worst <= 1e-4 * range, "{name} {how}: {worst} of {range}");
            assert!(off.abs() <= 1e-4 * tokens.len() as f64, "{name} {how}: NLL {off}");
            let most: Vec<u32> = logits.iter().map(|l| argmax(l)).collect();
            assert_eq!(most, ids(&record["argmax"]), "{name} {how}");
        }
        assert_eq!(greedy(&model, &tokens, 16), ids(&record["greedy16"]), "{name}");
        families += 1;
    }
    assert!(families >= 11, "{families} families");
}
