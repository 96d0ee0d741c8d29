"""How many sequences of a mix of lengths the devices hold, reserved contiguously and in pages."""

from __future__ import annotations

from hfmem.api.configuration import Configuration
from hfmem.errors import UsageError
from hfmem.plan.allocator import ALLOCATORS, Allocation, allocations, parse_lengths
from hfmem.plan.target import on_device


def mixed(found: Configuration, lengths: str | None, allocator: str | None = None) -> tuple[Allocation, ...]:
    """How many sequences of `lengths` (`1k:6,4k:3,32k:1`) the memory left for the cache holds; nothing where none are given.

    Raises:
        UsageError: no such allocator, a mix that cannot be read, or lengths beyond the context.
    """
    if allocator is not None and allocator not in ALLOCATORS:
        raise UsageError(f"--allocator {allocator!r} is not one of {', '.join(ALLOCATORS)}")
    if lengths is None:
        if allocator is not None:
            raise UsageError("--allocator compares sequences of many lengths: --lengths 1k:6,4k:3,32k:1")
        return ()
    assert found.target is not None
    room = max(found.scale().weigh(found.serving).kv_memory_bytes, 0)
    serving = on_device(found.serving, found.target.device)
    mix = allocations(found.read.architecture, serving, parse_lengths(lengths), room)
    return tuple(item for item in mix if allocator in (None, item.allocator))
