//! What sets families apart, against a plain f64 decoder: one small random model for each combination of switches that a
//! published family has.

use std::collections::HashMap;
use std::sync::Arc;

use sparse_run::{EngineOptions, KvType, Model, Precision, Session, SessionOptions, Sessions};
use spm::synthetic::SyntheticModel;
use spm::{Activation, Checkpoint, Config, LayerKind, LayerRope, LongRope, Norm, Residual, Rope, RopeLayout};

const CONTEXT: usize = 128;

fn kind(windowed: bool, rope: LayerRope) -> LayerKind {
    LayerKind { windowed, rope }
}

/// Three layers of width 64, heads of 24 of which the leading part turns.
fn base() -> Config {
    let mut c = Config::new(3, 64, 96, 4, 2);
    c.head_dim = 24;
    c.context_len = CONTEXT;
    c.rope = Rope::new(1e4, 24, RopeLayout::Halves);
    c
}

fn families() -> Vec<(&'static str, Config)> {
    let mut all = vec![("plain", base())];
    let mut add = |name, set: &dyn Fn(&mut Config)| {
        let mut c = base();
        set(&mut c);
        all.push((name, c));
    };
    add("window in all layers", &|c| {
        c.window = Some(11);
        c.layers = vec![kind(true, LayerRope::Main); 3];
    });
    add("normalised heads", &|c| c.qk_norm = true);
    add("layers that do not turn", &|c| {
        c.layers = vec![kind(false, LayerRope::Main), kind(false, LayerRope::None), kind(false, LayerRope::Main)];
    });
    add("multipliers", &|c| {
        (c.scales.embedding, c.scales.residual) = (6.0, 0.3);
        (c.scales.attention, c.scales.logits) = (Some(0.1), 0.25);
        c.tied_head = true;
    });
    add("LayerNorm, biases, plain GELU", &|c| {
        (c.norm, c.gated, c.activation) = (Norm::Layer, false, Activation::GeluTanh);
        (c.qkv_bias, c.attn_output_bias, c.ffn_bias) = (true, true, true);
        c.tied_head = true;
    });
    add("norms after blocks, caps, windows in turns", &|c| {
        (c.post_norms, c.activation, c.tied_head) = (true, Activation::GeluTanh, true);
        (c.scales.attention_cap, c.scales.logits_cap, c.scales.embedding) = (Some(5.0), Some(3.0), 8.0);
        c.window = Some(16);
        c.layers = vec![kind(true, LayerRope::Main), kind(false, LayerRope::Main), kind(true, LayerRope::Main)];
    });
    add("norms after blocks, normalised heads, two rotations", &|c| {
        (c.post_norms, c.qk_norm, c.activation) = (true, true, Activation::GeluTanh);
        c.rope.base = 1e6;
        c.rope.scale_linear(8.0);
        c.local_rope = Some(Rope::new(1e4, 24, RopeLayout::Halves));
        c.window = Some(5);
        c.layers = vec![kind(true, LayerRope::Local), kind(true, LayerRope::Local), kind(false, LayerRope::Main)];
    });
    for (name, trained) in [("divisors for long texts", CONTEXT - 1), ("and for short ones", CONTEXT)] {
        add(name, &|c| {
            c.rope.freq_factors = (0..12).map(|i| 1.0 + 0.1 * i as f32).collect();
            c.rope.attn_scale = 1.19;
            c.rope.long = Some(LongRope { trained, freq_factors: (0..12).map(|i| 1.5 + i as f32).collect() });
        });
    }
    add("learned positions", &|c| {
        (c.norm, c.gated, c.activation, c.learned_positions) = (Norm::Layer, false, Activation::GeluTanh, true);
        (c.qkv_bias, c.attn_output_bias, c.ffn_bias) = (true, true, true);
        c.layers = vec![kind(false, LayerRope::None); 3];
    });
    add("parallel, two norms, a quarter turns", &|c| {
        (c.norm, c.gated, c.activation) = (Norm::Layer, false, Activation::Gelu);
        (c.qkv_bias, c.attn_output_bias, c.ffn_bias) = (true, true, true);
        (c.residual, c.rope.dims) = (Residual::Parallel, 6);
    });
    add("parallel, one norm, bias of the head", &|c| {
        (c.norm, c.gated, c.activation) = (Norm::Layer, false, Activation::GeluTanh);
        (c.qkv_bias, c.attn_output_bias, c.ffn_bias, c.head_bias) = (true, true, true, true);
        (c.residual, c.rope.dims) = (Residual::ParallelOneNorm, 10);
    });
    all
}

fn session(model: &Arc<Model>, batch: usize) -> Session {
    Session::new(model, &SessionOptions { context: CONTEXT, kv: KvType::F32, batch }).unwrap()
}

fn load(model: &SyntheticModel, threads: usize) -> Arc<Model> {
    let options = EngineOptions { threads, precision: Precision::Exact, ..EngineOptions::default() };
    Arc::new(Model::load(model, &options).unwrap())
}

fn logits(model: &Arc<Model>, batch: usize, ids: &[u32]) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    session(model, batch).feed_each(ids, |_, logits| all.push(logits.to_vec())).unwrap();
    all
}

fn ids(n: usize) -> Vec<u32> {
    (0..n as u32).map(|t| (t * t * 7 + t * 31) % 250).collect()
}

#[test]
fn families_are_those_of_an_f64_decoder() {
    let ids = ids(90);
    for (name, config) in families() {
        let source = SyntheticModel::new(config, 17);
        let expected = reference::logits(&source, &ids);
        let found = logits(&load(&source, 1), 64, &ids);
        for (t, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let (min, max) = expected.iter().fold((f64::MAX, f64::MIN), |(min, max), &l| (min.min(l), max.max(l)));
            let worst = found.iter().zip(expected).map(|(f, e)| (f64::from(*f) - e).abs()).fold(0.0, f64::max);
            assert!(worst <= 1e-4 * (max - min), "{name}, position {t}: {worst} of a range of {}", max - min);
        }
    }
}

/// Fed in other pieces, on other threads: the same to the bit, also where a window's cache has gone round.
#[test]
fn pieces_and_threads_change_nothing() {
    let ids = ids(CONTEXT);
    for (name, config) in families() {
        let source = SyntheticModel::new(config, 18);
        let expected = logits(&load(&source, 1), 64, &ids);
        for (threads, batch) in [(1, 1), (2, 7), (3, 64)] {
            assert!(logits(&load(&source, threads), batch, &ids) == expected, "{name}, {threads} threads, {batch}");
        }
    }
}

/// A text among others is what it is alone, to the bit, wherever the others are and whatever was in its place before.
#[test]
fn texts_that_go_on_together_do_not_touch_each_other() {
    let texts = [ids(120), ids(50).split_off(10), ids(40).split_off(3), ids(33)];
    for (name, config) in families() {
        let source = SyntheticModel::new(config, 21);
        for precision in [Precision::Exact, Precision::Int8] {
            let options = EngineOptions { threads: 2, precision, ..EngineOptions::default() };
            let model = Arc::new(Model::load(&source, &options).unwrap());
            let mut together = Sessions::new(&model, 3, CONTEXT, KvType::F32).unwrap();
            // Text 2 begins late; when text 1 is over the last one takes its place.
            let mut turns: Vec<(usize, usize)> = vec![(0, 0), (1, 1)];
            let mut found = vec![Vec::new(); texts.len()];
            while !turns.is_empty() {
                let next: Vec<(usize, u32)> =
                    turns.iter().map(|&(at, text)| (at, texts[text][found[text].len()])).collect();
                let logits: Vec<Vec<f32>> = together.step(&next).unwrap().map(<[f32]>::to_vec).collect();
                turns.iter().zip(logits).for_each(|((_, text), logits)| found[*text].push(logits));
                if turns.len() == 2 && found[0].len() == 5 {
                    turns.insert(0, (2, 2));
                }
                if found[1].len() == texts[1].len() && found[3].is_empty() {
                    together.restart(1);
                    turns.push((1, 3));
                }
                turns.retain(|&(_, text)| found[text].len() < texts[text].len());
            }
            for (text, found) in texts.iter().zip(&found) {
                let mut alone = Vec::new();
                session(&model, 64).feed_each(text, |_, logits| alone.push(logits.to_vec())).unwrap();
                assert!(*found == alone, "{name}, {precision:?}");
            }
        }
    }
}

/// Fed in one go, or begun as another text, is the same to the bit; what a window no longer has is not made up.
#[test]
fn texts_begin_as_others_do() {
    let ids = ids(CONTEXT);
    for (name, config) in families() {
        let source = SyntheticModel::new(config, 23);
        for precision in [Precision::Exact, Precision::Int8] {
            let options = EngineOptions { threads: 2, precision, ..EngineOptions::default() };
            let model = Arc::new(Model::load(&source, &options).unwrap());
            let mut alone = Vec::new();
            session(&model, 64).feed_each(&ids, |_, logits| alone.push(logits.to_vec())).unwrap();
            let mut together = Sessions::new(&model, 2, CONTEXT, KvType::F32).unwrap();
            let check = |together: &mut Sessions, next: &[(usize, u32)], expected: &[usize]| {
                let found = together.step(next).unwrap();
                let same = found.zip(expected).all(|(logits, &at)| *logits == alone[at]);
                assert!(same, "{name}, {precision:?}: {expected:?}");
            };
            together.feed(0, &ids[..70]).unwrap();
            check(&mut together, &[(0, ids[70])], &[70]);
            assert!(together.fork(0, 1, 60), "{name}");
            check(&mut together, &[(0, ids[71]), (1, ids[60])], &[71, 60]);
            together.feed(0, &ids[72..127]).unwrap();
            let reaches = model.config().window.is_none_or(|window| window > 64);
            assert_eq!(together.fork(0, 1, 20), reaches, "{name}");
            if reaches {
                check(&mut together, &[(1, ids[20])], &[20]);
            }
        }
    }
}

#[test]
fn texts_that_go_on_together_have_room_and_known_tokens() {
    let model = load(&SyntheticModel::new(base(), 22), 1);
    let mut together = Sessions::new(&model, 2, 2, KvType::F16).unwrap();
    let mut step = |next: &[(usize, u32)]| together.step(next).map(|logits| logits.len()).map_err(|e| e.to_string());
    assert_eq!(step(&[(0, 1)]), Ok(1));
    let unknown = u32::try_from(model.config().vocab_size).unwrap();
    assert!(step(&[(1, 1), (0, unknown)]).unwrap_err().starts_with("token "));
    assert_eq!(step(&[(1, 1), (0, 1)]), Ok(2));
    assert!(step(&[(0, 1)]).unwrap_err().starts_with("3 tokens do not fit in a context of 2"));
    assert_eq!(step(&[(1, 1)]), Ok(1));
}

/// A layer with a window keeps as little as its window needs, and what can no longer be gone back to is forgotten whole.
#[test]
fn windows_keep_little() {
    let (name, config) = families().swap_remove(1);
    assert_eq!((name, config.window), ("window in all layers", Some(11)));
    let source = SyntheticModel::new(config, 19);
    let model = load(&source, 1);
    let full = SyntheticModel::new(base(), 19);
    let bytes = |model: &Arc<Model>| Session::cache_bytes(model, 4096, KvType::F16);
    assert!(bytes(&model) * 20 < bytes(&load(&full, 1)), "{}", bytes(&model));

    let ids = ids(CONTEXT);
    let mut session = session(&model, 4);
    let at_20 = session.feed(&ids[..20]).unwrap().to_vec();
    assert_eq!(session.truncate(19), 19);
    assert_eq!(session.feed(&ids[19..20]).unwrap(), at_20);
    session.feed(&ids[20..]).unwrap();
    assert_eq!(session.truncate(20), 0);
    assert_eq!(session.feed(&ids[..20]).unwrap(), at_20);
}

#[test]
fn learned_positions_end() {
    let (_, config) = families().into_iter().find(|(name, _)| *name == "learned positions").unwrap();
    let model = load(&SyntheticModel::new(config, 20), 1);
    let options = SessionOptions { context: 2 * CONTEXT, ..SessionOptions::default() };
    let mut session = Session::new(&model, &options).unwrap();
    assert_eq!(session.context(), CONTEXT);
    let error = session.feed(&ids(CONTEXT + 1)).unwrap_err().to_string();
    assert!(error.starts_with("129 tokens do not fit in a context of 128"), "{error}");
}

/// The decoder in f64, written from the published models, one vector at a time.
mod reference {
    use super::*;

    type Vector = Vec<f64>;

    pub(crate) fn logits(model: &dyn Checkpoint, ids: &[u32]) -> Vec<Vector> {
        let (w, c) = (Weights::new(model), model.config());
        let mut stream: Vec<Vector> = ids.iter().enumerate().map(|(t, &id)| w.embed(t, id as usize)).collect();
        for i in 0..c.n_layers {
            let name = |short: &str| format!("blk.{i}.{short}");
            let attn_in: Vec<Vector> = stream.iter().map(|h| w.norm(&name("attn_norm"), h, c.norm)).collect();
            let attended = w.attention(i, &attn_in);
            let added: Vec<Vector> = attended.iter().map(|x| w.linear(&name("attn_output"), x)).collect();
            let added: Vec<Vector> = added.into_iter().map(|x| w.add_norm(&name("post_attention_norm"), x)).collect();
            for t in 0..stream.len() {
                let before = stream[t].clone();
                add(&mut stream[t], &added[t]);
                let ffn_in = match c.residual {
                    Residual::Serial => w.norm(&name("ffn_norm"), &stream[t], c.norm),
                    Residual::Parallel => w.norm(&name("ffn_norm"), &before, c.norm),
                    Residual::ParallelOneNorm => attn_in[t].clone(),
                };
                let down = w.linear(&name("ffn_down"), &w.hidden(i, &ffn_in));
                let down = w.add_norm(&name("post_ffw_norm"), down);
                add(&mut stream[t], &down);
            }
        }
        stream.iter().map(|h| w.head(h)).collect()
    }

    /// All tensors, by name.
    struct Weights<'a>(&'a Config, HashMap<String, Vector>);

    impl<'a> Weights<'a> {
        fn new(model: &'a dyn Checkpoint) -> Self {
            let expanded = |name: &str| model.read_all(name).unwrap().iter().map(|v| f64::from(*v)).collect();
            Weights(model.config(), model.tensors().iter().map(|t| (t.name.clone(), expanded(&t.name))).collect())
        }

        fn get(&self, name: &str) -> &[f64] {
            &self.1[name]
        }

        fn embed(&self, t: usize, id: usize) -> Vector {
            let c = self.0;
            let row = |name: &str, row: usize| self.get(name)[row * c.dim..][..c.dim].to_vec();
            let mut h = row("token_embd.weight", id);
            h.iter_mut().for_each(|v| *v *= f64::from(c.scales.embedding));
            if c.learned_positions {
                add(&mut h, &row("position_embd.weight", t));
            }
            h
        }

        fn norm(&self, name: &str, x: &[f64], norm: Norm) -> Vector {
            let eps = f64::from(self.0.norm_eps);
            let weight = self.get(&format!("{name}.weight"));
            let mean = |x: &mut dyn Iterator<Item = f64>| x.sum::<f64>() / weight.len() as f64;
            match norm {
                Norm::Rms => {
                    let square = mean(&mut x.iter().map(|v| v * v));
                    x.iter().zip(weight).map(|(v, w)| v / (square + eps).sqrt() * w).collect()
                }
                Norm::Layer => {
                    let bias = self.get(&format!("{name}.bias"));
                    let middle = mean(&mut x.iter().copied());
                    let variance = mean(&mut x.iter().map(|v| (v - middle).powi(2)));
                    let each = x.iter().zip(weight.iter().zip(bias));
                    each.map(|(v, (w, b))| (v - middle) / (variance + eps).sqrt() * w + b).collect()
                }
            }
        }

        /// What a block adds to the stream.
        fn add_norm(&self, name: &str, mut x: Vector) -> Vector {
            let c = self.0;
            if c.post_norms {
                x = self.norm(name, &x, Norm::Rms);
            }
            x.iter().map(|v| v * f64::from(c.scales.residual)).collect()
        }

        fn linear(&self, name: &str, x: &[f64]) -> Vector {
            let weight = self.get(&format!("{name}.weight"));
            let mut y: Vector = weight.chunks(x.len()).map(|row| dot(row, x)).collect();
            if let Some(bias) = self.1.get(&format!("{name}.bias")) {
                add(&mut y, bias);
            }
            y
        }

        fn hidden(&self, layer: usize, x: &[f64]) -> Vector {
            let c = self.0;
            let up = self.linear(&format!("blk.{layer}.ffn_up"), x);
            if !c.gated {
                return up.iter().map(|u| act(c.activation, *u)).collect();
            }
            let gate = self.linear(&format!("blk.{layer}.ffn_gate"), x);
            gate.iter().zip(&up).map(|(g, u)| act(c.activation, *g) * u).collect()
        }

        fn heads(&self, layer: usize, short: &str, t: usize, x: &[f64]) -> Vec<Vector> {
            let c = self.0;
            let all = self.linear(&format!("blk.{layer}.attn_{short}"), x);
            let rope = match c.layers.get(layer).map_or(LayerRope::Main, |kind| kind.rope) {
                LayerRope::Main => Some(&c.rope),
                LayerRope::Local => c.local_rope.as_ref(),
                LayerRope::None => None,
            };
            let head = |head: &[f64]| {
                let mut head = head.to_vec();
                if c.qk_norm && short != "v" {
                    head = self.norm(&format!("blk.{layer}.attn_{short}_norm"), &head, Norm::Rms);
                }
                if let (Some(rope), true) = (rope, short != "v") {
                    turn(rope, t, &mut head);
                }
                head
            };
            all.chunks(c.head_dim).map(head).collect()
        }

        fn attention(&self, layer: usize, x: &[Vector]) -> Vec<Vector> {
            let c = self.0;
            let part = |short: &str| -> Vec<Vec<Vector>> {
                x.iter().enumerate().map(|(t, x)| self.heads(layer, short, t, x)).collect()
            };
            let (q, k, v) = (part("q"), part("k"), part("v"));
            let scale = c.scales.attention.map_or(1.0 / (c.head_dim as f64).sqrt(), f64::from);
            let is_windowed = c.layers.get(layer).is_some_and(|kind| kind.windowed);
            let window = c.window.filter(|_| is_windowed).unwrap_or(usize::MAX);
            let attend = |t: usize, h: usize| -> Vector {
                let kv = h / (c.n_heads / c.n_kv_heads);
                let seen: Vec<usize> = (0..=t).filter(|s| t - s < window).collect();
                let score = |s: &usize| {
                    let score = dot(&q[t][h], &k[*s][kv]) * scale;
                    c.scales.attention_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh()).exp()
                };
                let scores: Vector = seen.iter().map(score).collect();
                let sum: f64 = scores.iter().sum();
                (0..c.head_dim).map(|d| seen.iter().zip(&scores).map(|(&s, p)| p / sum * v[s][kv][d]).sum()).collect()
            };
            (0..x.len()).map(|t| (0..c.n_heads).flat_map(|h| attend(t, h)).collect()).collect()
        }

        fn head(&self, h: &[f64]) -> Vector {
            let c = self.0;
            let x = self.norm("output_norm", h, c.norm);
            let mut logits = self.linear(if c.tied_head { "token_embd" } else { "output" }, &x);
            for logit in &mut logits {
                *logit *= f64::from(c.scales.logits);
                if let Some(cap) = c.scales.logits_cap {
                    *logit = f64::from(cap) * (*logit / f64::from(cap)).tanh();
                }
            }
            logits
        }
    }

    fn act(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + u.tanh())
            }
            Activation::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        }
    }

    /// The Maclaurin series; the arguments of these small models are small.
    fn erf(z: f64) -> f64 {
        assert!(z.abs() < 5.0, "{z}");
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    fn turn(rope: &Rope, position: usize, head: &mut [f64]) {
        for i in 0..rope.dims / 2 {
            let long = rope.long.as_ref().filter(|long| long.trained < super::CONTEXT);
            let factors = long.map_or(&rope.freq_factors, |long| &long.freq_factors);
            let factor = factors.get(i).map_or(1.0, |f| f64::from(*f));
            let angle = position as f64 * f64::from(rope.base).powf(-2.0 * i as f64 / rope.dims as f64) / factor;
            let (a, b) = (i, i + rope.dims / 2);
            let (x, y) = (head[a], head[b]);
            head[a] = (x * angle.cos() - y * angle.sin()) * f64::from(rope.attn_scale);
            head[b] = (x * angle.sin() + y * angle.cos()) * f64::from(rope.attn_scale);
        }
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    fn add(a: &mut [f64], b: &[f64]) {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    }
}
