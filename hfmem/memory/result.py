"""What an engine's rules answer: bytes of the cache, layer by layer and in all, and what its pool holds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from hfmem.model.architecture import Note
from hfmem.model.layers import Cache
from hfmem.records import dataclass


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers with one kind and shape of cache, as one engine holds it.

    `layers` are indices in execution order. `bytes_per_token` is what each further token adds while the layer still grows,
    `tokens` how many tokens the engine holds there for one sequence, `bytes` all of that for one sequence over all `layers` and
    ranks, `state_bytes` the part of `bytes` that does not depend on the context. `rank_bytes` is what one of the layers takes on
    one of the ranks that hold it (or on the host), for all sequences that such a rank serves.
    """

    cache: Cache
    layers: tuple[int, ...]
    bytes_per_token: int
    tokens: int
    bytes: int
    state_bytes: int = 0
    rank_bytes: int = 0

    @property
    def count(self) -> int:
        """How many layers there are in the group."""
        return len(self.layers)


@dataclass(frozen=True, slots=True)
class CacheBytes:
    """The cache of `num_seqs` sequences of `context` tokens under one engine.

    `bytes` counts all ranks together (replicas included), `bytes_per_rank` the most loaded rank, `bytes_per_seq` one sequence over
    the ranks that hold it. `state_bytes_per_seq` is the part of `bytes_per_seq` that does not depend on the context.
    `stage_bytes` are those of a rank of each pipeline stage in turn; empty: the ranks share the cache evenly. `stage_layers` are
    the layers of each stage; those of none are the host's. `decoder_first`: layers are numbered from the decoder's first, an
    encoder's and those that draft after it; False: in execution order. `host_bytes` is the part of `bytes` that lies in the host's
    memory, `value_dtype` the values' format where it is not the keys'.
    """

    engine: str
    kv_dtype: str
    bytes: int
    bytes_per_rank: int
    bytes_per_seq: int
    state_bytes_per_seq: int
    layer_groups: tuple[LayerGroup, ...]
    page_size: int | None = None
    notes: tuple[Note, ...] = ()
    stage_bytes: tuple[int, ...] = ()
    host_bytes: int = 0
    value_dtype: str | None = None
    stage_layers: tuple[tuple[range, ...], ...] = ()
    decoder_first: bool = False


@dataclass(frozen=True, slots=True)
class Pool:
    """What a pool of `memory_bytes_per_rank` (of the stage with the least) holds, as the engine itself computes and logs it.

    `pages_per_seq` are those of one request where pages alone bound the pool.
    """

    memory_bytes_per_rank: int
    page_size: int
    page_bytes: int
    num_pages: int
    capacity_tokens: int
    max_concurrency: float
    log_lines: tuple[str, ...] = ()
    pages_per_seq: int | None = None


def count_in(indices: Sequence[int], layers: range) -> int:
    """How many of `indices`, ascending, lie in a run of layers."""
    return bisect_left(indices, layers.stop) - bisect_left(indices, layers.start) if layers else 0


def memory_of_stages(memory_bytes_per_rank: int | Sequence[int], num_stages: int) -> list[int]:
    """The memory of a rank of each pipeline stage: as given, or the same on all."""
    if isinstance(memory_bytes_per_rank, int):
        return [memory_bytes_per_rank] * num_stages
    return list(memory_bytes_per_rank)


def group_layers(layers: tuple[tuple[Cache, ...], ...]) -> dict[Cache, tuple[int, ...]]:
    """Each distinct cache and the layers that have it, in the order in which caches first appear."""
    found: dict[Cache, list[int]] = {}
    known: dict[int, list[int]] = {}  # layers share their caches, mostly: an object is hashed once
    for index, caches in enumerate(layers):
        for cache in caches:
            held = known.get(id(cache))
            if held is None:
                held = known[id(cache)] = found.setdefault(cache, [])
            held.append(index)
    return {cache: tuple(indices) for cache, indices in found.items()}
