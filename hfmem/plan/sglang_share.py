"""SGLang's default `mem_fraction_static`: what it leaves for activations, graphs and ranks, by the size of the device.

Read from SGLang 0.5.23: `srt/arg_groups/memory_hook.py` (`handle_gpu_memory_settings`, `reserve_for_graph_mb`,
`adjust_mem_fraction_for_vlm`), `srt/arg_groups/cuda_graph_hook.py` (batch sizes, models whose prefill is not captured).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Component
from hfmem.model.layers import (
    CompressedAttention,
    CrossAttention,
    KimiDeltaState,
    LatentAttention,
    SparseLatentAttention,
)
from hfmem.records import dataclass
from hfmem.units import MIB

#: device memory in MiB below which … → tokens of a prefill chunk, largest captured decode batch on up to three ranks and on more
_SIZES: Final = (
    (20 * 1024, 2048, 8, 8),
    (35 * 1024, 4096, 48, 160),
    (60 * 1024, 4096, 32, 160),
    (160 * 1024, 8192, 256, 512),
)
_LARGEST: Final = (16384, 512, 512)
#: MiB: attention's metadata and slack, a chunk's token, a captured batch's sequence, a captured prefill size, latent attention's
_META, _TOKEN, _SEQUENCE, _PREFILL_SIZE, _LATENT_GRAPHS = 512, Fraction(3, 2), 2, 8, 1536
_LEAST_TOKENS: Final = 2048
#: devices above 60 GiB keep at least this
_LARGE, _LEAST_OF_LARGE = 60 * 1024, 10 * 1024
#: vision encoders: ViT-L's layers and hidden size, and by how much the share shrinks for it and for a larger one
_VIT_LAYERS, _VIT_HIDDEN = 24, 1024
_VIT_SHARE, _VIT_SCALE = 0.95, 0.1


#: multimodal classes whose prefill is captured all the same (`multimodal_breakable_cuda_graph_supported_model_archs`)
_CAPTURED: Final = frozenset(
    {
        "MiniMaxM3SparseForConditionalGeneration",
        "Cohere2VisionForConditionalGeneration",
        "Glm5NextForConditionalGeneration",
        "PaddleOCRVLForConditionalGeneration",
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
        "Qwen4ExpForConditionalGeneration",
        "MuseGlimmerForConditionalGeneration",
        "MuseSparkForConditionalGeneration",
        "KimiK3ForConditionalGeneration",
        "KimiK25ForConditionalGeneration",
        "MiniMaxM3SparseForCausalLM",
    }
)
#: multimodal classes whose towers it leaves out unless told `--enable-multimodal` (`ModelConfig`)
_TEXT_ALONE: Final = frozenset(
    {
        "Gemma3ForConditionalGeneration",
        "Llama4ForConditionalGeneration",
        "Step3VLForConditionalGeneration",
        "InklingForConditionalGeneration",
    }
)


#: classes that SGLang reads by a config of its own → what it finds as `num_hidden_layers` of `vision_config`, and as `hidden_size`
#: whatever a checkpoint says (None: as it says, or 1152). `getattr` has ViT-L's as defaults: Qwen's says `depth`, MiniMax M3's
#: stays a dict; Gemma's are the class's own
_OWN_VISION: Final = {
    "qwen3_5": (_VIT_LAYERS, None),
    "qwen3_5_moe": (_VIT_LAYERS, None),
    "qwen4_exp": (_VIT_LAYERS, None),
    "kimi_k3": (27, 1024),
    "gemma3n": (_VIT_LAYERS, 2048),
    "gemma4_unified": (16, 768),
    "minimax_m3_vl": (_VIT_LAYERS, _VIT_HIDDEN),
}
_QWEN_HIDDEN: Final = 1152
#: classes whose prefill is captured up to so many tokens (`apply_muse_glimmer_prefill_cuda_graph_max_bs_default`)
_SMALL_PREFILL: Final = {"MuseGlimmerForCausalLM": 512, "MuseGlimmerForConditionalGeneration": 512}
#: classes whose pools are sized once graphs are captured (`MUSE_SPARK_ENV_DEFAULTS`), so that little is reserved for these; and
#: what is then, in MiB, with and without a vision encoder
_SIZED_AFTER_CAPTURE: Final = frozenset({"MuseSparkForConditionalGeneration"})
_AFTER_CAPTURE, _VISION_AFTER_CAPTURE = 1536, 8 * 1024
#: model types whose features lie in memory that processes share on large Hoppers, what that is and what a cache of features is
#: (`SGLANG_MM_FEATURE_CACHE_MB`, `SGLANG_VLM_CACHE_SIZE_MB`)
_SHARES_FEATURES: Final = frozenset({"qwen3_vl", "qwen3_vl_moe"})
_SHARED_FEATURES, _FEATURES = 1024 * MIB, 100 * MIB


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the share depends on beside the device: latent attention, whether prefill is captured in graphs and up to how many
    tokens (None: a chunk's), the vision encoder's layers and hidden size where there is one, and whether pools are sized once
    graphs are captured. `multimodal`: images or sound are served; `shares_features`: by Qwen3-VL's way on large Hoppers."""

    latent: bool = False
    captures_prefill: bool = True
    vision: tuple[int, int] | None = None
    most_captured: int | None = None
    sized_after_capture: bool = False
    multimodal: bool = False
    shares_features: bool = False


def served_model(arch: Architecture) -> ServedModel:
    """What the share depends on of a model. SGLang takes ViT-L's size where `vision_config` has no key that it reads."""
    caches = arch.caches()
    towers = any(spec.component is Component.VISION for spec in arch.tensors)
    towers = towers and _TEXT_ALONE.isdisjoint(arch.architectures)
    multimodal = towers or any(isinstance(cache, CrossAttention) for cache in caches)
    delta = any(isinstance(cache, KimiDeltaState) for cache in caches)
    compressed = any(isinstance(cache, CompressedAttention) for cache in caches)
    layers, hidden = arch.vision_size or (None, None)
    if arch.model_type in _OWN_VISION:
        layers, own = _OWN_VISION[arch.model_type]
        hidden = own or hidden or _QWEN_HIDDEN
    described = arch.vision_size is not None or arch.model_type in _OWN_VISION
    captured = not multimodal or not _CAPTURED.isdisjoint(arch.architectures)
    return ServedModel(
        latent=any(isinstance(cache, LatentAttention | SparseLatentAttention) for cache in caches),
        captures_prefill=captured and not compressed and not (delta and not arch.model_type.startswith("glm5_next")),
        vision=(layers or _VIT_LAYERS, hidden or _VIT_HIDDEN) if towers and described else None,
        most_captured=next((_SMALL_PREFILL[name] for name in arch.architectures if name in _SMALL_PREFILL), None),
        sized_after_capture=not _SIZED_AFTER_CAPTURE.isdisjoint(arch.architectures),
        multimodal=multimodal,
        shares_features=arch.model_type in _SHARES_FEATURES,
    )


def features_bytes(memory_bytes: int, capability: int, model: ServedModel) -> int:
    """What a multimodal model's features take of the pool's memory (`mm_runtime_reservation_gb`): a cache of them, or on large
    Hoppers the memory in which Qwen3-VL's tokenizer hands them over."""
    if not model.multimodal:
        return 0
    return (
        _SHARED_FEATURES
        if model.shares_features and capability // 10 == 9 and memory_bytes / MIB >= _LARGE
        else _FEATURES
    )


def chunk_tokens(memory_bytes: int) -> int:
    """`--chunked-prefill-size` for a device of that memory."""
    return _by_size(memory_bytes)[0]


def static_fraction(memory_bytes: int, serving: Serving, model: ServedModel, *, cuda: bool = True) -> Fraction:
    """The share of a device for weights and cache, to three digits (of models with a vision encoder to the last)."""
    memory = memory_bytes / MIB
    captured = cuda and serving.pp == 1 and model.captures_prefill and not serving.eager
    if model.sized_after_capture and captured and serving.max_total_tokens is None:
        reserved = _AFTER_CAPTURE + Fraction(serving.tp * serving.pp * 1024, 8)
        share = _rounded(memory, reserved)
        return share if model.vision is None else Fraction(float(share) - _VISION_AFTER_CAPTURE / memory)
    share = _rounded(memory, _reserved(memory_bytes, serving, model, captured))
    return share if model.vision is None else Fraction(float(share) * _vision_factor(*model.vision))


def _rounded(memory: float, reserved: Fraction) -> Fraction:
    return max(Fraction(str(round((memory - float(reserved)) / memory, 3))), Fraction(1, 1000))


def _reserved(memory_bytes: int, serving: Serving, model: ServedModel, captured: bool) -> Fraction:
    """MiB that are left for activations, graphs and ranks. `captured`: prefill is."""
    chunk, few, many = _by_size(memory_bytes)
    chunk = serving.max_num_batched_tokens or chunk
    batch = min(few if serving.tp < 4 else many, serving.max_num_seqs or _LARGEST[1])
    reserved = _META + max(chunk, _LEAST_TOKENS) * _TOKEN + Fraction(serving.tp * serving.pp * 1024, 8)
    reserved += 0 if serving.eager else batch * _SEQUENCE
    if serving.attn_dp > 1:
        reserved += batch * serving.attn_dp * (3 if batch <= 300 else Fraction(9, 2))
    if captured:
        most = min(chunk, model.most_captured or chunk, serving.max_total_tokens or chunk)
        sizes = _prefill_sizes(most)
        reserved += _LATENT_GRAPHS if model.latent else len(sizes) * _PREFILL_SIZE
    return max(reserved, Fraction(_LEAST_OF_LARGE)) if memory_bytes / MIB > _LARGE else reserved


def _by_size(memory_bytes: int) -> tuple[int, int, int]:
    memory = memory_bytes / MIB
    return next((rest for below, *rest in _SIZES if memory < below), _LARGEST)  # type: ignore[return-value]


def _prefill_sizes(most: int) -> list[int]:
    """Numbers of tokens whose prefill is captured (`generate_prefill_cuda_graph_batch_sizes`)."""
    sizes = [
        *range(4, 33, 4),
        *range(48, 257, 16),
        *range(288, 513, 32),
        *range(576, 1025, 64),
        *range(1280, 4097, 256),
        *range(4608, most + 1, 512),
    ]
    return [size for size in sizes if size <= most]


def _vision_factor(layers: int, hidden: int) -> float:
    ratio = layers * hidden**2 / (_VIT_LAYERS * _VIT_HIDDEN**2)
    return _VIT_SHARE * max(0.8, min(1.05, 1.0 - _VIT_SCALE * (ratio - 1.0)))
