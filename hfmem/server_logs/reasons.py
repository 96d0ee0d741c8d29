"""Why a line of a log differs: assumptions to try, the likely first, until one meets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from hfmem.errors import HfmemError, UnsupportedError
from hfmem.memory.serving import Serving
from hfmem.records import replace
from hfmem.server_logs.checks import Check, Measure, check
from hfmem.server_logs.parse import LogFacts, Reading
from hfmem.units import GIB

if TYPE_CHECKING:
    pass

#: a number this near needs no explanation
NEAR: Final = 0.01
#: devices that compute in NVFP4
_BLACKWELL: Final = ((100, "B200 and kin"), (120, "RTX devices of Blackwell"))
#: a device whose kernels export no states during prefill (`hfmem.memory.engines.vllm.states`)
NO_CHECKPOINTS: Final = 89
#: an A100's compute capability, and its memory
_AMPERE, _MOST_AMPERE = 80, 80 * GIB
_SIZES: Final = (2, 4, 8, 16)
_ONE_STEP: Final = "fits with the windows of releases before 0.26, beside the tokens of one step"


def drafts_itself(log: LogFacts) -> bool:
    """Whether the model's own prediction layers draft, which vLLM then loads and keeps a cache for like its other layers."""
    told = log.settings
    method = (told.draft_method or "").lower()
    return log.engine == "vllm" and method.endswith("mtp") and (told.draft_model is None or told.model is None)


def explained(
    name: str,
    measure: Measure,
    logged: Reading,
    compute: Callable[[Serving], float],
    serving: Serving,
    alternatives: Iterator[tuple[str, Serving]],
    share: float = 0.0,
) -> Check:
    """The check under `serving`; where it differs, the first alternative that meets the line is its reason."""
    refusal = ""
    try:
        result = check(name, measure, logged, compute(serving), share=share)
    except UnsupportedError as error:
        result, refusal = check(name, measure, logged, None), error.message
    if result.verdict not in ("differs", "unknown"):
        return result
    for reason, tried in alternatives:
        try:
            value = compute(tried)
        except HfmemError:
            continue
        if abs(value - logged.value) <= max(NEAR * abs(logged.value), logged.slack):
            return replace(result, reason=reason, met=value)
    return replace(result, reason=refusal or None)


def explained_further(
    item: Check,
    compute: Callable[[Serving], float],
    logged: Reading,
    first: tuple[str, Serving] | None,
    log: LogFacts,
    share: float = 0.0,
) -> Check:
    """`item` under the assumption that explained a line before it, alone or with a second one."""
    if item.verdict != "differs" or item.reason or first is None:
        return item
    reason, serving = first
    again = explained(item.what, item.measure, logged, compute, serving, alternatives(log, serving), share)
    if again.verdict not in ("differs", "unknown"):
        return replace(item, reason=reason, met=again.predicted)
    return replace(item, reason=f"{reason}; {again.reason}", met=again.met) if again.reason else item


def assumed(item: Check, log: LogFacts, serving: Serving) -> tuple[str, Serving] | None:
    """The assumption that explains `item`, and how it serves."""
    return next(((reason, tried) for reason, tried in alternatives(log, serving) if reason == item.reason), None)


def alternatives(log: LogFacts, serving: Serving) -> Iterator[tuple[str, Serving]]:
    """Assumptions to try where a line differs, the likely first; then another format of the cache and schedule together."""
    if log.settings.hidden_ranks:
        yield from more_ranks(serving)
    yield from _cache_formats(serving)
    yield from _schedules(log, serving)
    yield from layouts_to_try(log, serving)
    if serving.page_size is None:
        for page in (32, 64, 128):
            yield f"fits with pages of {page} tokens: --page-size {page}", replace(serving, page_size=page)
    for reason, tried in _cache_formats(serving):
        for more, both in _schedules(log, tried):
            yield f"{reason}; {more}", both
    if serving.steps_in_flight is None:
        for more, both in steps_to_try(log, replace(serving, steps_in_flight=1)):
            yield f"{_ONE_STEP}; {more}", both


def _cache_formats(serving: Serving) -> Iterator[tuple[str, Serving]]:
    if serving.kv_dtype == "auto":
        for name in ("fp8", "bf16"):
            yield f"fits if the cache is {name}: --kv-dtype {name}", replace(serving, kv_dtype=name)
    else:
        yield "fits if the cache is in the model's dtype: --kv-dtype auto", replace(serving, kv_dtype="auto")


def _schedules(log: LogFacts, serving: Serving) -> Iterator[tuple[str, Serving]]:
    """What states, windows and steps keep, where the log does not say."""
    if serving.prefill_checkpoints:
        reason = "fits without the states' prefill checkpoints, as in earlier releases and before Hopper"
        yield reason, replace(serving, prefill_checkpoints=False)
    for on in (False, True):
        if log.settings.prefix_caching is None and serving.enable_prefix_caching != on:
            word = "on" if on else "off"
            yield (
                f"prefix caching is {word}, which changes what states keep",
                replace(serving, enable_prefix_caching=on),
            )
    if serving.steps_in_flight is None:
        yield _ONE_STEP, replace(serving, steps_in_flight=1)
    yield from steps_to_try(log, serving)
    if not serving.one_kind_of_page and serving.engine == "vllm":
        reason = "fits if windowed layers keep every token: --disable-hybrid-kv-cache-manager"
        yield reason, replace(serving, one_kind_of_page=True)


def steps_to_try(log: LogFacts, serving: Serving) -> Iterator[tuple[str, Serving]]:
    """Tokens of a step, where the log does not tell them."""
    if log.settings.max_num_batched_tokens is None:
        for tokens in (2048, 4096, 8192, 16384):
            yield (
                f"fits with steps of {tokens} tokens: --max-num-batched-tokens {tokens}",
                replace(serving, max_num_batched_tokens=tokens),
            )


def more_ranks(serving: Serving) -> Iterator[tuple[str, Serving]]:
    """Tensor-parallel sizes, each with the words for it."""
    for size in _SIZES:
        yield f"fits if it ran on {size} ranks: --tp {size}", replace(serving, tp=size)


def layouts_to_try(log: LogFacts, serving: Serving) -> Iterator[tuple[str, Serving]]:
    """Layouts that the log does not name."""
    if log.settings.tp == 1:
        yield from more_ranks(serving)
    if log.settings.pp == 1:
        yield "fits if it ran in 2 stages: --pp 2", replace(serving, pp=2)
    if log.settings.capability is None:
        yield from _devices_to_try(log, serving)
    if serving.engine == "vllm" and not serving.language_model_only:
        yield "fits without the encoder: --language-model-only", replace(serving, language_model_only=True)
    if not serving.ep and serving.num_ranks > 1:
        yield "fits if experts are dealt out whole: --ep", replace(serving, ep=True)


def _devices_to_try(log: LogFacts, serving: Serving) -> Iterator[tuple[str, Serving]]:
    """Generations of devices, by what their kernels make of the files' tensors."""
    capability = serving.compute_capability
    if capability > NO_CHECKPOINTS:
        reason = "fits on devices before Hopper, whose kernels lay weights out otherwise"
        yield reason, replace(serving, compute_capability=NO_CHECKPOINTS)
    if serving.engine != "vllm":
        return
    parts = (log.largest("weights_bytes"), log.smallest("available_bytes"))
    if capability > _AMPERE and sum(part.value for part in parts if part is not None) <= _MOST_AMPERE:
        reason = (
            "fits on devices before Ada (A100, RTX 30), which keep a scale of each row where fp8 has one for a block"
        )
        yield reason, replace(serving, compute_capability=_AMPERE)
    for later, name in _BLACKWELL:
        if capability < later:
            reason = f"fits on {name}, whose kernels lay weights out otherwise"
            yield reason, replace(serving, compute_capability=later)
