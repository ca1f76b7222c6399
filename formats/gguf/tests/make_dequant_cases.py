"""Makes models/dequant_cases.txt: random blocks of each ggml type and what gguf-py expands them to.

    pip install numpy gguf && python3 make_dequant_cases.py > models/dequant_cases.txt

A line is: type, bytes of the blocks, f32 bits of the values (little-endian), both in hex.
"""

import warnings

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

# Where each block keeps its f16 factors: random bits there would mostly be huge, infinite or not numbers.
FACTORS = {
    "F32": [], "F16": [0], "BF16": [], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0],
}


def block(rng, size, factors):
    raw = rng.integers(0, 256, size, dtype=np.uint8)
    for at in factors:
        raw[at:at + 2] = np.array([rng.normal(0, 0.05)], dtype=np.float16).view(np.uint8)
    return raw


def main():
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(20240607)
    for name, factors in FACTORS.items():
        values, size = GGML_QUANT_SIZES[Type[name]]
        n = 2 if values > 1 else 16
        raw = np.stack([block(rng, size, factors) for _ in range(n)])
        if name in ("F32", "BF16"):
            raw[:, -1] = raw[:, -1] % 64 + 16  # an exponent that is no infinity
        out = dequantize(raw.reshape(1, -1).view(np.float32) if name == "F32" else raw.reshape(1, -1), Type[name])
        print(name, raw.tobytes().hex(), out.astype("<f4").tobytes().hex())


main()
