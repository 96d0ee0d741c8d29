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
from hfmem.plan.steps import Section, Step
from hfmem.records import dataclass
from hfmem.report import RUNTIME_WORDS, DraftInfo, RuntimeItem


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
    overhead: Fraction = Fraction(0),
    device_bytes: int | None = None,
    draft: Drafted | None = None,
) -> Explanation:
    """The steps from tensors to bytes.

    Args:
        model: what to call it.
        engine: an engine's cache for the same serving configuration without a draft, to show beside the model's own need.
        loaded_bytes: what the engine loads of the weights. host_bytes: of weights and cache, what lies in the host's memory.
        runtime: the rest of what it takes, by the report's keys.
        overhead: a flat share of weights and cache on top (the articles' 10 %: `Fraction(1, 10)`).
        device_bytes: memory of one device, to count how many are needed by the sum alone.
        draft: what drafts beside it, which adds to the sum.
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
    total = _total(first, runtime or {}, (overhead, host_bytes), device_bytes)
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
    runtime: Mapping[str, RuntimeItem],
    flat: tuple[Fraction, int],
    device_bytes: int | None,
) -> Section:
    """`flat`: the share, and the bytes in the host's memory, which it is not taken of."""
    overhead, on_host = flat
    total = sum(step.result for step in steps)
    for key, item in runtime.items():
        total += item.bytes
        title = RUNTIME_WORDS.get(key, key.removesuffix("_bytes"))
        band = f"between {item.low:,} and {item.high:,} bytes" if item.low != item.high else None
        steps.append(
            Step(f"{title[:1].upper()}{title[1:]}, {item.grade}", item.source, item.bytes, "bytes", band, total)
        )
    if overhead:
        base = total - on_host
        extra = -(-base * overhead.numerator // overhead.denominator)
        percent = f"{float(overhead * 100):g} %"
        total += extra
        note = "activations, temporary buffers, fragmentation: a flat rule, not a measurement"
        if on_host:
            note += f"; without the {on_host:,} bytes in the host's memory"
        steps.append(Step(f"Overhead of {percent}", f"{percent} × {base:,}", extra, "bytes", note, total))
    if device_bytes:
        count = -(-(total - on_host) // device_bytes)
        away = f"({total:,} - {on_host:,} in the host's memory)" if on_host else f"{total:,}"
        note = "by the sum alone: what an engine may use of a device and how tensors split decide in the end"
        steps.append(Step("Devices", f"{away} / {device_bytes:,}, rounded up", count, "GPUs", note))
    return Section("Total", tuple(steps), total, "bytes")
