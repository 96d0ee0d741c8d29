"""The workspaces in which vLLM's kernels for routed experts keep what goes in and out, and whether they stay when a layer has run.

Read from vLLM 0.33.0 `fused_moe/modular_kernel.py` (`workspace13`, `workspace2`),
`experts/{triton,marlin,flashinfer_cutlass}_moe.py`, the choice of kernels in
`fused_moe/oracle/{unquantized,fp8,nvfp4,mxfp4}.py`, and the same files of 0.14 to 0.31.
"""

from __future__ import annotations

from typing import Final, Literal

from hfmem.dtypes import BITS
from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.mxfp4 import PADDED_BY_DEVICE, kernel_of
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Box, Column, Component, ExpertSplit, Row
from hfmem.remembered import remembered

#: how routed experts are stored: in 16 bits or fp8, in fp8 with scales of blocks, in integers of 4 bits, in MXFP4 or NVFP4
ExpertFormat = Literal["plain", "fp8_blocks", "int4", "fp4"]

#: the first release that takes TensorRT-LLM's kernels on data-centre Blackwell unasked, which allocate for themselves
_TRTLLM: Final = 20
#: the first release that takes FlashInfer's CUTLASS kernels on Hopper for fp8 blocks where experts are dealt out whole
_CUTLASS: Final = 17


def element_bytes(arch: Architecture) -> int:
    """Bytes of an activation: half precision also for fp32 checkpoints."""
    return 2 if arch.dtype in ("F32", "F64") else BITS[arch.dtype] // 8


def workspace_bytes(
    arch: Architecture, tokens: int, tp: int, *, experts: ExpertFormat = "plain", chunk: int | None = None
) -> int:
    """The two workspaces of a step's chosen experts; 0 where there are none. `chunk`: tokens that their kernel takes at once."""
    at_once = tokens if chunk is None else min(tokens, chunk)
    return _experts_width(arch, tp, experts in ("int4", "fp4")) * at_once * element_bytes(arch)


def keeps_workspaces(arch: Architecture, serving: Serving, release: Release, experts: ExpertFormat) -> bool:
    """Whether workspaces of experts stay beside what runs after their layer: kernels that ask vLLM for them do, from 0.14 on."""
    generation = serving.compute_capability // 10
    if experts == "fp4" and arch.model_type in PADDED_BY_DEVICE:
        own = not kernel_of(serving.engine, serving.compute_capability, release).workspaces
    elif generation == 10:
        own = experts != "int4" and release.minor >= _TRTLLM
    else:
        own = generation == 9 and experts == "fp8_blocks" and serving.ep and release.minor >= _CUTLASS
    return release.keeps_workspaces and not own


@remembered
def _experts_width(arch: Architecture, tp: int, packed: bool) -> int:
    """Elements a token has in the two workspaces of its chosen experts; 0 where there are none."""
    chosen = arch.num_experts_per_tok
    if not chosen or not arch.num_experts:
        return 0
    inner = expert_width(arch)
    inner = -(-inner // tp)
    second = inner if packed else max(inner, arch.hidden_size)
    return chosen * (max(2 * inner, arch.hidden_size) + second)


def expert_width(arch: Architecture) -> int:
    """The widest expert's intermediate size: the dimension in which ranks cut its matrices, of gate and up in one twice as long as
    of down."""
    own: dict[tuple[Box, ...], int] = {}
    for spec in arch.tensors:
        if spec.component is not Component.EXPERTS or not isinstance(spec.split, ExpertSplit):
            continue
        shape = spec.shape if spec.split.axis is not None else spec.shape[1:]
        if len(shape) != 2:  # a bias
            continue
        match spec.split.inner:
            case Row():
                width = shape[-1]
            case Column(parts=parts):  # gate's and up's rows, whichever way the matrix lies
                width = min(parts) if parts else shape[-2]
            case _:
                width = min(shape)
        own[spec.boxes] = min(own.get(spec.boxes, width), width)
    return max(own.values(), default=0)
