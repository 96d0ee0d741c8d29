"""A server's own log against the prediction, line by line, and which assumption explains a difference.

What the engine printed is compared with what the same rules answer under the settings that the log names. A line that differs is
tried again under the assumptions that most often differ (`reasons`); the first that meets it is its explanation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from hfmem.memory import engines
from hfmem.memory.drafts import with_predictions
from hfmem.memory.serving import Serving
from hfmem.records import replace
from hfmem.server_logs.checks import Check, Verification
from hfmem.server_logs.foreign import foreign_checks
from hfmem.server_logs.llama_cpp import llama_checks
from hfmem.server_logs.llama_weights import buffer_checks
from hfmem.server_logs.loaded import widening
from hfmem.server_logs.parse import LogFacts, Reading
from hfmem.server_logs.patterns import FOREIGN
from hfmem.server_logs.reasons import NO_CHECKPOINTS, drafts_itself
from hfmem.server_logs.sglang import sglang_checks
from hfmem.server_logs.vllm import vllm_checks
from hfmem.server_logs.vllm_release import guessed_device, release_by_form
from hfmem.units import GIB

if TYPE_CHECKING:
    from hfmem.api.reading import Model
    from hfmem.plan.devices import Device

#: what a reason names as a flag of this command
_FLAG: Final = re.compile(
    r": (--(?:tp|pp|ep|kv-dtype|quant|page-size|max-num-batched-tokens|language-model-only))\b ?([^\s;]*)"
)


def verify(read: Model, log: LogFacts, *, device: Device | None = None) -> Verification:
    """What the log says against what `read` predicts under the log's settings.

    Args:
        device: what it ran on. The log's own figure of its memory comes first.

    Raises:
        UnsupportedError: the engine's rules do not cover the model or the layout.
    """
    serving = _serving(read, log)
    if drafts_itself(log):
        read = replace(read, architecture=with_predictions(read.architecture, serving))
    if device is not None and device.compute_capability is not None:
        serving = replace(serving, compute_capability=device.compute_capability)
        log = replace(log, settings=replace(log.settings, capability=device.compute_capability))
    elif log.settings.capability is not None:
        serving = replace(serving, compute_capability=log.settings.capability)
    elif log.settings.kernel_version == 2 or log.settings.rocm:
        # Hopper's kernel is the third, Blackwell's another
        serving = replace(serving, compute_capability=NO_CHECKPOINTS)
    elif device is None and (guess := guessed_device(log)) is not None:
        serving = replace(serving, compute_capability=guess.capability)
    checks: list[Check]
    match log.engine:
        case "vllm":
            checks = vllm_checks(read, log, serving, device)
        case "sglang":
            checks = sglang_checks(read, log, serving)
        case "tensorrt-llm" | "lmdeploy" | "tgi":
            checks = foreign_checks(read, log, serving)
        case "llama.cpp":
            checks = [*buffer_checks(read, log, serving), *llama_checks(read.architecture, log, serving)]
    return Verification(
        model=read.facts.repo_id,
        engine=log.engine,
        version=log.version,
        context=serving.context,
        tp=serving.tp,
        pp=serving.pp,
        kv_dtype=serving.kv_dtype,
        checks=tuple(checks),
        flags=_flags(log, serving, checks),
        assumptions=tuple(_assumptions(log, device)),
    )


def _serving(read: Model, log: LogFacts) -> Serving:
    told = log.settings
    context = told.context
    for name in ("concurrency_context", "needed_context"):
        if context is None and (reading := log.first(name)):
            context = int(reading.value)
    if context is None:
        context = read.architecture.max_position_embeddings or 8192
    kv_dtype = "fp8" if told.kv_dtype == "fp8_ds_mla" else told.kv_dtype
    return Serving(
        context=context,
        kv_dtype=kv_dtype or ("fp32" if widening(read, log) > 1 else "auto"),
        engine="ideal" if log.engine in FOREIGN else log.engine,
        tp=told.tp,
        pp=told.pp,
        dp=told.dp,
        ep=told.ep,
        max_num_batched_tokens=told.max_num_batched_tokens,
        page_size=told.page_size,
        declared_kv_dtype=read.declared_kv_dtype,
        enable_prefix_caching=told.prefix_caching,
        max_num_seqs=told.max_num_seqs,
        eager=told.eager,
        language_model_only=told.language_model_only and log.engine == "vllm",
        pooling=told.pooling,
        speculative_tokens=told.draft_tokens if log.engine == "vllm" else 0,
        swa_full_tokens_ratio=told.swa_ratio,
        mamba_full_memory_ratio=told.mamba_ratio,
        max_total_tokens=told.max_total_tokens if log.engine == "sglang" else None,
        state_dtype=told.state_dtype,
        dcp=told.dcp if log.engine == "vllm" else 1,
        one_kind_of_page=told.hybrid_off and log.engine == "vllm",
        cpu_offload_bytes=int(told.cpu_offload_gb * GIB) if log.engine == "vllm" else 0,
    )


def _assumptions(log: LogFacts, device: Device | None) -> Iterator[str]:
    """What the comparison took for granted."""
    for name in log.others:
        yield f"lines of {name} are in the log too, and left out"
    if log.engine in FOREIGN:
        yield (
            f"hfmem has no rules for {FOREIGN[log.engine]}: its pool is compared with what the model's own cache takes, "
            "its weights with the model's"
        )
    elif log.version is None and log.engine == "vllm":
        release = release_by_form(log)
        known = "by its lines" if log.form or log.graphs_counted else "none tells it"
        yield f"the log names no release: taken for vLLM 0.{release.minor} or near it, {known}; give a whole log to be sure"
    elif log.version is None:
        yield f"the log names no version: {log.engine}'s rules of {engines.engine(log.engine).VERSION}"
    else:
        yield f"rules of {log.engine} {engines.engine(log.engine).VERSION}; the log is of {log.version}"
    guess = guessed_device(log) if device is None and log.settings.capability is None else None
    if guess is not None and guess.name:
        yield f"no line names the device: taken for a {guess.name} by the memory that weights and pool hold; --gpu says another"
    if log.settings.context is None:
        yield "the context is not among the settings: the log's own lines or the model's positions"
    if log.starts > 1:
        yield f"{log.starts} starts are in the log: the last that printed sizes, of those that name the model"
    if drafts_itself(log):
        yield f"the model's own prediction layers draft {log.settings.draft_tokens or 'some'} tokens at once"
    elif log.settings.speculative:
        yield "speculative decoding is on: its layers' cache and weights are not in the prediction"
    for name in log.settings.other:
        yield f"{name} is on: it is not computed"


def _llama_flags(log: LogFacts, serving: Serving) -> Mapping[str, str]:
    """A context shared by slots, and the cache's types."""
    told, flags = log.settings, dict[str, str]()
    if told.slots > 1:
        flags |= {"--ctx": str(max(serving.context // told.slots, 1)), "--parallel": str(told.slots)}
    if told.unified:
        flags["--kv-unified"] = ""
    for name, kind in (("--kv-dtype", told.key_type), ("--cache-type-v", told.value_type)):
        if kind not in (None, "f16") and (name == "--kv-dtype" or kind != told.key_type):
            flags[name] = str(kind)
    return flags


def _flags(log: LogFacts, serving: Serving, checks: list[Check]) -> Mapping[str, str]:
    """Flags that make the next estimate meet this log."""
    flags: dict[str, str] = {"--ctx": str(serving.context)}
    for size, name in ((serving.tp, "--tp"), (serving.pp, "--pp")):
        if size > 1:
            flags[name] = str(size)
    if serving.kv_dtype != "auto":
        flags["--kv-dtype"] = serving.kv_dtype
    if log.engine != "vllm" and log.engine not in FOREIGN:
        flags["--engine"] = log.engine
    told = log.settings
    for name, count in (
        ("--max-num-batched-tokens", told.max_num_batched_tokens if log.engine == "vllm" else None),
        ("--max-num-seqs", told.max_num_seqs if log.engine == "vllm" else None),
        ("--page-size", told.page_size if log.engine != "llama.cpp" else None),
    ):
        if count is not None:
            flags[name] = str(count)
    for name, is_on in (("--ep", serving.ep), ("--enforce-eager", told.eager)):
        if is_on and log.engine != "llama.cpp":
            flags[name] = ""
    if serving.cpu_offload_bytes:
        flags["--cpu-offload-gb"] = f"{serving.cpu_offload_bytes / GIB:g}"
    if serving.language_model_only:
        flags["--language-model-only"] = ""
    if "--max-num-seqs" in flags:
        flags["--batch"] = "1"  # the limit, not what is asked of the cache
    if log.engine == "llama.cpp":
        flags |= _llama_flags(log, serving)
    for item in checks:
        for name, value in _FLAG.findall(item.reason or ""):
            flags[name] = value
    available, weights = log.smallest("available_bytes"), log.largest("weights_bytes")
    if told.override_blocks and log.engine == "vllm":
        flags["--num-gpu-blocks-override"] = str(told.override_blocks)
    elif available is not None and available.value > 0:
        flags["--kv-memory"] = f"{available.value / GIB:.2f}GiB"
    budget = log.first("budget_bytes")
    if budget is None and log.settings.utilization and (memory := log.first("device_bytes")):
        budget = Reading(float(memory.value * log.settings.utilization), 0, 0)
    if available is not None and weights is not None and budget is not None and available.value > 0:
        rest = budget.value - weights.value - available.value
        flags["--overhead"] = f"{max(rest, 0) / (weights.value + available.value):.1%}"
    return flags
