//! Model types that are known and not run, and why.

const RECURRENT: &str = "is recurrent";
const HYBRID: &str = "mixes attention with recurrent or convolutional layers";
const EXPERTS: &str = "chooses among experts for every token";
const OTHER_INPUTS: &str = "reads images or sound beside text";
const NO_DECODER: &str = "is no decoder that continues text";
const OTHER_ATTENTION: &str = "has an attention of its own";

const TYPES: &[(&str, &[&str])] = &[
    (RECURRENT, &["mamba", "mamba2", "falcon_mamba", "rwkv", "rwkv5", "rwkv6", "rwkv7", "xlstm"]),
    (
        HYBRID,
        &[
            "bamba",
            "falcon_h1",
            "granitemoehybrid",
            "jamba",
            "kimi_linear",
            "lfm2",
            "lfm2_moe",
            "nemotron_h",
            "plamo2",
            "qwen3_5",
            "qwen3_5_moe",
            "qwen3_5_text",
            "qwen3_next",
            "recurrent_gemma",
            "zamba",
            "zamba2",
        ],
    ),
    (
        EXPERTS,
        &[
            "afmoe",
            "bailing_moe",
            "dbrx",
            "deepseek_v2",
            "deepseek_v3",
            "dots1",
            "ernie4_5_moe",
            "flex_olmo",
            "glm4_moe",
            "gpt_oss",
            "granitemoe",
            "granitemoeshared",
            "hunyuan_v1_moe",
            "jetmoe",
            "llama4",
            "llama4_text",
            "minimax",
            "mixtral",
            "olmoe",
            "phimoe",
            "qwen2_moe",
            "qwen3_moe",
            "smallthinker",
        ],
    ),
    (
        OTHER_INPUTS,
        &[
            "gemma3",
            "gemma3n",
            "gemma4",
            "idefics3",
            "llava",
            "mistral3",
            "mllama",
            "paligemma",
            "phi4_multimodal",
            "qwen2_5_vl",
            "qwen2_vl",
            "qwen3_vl",
            "smolvlm",
            "whisper",
        ],
    ),
    (NO_DECODER, &["bart", "bert", "deberta-v2", "electra", "mpnet", "roberta", "t5", "xlm-roberta"]),
    (OTHER_ATTENTION, &["bloom", "chatglm", "gemma3n_text", "mpt", "minicpm3"]),
];

/// Why a model type is not run.
pub(super) fn reason(model_type: &str) -> Option<&'static str> {
    TYPES.iter().find(|(_, types)| types.contains(&model_type)).map(|(reason, _)| *reason)
}
