"""Weights as engines log them once loaded: PyTorch's blocks, merged parameters, rotary tables, padded experts.

Logged sizes are "Model loading took … GiB" of vLLM, from public server logs.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drafting_models import architecture
from example_architectures import build, one

from hfmem.api.reading import Model, read_model
from hfmem.hub import FetchOptions
from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.loaded import rounding
from hfmem.memory.rotary import rotary_table_bytes
from hfmem.memory.serving import Serving
from hfmem.memory.torch_allocator import allocate
from hfmem.memory.weights import held_tensors, rank_weights
from hfmem.model.architecture import Architecture
from hfmem.model.layers import CompressedAttention, FullAttention, Layer, SlidingAttention
from hfmem.model.rotary import read_rotations
from hfmem.units import GIB, MIB

OFFLINE = FetchOptions(offline=True, no_cache=True)


def catalogue(name: str) -> Model:
    return read_model(name, fetch=OFFLINE)


def loaded_gib(read: Model, serving: Serving, release: Release) -> float:
    arch, groups = read.architecture, read.parameters.groups
    size = rank_weights(arch, groups, serving).bytes
    blocks = rounding(tuple(held_tensors(arch, groups, serving)), size, max_split=release.max_split).block_bytes
    return (size + blocks + rotary_table_bytes(arch)) / GIB


def tables_of(config: dict[str, Any], arch: Architecture) -> int:
    return rotary_table_bytes(replace(arch, rotations=read_rotations(config, "config.json", arch.model_type)))


def test_blocks_of_the_caching_allocator() -> None:
    """By hand: 31.5 MiB take a segment of 32 and leave half a MiB, so the block is 32; 24.5 leave 1.5 of 26, which 1.2 fill."""
    assert allocate([int(31.5 * MIB)]).block_bytes == 32 * MIB
    assert allocate([int(24.5 * MIB)]).block_bytes == int(24.5 * MIB)
    both = allocate([int(24.5 * MIB), int(1.2 * MIB)])
    assert both.segment_bytes == 26 * MIB
    assert both.block_bytes == 26 * MIB  # 0.3 MiB of the rest are not worth a block of their own


def test_small_and_middle_blocks() -> None:
    """Up to 1 MiB in segments of 2, below 10 MiB in segments of 20, sizes in steps of 512 bytes."""
    assert allocate([1]) == allocate([512])
    assert allocate([1]).segment_bytes == 2 * MIB
    assert allocate([4 * MIB] * 5).segment_bytes == 20 * MIB
    assert allocate([4 * MIB] * 6).segment_bytes == 40 * MIB
    assert allocate([9 * MIB, 9 * MIB]).block_bytes == 18 * MIB
    assert allocate([0, 0]).block_bytes == 0
    # from 10 MiB on (kMinLargeAlloc) a segment of its own
    assert allocate([10 * MIB - 512]).segment_bytes == 20 * MIB
    assert allocate([10 * MIB]).segment_bytes == 10 * MIB


def test_blocks_that_are_never_divided() -> None:
    """With `max_split_size_mb:20`, 24.5 MiB keep their whole segment."""
    assert allocate([int(24.5 * MIB)], 20 * MIB).block_bytes == 26 * MIB
    assert allocate([12 * MIB + 1], 20 * MIB).block_bytes == 12 * MIB + 512


@pytest.mark.parametrize(
    ("name", "tp", "minor", "logged", "digit"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 1, 11, 14.9889, 1e-4),
        ("meta-llama/Llama-3.1-8B-Instruct", 4, 6, 3.771, 1e-4),
        ("meta-llama/Meta-Llama-3-8B-Instruct", 4, 13, 3.7418, 1e-4),
        ("mistralai/Mistral-7B-Instruct-v0.3", 1, 6, 13.5083, 1e-4),
        ("Qwen/Qwen2.5-7B-Instruct", 1, 10, 14.2488, 1e-4),
        ("Qwen/Qwen2.5-7B-Instruct", 4, 9, 3.5547, 1e-4),
        ("Qwen/Qwen2.5-7B", 1, 8, 14.2717, 5e-4),
        ("Qwen/Qwen2.5-32B-Instruct", 4, 6, 15.3916, 1e-3),
        ("Qwen/Qwen2.5-1.5B-Instruct", 4, 9, 0.772, 1e-3),
        ("Qwen/Qwen3-14B", 1, 10, 27.5185, 1e-3),
        ("Qwen/Qwen3-0.6B", 1, 11, 1.12, 1e-2),
        ("Qwen/Qwen3-32B", 2, 11, 30.59, 1e-2),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", 1, 23, 14.29, 1e-2),  # blocks from 20 MiB on are whole
    ],
)
def test_loaded_weights(name: str, tp: int, minor: int, logged: float, digit: float) -> None:
    assert abs(loaded_gib(catalogue(name), Serving(4096, tp=tp), Release(minor)) - logged) <= 2 * digit


def test_towers_and_heads_that_are_not_loaded() -> None:
    read = catalogue("Qwen/Qwen3-VL-8B-Instruct")
    parts = read.parameters.weights_by_component
    whole = rank_weights(read.architecture, read.parameters.groups, Serving(4096)).bytes
    text = rank_weights(read.architecture, read.parameters.groups, Serving(4096, language_model_only=True)).bytes
    assert whole - text == parts["vision"]
    pooled = rank_weights(read.architecture, read.parameters.groups, Serving(4096, pooling=True)).bytes
    assert whole - pooled == parts["lm_head"]


def test_a_format_told_beside_a_lone_config(tmp_path: Path) -> None:
    """nvidia/Llama-3.3-70B-Instruct-FP4 logs 39.88 to 39.89 GiB on one B200; ModelOpt's file alone says that it is NVFP4."""
    config = {**catalogue("meta-llama/Llama-3.1-70B-Instruct").facts.config}
    (tmp_path / "config.json").write_text(json.dumps(config))
    said = {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16, "exclude_modules": ["lm_head"]}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"producer": {"name": "modelopt"}, "quantization": said}))
    read = read_model(str(tmp_path), fetch=OFFLINE)
    assert abs(loaded_gib(read, Serving(4096), Release(15)) - 39.885) < 0.005 * 39.885


def llama_like(positions: int = 131_072) -> Architecture:
    arch = build("llama", one(FullAttention(32, 8, 128, 128), 32), hidden_size=4096, vocab_size=128_256)
    return replace(arch, intermediate_size=14_336, max_position_embeddings=positions)


def test_positions_of_qwen_3_vl() -> None:
    """From 0.32 on one row a position (262,144 of 128 × 2 B), four before; Nemotron-H's attention rotates nothing."""
    arch = architecture("Qwen/Qwen3-VL-30B-A3B-Instruct")
    assert rotary_table_bytes(arch) == 262_144 * 128 * 2
    assert rotary_table_bytes(arch, release=Release(31)) == 4 * 262_144 * 128 * 2
    assert rotary_table_bytes(architecture("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")) == 0


@pytest.mark.parametrize(
    ("config", "positions", "mib"),
    [
        ({"rope_theta": 5e5}, 131_072, 32),  # 131,072 × 128 × 2 B
        ({"rope_theta": 1e4, "partial_rotary_factor": 0.5}, 131_072, 16),
        ({"text_config": {"rope_theta": 1e4}}, 131_072, 32),
        ({"model_type": "opt"}, 131_072, 0),
        # what the class rotates by although the config leaves it out, like vicuna's and TinyLlama's
        ({"model_type": "llama"}, 131_072, 32),
        ({"model_type": "gpt_neox"}, 131_072, 8),
        # images' positions: four times the text's. Qwen2.5-VL-7B: 128,000 × 4 × 128 × 2 B, of 15.6271 GiB logged
        ({"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}, 128_000, 125),
        # a quarter of Qwen3.5's heads, four times 262,144 positions (here heads of 128)
        ({"rope_parameters": {"mrope_section": [11, 11, 10], "partial_rotary_factor": 0.25}}, 262_144, 64),
        (
            {
                "rope_theta": 1e4,
                "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
            },
            163_840,
            40,
        ),
        (
            {"rope_theta": 1e4, "rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096},
            131_072,
            33,
        ),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "llama3", "factor": 8.0}}, 131_072, 32),
    ],
)
def test_rotary_table(config: dict[str, Any], positions: int, mib: int) -> None:
    assert tables_of(config, llama_like(positions)) == mib * MIB


def test_rotary_tables_by_kind_of_layer() -> None:
    """Gemma 3: windowed layers rotate on a base of their own, so there are two tables of 131,072 × 256 × 2 B."""
    layers = (*one(FullAttention(16, 8, 256, 256), 1), *one(SlidingAttention(16, 8, 256, 256, window=1024), 5))
    arch = replace(build("gemma3", layers, hidden_size=3840), max_position_embeddings=131_072)
    assert tables_of({"rope_theta": 1e6}, arch) == 64 * MIB
    assert tables_of({"text_config": {"rope_theta": 1e6, "rope_local_base_freq": 1e4}}, arch) == 128 * MIB


def test_two_rotary_tables_of_gemma3_whatever_its_config_says() -> None:
    """gemma-3-1b-it, whose facts hold no base: 2 × 32,768 × 256 × 2 B of the 1.9148 GiB that vLLM 0.13 logs."""
    layers = (*one(FullAttention(4, 1, 256, 256), 4), *one(SlidingAttention(4, 1, 256, 256, window=512), 22))
    arch = replace(build("gemma3_text", layers, hidden_size=1152), max_position_embeddings=32_768)
    assert tables_of({"model_type": "gemma3_text"}, arch) == 32 * MIB


def test_rotary_table_of_proportional_scaling() -> None:
    """Gemma 4 rotates a quarter of its global heads of 512, by a table as wide as the head (`gemma4_rope.py`).

    The rest of a row is identity. 131,072 × (512 + 256 of the windowed heads) × 2 B.
    """
    layers = (*one(FullAttention(16, 2, 512, 512), 1), *one(SlidingAttention(16, 8, 256, 256, window=1024), 5))
    arch = replace(build("gemma4", layers, hidden_size=3840), max_position_embeddings=131_072)
    kinds = {
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    assert tables_of({"rope_parameters": kinds}, arch) == 192 * MIB


@pytest.mark.parametrize(("ratios", "tables"), [((0, 4, 128), 2), ((4, 128), 1)])
def test_rotary_tables_of_compressed_attention(ratios: tuple[int, ...], tables: int) -> None:
    """DeepSeek V4: 65,536 × 16 rows of 64 in fp32 for layers with a compressor, and as many for those with a window alone."""
    arch = build("deepseek_v4", [Layer((CompressedAttention(64, 512, 128, ratio),)) for ratio in ratios])
    arch = replace(arch, max_position_embeddings=1_048_576)
    yarn = {"type": "yarn", "factor": 16, "original_max_position_embeddings": 65_536}
    config = {"rope_theta": 1e4, "compress_rope_theta": 1.6e5, "qk_rope_head_dim": 64, "rope_scaling": yarn}
    assert tables_of(config, arch) == tables * 1_048_576 * 64 * 4
    nested = {"main": {"rope_type": "default"}, "compress": {**yarn, "rope_type": "yarn"}}
    assert tables_of({"qk_rope_head_dim": 64, "rope_parameters": nested}, arch) == tables * 1_048_576 * 64 * 4
