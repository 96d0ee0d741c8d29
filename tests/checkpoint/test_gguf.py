"""GGUF: headers made by hand byte by byte, fed in pieces, and lied about; block sizes against the `gguf` library's."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfmem.checkpoint.gguf import (
    FILE_TYPES,
    TENSOR_TYPES,
    GgufHeader,
    GgufParser,
    LongArray,
    merge_gguf,
    parse_gguf,
)
from hfmem.checkpoint.gguf_names import models, parse_name
from hfmem.dtypes import num_bytes
from hfmem.errors import ContradictionError, FormatError, HfmemError, UnsupportedError

#: number, elements a block, bytes a block: `gguf.constants.GGML_QUANT_SIZES` of the gguf package 0.19 (Q8_1 is never stored)
LIBRARY_TYPES = {
    "F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34), "Q2_K": (10, 256, 84), "Q3_K": (11, 256, 110), "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176), "Q6_K": (14, 256, 210), "Q8_K": (15, 256, 292), "IQ2_XXS": (16, 256, 66),
    "IQ2_XS": (17, 256, 74), "IQ3_XXS": (18, 256, 98), "IQ1_S": (19, 256, 50), "IQ4_NL": (20, 32, 18),
    "IQ3_S": (21, 256, 110), "IQ2_S": (22, 256, 82), "IQ4_XS": (23, 256, 136), "I8": (24, 1, 1), "I16": (25, 1, 2),
    "I32": (26, 1, 4), "I64": (27, 1, 8), "F64": (28, 1, 8), "IQ1_M": (29, 256, 56), "BF16": (30, 1, 2),
    "TQ1_0": (34, 256, 54), "TQ2_0": (35, 256, 66), "MXFP4": (39, 32, 17), "NVFP4": (40, 64, 36), "Q1_0": (41, 128, 18),
    "Q2_0": (42, 64, 18),
}  # fmt: skip
LIBRARY_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4",
    40: "Q1_0", 41: "Q2_0",
}  # fmt: skip
NUMBERS = {name: number for name, (number, _, _) in LIBRARY_TYPES.items()}

Key = tuple[str, int, Any]
Tensor = tuple[str, str, tuple[int, ...]]  # name, type, shape as in torch


def text(value: str, order: str = "<") -> bytes:
    raw = value.encode()
    return struct.pack(f"{order}Q", len(raw)) + raw


def value_bytes(kind: int, value: Any, order: str) -> bytes:
    if kind == 8:
        return text(value, order)
    if kind == 9:
        inner, items = value
        return struct.pack(f"{order}IQ", inner, len(items)) + b"".join(value_bytes(inner, v, order) for v in items)
    return struct.pack(order + {4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}[kind], value)


def build(keys: list[Key], tensors: list[Tensor], *, order: str = "<", version: int = 3, alignment: int = 32) -> bytes:
    """A whole file, its data all zeros."""
    out = b"GGUF" + struct.pack(f"{order}IQQ", version, len(tensors), len(keys))
    for name, kind, value in keys:
        out += text(name, order) + struct.pack(f"{order}I", kind) + value_bytes(kind, value, order)
    offset = 0
    for name, dtype, shape in tensors:
        _, elements, size = LIBRARY_TYPES[dtype]
        out += text(name, order) + struct.pack(f"{order}I", len(shape))
        out += struct.pack(f"{order}{len(shape)}QIQ", *reversed(shape), NUMBERS[dtype], offset)
        offset += prod(shape) // elements * size
        offset += -offset % alignment
    return out + bytes(-len(out) % alignment) + bytes(offset)


KEYS: list[Key] = [
    ("general.architecture", 8, "llama"),
    ("general.file_type", 4, 15),
    ("llama.block_count", 4, 2),
    ("llama.attention.head_count_kv", 9, (5, [8, 4])),
    ("llama.rope.freq_base", 6, 10000.0),
    ("notllama.block_count", 4, 7),
    ("tokenizer.ggml.tokens", 9, (8, [f"token {i}" for i in range(3000)])),
    ("tokenizer.ggml.scores", 9, (6, [0.5] * 3000)),
    ("tokenizer.ggml.add_bos_token", 7, True),
]
TENSORS: list[Tensor] = [
    ("token_embd.weight", "Q6_K", (100, 256)),
    ("blk.0.attn_q.weight", "Q4_K", (64, 256)),
    ("blk.1.attn_q.weight", "Q4_K", (64, 256)),
    ("blk.0.attn_norm.weight", "F32", (5,)),
    ("blk.1.ffn_down_exps.weight", "MXFP4", (4, 8, 32)),
]


@pytest.mark.parametrize(("order", "version"), [("<", 3), ("<", 2), (">", 3)])
def test_facts(order: str, version: int) -> None:
    file = build(KEYS, TENSORS, order=order, version=version)
    header = parse_gguf(file, file="m.gguf", file_size=len(file))
    assert header.version == version
    assert header.architecture == "llama"
    assert header.file_type == "Q4_K_M"
    assert {key: value for key, value in header.keys.items() if key.startswith("llama.")} == {
        "llama.block_count": 2,
        "llama.attention.head_count_kv": (8, 4),
        "llama.rope.freq_base": 10000.0,
    }
    assert header.keys["tokenizer.ggml.tokens"] == LongArray(3000)
    assert header.keys["tokenizer.ggml.scores"] == LongArray(3000)
    assert header.keys["tokenizer.ggml.add_bos_token"] is True
    assert list(header.tensors.items()) == [(name, (dtype, shape)) for name, dtype, shape in TENSORS]
    assert header.header_bytes + header.data_bytes == len(file)
    merged = merge_gguf([header])
    assert merged.file_bytes == len(file)
    assert merged.total_bytes == sum(
        prod(shape) // LIBRARY_TYPES[dtype][1] * LIBRARY_TYPES[dtype][2] for _, dtype, shape in TENSORS
    )
    assert [(g.pattern, g.count) for g in merged.groups] == [
        ("token_embd.weight", 1),
        ("blk.{}.attn_q.weight", 2),
        ("blk.{}.attn_norm.weight", 1),
        ("blk.{}.ffn_down_exps.weight", 1),
    ]


def test_types_are_the_librarys() -> None:
    for name, (number, elements, size) in LIBRARY_TYPES.items():
        assert TENSOR_TYPES[number] == name
        assert num_bytes(name, elements) == size
        assert num_bytes(name, 7 * elements) == 7 * size
    assert {number: name for number, name in FILE_TYPES.items() if name} == LIBRARY_FILE_TYPES


@pytest.mark.parametrize("step", [1, 7, 100, 4096, 10**6])
def test_pieces_give_what_the_whole_gives(step: int) -> None:
    file = build(KEYS, TENSORS)
    whole = parse_gguf(file, file="m", file_size=len(file))
    parser = GgufParser("m", len(file))
    at = 0
    while parser.header is None:
        wanted = parser.feed(file[at : at + step])
        at += step
        assert parser.received == min(at, len(file))
        assert wanted == 0 or parser.received < wanted <= whole.header_bytes
    assert parser.header == whole
    assert at < whole.header_bytes + step


def test_growing_reads_fetch_little_more_than_the_header() -> None:
    tokens = ("tokenizer.ggml.tokens", 9, (8, [f"token number {i}" for i in range(150_000)]))
    file = build([*KEYS[:3], tokens], TENSORS)
    whole = parse_gguf(file, file="m")
    parser = GgufParser("m")
    requests, size, wanted = 0, 1 << 16, 1
    while wanted:
        size = max(size * 2, wanted - parser.received)
        wanted = parser.feed(file[parser.received : parser.received + size])
        requests += 1
    assert parser.header == whole
    assert requests <= 8
    assert parser.received <= 2 * whole.header_bytes + (1 << 17)


def test_a_long_vocabulary_is_not_kept() -> None:
    tokens = ("tokenizer.ggml.tokens", 9, (8, ["x" * 40] * 200_000))
    file = build([tokens], [])
    tracemalloc.start()
    try:
        parser = GgufParser("m")
        for at in range(0, len(file), 1 << 16):
            parser.feed(file[at : at + (1 << 16)])
        assert parser.header is not None
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def patched(file: bytes, at: int, code: str, value: int) -> bytes:
    raw = struct.pack(code, value)
    return file[:at] + raw + file[at + len(raw) :]


PLAIN = build([], [("a", "F32", (4,)), ("b", "Q4_0", (2, 32))])
# after the 24 bytes: text "a" 9, rank 4, one size 8, type 4, offset 8; then text "b" 9, rank 4, two sizes 16, type 4, offset 8
A_RANK, A_SIZE, A_TYPE, A_OFFSET = 33, 37, 45, 49
B_RANK, B_SIZE, B_TYPE, B_OFFSET = 66, 70, 86, 90


@pytest.mark.parametrize(
    ("file", "error", "words"),
    [
        (b"", FormatError, "ends inside its header"),
        (b"GGUF", FormatError, "ends inside its header"),
        (b"PK\x03\x04" + bytes(40), FormatError, "not a GGUF file"),
        (patched(PLAIN, 4, "<I", 1), UnsupportedError, "version 1 "),
        (patched(PLAIN, 4, "<I", 9), UnsupportedError, "version 9 "),
        (patched(PLAIN, 8, "<Q", 1 << 63), FormatError, "claims"),
        (patched(PLAIN, 16, "<Q", 1 << 63), FormatError, "claims"),
        (patched(PLAIN, 24, "<Q", 1 << 62), FormatError, "a name of"),
        (patched(PLAIN, A_RANK, "<I", 5), FormatError, "'a' has 5 dimensions"),
        (patched(PLAIN, A_SIZE, "<Q", 1 << 63), ContradictionError, "'a' overflows"),
        (patched(PLAIN, A_TYPE, "<I", 4), UnsupportedError, "'a' has type 4"),
        (patched(PLAIN, A_TYPE, "<I", 999), UnsupportedError, "'a' has type 999"),
        (patched(PLAIN, A_TYPE, "<I", 8), ContradictionError, "'a' do not fill blocks of Q8_0"),
        (patched(PLAIN, A_OFFSET, "<Q", 32), ContradictionError, "'a' lies at 32, 0 is its place"),
        (patched(PLAIN, B_OFFSET, "<Q", 0), ContradictionError, "'b' lies at 0, 32 is its place"),
        (patched(PLAIN, B_OFFSET, "<Q", 64), ContradictionError, "'b' lies at 64, 32 is its place"),
        (patched(PLAIN, B_SIZE + 8, "<Q", 4), ContradictionError, "past the file's end"),
        (PLAIN.replace(b"\x01\0\0\0\0\0\0\0b", b"\x01\0\0\0\0\0\0\0a"), ContradictionError, "'a' occurs twice"),
        (PLAIN.replace(b"\x01\0\0\0\0\0\0\0b", b"\x01\0\0\0\0\0\0\0\xff"), FormatError, "not UTF-8"),
        (PLAIN[:-40], ContradictionError, "past the file's end"),
        (PLAIN[:80], FormatError, "ends inside its header"),
        (build([("k", 4, 1), ("k", 4, 1)], []), ContradictionError, "'k' occurs twice"),
        (build([("general.alignment", 4, 24)], []), FormatError, "no power of two"),
        (build([("general.alignment", 4, 0)], []), FormatError, "no power of two"),
        (patched(build([("k", 4, 1)], []), 24 + 9, "<I", 13), FormatError, "type 13"),
        (patched(build([("k", 9, (8, ["x"]))], []), 24 + 9 + 4 + 4, "<Q", 1 << 60), FormatError, "array of"),
        (patched(build([("k", 9, (4, [1]))], []), 24 + 9 + 4 + 4, "<Q", 1 << 60), FormatError, "would take"),
        (patched(build([("k", 8, "x")], []), 24 + 9 + 4, "<Q", 1 << 60), FormatError, "would take"),
        (build([("k", 9, (9, [(9, [(9, [(9, [])])])]))], []), FormatError, "nested too deeply"),
    ],
)
def test_each_lie_has_its_message(file: bytes, error: type[HfmemError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        parse_gguf(file, file="m.gguf", file_size=len(file))
    assert "m.gguf" in caught.value.message


@given(st.binary(max_size=300), st.data())
@settings(deadline=None, max_examples=200)
def test_any_bytes_give_facts_or_a_clear_error(raw: bytes, data: st.DataObject) -> None:
    file = bytearray(build(KEYS[:6], TENSORS))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, len(file) // 3))] = data.draw(st.integers(0, 255))
    for candidate in (raw, b"GGUF\x03\0\0\0" + raw, bytes(file)):
        try:
            header = parse_gguf(candidate, file="m", file_size=len(candidate))
            merge_gguf([header])
        except HfmemError as error:
            assert error.message


def split_part(number: int, count: int, total: int, *names: str) -> GgufHeader:
    keys: list[Key] = [("split.no", 4, number), ("split.count", 4, count), ("split.tensors.count", 5, total)]
    file = build([("general.architecture", 8, "llama"), *keys], [(name, "F16", (8,)) for name in names])
    return parse_gguf(file, file=f"m-0000{number + 1}-of-0000{count}.gguf", file_size=len(file))


def test_a_split_model_is_one() -> None:
    parts = [split_part(2, 3, 4, "d"), split_part(0, 3, 4, "blk.0.a", "blk.1.a"), split_part(1, 3, 4, "c")]
    merged = merge_gguf(parts)
    assert [(g.pattern, g.count) for g in merged.groups] == [("blk.{}.a", 2), ("c", 1), ("d", 1)]
    assert merged.num_files == 3
    assert merged.total_bytes == 4 * 16


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([(0, 3, "a"), (2, 3, "b")], "in 3 files, of which 1, 3 are here"),
        ([(0, 2, "a"), (0, 2, "b")], "in 2 files, of which 1, 1 are here"),
        ([(1, 2, "a")], "in 2 files, of which 2 are here"),
        ([(0, 2, "a"), (1, 2, "a")], "'a' is stored twice"),
        ([(0, 2, "a"), (1, 3, "b")], "in 2 files"),
    ],
)
def test_a_split_model_that_does_not_add_up(parts: list[tuple[int, int, str]], words: str) -> None:
    with pytest.raises(ContradictionError, match=words):
        merge_gguf([split_part(number, count, len(parts), name) for number, count, name in parts])
    with pytest.raises(ContradictionError, match=r"split\.tensors\.count is 9"):
        merge_gguf([split_part(0, 2, 9, "a"), split_part(1, 2, 9, "b")])


def test_a_projector_says_so() -> None:
    assert parse_gguf(build([("general.architecture", 8, "clip")], []), file="f").is_projector
    assert parse_gguf(build([("general.type", 8, "mmproj")], []), file="f").is_projector
    assert not parse_gguf(build(KEYS, []), file="f").is_projector


@pytest.mark.parametrize(
    ("path", "stem", "label", "part", "projector"),
    [
        ("Meta-Llama-3-8B-Instruct-Q4_K_M.gguf", "Meta-Llama-3-8B-Instruct-Q4_K_M", "Q4_K_M", (1, 1), False),
        ("llama-2-7b.Q5_0.gguf", "llama-2-7b.Q5_0", "Q5_0", (1, 1), False),
        ("UD-IQ2_XXS/DS-UD-IQ2_XXS-00002-of-00004.gguf", "UD-IQ2_XXS/DS-UD-IQ2_XXS", "UD-IQ2_XXS", (2, 4), False),
        ("qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf", "qwen2.5-7b-instruct-q4_k_m", "Q4_K_M", (1, 2), False),
        ("Model.i1-IQ3_XS.GGUF", "Model.i1-IQ3_XS", "IQ3_XS", (1, 1), False),
        ("model-fp16.gguf", "model-fp16", "F16", (1, 1), False),
        ("gemma-BF16.gguf", "gemma-BF16", "BF16", (1, 1), False),
        ("mmproj-model-f16.gguf", "mmproj-model-f16", "F16", (1, 1), True),
        ("Qwen2-VL-7B-mmproj.gguf", "Qwen2-VL-7B-mmproj", None, (1, 1), True),
        ("gpt-oss-20b-MXFP4.gguf", "gpt-oss-20b-MXFP4", "MXFP4", (1, 1), False),
        ("Q8_0/big-Q8_0-00010-of-00010.gguf", "Q8_0/big-Q8_0", "Q8_0", (10, 10), False),
        ("Q-model.gguf", "Q-model", None, (1, 1), False),
        ("model-Q2_K_L.gguf", "model-Q2_K_L", "Q2_K_L", (1, 1), False),
        ("model-UD-Q4_K_XL.gguf", "model-UD-Q4_K_XL", "UD-Q4_K_XL", (1, 1), False),
        ("m-Q4_0_4_8.gguf", "m-Q4_0_4_8", "Q4_0_4_8", (1, 1), False),
    ],
)
def test_names_of_files(path: str, stem: str, label: str | None, part: tuple[int, int], projector: bool) -> None:
    name = parse_name(path)
    assert (name.stem, name.label, (name.part, name.parts), name.projector) == (stem, label, part, projector)


def test_models_of_a_repository() -> None:
    found = models(["b-Q8_0-00002-of-00002.gguf", "README.md", "b-Q8_0-00001-of-00002.gguf", "a-Q4_0.gguf"])
    assert {stem: [name.path for name in names] for stem, names in found.items()} == {
        "a-Q4_0": ["a-Q4_0.gguf"],
        "b-Q8_0": ["b-Q8_0-00001-of-00002.gguf", "b-Q8_0-00002-of-00002.gguf"],
    }


@pytest.mark.conformance
@pytest.mark.skipif("HFMEM_CORPUS" not in os.environ, reason="HFMEM_CORPUS names no folder")
def test_real_tensor_lists_lie_where_their_headers_say() -> None:
    paths = sorted((Path(os.environ["HFMEM_CORPUS"]) / "models").glob("gguf__*/gguf_header.json"))
    assert paths
    for path in paths:
        real = json.loads(path.read_text())
        tensors = [(t["name"], t["type"], tuple(reversed(t["dims"]))) for t in real["tensors"]]
        keys: list[Key] = [("general.architecture", 8, real["kv"]["general.architecture"])]
        # build() lays tensors out by the library's block sizes; only their real offsets prove the sizes
        at = 0
        for (_, dtype, shape), tensor in zip(tensors, real["tensors"], strict=True):
            assert tensor["offset"] == at, (path, tensor["name"])
            at += num_bytes(dtype, prod(shape))
            at += -at % 32
        assert list(parse_gguf(build_header(keys, tensors), file="f").tensors) == [name for name, _, _ in tensors]


def build_header(keys: list[Key], tensors: list[Tensor]) -> bytes:
    """`build` without the data, which for a real model is gigabytes."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for name, kind, value in keys:
        out += text(name) + struct.pack("<I", kind) + value_bytes(kind, value, "<")
    offset = 0
    for name, dtype, shape in tensors:
        out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), NUMBERS[dtype], offset)
        offset += prod(shape) // LIBRARY_TYPES[dtype][1] * LIBRARY_TYPES[dtype][2]
        offset += -offset % 32
    return out
