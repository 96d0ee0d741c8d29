"""What SGLang decides by model and device before it sizes anything, and what it refuses.

Read from SGLang 0.5.23: `srt/configs/model_config.py` (`is_hybrid_swa_model`), `srt/configs/hybrid_arch.py` (models with states),
`srt/arg_groups/overrides.py` (`_MAMBA_EXTRA_BUFFER_ARCHS`), `srt/distributed/utils.py` (`get_pp_indices`) and
`srt/models/registry.py`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture

#: classes whose windowed layers get a pool of their own; everywhere else a window saves nothing
_WINDOW_POOL_CLASSES: Final = frozenset(
    {
        "BeamForCausalLM",
        "Llama4ForConditionalGeneration",
        "GptOssForCausalLM",
        "GraniteSWAForCausalLM",
        "GraniteMoeSWAForCausalLM",
        "IQuestQ1ForCausalLM",
        "MiMoV2ForCausalLM",
        "MiMoV2FlashForCausalLM",
        "Step3p5ForCausalLM",
        "Step3p7ForConditionalGeneration",
        "Gemma4ForCausalLM",
        "Gemma4ForConditionalGeneration",
        "Gemma4UnifiedForConditionalGeneration",
        "LagunaForCausalLM",
        "MellumForCausalLM",
        "MuseGlimmerForCausalLM",
        "MuseGlimmerForConditionalGeneration",
        "MuseSparkForConditionalGeneration",
        "Spark2_5ForCausalLM",
        "InklingForConditionalGeneration",
        "UnlimitedOCRForCausalLM",
    }
)
#: the same by model type, for configs that name no class
_WINDOW_POOL_TYPES: Final = frozenset(
    {
        "beam",
        "gemma4",
        "gemma4_text",
        "gpt_oss",
        "granite_swa",
        "granitemoe_swa",
        "inkling",
        "laguna",
        "llama4",
        "mellum",
        "mimo_v2",
        "mimo_v2_flash",
        "muse_glimmer",
        "muse_glimmer_text",
        "muse_spark",
        "spark2_5",
        "step3p5",
        "step3p7",
    }
)
#: those of them whose class counts a window without the token itself; the others take the config's word
_EXCLUSIVE_WINDOW_CLASSES: Final = frozenset(
    {
        "BeamForCausalLM",
        "GptOssForCausalLM",
        "Gemma4ForCausalLM",
        "Gemma4ForConditionalGeneration",
        "Gemma4UnifiedForConditionalGeneration",
        "MellumForCausalLM",
        "MuseGlimmerForCausalLM",
        "MuseGlimmerForConditionalGeneration",
        "MuseSparkForConditionalGeneration",
        "Spark2_5ForCausalLM",
        "InklingForConditionalGeneration",
    }
)
_EXCLUSIVE_WINDOW_TYPES: Final = frozenset(
    {
        "beam",
        "gemma4",
        "gemma4_text",
        "gpt_oss",
        "inkling",
        "mellum",
        "muse_glimmer",
        "muse_glimmer_text",
        "muse_spark",
        "spark2_5",
    }
)
#: state slots of a running request (`_calculate_mamba_ratio`): three, and two that track where prefixes end under the overlap
#: schedule, in classes with `extra_buffer`
_SLOTS: Final = 3
_TRACKING_SLOTS: Final = 2
#: model types with a state pool → whether their class has `extra_buffer`
_STATES: Final[dict[str, bool]] = {
    "bailing_hybrid": True,
    "falcon_h1": True,
    "falcon_mamba": False,
    "gigachat3_5": False,
    "glm5_next": True,
    "glm5_next_text": True,
    "granitemoehybrid": True,
    "inkling_text": True,
    "jet_nemotron": False,
    "kimi_k3": True,
    "kimi_linear": True,
    "lfm2": False,
    "lfm2_moe": False,
    "lfm2_vl": False,
    "mamba": False,
    "mamba2": False,
    "minicpm_sala": False,
    "minicpmv4_6": True,
    "nemotron_h": True,
    "nemotron_h_puzzle": True,
    "qwen3_5": True,
    "qwen3_5_moe": True,
    "qwen3_5_moe_text": True,
    "qwen3_5_text": True,
    "qwen3_next": True,
    "qwen4_exp": True,
    "qwen4_exp_text": True,
}
#: model types whose published configs name prediction layers by another key than `num_nextn_predict_layers`, or by none
COUNTS_PREDICTIONS_OTHERWISE: Final = frozenset(
    {
        "mimo_v2",
        "mimo_v2_flash",
        "qwen3_next",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen3_5_moe_text",
        "qwen3_5_text",
        "minicpmv4_6",
    }
)
#: model types that keep attention's rows and have no class there, nor one that its Transformers backend takes
_NOT_SERVED: Final = frozenset(
    ("git", "bark", "step5", "step5_vl", "xlnet", "moshi", "musicgen_melody", "musicgen_melody_decoder")
)
#: model types without a class there whose class in Transformers 5.23 has no `_supports_attention_backend`, which its Transformers
#: backend asks for (`resolve_transformers_arch`)
_NO_BACKEND: Final = frozenset(
    [
        "big_bird",
        "canine",
        "convbert",
        "deberta",
        "deberta-v2",
        "flaubert",
        "fnet",
        "funnel",
        "ibert",
        "layoutlm",
        "layoutlmv3",
        "lilt",
        "longformer",
        "luke",
        "markuplm",
        "megatron-bert",
        "mpnet",
        "mra",
        "mt5",
        "nystromformer",
        "openai-gpt",
        "rembert",
        "roformer",
        "splinter",
        "squeezebert",
        "t5",
        "umt5",
        "xlm",
        "yoso",
    ]
)
#: classes whose latent attention it knows (`ModelConfig`); of others its Transformers backend caches every head's keys and values
_LATENT: Final = frozenset(
    {
        "BailingMoeV2_5ForCausalLM",
        "BailingMoeV3ForCausalLM",
        "BailingMoeV3VLForConditionalGeneration",
        "DeepseekV2ForCausalLM",
        "DeepseekV32ForCausalLM",
        "DeepseekV3ForCausalLM",
        "DeepseekVL2ForCausalLM",
        "Dots3NoteForCausalLM",
        "DotsVLMForCausalLM",
        "GigaChat35ForCausalLM",
        "Glm4MoeLiteForCausalLM",
        "Glm5NextForConditionalGeneration",
        "GlmMoeDsaForCausalLM",
        "HYV4ForCausalLM",
        "KimiK25ForConditionalGeneration",
        "KimiK3ForConditionalGeneration",
        "KimiK3LinearForCausalLM",
        "KimiLinearForCausalLM",
        "KimiVLForConditionalGeneration",
        "LongcatFlashForCausalLM",
        "MiniCPM3ForCausalLM",
        "MistralLarge3ForCausalLM",
        "PixtralForConditionalGeneration",
        "SarvamMLAForCausalLM",
    }
)
#: encoder-decoder models it serves: their cross attention takes rows of the same pool
_CROSS: Final = frozenset({"mllama", "mllama_text_model", "whisper"})


def windows_apart(arch: Architecture) -> bool:
    """Whether windowed layers get a pool of their own."""
    if arch.architectures:
        return not _WINDOW_POOL_CLASSES.isdisjoint(arch.architectures)
    return arch.model_type in _WINDOW_POOL_TYPES


def window_leaves_out_itself(arch: Architecture) -> bool:
    """Whether the model's class counts a window without the token that looks back (`get_attention_sliding_window_size`)."""
    if arch.architectures:
        return not _EXCLUSIVE_WINDOW_CLASSES.isdisjoint(arch.architectures)
    return arch.model_type in _EXCLUSIVE_WINDOW_TYPES


def check_model(arch: Architecture, *, states: bool, cross: bool, latent: bool) -> None:
    """Refuse models with states, cross or latent attention that SGLang has no cache for.

    Raises:
        UnsupportedError: one of those.
    """
    if arch.model_type in _NOT_SERVED or arch.model_type in _NO_BACKEND:
        raise UnsupportedError(f"SGLang 0.5.23 does not serve {arch.model_type} models")
    if states and arch.model_type not in _STATES:
        raise UnsupportedError(f"SGLang 0.5.23 has no state pool for {arch.model_type} models")
    if latent and arch.architectures and _LATENT.isdisjoint(arch.architectures):
        raise UnsupportedError(f"SGLang 0.5.23 has no latent attention for {arch.architectures[0]}")
    if cross and arch.model_type not in _CROSS:
        raise UnsupportedError(f"SGLang 0.5.23 does not serve {arch.model_type} models")


def slots_per_request(arch: Architecture, serving: Serving) -> int:
    """State slots that a running request takes: one where the radix cache is off (`_calculate_mamba_ratio`)."""
    if serving.enable_prefix_caching is False:
        return 1
    return _SLOTS + (_TRACKING_SLOTS if _STATES.get(arch.model_type, False) else 0)


def check_heads(arch: Architecture, tp: int) -> None:
    """Refuse a tensor-parallel size that does not divide the attention heads, or MiMo V2's KV heads in fused matrices.

    Raises:
        UnsupportedError: with SGLang's condition.
    """
    heads = arch.num_attention_heads
    if heads is not None and heads % tp:
        raise UnsupportedError(f"SGLang wants total_num_heads % tp_size == 0: {heads} heads, tp {tp}")
    kv_heads = arch.num_kv_heads
    if kv_heads is not None and kv_heads % tp and "MiMoV2ForCausalLM" in arch.architectures[:1] and _fuses_qkv(arch):
        message = f"{kv_heads} KV heads, attention tp {tp}"  # the file's pieces are for so many ranks (`model_hook.py`)
        raise UnsupportedError(f"SGLang wants MiMo V2's num_key_value_heads % attn_tp_size == 0: {message}")


def _fuses_qkv(arch: Architecture) -> bool:
    return any(spec.pattern.endswith(".qkv_proj.weight") for spec in arch.tensors)


def kv_heads_per_rank(num_kv_heads: int, tp: int) -> int:
    """KV heads one rank holds: shared out, or one where there are more ranks than heads.

    Raises:
        UnsupportedError: neither divides the other.
    """
    if num_kv_heads >= tp:
        if num_kv_heads % tp:
            raise UnsupportedError(f"SGLang wants total_num_kv_heads % tp_size == 0: {num_kv_heads} KV heads, tp {tp}")
        return num_kv_heads // tp
    if tp % num_kv_heads:
        raise UnsupportedError(f"SGLang wants tp_size % total_num_kv_heads == 0: {num_kv_heads} KV heads, tp {tp}")
    return 1


def pipeline_stages(num_layers: int, pp: int) -> tuple[range, ...]:
    """Layers of each pipeline stage: what does not divide goes to the last stages.

    Raises:
        UnsupportedError: more stages than layers.
    """
    if pp > num_layers:
        raise UnsupportedError(f"{num_layers} layers do not fill {pp} pipeline stages")
    base, more = divmod(num_layers, pp)
    starts = [stage * base + max(stage - (pp - more), 0) for stage in range(pp + 1)]
    return tuple(range(start, end) for start, end in pairwise(starts))
