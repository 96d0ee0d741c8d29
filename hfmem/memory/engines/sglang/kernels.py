"""What the attention kernels that SGLang picks for a model and a device ask of the cache: tokens of a page, and its format.

Read from SGLang 0.5.23: `srt/arg_groups/model_override_base.py` (`get_default_attn_backend`), `srt/arg_groups/overrides.py` (page
sizes that a backend forces, DSA's cache format, Muse Spark's), `srt/arg_groups/model_overrides` (backends of model classes).
"""

from __future__ import annotations

from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.model.architecture import Architecture
from hfmem.records import dataclass

#: classes whose latent attention runs on TensorRT-LLM's kernels on data-centre Blackwell (`deepseek_v2.py`, `kimi_k3.py`)
_TRTLLM_LATENT: Final = frozenset(
    {
        "DeepseekV3ForCausalLM",
        "KimiK25ForConditionalGeneration",
        "KimiK3ForConditionalGeneration",
        "MistralLarge3ForCausalLM",
        "PixtralForConditionalGeneration",
        "LongcatFlashForCausalLM",
    }
)
#: classes that run on TensorRT-LLM's kernels there with a draft, too; others want `--speculative-eagle-topk` told for that
_TRTLLM_DRAFTING: Final = frozenset(
    {
        "BeamForCausalLM",
        "Exaone4ForCausalLM",
        "ExaoneMoEForCausalLM",
        "ExaoneMoeForCausalLM",
        "Gemma4ForCausalLM",
        "Gemma4ForConditionalGeneration",
        "Gemma4UnifiedForConditionalGeneration",
        "GptOssForCausalLM",
        "Llama4ForCausalLM",
        "Llama4ForConditionalGeneration",
        "NemotronHForCausalLM",
        "NemotronHPuzzleForCausalLM",
        "Olmo2ForCausalLM",
        "Olmo3ForCausalLM",
    }
)
#: model types that run on Triton's, FlashInfer's or FlashAttention 3's kernels there, a token a page
_PLAIN: Final = frozenset({"falcon_h1", "jet_nemotron", "lfm2", "lfm2_moe", "granitemoehybrid", "iquest_q1"})
#: … with the radix cache on, which is resolved later than their kernels
_PLAIN_WITH_RADIX: Final = frozenset({"qwen3_next", "qwen3_5", "qwen3_5_moe"})
_FA4_DRAFTING: Final = frozenset({"mimo_v2", "mimo_v2_flash"})
#: classes whose cache is fp8 unless told
_FP8_BY_DEFAULT: Final = frozenset({"MuseSparkForConditionalGeneration"})
#: model types whose sparse latent attention learns sinks, which want a cache in bf16
_SINKS: Final = frozenset({"hy_v4"})
_SM100: Final = range(100, 110)
_HOPPER: Final = range(90, 100)
_BLACKWELL: Final = 100
#: page of sparse latent attention's kernels, of TensorRT-LLM's, of block-sparse attention's and of FlashAttention 4's
_SPARSE_PAGE: Final = 64
_TRTLLM_PAGE: Final = 64
_INDEXED_PAGE: Final = 128
_FA4_PAGE: Final = 128


@dataclass(frozen=True, slots=True)
class Attention:
    """Kinds of attention in a model. `uneven`: keys are wider than values, which TensorRT-LLM's kernels do not take."""

    latent: bool
    sparse: bool
    indexed: bool
    uneven: bool


def page_size(
    arch: Architecture, asked: int | None, capability: int, attention: Attention, *, drafts: bool, radix: bool
) -> int:
    """Tokens of a page: what the kernels chosen for the device want, else what was asked for, else one.

    Args:
        capability: the device's compute capability. drafts: something drafts, with the number of branches left to SGLang.
        radix: the radix cache is on.
    """
    if attention.sparse:
        return _SPARSE_PAGE
    if asked is not None:
        return asked
    data_centre = capability in _SM100
    if attention.indexed:
        return _INDEXED_PAGE if data_centre or capability in _HOPPER else 1
    if not data_centre:
        return 1
    if attention.latent:
        return 1 if _TRTLLM_LATENT.isdisjoint(arch.architectures) else _TRTLLM_PAGE
    if arch.model_type in _PLAIN or (radix and arch.model_type in _PLAIN_WITH_RADIX):
        return 1
    if attention.uneven:
        return 1 if drafts and arch.model_type not in _FA4_DRAFTING else _FA4_PAGE
    return 1 if drafts and _TRTLLM_DRAFTING.isdisjoint(arch.architectures) else _TRTLLM_PAGE


def kv_dtype_default(arch: Architecture, kv_dtype: str) -> str:
    """The cache format asked for, or where none was the one that a model's class takes by itself."""
    return "fp8" if kv_dtype == "auto" and not _FP8_BY_DEFAULT.isdisjoint(arch.architectures) else kv_dtype


def sparse_latent_dtype(arch: Architecture, kv_dtype: str, capability: int) -> str:
    """The cache format of sparse latent attention: fp8 on Blackwell and bf16 before, whatever the checkpoint declares.

    Raises:
        UnsupportedError: a format that its kernels do not read.
    """
    sinks = arch.model_type in _SINKS
    if kv_dtype == "auto":
        return "fp8" if capability >= _BLACKWELL and not sinks else "bf16"
    if kv_dtype not in (("bf16",) if sinks else ("bf16", "fp8")):
        words = (
            "learnable sinks require a bfloat16 KV cache"
            if sinks
            else "only supports bf16/bfloat16 or fp8_e4m3 kv_cache_dtype"
        )
        raise UnsupportedError(f"DeepSeek DSA {words} in SGLang")
    return kv_dtype


def packs_latents(capability: int) -> bool:
    """Whether fp8 latents carry scales and a rotary part in bf16: Hopper's kernels; TensorRT-LLM's take them raw."""
    return capability < _BLACKWELL
