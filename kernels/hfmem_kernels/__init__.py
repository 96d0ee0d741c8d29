"""Paged decode attention kernels over the caches that hfmem counts.

Importing this package imports neither torch nor triton; the names below do, when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfmem_kernels._heuristics import LaunchConfig
    from hfmem_kernels._launch import Workspace
    from hfmem_kernels.cache_ops import gather_kv, move_pages, write_kv, write_latent
    from hfmem_kernels.indexer import index_logits
    from hfmem_kernels.latent_decode import mla_decode_attention, sparse_mla_decode_attention
    from hfmem_kernels.merge import merge_attention
    from hfmem_kernels.paged_decode import allocate_workspace, paged_decode_attention

__all__ = [
    "LaunchConfig",
    "Workspace",
    "allocate_workspace",
    "gather_kv",
    "index_logits",
    "merge_attention",
    "mla_decode_attention",
    "move_pages",
    "paged_decode_attention",
    "sparse_mla_decode_attention",
    "write_kv",
    "write_latent",
]

_HOME = {
    "LaunchConfig": "_heuristics",
    "Workspace": "_launch",
    "allocate_workspace": "paged_decode",
    "gather_kv": "cache_ops",
    "index_logits": "indexer",
    "merge_attention": "merge",
    "mla_decode_attention": "latent_decode",
    "move_pages": "cache_ops",
    "paged_decode_attention": "paged_decode",
    "sparse_mla_decode_attention": "latent_decode",
    "write_kv": "cache_ops",
    "write_latent": "cache_ops",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
