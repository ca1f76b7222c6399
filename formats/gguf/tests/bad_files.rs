//! Hand-made bad files: each is refused with the error that names its fault, without panic and in little memory.
//!
//! The table is the specification. A file is made from a good one by one change; the good one opens, so the
//! change is what the error is about.

use std::path::Path;

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const MOST_MEMORY: usize = 16 << 20;

/// The one test of this program: another one at the same time would be counted too.
#[test]
fn every_bad_file_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.gguf");
    let write = |bytes: &[u8]| std::fs::write(&path, bytes).unwrap();
    write(&Raw::good().bytes());
    gguf::open(&path).expect("the good file opens");
    let mut wrong = Vec::new();
    let cases = whole_files().into_iter().chain(changed_files());
    let mut n = 0;
    for (name, bytes, expected) in cases {
        write(&bytes);
        n += 1;
        wrong.extend(check(&path, name, expected));
    }
    assert!(n >= 85, "{n} files");
    wrong.extend(check(folder.path(), "a folder", "not a regular file"));
    wrong.extend(check(&folder.path().join("none.gguf"), "no file", "cannot open"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn check(path: &Path, name: &str, expected: &str) -> Option<String> {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let message = match gguf::open(path) {
        Ok(_) => return Some(format!("{name}: opened")),
        Err(e) => e.to_string(),
    };
    let peak = MEMORY.peak_usage() - before;
    if peak > MOST_MEMORY {
        return Some(format!("{name}: {peak} bytes of memory"));
    }
    let named = message.contains(&path.display().to_string());
    (!message.contains(expected) || !named).then(|| format!("{name}: expected `{expected}`, got `{message}`"))
}

type Case = (&'static str, Vec<u8>, &'static str);

fn whole_files() -> Vec<Case> {
    let good = Raw::good().bytes();
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let start = |bytes: &[u8]| [bytes, &[0; 100]].concat();
    vec![
        ("empty", vec![], "an empty file"),
        ("nothing known", start(b"What is this"), "begins with 57 68 61 74"),
        ("one byte", vec![b'G'], "begins with 47 where"),
        ("web page", start(b"\n <!DOCTYPE html><html>"), "a web page"),
        ("upper-case page", start(b"<HTML><HEAD>"), "a web page"),
        ("lfs pointer", start(b"version https://git-lfs.github.com/spec/v1\noid"), "git lfs pull"),
        ("safetensors", [&200u64.to_le_bytes()[..], b"{\"__metadata__\":{}"].concat(), "a safetensors file"),
        ("sparse model", start(b"\x93SPM\r\n\x1a\n"), "a sparse model (.spm)"),
        ("zip", start(b"PK\x03\x04"), "a zip or PyTorch archive"),
        ("pickle", start(b"\x80\x02}q"), "a Python pickle"),
        ("ggml", start(b"lmgg"), "before GGUF"),
        ("ggjt", start(b"tjgg"), "before GGUF"),
        ("swapped magic", with(0, b"FUGG"), "a big-endian GGUF file"),
        ("magic only", b"GGUF".to_vec(), "the version at byte 4 needs 4 bytes and the file has 0 left"),
        ("no counts", good[..8].to_vec(), "the number of tensors at byte 8 needs 8"),
        ("no key count", good[..20].to_vec(), "the number of tensors is 11, expected at most 0"),
        ("cut in the keys", good[..60].to_vec(), "the number of tensors is 11, expected at most 1"),
        ("cut in the data", good[..good.len() - 200].to_vec(), "the file is cut short"),
        ("version 0", with(4, &0u32.to_le_bytes()), "GGUF version 0 is not supported"),
        ("version 1", with(4, &1u32.to_le_bytes()), "GGUF version 1 is not supported"),
        ("version 4", with(4, &4u32.to_le_bytes()), "GGUF version 4 is not supported"),
        ("big-endian", with(4, &3u32.to_be_bytes()), "big-endian GGUF version 3"),
        ("most tensors", with(8, &u64::MAX.to_le_bytes()), "the number of tensors is 18446744073709551615"),
        ("wrapping tensors", with(8, &(1u64 << 59).to_le_bytes()), "the number of tensors is 576460752303423488"),
        ("one more tensor", with(8, &12u64.to_le_bytes()), "tensor ``: has no name"),
        ("most keys", with(16, &u64::MAX.to_le_bytes()), "the number of metadata keys is 18446744073709551615"),
        ("wrapping keys", with(16, &(1u64 << 60).to_le_bytes()), "the number of metadata keys is 1152921504606846976"),
    ]
}

fn changed_files() -> Vec<Case> {
    let all = [container_faults(), tensor_faults(), model_faults(), tokenizer_faults()];
    all.into_iter().flatten().map(|(name, change, expected)| (name, changed(change), expected)).collect()
}

fn changed(change: fn(&mut Raw)) -> Vec<u8> {
    let mut raw = Raw::good();
    change(&mut raw);
    raw.bytes()
}

type Change = (&'static str, fn(&mut Raw), &'static str);

fn container_faults() -> Vec<Change> {
    vec![
        ("long key", |r| r.raw_key(&u64::MAX.to_le_bytes()), "a metadata key at byte"),
        ("key past the end", |r| r.raw_key(&(1u64 << 20).to_le_bytes()), "needs 1048576 bytes"),
        ("empty key", |r| r.key("", U32, &[0; 4]), "key ``: is empty"),
        ("key not UTF-8", |r| r.raw_key(&[1, 0, 0, 0, 0, 0, 0, 0, 0xFF]), "is not UTF-8"),
        ("key twice", |r| r.key("llama.block_count", U32, &[1, 0, 0, 0]), "`llama.block_count`: occurs twice"),
        ("value type 13", |r| r.key("x", 13, &[0; 8]), "`x`: has value type 13"),
        ("most value type", |r| r.key("x", u32::MAX, &[0; 8]), "value type 4294967295"),
        ("truth of 2", |r| r.key("x", BOOL, &[2]), "`x`: is a truth value of 2"),
        ("long text", |r| r.key("x", STRING, &u64::MAX.to_le_bytes()), "the value of `x` at byte"),
        (
            "text of 5 MB",
            |r| r.key("x", STRING, &text(&"y".repeat(5 << 20))),
            "has 5242880 bytes, expected at most 4194304",
        ),
        ("text not UTF-8", |r| r.key("x", STRING, &[1, 0, 0, 0, 0, 0, 0, 0, 0xC0]), "is not UTF-8"),
        ("array of arrays", |r| r.array("x", ARRAY, 1, &[0; 12]), "`x`: is an array of arrays"),
        ("array of type 99", |r| r.array("x", 99, 1, &[0; 12]), "`x`: has value type 99"),
        ("wrapping array", |r| r.array("x", U64, 1 << 61, &[0; 64]), "the value of `x` at byte"),
        ("most array", |r| r.array("x", BOOL, u64::MAX, &[0; 64]), "needs 18446744073709551615 bytes"),
        ("array of 2^40 texts", |r| r.array("x", STRING, 1 << 40, &[0; 64]), "needs 8796093022208 bytes"),
        ("long text in array", |r| r.array("x", STRING, 1, &u64::MAX.to_le_bytes()), "the value of `x`"),
        ("alignment 0", |r| r.key("general.alignment", U32, &[0; 4]), "`general.alignment`: is 0"),
        ("alignment 24", |r| r.key("general.alignment", U32, &[24, 0, 0, 0]), "is 24, expected a power of two"),
        ("alignment 2^31", |r| r.key("general.alignment", U32, &[0, 0, 0, 0x80]), "is 2147483648"),
        ("alignment in words", |r| r.key("general.alignment", STRING, &text("32")), "is the text `32`"),
        ("alignment an array", |r| r.array("general.alignment", U32, 1, &[32, 0, 0, 0]), "is an array of 1 u32"),
        (
            "alignment of the table alone",
            |r| r.key("general.alignment", U32, &[0, 1, 0, 0]),
            "not a multiple of the alignment 256",
        ),
        ("terminal codes in a key", |r| r.key("\x1b[2J", 99, &[]), "`\\u{1b}[2J`"),
    ]
}

fn tensor_faults() -> Vec<Change> {
    vec![
        ("long name", |r| r.tensors[0].name = "n".repeat(65), "has 65 bytes, expected at most 64"),
        ("no name", |r| r.tensors[0].name.clear(), "has no name"),
        ("tensor twice", |r| r.tensors[1].name = r.tensors[0].name.clone(), "`token_embd.weight`: occurs twice"),
        ("no dimensions", |r| r.tensors[1].dims.clear(), "has 0 dimensions"),
        ("five dimensions", |r| r.tensors[1].dims = vec![1; 5], "has 5 dimensions"),
        ("a dimension of 0", |r| r.tensors[0].dims[1] = 0, "0 is not from 1 to"),
        ("a dimension of 2^63", |r| r.tensors[0].dims[0] = 1 << 63, "9223372036854775808 is not from 1 to"),
        ("wrapping dimensions", |r| r.tensors[0].dims = vec![1 << 31, 1 << 31, 4], "whose size does not fit"),
        ("wrapping bytes", |r| r.tensors[0].dims = vec![1 << 31, 1 << 31], "whose size does not fit"),
        ("2^62 bytes", |r| r.tensors[0].dims = vec![1 << 30, 1 << 30], "needs 4611686018427387904 bytes"),
        ("type 99", |r| r.tensors[0].kind = 99, "has ggml type 99, which is not known"),
        ("most type", |r| r.tensors[0].kind = u32::MAX, "has ggml type 4294967295"),
        ("IQ2_XXS", |r| r.tensors[0].kind = 16, "is stored as IQ2_XXS"),
        ("NVFP4", |r| r.tensors[0].kind = 40, "is stored as NVFP4"),
        ("Q4_2", |r| r.tensors[0].kind = 4, "is stored as Q4_2"),
        ("I32", |r| r.tensors[0].kind = 26, "is stored as I32"),
        (
            "ragged Q8_0",
            |r| (r.tensors[0].kind, r.tensors[0].dims[0]) = (8, 33),
            "rows of 33 values, which are not whole blocks of 32 as Q8_0 needs",
        ),
        ("ragged Q4_K", |r| r.tensors[0].kind = 12, "rows of 32 values, which are not whole blocks of 256"),
        ("offset of 4", |r| r.tensors[1].offset = 4, "starts at offset 4, not a multiple of the alignment 32"),
        ("offset past the end", |r| r.tensors[1].offset = 1 << 40, "at offset 1099511627776 of the data"),
        ("wrapping offset", |r| r.tensors[1].offset = u64::MAX - 31, "at offset 18446744073709551584"),
        ("same place", |r| r.tensors[1].offset = r.tensors[0].offset, "inside tensor `token_embd.weight`"),
        ("overlap", |r| r.tensors[1].offset = r.tensors[0].offset + 32, "which ends at"),
        ("no data", |r| r.data = 0, "the file is cut short"),
    ]
}

fn model_faults() -> Vec<Change> {
    vec![
        ("no architecture", |r| r.drop("general.architecture"), "`general.architecture`: is missing"),
        (
            "other architecture",
            |r| r.set("general.architecture", STRING, &text("mamba")),
            "this program runs: llama, qwen2",
        ),
        ("architecture a number", |r| r.set("general.architecture", U32, &[1, 0, 0, 0]), "is 1, expected text"),
        ("no block count", |r| r.drop("llama.block_count"), "`llama.block_count`: is missing"),
        ("2^32 - 1 blocks", |r| r.set("llama.block_count", U32, &[255; 4]), "`n_layers` is 4294967295"),
        ("no blocks", |r| r.set("llama.block_count", U32, &[0; 4]), "`n_layers` is 0"),
        ("1000 blocks", |r| r.set("llama.block_count", U32, &[232, 3, 0, 0]), "`blk.1.attn_norm.weight`: is missing"),
        ("blocks in words", |r| r.set("llama.block_count", STRING, &text("1")), "is the text `1`, expected a number"),
        ("-1 blocks", |r| r.set("llama.block_count", I32, &[255; 4]), "is -1, expected a number from 0 up"),
        ("no heads", |r| r.set("llama.attention.head_count", U32, &[0; 4]), "`n_heads` is 0"),
        ("3 kv heads", |r| r.set("llama.attention.head_count_kv", U32, &[3, 0, 0, 0]), "`n_kv_heads` is 3"),
        (
            "heads by layer",
            |r| r.set_array("llama.attention.head_count", U32, 2, &[2, 0, 0, 0, 1, 0, 0, 0]),
            "differs between layers",
        ),
        ("heads of nothing", |r| r.set_array("llama.attention.head_count", U32, 0, &[]), "differs between layers"),
        ("width 2^40", |r| r.set("llama.embedding_length", U64, &(1u64 << 40).to_le_bytes()), "`dim` is 1099511627776"),
        ("no epsilon", |r| r.drop("llama.attention.layer_norm_rms_epsilon"), "layer_norm_rms_epsilon`: is missing"),
        (
            "epsilon NaN",
            |r| r.set("llama.attention.layer_norm_rms_epsilon", F32, &f32::NAN.to_le_bytes()),
            "`norm_eps` is NaN",
        ),
        ("odd rope", |r| r.key("llama.rope.dimension_count", U32, &[7, 0, 0, 0]), "`rope.dims` is 7"),
        ("wide rope", |r| r.key("llama.rope.dimension_count", U32, &[255; 4]), "`rope.dims` is 4294967295"),
        ("rope base 0", |r| r.key("llama.rope.freq_base", F32, &[0; 4]), "`rope.base` is 0"),
        ("longrope", |r| r.key("llama.rope.scaling.type", STRING, &text("longrope")), "is `longrope`; known are"),
        (
            "llama3 without factors",
            |r| r.key("llama.rope.scaling.type", STRING, &text("llama3")),
            "`rope_freqs.weight` is missing",
        ),
        (
            "stretched by -1",
            |r| r.key("llama.rope.scaling.factor", F32, &(-1f32).to_le_bytes()),
            "`rope.freq_factors` is a factor that is not",
        ),
        ("factors of zero", |r| r.add("rope_freqs.weight", &[8]), "`rope.freq_factors` is a factor that is not"),
        ("5 factors", |r| r.add("rope_freqs.weight", &[5]), "`rope.freq_factors` is 5 entries"),
        ("experts", |r| r.key("llama.expert_count", U32, &[8, 0, 0, 0]), "`llama.expert_count`: is 8"),
        ("softcap", |r| r.key("llama.final_logit_softcapping", F32, &30f32.to_le_bytes()), "softcapping`: is 30"),
        (
            "unequal heads",
            |r| r.key("llama.attention.value_length", U32, &[8, 0, 0, 0]),
            "is 8 where attention.key_length is 16",
        ),
        (
            "tensor missing",
            |r| r.tensors[3].name = "blk.7.attn_q.weight".into(),
            "`blk.0.attn_q.weight`: is missing, expected 32x32",
        ),
        ("tensor turned", |r| r.tensors[4].dims.reverse(), "`blk.0.attn_k.weight`: is 32x16, expected 16x32"),
        ("no embedding", |r| r.tensors[0].name = "embedding".into(), "`token_embd.weight`: is missing"),
        ("bias of a projection", |r| r.add("blk.0.ffn_up.bias", &[32]), "`blk.0.ffn_up.bias`: has no place"),
        ("one of three biases", |r| r.add("blk.0.attn_q.bias", &[32]), "`blk.0.attn_k.bias`: is missing"),
        ("split, odd name", |r| r.key("split.count", U16, &[3, 0]), "NAME-00001-of-00003.gguf"),
        ("split in 65535", |r| r.key("split.count", U16, &[255; 2]), "is 65535, expected at most 4096"),
    ]
}

fn tokenizer_faults() -> Vec<Change> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    vec![
        ("other tokenizer", |r| r.set("tokenizer.ggml.model", STRING, &text("bert")), "is `bert`; known are"),
        ("no tokens", |r| r.drop(TOKENS), "`tokenizer.ggml.tokens`: is missing"),
        ("tokens of numbers", |r| r.set_array(TOKENS, U32, 8, &[0; 32]), "entries of type u32, expected strings"),
        ("empty tokens", |r| r.set_array(TOKENS, STRING, 0, &[]), "has 0 entries"),
        (
            "seven tokens",
            |r| r.set_array(TOKENS, STRING, 7, &texts(&TINY[..7])),
            "has 8 rows for a vocabulary of 7 tokens",
        ),
        ("token twice", |r| r.tokens(6, b"a"), "entries 5 and 6 are both `a`"),
        ("token not UTF-8", |r| r.tokens(6, b"\xFF\xFE"), "entry 6 is not UTF-8"),
        ("token of 70 kB", |r| r.tokens(6, &[b'x'; 70_000]), "entry 6 has 70000 bytes, expected at most 65536"),
        ("byte -1", |r| r.tokens(3, b"<0x-1>"), "entry 3, `<0x-1>`, is typed a byte"),
        ("few types", |r| r.set_array("tokenizer.ggml.token_type", I32, 2, &[1; 8]), "has 2 numbers for 8 tokens"),
        (
            "type 9",
            |r| r.set_array("tokenizer.ggml.token_type", I32, 8, &[9; 32]),
            "entry 0 is 151587081, expected 1 to 6",
        ),
        ("no scores", |r| r.drop("tokenizer.ggml.scores"), "`tokenizer.ggml.scores`: is missing"),
        ("score NaN", |r| r.set_array("tokenizer.ggml.scores", F32, 8, &[255; 32]), "entry 0 is not a number"),
        ("no merges", |r| r.set("tokenizer.ggml.model", STRING, &text("gpt2")), "`tokenizer.ggml.merges`: is missing"),
        ("merge of one", |r| r.merges(&["ab"]), "entry 0, `ab`, is not two tokens"),
        ("merge of strangers", |r| r.merges(&["a b", "a zz"]), "entry 1, `a zz`, is not two tokens"),
        ("end in words", |r| r.key("tokenizer.ggml.add_bos_token", U32, &[1, 0, 0, 0]), "is 1, expected a truth value"),
    ]
}

const U16: u32 = 2;
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;

const TINY: [&str; 8] = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "ab"];

/// The parts of a GGUF file, each free to be wrong.
struct Raw {
    keys: Vec<Vec<u8>>,
    tensors: Vec<RawTensor>,
    data: usize,
}

struct RawTensor {
    name: String,
    dims: Vec<u64>,
    kind: u32,
    offset: u64,
}

impl Raw {
    /// A Llama of one layer, 32 wide, with 2 heads and 8 tokens.
    fn good() -> Self {
        let mut raw = Raw { keys: vec![], tensors: vec![], data: 0 };
        raw.key("general.architecture", STRING, &text("llama"));
        raw.key("llama.block_count", U32, &1u32.to_le_bytes());
        raw.key("llama.context_length", U32, &64u32.to_le_bytes());
        raw.key("llama.embedding_length", U32, &32u32.to_le_bytes());
        raw.key("llama.feed_forward_length", U32, &64u32.to_le_bytes());
        raw.key("llama.attention.head_count", U32, &2u32.to_le_bytes());
        raw.key("llama.attention.head_count_kv", U32, &1u32.to_le_bytes());
        raw.key("llama.attention.layer_norm_rms_epsilon", F32, &1e-5f32.to_le_bytes());
        raw.key("tokenizer.ggml.model", STRING, &text("llama"));
        raw.array("tokenizer.ggml.tokens", STRING, 8, &texts(&TINY));
        raw.array("tokenizer.ggml.scores", F32, 8, &[0; 32]);
        let types: Vec<u8> = [2i32, 3, 3, 6, 1, 1, 1, 1].iter().flat_map(|t| t.to_le_bytes()).collect();
        raw.array("tokenizer.ggml.token_type", I32, 8, &types);
        raw.add("token_embd.weight", &[32, 8]);
        raw.add("output_norm.weight", &[32]);
        raw.add("blk.0.attn_norm.weight", &[32]);
        raw.add("blk.0.attn_q.weight", &[32, 32]);
        raw.add("blk.0.attn_k.weight", &[32, 16]);
        raw.add("blk.0.attn_v.weight", &[32, 16]);
        raw.add("blk.0.attn_output.weight", &[32, 32]);
        raw.add("blk.0.ffn_norm.weight", &[32]);
        raw.add("blk.0.ffn_gate.weight", &[32, 64]);
        raw.add("blk.0.ffn_up.weight", &[32, 64]);
        raw.add("blk.0.ffn_down.weight", &[64, 32]);
        raw
    }

    fn raw_key(&mut self, bytes: &[u8]) {
        self.keys.push(bytes.to_vec());
    }

    fn key(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.raw_key(&[&text(key), &kind.to_le_bytes()[..], value].concat());
    }

    fn array(&mut self, key: &str, kind: u32, len: u64, elements: &[u8]) {
        self.key(key, ARRAY, &[&kind.to_le_bytes()[..], &len.to_le_bytes(), elements].concat());
    }

    fn drop(&mut self, key: &str) {
        let before = self.keys.len();
        self.keys.retain(|k| !k.starts_with(&text(key)));
        assert_eq!(self.keys.len() + 1, before, "{key}");
    }

    fn set(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.drop(key);
        self.key(key, kind, value);
    }

    fn set_array(&mut self, key: &str, kind: u32, len: u64, elements: &[u8]) {
        self.drop(key);
        self.array(key, kind, len, elements);
    }

    /// Changes the text of one token.
    fn tokens(&mut self, id: usize, bytes: &[u8]) {
        let mut tokens = TINY.map(|t| t.as_bytes().to_vec());
        tokens[id] = bytes.to_vec();
        let elements: Vec<u8> = tokens.iter().flat_map(|t| sized(t)).collect();
        self.set_array("tokenizer.ggml.tokens", STRING, 8, &elements);
    }

    /// Makes the vocabulary byte-level, with these merges.
    fn merges(&mut self, merges: &[&str]) {
        self.set("tokenizer.ggml.model", STRING, &text("gpt2"));
        self.array("tokenizer.ggml.merges", STRING, merges.len() as u64, &texts(merges));
    }

    /// Adds an f32 tensor of zeros.
    fn add(&mut self, name: &str, dims: &[u64]) {
        let (dims, offset) = (dims.to_vec(), self.data as u64);
        self.data += (dims.iter().product::<u64>() as usize * 4).next_multiple_of(32);
        self.tensors.push(RawTensor { name: name.into(), dims, kind: 0, offset });
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        self.keys.iter().for_each(|k| out.extend(k));
        for t in &self.tensors {
            out.extend(text(&t.name));
            out.extend((t.dims.len() as u32).to_le_bytes());
            t.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(t.kind.to_le_bytes());
            out.extend(t.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32) + self.data, 0);
        out
    }
}

fn text(s: &str) -> Vec<u8> {
    sized(s.as_bytes())
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

fn texts(all: &[&str]) -> Vec<u8> {
    all.iter().flat_map(|s| text(s)).collect()
}
