"""The most loaded rank's part of an explanation: which tensors it holds and how much of each, its cache by layer, and the sum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Final

from hfmem.memory.layer_table import LayerRun
from hfmem.memory.loaded import HeldTensors
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Component
from hfmem.model.parameters import Locator
from hfmem.plan.explain_parameters import MAX_TERMS, TITLES
from hfmem.plan.steps import Section, Step
from hfmem.records import dataclass
from hfmem.report import RUNTIME_WORDS, PerRank, RuntimeItem
from hfmem.units import counted

#: one term: how many, bytes of each, of what
_Term = tuple[int, int, str]
#: kinds of cache that have heads to share out
_SPLIT: Final = frozenset({"full", "sliding", "chunked", "cross"})


@dataclass(frozen=True, slots=True)
class Rank:
    """The most loaded rank of a layout: its numbers in the report, the `tensors` of all ranks, the `runs` of layers whose cache it
    holds. `weights_bytes` are the model's on it, without another's that drafts; `unused_bytes` what pages take beyond the runs."""

    told: PerRank
    stage_name: str
    num_ranks: int
    tensors: Sequence[HeldTensors]
    weights_bytes: int
    runs: Sequence[LayerRun]
    unused_bytes: int
    runtime: Mapping[str, RuntimeItem]


def rank_sections(arch: Architecture, rank: Rank, serving: Serving, flat: tuple[Fraction, int]) -> list[Section]:
    """Weights, cache and sum of the rank; `flat` as in `runtime_steps`."""
    told = rank.told
    weights, cache = _weights(arch, rank), _cache(rank, serving)
    both = told.weights_bytes + told.kv_cache_bytes
    steps = [Step("Weights + cache", f"{told.weights_bytes:,} + {told.kv_cache_bytes:,}", both, "bytes", None, both)]
    steps += runtime_steps(rank.runtime, flat)
    where = _where(rank)
    return [
        Section(f"Weights on {where}", tuple(_summed(weights)), told.weights_bytes, "bytes"),
        Section(f"Cache on {where}", tuple(_summed(cache)), told.kv_cache_bytes, "bytes"),
        Section(f"Total of {where}", tuple(_summed(steps)), told.total_bytes, "bytes"),
    ]


def runtime_steps(runtime: Mapping[str, RuntimeItem], flat: tuple[Fraction, int], num_ranks: int = 1) -> Iterator[Step]:
    """What the engine takes beside weights and cache on so many ranks. `flat`: the share that stands for all of it, and the bytes
    of a rank that it is taken of."""
    for key, item in runtime.items():
        word = RUNTIME_WORDS.get(key, key.removesuffix("_bytes").replace("_", " "))
        title, formula, note = f"{word[:1].upper()}{word[1:]}, {item.grade}", item.source, None
        if item.low != item.high:
            note = f"between {item.low:,} and {item.high:,} bytes" + (" on each" if num_ranks > 1 else "")
        if key == "overhead_bytes":
            share = f"{float(flat[0] * 100):g} %"
            title, formula = f"Overhead of {share}", f"{share} × {flat[1]:,}"
            note = "activations, temporary buffers, fragmentation: a flat rule, not a measurement"
        if num_ranks > 1:
            formula = f"{num_ranks} ranks × {item.bytes:,}: {formula}"
        yield Step(title, formula, num_ranks * item.bytes, "bytes", note)


def _where(rank: Rank) -> str:
    if rank.stage_name:
        return rank.stage_name if rank.stage_name.startswith("device") else f"a rank of {rank.stage_name}"
    return "a rank" if rank.num_ranks > 1 else "the device"


def _weights(arch: Architecture, rank: Rank) -> list[Step]:
    """By component, the tensors that the rank holds: how many of each, and the bytes of its part."""
    locator = Locator(arch)
    found: dict[Component, dict[tuple[str, int], int]] = {}
    for held in rank.tensors:
        count = held.stage_counts[rank.told.stage]
        if count and held.bytes:
            component = locator.locate(held.pattern, held.boxes)[0].component
            counts = found.setdefault(component, {})
            key = (_name(held.pattern), held.bytes)
            counts[key] = counts.get(key, 0) + count
    steps = []
    for component in Component:
        if component in found:
            terms = [(count, size, name) for (name, size), count in found[component].items()]
            total = sum(count * size for count, size, _ in terms)
            steps.append(Step(TITLES[component], _formula(terms), total, "bytes"))
    away = rank.weights_bytes - sum(step.result for step in steps)
    if away:
        steps.append(Step("Left in the host's memory", f"{-away:,}", away, "bytes"))
    drafts = rank.told.weights_bytes - rank.weights_bytes
    if drafts:
        steps.append(Step("The draft's weights", f"{drafts:,}", drafts, "bytes"))
    return steps


def _name(pattern: str) -> str:
    """What stands last in a tensor's name: `q_proj`, `q_proj scale`, `norm`."""
    parts = [part for part in pattern.split(".") if part != "{}" and not part.isdigit()]
    if len(parts) > 1 and parts[-1] == "weight":
        return parts[-2]
    return " ".join(parts[-2:])


def _formula(terms: list[_Term]) -> str:
    """The largest terms written out, the others summed up."""
    large = sorted(terms, key=lambda term: -term[0] * term[1])
    kept, rest = large[:MAX_TERMS], large[MAX_TERMS:]
    text = " + ".join(f"{name} {f'{count:,} × ' if count > 1 else ''}{size:,}" for count, size, name in kept)
    if rest:
        text += f" + {sum(count * size for count, size, _ in rest):,} in {len(rest)} smaller kinds"
    return text


def _cache(rank: Rank, serving: Serving) -> list[Step]:
    """By kind of layer, what one of them takes on the rank."""
    steps = []
    for run in rank.runs:
        size = run.rank_bytes or 0
        if size:
            each, left = divmod(size, run.count)
            formula = f"{size:,}" if left else f"{run.count} × {each:,}"
            title = f"{run.kind[:1].upper()}{run.kind[1:].replace('_', ' ')}, {counted(run.count, 'layer')}"
            steps.append(Step(title, formula, size, "bytes", _sharing(run, serving)))
    if rank.unused_bytes:
        note = "groups of layers share blocks as wide as the widest group"
        steps.append(Step("Left unused in blocks", f"{rank.unused_bytes:,}", rank.unused_bytes, "bytes", note))
    return steps or [Step("Nothing is kept between tokens", "0", 0, "bytes")]


def _sharing(run: LayerRun, serving: Serving) -> str | None:
    """How the ranks share the layers' cache."""
    ranks, heads = serving.attn_tp // serving.dcp, run.num_kv_heads
    if serving.engine not in ("vllm", "sglang", "transformers") or heads is None:
        return None
    tokens = f"; {serving.dcp} of them share out the tokens" if serving.dcp > 1 else ""
    if run.kind.startswith("latent"):
        return f"the latent row is whole on every rank{tokens}" if serving.attn_tp > 1 else None
    if run.kind not in _SPLIT or ranks == 1:
        return tokens.removeprefix("; ") or None
    if ranks > heads:
        return f"{heads} K/V heads on {ranks} ranks: {ranks // heads} hold each{tokens}"
    return f"{heads // ranks} of {heads} K/V heads{tokens}"


def _summed(steps: Sequence[Step]) -> Iterator[Step]:
    """The steps with their sums so far."""
    running = 0
    for step in steps:
        running += step.result
        yield Step(step.title, step.formula, step.result, step.unit, step.note, running)
