"""The whole line, in order: reference → source → architecture → parameters → cache → report.

Everything that the command line shows comes from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from hfmem.checkpoint.logical import is_plain
from hfmem.checkpoint.tensors import Checkpoint, TensorGroup
from hfmem.dtypes import CONFIG_NAMES, canonical
from hfmem.errors import ContradictionError
from hfmem.hub import FetchOptions, ModelFacts, load_model
from hfmem.memory import engines
from hfmem.memory.cache import bytes_per_token
from hfmem.memory.layer_table import LayerRun, layer_runs, merged
from hfmem.memory.result import CacheBytes
from hfmem.memory.serving import ENGINES, Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.architecture import Architecture, Note
from hfmem.model.families.registry import read_architecture
from hfmem.model.parameters import ParameterReport, count_parameters, with_stored_dtype
from hfmem.records import dataclass
from hfmem.report import (
    EnginePool,
    KvCache,
    LayerRow,
    ModelInfo,
    Parallelism,
    Parameters,
    PerRank,
    Report,
    ReportWarning,
    RuntimeItem,
    Weights,
)

if TYPE_CHECKING:
    from hfmem.checkpoint.quantization import QuantizationSummary
    from hfmem.checkpoint.quantization_config import Quantization
    from hfmem.plan.explain import Explanation

#: what an estimate assumes for a model whose config names no maximum (state-space models)
DEFAULT_CONTEXT = 8192


@dataclass(frozen=True, slots=True)
class Model:
    """A model that has been read: its facts, its architecture, and how many parameters and bytes that makes.

    `notes` are what reading and the cross-check of config against headers found worth saying.
    """

    facts: ModelFacts
    architecture: Architecture
    quantization: Quantization | None
    packing: QuantizationSummary | None
    parameters: ParameterReport
    notes: tuple[Note, ...]


def read_model(
    model: str,
    *,
    revision: str | None = None,
    assume: str | None = None,
    strict: bool = False,
    fetch: FetchOptions | None = None,
) -> Model:
    """Read a model and derive its architecture and parameters; no memory is computed yet.

    Args:
        model: what a user types: `org/name`, `org/name@revision`, a Hub URL, a local folder or file.
        revision: branch, tag or commit where `model` names none.
        assume: read the config as this model_type, whatever it says.
        strict: raise where config and headers disagree, instead of noting it.
        fetch: caches, offline mode, deadline, token, progress.

    Raises:
        SourceError: the model could not be read.
        UnsupportedError: it was read, and no rule covers it, or (`strict`) it contradicts itself.
    """
    facts = load_model(model, revision=revision, options=fetch)
    quantization = _said_quantization(facts)
    architecture = read_architecture(facts.config, facts.config_file, assume)
    notes = [Note(code, message) for code, message in facts.warnings]
    checkpoint = facts.checkpoint
    packing: QuantizationSummary | None = None
    if checkpoint is None:
        architecture = with_stored_dtype(architecture, quantized=quantization is not None)
        parameters = count_parameters(architecture, total_size=facts.index_total_size, quantization=quantization)
    else:
        architecture = with_stored_dtype(architecture, checkpoint.groups)
        logical: Sequence[TensorGroup] = checkpoint.groups
        if quantization is not None or not is_plain(checkpoint.groups):
            from hfmem.checkpoint.quantization import logical_groups, summarize  # most models need no unpacking

            unpacked = logical_groups(checkpoint, quantization)
            logical, packing = unpacked, summarize(unpacked, quantization)
        parameters = count_parameters(architecture, checkpoint, logical=logical)
        if facts.source != "catalog" or assume is not None:  # its entries were checked when they were made
            from hfmem.model.crosscheck import check, contradictions

            found = check(architecture, checkpoint, logical)
            if strict and (worst := contradictions(found)):
                raise ContradictionError(f"{facts.repo_id}: {worst[0].message}")
            notes += found
    return Model(
        facts, architecture, quantization, packing, parameters, (*architecture.notes, *notes, *parameters.notes)
    )


def _said_quantization(facts: ModelFacts) -> Quantization | None:
    """What config.json (or a file beside it) says of quantization."""
    parts = [facts.config, *(value for value in facts.config.values() if isinstance(value, dict))]
    keys = ("quantization_config", "compression_config", "quantization")
    if not facts.extra and not any(part.get(key) for part in parts for key in keys):
        return None
    from hfmem.checkpoint.quantization_config import parse_quantization

    return parse_quantization({facts.config_file: facts.config, **facts.extra})


def estimate(
    model: str | Model,
    *,
    context: int | None = None,
    num_seqs: int = 1,
    kv_dtype: str = "auto",
    engine: str = "vllm",
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    ep: bool = False,
    max_num_batched_tokens: int | None = None,
    page_size: int | None = None,
    kv_memory_bytes: int | None = None,
    overhead: Fraction | float | None = None,
    quant: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    assume: str | None = None,
    strict: bool = False,
    fetch: FetchOptions | None = None,
) -> Report:
    """What a model needs to be served.

    Args:
        model: what a user types (`org/name`, a folder, a URL …), or a `Model` that has been read.
        context: tokens of each sequence; None: the positions the model was trained for.
        num_seqs: sequences at once, over all replicas.
        kv_dtype: `auto`, `bf16`, `fp16`, `fp8`, `fp8_e5m2`, `int8`, `int4` or `nvfp4`.
        engine: `vllm`, `sglang`, `transformers`, `llama.cpp`, or `ideal` for the model's own need.
        tp, pp, dp: tensor, pipeline and data parallel sizes; ep: experts are dealt out whole.
        max_num_batched_tokens, page_size: the engine's settings; None: its defaults.
        kv_memory_bytes: bytes of one rank's cache pool; fills `engine_pool`.
        quant, dtype: what if the weights were stored in another format, as in `in_format`.
        overhead: a flat share of weights and cache (0.1 = 10 %) instead of the engine's runtime estimates.
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
    serving = Serving(
        context=context,
        num_seqs=num_seqs,
        kv_dtype=kv_dtype,
        engine=engine,
        tp=tp,
        pp=pp,
        dp=dp,
        ep=ep,
        max_num_batched_tokens=max_num_batched_tokens,
        page_size=page_size,
        kv_memory_bytes=kv_memory_bytes,
        declared_kv_dtype=read.quantization.kv_cache if read.quantization else None,
    )
    return _report(read, serving, notes, overhead)


def in_format(read: Model, quant: str | None = None, dtype: str | None = None) -> Model:
    """The same model as if its weights were stored in another format: everything about them is then derived.

    Args:
        quant: a scheme (`fp8`, `int4`, `awq`, `nvfp4`, `q4_k_m` …; `hfmem.checkpoint.whatif.names()` has all).
        dtype: of the weights that stay unquantized, and of all without `quant`.

    Raises:
        UsageError: no such format.
    """
    if quant is None and dtype is None:
        return read
    from hfmem.checkpoint.quantization import logical_groups, summarize
    from hfmem.checkpoint.whatif import convert

    architecture = read.architecture
    stored = logical_groups(read.parameters.groups, read.quantization)
    groups = convert(stored, quant or str(dtype), dtype=dtype, tied=architecture.tie_word_embeddings)
    tensors = tuple(
        TensorGroup(part.pattern, part.dtype, part.shape, group.boxes) for group in groups for part in group.parts
    )
    checkpoint = Checkpoint(tensors, "safetensors", 1, None)
    counted = count_parameters(architecture, checkpoint, logical=groups)
    facts = replace(read.facts, download_bytes=None)
    if dtype is not None:
        architecture = replace(architecture, dtype=canonical(dtype))
    return replace(
        read,
        facts=facts,
        architecture=architecture,
        packing=summarize(groups),
        parameters=replace(counted, evidence=read.parameters.evidence, exact=False),
        notes=tuple(note for note in read.notes if note not in read.parameters.notes),
    )


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
    engine: str = "vllm",
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
        engine=engine,
        declared_kv_dtype=read.quantization.kv_cache if read.quantization else None,
    )
    held = engines.cache_or_none(engine, read.architecture, serving)
    runs = layer_runs(read.architecture, serving, held)
    return LayerTable(merged(runs) if merge else runs, serving, held)


def explain(
    model: str | Model,
    *,
    context: int | None = None,
    num_seqs: int = 1,
    kv_dtype: str = "auto",
    engine: str = "vllm",
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
        engine=engine,
        declared_kv_dtype=read.quantization.kv_cache if read.quantization else None,
    )
    held = None if engine == "ideal" else engines.cache_or_none(engine, read.architecture, serving)
    return explain_steps(
        read.facts.repo_id,
        read.architecture,
        read.parameters,
        serving,
        engine=held,
        overhead=overhead or Fraction(0),
        device_bytes=device_bytes,
    )


def _report(read: Model, serving: Serving, notes: list[Note], overhead: Fraction | float | None) -> Report:
    architecture, parameters = read.architecture, read.parameters
    cache = engines.engine(serving.engine).cache(architecture, serving)
    # what the model needs is counted in the format that the chosen engine keeps (vLLM turns fp32 models into 16 bit)
    alone = replace(serving, engine="ideal", kv_dtype=cache.kv_dtype, tp=1, pp=1, dp=1, ep=False)
    ideal = engines.engine("ideal").cache(architecture, alone)
    ranks = rank_weights(architecture, parameters.groups, serving)
    runtime: dict[str, RuntimeItem] = {}
    if overhead is not None:
        flat = int((ranks.bytes + cache.bytes_per_rank) * Fraction(overhead))
        runtime["overhead_bytes"] = RuntimeItem(flat, flat, flat, "estimated", f"flat {float(overhead):.0%} as asked")
    runtime_bytes = sum(item.bytes for item in runtime.values())
    per_rank = PerRank(
        parameters=ranks.parameters,
        weights_bytes=ranks.bytes,
        kv_cache_bytes=cache.bytes_per_rank,
        runtime_bytes=runtime_bytes,
        total_bytes=ranks.bytes + cache.bytes_per_rank + runtime_bytes,
    )
    notes += cache.notes
    return Report(
        model=_model_info(read),
        layers=tuple(
            LayerRow(r.kind, r.count, r.num_kv_heads, r.head_dim, r.v_head_dim, r.window, r.state_bytes)
            for r in layer_runs(architecture, alone)
        ),
        parameters=Parameters(
            parameters.total, parameters.active, parameters.by_component, "exact" if parameters.exact else "derived"
        ),
        weights=_weights(read),
        kv_cache=_kv_cache(read, serving, cache, ideal),
        runtime=runtime,
        parallelism=Parallelism(serving.tp, serving.pp, serving.ep, serving.dp, serving.num_ranks),
        per_rank=per_rank,
        total_bytes=ranks.all_ranks_bytes + cache.bytes + runtime_bytes * serving.num_ranks,
        engine_pool=_pool(architecture, serving),
        warnings=tuple(ReportWarning(note.code, note.message) for note in dict.fromkeys(notes)),
    )


def _model_info(read: Model) -> ModelInfo:
    facts, architecture = read.facts, read.architecture
    return ModelInfo(
        id=facts.repo_id,
        revision=facts.revision,
        source=facts.source,
        model_type=architecture.model_type,
        architectures=architecture.architectures,
        dtype=CONFIG_NAMES.get(architecture.dtype, architecture.dtype),
        num_hidden_layers=architecture.num_hidden_layers,
        hidden_size=architecture.hidden_size,
        num_attention_heads=architecture.num_attention_heads,
        num_kv_heads=architecture.num_kv_heads,
        head_dim=architecture.head_dim,
        vocab_size=architecture.vocab_size,
        max_position_embeddings=architecture.max_position_embeddings,
        notice=facts.notice,
    )


def _weights(read: Model) -> Weights:
    parameters = read.parameters
    return Weights(
        bytes=parameters.weights_bytes,
        by_dtype=parameters.weights_by_dtype,
        by_component=parameters.weights_by_component,
        evidence=parameters.evidence,
        quantization=_quantization(read),
        download_bytes=read.facts.download_bytes,
        grade="exact" if parameters.exact else "derived",
    )


def _quantization(read: Model) -> dict[str, Any] | None:
    """What the tensors show, else what the configuration files say."""
    said, packing = read.quantization, read.packing
    if packing is not None:
        return {
            "method": packing.method,
            "bits": packing.bits,
            "group_size": packing.group_size,
            "block": packing.block,
            "bits_per_weight": round(packing.bits_per_weight, 4),
            "quantized_parameters": packing.quantized_elements,
            "unquantized_parameters": packing.plain_elements,
            "overhead_bytes": packing.overhead_bytes,
            "recognized": packing.recognized,
        }
    if said is None:
        return None
    return {"method": said.method, "bits": said.bits, "group_size": said.group_size, "block": said.block}


def _kv_cache(read: Model, serving: Serving, cache: CacheBytes, ideal: CacheBytes) -> KvCache:
    alone = replace(serving, tp=1, pp=1, dp=1, ep=False)
    columns: dict[str, int | None] = {}
    for name in ENGINES:
        found = ideal if name == "ideal" else cache if name == serving.engine and alone == serving else None
        found = found or engines.cache_or_none(name, read.architecture, replace(alone, engine=name))
        columns[name] = None if found is None else found.bytes
    return KvCache(
        context=serving.context,
        num_seqs=serving.num_seqs,
        dtype=cache.kv_dtype,
        engine=serving.engine,
        bytes=cache.bytes,
        bytes_per_rank=cache.bytes_per_rank,
        ideal_bytes=ideal.bytes,
        bytes_per_token=bytes_per_token(read.architecture, cache.kv_dtype),
        state_bytes_per_seq=cache.state_bytes_per_seq,
        engines=columns,
    )


def _pool(architecture: Architecture, serving: Serving) -> EnginePool | None:
    rules = engines.pooling_engine(serving.engine)
    if rules is None or serving.kv_memory_bytes is None:
        return None
    pool = rules.pool(architecture, serving, serving.kv_memory_bytes)
    return EnginePool(
        pool.memory_bytes_per_rank, pool.page_size, pool.num_pages, pool.capacity_tokens, pool.max_concurrency
    )
