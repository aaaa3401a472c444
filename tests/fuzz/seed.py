#!/usr/bin/env python3
"""Writes starting inputs for the fuzz targets into corpus/, which is not committed.

Packets and sessions start from Mosquitto's recorded sequences (../shared/data/mqtt-sequences, or the
folder given as the only argument), the GGUF reader from a few small files made here.
"""

import hashlib
import json
import pathlib
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent
DATA = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parents[2] / "shared/data/mqtt-sequences"


def variable(value):
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def payload(words):
    """The words in which the sequences write bytes; ../shared/data/README.md explains them."""
    out, rest = bytearray(), words.strip()
    while rest:
        if rest[0] == "'":
            text, rest = rest[1:].split("'", 1)
            out += text.encode()
        else:
            word, _, rest = rest.partition(" ")
            kind, number = word[0], word[1:]
            if kind == "i":
                out.append(int(number))
            elif kind in "Hkms":
                out += struct.pack(">H", int(number))
            elif kind == "L":
                out += struct.pack(">I", int(number))
            elif kind in "vr":
                out += variable(int(number))
            else:
                out += bytes.fromhex(word)
        rest = rest.strip()
    return bytes(out)


def connect(level):
    body = b"\0\4MQTT" + bytes([level, 2, 0, 60]) + (b"\0" if level == 5 else b"") + b"\0\4fuzz"
    return b"\x10" + variable(len(body)) + body


def sequences(answer):
    """What each sequence sends, with `answer` after every message."""
    for file in sorted(DATA.glob("*.json")):
        for group in json.loads(file.read_text()):
            for test in group["tests"]:
                level = test.get("ver", group.get("ver", 4))
                sent = connect(level) if test.get("connect", group.get("connect", True)) else b""
                for message in test.get("msgs", []):
                    if message["type"] == "send":
                        sent += payload(message["payload"]) + answer
                yield sent


def gguf(tensors, row=4, tensor_bytes=32):
    """A file with tensors of two rows, of these types and of so many bytes with their padding."""
    def text(value):
        return struct.pack("<Q", len(value)) + value

    pairs = [
        text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama"),
        text(b"llama.block_count") + struct.pack("<II", 4, 1),
        text(b"llama.rope.freq_base") + struct.pack("<If", 6, 10000.0),
        text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"<s>") + text(b"a"),
        text(b"tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 2) + struct.pack("<ff", 0.0, -1.0),
        text(b"nested") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 0, 2) + b"\1\2",
    ]
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs)
    for index, kind in enumerate(tensors):
        out += text(b"t%d" % index) + struct.pack("<IQQIQ", 2, row, 2, kind, index * tensor_bytes)
    return out + bytes(-len(out) % 32) + bytes(tensor_bytes * max(len(tensors), 1))


def write(target, inputs):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    unique = {hashlib.sha1(data).hexdigest(): data for data in inputs}
    for name, data in unique.items():
        (folder / name).write_bytes(data)
    print(f"{target}: {len(unique)} inputs")


write("packet", sequences(b""))
# To the session's target 0x0C means that the driver answers.
write("session", sequences(b"\x0c"))
# Quantised types have blocks of 32 or 256 values.
quantised = [gguf([2, 3, 6, 7, 8], 32, 96), gguf([10, 11, 12, 13, 14], 256, 448)]
write("gguf", [gguf([0]), gguf([1, 0]), *quantised])
