"""`hfmem bench`: a model's attention in one decode step, run on this machine's device over caches of the predicted size.

The plan is `hfmem.plan.bench`'s and needs nothing. Running it needs the extra `kernels` and a GPU: every layer's cache is
allocated, compared with the prediction, read once by one step's attention, and timed against the read ceiling measured in the same
run.
"""

from __future__ import annotations

from typing import Any

from hfmem.api.bench_run import Measurement, measure, refusal
from hfmem.api.configuration import DEFAULT_CONTEXT, Configuration
from hfmem.api.configuring import configure
from hfmem.api.planning import speed
from hfmem.api.reading import Model, read_model
from hfmem.memory.serving import Serving
from hfmem.plan.bench import BenchPlan, bench_plan, beside_bytes, read_bytes
from hfmem.plan.devices import Device, find_device
from hfmem.records import dataclass, replace


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
    measured = measure(plan, named)
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
