"""Where vLLM's classes and kernels hold more of a matrix on a rank than the checkpoint's share.

Read from vLLM 0.33.0: `fused_moe/oracle/fp8.py`, `models/kimi_k3/nvidia/{model,kda}.py`; from 0.17 to 0.31:
`quantization/{awq_marlin,auto_awq}.py`, and 0.33 `quantization/auto_gptq.py`, with `kernels/linear/mixed_precision/
{machete,marlin}.py`; SGLang 0.5.23 `hardware_backend/gpu/quantization/{gptq,awq}_kernels.py`. Packed experts: `tiles.py`, in MXFP4
`mxfp4.py`.
"""

from __future__ import annotations

from fractions import Fraction
from math import gcd
from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.shares import Sharding, block_size
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Column, ExpertSplit, Row, TensorSpec
from hfmem.model.layers import KimiDeltaState

_KIMI_K3: Final = "kimi_k3"
#: rows of an expert that a rank of Kimi K3 holds at least where ranks cut experts (`min_moe_intermediate_per_partition`)
_LEAST_EXPERT_ROWS: Final = 256
#: rows that Kimi K3's joint projection of delta attention is padded to a multiple of
_JOINT_ROWS: Final = 16

#: the first release that looks for a kernel for AWQ's dense layers (0.17's takes Marlin), and what Machete wants of a matrix
_AWQ_BY_KERNEL: Final = 19
#: the first release whose class for GPTQ holds no order of inputs
_NO_ORDER: Final = 33
_HOPPER: Final = 9
_MACHETE_ROWS, _MACHETE_COLUMNS = 128, 64

#: the smallest block of fp8 that vLLM cuts the file's blocks into
_LEAST_BLOCK: Final = 32
#: rows that Inkling's router is padded to a multiple of (`models/inkling/nvidia/moe.py`)
_ROUTER_ROWS: Final = 8


def refined_scales(spec: TensorSpec, name: str, scales: tuple[int, ...], ranks: int) -> Fraction | None:
    """A rank's share of an expert's scales for blocks of fp8 that the cut between ranks goes through; None where it does not.

    vLLM then keeps scales of smaller blocks, down to 32, whose values repeat those of the file (`fused_moe/oracle/fp8.py`:
    `refine_fp8_moe_block_shape`).

    Args:
        scales: the shape of the stored scales `name`, `[out / block, in / block]`. ranks: those that share the expert.

    Raises:
        UnsupportedError: no block that small enough fits the rank's part.
    """
    if not isinstance(spec.split, ExpertSplit) or ranks == 1 or len(scales) != 2 or len(spec.shape) < 2:
        return None
    if not name.endswith("weight_scale_inv"):
        return None
    out, inputs = spec.shape[-2:]
    inner, hidden = (out, inputs) if isinstance(spec.split.inner, Column) else (inputs, out)
    across, along = block_size(out, scales[0]), block_size(inputs, scales[1])
    own = inner // ranks
    if own % across == 0 and own % along == 0:
        return None
    block = gcd(across, along, own, hidden)
    if block < _LEAST_BLOCK:
        raise UnsupportedError(
            f"{name}: the output_size of gate's and up's weight = {own} is not divisible by weight quantization block_n = {across}"
        )
    return Fraction((own // block) * (hidden // block), scales[0] * scales[1])


def padded_share(arch: Architecture, spec: TensorSpec, sharding: Sharding, part: Fraction) -> Fraction:
    """`part`, a rank's share of the tensor under vLLM, with what the model's class adds to it."""
    if "inkling_text" in (arch.model_type, arch.text_type) and spec.pattern.endswith(".mlp.gate.weight"):
        rows = spec.shape[0]  # routed and sink experts
        return part * Fraction(-(-rows // _ROUTER_ROWS) * _ROUTER_ROWS, rows)
    if arch.model_type != _KIMI_K3:
        return part
    if isinstance(spec.split, ExpertSplit):
        if sharding.expert_parallel or sharding.expert_ranks == 1:
            return part
        inner = spec.shape[-2] if isinstance(spec.split.inner, Column) else spec.shape[-1]
        return max(part, Fraction(_LEAST_EXPERT_ROWS, inner))
    state = next((cache for cache in arch.kinds() if isinstance(cache, KimiDeltaState)), None)
    if state is None:
        return part
    heads = state.num_heads // sharding.tp
    if spec.pattern.endswith(".self_attn.A_log"):  # those of its heads, of as many as the file stores
        return Fraction(heads, spec.elements)
    if spec.pattern.endswith(".self_attn.b_proj.weight"):  # the last rows of q, k, v, gate, f_a and b in one matrix
        rows = 4 * heads * state.head_k_dim + state.head_k_dim + heads
        return Fraction(heads + -rows % _JOINT_ROWS, state.num_heads)
    return part


def copies_beside_codes(
    spec: TensorSpec,
    leaf: str,
    codes: tuple[int, ...],
    sharding: Sharding,
    capability: int,
    release: Release,
    engine: str,
) -> int:
    """How often the bytes of what a GPTQ or AWQ file stores beside a matrix's codes are held, once its kernel has them.

    Of an AWQ file, and of an asymmetric one of compressed-tensors, the zero points, as they are; on Hopper vLLM's Machete keeps
    each of four bits as a scaled half. Of a GPTQ file, which is symmetric where a fast kernel serves it, Marlin drops them and the
    order of inputs that are in their order; Machete leaves both unread (before 0.33, whose class has no such order). A bias of
    zeros that the model has not is passed over.

    Args:
        leaf: `qzeros`, `weight_zero_point`, `g_idx`, or the `bias` of a matrix that has none.
        codes: the shape of the matrix's codes. AWQ packs a row's; GPTQ packs a column's.
    """
    if leaf == "bias":
        return 0
    of_awq = leaf == "weight_zero_point" or codes[-2] == spec.shape[-1]
    routed = isinstance(spec.split, ExpertSplit) or len(spec.shape) < 2
    by_machete = engine == "vllm" and capability // 10 == _HOPPER and _suits_machete(spec, sharding)
    if leaf == "g_idx":
        return 1 if by_machete and not routed and release.minor < _NO_ORDER else 0
    if not of_awq:
        return 1 if routed or by_machete else 0
    return 4 if by_machete and not routed and release.minor >= _AWQ_BY_KERNEL else 1


def _suits_machete(spec: TensorSpec, sharding: Sharding) -> bool:
    rows, columns = spec.shape[-2:] if len(spec.shape) > 1 else (1, 1)
    own = (rows // sharding.tp, columns) if isinstance(spec.split, Column) else (rows, columns)
    own = (rows, columns // sharding.tp) if isinstance(spec.split, Row) else own
    return own[0] % _MACHETE_ROWS == 0 and own[1] % _MACHETE_COLUMNS == 0
