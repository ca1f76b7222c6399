//! The dense model as a GGUF file, for llama.cpp to be measured with.

use std::fs::{self, File};
use std::io::{BufWriter, Read};
use std::ops::Range;
use std::path::Path;

use gguf::{GgmlType, GgufStream, GgufWriter, TensorPlan, quantize};
use pruner::ValueType;
use spm::Vocabulary;
use spm::claim::unfinished;
use spm::synthetic::padded_vocabulary;

use crate::failure::Failure;
use crate::new_file::refuse_existing;

use super::SynthArgs;
use super::shapes::Shape;
use super::weights::Weights;

/// Writes the file, its matrices as `kind`; returns its length. What exists under that name is left alone, but for another
/// GGUF where that is asked for.
pub(super) fn write(args: &SynthArgs, shape: &Shape, kind: GgmlType, weights: &Weights) -> Result<u64, Failure> {
    let path = &args.output;
    let failed = |e: std::io::Error| Failure::Runtime(format!("{}: {e}", path.display()));
    let replaces = args.force && is_gguf(path);
    if !replaces {
        refuse_existing(path)?;
    }
    // It gets its name when it is whole: half a model is of no use, and would be in the way of the next try.
    let file = unfinished(path)?;
    write_to(file.as_file().try_clone().map_err(failed)?, args, shape, kind, weights).map_err(failed)?;
    let named = if replaces { file.persist(path) } else { file.persist_noclobber(path) };
    named.map_err(|e| failed(e.error))?;
    length(path)
}

fn is_gguf(path: &Path) -> bool {
    let mut start = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"GGUF"
}

fn write_to(file: File, args: &SynthArgs, shape: &Shape, kind: GgmlType, weights: &Weights) -> std::io::Result<()> {
    let tensors = shape.config.tensors();
    let type_of = |name: &str, rows: usize| match (rows, name.starts_with("blk.")) {
        (1, _) => GgmlType::F32,
        (_, true) => kind,
        _ => args.head.map_or(kind, as_ggml),
    };
    let plan = |(name, rows, cols): &(String, usize, usize)| {
        let dims = if *rows == 1 { vec![*cols] } else { vec![*cols, *rows] };
        TensorPlan::new(name, &dims, type_of(name, *rows))
    };
    let plans: Option<Vec<TensorPlan>> = tensors.iter().map(plan).collect();
    let plans = plans.ok_or_else(|| std::io::Error::other("rows are not whole blocks of that type; take F16"))?;
    let mut out = keys(args, shape, kind).stream(&plans, BufWriter::new(file))?;
    for (name, rows, cols) in &tensors {
        push(&mut out, name, (*rows, *cols), type_of(name, *rows), weights)?;
    }
    out.finish().map(drop)
}

fn push(
    out: &mut GgufStream<BufWriter<File>>,
    name: &str,
    (rows, cols): (usize, usize),
    kind: GgmlType,
    weights: &Weights,
) -> std::io::Result<()> {
    let part = |range: Range<usize>| {
        let mut row = vec![0.0; cols];
        let mut bytes = Vec::new();
        for r in range {
            weights.fill(name, r, &mut row);
            bytes.extend(quantize(kind, &row)?);
        }
        Some(bytes)
    };
    let parts: Option<Vec<Vec<u8>>> = weights.in_parts(rows, part).into_iter().collect();
    let parts = parts.ok_or_else(|| std::io::Error::other(format!("cannot write {}", kind.name())))?;
    out.push(name, &parts.concat())
}

fn as_ggml(values: ValueType) -> GgmlType {
    match values {
        ValueType::F16 => GgmlType::F16,
        ValueType::Q8 => GgmlType::Q8_0,
        ValueType::Q5 => GgmlType::Q5_0,
        ValueType::Q4 => GgmlType::Q4_0,
    }
}

fn length(path: &Path) -> Result<u64, Failure> {
    Ok(fs::metadata(path)?.len())
}

/// Everything but the tensors.
fn keys(args: &SynthArgs, shape: &Shape, kind: GgmlType) -> GgufWriter {
    let c = &shape.config;
    let mut keys = GgufWriter::new();
    let key = |name: &str| format!("{}.{name}", shape.architecture);
    keys.text("general.architecture", shape.architecture);
    keys.text("general.name", &format!("random weights in the shape of {}, seed {}", args.like, args.seed));
    keys.u32("general.file_type", file_type(kind));
    keys.u32("general.quantization_version", 2);
    for (name, value) in [
        ("block_count", c.n_layers),
        ("context_length", c.context_len),
        ("embedding_length", c.dim),
        ("feed_forward_length", c.hidden_dim),
        ("attention.head_count", c.n_heads),
        ("attention.head_count_kv", c.n_kv_heads),
        ("rope.dimension_count", c.rope.dims),
        ("vocab_size", c.vocab_size),
    ] {
        keys.u32(&key(name), value as u32);
    }
    keys.f32(&key("attention.layer_norm_rms_epsilon"), c.norm_eps);
    keys.f32(&key("rope.freq_base"), c.rope.base);
    tokenizer_keys(&mut keys, &padded_vocabulary(c.vocab_size));
    keys
}

/// llama.cpp's number for a file of mostly this type.
fn file_type(kind: GgmlType) -> u32 {
    match kind {
        GgmlType::F16 => 1,
        GgmlType::Q4_0 => 2,
        GgmlType::Q8_0 => 7,
        _ => 0,
    }
}

fn tokenizer_keys(keys: &mut GgufWriter, vocabulary: &Vocabulary) {
    let token = |id: u32| vocabulary.tokens.get(id as usize).map_or("", String::as_str);
    let merges: Vec<String> =
        vocabulary.merges.iter().map(|&(left, right)| format!("{} {}", token(left), token(right))).collect();
    let types: Vec<i32> = vocabulary.types.iter().map(|t| *t as i32).collect();
    keys.text("tokenizer.ggml.model", "gpt2");
    keys.text("tokenizer.ggml.pre", &vocabulary.pre);
    keys.texts("tokenizer.ggml.tokens", &vocabulary.tokens);
    keys.integers("tokenizer.ggml.token_type", &types);
    keys.texts("tokenizer.ggml.merges", &merges);
    keys.bool("tokenizer.ggml.add_bos_token", false);
    if let Some(eos) = vocabulary.eos {
        keys.u32("tokenizer.ggml.eos_token_id", eos);
    }
}
