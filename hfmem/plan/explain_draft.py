"""A draft's part of an explanation: its tensors, what a token adds to its cache, and what the engine takes for it."""

from __future__ import annotations

from hfmem.checkpoint.tensors import TensorGroup
from hfmem.memory import engines
from hfmem.memory.drafts import Drafter, apart
from hfmem.memory.result import CacheBytes
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Component
from hfmem.model.parameters import Locator
from hfmem.plan.explain_cache import kept_steps, per_token
from hfmem.plan.explain_parameters import tensor_steps, weight_steps
from hfmem.plan.steps import Section, Step
from hfmem.records import dataclass, replace
from hfmem.report import DraftInfo
from hfmem.units import counted


@dataclass(frozen=True, slots=True)
class Drafted:
    """What drafts, and what is loaded and kept with it and without: bytes of weights on all ranks, and caches."""

    info: DraftInfo
    drafter: Drafter
    loaded: tuple[int, int]
    cache: tuple[CacheBytes, CacheBytes]


def draft_sections(arch: Architecture, draft: Drafted, serving: Serving) -> list[Section]:
    """Weights, cache per token and cache at the context of what drafts beside `arch`."""
    kept, served = apart(arch, draft.drafter, replace(serving, kv_dtype=draft.cache[0].kv_dtype))
    name = "the model's own prediction layers" if draft.drafter.own else draft.info.id
    growth = per_token(kept, served)
    steps, size = kept_steps(kept, served)
    if serving.engine != "ideal":
        steps.append(_held(draft, serving))
    at_context = Section(f"Draft's cache at {serving.context:,} tokens", tuple(steps), size, "bytes")
    return [
        Section(f"Draft's parameters: {name}", tuple(_parameters(draft)), draft.info.parameters, "parameters"),
        _weights(draft, serving),
        replace(growth, title="Draft's cache per token"),
        at_context,
    ]


def draft_sum(draft: Drafted, serving: Serving, so_far: int) -> list[Step]:
    """The draft's two terms of the sum, after `so_far` bytes of its target."""
    loaded = draft.loaded[0] - draft.loaded[1]
    steps = []
    for title, size in (
        ("The draft's weights, as they are loaded", loaded),
        (f"The draft's cache, {_place(serving)}", draft.info.kv_cache_bytes),
    ):
        so_far += size
        steps.append(Step(title, f"{size:,}", size, "bytes", None, so_far))
    return steps


def _place(serving: Serving) -> str:
    return "in its target's pool" if engines.engine(serving.engine).DRAFTS_IN_POOL else "beside its target's"


def _parameters(draft: Drafted) -> list[Step]:
    arch, total = draft.drafter.architecture, draft.info.parameters
    component = Component.MTP if draft.drafter.own else None
    specs = [spec for spec in arch.tensors if not spec.buffer and component in (None, spec.component)]
    steps = tensor_steps(specs)
    found = sum(step.result for step in steps)
    if steps and found != total:
        note = f"{abs(total - found):,} {'more' if total > found else 'fewer'} than the config's family has"
        steps.append(Step("As stored", f"{found:,} {total - found:+,}", total, "parameters", note, total))
    return steps or [Step("As stored", f"{total:,}", total, "parameters", None, total)]


def _weights(draft: Drafted, serving: Serving) -> Section:
    stored, loaded = draft.info.weights_bytes, draft.loaded[0] - draft.loaded[1]
    steps = weight_steps(_bytes_by_dtype(draft.drafter))
    if loaded != stored:
        fewer = "its target's embedding and head serve both" if engines.engine(serving.engine).DRAFTS_IN_POOL else None
        note = fewer if loaded < stored else "as the engine lays them out: a tied table twice, padded, or converted"
        title = f"As {serving.engine} loads them"
        steps.append(Step(title, f"{stored:,} {loaded - stored:+,}", loaded, "bytes", note, loaded))
    return Section("Draft's weights", tuple(steps), loaded, "bytes")


def _bytes_by_dtype(drafter: Drafter) -> dict[str, int]:
    """Stored bytes of the tensors that draft."""
    locator = Locator(drafter.architecture) if drafter.own else None
    found: dict[str, int] = {}
    for group in drafter.groups:
        count = group.count if locator is None else _predicting(locator, group)
        if count:
            found[group.dtype] = found.get(group.dtype, 0) + count * group.tensor_bytes
    return found


def _predicting(locator: Locator, group: TensorGroup) -> int:
    parts = locator.locate(group.pattern, group.boxes)
    return sum(part.count for part in parts if part.component is Component.MTP)


def _held(draft: Drafted, serving: Serving) -> Step:
    """What the engine's cache grows by, as the difference that it is."""
    size = draft.info.kv_cache_bytes
    formula = f"{draft.cache[0].bytes:,} with the draft − {draft.cache[1].bytes:,} without"
    note, ahead = _place(serving), serving.speculative_tokens
    if ahead:
        note += f"; {counted(ahead, 'token')} drafted at once"
    return Step(f"As {serving.engine} holds it", formula, size, "bytes", note)
