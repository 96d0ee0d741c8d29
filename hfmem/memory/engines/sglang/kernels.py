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
#: model types that run on Triton's, FlashInfer's or FlashAttention 3's kernels there
_PLAIN: Final = frozenset({"falcon_h1", "jet_nemotron", "lfm2", "lfm2_moe", "granitemoehybrid", "iquest_q1", "whisper"})
#: classes that are given a page there whatever is asked: of one token with the radix cache on, where prefixes' states are tracked
_TRACKED: Final = frozenset(
    {
        "Qwen3NextForCausalLM",
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
        "InternS2PreviewForConditionalGeneration",
        "InternS2MobiusForConditionalGeneration",
    }
)
#: classes that run on FlashAttention 4's kernels there
_FA4: Final = frozenset(
    {
        "InklingForConditionalGeneration",
        "MiMoV2FlashForCausalLM",
        "MiMoV2ForCausalLM",
        "Step3p5ForCausalLM",
        "Step3p7ForConditionalGeneration",
    }
)
#: classes whose cache is fp8 unless told
_FP8_BY_DEFAULT: Final = frozenset({"MuseSparkForConditionalGeneration"})
#: model types whose sparse latent attention learns sinks, which want a cache in bf16
_SINKS: Final = frozenset({"hy_v4"})
_SM100: Final = range(100, 110)
_HOPPER: Final = range(90, 100)
_BLACKWELL: Final = 100
_SM12: Final = range(120, 130)
#: classes whose fp8 latents are packed on SM120 and SM121
_SMALL_BLACKWELL_PACKS: Final = frozenset({"GlmMoeDsaForCausalLM"})
#: tokens of a page that kernels take, the one first that they are given unless another is asked for: any, sparse latent
#: attention's, TensorRT-LLM's for latents and for keys and values, block-sparse attention's and FlashAttention 4's
_ANY: Final[tuple[int, ...]] = (1,)
_SPARSE_PAGES: Final[tuple[int, ...]] = (64,)
_TRTLLM_LATENT_PAGES: Final = (64, 32)
_TRTLLM_PAGES: Final = (64, 16, 32, 128)
_INDEXED_PAGE: Final = 128
_FA4_PAGES: Final = (128,)


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
    """Tokens of a page: what was asked for where the kernels chosen for the device take it, else what these want.

    Args:
        capability: the device's compute capability. drafts: something drafts, with the number of branches left to SGLang.
        radix: the radix cache is on.
    """
    if attention.indexed and capability in _HOPPER:
        return asked or _INDEXED_PAGE
    data_centre = capability in _SM100
    if data_centre and not _TRACKED.isdisjoint(arch.architectures):
        return 1 if radix or drafts else _TRTLLM_PAGES[0]
    pages = _SPARSE_PAGES if attention.sparse else _ANY
    if data_centre and not attention.sparse:
        pages = _data_centre_pages(arch, attention, drafts)
    return asked if asked is not None and (pages is _ANY or asked in pages) else pages[0]


def _data_centre_pages(arch: Architecture, attention: Attention, drafts: bool) -> tuple[int, ...]:
    """Pages that the kernels of data-centre Blackwell take."""
    if attention.latent:
        return _ANY if _TRTLLM_LATENT.isdisjoint(arch.architectures) else _TRTLLM_LATENT_PAGES
    if arch.model_type in _PLAIN:
        return _ANY
    if attention.indexed or not _FA4.isdisjoint(arch.architectures):
        return _FA4_PAGES
    if drafts and _TRTLLM_DRAFTING.isdisjoint(arch.architectures):
        return _ANY
    return _FA4_PAGES if attention.uneven else _TRTLLM_PAGES


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


def packs_latents(arch: Architecture, capability: int) -> bool:
    """Whether fp8 latents carry scales and a rotary part in bf16: for Hopper's kernels, and for FlashInfer's that GLM runs on with
    small Blackwells; TensorRT-LLM's take them raw (`_dsa_split_backend_resolution`)."""
    small = capability in _SM12 and not _SMALL_BLACKWELL_PACKS.isdisjoint(arch.architectures)
    return small or capability < _BLACKWELL
