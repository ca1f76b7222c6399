//! `spm synth`: models with the shapes of real ones and random weights, for measuring speed where the real ones cannot
//! be had.
//!
//! The weights are about normal with deviation 1/sqrt(columns), a pure function of seed, tensor and row: the sparse
//! file and the dense GGUF of one seed begin from the same ones. One matrix is in memory at a time.

mod dense_gguf;
mod shapes;
mod weights;

use std::path::PathBuf;

use clap::Args;
use gguf::GgmlType;
use pruner::{Pattern, ValueType};
use spm::synthetic::padded_vocabulary;
use spm::{Encoding, Provenance, SpmWriter, WriterOptions};

use crate::failure::Failure;
use crate::process;

use shapes::Shape;
use weights::Weights;

/// What is made.
#[derive(Args, Clone, Debug)]
pub struct SynthArgs {
    /// Model whose shape is taken: smollm2-135m, qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-3b, llama-1b and llama-3b (Llama
    /// 3.2), llama-7b (Llama 2), codellama-7b
    #[arg(long, value_name = "NAME")]
    pub like: String,
    /// Share of the layers' weights that go [default: 0.5, or what the pattern says]
    #[arg(long)]
    pub sparsity: Option<f64>,
    /// unstructured, or N:M to keep N of M neighbours: 2:4, 4:8, 16:32
    #[arg(long, default_value = "unstructured")]
    pub pattern: String,
    /// How kept weights are stored: f16, q8, q4; with --sparsity 0 also q5
    #[arg(long, default_value_t = ValueType::Q8)]
    pub values: ValueType,
    /// How the embedding and the output head are stored: f16, q8, q5, q4 [default: q8; with --gguf, as all else]
    #[arg(long)]
    pub head: Option<ValueType>,
    /// Layers instead of the real number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub layers: Option<u16>,
    /// Chooses the weights
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Write a dense GGUF of this type instead, for llama.cpp: Q8_0, Q4_0, F16
    #[arg(long, value_name = "TYPE", value_parser = gguf_type, conflicts_with_all = ["sparsity", "pattern", "values"])]
    pub gguf: Option<GgmlType>,
    /// Where the model goes
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Replace an earlier model of the same kind of file at the output
    #[arg(long)]
    pub force: bool,
    /// Threads [default: one a core]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub threads: Option<u16>,
}

fn gguf_type(text: &str) -> Result<GgmlType, String> {
    let known = [GgmlType::Q8_0, GgmlType::Q4_0, GgmlType::F16];
    known.into_iter().find(|t| t.name() == text).ok_or_else(|| "expected Q8_0, Q4_0 or F16".to_owned())
}

/// Writes the model; returns the bytes of the file.
pub fn run(args: &SynthArgs) -> Result<u64, Failure> {
    let shape = Shape::named(&args.like, args.layers.map(usize::from))?;
    let weights = Weights { seed: args.seed, threads: args.threads.map_or_else(process::default_threads, usize::from) };
    match args.gguf {
        Some(kind) => dense_gguf::write(args, &shape, kind, &weights),
        None => write_spm(args, &shape, &weights),
    }
}

fn write_spm(args: &SynthArgs, shape: &Shape, weights: &Weights) -> Result<u64, Failure> {
    let pattern = Pattern::parse(&args.pattern, args.sparsity).map_err(|e| Failure::Usage(e.to_string()))?;
    if !pattern.is_dense() {
        args.values.sparse(pattern, shape.config.dim)?;
    }
    let options = WriterOptions { replace: args.force, ..WriterOptions::default() };
    let mut writer = SpmWriter::create(&args.output, &options)?;
    for (name, rows, cols) in shape.config.tensors() {
        let (encoding, pattern) = stored_as(args, pattern, &name, (rows, cols))?;
        let matrix = weights.encode(&name, (rows, cols), encoding, pattern);
        let matrix = matrix.map_err(|e| Failure::Runtime(format!("tensor `{name}`: {e}")))?;
        writer.push(&name, &matrix)?;
    }
    let vocabulary = padded_vocabulary(shape.config.vocab_size);
    Ok(writer.finish(&shape.config, Some(&vocabulary), &provenance(args, pattern))?)
}

/// How a tensor is stored, and in which pattern it is pruned if it is.
fn stored_as(
    args: &SynthArgs,
    pattern: Pattern,
    name: &str,
    (rows, cols): (usize, usize),
) -> Result<(Encoding, Option<Pattern>), Failure> {
    let is_layer = name.starts_with("blk.");
    Ok(match rows {
        1 => (Encoding::F32, None),
        _ if !is_layer => (args.head.unwrap_or(ValueType::Q8).dense(), None),
        _ if pattern.is_dense() => (args.values.dense(), None),
        _ => (args.values.sparse(pattern, cols)?, Some(pattern)),
    })
}

fn provenance(args: &SynthArgs, pattern: Pattern) -> Provenance {
    let mut p = Provenance::default();
    p.source = format!("random weights in the shape of {}, seed {}", args.like, args.seed);
    p.method = "random".into();
    p.sparsity = pattern.sparsity() as f32;
    p.pattern = pattern.to_string();
    p.tool = format!("spm synth {}", env!("CARGO_PKG_VERSION"));
    p
}
