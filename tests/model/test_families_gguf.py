"""Layer kinds from GGUF keys, against llama.cpp's rules written out by hand, published headers, and what its servers logged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hfmem.checkpoint.grouping import group_facts
from hfmem.checkpoint.tensors import Checkpoint
from hfmem.errors import ContradictionError, HfmemError, MissingKeyError, UnknownArchitectureError, UnsupportedError
from hfmem.memory import engines
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.families import gguf_tables as tables
from hfmem.model.families.gguf import read_gguf
from hfmem.model.layers import (
    ChunkedAttention,
    CompressedAttention,
    DeltaNetState,
    FullAttention,
    KimiDeltaState,
    LatentAttention,
    Mamba1State,
    Mamba2State,
    NoCache,
    RwkvState,
    SharedCache,
    ShortConvState,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.model.parameters import count_parameters

CORPUS = Path(os.environ.get("HFMEM_CORPUS", "/nonexistent")) / "models"
FILE = "m.gguf"
EMPTY = Checkpoint(group_facts(["token_embd.weight"], [("F16", (1000, 64))]), "gguf", 1, None)


def keys(name: str, layers: int, **values: Any) -> dict[str, Any]:
    """Keys of a model of width 512 with 8 heads unless told otherwise; `__` in a name stands for a dot."""
    base = {"block_count": layers, "embedding_length": 512, "context_length": 4096, "attention.head_count": 8}
    given = {key.replace("__", "."): value for key, value in values.items()}
    merged = {key: value for key, value in {**base, **given}.items() if value is not None}
    return {"general.architecture": name, **{f"{name}.{key}": value for key, value in merged.items()}}


def read(name: str, layers: int, **values: Any) -> Architecture:
    return read_gguf(keys(name, layers, **values), EMPTY, FILE)


def letters(architecture: Architecture) -> str:
    """One letter a layer."""
    names = {
        FullAttention: "F", SlidingAttention: "s", ChunkedAttention: "c", LatentAttention: "L", SparseLatentAttention: "I",
        SharedCache: "=", NoCache: "-", Mamba1State: "1", Mamba2State: "2", DeltaNetState: "d", KimiDeltaState: "k",
        ShortConvState: "v", RwkvState: "r",
    }  # fmt: skip
    return " ".join("".join(names[type(cache)] for cache in layer.caches) for layer in architecture.layers).replace(
        " ", ""
    )


PATTERNS = [
    ("llama", {}, 4, "FFFF"),
    ("qwen2", {"attention__sliding_window": 100}, 3, "FFF"),
    ("gemma2", {}, 5, "sFsFs"),
    ("gemma3", {"attention__sliding_window": 512}, 13, "sssssFsssssFs"),
    ("gemma3", {}, 7, "FFFFFFF"),
    ("gemma3", {"attention__sliding_window": 512, "attention__sliding_window_pattern": 3}, 7, "ssFssFs"),
    ("gemma3n", {"attention__sliding_window": 512}, 25, "ssssF" * 4 + "=" * 5),
    ("gemma3n", {"attention__sliding_window": 512, "attention__shared_kv_layers": 3}, 10, "ssssFss==="),
    ("cohere2", {"attention__sliding_window": 64}, 8, "sssFsssF"),
    ("cohere2moe", {"attention__sliding_window": 64}, 8, "FsssFsss"),
    ("gpt-oss", {"attention__sliding_window": 128}, 4, "sFsF"),
    ("llama4", {}, 5, "cccFc"),
    ("llama4", {"attention__sliding_window": 0}, 3, "FFF"),
    ("olmo2", {}, 4, "FFFF"),
    ("olmo2", {"attention__sliding_window": 64}, 4, "sssF"),
    ("exaone4", {}, 30, "F" * 30),
    ("exaone4", {}, 64, "sssF" * 16),
    ("plamo3", {"attention__sliding_window": 64}, 9, "sssssssFs"),
    ("smallthinker", {"attention__sliding_window": 64}, 5, "FsssF"),
    ("phi3", {"attention__sliding_window": 2047}, 2, "ss"),
    (
        "gemma4",
        {"attention__sliding_window": 64, "attention__sliding_window_pattern": [True, True, False] * 2,
         "attention__shared_kv_layers": 2},
        6, "ssFs==",
    ),
    ("mimo2", {"attention__sliding_window": 64, "attention__sliding_window_pattern": [0, 1, 1]}, 3, "Fss"),
    ("deci", {"attention__head_count_kv": [8, 0, 4]}, 3, "F-F"),
    ("muse-glimmer", {"attention__sliding_window": 64}, 5, "sssFs"),
    ("spark2_5", {"attention__sliding_window": 64, "attention__sliding_window_pattern": [1, 1, 1, 0, 1]}, 5, "sssFs"),
    ("maple", {"attention__sliding_window": 64, "attention__sliding_window_pattern": [True, False]}, 2, "sF"),
    ("hrm_text", {}, 4, "FFFF"),
    ("nanbeige", {"num_loops": 3}, 2, "FFFFFF"),
    ("nanbeige", {}, 2, "FF"),
    ("bert", {}, 2, "--"),
    ("mamba", {"attention__head_count": 0, "ssm__inner_size": 1024, "ssm__state_size": 16, "ssm__conv_kernel": 4}, 2, "11"),
    (
        "jamba",
        {"attention__head_count_kv": [0, 0, 2, 0], "ssm__inner_size": 1024, "ssm__state_size": 16, "ssm__conv_kernel": 4},
        4, "11F1",
    ),
    (
        "nemotron_h",
        {"attention__head_count_kv": [0, 0, 2], "feed_forward_length": [0, 900, 0], "ssm__inner_size": 1024,
         "ssm__state_size": 128, "ssm__conv_kernel": 4, "ssm__time_step_rank": 16, "ssm__group_count": 8},
        3, "2-F",
    ),
    (
        "falcon-h1",
        {"ssm__inner_size": 1024, "ssm__state_size": 128, "ssm__conv_kernel": 4, "ssm__time_step_rank": 16,
         "ssm__group_count": 1},
        2, "F2F2",
    ),
    ("lfm2", {"attention__head_count_kv": [0, 8, 0], "shortconv__l_cache": 3}, 3, "vFv"),
    (
        "qwen35",
        {"ssm__inner_size": 1024, "ssm__state_size": 128, "ssm__conv_kernel": 4, "ssm__time_step_rank": 8,
         "ssm__group_count": 4, "nextn_predict_layers": 1},
        9, "dddFdddFF",
    ),
    ("rwkv7", {"attention__head_count": 0, "wkv__head_size": 64}, 2, "rr"),
    (
        "kimi-linear",
        {"attention__head_count_kv": [0, 1, 0], "kda__head_dim": 128, "ssm__conv_kernel": 4,
         "attention__kv_lora_rank": 512, "attention__key_length_mla": 192, "attention__value_length_mla": 128,
         "rope__dimension_count": 64},
        3, "kLk",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "values", "layers", "expected"), PATTERNS)
def test_layer_kinds(name: str, values: dict[str, Any], layers: int, expected: str) -> None:
    assert letters(read(name, layers, **values)) == expected


def test_heads_and_sizes_by_layer() -> None:
    model = read(
        "gemma4", 4, attention__head_count_kv=[8, 8, 8, 2], attention__sliding_window=1024, attention__key_length=512,
        attention__value_length=512, attention__key_length_swa=256, attention__value_length_swa=256,
        attention__sliding_window_pattern=[1, 1, 1, 0],
    )  # fmt: skip
    assert model.layers[0].caches == (SlidingAttention(8, 8, 256, 256, 1024),)
    assert model.layers[3].caches == (FullAttention(8, 2, 512, 512),)
    sources = [
        cache.source_layer
        for layer in read("gemma3n", 30, attention__sliding_window=512).layers
        for cache in layer.caches
        if isinstance(cache, SharedCache)
    ]
    # the last sliding layer with a cache is 18, the last full one 19; 24 and 29 are full
    assert sources == [18, 18, 18, 18, 19, 18, 18, 18, 18, 19]


MLA = {
    "attention__kv_lora_rank": 512,
    "attention__key_length": 576,
    "attention__value_length": 512,
    "attention__key_length_mla": 192,
    "attention__value_length_mla": 128,
    "rope__dimension_count": 64,
    "attention__head_count": 128,
    "attention__head_count_kv": 1,
}


def test_latent_attention() -> None:
    model = read("deepseek2", 61, **MLA)
    assert model.layers[0].caches == (LatentAttention(128, 512, 64, 128, 128),)
    sparse = read("deepseek32", 2, **MLA, attention__indexer__key_length=128, attention__indexer__top_k=2048)
    assert sparse.layers[1].caches == (SparseLatentAttention(128, 512, 64, 128, 128, 128, 2048),)
    old = read("deepseek2", 61, attention__head_count=128, attention__key_length=192, attention__value_length=128)
    assert old.layers[0].caches == (FullAttention(128, 128, 192, 128),)
    assert [note.code for note in old.notes] == ["gguf_without_mla"]


def test_compressed_attention() -> None:
    model = read(
        "deepseek4", 4, attention__head_count=64, attention__head_count_kv=1, attention__key_length=512,
        attention__sliding_window=128, attention__compress_ratios=[0, 4, 128, 4, 0], attention__indexer__key_length=128,
        attention__indexer__top_k=512,
    )  # fmt: skip
    assert [layer.caches[0] for layer in model.layers] == [
        CompressedAttention(64, 512, 128, 0),
        CompressedAttention(64, 512, 128, 4, 128, overlap=True, index_topk=512),
        CompressedAttention(64, 512, 128, 128),
        CompressedAttention(64, 512, 128, 4, 128, overlap=True, index_topk=512),
    ]


@pytest.mark.parametrize(
    ("latent", "cells", "kv_dtype", "mebibytes"),
    [
        # what servers logged for DeepSeek V3 and R1 (61 layers): KV self size
        (True, 32768, "fp16", 2196.00),
        (True, 16384, "fp16", 1098.00),
        (True, 32768, "q8_0", 1166.62),
        (True, 2048, "q8_0", 72.91),
        (False, 512, "fp16", 2440.00),
    ],
)
def test_deepseek_as_logged(latent: bool, cells: int, kv_dtype: str, mebibytes: float) -> None:
    plain = {"attention__head_count": 128, "attention__key_length": 192, "attention__value_length": 128}
    model = read("deepseek2", 61, **(MLA if latent else plain))
    cache = engines.engine("llama.cpp").cache(
        model, Serving(context=cells, num_seqs=1, kv_dtype=kv_dtype, engine="llama.cpp")
    )
    assert cache.bytes / 2**20 == pytest.approx(mebibytes, abs=0.006)


def test_states_have_llama_cpps_sizes() -> None:
    """`n_embd_r` and `n_embd_s`: convolution columns and state, both fp32."""
    common = {"ssm__inner_size": 4096, "ssm__state_size": 128, "ssm__conv_kernel": 4, "ssm__time_step_rank": 32}
    delta = read("qwen3next", 4, **common, ssm__group_count=16, attention__head_count_kv=2)
    expected = 3 * 4 * (3 * (4096 + 2 * 16 * 128) + 128 * 4096)
    rwkv = read("rwkv6", 3, attention__head_count=0, wkv__head_size=64, token_shift_count=2)
    for model, size in ((delta, expected), (rwkv, 3 * 4 * (2 * 512 + 512 * 64))):
        cache = engines.engine("llama.cpp").cache(model, Serving(context=256, num_seqs=1, engine="llama.cpp"))
        assert cache.state_bytes_per_seq == size


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({}, MissingKeyError, r"general\.architecture is missing"),
        (keys("lama", 2), UnknownArchitectureError, r"'lama' is not known; nearest: llama"),
        (keys("qwen4exp", 2), UnsupportedError, "cache is not known here"),
        (keys("llama", 0), ContradictionError, r"llama\.block_count is 0"),
        (keys("llama", 10**9), ContradictionError, "beyond any real model"),
        (keys("llama", 2, attention__head_count=None), MissingKeyError, r"llama\.attention\.head_count is missing"),
        (keys("llama", 3, attention__head_count_kv=[1, 2]), ContradictionError, "has 2 entries for 3 layers"),
        (keys("llama", 2, attention__head_count="eight"), ContradictionError, "'eight', which is no count"),
        (keys("llama", 2, attention__head_count=-8), ContradictionError, "is no count"),
        (keys("gemma4", 2, attention__sliding_window=5), MissingKeyError, "sliding_window_pattern is missing"),
        (keys("cohere2", 2), MissingKeyError, "sliding_window is missing"),
        (keys("glm4moe", 2, nextn_predict_layers=2), ContradictionError, "nextn_predict_layers is 2"),
        (keys("qwen35", 2, ssm__inner_size=100, ssm__time_step_rank=3), ContradictionError, "is not 3 heads"),
    ],
)
def test_what_cannot_be_read(values: dict[str, Any], error: type[HfmemError], words: str) -> None:
    with pytest.raises(error, match=words):
        read_gguf(values, EMPTY, FILE)


def test_every_name_is_in_one_table() -> None:
    groups = [
        tables.FULL, set(tables.WINDOWED), tables.LATENT, tables.COMPRESSED,
        tables.MAMBA1, tables.MAMBA2, tables.RWKV, tables.HYBRID_MAMBA1,
        tables.HYBRID_MAMBA2, tables.PARALLEL_MAMBA2, tables.SHORT_CONV, tables.DELTA_NET, tables.KIMI_DELTA,
        tables.LIGHTNING, tables.INDEXED,
        tables.WITHOUT_CACHE, tables.NOT_YET, {"t5"},
    ]  # fmt: skip
    names = [name for group in groups for name in group]
    assert len(names) == len(set(names)) and set(names) - tables.NOT_YET == tables.KNOWN


def test_mixture_and_prediction_layers() -> None:
    tensors = {
        "token_embd.weight": (1000, 64),
        "output.weight": (1000, 64),
        **{f"blk.{i}.attn_q.weight": (64, 64) for i in range(3)},
        **{f"blk.{i}.ffn_down_exps.weight": (8, 64, 32) for i in range(1, 3)},
        "blk.2.nextn.eh_proj.weight": (64, 128),
        "blk.1.exp_probs_b.bias": (8,),
        "rope_freqs.weight": (32,),
    }
    stored = Checkpoint(group_facts(list(tensors), [("F32", shape) for shape in tensors.values()]), "gguf", 1, None)
    values = keys("glm4moe", 3, expert_count=8, expert_used_count=2, nextn_predict_layers=1)
    model = read_gguf(values, stored, FILE)
    counted = count_parameters(model, stored)
    assert model.num_hidden_layers == 2 and [layer.stack for layer in model.layers] == ["decoder", "decoder", "mtp"]
    experts = 8 * 64 * 32
    assert counted.by_component["mtp"] == 64 * 64 + experts + 64 * 128
    assert counted.total == 2 * 64_000 + 2 * 64 * 64 + experts + counted.by_component["mtp"]
    assert counted.active == 2 * 64_000 + 2 * 64 * 64 + experts // 4


def corpus() -> list[str]:
    return sorted(path.name for pattern in ("gguf__*", "ollama__*") for path in CORPUS.glob(pattern))


@pytest.mark.skipif(not CORPUS.is_dir(), reason="HFMEM_CORPUS is not set")
@pytest.mark.parametrize("name", corpus())
def test_published_headers(name: str) -> None:
    """Parameters as the publisher counts them; rotary frequencies, which Ollama counts and models do not have, taken off."""
    folder = CORPUS / name
    header = folder / "gguf_header.json"
    data = json.loads((header if header.exists() else folder / "gguf_tensors.json").read_text())
    if header.exists():
        tensors = [(t["name"], t["type"], tuple(reversed(t["dims"]))) for t in data["tensors"]]
        values = {k: v for k, v in data["kv"].items() if not str(v).startswith("<array")}
        total = json.loads((folder / "source.json").read_text())["facts"]["gguf"]["param_count"]
    else:
        tensors = [(t["name"], t["type"], tuple(reversed(t["shape"]))) for t in data["tensors"]]
        values = {k: v for k, v in data["model_info"].items() if v is not None}
        total = values["general.parameter_count"]
    names = [n for n, _, _ in tensors]
    stored = Checkpoint(group_facts(names, [(dtype, shape) for _, dtype, shape in tensors]), "gguf", 1, None)
    model = read_gguf(values, stored, FILE)
    buffers = sum(g.total_elements for g in stored.groups if g.pattern.startswith("rope_f"))
    assert count_parameters(model, stored).total == total - buffers
    prefix = values["general.architecture"]
    assert model.num_hidden_layers == values[f"{prefix}.block_count"]
    assert model.hidden_size == values[f"{prefix}.embedding_length"]
