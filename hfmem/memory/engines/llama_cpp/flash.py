"""Whether llama.cpp runs flash attention, and what attention keeps beside its inputs and outputs either way.

Read from llama.cpp as vendored in llama-cpp-python 0.3.36: `src/llama-context.cpp` (`auto` asks where the first graph's attention
would run, and turns flash attention off where that is not the layer's device; a quantized V cache turns it on),
`src/llama-graph.cpp` (`build_attn_mha`: without it a layer's scores in fp32, the softmax in their place, and a mask in fp32),
`ggml/src/ggml-cuda/fattn.cu` (widths of a head, and types, that have a kernel; copies of a layer's keys and values in 16 bits where
the cache has them otherwise, part of the compute buffer since build 9489).
"""

from __future__ import annotations

from typing import Final

from hfmem.dtypes import num_bytes
from hfmem.memory.formats import GGML_BLOCKS
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    Cache,
    ChunkedAttention,
    CompressedAttention,
    FullAttention,
    IndexedAttention,
    LatentAttention,
    SlidingAttention,
    SparseLatentAttention,
)

#: widths of keys, and of values that are as wide, that have a kernel
_HEADS: Final = frozenset({40, 64, 72, 80, 96, 112, 128, 256})
#: … of keys that want values of a width, and queries on each of their heads by so many: 192, 320, 512 and latents
_WIDE_HEADS: Final = {192: (128, 8), 320: (256, 32), 512: (512, 2), 576: (512, 2)}
_TYPES: Final = frozenset({"fp32", "fp16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"})
#: models that are never run with it, and those whose attention adds a bias, which it does not take
_NEVER: Final = frozenset({"grok-1", "t5", "umt5", "mt5"})


def heads_of(kind: Cache) -> tuple[int, int, int, int] | None:
    """Heads of queries and of keys, and the widths of a key and a value as attention reads them from the cache; None: no tokens."""
    match kind:
        case FullAttention() | SlidingAttention() | ChunkedAttention() | IndexedAttention():
            return kind.num_heads, kind.num_kv_heads, kind.head_dim, kind.v_head_dim
        case LatentAttention() | SparseLatentAttention():
            return kind.num_heads, 1, kind.kv_lora_rank + kind.qk_rope_head_dim, kind.kv_lora_rank
        case CompressedAttention():
            return kind.num_heads, 1, kind.head_dim, kind.head_dim
        case _:
            return None


def runs_flash(arch: Architecture, asked: str, key_type: str, value_type: str) -> bool:
    """Whether attention is flash attention: as `asked`, with `auto` where NVIDIA's and AMD's devices have a kernel for all.

    Args:
        key_type, value_type: the cache's, by their names in `hfmem.memory.formats`.
    """
    if arch.model_type in _NEVER:
        return False
    if asked != "auto" or value_type in GGML_BLOCKS:
        return asked != "off"
    if not {key_type, value_type} <= _TYPES:
        return False
    return all(_has_kernel(*shape) for kind in arch.kinds() if (shape := heads_of(kind)) is not None)


def _has_kernel(heads: int, kv_heads: int, width: int, value_width: int) -> bool:
    if width in _HEADS:
        return value_width == width
    wanted, ratio = _WIDE_HEADS.get(width, (0, 1))
    return value_width == wanted and heads // kv_heads % ratio == 0


def scores_bytes(kind: Cache, tokens: int, cells: int) -> int:
    """Bytes of a layer's scores without flash attention, for `tokens` of a micro-batch that see `cells` each."""
    shape = heads_of(kind)
    return 0 if shape is None else num_bytes("F32", shape[0] * tokens * cells)


def copies_bytes(kind: Cache, cells: int, key_type: str, value_type: str) -> int:
    """Bytes of a layer's keys and values in 16 bits, where flash attention has to copy them from `cells` of other types. Values
    that are a part of the keys' rows are not copied twice."""
    shape = heads_of(kind)
    if shape is None:
        return 0
    _, kv_heads, width, value_width = shape
    shared = isinstance(kind, LatentAttention | SparseLatentAttention | CompressedAttention)
    elements = width * (key_type != "fp16") + value_width * (value_type != "fp16" and not shared)
    return num_bytes("F16", cells * kv_heads * elements)
