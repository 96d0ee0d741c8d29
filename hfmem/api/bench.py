"""`hfmem bench`: a model's attention in one decode step, run on this machine's device over caches of the predicted size.

The plan is `hfmem.plan.bench`'s and needs nothing. Running it needs the extra `kernels` and a GPU: every layer's cache is
allocated, compared with the prediction, read once by one step's attention, and timed against the read ceiling measured in the same
run.
"""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING, Any, Final

from hfmem.api.configuration import DEFAULT_CONTEXT, Configuration, configure
from hfmem.api.planning import speed
from hfmem.api.reading import Model, read_model
from hfmem.errors import DoesNotFitError, UnsupportedError, UsageError
from hfmem.memory.serving import Serving
from hfmem.plan.bench import AttentionShape, BenchPlan, bench_plan, beside_bytes, read_bytes
from hfmem.plan.devices import Device, find_device, nearest_device
from hfmem.records import dataclass, replace
from hfmem.units import format_bytes

if TYPE_CHECKING:
    import torch

    from hfmem_kernels.benchmarks.inputs import CacheSet, Inputs
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
class Bound:
    """What a bandwidth allows at best: seconds of a step's attention, weights and states, and tokens a second of all sequences.

    `source` says whose bandwidth it is. Attention is all of it, also what no op here reads; weights are those that the step reads
    on this rank; recurrent states are read and written back.
    """

    source: str
    bytes_per_second: float
    attention_seconds: float
    weights_seconds: float
    states_seconds: float
    attention_tokens_per_second: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of layer, measured: bytes asked of the allocator and taken by it, time of one layer, and the bytes it read."""

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
class BenchAnswer:
    """The plan of one rank; the bound on a device that was named or measured; what was measured, unless it was a dry run.

    `refused`: why no kernel here could run the plan, None if one can.
    """

    model: str
    tp: int
    plan: BenchPlan
    read_bytes: int
    weights_bytes_read: int
    bound: Bound | None
    measured: Measurement | None
    refused: str | None = None


def bench(
    model: str | Model,
    *,
    context: int | None = None,
    num_seqs: int = 1,
    device: str | Device | None = None,
    tp: int = 1,
    kv_dtype: str = "auto",
    page_size: int | None = None,
    source_tokens: int | None = None,
    dry_run: bool = False,
    **reading: Any,
) -> BenchAnswer:
    """Run one decode step's attention of a model on this machine's device, or (`dry_run`) say what would be allocated.

    Args:
        device: with `dry_run`, whose bandwidth bounds the step; without it the device has to be this machine's.
        tp: run the share of one of so many ranks.
        source_tokens: encoder tokens a sequence, for cross attention; None: the encoder's maximum.
        reading: `revision`, `assume`, `fetch`, as `read_model`.

    Raises:
        DoesNotFitError: the caches do not fit the device's free memory.
        UsageError: no device, no kernels, or a device that is not here; arguments out of range.
        SourceError, UnsupportedError: as `hfmem.estimate`; a cache format that no kernel reads.
    """
    read = model if isinstance(model, Model) else read_model(model, **reading)
    serving = Serving(
        context=context or read.architecture.max_position_embeddings or DEFAULT_CONTEXT,
        num_seqs=num_seqs,
        kv_dtype=kv_dtype,
        engine="ideal",
        tp=tp,
        page_size=page_size,
        source_tokens=source_tokens,
        declared_kv_dtype=read.declared_kv_dtype,
    )
    plan = bench_plan(read.architecture, serving)
    named = find_device(device).device if isinstance(device, str) else device
    settings: dict[str, Any] = {"num_seqs": num_seqs, "kv_dtype": kv_dtype, "engine": "ideal", "tp": tp}

    def bounded(device: Device | None, source: str) -> tuple[Bound | None, int]:
        bandwidth = device.bandwidth if device else None
        # the bytes depend on no bandwidth
        stand_in = replace(device or Device("any", "any", 1, "given"), bandwidth=bandwidth or 1)
        found = configure(read, context=serving.context, device=stand_in, num_devices=tp, **settings)
        return _bound(found, plan, bandwidth, source)

    if dry_run:
        bound, weights = bounded(named, named.name if named else "")
        return BenchAnswer(read.facts.repo_id, tp, plan, read_bytes(plan), weights, bound, None, refusal(plan))
    measured = _measure(plan, named)
    here = Device(measured.device, "any", 1, "given", bandwidth=int(measured.read_bytes_per_second))
    bound, weights = bounded(here, f"{measured.device}, measured")
    return BenchAnswer(read.facts.repo_id, tp, plan, read_bytes(plan), weights, bound, measured)


def _bound(served: Configuration, plan: BenchPlan, bandwidth: float | None, source: str) -> tuple[Bound | None, int]:
    """The bound at that bandwidth, if it is known, and the bytes of weights that a step reads on one rank."""
    found = speed(served)
    assert found is not None
    weights = found.weights_bytes_read
    attention_bytes = read_bytes(plan) + beside_bytes(plan, states=False)
    if bandwidth is None or not attention_bytes:  # of caches whose length nobody knows
        return None, weights
    attention = attention_bytes / bandwidth
    states, rest, seqs = beside_bytes(plan, states=True) / bandwidth, weights / bandwidth, plan.num_seqs
    both = attention + rest + states
    return Bound(source, bandwidth, attention, rest, states, seqs / attention, seqs / both), weights


def _refuse(plan: BenchPlan, reason: str) -> UsageError:
    layers = sum(shape.readers for shape in plan.shapes)
    return UsageError(
        f"{reason}; it would allocate {format_bytes(plan.cache_bytes)} of cache for {layers} layers, run one decode step's "
        "attention over them and time it (--dry-run prints the plan)"
    )


def _device(plan: BenchPlan, named: Device | None) -> torch.device:
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


def refusal(plan: BenchPlan) -> str | None:
    """Why no kernel here can run a plan."""
    latent = any(shape.op == "mla_decode" for shape in plan.shapes)
    if not plan.shapes:
        beside = ", ".join(f"{each.what} of {each.layers} layers" for each in plan.beside)
        return f"no kernel here reads this model's attention: {beside}"
    if plan.kv_dtype not in _FORMATS:
        return f"no kernel reads a {plan.kv_dtype} cache (--kv-dtype {', '.join(_FORMATS)})"
    if latent and _FORMATS[plan.kv_dtype][1] == "token":
        return f"no kernel reads latent rows in {plan.kv_dtype}"
    return None


def row_of(shape: AttentionShape, plan: BenchPlan) -> Row:
    """A kind of layer as a row of the kernels' benchmark: its sequences read `tokens` tokens each, all of them visible.

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
        made, uniform(plan.num_seqs, shape.tokens), page_size=plan.page_size, dtype=dtype, scales=scales,
        latent_format=latent_format,
    )  # fmt: skip
    kept = shape.pages * plan.page_size
    if shape.block and made.latent:
        return replace(row, kept=kept, listed=True)
    if shape.block and shape.tokens < kept:
        return replace(row, page_size=math.gcd(plan.page_size, shape.block, shape.tokens), kept=kept)
    return row


def _measure(plan: BenchPlan, named: Device | None) -> Measurement:
    """Allocate, check and time the plan on this machine's device."""
    if (reason := refusal(plan)) is not None:
        raise UnsupportedError(f"{reason}; --dry-run prints the plan")
    rows = [row_of(shape, plan) for shape in plan.shapes]
    device = _device(plan, named)
    import torch

    from hfmem_kernels.benchmarks import ceiling, gate, ours, timing

    free, _ = torch.cuda.mem_get_info(device)
    if plan.cache_bytes + _ASIDE_BYTES > free:
        raise DoesNotFitError(
            f"{format_bytes(plan.cache_bytes)} of cache and {format_bytes(_ASIDE_BYTES)} beside it do not fit "
            f"{format_bytes(free)} of free memory (a shorter --ctx, fewer --batch, a higher --tp)"
        )
    limit = ceiling.measure(device)
    torch.cuda.empty_cache()
    replays: dict[str, timing.Replay] = {}
    launches: list[tuple[ours.Launch, int]] = []
    sizes: list[tuple[int, int]] = []
    for number, (shape, row) in enumerate(zip(plan.shapes, rows, strict=True)):
        made, requested, taken = allocate_layers(row, shape.count, device)
        sizes.append((requested, taken))
        found = gate.check(made)
        if not found.passed:
            raise UnsupportedError(f"the kernel's result is wrong on this device, nothing was timed: {found.reason}")
        launch = ours.prepare(made)
        replays[str(number)] = timing.capture(launch, shape.count)
        # a layer that shares a cache reads it once more
        launches += [(launch, layer % shape.count) for layer in range(shape.readers)]
    replays["step"] = timing.capture(lambda index: launches[index][0](launches[index][1]), len(launches))
    timings = timing.interleave(replays)
    kinds = tuple(
        Kind(requested, taken, timings[str(number)].median_us * 1e-6, row.traffic.kv_bytes)
        for number, ((requested, taken), row) in enumerate(zip(sizes, rows, strict=True))
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


def allocate_layers(row: Row, layers: int, device: torch.device) -> tuple[Inputs, int, int]:
    """Caches of all layers of a kind, filled: the inputs, the bytes asked of the allocator, and what it took for them."""
    import torch

    from hfmem_kernels.benchmarks import inputs

    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    sets: list[CacheSet] = [inputs.allocate(row, device) for _ in range(layers)]
    taken = torch.cuda.memory_allocated(device) - before if device.type == "cuda" else 0
    requested = sum(inputs.stored_bytes(each) for each in sets)
    return inputs.build(row, device, empty=sets), requested, taken
