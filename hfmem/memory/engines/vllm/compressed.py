"""DeepSeek V4's and V4.1's caches in vLLM: packed rows of the window and of groups of tokens, index keys, unfinished groups.

Read from vLLM 0.33.0 `models/deepseek_v4` and `models/deepseek_v41`, on Hopper: `get_kv_cache_spec` of attention, indexer, window
and compressor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.engines.vllm.specs import Kind, PagedSpec, Spec, StateSpec, ceil_div
from hfmem.memory.formats import SCALE_BYTES
from hfmem.model.layers import CompressedAttention

_FP32_BYTES: Final = 4
#: bytes of a packed row: 448 in fp8, 64 rotary ones in bf16, 7 scales and one of padding; pages are whole multiples of 576
_V4_ROW: Final = 584
_V4_ALIGNMENT: Final = 576
_V4_WINDOW_BLOCK: Final = 64
#: DeepSeek V4's compressor state: ratio → tokens of a page
_V4_STATE_BLOCK: Final[dict[int, int]] = {4: 4, 128: 8}
#: DeepSeek V4.1: tokens of a page of rows and of the window's, those of the ring in which the unfinished group waits
V41: Final = frozenset({"deepseek_v41", "deepseek_v41_text"})
V41_BLOCK: Final = 64
_V41_WINDOW_BLOCK: Final = 32
_V41_RING: Final = 8
#: one indexer key with its fp32 scale for each 128 elements (DeepSeek V3.2)
_INDEX_SCALE_GROUP: Final = 128


def v4_specs(cache: CompressedAttention, fmt: str, block: int) -> Iterator[PagedSpec]:
    """DeepSeek V4: the window rows, compressed rows, index keys, fp32 states of both compressors, in pages of whole 576 bytes."""
    if fmt not in ("fp8", "fp8_e5m2"):
        raise UnsupportedError(f"vLLM's packed cache of compressed attention is fp8 only, not {fmt}")
    row, ratio, index = cache.head_dim, cache.ratio, cache.index_head_dim
    if row != 512:
        raise UnsupportedError(f"vLLM packs compressed rows of 512 elements, not {row}")
    yield PagedSpec(Kind.SLIDING_MLA, _V4_WINDOW_BLOCK, 1, _V4_ROW, ("row", row), window=cache.window).aligned(
        _V4_ALIGNMENT
    )
    if not ratio:
        return
    if ratio not in _V4_STATE_BLOCK:
        raise UnsupportedError(f"vLLM compresses 4 or 128 tokens into a row, not {ratio}")
    span = 2 if cache.overlap else 1

    def state(width: int, name: str) -> PagedSpec:
        values_and_gates = 2 * span * width * _FP32_BYTES
        spec = PagedSpec(
            Kind.SLIDING_MLA, _V4_STATE_BLOCK[ratio], 1, values_and_gates, (name, width), window=span * ratio
        )
        return spec.aligned(_V4_ALIGNMENT)

    if index is not None:
        key = index + ceil_div(index, _INDEX_SCALE_GROUP) * SCALE_BYTES
        yield PagedSpec(Kind.MLA, block, 1, key, ("index", index), tokens_per_state=ratio).aligned(_V4_ALIGNMENT)
        yield state(index, "index state")
    yield PagedSpec(Kind.MLA, block, 1, _V4_ROW, ("row", row), tokens_per_state=ratio).aligned(_V4_ALIGNMENT)
    yield state(row, "state")


def v41_specs(cache: CompressedAttention, fmt: str, block: int) -> Iterator[Spec]:
    """DeepSeek V4.1: a source's rows and index keys, every layer's window, the fp32 ring of a source that pools tokens."""
    if fmt not in ("fp8", "fp8_e5m2") or cache.head_dim != 512:
        raise UnsupportedError(
            f"vLLM's packed cache of compressed attention is 512 elements in fp8, not {cache.head_dim} in {fmt}"
        )
    ratio, index = cache.ratio, cache.index_head_dim
    shape = ("row", cache.head_dim)
    if ratio:
        yield PagedSpec(Kind.MLA, block, 1, _V4_ROW, shape, tokens_per_state=ratio).aligned(_V4_ALIGNMENT)
    if ratio and index is not None:
        key = index + index // _INDEX_SCALE_GROUP * SCALE_BYTES
        yield PagedSpec(Kind.MLA, block, 1, key, ("index", index), tokens_per_state=ratio).aligned(_V4_ALIGNMENT)
    window = PagedSpec(Kind.SLIDING_MLA, _V41_WINDOW_BLOCK, 1, _V4_ROW, shape, window=cache.window)
    yield window.aligned(_V4_ALIGNMENT)
    if ratio > 1:
        yield StateSpec(_V41_RING, _V41_RING * 2 * cache.head_dim * _FP32_BYTES, 1, ("ring",))
