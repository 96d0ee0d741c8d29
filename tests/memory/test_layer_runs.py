"""Models of any number of layers cost what their patterns cost: layers that are alike are reckoned once, to the same bytes."""

from __future__ import annotations

import time
from math import prod

from hypothesis import given, settings
from hypothesis import strategies as st

from hfmem.memory.loaded import HeldTensors, loaded
from hfmem.memory.result import count_in
from hfmem.memory.torch_allocator import Allocated, allocate_runs
from hfmem.units import MIB

#: sizes around every limit of the allocator
SIZES = st.sampled_from([0, 1, 512, 100_000, 700_000, MIB, MIB + 1]) | st.integers(1, 45 * MIB)
SPLITS = st.sampled_from([None, 20 * MIB])


def plain(sizes: list[int], max_split: int | None) -> Allocated:
    """One tensor after another, free blocks in a plain list: CUDACachingAllocator.cpp's `get_free_block`, `alloc_block` and
    `should_split`."""
    free: dict[bool, list[int]] = {True: [], False: []}
    blocks = segments = 0
    for wanted in sizes:
        if wanted <= 0:
            continue
        size = (wanted + 511) // 512 * 512
        small = size <= MIB
        limit = None if small else max_split
        block = min((b for b in free[small] if b >= size), default=None)
        if block is not None and limit is not None:
            oversize = size >= limit
            if (not oversize and block >= limit) or (oversize and block >= size + 20 * MIB):
                block = None
        if block is not None:
            free[small].remove(block)
        else:
            block = 2 * MIB if small else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
            segments += block
        rest = block - size
        if (small and rest >= 512) or (not small and rest > MIB and (limit is None or size < limit)):
            free[small].append(rest)
            block = size
        blocks += block
    return Allocated(blocks, segments)


@settings(max_examples=150, deadline=None)
@given(
    runs=st.lists(st.tuples(st.lists(SIZES, max_size=7), st.integers(0, 60)), min_size=1, max_size=4), max_split=SPLITS
)
def test_runs_of_layers_are_the_layers_one_by_one(runs: list[tuple[list[int], int]], max_split: int | None) -> None:
    assert allocate_runs(runs, max_split) == plain([size for run, n in runs for size in run * n], max_split)


ranges = st.builds(
    lambda start, count, step: range(start, start + count * step, step),
    st.integers(0, 20),
    st.integers(0, 25),
    st.integers(1, 4),
)
NAMES = ("a.{}.q_proj", "a.{}.k_proj", "a.{}.o_proj", "a.{}.e.{}.up_proj", "a.{}.e.{}.gate_proj", "norm")


@st.composite
def tensors(draw: st.DrawFn) -> HeldTensors:
    name = draw(st.sampled_from(NAMES))
    axes = name.count("{}")
    boxes = draw(st.lists(st.tuples(*[ranges] * axes), max_size=3))
    axis = draw(st.sampled_from([None, *range(axes)]))
    return HeldTensors(name, draw(SIZES), (0,), tuple(boxes), axis)


@settings(max_examples=150, deadline=None)
@given(held=st.lists(tensors(), max_size=6), max_split=SPLITS)
def test_loaded_is_every_layer_in_turn(held: list[HeldTensors], max_split: int | None) -> None:
    fused = {"a.{}.k_proj": "a.{}.q_proj", "a.{}.e.{}.up_proj": "a.{}.e.{}.gate_proj"}
    outside: dict[str, int] = {}
    layers: dict[int, dict[str, int]] = {}
    for item in held:
        name = fused.get(item.pattern, item.pattern)
        for box in item.boxes:
            if item.layer_axis is None:
                if count := prod(len(r) for r in box):
                    outside[name] = outside.get(name, 0) + count * item.bytes
                continue
            count = prod(len(r) for axis, r in enumerate(box) if axis != item.layer_axis)
            for layer in box[item.layer_axis]:
                own = layers.setdefault(layer, {})
                own[name] = own.get(name, 0) + count * item.bytes
    sizes = [*outside.values(), *(size for layer in sorted(layers) for size in layers[layer].values())]
    assert loaded(held, max_split=max_split) == plain(sizes, max_split)


@given(layers=ranges, start=st.integers(0, 60), count=st.integers(0, 60))
def test_layers_in_a_run(layers: range, start: int, count: int) -> None:
    run = range(start, start + count)
    assert count_in(layers, run) == sum(layer in run for layer in layers)
    assert count_in(layers, range(9, 4)) == 0


def test_a_million_layers() -> None:
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "norm")
    held = [
        HeldTensors(f"layers.{{}}.{name}", 3 * MIB // 2 + 7000 * index, (0,), ((range(1_000_000),),), 0)
        for index, name in enumerate(names)
    ]
    started = time.process_time()
    found = loaded(held, max_split=20 * MIB)
    assert time.process_time() - started < 1  # one by one: half a minute
    assert found.segment_bytes > found.block_bytes > 0
