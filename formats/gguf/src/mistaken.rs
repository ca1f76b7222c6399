//! Files that people give in place of a GGUF model, recognised so that the error can say so.

use std::path::Path;

use crate::error::Error;

/// The error for a file that does not begin with GGUF's magic.
pub(crate) fn describe(path: &Path, bytes: &[u8]) -> Error {
    let (what, next) = recognise(bytes);
    Error::NotGguf { path: path.to_owned(), what, next }
}

fn recognise(bytes: &[u8]) -> (String, &'static str) {
    let head = &bytes[..bytes.len().min(256)];
    let (what, next) = match head {
        [] => ("an empty file", "the download did not start: fetch it again"),
        [0x93, b'S', b'P', b'M', ..] => {
            ("a sparse model (.spm)", "give it to a command that reads .spm, or name the GGUF file it was made from")
        }
        [b'F', b'U', b'G', b'G', ..] => {
            ("a big-endian GGUF file", "convert the model again on a little-endian machine")
        }
        [b'P', b'K', 3, 4, ..] => ("a zip or PyTorch archive", "convert it with llama.cpp's convert_hf_to_gguf.py"),
        [0x80, 2..=5, ..] => ("a Python pickle", "convert it with llama.cpp's convert_hf_to_gguf.py"),
        [b'l' | b'f', b'm', b'g', b'g', ..] | [b't', b'j', b'g', b'g', ..] | [b'a', b'l', b'g', b'g', ..] => {
            ("a GGML file from before GGUF", "convert the model again with a current llama.cpp")
        }
        _ if head.starts_with(b"version https://git-lfs") => {
            ("a git-lfs pointer", "run `git lfs pull` to fetch the model itself")
        }
        _ if is_old_imatrix(head) => (
            "an importance matrix in llama.cpp's old binary format",
            "convert it with `llama-imatrix --in-file OLD -o NEW.gguf`, or make it again",
        ),
        _ if is_html(head) => ("a web page", "the download address is wrong: fetch the raw file"),
        _ if is_safetensors(head) => {
            ("a safetensors file", "give the folder that holds it, or convert it with convert_hf_to_gguf.py")
        }
        _ => return unknown(head),
    };
    (what.to_owned(), next)
}

fn unknown(head: &[u8]) -> (String, &'static str) {
    let start: Vec<String> = head.iter().take(4).map(|b| format!("{b:02x}")).collect();
    (format!("a file that begins with {} where GGUF has 47 47 55 46", start.join(" ")), "name a .gguf file")
}

fn is_html(head: &[u8]) -> bool {
    let text = head.trim_ascii_start().to_ascii_lowercase();
    [&b"<!doctype"[..], b"<html", b"<head", b"<?xml"].iter().any(|tag| text.starts_with(tag))
}

/// Eight bytes of length, then a JSON object.
fn is_safetensors(head: &[u8]) -> bool {
    head.split_first_chunk::<8>()
        .is_some_and(|(len, rest)| u64::from_le_bytes(*len) < 1 << 32 && rest.starts_with(b"{\""))
}

/// A number of entries, the length of the first one's name, and a tensor's name.
fn is_old_imatrix(head: &[u8]) -> bool {
    head.split_first_chunk::<8>().is_some_and(|(numbers, rest)| {
        let len = u32::from_le_bytes([numbers[4], numbers[5], numbers[6], numbers[7]]) as usize;
        (1..=128).contains(&len) && rest.get(..len).is_some_and(|name| name.ends_with(b".weight"))
    })
}
