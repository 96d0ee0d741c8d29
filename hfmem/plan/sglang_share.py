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
from hfmem.model.layers import CompressedAttention, KimiDeltaState, LatentAttention, SparseLatentAttention
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


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the share depends on beside the device: latent attention, whether prefill is captured in graphs, and the vision
    encoder's layers and hidden size where there is one."""

    latent: bool = False
    captures_prefill: bool = True
    vision: tuple[int, int] | None = None


def served_model(arch: Architecture) -> ServedModel:
    """What the share depends on of a model. SGLang takes ViT-L's size where `vision_config` has no key that it reads."""
    caches = arch.caches()
    towers = any(spec.component is Component.VISION for spec in arch.tensors)
    delta = any(isinstance(cache, KimiDeltaState) for cache in caches)
    compressed = any(isinstance(cache, CompressedAttention) for cache in caches)
    layers, hidden = arch.vision_size or (None, None)
    captured = not towers or not _CAPTURED.isdisjoint(arch.architectures)
    return ServedModel(
        latent=any(isinstance(cache, LatentAttention | SparseLatentAttention) for cache in caches),
        captures_prefill=captured and not compressed and not (delta and not arch.model_type.startswith("glm5_next")),
        vision=(layers or _VIT_LAYERS, hidden or _VIT_HIDDEN) if towers and arch.vision_size else None,
    )


def chunk_tokens(memory_bytes: int) -> int:
    """`--chunked-prefill-size` for a device of that memory."""
    return _by_size(memory_bytes)[0]


def static_fraction(memory_bytes: int, serving: Serving, model: ServedModel, *, cuda: bool = True) -> Fraction:
    """The share of a device for weights and cache, to three digits (of models with a vision encoder to the last)."""
    memory = memory_bytes / MIB
    chunk, few, many = _by_size(memory_bytes)
    chunk = serving.max_num_batched_tokens or chunk
    batch = few if serving.tp < 4 else many
    reserved = _META + max(chunk, _LEAST_TOKENS) * _TOKEN + Fraction(serving.tp * serving.pp * 1024, 8)
    reserved += batch * _SEQUENCE
    if serving.attn_dp > 1:
        reserved += batch * serving.attn_dp * (3 if batch <= 300 else Fraction(9, 2))
    if cuda and serving.pp == 1 and model.captures_prefill:
        reserved += _LATENT_GRAPHS if model.latent else len(_prefill_sizes(chunk)) * _PREFILL_SIZE
    if memory > _LARGE:
        reserved = max(reserved, Fraction(_LEAST_OF_LARGE))
    share = max(Fraction(round(1000 * (memory - float(reserved)) / memory), 1000), Fraction(1, 1000))
    return share if model.vision is None else Fraction(float(share) * _vision_factor(*model.vision))


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
