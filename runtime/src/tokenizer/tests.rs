//! The tokenizer against the `tokenizers` crate's BPE, against merging as it is written in the books, and against
//! vocabularies made to break it.

use proptest::prelude::*;
use spm::{Infill, Shortlist, TokenType, TokenizerKind, Vocabulary, needed_tokens};
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, TokenizerImpl};

use super::byte_level::byte_of;
use super::{LONGEST_TOKEN, SPECIAL_BYTES, Special, Splitter, Tokenizer, cut};

mod infill;

fn vocabulary(kind: TokenizerKind, tokens: Vec<String>) -> Vocabulary {
    Vocabulary {
        kind,
        pre: "gpt-2".into(),
        types: vec![TokenType::Normal; tokens.len()],
        scores: vec![0.0; if kind == TokenizerKind::SentencePiece { tokens.len() } else { 0 }],
        tokens,
        merges: Vec::new(),
        bos: None,
        eos: None,
        unk: None,
        pad: None,
        add_bos: false,
        add_eos: false,
        add_space_prefix: false,
        ignore_merges: false,
        end_of_generation: Vec::new(),
        infill: Infill::default(),
        chat_template: None,
    }
}

/// All bytes in GPT-2's alphabet, and a merge for each of `pairs` that makes something new.
fn byte_level(pairs: &[(usize, usize)]) -> Vocabulary {
    let mut alphabet: Vec<char> = (0u32..=0x143).filter_map(char::from_u32).filter(|c| byte_of(*c).is_some()).collect();
    alphabet.sort_by_key(|c| byte_of(*c));
    let mut v = vocabulary(TokenizerKind::ByteLevelBpe, alphabet.iter().map(char::to_string).collect());
    for (l, r) in pairs {
        // Letters that the texts below are made of come up often, and so do tokens that are merges themselves.
        let pick = |n: &usize| {
            if v.tokens.len() > 256 && n.is_multiple_of(2) { 256 + n % (v.tokens.len() - 256) } else { 97 + n % 4 }
        };
        let (l, r) = (pick(l), pick(r));
        let joined = format!("{}{}", v.tokens[l], v.tokens[r]);
        if !v.tokens.contains(&joined) {
            v.merges.push((l as u32, r as u32));
            v.tokens.push(joined);
            v.types.push(TokenType::Normal);
        }
    }
    v
}

/// `<unk>`, 256 bytes, and the given tokens with their scores.
fn sentence_piece(tokens: &[(String, f32)]) -> Vocabulary {
    let bytes = (0..256).map(|b| format!("<0x{b:02X}>"));
    let mut all: Vec<String> = std::iter::once("<unk>".to_owned()).chain(bytes).collect();
    let mut scores = vec![0.0; all.len()];
    for (token, score) in tokens {
        if !all.contains(token) {
            all.push(token.clone());
            scores.push(*score);
        }
    }
    let mut v = vocabulary(TokenizerKind::SentencePiece, all);
    v.scores = scores;
    v.types[0] = TokenType::Unknown;
    v.types[1..257].fill(TokenType::Byte);
    v.unk = Some(0);
    v
}

fn add(v: &mut Vocabulary, text: &str, kind: TokenType) -> u32 {
    v.tokens.push(text.into());
    v.types.push(kind);
    if v.kind == TokenizerKind::SentencePiece {
        v.scores.push(0.0);
    }
    v.tokens.len() as u32 - 1
}

/// The `tokenizers` crate's GPT-2 tokenizer.
fn reference(v: &Vocabulary, text: &str) -> Vec<u32> {
    let merges = v.merges.iter().map(|&(l, r)| (v.tokens[l as usize].clone(), v.tokens[r as usize].clone())).collect();
    let ids = v.tokens.iter().cloned().zip(0..).collect::<std::collections::HashMap<_, _>>();
    let model = BPE::builder().vocab_and_merges(ids.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges);
    let mut tokenizer = TokenizerImpl::<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, DecoderWrapper>::new(
        model.build().unwrap(),
    );
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, false, true)));
    tokenizer.encode(text, false).unwrap().get_ids().to_vec()
}

/// Joins the pair of the best score, the leftmost of several, until there is none.
fn by_the_book(v: &Vocabulary, text: &str) -> Vec<u32> {
    let id_of = |text: &str| v.tokens[257..].iter().position(|t| t == text).map(|at| at + 257);
    let mut parts: Vec<String> = text.replace(' ', "▁").chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for at in 1..parts.len() {
            if let Some(id) = id_of(&format!("{}{}", parts[at - 1], parts[at]))
                && best.is_none_or(|(score, _)| v.scores[id] > score)
            {
                best = Some((v.scores[id], at));
            }
        }
        let Some((_, at)) = best else { break };
        let right = parts.remove(at);
        parts[at - 1] += &right;
    }
    let ids = parts.iter().flat_map(|p| match id_of(p) {
        Some(id) => vec![id as u32],
        None => p.bytes().map(|b| u32::from(b) + 1).collect(),
    });
    ids.collect()
}

/// The needed tokens, and those that are wanted.
fn shortlist(v: &Vocabulary, is_wanted: impl Fn(u32) -> bool) -> Shortlist {
    let needed = needed_tokens(v);
    let ids = (0..v.tokens.len() as u32).filter(|id| needed.binary_search(id).is_ok() || is_wanted(*id));
    Shortlist::new(ids.collect(), v.tokens.len()).unwrap()
}

/// Undoes the one merge that makes a token, and those of its parts, while they are not listed.
fn undone(v: &Vocabulary, listed: &Shortlist, ids: &[u32]) -> Vec<u32> {
    let mut open: Vec<u32> = ids.iter().rev().copied().collect();
    let mut all = Vec::new();
    while let Some(id) = open.pop() {
        let merge = || {
            v.merges
                .iter()
                .find(|(l, r)| format!("{}{}", v.tokens[*l as usize], v.tokens[*r as usize]) == v.tokens[id as usize])
        };
        match listed.contains(id) {
            true => all.push(id),
            false => open.extend(merge().map(|&(l, r)| [r, l]).unwrap()),
        }
    }
    all
}

proptest! {
    #[test]
    fn bytes_merge_as_in_the_tokenizers_crate(
        pairs: Vec<(usize, usize)>, text in prop_oneof!["[a-e ]{0,60}", any::<String>()],
    ) {
        let v = byte_level(&pairs);
        let tokenizer = Tokenizer::new(&v).unwrap();
        let ids = tokenizer.encode_plain(&text);
        prop_assert_eq!(&ids, &reference(&v, &text));
        prop_assert_eq!(tokenizer.decode(&ids), text);
    }

    #[test]
    fn pieces_merge_by_score(
        tokens in prop::collection::vec(("[abc▁√]{1,4}", -4i8..4), 0..40), text in "[abc √d]{0,40}",
    ) {
        let tokens = tokens.into_iter().map(|(t, s)| (t, f32::from(s)));
        let tokens: Vec<(String, f32)> = [("▁".to_owned(), 0.0)].into_iter().chain(tokens).collect();
        let v = sentence_piece(&tokens);
        let tokenizer = Tokenizer::new(&v).unwrap();
        let ids = tokenizer.encode_plain(&text);
        prop_assert_eq!(&ids, &by_the_book(&v, &text));
        prop_assert_eq!(tokenizer.decode(&ids), text);
    }

    #[test]
    fn split_tokens_have_the_same_bytes(
        pairs: Vec<(usize, usize)>, keep: Vec<bool>, text in prop_oneof!["[a-e ]{0,60}", any::<String>()],
        tokens in prop::collection::vec(("[abc▁√é]{1,5}", -4i8..4), 0..40), sentence: bool,
    ) {
        let tokens: Vec<_> = tokens.into_iter().map(|(t, s)| (t, f32::from(s))).collect();
        let mut v = if sentence { sentence_piece(&tokens) } else { byte_level(&pairs) };
        add(&mut v, "<|end|>", TokenType::Control);
        let listed = shortlist(&v, |id| keep.get(id as usize % keep.len().max(1)).copied().unwrap_or(false));
        let tokenizer = Tokenizer::new(&v).unwrap();
        let splitter = Splitter::new(&tokenizer, &listed).unwrap();
        let bytes = |ids: &[u32]| ids.iter().flat_map(|&id| tokenizer.token_bytes(id)).copied().collect::<Vec<u8>>();
        for id in 0..v.tokens.len() as u32 {
            let parts = splitter.split(&[id]);
            prop_assert!(parts.iter().all(|&part| listed.contains(part)), "token {}: {:?}", id, parts);
            prop_assert_eq!(bytes(&parts), bytes(&[id]));
            prop_assert!(!listed.contains(id) || parts == [id]);
        }
        let ids = tokenizer.encode_plain(&text);
        prop_assert_eq!(bytes(&splitter.split(&ids)), bytes(&ids));
        if !sentence {
            prop_assert_eq!(splitter.split(&ids), undone(&v, &listed, &ids));
        }
    }

    #[test]
    fn no_vocabulary_makes_it_panic(
        sentence in any::<bool>(), tokens in prop::collection::vec("(<0x[0-9A-Fg]{2}>|[ab Ġ▁é]{0,3})", 0..20),
        types in prop::collection::vec(1i64..7, 0..20), scores: Vec<f32>, merges: Vec<(u32, u32)>,
        small_merges in prop::collection::vec((0u32..300, 0u32..300), 0..10), ids: [Option<u8>; 3], text: String,
    ) {
        let mut v = if sentence { sentence_piece(&[]) } else { byte_level(&[]) };
        v.types.extend(types.iter().filter_map(|t| TokenType::from_gguf(*t)));
        v.tokens.extend(tokens);
        v.scores.extend(scores);
        v.merges.extend(merges.into_iter().filter(|_| ids[0].is_none()));
        v.merges.extend(small_merges);
        [v.bos, v.eos, v.unk] = ids.map(|id| id.map(|id| u32::from(id) * 2));
        v.types.resize(v.tokens.len(), TokenType::Normal);
        if let Ok(tokenizer) = Tokenizer::new(&v) {
            let some = Shortlist::new((0..v.tokens.len() as u32).step_by(2).collect(), v.tokens.len()).unwrap();
            let _ = Splitter::new(&tokenizer, &some);
            let needed = shortlist(&v, |_| false);
            prop_assert!(Splitter::new(&tokenizer, &needed).is_ok(), "needed tokens do not write all");
            for special in [Special::AsText, Special::Parse] {
                let ids = tokenizer.encode(&text, special);
                prop_assert!(ids.iter().all(|id| (*id as usize) < v.tokens.len()));
                tokenizer.decode(&ids);
            }
        }
    }
}

#[test]
fn special_tokens_are_text_unless_asked_for() {
    let mut v = byte_level(&[]);
    let end = add(&mut v, "<|end|>", TokenType::Control);
    let ending = add(&mut v, "<|end|>ing", TokenType::Control);
    let mine = add(&mut v, "<mine>", TokenType::UserDefined);
    v.end_of_generation = vec![ending, end];
    let tokenizer = Tokenizer::new(&v).unwrap();
    let plain = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
    assert_eq!(tokenizer.encode("a<|end|>", Special::AsText), plain("a<|end|>"));
    assert_eq!(tokenizer.encode("a<|end|>b", Special::Parse), [97, end, 98]);
    assert_eq!(tokenizer.encode("<|end|>ing", Special::Parse), [ending], "the longest counts");
    assert_eq!(tokenizer.encode("a<mine>", Special::AsText), [97, mine], "a user's own token always counts");
    assert_eq!((tokenizer.token_bytes(end), tokenizer.token_text(end).as_str()), (&b""[..], "<|end|>"));
    assert_eq!(tokenizer.token_bytes(mine), b"<mine>");
    assert_eq!(tokenizer.token_bytes(u32::MAX), b"");
    assert!(tokenizer.is_end(end) && tokenizer.is_end(ending) && !tokenizer.is_end(mine));
    assert_eq!((tokenizer.token_id("<|end|>"), tokenizer.token_id("<|e|>")), (Some(end), None));
}

#[test]
fn no_text_spells_a_control_token() {
    let mut v = byte_level(&[]);
    let control = add(&mut v, "ab", TokenType::Control);
    v.ignore_merges = true;
    let tokenizer = Tokenizer::new(&v).unwrap();
    assert_eq!(tokenizer.encode_plain("ab"), [97, 98]);
    assert_eq!(tokenizer.encode("ab", Special::Parse), [control]);
    v.merges.push((97, 98));
    assert!(Tokenizer::new(&v).is_err(), "a merge must make an ordinary token");
}

#[test]
fn a_word_that_is_a_token_need_not_be_merged() {
    let mut v = byte_level(&[]);
    let abc = add(&mut v, "abc", TokenType::Normal);
    assert_eq!(Tokenizer::new(&v).unwrap().encode_plain("abc"), [97, 98, 99]);
    v.ignore_merges = true;
    assert_eq!(Tokenizer::new(&v).unwrap().encode_plain("abc abc"), [abc, 32, 97, 98, 99]);
}

#[test]
fn prompts_begin_as_the_model_wants() {
    let mut v = sentence_piece(&[("▁".into(), 0.0), ("a".into(), 0.0)]);
    (v.bos, v.add_bos, v.add_space_prefix) = (Some(0), true, true);
    let control = add(&mut v, "<s>", TokenType::Control);
    let tokenizer = Tokenizer::new(&v).unwrap();
    assert_eq!(tokenizer.encode("a", Special::AsText), [0, 257, 258]);
    assert_eq!(tokenizer.encode("a<s>a", Special::Parse), [0, 257, 258, control, 257, 258]);
    assert_eq!(tokenizer.encode("", Special::AsText), [0]);
    assert_eq!(tokenizer.encode_plain("a"), [257, 258]);
}

#[test]
fn a_byte_without_a_token_is_left_out_or_unknown() {
    let mut v = byte_level(&[]);
    v.tokens[4] = "four".into();
    assert_eq!(Tokenizer::new(&v).unwrap().encode_plain("a\u{4}b"), [97, 98]);
    let mut v = sentence_piece(&[("a".into(), 0.0)]);
    v.types[5] = TokenType::Unused;
    assert_eq!(Tokenizer::new(&v).unwrap().encode_plain("a\u{4}a\u{5}"), [257, 0, 257, 6]);
    assert_eq!(Tokenizer::new(&v).unwrap().encode_plain(" "), [0xE3, 0x97, 0x82], "the bytes of ▁");
}

/// Changes that make a good vocabulary bad, and what the refusal must mention.
type Bad = (&'static str, fn(&mut Vocabulary), &'static str);

const BAD_BYTE_LEVEL: &[Bad] = &[
    ("no tokens", |v| (v.tokens, v.types) = (vec![], vec![]), "0 tokens"),
    ("fewer types than tokens", |v| v.types.truncate(9), "9 token types"),
    ("the same token twice", |v| v.tokens[200] = "a".into(), "tokens 97 and 200 are both \"a\""),
    ("a letter missing", |v| v.tokens[98] = "bb".into(), "byte 0x62"),
    ("a merge of a token that is none", |v| v.merges.push((97, 256)), "merge 0 joins tokens 97 and 256"),
    ("a merge into no token", |v| v.merges.push((97, 98)), "merge 0 makes \"ab\""),
    ("bos out of range", |v| v.bos = Some(256), "special token 256"),
    ("an end out of range", |v| v.end_of_generation.push(u32::MAX), "special token 4294967295"),
    ("a token without end", |v| v.tokens[200] = "b".repeat(LONGEST_TOKEN + 1), "token 200 has 65537 bytes"),
    ("an unknown pre-tokenizer", |v| v.pre = "new".into(), "`new` is unknown; known are default, gpt-2"),
    (
        "too many special tokens",
        |v| (0..5).for_each(|i| _ = add(v, &format!("{i}{}", "c".repeat(SPECIAL_BYTES / 5)), TokenType::Control)),
        "special tokens take",
    ),
];

const BAD_SENTENCE_PIECE: &[Bad] = &[
    ("fewer scores than tokens", |v| v.scores.truncate(9), "9 scores"),
    ("a score that is no number", |v| v.scores[3] = f32::NAN, "score of token 3"),
    ("a byte missing and no unknown token", |v| (v.types[5], v.unk) = (TokenType::Unused, None), "byte 0x04"),
    ("a byte below zero", |v| v.tokens[5] = "<0x-4>".into(), "byte token 5"),
    ("a byte with a sign", |v| v.tokens[5] = "<0x+4>".into(), "byte token 5"),
];

#[test]
fn bad_vocabularies_are_refused_by_what_is_wrong() {
    let cases = BAD_BYTE_LEVEL.iter().map(|bad| (bad, byte_level(&[])));
    for ((name, spoil, expected), mut v) in cases.chain(BAD_SENTENCE_PIECE.iter().map(|bad| (bad, sentence_piece(&[]))))
    {
        assert!(Tokenizer::new(&v).is_ok());
        spoil(&mut v);
        let refused = Tokenizer::new(&v).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(refused.contains(expected), "{name}: {refused:?}");
    }
}

#[test]
fn long_runs_need_no_stack() {
    let run = || {
        let pairs: Vec<(usize, usize)> = (0..40).map(|i| (i * i, i * 7)).collect();
        let pieces = ["a", "aa", "▁", "▁▁"].map(|t| (t.to_owned(), t.len() as f32));
        for v in [byte_level(&pairs), sentence_piece(&pieces)] {
            let tokenizer = Tokenizer::new(&v).unwrap();
            for unit in ["a", " ", "\n", "中", "e\u{301}", "'", "1"] {
                let text = unit.repeat(50_000) + "x";
                assert_eq!(tokenizer.decode(&tokenizer.encode_plain(&text)), text);
            }
        }
    };
    std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap().join().unwrap();
}

#[test]
fn texts_are_cut_between_characters() {
    assert_eq!([0, 1, 2, 3, 4, 9].map(|at| cut("a√b", at)), [0, 1, 1, 1, 4, 5]);
}
