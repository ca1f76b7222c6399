//! [`Vocabulary`] as bytes.

use crate::config::limits;
use crate::cursor::{Cursor, push_short_text};
use crate::error::Fault;
use crate::infill::Infill;
use crate::tokenizer::{TokenType, TokenizerKind, Vocabulary};

const NONE: u32 = u32::MAX;
const PLACE: &str = "vocabulary";

/// The vocabulary section of a file; empty without a vocabulary.
pub(crate) fn to_bytes(vocabulary: Option<&Vocabulary>) -> Result<Vec<u8>, Fault> {
    let Some(v) = vocabulary else { return Ok(Vec::new()) };
    check(v)?;
    let mut out = vec![kind_number(v.kind), flags(v), 0, 0];
    let mut u32s = |n: u32| out.extend(n.to_le_bytes());
    [v.bos, v.eos, v.unk, v.pad].into_iter().for_each(|id| u32s(id.unwrap_or(NONE)));
    u32s(v.tokens.len() as u32);
    u32s(v.scores.len() as u32);
    u32s(v.merges.len() as u32);
    u32s(v.end_of_generation.len() as u32);
    u32s(v.chat_template.as_ref().map_or(NONE, |t| t.len() as u32));
    push_short_text(&mut out, PLACE, &v.pre)?;
    out.extend(v.types.iter().map(|t| *t as u8));
    v.scores.iter().for_each(|s| out.extend(s.to_le_bytes()));
    v.merges.iter().for_each(|(l, r)| out.extend([l.to_le_bytes(), r.to_le_bytes()].concat()));
    v.end_of_generation.iter().for_each(|id| out.extend(id.to_le_bytes()));
    v.tokens.iter().try_for_each(|t| push_short_text(&mut out, PLACE, t))?;
    out.extend(v.chat_template.as_deref().unwrap_or_default().as_bytes());
    Ok(out)
}

/// Reads and checks the vocabulary section, which does not say what [`Vocabulary::infill`] is.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Vocabulary>, Fault> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut c = Cursor::new(PLACE, bytes);
    let kind = parse_kind(c.u8("kind")?)?;
    let flags = c.u8("flags")?;
    let reserved = c.u16("reserved")?;
    if flags > 15 || reserved != 0 {
        return Err(c.fault(format!("flags {flags} and {reserved}, expected 0 to 15 and 0")));
    }
    let mut id = |what| c.u32(what).map(|id| (id != NONE).then_some(id));
    let (bos, eos, unk, pad) = (id("bos")?, id("eos")?, id("unk")?, id("pad")?);
    let n_tokens = c.count("tokens", 3)?;
    let n_scores = c.count("scores", 4)?;
    let n_merges = c.count("merges", 8)?;
    let n_ends = c.count("ends of generation", 4)?;
    let template_len = c.u32("length of the chat template")?;
    let pre = c.short_text("pre-tokenizer")?.to_owned();
    let types = c.take("token types", n_tokens)?.iter().map(|&t| parse_type(t)).collect::<Result<_, _>>()?;
    let scores = (0..n_scores).map(|_| c.f32("scores")).collect::<Result<_, _>>()?;
    let merges = (0..n_merges).map(|_| Ok((c.u32("merges")?, c.u32("merges")?))).collect::<Result<_, Fault>>()?;
    let end_of_generation = (0..n_ends).map(|_| c.u32("ends of generation")).collect::<Result<_, _>>()?;
    let tokens = (0..n_tokens).map(|_| c.short_text("token").map(str::to_owned)).collect::<Result<_, _>>()?;
    let chat_template = match template_len {
        NONE => None,
        len => Some(c.text("chat template", len as usize)?.to_owned()),
    };
    c.end()?;
    let [add_bos, add_eos, add_space_prefix, ignore_merges] = [1, 2, 4, 8].map(|bit| flags & bit != 0);
    let vocabulary = Vocabulary {
        kind,
        pre,
        tokens,
        types,
        scores,
        merges,
        bos,
        eos,
        unk,
        pad,
        add_bos,
        add_eos,
        add_space_prefix,
        ignore_merges,
        end_of_generation,
        infill: Infill::default(),
        chat_template,
    };
    check(&vocabulary)?;
    Ok(Some(vocabulary))
}

/// What holds for every vocabulary, written or read: ids exist, lists have matching lengths.
fn check(v: &Vocabulary) -> Result<(), Fault> {
    let n = v.tokens.len();
    let fault = |problem: String| Err(Fault::new(PLACE, problem));
    if n == 0 || n > limits::VOCAB {
        return fault(format!("{n} tokens, expected 1 to {}", limits::VOCAB));
    }
    if v.types.len() != n {
        return fault(format!("{} token types for {n} tokens", v.types.len()));
    }
    if !v.scores.is_empty() && v.scores.len() != n {
        return fault(format!("{} scores for {n} tokens, expected as many or none", v.scores.len()));
    }
    if v.kind == TokenizerKind::SentencePiece && v.scores.is_empty() {
        return fault(format!("no scores for {n} SentencePiece tokens"));
    }
    if let Some(i) = v.scores.iter().position(|s| s.is_nan()) {
        return fault(format!("score of token {i} is not a number"));
    }
    let ids = [("bos", v.bos), ("eos", v.eos), ("unk", v.unk), ("pad", v.pad)];
    if let Some((what, id)) = ids.into_iter().find_map(|(what, id)| Some((what, id.filter(|&id| id as usize >= n)?))) {
        return fault(format!("`{what}` is token {id} of {n}"));
    }
    if let Some(id) = v.infill.ids().find(|&id| id as usize >= n) {
        return fault(format!("a token for filling in is token {id} of {n}"));
    }
    if let Some((i, (l, r))) = v.merges.iter().enumerate().find(|(_, (l, r))| *l.max(r) as usize >= n) {
        return fault(format!("merge {i} joins tokens {l} and {r} of {n}"));
    }
    if !v.end_of_generation.is_sorted_by(|a, b| a < b) {
        return fault("ends of generation are not in ascending order".into());
    }
    match v.end_of_generation.last() {
        Some(&id) if id as usize >= n => fault(format!("end of generation is token {id} of {n}")),
        _ => Ok(()),
    }
}

fn flags(v: &Vocabulary) -> u8 {
    let bits = [v.add_bos, v.add_eos, v.add_space_prefix, v.ignore_merges];
    bits.into_iter().enumerate().map(|(i, on)| u8::from(on) << i).sum()
}

fn kind_number(kind: TokenizerKind) -> u8 {
    match kind {
        TokenizerKind::ByteLevelBpe => 1,
        TokenizerKind::SentencePiece => 2,
    }
}

fn parse_kind(n: u8) -> Result<TokenizerKind, Fault> {
    let known = [TokenizerKind::ByteLevelBpe, TokenizerKind::SentencePiece];
    let found = known.into_iter().find(|k| kind_number(*k) == n);
    found.ok_or_else(|| Fault::new(PLACE, format!("kind {n}, expected 1 or 2")))
}

fn parse_type(n: u8) -> Result<TokenType, Fault> {
    TokenType::from_gguf(n.into()).ok_or_else(|| Fault::new(PLACE, format!("token type {n}, expected 1 to 6")))
}
