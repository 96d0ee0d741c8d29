"""Widths that llama.cpp's buffer and vLLM's graphs are reckoned from, by hand."""

from __future__ import annotations

import pytest
from example_architectures import build, one

from hfmem.memory.activations import query_width
from hfmem.memory.engines.vllm.releases import GraphSizes, Release
from hfmem.memory.graphs import graph_memory
from hfmem.model.layers import Cache, CompressedAttention, FullAttention, LatentAttention, SlidingAttention

LATENT = LatentAttention(num_heads=128, kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128)


@pytest.mark.parametrize(
    ("cache", "width"),
    [
        (FullAttention(64, 8, 128, 128), 64 * 128),
        (SlidingAttention(64, 8, 128, 64, window=9), 64 * 128),
        (LATENT, 128 * (512 + 64)),  # queries meet the latents
        (CompressedAttention(64, 512, window=128, ratio=4), 64 * 512),
    ],
)
def test_the_widest_queries(cache: Cache, width: int) -> None:
    narrow = FullAttention(1, 1, 8, 8)
    assert query_width(build("any", one(narrow, 1) + one(cache, 1) + one(narrow, 1))) == width


def test_stages_capture_their_own_layers() -> None:
    arch = build("llama", one(FullAttention(32, 8, 128, 128), 31))
    sizes = Release(33).graph_sizes(64)
    whole, half = (graph_memory(arch, Release(33), sizes, pp=pp).bytes for pp in (1, 2))
    later = sizes.pieces + sizes.whole - 2  # all but the first of each
    assert whole - half == (31 - 16) * later * 115 * 1024


def test_splits_of_keys_are_hoppers_and_not_of_images_that_attend_both_ways() -> None:
    layers, sizes = one(FullAttention(32, 8, 128, 128), 4), GraphSizes(0, 0, 3, 64)

    def first(model_type: str, capability: int) -> int:
        return graph_memory(build(model_type, layers), Release(33), sizes, compute_capability=capability).bytes

    splits = 32 * 64 * 32 * 128 * 4  # of 64 sequences, outputs of 32 heads × 128 in fp32
    assert first("llama", 90) - first("llama", 80) == splits
    assert first("gemma3", 90) == first("gemma3", 80) == first("llama", 80)
