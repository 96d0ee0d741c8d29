"""What the model itself needs: every layer's own tokens and states, no pages, no replication, no rounding."""

from __future__ import annotations

from typing import Final

from hfmem.memory.cache import (
    constant_bytes,
    decoding_kinds,
    held_tokens,
    layer_bytes,
    source_tokens,
    token_bytes,
)
from hfmem.memory.formats import resolve_kv_dtype
from hfmem.memory.result import CacheBytes, LayerGroup
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture, Note
from hfmem.model.layers import CrossAttention, NoCache, SharedCache

NAME: Final = "ideal"
VERSION: Final = "the model's own need"
VENDORS: Final = frozenset({"nvidia", "amd", "apple", "intel", "google"})
RUNTIME: Final = "none"
WEIGHT_FORMATS: Final = (("bf16", 16), ("fp8", 8), ("int4", 4))
CACHE_FORMATS: Final = ("fp8",)
OWN_CLASSES: Final = False
HALVES_FP32: Final = False
DRAFTS_IN_POOL: Final = False
OLDEST: Final = None


def cache(arch: Architecture, serving: Serving) -> CacheBytes:
    """Bytes of the cache with nothing wasted: ranks share it evenly, each sequence is held once."""
    fmt = resolve_kv_dtype(arch.dtype, serving.kv_dtype, serving.declared_kv_dtype)
    groups = []
    for kind, layers in decoding_kinds(arch).items():
        one = layer_bytes(kind, serving.context, fmt, arch.dtype, serving.source_tokens)
        tokens = held_tokens(kind, serving.context)
        state = constant_bytes(kind, fmt, arch.dtype, serving.source_tokens)
        if isinstance(kind, CrossAttention):
            tokens = source_tokens(kind, serving.source_tokens)
        groups.append(
            LayerGroup(
                cache=kind,
                layers=layers,
                bytes_per_token=token_bytes(kind, fmt),
                tokens=0 if isinstance(kind, NoCache | SharedCache) else tokens,
                bytes=len(layers) * one,
                state_bytes=len(layers) * state,
                rank_bytes=one * serving.num_seqs,
            )
        )
    per_seq = sum(group.bytes for group in groups)
    total = per_seq * serving.num_seqs
    return CacheBytes(
        engine=NAME,
        kv_dtype=fmt,
        bytes=total,
        bytes_per_rank=-(-total // serving.num_ranks),
        bytes_per_seq=per_seq,
        state_bytes_per_seq=sum(group.state_bytes for group in groups),
        layer_groups=tuple(groups),
        notes=open_source_notes(arch, serving),
    )


def open_source_notes(arch: Architecture, serving: Serving) -> tuple[Note, ...]:
    """A warning where cross attention depends on an input whose length nothing tells: it is counted as empty."""
    open_ended = any(isinstance(c, CrossAttention) and c.source_tokens is None for c in arch.caches())
    if open_ended and serving.source_tokens is None:
        message = "cross attention grows with the encoder's input, whose length is not given: none of it is counted"
        return (Note("cross_attention_input_unknown", message),)
    return ()
