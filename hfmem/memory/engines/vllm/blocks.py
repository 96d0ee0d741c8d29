"""Tokens of a page in vLLM: what the kernels of a model take on a device, and what covers a state.

Read from vLLM 0.33.0: the backends' `get_supported_kernel_block_sizes`, `platforms/interface.py` (`update_block_size_for_backend`,
`_align_hybrid_block_size`).
"""

from __future__ import annotations

from math import lcm
from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.engines.vllm.compressed import V41, V41_BLOCK
from hfmem.memory.engines.vllm.qwen4_exp import QWEN4
from hfmem.memory.engines.vllm.specs import ceil_div
from hfmem.memory.engines.vllm.states import checkpoint_alignment
from hfmem.memory.engines.vllm.step5 import STEP5, step5_block
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    Cache,
    CompressedAttention,
    FullAttention,
    IndexedAttention,
    LatentAttention,
    SlidingAttention,
    SparseLatentAttention,
)

#: vLLM's own where no kernel wants more
DEFAULT_BLOCK: Final = 16
_HYBRID_MLA_BLOCK: Final = 128

#: types whose image tokens see each other (`model_arch_config_convertor.py`), beside Gemma 4 where its config says so
_IMAGE_PREFIX: Final = frozenset({"gemma3", "molmo2", "moondream3", "paligemma"})
_IMAGE_PREFIX_BLOCK: Final = 64


def _kernel_block(
    kinds: tuple[Cache, ...], fmt: str, capability: int, *, chosen: bool, images: bool, qwen4: bool
) -> int:
    """The smallest block every backend of the model takes, which is also vLLM's default where it is above 16.

    Dense latent attention: FlashInfer's kernel on data-centre Blackwell, Triton's on Ampere, Ada and consumer Blackwell; on Hopper
    FlashAttention's, and FlashMLA's for an fp8 cache. A block that the user chose is Triton's where these do not take it.
    Heads of 512 (Gemma 4): FlashAttention 4 reads an fp8 cache on Hopper in tiles of 64 (`flash_attn.py`), and leaves it to Triton
    where `images` see each other.
    """
    block = DEFAULT_BLOCK
    for cache in kinds:
        match cache:
            case CompressedAttention():
                block = max(block, 256)
            case IndexedAttention() if not qwen4:
                block = max(block, 128)
            case SparseLatentAttention():
                block = max(block, 64)
            case FullAttention(head_dim=512) if capability // 10 == 9 and fmt == "fp8" and not images:
                block = max(block, 64)
            case LatentAttention() if chosen:
                pass
            case LatentAttention() if capability // 10 == 10:
                block = max(block, 32)
            case LatentAttention(kv_lora_rank=512, qk_rope_head_dim=64) if capability == 90 and fmt == "fp8":
                block = max(block, 64)
            case _:
                pass
    return block


def block_size(arch: Architecture, kinds: tuple[Cache, ...], fmt: str, serving: Serving) -> int:
    """Tokens of a block of attention, before states have a say: the user's, or the smallest that the kernels take.

    Raises:
        UnsupportedError: a size that vLLM refuses, or a device whose pages are not known here.
    """
    if arch.model_type in V41:
        if serving.compute_capability // 10 != 9:
            raise UnsupportedError("hfmem knows vLLM's cache of DeepSeek V4.1 as Hopper GPUs hold it only")
        if serving.page_size not in (None, V41_BLOCK):
            raise UnsupportedError(f"hfmem knows vLLM's cache of DeepSeek V4.1 in pages of {V41_BLOCK} tokens only")
        return V41_BLOCK
    if arch.model_type in STEP5:
        return step5_block(serving, fmt)
    images = _sees_images(arch, kinds)
    chosen, qwen4 = serving.page_size is not None, arch.model_type in QWEN4
    kernel = _kernel_block(kinds, fmt, serving.compute_capability, chosen=chosen, images=images, qwen4=qwen4)
    if serving.compute_capability // 10 == 10 and images:
        kernel = max(kernel, _IMAGE_PREFIX_BLOCK)
    if serving.page_size is None:
        return kernel
    if serving.page_size % kernel:
        raise UnsupportedError(f"vLLM's kernels for this model take pages in multiples of {kernel} tokens")
    return serving.page_size


def _sees_images(arch: Architecture, kinds: tuple[Cache, ...]) -> bool:
    """Whether a model's image tokens see each other, which Triton's kernel serves on Hopper from an fp8 cache, and with FlashInfer
    on data-centre Blackwell (`triton_flashinfer.py`)."""
    heads = {c.head_dim for c in kinds if isinstance(c, FullAttention | SlidingAttention)}
    return (arch.image_prefix or arch.model_type in _IMAGE_PREFIX) and bool(heads) and heads <= {256, 512}


def hybrid_block(
    block: int, state: int, token: int, attention: Cache, arch: Architecture, align: bool, serving: Serving
) -> int:
    """The attention block whose page covers a state's page (`_align_hybrid_block_size`)."""
    step = block
    if isinstance(attention, LatentAttention | SparseLatentAttention):
        step = max(step, _HYBRID_MLA_BLOCK)
    if align and serving.prefill_checkpoints:
        step = lcm(step, checkpoint_alignment(arch, serving.compute_capability))
    return max(block, step * ceil_div(state, step * token))
