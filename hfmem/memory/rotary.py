"""Tables of cosines and sines that vLLM and SGLang keep beside the weights, each shared by the layers that rotate alike.

Read from vLLM 0.30 to 0.33, `model_executor/layers/rotary_embedding/`: one row a position, as wide as the rotated part of a head,
in the model's dtype; and from SGLang, `srt/layers/rotary_embedding/base.py`: in fp32. vLLM counts them as loaded weights: Llama 3.1
8B logs 14.9889 GiB of which 1/32 GiB are the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hfmem.dtypes import BITS
from hfmem.memory.engines.vllm.releases import Release
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    ChunkedAttention,
    CompressedAttention,
    FullAttention,
    IndexedAttention,
    LatentAttention,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.model.rotary import Rotation, Rotations
from hfmem.records import replace

#: positions of images and videos outrun those of the text (`mrope.py`)
_MROPE_POSITIONS: Final = 4
#: types whose positions never outrun their tokens (`qwen3_vl.py`, `mrope_positions_factor`), and the first release that knows
_POSITIONS_OF_TOKENS: Final = frozenset(
    (
        *("qwen3_vl", "qwen3_vl_text", "qwen3_vl_moe", "qwen3_vl_moe_text", "qwen3_5", "qwen3_5_text"),
        *("qwen3_5_moe", "qwen3_5_moe_text", "qwen4_exp", "qwen4_exp_text"),
    )
)
_ONCE: Final = 32
#: types whose attention rotates nothing, whatever the config names (`nemotron_h.py`)
_NOT_ROTATED: Final = frozenset({"nemotron_h", "nemotron_h_puzzle"})
#: scalings whose table holds `factor` times the positions before scaling
_STRETCHED: Final = frozenset({"yarn", "linear", "dynamic", "deepseek_yarn"})


def rotary_table_bytes(arch: Architecture, engine: str = "vllm", release: Release | None = None) -> int:
    """Bytes of all tables; 0 where neither the config nor its class names a rotary embedding, or the class rotates nothing.

    SGLang keeps them in fp32, and adds no rows for images.
    """
    if arch.rotations is None or arch.model_type in _NOT_ROTATED:
        return 0
    positions = arch.max_position_embeddings or 0
    if compressed := _compressed(arch, arch.rotations, positions):
        return compressed
    sglang = engine == "sglang"
    once = (release or Release()).minor >= _ONCE and bool({arch.model_type, arch.text_type} & _POSITIONS_OF_TOKENS)
    width = 4 if sglang else 2 if arch.dtype in ("F32", "F64") else BITS[arch.dtype] // 8
    return sum(
        _rows(rotation, positions, stretched=not sglang and not once) * int(head * rotation.part) * width
        for head, rotation in _kinds(arch, arch.rotations)
    )


def _kinds(arch: Architecture, rotations: Rotations) -> Iterator[tuple[int, Rotation]]:
    """(rotated width of a head, how) of each table: one for full layers, and one for windowed ones that rotate otherwise."""
    full = windowed = None
    for cache in arch.kinds():
        match cache:
            case SlidingAttention() | ChunkedAttention():
                windowed = windowed or cache.head_dim
            case FullAttention() | IndexedAttention():
                full = full or cache.head_dim
            case LatentAttention() | SparseLatentAttention():
                full = full or cache.qk_rope_head_dim
            case CompressedAttention():
                return  # `_compressed`
            case _:
                pass
    if full:
        yield full, rotations.full
    if windowed and (rotations.apart or windowed != full):
        yield windowed, rotations.windowed


def _compressed(arch: Architecture, rotations: Rotations, positions: int) -> int:
    """DeepSeek V4's tables, in fp32: of layers with a compressor, stretched, and of those with a window alone, as they are
    (`models/deepseek_v4/common/rope.py`, `DeepseekV4ScalingRotaryEmbedding`)."""
    ratios = {cache.ratio for cache in arch.kinds() if isinstance(cache, CompressedAttention)}
    width = rotations.compressed_width
    if not ratios or width is None:
        return 0
    stretched = rotations.compressed
    rows = (
        positions if stretched.scaling == "default" else _rows(replace(stretched, scaling="deepseek_yarn"), positions)
    )
    return 4 * width * (rows * any(ratio > 1 for ratio in ratios) + positions * any(ratio <= 1 for ratio in ratios))


def _rows(rotation: Rotation, positions: int, *, stretched: bool = True) -> int:
    """Positions that one table holds."""
    original = positions if rotation.original_positions is None else rotation.original_positions
    if rotation.scaling in ("longrope", "su"):  # short factors' and long factors' tables
        return positions + original
    if rotation.scaling in _STRETCHED and rotation.factor is not None:
        return int(original * rotation.factor)
    return positions * _MROPE_POSITIONS if stretched and rotation.sections else positions
