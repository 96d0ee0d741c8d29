"""A plan of `hfmem.plan.bench`, run on this machine's device: every cache allocated, compared with the prediction, and timed."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from hfmem.errors import DoesNotFitError, UnsupportedError, UsageError
from hfmem.plan.bench import BenchPlan
from hfmem.plan.bench_shapes import PACKED_ROWS, AttentionShape
from hfmem.plan.devices import Device, nearest_device
from hfmem.records import dataclass, replace
from hfmem.units import format_bytes

if TYPE_CHECKING:
    import torch

    from hfmem_kernels.benchmarks.gate import Gate
    from hfmem_kernels.benchmarks.index_keys import IndexInputs, IndexRow
    from hfmem_kernels.benchmarks.inputs import CacheSet, Inputs
    from hfmem_kernels.benchmarks.joined import Joined
    from hfmem_kernels.benchmarks.ours import Launch
    from hfmem_kernels.benchmarks.rows import Row

#: cache formats that a kernel reads → (torch dtype, scales as the kernels' benchmark names them)
_FORMATS: Final[dict[str, tuple[str, str]]] = {
    "bf16": ("bfloat16", "none"),
    "fp16": ("float16", "none"),
    "fp8": ("float8_e4m3fn", "tensor"),
    "fp8_e5m2": ("float8_e5m2", "tensor"),
    "fp8_per_token_head": ("float8_e4m3fn", "token"),
    "int8": ("int8", "token"),
}
#: memory that is left to queries, outputs, the read stream and the libraries
_ASIDE_BYTES: Final = 3 << 30


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of cache, measured: bytes asked of the allocator and taken by it, time of one layer, and the bytes it read."""

    requested_bytes: int
    allocated_bytes: int
    layer_seconds: float
    read_bytes: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """One step on a device. `read_bytes_per_second` is the ceiling; `step_seconds` the attention of all layers in one graph."""

    device: str
    read_bytes_per_second: float
    kinds: tuple[Kind, ...]
    requested_bytes: int
    allocated_bytes: int
    step_seconds: float
    step_spread: float
    l2_bytes: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """One kind of cache, filled and checked: `launch` runs one of its layers, `inputs` is what it reads."""

    inputs: Inputs | IndexInputs
    launch: Launch
    requested_bytes: int
    allocated_bytes: int
    read_bytes: int


def refusal(plan: BenchPlan) -> str | None:
    """Why no kernel here can run a plan."""
    if not plan.shapes:
        beside = ", ".join(f"{each.what} of {each.layers} layers" for each in plan.beside)
        return f"no kernel here reads this model's attention: {beside}"
    if plan.kv_dtype not in _FORMATS:
        return f"no kernel reads a {plan.kv_dtype} cache (--kv-dtype {', '.join(_FORMATS)})"
    if any(shape.op == "mla_decode" for shape in plan.shapes) and _FORMATS[plan.kv_dtype][1] == "token":
        return f"no kernel reads latent rows in {plan.kv_dtype}"
    return None


def row_of(shape: AttentionShape, plan: BenchPlan) -> Row:
    """A kind of cache as a row of the kernels' benchmark: its sequences read `tokens` tokens each, all of them visible.

    Tokens that an indexer picks lie anywhere in the cache: latent rows are read by lists of slots, others in pages of its blocks
    (or what divides both), as many as are kept.

    Raises:
        UnsupportedError: a plan that no kernel can run (`refusal`).
    """
    from hfmem_kernels.benchmarks.rows import Row, uniform
    from hfmem_kernels.benchmarks.shapes import Shape
    from hfmem_kernels.layout import LatentFormat

    if (reason := refusal(plan)) is not None:
        raise UnsupportedError(reason)
    dtype, scales = _FORMATS[plan.kv_dtype]
    latent_format = LatentFormat.PLAIN
    if shape.rows:  # with scales of their own, beside bf16
        dtype, scales, latent_format = "bfloat16", "none", LatentFormat(shape.rows)
    made = Shape(
        shape.op, "", 1, shape.count, shape.num_heads, shape.num_kv_heads, shape.head_dim, shape.v_head_dim,
        shape.head_dim, window=shape.window, sinks=shape.sinks, latent=shape.op == "mla_decode",
    )  # fmt: skip
    row = Row(
        made, uniform(plan.num_seqs, shape.tokens), page_size=shape.page_size, dtype=dtype, scales=scales,
        latent_format=latent_format,
    )  # fmt: skip
    kept = shape.pages * shape.page_size
    if shape.block and made.latent:
        return replace(row, kept=kept, listed=True)
    if shape.block and shape.tokens < kept:
        return replace(row, page_size=math.gcd(shape.page_size, shape.block, shape.tokens), kept=kept)
    return row


def index_row_of(shape: AttentionShape, plan: BenchPlan) -> IndexRow:
    """An indexer's keys as the kernels' benchmark takes them. A plan's pages say what they are multiples of."""
    from hfmem_kernels.benchmarks.index_keys import IndexRow

    whole = any(each.rows and PACKED_ROWS[each.rows][1] > 1 for each in plan.shapes if each.op == "mla_decode")
    unit = max(unit for _, unit in PACKED_ROWS.values()) if whole else 16
    lengths = (shape.tokens,) * plan.num_seqs
    return IndexRow(shape.num_heads, shape.head_dim, lengths, shape.page_size, bool(shape.rows), plan.kv_dtype, unit)


def _refuse(plan: BenchPlan, reason: str) -> UsageError:
    return UsageError(
        f"{reason}; it would allocate {format_bytes(plan.cache_bytes)} of cache for {plan.layers} layers, run one decode step's "
        "attention over them and time it (--dry-run prints the plan)"
    )


def device_of(plan: BenchPlan, named: Device | None) -> torch.device:
    """This machine's device.

    Raises:
        UsageError: no kernels, no device, or another one than `named`.
    """
    for package in ("torch", "triton"):
        if importlib.util.find_spec(package) is None:
            raise _refuse(plan, f"hfmem bench needs {package} (pip install 'hfmem[kernels]')")
    import torch

    if not torch.cuda.is_available():
        raise _refuse(plan, "hfmem bench needs a GPU, and torch sees none on this machine")
    device = torch.device("cuda", torch.cuda.current_device())
    if named is not None and named.memory_reading != "nvml":
        here = torch.cuda.get_device_properties(device)
        found = nearest_device(here.name, here.total_memory)
        if found is None or found.name != named.name:
            raise UsageError(f"--gpu {named.name}: this machine has {here.name} (--dry-run plans for any device)")
    return device


def measure(plan: BenchPlan, named: Device | None) -> Measurement:
    """Allocate, check and time the plan on this machine's device.

    Raises:
        DoesNotFitError: the caches do not fit the device's free memory.
        UnsupportedError: no kernel can run the plan, or one's result is wrong.
        UsageError: as `device_of`.
    """
    if (reason := refusal(plan)) is not None:
        raise UnsupportedError(f"{reason}; --dry-run prints the plan")
    device = device_of(plan, named)
    import torch

    from hfmem_kernels.benchmarks import ceiling, timing

    free, _ = torch.cuda.mem_get_info(device)
    if plan.cache_bytes + _ASIDE_BYTES > free:
        raise DoesNotFitError(
            f"{format_bytes(plan.cache_bytes)} of cache and {format_bytes(_ASIDE_BYTES)} beside it do not fit "
            f"{format_bytes(free)} of free memory (a shorter --ctx, fewer --batch, a higher --tp)"
        )
    limit = ceiling.measure(device)
    torch.cuda.empty_cache()
    prepared: list[Prepared] = []
    replays: dict[str, timing.Replay] = {}
    for number, shape in enumerate(plan.shapes):
        prepared.append(prepare(shape, plan, device))
        replays[str(number)] = timing.capture(prepared[-1].launch, shape.count)
    launches = step_launches(plan, prepared)
    replays["step"] = timing.capture(lambda index: launches[index](), len(launches))
    timings = timing.interleave(replays)
    kinds = tuple(
        Kind(each.requested_bytes, each.allocated_bytes, timings[str(number)].median_us * 1e-6, each.read_bytes)
        for number, each in enumerate(prepared)
    )
    step = timings["step"]
    properties = torch.cuda.get_device_properties(device)
    return Measurement(
        device=properties.name,
        read_bytes_per_second=limit.bytes_per_second,
        kinds=kinds,
        requested_bytes=sum(kind.requested_bytes for kind in kinds),
        allocated_bytes=sum(kind.allocated_bytes for kind in kinds),
        step_seconds=step.median_us * 1e-6 * len(launches),
        step_spread=step.spread,
        l2_bytes=properties.L2_cache_size,
    )


def prepare(shape: AttentionShape, plan: BenchPlan, device: torch.device) -> Prepared:
    """Caches of all layers of a kind, filled, and the op that reads them.

    Raises:
        UnsupportedError: its result is wrong.
    """
    from hfmem_kernels.benchmarks import gate, index_keys, inputs, ours

    if shape.op == "index_logits":
        row = index_row_of(shape, plan)
        keys, requested, taken = allocate_layers(index_keys.allocate, index_keys.stored_bytes, row, shape.count, device)
        scored = index_keys.build(row, keys)
        _pass(index_keys.check(scored))
        return Prepared(scored, index_keys.prepare(scored), requested, taken, row.traffic.kv_bytes)
    attended = row_of(shape, plan)
    sets: list[CacheSet]
    sets, requested, taken = allocate_layers(inputs.allocate, inputs.stored_bytes, attended, shape.count, device)
    made = inputs.build(attended, device, empty=sets)
    _pass(gate.check(made))
    return Prepared(made, ours.prepare(made), requested, taken, attended.traffic.kv_bytes)


def allocate_layers(
    allocate: Callable[[Any, torch.device], Any],
    stored_bytes: Callable[[Any], int],
    row: Row | IndexRow,
    layers: int,
    device: torch.device,
) -> tuple[list[Any], int, int]:
    """Empty caches of all layers of a kind, the bytes asked of the allocator, and what it took for them."""
    import torch

    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    sets = [allocate(row, device) for _ in range(layers)]
    taken = torch.cuda.memory_allocated(device) - before if device.type == "cuda" else 0
    return sets, sum(stored_bytes(each) for each in sets), taken


def _pass(found: Gate) -> None:
    if not found.passed:
        raise UnsupportedError(f"the kernel's result is wrong on this device, nothing was timed: {found.reason}")


def step_launches(plan: BenchPlan, prepared: list[Prepared]) -> list[Callable[[], torch.Tensor]]:
    """What a step launches, in the plan's order; a layer that shares a cache reads it once more.

    Rows that are merged take window rows with them, one layer's after the other; what is left of those is read alone.

    Raises:
        UnsupportedError: two caches under one softmax give a wrong result.
    """
    windows = [
        (prepared[number], layer)
        for number, shape in enumerate(plan.shapes)
        if shape.kind == "window rows"
        for layer in range(shape.count)
    ]
    launches: list[Callable[[], torch.Tensor]] = []

    def add(launch: Launch | Joined, index: int) -> None:
        launches.append(lambda: launch(index))

    for each, shape in zip(prepared, plan.shapes, strict=True):
        if shape.merged:
            own, windows = windows[: shape.readers], windows[shape.readers :]
            joined = _join(own, each, shape)
            _pass(joined.check())
            for index in range(shape.readers):
                add(joined, index)
        elif shape.kind != "window rows":
            for index in range(shape.readers):
                add(each.launch, index % shape.count)
    for left, layer in windows:
        add(left.launch, layer)
    return launches


def _join(windows: list[tuple[Prepared, int]], rows: Prepared, shape: AttentionShape) -> Joined:
    from hfmem_kernels.benchmarks.inputs import Inputs
    from hfmem_kernels.benchmarks.joined import Joined, Place

    def place(each: Prepared, layer: int) -> Place:
        assert isinstance(each.inputs, Inputs)
        return each.inputs, layer

    return Joined(
        [place(each, layer) for each, layer in windows],
        [place(rows, index % shape.count) for index in range(shape.readers)],
    )
