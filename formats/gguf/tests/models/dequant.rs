//! Every type expands bit for bit as gguf-py does: `make_dequant_cases.py` made the cases.

use gguf::{GgmlType, expand};

const CASES: &str = include_str!("dequant_cases.txt");

#[test]
fn every_type_equals_the_reference() {
    let mut seen = Vec::new();
    for line in CASES.lines() {
        let [name, blocks, values] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("three fields: {line}") };
        let kind = GgmlType::ALL.into_iter().find(|k| k.name() == name).unwrap();
        let (blocks, values) = (bytes(blocks), bytes(values));
        assert_eq!(kind.row_bytes(values.len() / 4), Some(blocks.len()), "{name}");
        let mut out = vec![f32::NAN; values.len() / 4];
        expand(kind, &blocks, &mut out);
        let expected: Vec<u32> = values.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
        let found: Vec<u32> = out.iter().map(|v| v.to_bits()).collect();
        assert_eq!(found, expected, "{name}");
        seen.push(kind);
    }
    assert_eq!(seen.len(), GgmlType::ALL.len());
    assert!(GgmlType::ALL.iter().all(|k| seen.contains(k)));
}

#[test]
fn missing_bytes_or_room_are_left_alone() {
    for kind in GgmlType::ALL {
        let mut out = vec![7.0; kind.block_len() * 2 + 1];
        expand(kind, &vec![0; kind.block_bytes() * 2 - 1], &mut out);
        assert!(out[kind.block_len()..].iter().all(|v| *v == 7.0), "{}", kind.name());
        expand(kind, &[], &mut out);
        expand(kind, &vec![0; kind.block_bytes() * 9], &mut out[..0]);
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}
