//! Lists of tokens: where their rows are, and which tokens no list may lack.

use spm::synthetic::padded_vocabulary;
use spm::{Shortlist, TokenType, TokenizerKind, needed_tokens};

#[test]
fn rows_and_order_are_each_other_s_inverse() {
    let list = Shortlist::new(vec![1, 2, 5, 9], 11).unwrap();
    let order: Vec<u32> = list.tied_order(11).collect();
    assert_eq!(order, [1, 2, 5, 9, 0, 3, 4, 6, 7, 8, 10]);
    assert!(order.iter().enumerate().all(|(row, &id)| list.tied_row(id) == row));
}

#[test]
fn lists_that_are_none() {
    for (ids, expected) in [(vec![], "no tokens"), (vec![3, 3], "token 3 after 3"), (vec![1, 11], "token 11 of")] {
        let error = Shortlist::new(ids, 11).unwrap_err().to_string();
        assert!(error.contains("`shortlist`") && error.contains(expected), "{error}");
    }
}

#[test]
fn needed_are_bytes_and_what_is_not_text() {
    let mut v = padded_vocabulary(300);
    let control = v.eos.unwrap();
    let expected: Vec<u32> = (0..256).chain([control]).collect();
    assert_eq!(needed_tokens(&v), expected);
    // Without a token for `d`, nothing else writes `de`.
    let (d, de) = (u32::from(b'd'), v.tokens.iter().position(|t| t == "de").unwrap() as u32);
    v.types[d as usize] = TokenType::Unused;
    let needed = needed_tokens(&v);
    assert!(needed.contains(&d) && needed.contains(&de));
    // Characters outside the alphabet are their own text, and nothing spells them.
    v.tokens[299] = "中a".into();
    assert!(needed_tokens(&v).contains(&299));
}

#[test]
fn sentence_piece_needs_no_characters_if_it_has_all_bytes() {
    let mut v = padded_vocabulary(300);
    v.kind = TokenizerKind::SentencePiece;
    for byte in 0..256 {
        v.tokens.push(format!("<0x{byte:02X}>"));
        v.types.push(TokenType::Byte);
    }
    let expected: Vec<u32> = v.eos.into_iter().chain(300..556).collect();
    assert_eq!(needed_tokens(&v), expected);
    v.types[300] = TokenType::Unused;
    assert!(needed_tokens(&v).contains(&97), "one byte less, and `a` is needed");
}
