#!/usr/bin/env python3
"""Writes a model that keeps a machine busy: the tokenizer and words of a small GGUF file, with weights of a larger
Llama, filled with noise. What it says means nothing; what it costs to say it is what counts.

    benches/busy_model.py SMALL.gguf BUSY.gguf
"""

import random
import struct
import sys

WIDTH, LAYERS, HEADS, KV_HEADS, FEED_FORWARD = 1024, 12, 16, 8, 2816
F16, F32, UINT32, STRING, ARRAY = 1, 0, 4, 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
ALIGNMENT = 32


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize(form)))[0]

    def text(self):
        return self.take(self.number("Q"))

    def skip(self, kind):
        if kind == STRING:
            self.text()
        elif kind == ARRAY:
            of, count = self.number("I"), self.number("Q")
            for _ in range(count):
                self.skip(of)
        else:
            self.take(SIZES[kind])


def metadata(data):
    """Key to the bytes of its type and value, and the dimensions of each tensor."""
    reader = Reader(data)
    assert reader.take(4) == b"GGUF", "not a GGUF file"
    assert reader.number("I") == 3, "only GGUF v3 is read here"
    tensors, entries = reader.number("Q"), reader.number("Q")
    values = {}
    for _ in range(entries):
        key, begin = reader.text().decode(), reader.at
        reader.skip(reader.number("I"))
        values[key] = data[begin : reader.at]
    shapes = {}
    for _ in range(tensors):
        name = reader.text().decode()
        shapes[name] = [reader.number("Q") for _ in range(reader.number("I"))]
        reader.take(12)
    return values, shapes


def text(value):
    return struct.pack("<Q", len(value)) + value


def tensors(vocabulary):
    head = WIDTH // HEADS
    yield "token_embd.weight", [WIDTH, vocabulary]
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", [WIDTH]
        yield block + "attn_q.weight", [WIDTH, WIDTH]
        yield block + "attn_k.weight", [WIDTH, KV_HEADS * head]
        yield block + "attn_v.weight", [WIDTH, KV_HEADS * head]
        yield block + "attn_output.weight", [WIDTH, WIDTH]
        yield block + "ffn_norm.weight", [WIDTH]
        yield block + "ffn_gate.weight", [WIDTH, FEED_FORWARD]
        yield block + "ffn_up.weight", [WIDTH, FEED_FORWARD]
        yield block + "ffn_down.weight", [FEED_FORWARD, WIDTH]
    yield "output_norm.weight", [WIDTH]
    yield "output.weight", [WIDTH, vocabulary]


def main(small, busy):
    with open(small, "rb") as file:
        values, shapes = metadata(file.read())
    changes = {
        "embedding_length": WIDTH,
        "block_count": LAYERS,
        "feed_forward_length": FEED_FORWARD,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "rope.dimension_count": WIDTH // HEADS,
    }
    for key, value in changes.items():
        values["llama." + key] = struct.pack("<II", UINT32, value)
    values["general.name"] = struct.pack("<I", STRING) + text(b"noise")
    chance = random.Random(1)
    noise = b"".join(struct.pack("<e", chance.gauss(0, 0.02)) for _ in range(1 << 16))
    listed = list(tensors(shapes["token_embd.weight"][1]))
    table, offset = b"", 0
    for name, shape in listed:
        count, kind = 1, F32 if len(shape) == 1 else F16
        for size in shape:
            count *= size
        table += text(name.encode()) + struct.pack("<I", len(shape))
        table += b"".join(struct.pack("<Q", size) for size in shape) + struct.pack("<IQ", kind, offset)
        offset += count * (4 if kind == F32 else 2)
        offset += -offset % ALIGNMENT
    with open(busy, "wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", 3, len(listed), len(values)))
        for key, value in values.items():
            out.write(text(key.encode()) + value)
        out.write(table)
        out.write(bytes(-out.tell() % ALIGNMENT))
        for _, shape in listed:
            if len(shape) == 1:
                data = struct.pack("<f", 1.0) * shape[0]
            else:
                count = 2 * shape[0] * shape[1]
                data = (noise * (count // len(noise) + 1))[:count]
            out.write(data + bytes(-len(data) % ALIGNMENT))


if __name__ == "__main__":
    main(*sys.argv[1:3])
