"""Why a line of a log differs: assumptions to try, the likely first, until one meets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from hfmem.errors import HfmemError, UnsupportedError
from hfmem.memory.beside import kept_beside
from hfmem.memory.engines.vllm.releases import Release, release_of
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.records import replace
from hfmem.server_logs.checks import Check, Measure, check
from hfmem.server_logs.parse import LogFacts, Reading
from hfmem.units import GIB, MIB

if TYPE_CHECKING:
    from hfmem.api.reading import Model

#: a number this near needs no explanation
_NEAR: Final = 0.01
#: devices that compute in NVFP4
_BLACKWELL: Final = ((100, "B200 and kin"), (120, "RTX devices of Blackwell"))
#: a device whose kernels export no states during prefill (`hfmem.memory.engines.vllm.states`)
NO_CHECKPOINTS: Final = 89
_SIZES: Final = (2, 4, 8, 16)
_FORMATS: Final = ("bf16", "fp8", "int8", "int4", "nvfp4")
#: what SGLang's free memory loses while it loads beside weights in segments and tables, at most: logs of 32B models at TP 4 give
#: 0.3 GiB; ten starts on one device of 0.5B to 32B models, -0.02 to 0.08 GiB
_LOADING: Final = GIB * 6 // 10
#: … and what another program may take meanwhile before the model is another one rather: 1.95 GiB of a second server in one log,
#: 0.8 where the device's memory is the host's
_OTHERS: Final = 2 * GIB
#: the first vLLM that counts PyTorch's bytes on ROCm as well, and what HIP takes meanwhile: 62 to 81 MiB in three logs
_COUNTS_ON_ROCM: Final = 21
_HIP: Final = 64 * MIB


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
        if abs(value - logged.value) <= max(_NEAR * abs(logged.value), logged.slack):
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
        yield from _more_ranks(serving)
    yield from _cache_formats(serving)
    yield from _schedules(log, serving)
    yield from layouts_to_try(log, serving)
    if serving.page_size is None:
        for page in (32, 64, 128):
            yield f"fits with pages of {page} tokens: --page-size {page}", replace(serving, page_size=page)
    for reason, tried in _cache_formats(serving):
        for more, both in _schedules(log, tried):
            yield f"{reason}; {more}", both


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
        reason = "fits with the windows of releases before 0.26, beside the tokens of one step"
        yield reason, replace(serving, steps_in_flight=1)
    if log.settings.max_num_batched_tokens is None:
        for tokens in (2048, 4096, 8192, 16384):
            yield (
                f"fits with steps of {tokens} tokens: --max-num-batched-tokens {tokens}",
                replace(serving, max_num_batched_tokens=tokens),
            )


def _more_ranks(serving: Serving) -> Iterator[tuple[str, Serving]]:
    for size in _SIZES:
        yield f"fits if it ran on {size} ranks: --tp {size}", replace(serving, tp=size)


def layouts_to_try(log: LogFacts, serving: Serving) -> Iterator[tuple[str, Serving]]:
    """Layouts that the log does not name."""
    if log.settings.tp == 1:
        yield from _more_ranks(serving)
    if log.settings.pp == 1:
        yield "fits if it ran in 2 stages: --pp 2", replace(serving, pp=2)
    if serving.compute_capability > NO_CHECKPOINTS:
        reason = "fits on devices before Hopper, whose kernels pad experts otherwise"
        yield reason, replace(serving, compute_capability=NO_CHECKPOINTS)
    if serving.engine == "vllm" and not serving.language_model_only:
        yield "fits without the encoder: --language-model-only", replace(serving, language_model_only=True)
    for capability, name in _BLACKWELL:
        if serving.compute_capability < capability and serving.engine == "vllm":
            yield (
                f"fits on {name}, whose kernels pad experts otherwise",
                replace(serving, compute_capability=capability),
            )
    if not serving.ep and serving.num_ranks > 1:
        yield "fits if experts are dealt out whole: --ep", replace(serving, ep=True)


def as_loaded(read: Model, log: LogFacts) -> Model:
    """The model in the format that the engine quantized it to while loading, if it did."""
    from hfmem.api.reading import in_format

    told = log.settings.quantization
    if not told or read.quantization is not None or read.packing is not None:
        return read
    try:
        return in_format(read, {"bitsandbytes": "nf4"}.get(told, told))
    except HfmemError:
        return read


def weights_check(read: Model, log: LogFacts, serving: Serving) -> Check | None:
    """A rank's weights and rotary table against what was loaded: under other layouts, then in other formats."""
    logged = log.largest("weights_bytes")
    if logged is None:
        return None

    release = (release_of(log.version) if log.engine == "vllm" else None) or Release(log.form or 19)
    # what SGLang prints, and vLLM on ROCm until 0.20 (`platforms/rocm.py`), is how the device's free memory fell
    by_free_memory = log.engine == "sglang" or (log.settings.rocm and release.minor < _COUNTS_ON_ROCM)

    def compute(tried: Serving, model: Model = read) -> float:
        arch, groups = model.architecture, model.parameters.groups
        ranks = rank_weights(arch, groups, tried, release)
        return (
            ranks.bytes
            + (ranks.rounding.segment_bytes if by_free_memory else ranks.rounding.block_bytes)
            + (_HIP if by_free_memory and log.engine == "vllm" else 0)
            + kept_beside(arch, groups, tried, release)
        )

    from hfmem.api.reading import in_format

    loaded = as_loaded(read, log)
    if loaded is not read:
        return explained("weights", "bytes", logged, lambda s: compute(s, loaded), serving, iter(()))
    result = explained("weights", "bytes", logged, compute, serving, layouts_to_try(log, serving))
    if result.verdict != "differs" or result.reason:
        return result
    more = logged.value - compute(serving)
    if log.settings.other and log.engine == "sglang" and more < 0:
        return replace(result, reason=f"{', '.join(log.settings.other)} is on, which is not computed here")
    if log.engine == "sglang" and 0 < more <= _LOADING:
        return replace(result, reason="SGLang prints how free memory fell, with what else was taken while loading")
    if log.settings.dtype == "float32" and log.engine == "vllm":
        wide = 2 * compute(serving)
        if abs(wide - logged.value) <= 2 * _NEAR * logged.value:
            return replace(
                result, reason="the log says --dtype float32: weights, cache and activations are wider", met=wide
            )
    for name in _FORMATS:
        try:
            value = compute(serving, in_format(read, name))
        except HfmemError:
            continue
        if value != result.predicted and abs(value - logged.value) <= 2 * _NEAR * logged.value:
            return replace(result, reason=f"fits if the weights loaded are {name}: --quant {name}", met=value)
    if log.engine == "sglang" and 0 < more <= _OTHERS:
        return replace(
            result, reason="SGLang prints how free memory fell: other programs on the device may have taken some"
        )
    if log.settings.speculative and (result.difference or 0) < 0:
        return replace(result, reason="a draft model or prediction layers are loaded with it")
    if log.settings.other:
        return replace(result, reason=f"{', '.join(log.settings.other)} is on, which is not computed here")
    return result
