"""vLLM's pages of GLM-5 Next: latents without rotation, pooled index keys, and a ring in which the unfinished pool waits.

Read from vLLM 0.33.0, `models/glm5next` (`get_kv_cache_spec` of attention, indexer and its tail), and compared with the groups and
blocks that its own code makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import lcm
from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.engines.vllm.specs import Kind, PagedSpec, Spec, StateSpec
from hfmem.memory.formats import SCALE_BYTES
from hfmem.model.layers import Cache, SparseLatentAttention

_WIDTH: Final = {"bf16": 2, "fp16": 2, "fp8": 1}
_ROW_BYTES: Final = 2  # of an element of the ring
_KEY_ALIGNMENT: Final = 256


def pools_index(cache: Cache) -> bool:
    """Whether the layer is one of theirs."""
    return isinstance(cache, SparseLatentAttention) and cache.index_pool > 1


def glm5_next_specs(cache: SparseLatentAttention, fmt: str, block: int) -> Iterator[Spec]:
    """One attention layer: a key in fp8 with its scale for each pool of tokens, the ring of keys and scores, the latents.

    Raises:
        UnsupportedError: a format without rows for it.
    """
    if fmt not in _WIDTH:
        raise UnsupportedError(f"vLLM has no {fmt} cache for GLM-5 Next")
    row = cache.kv_lora_rank * _WIDTH[fmt]
    if cache.has_indexer:
        key = (cache.index_head_dim - 1) // 2
        size = key + SCALE_BYTES
        stride = lcm(size, _KEY_ALIGNMENT)
        yield PagedSpec(Kind.MLA, block, 1, size, ("index", key), tokens_per_state=cache.index_pool, stride=stride)
        yield StateSpec(cache.index_pool, cache.index_pool * 2 * key * _ROW_BYTES, 1, ("tail",))
    yield PagedSpec(Kind.MLA, block, 1, row, ("latent", cache.kv_lora_rank, fmt), stride=row)
