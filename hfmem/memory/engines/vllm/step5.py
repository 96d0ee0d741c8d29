"""vLLM's pages of Step 5: a summary of every eight tokens and a ring of raw rows beside keys and values.

Read from vLLM 0.33.0, `models/step5/nvidia/{sparse_attention,sparse_summary_cache,csa_tail_ring}.py`, and compared with the groups
and blocks that its own code makes of small models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.engines.vllm.specs import Kind, PagedSpec, Spec, StateSpec
from hfmem.memory.engines.vllm.support import kv_heads_per_rank
from hfmem.memory.serving import Serving
from hfmem.model.layers import IndexedAttention

STEP5: Final = frozenset({"step5", "step5_vl"})

_REGION: Final = 8
_SUMMARY_BYTES: Final = 256
_BLOCK: Final = 16
_CAPABILITIES: Final = frozenset({90, 100, 103})


def step5_block(serving: Serving, fmt: str) -> int:
    """Tokens of a page.

    Raises:
        UnsupportedError: a device, format or page its kernels do not take.
    """
    if serving.compute_capability not in _CAPABILITIES:
        raise UnsupportedError("vLLM 0.33 serves Step 5 on compute capability 9.0, 10.0 and 10.3 only")
    if fmt not in ("bf16", "fp8"):
        raise UnsupportedError(f"vLLM 0.33 has no {fmt} cache for Step 5")
    block = serving.page_size or _BLOCK
    if block % _BLOCK:
        raise UnsupportedError(f"vLLM's kernels for this model take pages in multiples of {_BLOCK} tokens")
    return block


def step5_specs(cache: IndexedAttention, content: int, block: int, tp: int) -> Iterator[Spec]:
    """One full layer: keys and values, whose pages of a region tile a block; the summaries; a page of rows for each request."""
    heads = kv_heads_per_rank(cache.num_kv_heads, tp)
    shape = (heads, cache.head_dim, cache.v_head_dim, "step5")
    main = PagedSpec(Kind.FULL, block, heads, content, shape, stride=heads * _REGION * content)
    yield main
    yield PagedSpec(Kind.FULL, block, 1, _SUMMARY_BYTES, ("summary",), tokens_per_state=_REGION)
    yield StateSpec(block, main.page_bytes, 1, ("ring",))
