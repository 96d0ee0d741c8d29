"""vLLM's pages of Qwen4-Exp: pooled index keys, and a ring in which the keys of the unfinished pool wait, beside keys and values.

Read from vLLM 0.33.0, `models/qwen4_exp/common/qsa_cache.py` and `nvidia/{qsa,indexer_qsa}.py`, and compared with the groups and
blocks that its own code makes; a log of 0.31.1rc1 prints the same groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.engines.vllm.specs import Kind, PagedSpec, Spec, StateSpec, ceil_div
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import IndexedAttention, ShortConvState

QWEN4: Final = frozenset({"qwen4_exp", "qwen4_exp_text"})

_KEY_BYTES: Final = 2  # of an element, whatever the format of keys and values
_ROUND: Final = 4  # elements of a key in the ring are rounded up to whole int64
_POSITION_BYTES: Final = 3 * 8  # of an image's row: time, height, width


def index_specs(cache: IndexedAttention, arch: Architecture, serving: Serving, block: int) -> Iterator[Spec]:
    """The indexer of one layer: a ring of raw keys, with their positions where images have such; a key for each pool of tokens.

    The ring has room for a pool and a draft's tokens, in whole pools.

    Raises:
        UnsupportedError: a ring that does not divide the block, or pipeline stages, which do not pass on the n-grams' tokens.
    """
    if serving.pp > 1 and any(isinstance(state, ShortConvState) for state in arch.caches()):
        raise UnsupportedError("vLLM serves Qwen4-Exp with n-gram embeddings on one pipeline stage only")
    pool, key = cache.index_block, cache.index_head_dim
    images = arch.rotations is not None and arch.rotations.full.sections and not serving.language_model_only
    row = ceil_div(key, _ROUND) * _ROUND * _KEY_BYTES + _POSITION_BYTES if images else key * _KEY_BYTES
    ring = ceil_div(pool + serving.speculative_tokens, pool) * pool
    if block % ring and block != 1:  # 1: what a token takes is asked
        raise UnsupportedError(f"vLLM's ring of {ring} keys for this draft does not divide its pages of {block} tokens")
    yield StateSpec(ring, ring * row, 1, ("ring",))
    yield PagedSpec(Kind.MLA, block, 1, key * _KEY_BYTES, ("index", key), tokens_per_state=pool)
