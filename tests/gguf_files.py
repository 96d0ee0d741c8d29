"""GGUF files for tests, written byte by byte from the format's description; their data is zeros that no one stores."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from hub_server import Blob

#: number, elements and bytes of a block, as in `gguf.constants` of the gguf package 0.19
TYPES = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q8_0": (8, 32, 34),
    "Q5_0": (6, 32, 22),
    "Q4_0": (2, 32, 18),
    "Q4_K": (12, 256, 144),
    "Q6_K": (14, 256, 210),
    "Q5_K": (13, 256, 176),
    "Q3_K": (11, 256, 110),
    "BF16": (30, 1, 2),
}

Tensor = tuple[str, str, tuple[int, ...]]  # name, type, shape as in torch


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    """Type number and value: bool, int as uint32, float as float32, string, list of one kind."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    kind = _value(value[0])[:4] if value else struct.pack("<I", 4)
    return struct.pack("<I", 9) + kind + struct.pack("<Q", len(value)) + b"".join(_value(item)[4:] for item in value)


def gguf_header(keys: Mapping[str, Any], tensors: Sequence[Tensor]) -> tuple[bytes, int]:
    """The header and the size of the whole file."""
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)))
    for name, value in keys.items():
        out += _text(name) + _value(value)
    offset = 0
    for name, dtype, shape in tensors:
        number, elements, size = TYPES[dtype]
        out += _text(name) + struct.pack("<I", len(shape))
        out += struct.pack(f"<{len(shape)}QIQ", *reversed(shape), number, offset)
        offset += prod(shape) // elements * size
        offset += -offset % 32
    out += bytes(-len(out) % 32)
    return bytes(out), len(out) + offset


def gguf_blob(keys: Mapping[str, Any], tensors: Sequence[Tensor]) -> Blob:
    """The file for a `HubServer`."""
    return Blob(*gguf_header(keys, tensors))


def tensor_bytes(tensors: Sequence[Tensor]) -> int:
    """What the tensors take, by hand."""
    return sum(prod(shape) // TYPES[dtype][1] * TYPES[dtype][2] for _, dtype, shape in tensors)


#: a Llama of two layers: 4 heads, 2 KV heads of 64, vocabulary 512
LLAMA_KEYS: dict[str, Any] = {
    "general.architecture": "llama",
    "general.type": "model",
    "general.file_type": 15,
    "llama.block_count": 2,
    "llama.context_length": 4096,
    "llama.embedding_length": 256,
    "llama.feed_forward_length": 512,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.vocab_size": 512,
}


def llama_tensors(dtype: str = "Q4_K", layers: Sequence[int] = (0, 1), *, ends: bool = True) -> list[Tensor]:
    """Its tensors; `ends` False leaves out embedding, final norm and head."""
    found: list[Tensor] = [("token_embd.weight", "Q6_K", (512, 256))] if ends else []
    for i in layers:
        found += [
            (f"blk.{i}.attn_norm.weight", "F32", (256,)),
            (f"blk.{i}.attn_q.weight", dtype, (256, 256)),
            (f"blk.{i}.attn_k.weight", dtype, (128, 256)),
            (f"blk.{i}.attn_v.weight", dtype, (128, 256)),
            (f"blk.{i}.attn_output.weight", dtype, (256, 256)),
            (f"blk.{i}.ffn_norm.weight", "F32", (256,)),
            (f"blk.{i}.ffn_gate.weight", dtype, (512, 256)),
            (f"blk.{i}.ffn_up.weight", dtype, (512, 256)),
            (f"blk.{i}.ffn_down.weight", dtype, (256, 512)),
        ]
    return [*found, ("output_norm.weight", "F32", (256,)), ("output.weight", "Q6_K", (512, 256))] if ends else found


#: embedding and head 512 × 256; a layer 256 × (256 + 128 + 128 + 256) + 3 × 512 × 256 + two norms; the final norm
LLAMA_PARAMETERS = 2 * 512 * 256 + 2 * (256 * 768 + 3 * 512 * 256 + 2 * 256) + 256
