//! Architectures that are known and not run, and why.

const TYPES: &[(&str, &[&str])] = &[
    ("is recurrent, which is not supported", &["mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"]),
    (
        "mixes attention with recurrent or convolutional layers, which is not supported",
        &[
            "falcon-h1",
            "granitehybrid",
            "jamba",
            "kimi-linear",
            "lfm2",
            "lfm2moe",
            "nemotron_h",
            "nemotron_h_moe",
            "plamo2",
            "qwen35",
            "qwen35moe",
            "qwen3next",
        ],
    ),
    (
        "chooses among experts for every token, which is not supported",
        &[
            "afmoe",
            "arctic",
            "bailingmoe",
            "bailingmoe2",
            "dbrx",
            "deepseek",
            "deepseek2",
            "dots1",
            "ernie4_5-moe",
            "glm4moe",
            "gpt-oss",
            "granitemoe",
            "grok",
            "grovemoe",
            "hunyuan-moe",
            "llama4",
            "minimax-m2",
            "olmoe",
            "phimoe",
            "qwen2moe",
            "qwen3moe",
            "smallthinker",
        ],
    ),
    ("reads images or sound, which is not supported", &["clip", "gemma3n", "gemma4", "qwen2vl", "qwen3vl"]),
    (
        "is no decoder that continues text",
        &["bert", "gemma-embedding", "jina-bert-v2", "nomic-bert", "t5", "t5encoder"],
    ),
];

/// Why an architecture is not run.
pub(super) fn reason(architecture: &str) -> Option<&'static str> {
    TYPES.iter().find(|(_, types)| types.contains(&architecture)).map(|(reason, _)| *reason)
}
