use runtime::{LayerIo, Workspace};
use spm::synthetic::SyntheticModel;
use spm::{Activation, LayerKind, Norm, Residual};

use super::window::size;
use super::*;

/// The plain decoder, and what goes through a layer in another way: in parallel; scaled, with biases and windows;
/// normalised after the blocks.
fn configs() -> [Config; 4] {
    let mut all = [0; 4].map(|_| Config::new(2, 64, 160, 4, 2));
    let [_, parallel, scaled, normed] = &mut all;
    (parallel.norm, parallel.gated, parallel.activation) = (Norm::Layer, false, Activation::Gelu);
    (parallel.attn_output_bias, parallel.ffn_bias, parallel.residual) = (true, true, Residual::Parallel);
    (scaled.attn_output_bias, scaled.ffn_bias, scaled.scales.residual) = (true, true, 0.4);
    scaled.window = Some(40);
    scaled.layers = vec![LayerKind { windowed: true, ..Default::default() }, LayerKind::default()];
    (normed.post_norms, normed.qk_norm) = (true, true);
    all
}

/// Site by site is the runtime's own layer to the bit, with the down projection's inputs kept for all, some, or none of
/// the windows, and with all states in a file.
#[test]
fn passes_make_up_a_layer() {
    configs().into_iter().for_each(|config| check_passes(&SyntheticModel::new(config, 5)));
}

fn check_passes(model: &SyntheticModel) {
    let windows: Vec<Vec<u32>> = (0..5).map(|w| (0..150 + w).map(|t| (t * t + 7 * w) % 250).collect()).collect();
    let folder = tempfile::tempdir().unwrap();
    let one_window = 160 * 160 * 4;
    let in_memory = [usize::MAX, 2 * one_window, 0].map(|wide_bytes| Residence::Memory { wide_bytes });
    for residence in in_memory.into_iter().chain([Residence::Spilled(folder.path().to_owned())]) {
        let mut stream = Stream::new(model, &windows, Needs::ColumnNorms, 2, &residence).unwrap();
        for index in 0..2 {
            let layer = Layer::load(model, stream.engine(), index).unwrap();
            let before = parts(&mut stream);
            let mut seen = 0;
            for site in Site::ALL {
                let inputs =
                    stream.observe(&layer, None, site, Needs::ColumnNorms, &mut |n| tick(&mut seen, n)).unwrap();
                assert_eq!(inputs.norms.tokens(), 760);
            }
            stream.leave(&layer, &mut |n| tick(&mut seen, n)).unwrap();
            assert_eq!(seen, 5 * 760);
            for (after, before) in parts(&mut stream).into_iter().zip(before).step_by(2) {
                assert!(after == forward(&layer, &stream.engine, before), "layer {index}, {residence:?}");
            }
        }
    }
}

/// Beside a model of other weights the dense one goes its own way, and what is missing at a site is what their layers
/// differ by.
#[test]
fn the_dense_model_goes_beside() {
    for config in configs() {
        check_beside(&SyntheticModel::new(config.clone(), 5), &SyntheticModel::new(config, 6));
    }
}

fn check_beside(dense: &SyntheticModel, other: &SyntheticModel) {
    let windows: Vec<Vec<u32>> = (0..10).map(|w| (0..70 + w).map(|t| (t * t + 7 * w) % 250).collect()).collect();
    let folder = tempfile::tempdir().unwrap();
    for residence in [Residence::default(), Residence::Spilled(folder.path().to_owned())] {
        let mut stream = Stream::new(dense, &windows, Needs::DenseOutputs, 2, &residence).unwrap();
        for index in 0..2 {
            let layer = Layer::load(other, stream.engine(), index).unwrap();
            let twin = Layer::load(dense, stream.engine(), index).unwrap();
            // Hidden states and the dense model's of the window that is held out, the last.
            let last = |stream: &mut Stream| parts(stream).split_off(18);
            let before = last(&mut stream);
            let mut held_out = Vec::new();
            for site in Site::ALL {
                let inputs = stream.observe(&layer, Some(&twin), site, Needs::DenseOutputs, &mut |_| Ok(())).unwrap();
                held_out.push((inputs.held_out.unwrap(), last(&mut stream)));
            }
            let after = forward(&twin, &stream.engine, before[1].clone());
            let (of_last_site, states) = held_out.pop().unwrap();
            assert!(states[1] == after, "layer {index}");
            let reached = reached(&stream.engine, (&layer, &twin), &of_last_site, &states[0], &before);
            let after = if dense.config().post_norms { own_outputs(&stream.engine, &twin, &before[1]) } else { after };
            for (i, (found, expected)) in reached.iter().zip(&after).enumerate() {
                assert!((found - expected).abs() < 2e-4, "layer {index}, {i}: {found}, {expected}");
            }
            let inputs = |layer: &Layer, hidden: &[f32]| {
                let mut inputs = vec![0.0; hidden.len()];
                layer.attn_input(&stream.engine, hidden, &mut inputs);
                inputs
            };
            let (of_first_site, states) = &held_out[0];
            let (of_dense, of_pruned) = (inputs(&twin, &before[1]), inputs(&layer, &states[0]));
            assert!(of_first_site.beside().iter().zip(of_dense.iter().zip(&of_pruned)).all(|(b, (x, p))| *b == x - p));
            stream.leave(&layer, &mut |_| Ok(())).unwrap();
        }
    }
}

/// The stream behind the layer if its last matrix gives just what is wanted of it; with post-norms, what is wanted. That is
/// in relation to the size of the dense stream, and there to its own.
fn reached(
    engine: &Engine,
    (layer, twin): (&Layer, &Layer),
    held_out: &HeldOut,
    hidden: &[f32],
    before: &[Vec<f32>],
) -> Vec<f32> {
    let c = engine.config();
    let (dense, own) = (forward(twin, engine, before[1].clone()), own_outputs(engine, twin, &before[1]));
    let mut stream = hidden.to_vec();
    if c.residual.is_parallel() {
        let mut ws = Workspace::new(engine, hidden.len() / c.dim);
        layer.attn_output(engine, &mut ws, &attended(engine, layer, hidden), &mut stream);
    }
    let rows = stream.chunks_mut(c.dim).zip(held_out.beside().chunks(c.dim));
    for ((stream, wanted), (dense, own)) in rows.zip(dense.chunks(c.dim).zip(own.chunks(c.dim))) {
        for (i, (stream, wanted)) in stream.iter_mut().zip(wanted).enumerate() {
            let wanted = wanted * size(dense, c);
            let bias = layer.ffn_output_bias().map_or(0.0, |bias| bias[i]);
            *stream = match c.post_norms {
                true => wanted * size(own, c),
                false => *stream + c.scales.residual * (wanted + bias),
            };
        }
    }
    stream
}

fn attended(engine: &Engine, layer: &Layer, hidden: &[f32]) -> Vec<f32> {
    let c = engine.config();
    let n = hidden.len() / c.dim;
    let (mut x, mut out) = (vec![0.0; hidden.len()], vec![0.0; n * c.q_dim()]);
    layer.attn_input(engine, hidden, &mut x);
    let mut cache = KvCache::new(c, n, KvType::F32).unwrap();
    layer.attention(engine, &mut Workspace::new(engine, n), &mut cache, 0, &x, &mut out);
    out
}

/// Of the down projection, for a stream before the layer.
fn own_outputs(engine: &Engine, layer: &Layer, before: &[f32]) -> Vec<f32> {
    let c = engine.config();
    let n = before.len() / c.dim;
    let mut ws = Workspace::new(engine, n);
    let (mut hidden, mut x) = (before.to_vec(), vec![0.0; before.len()]);
    layer.attn_output(engine, &mut ws, &attended(engine, layer, before), &mut hidden);
    let mut wide = vec![0.0; n * c.hidden_dim];
    layer.ffn_input(engine, &hidden, &mut x);
    layer.ffn_hidden(engine, &mut ws, &x, &mut wide);
    layer.ffn_product(engine, &mut ws, &wide, &mut x);
    x
}

/// Hidden states and the dense model's of every window, in turns.
fn parts(stream: &mut Stream) -> Vec<Vec<f32>> {
    let mut parts = Vec::new();
    let keep = &mut |part: &[f32]| {
        parts.push(part.to_vec());
        Ok(())
    };
    stream.states().each(keep).unwrap();
    parts
}

fn tick(seen: &mut usize, n: usize) -> Result<(), Error> {
    *seen += n;
    Ok(())
}

fn forward(layer: &Layer, engine: &Engine, hidden: Vec<f32>) -> Vec<f32> {
    let n = hidden.len() / engine.config().dim;
    let mut cache = KvCache::new(engine.config(), n, KvType::F32).unwrap();
    let mut io = LayerIo::default();
    io.resize(engine, n);
    io.hidden = hidden;
    layer.forward(engine, &mut Workspace::new(engine, n), &mut cache, 0, &mut io);
    io.hidden
}
