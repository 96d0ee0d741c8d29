"""`hfmem explain`: where a model's memory comes from, step by step, with its own numbers put in.

Parameters, weights, cache per token, cache at the context, and the sum, in the way the articles on serving memory teach it; where
the naive cache formula (every head, every layer, the whole context) says something else, both are shown and the reasons named.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from hfmem.dtypes import BITS
from hfmem.memory.engines.ideal import cache as ideal_cache
from hfmem.memory.result import CacheBytes
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture, Note
from hfmem.model.parameters import ParameterReport
from hfmem.plan.explain_cache import at_context, per_token
from hfmem.plan.explain_draft import Drafted, draft_sections, draft_sum
from hfmem.plan.explain_parameters import parameter_steps, weight_steps
from hfmem.plan.explain_rank import Rank, rank_sections, runtime_steps
from hfmem.plan.steps import Section, Step
from hfmem.records import dataclass, replace
from hfmem.report import DraftInfo, RuntimeItem


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole arithmetic of one model under one serving configuration; what drafts beside it, and what is worth saying."""

    model: str
    sections: tuple[Section, ...]
    total_bytes: int
    draft: DraftInfo | None = None
    notes: tuple[Note, ...] = ()


def explain(
    model: str,
    arch: Architecture,
    parameters: ParameterReport,
    serving: Serving,
    *,
    engine: CacheBytes | None = None,
    loaded_bytes: int | None = None,
    host_bytes: int = 0,
    runtime: Mapping[str, RuntimeItem] | None = None,
    overhead: tuple[Fraction, int] = (Fraction(0), 0),
    device_bytes: int | None = None,
    draft: Drafted | None = None,
    rank: Rank | None = None,
) -> Explanation:
    """The steps from tensors to bytes.

    Args:
        model: what to call it.
        engine: an engine's cache for the same serving configuration without a draft, to show beside the model's own need.
        loaded_bytes: what the engine loads of the weights. host_bytes: of weights and cache, what lies in the host's memory.
        runtime: the rest of what a rank takes, by the report's keys.
        overhead: the flat share in it (the articles' 10 %: `Fraction(1, 10)`), and of how many bytes of a rank.
        device_bytes: memory of one device, to count how many are needed by the sum alone.
        draft: what drafts beside it, which adds to the sum.
        rank: what the most loaded rank holds, where that is not everything.
    """
    weights = _weights(parameters)
    cache = ideal_cache(arch, serving)
    sections = [
        Section("Parameters", tuple(parameter_steps(arch, parameters)), parameters.total, "parameters"),
        Section("Weights", tuple(weights), parameters.weights_bytes, "bytes"),
        per_token(arch, serving),
        at_context(arch, serving, cache, engine),
    ]
    if draft is not None:
        sections += draft_sections(arch, draft, serving)
    held = engine.bytes if engine is not None else cache.bytes
    first = _first_steps(parameters.weights_bytes, loaded_bytes, held, engine)
    if draft is not None:
        first += draft_sum(draft, serving, first[-1].result)
    if rank is not None:
        sections += rank_sections(arch, rank, serving, overhead)
    total = _total(first, serving, runtime or {}, overhead, host_bytes, device_bytes)
    sections.append(total)
    return Explanation(model, tuple(sections), total.result, draft.info if draft else None)


# ---- weights ---------------------------------------------------------------------------------------------------------------


def _weights(parameters: ParameterReport) -> list[Step]:
    steps = weight_steps(parameters.weights_by_dtype)
    stored = sum(size * 8 // BITS[code] for code, size in parameters.weights_by_dtype.items() if code in BITS)
    if steps and stored != parameters.total:
        more = stored - parameters.total
        note = f"{stored:,} stored elements for {parameters.total:,} parameters: " + (
            "buffers, scales or tied copies are stored too"
            if more > 0
            else "several parameters are packed in one element"
        )
        last = steps[-1]
        steps[-1] = Step(last.title, last.formula, last.result, last.unit, note, last.running)
    return steps


# ---- the sum ---------------------------------------------------------------------------------------------------------------


def _first_steps(stored: int, loaded: int | None, cache: int, engine: CacheBytes | None) -> list[Step]:
    weights = stored if loaded is None else loaded
    total = weights + cache
    name = "Weights + cache" + (f" as {engine.engine} holds it" if engine is not None else "")
    differ = None if weights == stored else f"weights as they are loaded: {weights:,} bytes for {stored:,} stored"
    return [Step(name, f"{weights:,} + {cache:,}", total, "bytes", differ, total)]


def _total(
    steps: list[Step],
    serving: Serving,
    runtime: Mapping[str, RuntimeItem],
    flat: tuple[Fraction, int],
    on_host: int,
    device_bytes: int | None,
) -> Section:
    """`flat`: the share that stands for all of the runtime, and the bytes of a rank that it is taken of."""
    total = sum(step.result for step in steps)
    for step in runtime_steps(runtime, flat, serving.num_ranks):
        total += step.result
        steps.append(replace(step, running=total))
    if device_bytes:
        count = -(-(total - on_host) // device_bytes)
        away = f"({total:,} - {on_host:,} in the host's memory)" if on_host else f"{total:,}"
        note = "by the sum alone: what an engine may use of a device and how tensors split decide in the end"
        steps.append(Step("Devices", f"{away} / {device_bytes:,}, rounded up", count, "GPUs", note))
    return Section("Total", tuple(steps), total, "bytes")
