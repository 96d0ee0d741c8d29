"""Which format vLLM's cache has, and the bytes of a head and of a latent row in it.

Read from vLLM 0.33.0 as it runs on NVIDIA GPUs: the backends' `supported_kv_cache_dtypes` and `supports_combination`,
`models/config.py`, `platforms/cuda.py`, `utils/torch_utils.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.formats import GGML_BLOCKS, KV_BITS, SCALE_BYTES, resolve_kv_dtype
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import Cache, CompressedAttention, LatentAttention, SparseLatentAttention

#: model types whose attention is built without the cache's settings, so that it keeps the model's dtype (`falcon.py`)
_PLAIN_CACHE: Final = frozenset({"falcon", "RefinedWeb", "RefinedWebModel"})
BF16_BYTES: Final = 2
#: bytes of a packed latent row: fp8 content, scales and rotary part (FlashMLA's layout)
_FP8_DS_MLA: Final = 656
_HOPPER: Final = 90
_ADA: Final = 89
#: models whose cache is fp8 on devices 10.x unless told otherwise (`models/config.py`: `GlmMoeDsaForCausalLM`,
#: `Glm5NextModelConfig`)
_FP8_ON_BLACKWELL: Final = frozenset({"glm_moe_dsa", "glm5_next", "glm5_next_text"})
_NVFP4_DS_MLA: Final = 352


def model_dtype(arch: Architecture) -> str:
    """The dtype vLLM computes in by default: the config's, fp32 checkpoints in bf16 (`_resolve_auto_dtype`)."""
    return "BF16" if arch.dtype in ("F32", "F64") else arch.dtype


def cache_format(arch: Architecture, serving: Serving, kinds: Iterable[Cache]) -> str:
    """The format of attention's cache, of a name in `hfmem.memory.formats.KV_BITS`: asked for, declared, or of the only backend.

    Args:
        kinds: the caches of the model's layers, as vLLM's class holds them.

    Raises:
        UnsupportedError: vLLM has no such format, or not on this device for these layers.
    """
    dtype = model_dtype(arch)
    fmt = resolve_kv_dtype(dtype, serving.kv_dtype, serving.declared_kv_dtype)
    if fmt in GGML_BLOCKS:
        raise UnsupportedError(f"vLLM has no {fmt} cache: that is llama.cpp's")
    if fmt in ("mxfp8", "fp4_mx_block16"):
        raise UnsupportedError(f"vLLM has no {fmt} cache: that is SGLang's")
    if arch.model_type in _PLAIN_CACHE:
        fmt = resolve_kv_dtype(dtype, "auto", None)
    capability, kinds = serving.compute_capability, tuple(kinds)
    if capability < _ADA and fmt == "fp8" and any(isinstance(kind, LatentAttention) for kind in kinds):
        raise UnsupportedError("vLLM's fp8 cache of latents needs a device of compute capability 8.9 or later")
    if capability < _ADA and fmt == "fp8_per_token_head":
        raise UnsupportedError("vLLM's fp8 cache with scales for each token and head needs a device of 8.9 or later")
    sparse = any(isinstance(kind, SparseLatentAttention) for kind in kinds)
    compressed = any(isinstance(kind, CompressedAttention) for kind in kinds)
    if serving.kv_dtype == "auto" and _is_fp8_unasked(arch, serving, sparse=sparse, compressed=compressed):
        fmt = "fp8"
    if sparse and capability < _HOPPER:
        raise UnsupportedError("vLLM's sparse latent attention needs a device of compute capability 9.0 or later")
    if sparse and serving.dcp > 1 and capability // 10 == 9 and fmt != "fp8":
        raise UnsupportedError(
            "vLLM's decode context parallelism of sparse latent attention on Hopper needs an fp8 cache"
        )
    return fmt


def _is_fp8_unasked(arch: Architecture, serving: Serving, *, sparse: bool, compressed: bool) -> bool:
    """Whether the cache is fp8 where the user names no format: of the model's class, or as its only backend's packed rows."""
    match serving.compute_capability // 10:
        case 10 if {arch.model_type, arch.text_type} & _FP8_ON_BLACKWELL:
            return True
        case 12 if sparse and serving.dcp == 1:
            return True
        case _:
            return compressed


def head_bytes(fmt: str, head: int, head_v: int) -> tuple[int, int]:
    """Slots a head takes in a page and bytes of each: K and V side by side, with an fp32 scale each in per-token-head formats.

    Raises:
        UnsupportedError: keys and values of two sizes in nvfp4.
    """
    match fmt:
        case "int8" | "fp8_per_token_head":
            return 1, head + head_v + 2 * SCALE_BYTES
        case "int4":
            return 1, head // 2 + head_v // 2 + 2 * SCALE_BYTES
        case "nvfp4":
            if head != head_v:
                raise UnsupportedError("vLLM's nvfp4 cache takes keys and values of one size only")
            return 2, head // 2 + head // 16
        case _:
            return 1, (head + head_v) * KV_BITS[fmt] // 8


def latent_row_bytes(fmt: str, size: int) -> int:
    """Bytes of a latent row of `size` elements in the formats that the dense backends take.

    Raises:
        UnsupportedError: another format.
    """
    if fmt not in ("bf16", "fp16", "fp8"):
        raise UnsupportedError(f"vLLM has no {fmt} cache for dense latent attention")
    return size * KV_BITS[fmt] // 8


def sparse_row_bytes(cache: SparseLatentAttention, fmt: str, capability: int, *, declared: bool) -> int:
    """Bytes of a latent row under sparse attention: plain, or packed with its scales.

    An fp8 row is plain where FlashInfer's kernel for devices 10.x serves it (`platforms/cuda.py`, `flashinfer_mla_sparse.py`), and
    packed by FlashMLA's and by FlashInfer's for devices 12.x. What ModelOpt declares is `fp8_e4m3` to vLLM, a word that on Hopper
    FlashMLA's does not take (`flashmla_sparse.py`) and FlashInfer's does, in plain rows (`flashinfer_mla_sparse_sm90.py`).

    Raises:
        UnsupportedError: another format than these.
    """
    size = cache.kv_lora_rank + cache.qk_rope_head_dim
    match fmt:
        case "bf16" | "fp16":
            return size * BF16_BYTES
        case "fp8":
            plain = _flashinfer_takes(cache) if capability // 10 == 10 else declared and capability // 10 == 9
            return size if plain else _FP8_DS_MLA
        case "nvfp4":
            return _NVFP4_DS_MLA
        case _:
            raise UnsupportedError(f"vLLM has no {fmt} cache for sparse latent attention")


def _flashinfer_takes(cache: SparseLatentAttention) -> bool:
    """Whether FlashInfer's sparse kernel for devices 10.x has the head's shape (`supports_combination`)."""
    if cache.qk_rope_head_dim:
        return cache.qk_nope_head_dim in (128, 192)
    return (cache.qk_nope_head_dim, cache.kv_lora_rank) == (256, 512)
