"""Engines by name. Each is one module with `NAME`, `VERSION`, `cache(arch, serving)` and, where it pools, `pool(…)`.

Modules load when asked for: a report in one engine does not pay for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Final, Protocol, cast

from hfmem.errors import UnsupportedError, UsageError
from hfmem.memory.result import CacheBytes, Pool
from hfmem.memory.serving import ENGINES, Serving
from hfmem.model.architecture import Architecture

_MODULES: Final[dict[str, str]] = {
    "ideal": "hfmem.memory.engines.ideal",
    "vllm": "hfmem.memory.engines.vllm",
    "transformers": "hfmem.memory.engines.transformers",
    "sglang": "hfmem.memory.engines.sglang",
    "llama.cpp": "hfmem.memory.engines.llama_cpp",
}


class Engine(Protocol):
    """The rules of one engine; `VERSION` says what they were read from."""

    NAME: str
    VERSION: str

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
        module = _MODULES[name]
    except KeyError:
        raise UsageError(f"engine {name!r} is not one of {', '.join(ENGINES)}") from None
    return cast(Engine, import_module(module))


def pooling_engine(name: str) -> PoolingEngine | None:
    """The engine of that name if it pools its cache, else None."""
    module = engine(name)
    return cast(PoolingEngine, module) if hasattr(module, "pool") else None


def cache_or_none(name: str, arch: Architecture, serving: Serving) -> CacheBytes | None:
    """The engine's answer, or None where it refuses the model or the layout."""
    try:
        return engine(name).cache(arch, serving)
    except UnsupportedError:
        return None
