#!/usr/bin/env python3
"""Makes fixtures/quantised/: blocks of every quantised type the GGUF reader knows, and the floats they stand for.

Not part of the tests; to be run by hand where a type is added, with the Python package `gguf` of the llama.cpp
project (0.19.0 made what is committed): `pip install gguf && python3 models/tests/make_quantised.py`.

A type has two files: `q4_k.blocks` as the type stores them, `q4_k.f32` the values, little-endian. The first blocks have
the scales that a half float makes hard, at random quants and at the least and the greatest; then come ordinary ones.
No scale is infinite or not a number, so all values are finite and can be compared to the bit.
"""

import pathlib

import gguf
import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent / "fixtures" / "quantised"

# Where a block has its half floats.
SCALES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
}

# 0 and -0, least and greatest subnormal, least normal, greatest: of either sign.
HARD = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x7BFF, 0xFBFF]
ORDINARY_BLOCKS = 4


def blocks(name, random):
    _, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    for index in range(len(HARD) + 2 + ORDINARY_BLOCKS):
        block = random.integers(0, 256, size, dtype=np.uint8)
        if index in (len(HARD), len(HARD) + 1):
            block[:] = 0xFF * (index - len(HARD))
        for order, place in enumerate(SCALES[name]):
            if index < len(HARD):
                # The minimum is another hard number than the scale.
                bits = np.uint16(HARD[(index + order * 4) % len(HARD)])
            else:
                bits = np.float16(random.normal(0, 0.02)).view(np.uint16)
            block[place : place + 2] = np.array([bits]).view(np.uint8)
        yield block


def main():
    random = np.random.default_rng(5)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in SCALES:
        stored = np.stack(list(blocks(name, random)))
        values = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[name])
        assert values.dtype == np.float32 and np.isfinite(values).all()
        (FOLDER / f"{name.lower()}.blocks").write_bytes(stored.tobytes())
        (FOLDER / f"{name.lower()}.f32").write_bytes(values.tobytes())


main()
