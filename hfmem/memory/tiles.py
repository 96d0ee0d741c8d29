"""What kernels of packed weights round a rank's part of an expert up to, once the weights are loaded.

Read from vLLM 0.14, 0.17, 0.20 to 0.31 and 0.33: `quantization/utils/flashinfer_fp4_moe.py`
(`prepare_nvfp4_moe_layer_for_fi_or_cutlass`); from 0.32 `quantization/utils/humming/{priority,moe}.py` (on Hopper, Humming before
Marlin: gate and up together to 256 rows, inputs to 128); from 0.20, 0.24, 0.27 and 0.30 to 0.33 `quantization/utils/
{marlin_utils,marlin_utils_fp4,marlin_utils_fp8}.py` (`marlin_moe_padded_intermediate`); `quantization/moe_wna16.py` (groups halved
until they suit a rank's part). Experts of gpt-oss: `mxfp4.py`.
"""

from __future__ import annotations

from fractions import Fraction
from math import lcm, prod
from typing import Final

from hfmem.checkpoint.tensors import TensorGroup
from hfmem.errors import UnsupportedError
from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.shares import Sharding, rounded_up
from hfmem.model.inventory import Column, ExpertSplit, TensorSpec
from hfmem.records import dataclass

#: rows that the kernels of NVFP4 want of an expert without a gate; of one with a gate, and columns, TensorRT-LLM's, and from when
_FP4_ROWS: Final = 128
_FP4_GATED_ROWS, _FP4_GATED_RELEASE = 64, 28
_FP4_COLUMNS, _FP4_COLUMNS_RELEASE = 256, 20
#: scales of blocks, and the matrices that DeepGEMM takes
_BLOCK_SCALES: Final = (".weight_scale_inv", ".weight_scale")
_DEEPGEMM_ROWS, _DEEPGEMM_COLUMNS = 64, 128
#: compute capability from which devices compute in fp8
_COMPUTES_FP8: Final = 89
#: generations of devices that compute in NVFP4
_COMPUTES_FP4: Final = (10, 12)
#: the first release that serves packed experts by Humming on Hopper, those in which Marlin pads them in NVFP4 and others, and what
#: these pad to
_HUMMING_RELEASE: Final = 32
_MARLIN_FP4_RELEASE, _MARLIN_RELEASE = 24, 27
_HOPPER: Final = 90
_HUMMING_ROWS, _HUMMING_COLUMNS = 256, 128
_MARLIN_INNER, _MARLIN_HIDDEN = 64, 128
_MARLIN_GROUPS: Final = frozenset({-1, 32, 64, 128})
_LEAST_GROUP: Final = 32


@dataclass(frozen=True, slots=True)
class _Part:
    """A rank's part of one matrix, whose columns (`is_down`) or rows are its share of the expert's inner size; `merged`: how many
    such matrices lie in one parameter."""

    rows: int
    columns: int
    merged: int
    is_down: bool


def kernel_share(
    spec: TensorSpec,
    group: TensorGroup,
    codes: TensorGroup,
    group_size: int | None,
    sharding: Sharding,
    capability: int,
    release: Release,
    *,
    gated: bool,
) -> Fraction:
    """What a rank holds of an expert's codes or of what stands beside them, to its share of the file's.

    Args:
        codes: the packed matrix, `group` itself or what it stands beside. group_size: elements of a row that share a scale; None:
            not known, -1: all of them.
        gated: the model's experts have a gate.

    Raises:
        UnsupportedError: groups of a GPTQ or AWQ file that no smaller ones suit.
    """
    if not isinstance(spec.split, ExpertSplit) or len(spec.shape) < 2 or group.elements <= 1:
        return Fraction(1)
    part = _part(spec, sharding, gated)
    if codes.dtype == "U8":
        if capability // 10 in _COMPUTES_FP4:
            return _fp4_share(part, capability // 10, release, gated=gated)
        if group_size != 16:  # MXFP4
            return Fraction(1)
    elif codes.dtype != "I32":
        return Fraction(1)
    size, own = group_size or -1, part.columns if part.is_down else part.rows
    smaller = _smaller_group(size, part, own) if codes.pattern.endswith(".qweight") else size
    hidden = part.rows if part.is_down else part.columns
    humming = release.minor >= _HUMMING_RELEASE and capability == _HOPPER
    by_marlin = smaller == size and size in (*_MARLIN_GROUPS, 16) and (size == 16 or hidden % _MARLIN_HIDDEN == 0)
    if group.pattern.endswith(".qzeros") and (humming or not by_marlin) and codes.shape[-2] != spec.shape[-1]:
        return Fraction(0)  # of a symmetric GPTQ file: what is not Marlin's does without
    rows, columns = Fraction(part.rows), part.columns
    if humming:
        rows = Fraction(rounded_up(part.rows * part.merged, _HUMMING_ROWS), part.merged)
        columns = rounded_up(columns, _HUMMING_COLUMNS)
    elif by_marlin and release.minor >= (_MARLIN_FP4_RELEASE if size == 16 else _MARLIN_RELEASE):
        inner = rounded_up(own, _FP4_ROWS if hidden % _MARLIN_HIDDEN else lcm(_MARLIN_INNER, max(size, 1)))
        rows, columns = (rows, inner) if part.is_down else (Fraction(inner), columns)
    taller = rows / part.rows
    if group is codes:
        return taller * Fraction(columns, part.columns)
    if size < 0:
        return taller
    in_file = Fraction(-(-spec.shape[-1] // size) * part.columns, spec.shape[-1])  # groups, the rank's share of them
    return taller * Fraction(columns, smaller) / in_file


def expanded_scales(spec: TensorSpec, group: TensorGroup, codes: TensorGroup | None, capability: int) -> int | None:
    """Bytes of a matrix's scales for blocks of fp8 where a kernel has one for each row and block of columns; None: they are kept as
    they are.

    Marlin, on devices that do not compute in fp8, has them in 16 bits (`marlin_utils_fp8.py`); DeepGEMM on data-centre Blackwell
    those of dense layers as exponents, four in a word (`fp8_utils.py`, `deepgemm_post_process_fp8_weight_block`).
    """
    if codes is None or codes.dtype != "F8_E4M3" or len(spec.shape) < 2 or len(group.shape) < 2:
        return None
    rows, columns = spec.shape[-2:]
    routed = isinstance(spec.split, ExpertSplit)
    blocks = group.shape[-1]
    if not group.pattern.endswith(_BLOCK_SCALES) or min(group.shape[-2:]) < 2:
        return None
    if capability < _COMPUTES_FP8 and (routed or group.pattern.endswith("_inv")):
        return prod(group.shape[:-2]) * rows * blocks * 2
    if capability // 10 == 10 and not routed and rows % _DEEPGEMM_ROWS == 0 and columns % _DEEPGEMM_COLUMNS == 0:
        return rows * -(-blocks // 4) * 4
    return None


def _part(spec: TensorSpec, sharding: Sharding, gated: bool) -> _Part:
    assert isinstance(spec.split, ExpertSplit)
    ranks = 1 if sharding.expert_parallel else sharding.expert_ranks
    out, inputs = spec.shape[-2:]
    inner = spec.split.inner
    if isinstance(inner, Column):
        return _Part(-(-out // ranks), inputs, 2 if gated and len(inner.parts) < 2 else 1, False)
    return _Part(out, -(-inputs // ranks), 1, True)


def _smaller_group(size: int, part: _Part, own: int) -> int:
    """The group size of a GPTQ or AWQ expert: the file's, halved until it divides a rank's part."""
    smaller = size
    while size > 0 and (part.columns % smaller or own % smaller):
        smaller //= 2
        if smaller < _LEAST_GROUP:
            raise UnsupportedError(
                f"{own} rows of an expert on each rank do not suit groups of {size}: vLLM makes none smaller than "
                f"{_LEAST_GROUP}"
            )
    return smaller


def _fp4_share(part: _Part, generation: int, release: Release, *, gated: bool) -> Fraction:
    """On devices that compute in it: a rank's rows, and under TensorRT-LLM's kernels (10.x) its columns, are padded."""
    step, wide = 1 if gated else _FP4_ROWS, 1
    if generation == 10:
        if gated and release.minor >= _FP4_GATED_RELEASE:
            step = _FP4_GATED_ROWS
        wide = _FP4_COLUMNS if release.minor >= _FP4_COLUMNS_RELEASE else 1
    inner, hidden = (part.columns, part.rows) if part.is_down else (part.rows, part.columns)
    return Fraction(rounded_up(inner, step) * rounded_up(hidden, wide), inner * hidden)
