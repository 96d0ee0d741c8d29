"""Engines by name (`hfmem.memory.serving.ENGINES`). Each is one module with what `Engine` asks for and, where it pools, `pool(…)`.

Modules load when asked for: a report in one engine does not pay for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Literal, Protocol, cast

from hfmem.errors import UsageError
from hfmem.memory.result import CacheBytes, Pool
from hfmem.memory.serving import ENGINES, Serving
from hfmem.model.architecture import Architecture

#: what a rank takes beside weights and cache (`hfmem.memory.runtime`): nothing, one prompt's forward pass, llama.cpp's compute
#: buffer, or what a server takes that profiles a full step and captures CUDA graphs
RuntimeRule = Literal["none", "forward", "compute buffer", "server"]


class Engine(Protocol):
    """The rules of one engine, and what else depends on it.

    `VERSION` says what the rules were read from, `VENDORS` whose devices they speak of, `RUNTIME` how its runtime is estimated.
    `WEIGHT_FORMATS` are those it serves, widest first (name as `--quant` takes it, bits of a weight), `CACHE_FORMATS` its caches of
    less than 16 bits: what is suggested where a model does not fit. `OWN_CLASSES`: it builds models from classes of its own, which
    fuse projections and pad vocabularies; `HALVES_FP32`: fp32 checkpoints are computed in 16 bits; `DRAFTS_IN_POOL`: what drafts is
    on the last pipeline stage, with the target's embedding and head, out of the target's pool. `OLDEST` is the NVIDIA compute
    capability that its kernels begin at, None where it does not mind.
    """

    NAME: str
    VERSION: str
    VENDORS: frozenset[str]
    RUNTIME: RuntimeRule
    WEIGHT_FORMATS: tuple[tuple[str, int], ...]
    CACHE_FORMATS: tuple[str, ...]
    OWN_CLASSES: bool
    HALVES_FP32: bool
    DRAFTS_IN_POOL: bool
    OLDEST: int | None

    def cache(self, arch: Architecture, serving: Serving) -> CacheBytes:
        """Bytes of the cache. Raises UnsupportedError with the engine's reason where it refuses."""
        ...


class PoolingEngine(Engine, Protocol):
    """An engine that reserves one pool for all sequences."""

    def pool(self, arch: Architecture, serving: Serving, memory_bytes_per_rank: int | Sequence[int]) -> Pool:
        """What a pool of that size on each rank holds: of each pipeline stage in turn, or the same on all."""
        ...


def engine(name: str) -> Engine:
    """The engine of that name.

    Raises:
        UsageError: no such engine.
    """
    try:
        module = ENGINES[name]
    except KeyError:
        raise UsageError(f"engine {name!r} is not one of {', '.join(ENGINES)}") from None
    return cast(Engine, import_module(module))


def is_server(name: str) -> bool:
    """Whether it takes a share of the device, profiles a step and reserves room before anybody asks."""
    return engine(name).RUNTIME == "server"


def pooling_engine(name: str) -> PoolingEngine | None:
    """The engine of that name if it pools its cache, else None."""
    module = engine(name)
    return cast(PoolingEngine, module) if hasattr(module, "pool") else None


def given_pools(arch: Architecture, serving: Serving, num_stages: int) -> list[int | None] | None:
    """The bytes of a rank's pool on each pipeline stage where the settings tell them (None: that stage keeps no cache), else None.

    Blocks that vLLM is told win over bytes; it takes them without asking what is free (`get_kv_cache_configs`).

    Raises:
        UnsupportedError: vLLM refuses the model or the layout.
    """
    if serving.num_gpu_blocks is not None:
        from hfmem.memory.engines.vllm import layout

        sizes = layout(arch, serving).stage_block_bytes
        return [serving.num_gpu_blocks * size or None for size in sizes] if any(sizes) else None
    return None if serving.kv_memory_bytes is None else [serving.kv_memory_bytes] * num_stages
