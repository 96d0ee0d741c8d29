"""Experts in MXFP4 as the serving engines' kernels hold them: padded, and their scales in an order of the kernel's own.

gpt-oss stores of each expert `gate_up_proj` `[2 I, H]` and `down_proj` `[H, I]`: `…_blocks` of two values a byte, `…_scales` of one
byte for 32 values, and `…_bias`. A rank's I and H are rounded up to what the device's kernel wants. Read from vLLM 0.10 to 0.33
(`quantization/mxfp4.py`, `fused_moe/oracle/mxfp4.py`, `utils/mxfp4_utils.py`, `third_party/triton_kernels/tensor_details/
layout_details/hopper_{scale,value}.py`) and SGLang 0.5.23 (`quantization/mxfp4.py`, `fused_moe_triton/layer.py`,
`model_overrides/gpt_oss.py`). Logged by vLLM: gpt-oss-20b on an H100, 0.19, 13.64 GiB (Triton); gpt-oss-120b at TP 2 on H100s,
0.15, 32.98 (Triton), at TP 4 on A100s, 0.10, 17.2217 (Marlin).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.shares import Sharding, rounded_up
from hfmem.model.architecture import Architecture
from hfmem.records import dataclass

#: model types whose experts the engines hold like this
PADDED_BY_DEVICE: Final = frozenset({"gpt_oss"})

#: values that share a scale
_BLOCK: Final = 32
#: rows to whose multiple Hopper's order of scales pads them: 2 × 8 warps × 2 × 8
_HOPPER_ROWS: Final = 256
#: bytes of a row and rows to whose multiple its order of values pads them, and in releases 0.17 to 0.21
_HOPPER_VALUES: Final = (32, 16)
_HOPPER_VALUES_WIDE: Final = (64, 64)
_WIDE: Final = range(17, 22)
#: the first release that brings the Triton kernels along: 0.11.1
_BUNDLED: Final = 11
#: the first release that frees the file's scales once their ordered copy is made, and the first that pads its columns to 4, not 2
_FREES_SCALES: Final = 25
_WIDER_SCALES: Final = 26
#: the first release whose TensorRT-LLM kernels have the intermediate size padded to 128; 256 before
_NARROW_TRTLLM: Final = 28
#: a tensor's name after its matrix
_PARTS: Final = {
    "_blocks": "blocks",
    ".weight": "blocks",
    "_scales": "scales",
    ".weight_scale": "scales",
    "_bias": "bias",
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """What a kernel holds: `inner` and `hidden` are what a rank's intermediate size and the hidden size are rounded up to;
    `wide_biases`: biases in fp32 instead of bf16; `ordered_values`: what Hopper's order pads a row's bytes and the rows to;
    `ordered_scales`: a copy of the scales in an order of its own, their columns padded to a multiple of this; `keeps_scales`: the
    file's own beside it; `workspaces`: it asks vLLM for workspaces, which stay (`v1/worker/workspace.py`).
    """

    inner: int
    hidden: int
    wide_biases: bool = False
    ordered_values: tuple[int, int] = (1, 1)
    ordered_scales: int | None = None
    keeps_scales: bool = True
    workspaces: bool = False


def kernel_of(engine: str, compute_capability: int, release: Release) -> Kernel:
    """The kernel that the engine takes by default on NVIDIA devices of this compute capability (90: Hopper)."""
    generation = compute_capability // 10
    if engine == "sglang":
        if generation in (10, 12):
            return Kernel(128, 256, wide_biases=generation == 10)  # FlashInfer's
        if generation == 9:
            return Kernel(64, 1, wide_biases=True, ordered_values=_HOPPER_VALUES, ordered_scales=4)
        return Kernel(64, 1, wide_biases=True)
    if generation == 9 and release.minor >= _BUNDLED:
        columns = 4 if release.minor >= _WIDER_SCALES else 2
        values = _HOPPER_VALUES_WIDE if release.minor in _WIDE else _HOPPER_VALUES
        return Kernel(64, 1, True, values, columns, keeps_scales=release.minor < _FREES_SCALES)
    if generation == 10:
        return Kernel(128 if release.minor >= _NARROW_TRTLLM else 256, 256, wide_biases=True)
    return Kernel(128, 256, workspaces=True)  # Marlin


def held_share(pattern: str, arch: Architecture, sharding: Sharding, kernel: Kernel) -> Fraction | None:
    """The bytes that a rank holds of a stored tensor of all experts, as a share of the tensor's; None: it is none of theirs."""
    if (found := _tensor_of_experts(pattern)) is None:
        return None
    matrix, part = found
    hidden, inner, experts = arch.hidden_size, arch.intermediate_size, arch.num_experts
    assert inner is not None and experts
    own_hidden = rounded_up(hidden, kernel.hidden)
    own_inner = rounded_up(inner if sharding.expert_parallel else -(-inner // sharding.expert_ranks), kernel.inner)
    if matrix == "gate_up_proj":
        rows, columns, own_rows, own_columns = 2 * inner, hidden, 2 * own_inner, own_hidden
    else:
        rows, columns, own_rows, own_columns = hidden, inner, own_hidden, own_inner
    if part == "bias":
        expert = Fraction(own_rows * (2 if kernel.wide_biases else 1), rows)
    elif part == "scales" and kernel.ordered_scales is not None:
        ordered = rounded_up(own_rows, _HOPPER_ROWS) * rounded_up(own_columns // _BLOCK, kernel.ordered_scales)
        kept = own_rows * own_columns // _BLOCK if kernel.keeps_scales else 0
        expert = Fraction((ordered + kept) * _BLOCK, rows * columns)
    elif part == "scales":
        expert = Fraction(own_rows * own_columns, rows * columns)
    else:
        width, height = kernel.ordered_values
        expert = Fraction(rounded_up(own_rows, height) * rounded_up(own_columns // 2, width) * 2, rows * columns)
    on_rank = -(-experts // sharding.expert_ranks) if sharding.expert_parallel else experts
    return expert * Fraction(on_rank, experts)


def is_packed(pattern: str, dtype: str) -> bool:
    """Whether the tensor holds experts' values in MXFP4."""
    found = _tensor_of_experts(pattern)
    return dtype == "U8" and found is not None and found[1] == "blocks"


def _tensor_of_experts(pattern: str) -> tuple[str, str] | None:
    """The matrix and which part of it a tensor is: by the file's names, or by those of a model counted from its config alone."""
    for matrix in ("gate_up_proj", "down_proj"):
        if (rest := pattern.rpartition(f".experts.{matrix}")[2]) in _PARTS:
            return matrix, _PARTS[rest]
    return None
