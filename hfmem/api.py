"""What the command line shows and Python callers use. The line itself: `reading` → `memory` → `assembly`."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

from hfmem.assembly import assemble, runtime_items
from hfmem.errors import UnsupportedError, UsageError
from hfmem.hub import FetchOptions
from hfmem.memory import engines
from hfmem.memory.layer_table import LayerRun, layer_runs, merged
from hfmem.memory.result import CacheBytes
from hfmem.memory.serving import Serving
from hfmem.memory.weights import RankWeights
from hfmem.model.architecture import Note
from hfmem.reading import Model, in_format, read_model
from hfmem.records import dataclass, replace
from hfmem.report import Report, RuntimeItem

if TYPE_CHECKING:
    from hfmem.extras import Extras
    from hfmem.plan.devices import Device
    from hfmem.plan.explain import Explanation
    from hfmem.plan.fit import Scale
    from hfmem.plan.target import Target

__all__ = ["LayerTable", "Model", "estimate", "explain", "in_format", "layer_table", "read_model", "scale"]

#: what an estimate assumes for a model whose config names no maximum (state-space models)
DEFAULT_CONTEXT = 8192

#: whose rules hold when no engine is named: the first of these that serves the model
DEFAULT_ENGINES = ("vllm", "transformers", "ideal")


def estimate(
    model: str | Model,
    *,
    context: int | None = None,
    num_seqs: int = 1,
    kv_dtype: str = "auto",
    engine: str | None = None,
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    ep: bool = False,
    max_num_batched_tokens: int | None = None,
    page_size: int | None = None,
    kv_memory_bytes: int | None = None,
    source_tokens: int | None = None,
    overhead: Fraction | float | None = None,
    device: str | Device | None = None,
    num_devices: int | None = None,
    utilization: Fraction | float | None = None,
    quant: str | None = None,
    dtype: str | None = None,
    lora: str | None = None,
    max_loras: int | None = None,
    max_lora_rank: int | None = None,
    draft: str | Model | None = None,
    revision: str | None = None,
    assume: str | None = None,
    strict: bool = False,
    fetch: FetchOptions | None = None,
) -> Report:
    """What a model needs to be served, and whether it fits `device` where one is named.

    Args:
        model: what a user types (`org/name`, a folder, a URL …), or a `Model` that has been read.
        context: tokens of each sequence; None: the positions the model was trained for.
        num_seqs: sequences at once, over all replicas.
        kv_dtype: `auto`, `bf16`, `fp16`, `fp8`, `fp8_e5m2`, `int8`, `int4` or `nvfp4`.
        engine: `vllm`, `sglang`, `transformers`, `llama.cpp`, or `ideal` for the model's own need. None: vLLM's rules, or
            transformers' for a model that vLLM does not serve.
        tp, pp, dp: tensor, pipeline and data parallel sizes; ep: experts are dealt out whole.
        max_num_batched_tokens, page_size: the engine's settings; None: its defaults.
        kv_memory_bytes: bytes of one rank's cache pool; fills `engine_pool`.
        source_tokens: encoder tokens a sequence, for cross attention; None: the encoder's maximum.
        quant, dtype: what if the weights were stored in another format, as in `in_format`.
        lora: a LoRA adapter (PEFT) to serve beside the model; `max_loras` of them at once, `max_lora_rank` as vLLM takes it.
        draft: a draft model for speculative decoding; `mtp`: the model's own prediction layers.
        overhead: a flat share of weights and cache (0.1 = 10 %) instead of the engine's runtime estimates.
        device: `h100`, `8xh100`, `80GiB`, `local` or a `Device`; fills `fit` and `engine_pool`.
        num_devices: how many; without `tp` and `pp` the engine's way to use them all. utilization: the share of each that the
            engine may take; None: its default.
        revision, assume, strict, fetch: as in `read_model`.

    Returns:
        A frozen `Report`; all sizes are integer bytes.

    Raises:
        UsageError: an argument out of range.
        SourceError: the model could not be read.
        UnsupportedError: it was read, and no rule covers it or the engine refuses it.
    """
    read = (
        model
        if isinstance(model, Model)
        else read_model(model, revision=revision, assume=assume, strict=strict, fetch=fetch)
    )
    read = in_format(read, quant, dtype)
    architecture = read.architecture
    positions = architecture.max_position_embeddings
    notes = list(read.notes)
    if context is None:
        context = positions or DEFAULT_CONTEXT
        if not positions:
            notes.append(
                Note("default_context", f"the config names no maximum context: {DEFAULT_CONTEXT:,} tokens assumed")
            )
    elif positions and context > positions:
        scaled = "rope_scaling is set" if architecture.rope_scaled else "rope_scaling is not set"
        notes.append(
            Note(
                "context_exceeds_positions",
                f"{context:,} tokens exceed the {positions:,} positions this model was trained for ({scaled})",
            )
        )
    if device is None and (num_devices is not None or utilization is not None):
        raise UsageError(
            f"{'utilization' if num_devices is None else 'a number of GPUs'} says nothing without a device"
        )
    serving = Serving(
        context=context,
        num_seqs=num_seqs,
        kv_dtype=kv_dtype,
        engine=engine or DEFAULT_ENGINES[0],
        tp=tp,
        pp=pp,
        dp=dp,
        ep=ep,
        max_num_batched_tokens=max_num_batched_tokens,
        page_size=page_size,
        kv_memory_bytes=kv_memory_bytes,
        source_tokens=source_tokens,
        declared_kv_dtype=read.declared_kv_dtype,
    )
    if engine is None:
        serving, note = default_engine(read, serving)
        notes += [note] if note else []
    extras: Extras | None = None
    if read.adapter is not None or any(value is not None for value in (lora, max_loras, max_lora_rank, draft)):
        from hfmem.extras import read_extras

        extras, more = read_extras(
            read, lora=lora, max_loras=max_loras, max_lora_rank=max_lora_rank, draft=draft, fetch=fetch
        )
        notes += more
    if device is None:
        return assemble(read, serving, notes, overhead, None, extras)
    from hfmem.plan.fit import assess
    from hfmem.plan.target import on_device, place_on

    target, tp, pp = place_on(device, num_devices, utilization, serving.engine, tp, pp, dp)
    serving = on_device(replace(serving, tp=tp, pp=pp), target.device)
    report = assemble(read, serving, notes, overhead, target.device, extras)
    return assess(report, scale(read, target, overhead, extras), serving)


def is_gguf(read: Model) -> bool:
    """Whether the model was read from GGUF files, which are llama.cpp's."""
    return read.facts.checkpoint is not None and read.facts.checkpoint.format == "gguf"


def default_engine(read: Model, serving: Serving) -> tuple[Serving, Note | None]:
    """`serving` under the first of `DEFAULT_ENGINES` (of a GGUF model: llama.cpp, or the model's own need) that serves the
    model, and why it is not vLLM."""
    refusal = ""
    names = ("llama.cpp", "ideal") if is_gguf(read) else DEFAULT_ENGINES
    for name in names:
        tried = replace(serving, engine=name)
        try:
            engines.engine(name).cache(read.architecture, tried)
        except UnsupportedError as error:
            refusal = refusal or error.message
            continue
        if name == names[0]:
            return tried, None
        return tried, Note("engine_fallback", f"by the rules of {name}, because {names[0]} refuses: {refusal}")
    return serving, None


def scale(read: Model, target: Target, overhead: Fraction | float | None = None, extras: Extras | None = None) -> Scale:
    """What weighs a model on devices again and again (`hfmem.plan.fit.Scale`)."""
    from hfmem.plan.fit import Scale

    def runtime(serving: Serving, ranks: RankWeights, cache: CacheBytes) -> Mapping[str, RuntimeItem]:
        items = runtime_items(read.architecture, serving, ranks, cache, overhead, target.device)
        return items | extras.items(serving) if extras else items

    return Scale(read.architecture, read.parameters.groups, runtime, target)


@dataclass(frozen=True, slots=True)
class LayerTable:
    """Rows by layer, the configuration they speak of, and the engine's cache where it answers for this model."""

    runs: tuple[LayerRun, ...]
    serving: Serving
    engine: CacheBytes | None


def layer_table(
    model: str | Model,
    *,
    context: int | None = None,
    num_seqs: int = 1,
    kv_dtype: str = "auto",
    engine: str | None = None,
    merge: bool = True,
) -> LayerTable:
    """What each layer keeps, per token and at a context. `merge` folds equal layers over the whole model into one row.

    Raises:
        UsageError, SourceError, UnsupportedError: as `estimate`; an engine that refuses the model leaves its column out.
    """
    read = model if isinstance(model, Model) else read_model(model)
    serving = Serving(
        context=context or read.architecture.max_position_embeddings or DEFAULT_CONTEXT,
        num_seqs=num_seqs,
        kv_dtype=kv_dtype,
        engine=engine or DEFAULT_ENGINES[0],
        declared_kv_dtype=read.declared_kv_dtype,
    )
    if engine is None:
        serving, _ = default_engine(read, serving)
    held = engines.cache_or_none(serving.engine, read.architecture, serving)
    runs = layer_runs(read.architecture, serving, held)
    return LayerTable(merged(runs) if merge else runs, serving, held)


def explain(
    model: str | Model,
    *,
    context: int | None = None,
    num_seqs: int = 1,
    kv_dtype: str = "auto",
    engine: str | None = None,
    overhead: Fraction | None = None,
    device_bytes: int | None = None,
) -> Explanation:
    """The arithmetic behind an estimate, step by step; an engine that refuses the model is left out.

    Raises:
        UsageError, SourceError, UnsupportedError: as `estimate`.
    """
    from hfmem.plan.explain import explain as explain_steps

    read = model if isinstance(model, Model) else read_model(model)
    serving = Serving(
        context=context or read.architecture.max_position_embeddings or DEFAULT_CONTEXT,
        num_seqs=num_seqs,
        kv_dtype=kv_dtype,
        engine=engine or DEFAULT_ENGINES[0],
        declared_kv_dtype=read.declared_kv_dtype,
    )
    if engine is None:
        serving, _ = default_engine(read, serving)
    held = None if serving.engine == "ideal" else engines.cache_or_none(serving.engine, read.architecture, serving)
    return explain_steps(
        read.facts.repo_id,
        read.architecture,
        read.parameters,
        serving,
        engine=held,
        overhead=overhead or Fraction(0),
        device_bytes=device_bytes,
    )
