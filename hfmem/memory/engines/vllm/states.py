"""vLLM's recurrent states: their shapes on one rank, dtypes, and how many a request holds.

Read from vLLM 0.33.0: `model_executor/layers/mamba/mamba_utils.py` (shapes, dtypes), `model_executor/models/config.py` (the
state dtype Nemotron-H and Qwen3.5 set), the mixers' `get_kv_cache_spec` (prefill checkpoints), `v1/attention/backends/gdn_attn.py`.
"""

from __future__ import annotations

from typing import Final, assert_never

from hfmem.dtypes import num_bytes
from hfmem.errors import UnsupportedError
from hfmem.memory.engines.vllm.qwen4_exp import QWEN4
from hfmem.memory.engines.vllm.support import divide
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    CcaState,
    DeltaNetState,
    KimiDeltaState,
    LinearAttentionState,
    Mamba1State,
    Mamba2State,
    MatrixMemoryState,
    RecurrentCache,
    RgLruState,
    RwkvState,
    ShortConvState,
)

#: models whose vLLM config keeps the state in fp32 unless config.json says otherwise (`NemotronHForCausalLMConfig`)
_FP32_STATE: Final = frozenset({"nemotron_h", "nemotron_h_puzzle"})
#: model types whose vLLM config takes the state's dtype from config.json; others keep it in the model's dtype
_READS_STATE_DTYPE: Final = _FP32_STATE | {
    "qwen3_5",
    "qwen3_5_text",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
    "qwen4_exp",
    "qwen4_exp_text",
}
#: gated delta nets that vLLM prefills with FLA's kernels, which export no checkpoint (`olmo_gdn_linear_attn.py`)
_NO_CHECKPOINT: Final = frozenset({"olmo_hybrid", "olmo3_2_hybrid"})
#: head size of FlashKDA's prefill, which exports a checkpoint
_FLASHKDA_WIDTH: Final = 128
#: tokens between the states FlashInfer's gated delta net prefill can export (`FLASHINFER_GDN_CHECKPOINT_ALIGNMENT`)
_GDN_ALIGNMENT: Final = 64
_HOPPER: Final = 90
_BLACKWELL: Final = 100
_BLACKWELL_GDN_WIDTH: Final = 128


def state_bytes(
    cache: RecurrentCache, arch: Architecture, dtype: str, tp: int, state_dtype: str | None = None, *, ahead: int = 0
) -> int:
    """Bytes of one state on one rank: convolutions and states are split over ranks by channels and heads.

    Mamba 2's groups are repeated until the ranks share them evenly. Convolutions are in the model's dtype; the state is in
    `state_dtype`, else in what the config names (where the model's class reads it), else in the model's. `ahead` tokens of a draft
    lengthen all convolutions but Mamba 1's (`num_spec`).

    Raises:
        UnsupportedError: `tp` does not divide channels or heads, or vLLM has no such layer.
    """
    match cache:
        case Mamba1State(intermediate_size=width, state_size=n, conv_kernel=k):
            channels = divide(width, tp, "Mamba channels")
            return num_bytes(dtype, channels * (k - 1)) + num_bytes(
                state_dtype or _state_dtype(cache, arch, dtype), channels * n
            )
        case Mamba2State(num_heads=heads, head_dim=d, state_size=n, num_groups=groups, conv_kernel=k):
            shared = groups if groups % tp == 0 else tp
            channels = divide(heads * d + 2 * shared * n, tp, "convolution channels")
            own = divide(heads, tp, "Mamba heads")
            return num_bytes(dtype, channels * (k - 1 + ahead)) + num_bytes(
                state_dtype or _state_dtype(cache, arch, dtype), own * d * n
            )
        case DeltaNetState(num_k_heads=hk, num_v_heads=hv, head_k_dim=dk, head_v_dim=dv, conv_kernel=k):
            channels = divide(2 * hk * dk + hv * dv, tp, "convolution channels")
            own = divide(hv, tp, "delta net heads")
            return num_bytes(dtype, channels * (k - 1 + ahead)) + num_bytes(
                state_dtype or _state_dtype(cache, arch, dtype), own * dk * dv
            )
        case KimiDeltaState(num_heads=heads, head_k_dim=dk, head_v_dim=dv, conv_kernel=k):
            channels = divide(heads * (2 * dk + dv), tp, "convolution channels")
            own = divide(heads, tp, "delta net heads")
            state = num_bytes(state_dtype or "F32", own * dv * dv)
            return num_bytes(dtype, channels * (k - 1 + ahead)) + state
        case LinearAttentionState(num_heads=heads, head_dim=d):
            return num_bytes(
                state_dtype or cache.state_dtype or dtype, divide(heads, tp, "linear attention heads") * d * d
            )
        case ShortConvState(hidden_size=width, conv_kernel=k):
            own = width if is_replicated(cache, arch) else divide(width, tp, "convolution channels")
            return num_bytes(dtype, own * (k - 1 + ahead))
        case RgLruState() | RwkvState() | CcaState() | MatrixMemoryState():
            raise UnsupportedError(f"there is no state cache for {arch.model_type} models")
        case _:
            assert_never(cache)


def is_replicated(cache: RecurrentCache, arch: Architecture) -> bool:
    """Whether every rank holds the whole state: the history of Qwen4-Exp's n-grams, a copy of which is its checkpoint."""
    return isinstance(cache, ShortConvState) and arch.model_type in QWEN4


def _state_dtype(cache: Mamba1State | Mamba2State | DeltaNetState, arch: Architecture, dtype: str) -> str:
    if arch.model_type not in _READS_STATE_DTYPE:
        return dtype
    return cache.state_dtype or ("F32" if arch.model_type in _FP32_STATE else dtype)


def request_states(cache: RecurrentCache, arch: Architecture, capability: int) -> int:
    """States one request holds under prefix caching: the last two, and a prefill checkpoint where the layer exports one.

    Mamba 2 does, and on Hopper and Blackwell Qwen's gated delta net (FlashInfer's prefill) and Kimi's with a bounded gate.
    """
    match cache:
        case Mamba2State():
            return 3
        case KimiDeltaState(head_k_dim=width, bounded_gate=bounded):
            return 3 if bounded and width == _FLASHKDA_WIDTH and capability >= _HOPPER else 2
        case DeltaNetState() | ShortConvState():  # each exports one where all do
            return 3 if checkpoint_alignment(arch, capability) > 1 else 2
        case _:
            return 2


def _flashinfer_prefill(cache: RecurrentCache, arch: Architecture, capability: int) -> bool:
    """Whether FlashInfer prefills a gated delta net (`_resolve_gdn_prefill_backend`): on Hopper, on Blackwell with heads of 128."""
    if not isinstance(cache, DeltaNetState) or arch.model_type in _NO_CHECKPOINT:
        return False
    return capability == _HOPPER or (capability >= _BLACKWELL and cache.head_k_dim == _BLACKWELL_GDN_WIDTH)


def checkpoint_alignment(arch: Architecture, capability: int) -> int:
    """Tokens that block boundaries must be a multiple of, so that every layer can export a state there; 1: no constraint."""
    states = [cache for cache in arch.caches() if isinstance(cache, RecurrentCache)]
    nets = [s for s in states if not is_replicated(s, arch)]
    return _GDN_ALIGNMENT if nets and all(_flashinfer_prefill(s, arch, capability) for s in nets) else 1
