"""The weights of a rank against what an engine loaded: under other layouts, in other formats, and what else its line counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import TYPE_CHECKING, Final

from hfmem.checkpoint.tensors import TensorGroup
from hfmem.errors import HfmemError
from hfmem.memory.beside import kept_beside
from hfmem.memory.engines.vllm.releases import Release, release_of
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.records import replace
from hfmem.server_logs.checks import Check
from hfmem.server_logs.parse import LogFacts, Reading
from hfmem.server_logs.reasons import NEAR, explained, layouts_to_try, more_ranks, steps_to_try
from hfmem.server_logs.recipes import format_by_name, recipes
from hfmem.units import GIB, MIB

if TYPE_CHECKING:
    from hfmem.api.reading import Model

#: the last vLLM that keeps scales of bitsandbytes quantized in their turn (`loader.py`; `dequantize_dq` in 0.9's)
_NESTED_SCALES: Final = 8
#: so much more than was loaded is another number of ranks or another format
_FAR: Final = 0.3
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


def as_loaded(read: Model, log: LogFacts) -> Model:
    """The model in the format that the engine quantized it to while loading, if it did."""
    from hfmem.api.reading import in_format

    told = log.settings.quantization
    if not told or read.quantization is not None or read.packing is not None:
        return read
    release, vllm = release_of(log.version), log.engine == "vllm"
    nested = release is not None and release.minor <= _NESTED_SCALES and vllm
    words = {"bitsandbytes": "nf4-double" if nested else "nf4"}
    if vllm:  # one scale a matrix and expert: later `fp8_per_tensor` (`quantization/online/fp8.py`)
        words["fp8"] = "fp8-tensor"
    try:
        return in_format(read, words.get(told, told))
    except HfmemError:
        return read


def widening(read: Model, log: LogFacts) -> int:
    """How many times its own bytes a model takes that vLLM is told to compute in float32."""
    wide = log.settings.dtype == "float32" and log.engine == "vllm"
    return 2 if wide and read.quantization is None and read.packing is None else 1


def weights_check(read: Model, log: LogFacts, serving: Serving) -> Check | None:
    """A rank's weights and rotary table against what was loaded: under other layouts, then in other formats."""
    logged = log.largest("weights_bytes")
    if logged is None:
        return None

    release = (release_of(log.version) if log.engine == "vllm" else None) or Release(log.form or 19)
    # what SGLang prints, and vLLM on ROCm until 0.20 (`platforms/rocm.py`), is how the device's free memory fell
    by_free_memory = log.engine == "sglang" or (log.settings.rocm and release.minor < _COUNTS_ON_ROCM)

    def compute(tried: Serving, model: Model = read, tensors: Iterable[TensorGroup] | None = None) -> float:
        arch, groups = model.architecture, model.parameters.groups if tensors is None else tensors
        ranks = rank_weights(arch, groups, tried, release)
        return widening(read, log) * (
            ranks.bytes
            + (ranks.rounding.segment_bytes if by_free_memory else ranks.rounding.block_bytes)
            + (_HIP if by_free_memory and log.engine == "vllm" else 0)
            + kept_beside(arch, groups, tried, release)
        )

    loaded = as_loaded(read, log)
    if loaded is not read:
        return explained("weights", "bytes", logged, lambda s: compute(s, loaded), serving, iter(()))
    result = explained("weights", "bytes", logged, compute, serving, iter(()))
    named = format_by_name(read, log) if result.verdict == "differs" else None
    for reason, tensors in recipes(read, named) if named else ():
        value = compute(serving, tensors=tensors)
        if abs(value - logged.value) <= NEAR * logged.value:
            return replace(result, reason=reason, met=value)
    tries = chain(layouts_to_try(log, serving), steps_to_try(log, serving) if log.engine == "vllm" else ())
    result = explained("weights", "bytes", logged, compute, serving, tries)
    if result.verdict != "differs" or result.reason:
        return result
    more = logged.value - compute(serving)
    if log.settings.other and log.engine == "sglang" and more < 0:
        return replace(result, reason=f"{', '.join(log.settings.other)} is on, which is not computed here")
    if log.engine == "sglang" and 0 < more <= _LOADING:
        return replace(result, reason="SGLang prints how free memory fell, with what else was taken while loading")
    if met := _in_other_formats(read, compute, serving, logged, result, log):
        return met
    untied = _untied_head(read, serving)
    if log.settings.rocm and by_free_memory and untied and abs(more - untied) <= NEAR * logged.value:
        reason = "on ROCm until 0.20 what was allocated and given up counts: an output head made before it was tied"
        return replace(result, reason=reason, met=compute(serving) + untied)
    if by_free_memory and log.engine == "vllm" and 0 < more <= _OTHERS:
        reason = (
            "vLLM until 0.20 prints on ROCm how free memory fell, with what the allocator keeps of what was given up"
        )
        return replace(result, reason=reason)
    if log.engine == "sglang" and 0 < more <= _OTHERS:
        return replace(
            result, reason="SGLang prints how free memory fell: other programs on the device may have taken some"
        )
    if log.settings.speculative and (result.difference or 0) < 0:
        return replace(result, reason="a draft model or prediction layers are loaded with it")
    if log.settings.other:
        return replace(result, reason=f"{', '.join(log.settings.other)} is on, which is not computed here")
    if named:
        return replace(
            result, reason="the name alone tells the format: what the copy keeps in 16 bit stands in its config"
        )
    return replace(result, reason=_untold(read, log, result))


def _untold(read: Model, log: LogFacts, result: Check) -> str | None:
    """What the log does not tell of a model that loaded far fewer bytes than its own files have."""
    told = log.settings.quantization
    if told and read.quantization is None and read.packing is None:
        return f"the log says --quantization {told}: which tensors, and how, stands in the copy's own config"
    if log.settings.tp * log.settings.pp == 1 and (result.difference or 0) > _FAR:
        return "the log tells neither ranks nor format, and none that was tried fits"
    return None


def _in_other_formats(
    read: Model, compute: Callable[..., float], serving: Serving, logged: Reading, result: Check, log: LogFacts
) -> Check | None:
    """`result` explained by another format of the weights; where the log names no ranks, of several ranks'."""
    from hfmem.api.reading import in_format

    layouts = [("", serving)]
    if log.settings.tp == 1 and serving.tp == 1:
        layouts += [(f"; {reason}", tried) for reason, tried in more_ranks(serving)]
    for suffix, tried in layouts:
        for name in _FORMATS:
            try:
                value = compute(tried, in_format(read, name))
            except HfmemError:
                continue
            near = (2 if not suffix else 1) * NEAR * logged.value
            if value != result.predicted and abs(value - logged.value) <= near:
                reason = f"fits if the weights loaded are {name}: --quant {name}{suffix}"
                return replace(result, reason=reason, met=value)
    return None


def _untied_head(read: Model, serving: Serving) -> int:
    """Bytes of an output head of its own, where the model shares the embedding's."""
    arch = read.architecture
    return arch.vocab_size * arch.hidden_size * 2 // serving.tp if arch.tie_word_embeddings else 0
