"""What vLLM refuses, and in which words.

Read from vLLM 0.33.0: `model_executor/models/registry.py` (models no longer supported, plugins), `config/model.py`
(`verify_with_parallel_config`), `distributed/utils.py` (`divide`) and the assertions of the attention modules.
"""

from __future__ import annotations

from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.engines.vllm.classes import has_stages
from hfmem.memory.serving import Serving
from hfmem.memory.shares import in_image_attention
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Row
from hfmem.model.layers import (
    CcaState,
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    FullAttention,
    LatentAttention,
    MatrixMemoryState,
    RecurrentCache,
    RgLruState,
    RwkvState,
    SlidingAttention,
    SparseLatentAttention,
)

#: class name → last version that had it (`_PREVIOUSLY_SUPPORTED_MODELS`); without RWForCausalLM, Falcon's old name, whose
#: checkpoints load as FalconForCausalLM
_DROPPED: Final[dict[str, str]] = {
    "AquilaForCausalLM": "0.24.0",
    "AquilaModel": "0.24.0",
    "ArcticForCausalLM": "0.28.0",
    "AyaVisionForConditionalGeneration": "0.24.0",
    "BaiChuanForCausalLM": "0.23.0",
    "BaichuanForCausalLM": "0.23.0",
    "BambaForCausalLM": "0.23.0",
    "ChameleonForConditionalGeneration": "0.28.0",
    "DonutForConditionalGeneration": "0.10.2",
    "Dots1ForCausalLM": "0.23.0",
    "FuyuForCausalLM": "0.25.0",
    "Grok1ForCausalLM": "0.24.0",
    "Grok1ModelForCausalLM": "0.24.0",
    "HCXVisionForCausalLM": "0.28.0",
    "InternLM2VEForCausalLM": "0.23.0",
    "InternLMForCausalLM": "0.23.0",
    "JAISLMHeadModel": "0.22.0",
    "MPTForCausalLM": "0.28.0",
    "MiniMaxForCausalLM": "0.23.0",
    "MiniMaxM1ForCausalLM": "0.23.0",
    "MiniMaxText01ForCausalLM": "0.23.0",
    "MiniMaxVL01ForConditionalGeneration": "0.23.0",
    "MllamaForConditionalGeneration": "0.10.2",
    "MotifForCausalLM": "0.10.2",
    "MptForCausalLM": "0.28.0",
    "OuroForCausalLM": "0.26.0",
    "PersimmonForCausalLM": "0.25.0",
    "Phi3SmallForCausalLM": "0.9.2",
    "Phi4FlashForCausalLM": "0.10.2",
    "Phi4MultimodalForCausalLM": "0.12.0",
    "Plamo2ForCausalLM": "0.26.0",
    "QWenLMHeadModel": "0.23.0",
    "QwenVLForConditionalGeneration": "0.23.0",
    "StableLMEpochForCausalLM": "0.28.0",
    "TeleChatForCausalLM": "0.25.0",
    "XverseForCausalLM": "0.23.0",
}
#: class names that transformers 5 has, so that the Transformers backend serves them although vLLM's own class is gone
_BACKEND_SERVES: Final = frozenset(
    {"PersimmonForCausalLM", "Dots1ForCausalLM", "FuyuForCausalLM", "Phi4MultimodalForCausalLM"}
)

#: class name → the plugin that brings it back
_PLUGINS: Final[dict[str, str]] = {
    "BartModel": "https://github.com/vllm-project/bart-plugin",
    "BartForConditionalGeneration": "https://github.com/vllm-project/bart-plugin",
    "Florence2ForConditionalGeneration": "https://github.com/vllm-project/bart-plugin",
    "MBartForConditionalGeneration": "https://github.com/vllm-project/bart-plugin",
}

#: encoder-decoder models that vLLM does serve
_CROSS_ATTENTION: Final = frozenset({"whisper", "cohere_asr", "nemotron_parse"})

#: model types neither vLLM nor its Transformers backend serves: no class there dispatches through the attention interface
_NOT_SERVED: Final = frozenset(
    {
        *("gpt_neo", "mpt", "bamba", "codegen", "openai-gpt", "cpmant", "blt", "git", "bark"),
        *("xlnet", "moshi", "musicgen_melody", "musicgen_melody_decoder", "bailing_moe_linear", "baichuan_m1", "yuan"),
        # published code that SGLang has a class for
        *("sdar", "sdar_moe", "llada2_moe", "jet_nemotron", "minicpm_sala", "spark2_5", "gigachat3_5"),
    }
)

#: model types whose vLLM class has no pipeline stages (without the interface `SupportsPP`)
_ONE_STAGE: Final = frozenset(
    (
        *(
            "hrm_text",
            "mamba2",
            "zamba2",
            "gemma3n",
            "gemma3n_text",
            "aria",
            "idefics3",
            "smolvlm",
            "phi4mm",
            "paddleocr_vl",
        ),
        *("NemotronH_Nano_VL_V2", "NemotronH_Nano_Omni_Reasoning_V3", "NemotronH_Super_Omni_Reasoning_V3"),
        *("NemotronH_Omni_Reasoning_V3", "diffusion_gemma", "whisper"),
        *("alice_ai", "domyn_edge", "dory", "iquestloopcoder"),
    )
)
#: model types that vLLM reads with DeepSeek V3's config class, whatever their attention (`transformers_utils/config.py`)
_READ_AS_LATENT: Final = frozenset({"kimi_k2"})
#: model types whose vLLM class refuses to be split over ranks
_ONE_RANK: Final = frozenset({"dory"})


def check_model(arch: Architecture) -> None:
    """Refuse models that vLLM 0.33 does not serve.

    Raises:
        UnsupportedError: with vLLM's reason.
    """
    for name in arch.architectures:
        if name in _PLUGINS:
            raise UnsupportedError(f"vLLM 0.33 needs the plugin at {_PLUGINS[name]} to serve {name}")
        if name in _DROPPED and name not in _BACKEND_SERVES:
            raise UnsupportedError(f"vLLM served {name} until v{_DROPPED[name]} and does not any more")
    if arch.model_type in _NOT_SERVED:
        raise UnsupportedError(f"vLLM 0.33 does not serve {arch.model_type} models")
    caches = arch.caches()
    if arch.model_type in _READ_AS_LATENT and any(isinstance(cache, FullAttention) for cache in caches):
        raise UnsupportedError(
            f"vLLM 0.33 builds {arch.model_type} models with latent attention, which this one has not"
        )
    if any(isinstance(cache, RwkvState | RgLruState | CcaState | MatrixMemoryState) for cache in caches):
        raise UnsupportedError(f"vLLM 0.33 has no state cache for {arch.model_type} models")
    if any(isinstance(cache, CrossAttention) for cache in caches) and arch.model_type not in _CROSS_ATTENTION:
        raise UnsupportedError(f"vLLM 0.33 serves no encoder-decoder model of the type {arch.model_type}")


def check_ranks(arch: Architecture, tp: int, pp: int) -> None:
    """Refuse ranks or pipeline stages of a class that has none.

    Raises:
        UnsupportedError: with vLLM's reason.
    """
    one_stage = arch.model_type in _ONE_STAGE if has_stages(arch) is None else not has_stages(arch)
    if pp > 1 and one_stage:
        raise UnsupportedError(f"vLLM 0.33 has no pipeline parallelism for {arch.model_type} models (no `SupportsPP`)")
    if tp > 1 and arch.model_type in _ONE_RANK:
        raise UnsupportedError(f"vLLM 0.33 serves {arch.model_type} models with tensor_parallel_size=1 only")


def check_heads(arch: Architecture, tp: int) -> None:
    """Refuse a tensor-parallel size that does not divide the attention heads.

    Raises:
        UnsupportedError: in vLLM's words.
    """
    heads = arch.num_attention_heads
    if heads is not None and heads % tp:
        raise UnsupportedError(
            f"Total number of attention heads ({heads}) must be divisible by tensor parallel size ({tp})."
        )


def check_encoder(arch: Architecture, tp: int) -> None:
    """Refuse a tensor-parallel size that does not divide the heads of an image encoder whose attention the ranks share out.

    Raises:
        UnsupportedError: with vLLM's condition.
    """
    heads = arch.vision_heads
    if heads is None or heads % tp == 0:
        return
    outputs = (spec for spec in arch.tensors if isinstance(spec.split, Row) and spec.split.divides is None)
    if any(in_image_attention(spec) for spec in outputs):
        raise UnsupportedError(
            f"the image encoder's attention heads ({heads}) must be divisible by tensor parallel size ({tp})"
        )


def check_experts(arch: Architecture) -> None:
    """Refuse expert parallelism of a model without experts.

    Raises:
        UnsupportedError: in vLLM's words.
    """
    if not arch.num_experts:
        raise UnsupportedError(
            "Number of experts in the model must be greater than 0 when expert parallelism is enabled."
        )


def check_context_ranks(arch: Architecture, serving: Serving) -> None:
    """Refuse decode context parallelism that vLLM does not have: of windows, or of more ranks than hold one head's copies.

    Raises:
        UnsupportedError: with vLLM's condition (`verify_with_parallel_config`, `SlidingWindowSpec`).
    """
    dcp, tp, caches = serving.dcp, serving.tp, arch.caches()
    if dcp == 1:
        return
    if tp % dcp:
        raise UnsupportedError(f"vLLM wants tp_size={tp} divisible by dcp_size={dcp}")
    if caches and all(isinstance(cache, RecurrentCache) for cache in caches):  # it divides by their KV heads: none
        raise UnsupportedError("vLLM's decode context parallelism needs attention layers, whose tokens it shares out")
    if any(isinstance(cache, SlidingAttention | ChunkedAttention | CompressedAttention) for cache in caches):
        raise UnsupportedError("vLLM's decode context parallelism does not support sliding windows")
    if any(isinstance(cache, LatentAttention | SparseLatentAttention) for cache in caches):
        return
    heads, kv_heads = arch.num_attention_heads or 0, arch.num_kv_heads or arch.num_attention_heads or 1
    if tp <= kv_heads or dcp > tp // kv_heads:
        raise UnsupportedError(
            f"vLLM's decode context parallelism ({dcp}) needs as many tensor-parallel ranks ({tp}) for each of the "
            f"model's {kv_heads} KV heads"
        )
    if heads // kv_heads % dcp:
        raise UnsupportedError(
            f"vLLM wants the query heads of a KV head ({heads // kv_heads}) divisible by decode context parallel size ({dcp})"
        )


def kv_heads_per_rank(num_kv_heads: int, tp: int) -> int:
    """KV heads one rank holds: shared out, or replicated where there are more ranks than heads.

    Raises:
        UnsupportedError: neither divides the other.
    """
    if num_kv_heads >= tp:
        return divide(num_kv_heads, tp, "KV heads")
    if tp % num_kv_heads:
        raise UnsupportedError(f"vLLM cannot replicate {num_kv_heads} KV heads over {tp} tensor-parallel ranks")
    return 1


def divide(value: int, tp: int, what: str) -> int:
    """`value / tp`, exactly.

    Raises:
        UnsupportedError: `tp` does not divide it.
    """
    if value % tp:
        raise UnsupportedError(f"{value} {what} do not divide over {tp} tensor-parallel ranks")
    return value // tp


def pipeline_stages(num_layers: int, pp: int) -> tuple[range, ...]:
    """Layers of each pipeline stage (`get_pp_indices`): what does not divide goes to the last stages but one, then backwards.

    Raises:
        UnsupportedError: more stages than layers.
    """
    if pp > num_layers:
        raise UnsupportedError(f"{num_layers} layers do not fill {pp} pipeline stages")
    sizes = [num_layers // pp] * pp
    for back in range(2, num_layers % pp + 2):
        sizes[-back] += 1
    stages = []
    start = 0
    for size in sizes:
        stages.append(range(start, start + size))
        start += size
    return tuple(stages)
