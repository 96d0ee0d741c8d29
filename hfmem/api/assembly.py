"""The report of one model under one serving configuration: memory's answers, put under the keys of the JSON contract."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from hfmem.api.reading import Model
from hfmem.dtypes import CONFIG_NAMES
from hfmem.errors import UnsupportedError
from hfmem.memory import engines
from hfmem.memory.beside import kept_beside
from hfmem.memory.cache import bytes_per_token
from hfmem.memory.drafts import cache_with, joined, served_with, weights_with
from hfmem.memory.engines.vllm.releases import GraphSizes, Release
from hfmem.memory.expert_workspaces import ExpertFormat
from hfmem.memory.layer_table import LayerRun, layer_runs
from hfmem.memory.result import CacheBytes
from hfmem.memory.runtime import Estimate, Host, LoadedExtra, estimate_runtime, flat_overhead
from hfmem.memory.serving import ENGINES, Serving
from hfmem.memory.weights import RankWeights, rank_weights
from hfmem.model.architecture import Architecture, Note
from hfmem.records import replace
from hfmem.report import (
    DraftInfo,
    EnginePool,
    HostMemory,
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
    from hfmem.api.extras import Extras
    from hfmem.checkpoint.quantization import QuantizationSummary
    from hfmem.hub import ModelFacts
    from hfmem.memory.drafts import Drafter
    from hfmem.plan.devices import Device


#: code of the warning that the memory given for the cache holds not one request
POOL_TOO_SMALL: Final = "pool_too_small"


def assemble(
    read: Model,
    serving: Serving,
    notes: Sequence[Note] = (),
    overhead: Fraction | float | None = None,
    device: Device | None = None,
    extras: Extras | None = None,
) -> Report:
    """The report of `read` served as `serving` says, on `device` where one is known, with `extras` beside it.

    `overhead` as in `hfmem.estimate`; `notes` become warnings.

    Raises:
        UnsupportedError: the engine refuses the model or the layout.
    """
    architecture, parameters = read.architecture, read.parameters
    drafter = extras.drafter if extras else None
    cache = cache_with(architecture, drafter, serving)
    # what the model needs is counted in the format that the chosen engine keeps (vLLM turns fp32 models into 16 bit)
    alone = replace(serving.alone("ideal"), kv_dtype=cache.kv_dtype)
    ideal = cache_with(architecture, drafter, alone)
    ranks = weights_with(architecture, parameters.groups, drafter, serving)
    runtime = runtime_items(read, serving, ranks, cache, overhead, device)
    runtime |= extras.items(serving) if extras else {}
    runtime_bytes = sum(item.bytes for item in runtime.values())
    per_rank = _most_loaded(ranks, cache, runtime_bytes)
    pool, told = _pool(served_with(architecture, drafter, serving), serving, cache)
    return Report(
        model=_model_info(read),
        layers=_layer_rows(layer_runs(architecture, alone)),
        parameters=told_parameters(read),
        weights=told_weights(read),
        kv_cache=_kv_cache(read, serving, cache, ideal, drafter),
        runtime=runtime,
        parallelism=Parallelism(
            serving.tp, serving.pp, serving.ep, serving.dp, serving.num_ranks, serving.attn_dp, serving.dcp
        ),
        per_rank=per_rank,
        total_bytes=ranks.all_ranks_bytes + cache.bytes + runtime_bytes * serving.num_ranks,
        engine_pool=pool,
        warnings=tuple(ReportWarning(note.code, note.message) for note in dict.fromkeys((*notes, *cache.notes, *told))),
        lora=extras.lora_info(serving) if extras else None,
        draft=draft_info(read, extras, serving, ranks, cache),
        host=_host(ranks, cache, serving),
    )


def _layer_rows(runs: Iterable[LayerRun]) -> tuple[LayerRow, ...]:
    """Runs in layer order; neighbours of one kind and shape are one, be they of two towers."""
    rows: list[LayerRow] = []
    for run in runs:
        shape = (run.num_kv_heads, run.head_dim, run.v_head_dim, run.window, run.state_bytes)
        if rows and rows[-1] == LayerRow(run.kind, rows[-1].count, *shape):
            rows[-1] = replace(rows[-1], count=rows[-1].count + run.count)
        else:
            rows.append(LayerRow(run.kind, run.count, *shape))
    return tuple(rows)


def _most_loaded(ranks: RankWeights, cache: CacheBytes, runtime_bytes: int) -> PerRank:
    """The rank with most weights and cache together."""
    held = cache.stage_bytes or (cache.bytes_per_rank,) * len(ranks.stage_bytes)
    stage = max(range(len(held)), key=lambda index: ranks.stage_bytes[index] + held[index])
    return PerRank(
        parameters=ranks.stage_parameters[stage],
        weights_bytes=ranks.stage_bytes[stage],
        kv_cache_bytes=held[stage],
        runtime_bytes=runtime_bytes,
        total_bytes=ranks.stage_bytes[stage] + held[stage] + runtime_bytes,
        stage=stage,
    )


def _host(ranks: RankWeights, cache: CacheBytes, serving: Serving) -> HostMemory | None:
    if not ranks.host_bytes and not cache.host_bytes:
        return None
    told = serving.llama_cpp
    return HostMemory(
        ranks.host_bytes, cache.host_bytes, told.gpu_layers, told.cpu_moe_layers, serving.cpu_offload_bytes
    )


def runtime_items(
    read: Model,
    serving: Serving,
    ranks: RankWeights,
    cache: CacheBytes,
    overhead: Fraction | float | None = None,
    device: Device | None = None,
) -> dict[str, RuntimeItem]:
    """The engine's own memory on the most loaded rank: named estimates, or the flat share that was asked for."""
    found = {"overhead_bytes": flat_overhead(ranks.bytes, cache.bytes_per_rank, Fraction(overhead or 0))}
    if overhead is None:
        found = runtime_estimates(read, serving, ranks, device)
    return {name: RuntimeItem(e.bytes, e.low, e.high, e.grade, e.source) for name, e in found.items()}


def runtime_estimates(
    read: Model,
    serving: Serving,
    ranks: RankWeights,
    device: Device | None = None,
    release: Release | None = None,
    graphs: GraphSizes | None = None,
    encoder_tokens: int | None = None,
) -> dict[str, Estimate]:
    """The engine's estimates for the model on `device`, under `release`'s rules where it is vLLM's; `graphs` and `encoder_tokens`:
    what it captures and profiles, where a log says so."""
    rounding = ranks.rounding
    beside = kept_beside(read.architecture, read.parameters.groups, serving, release)
    extra = LoadedExtra(beside, rounding.block_bytes, rounding.segment_bytes)
    return estimate_runtime(
        read.architecture,
        serving,
        extra=extra,
        host=None if device is None else Host(device.memory_bytes, device.name, _linked(device), device.vendor),
        release=release,
        experts=_expert_format(read),
        graphs=graphs,
        encoder_tokens=encoder_tokens,
    )


def _expert_format(read: Model) -> ExpertFormat:
    """How the checkpoint stores routed experts, as far as kernels are chosen by it."""
    said = read.quantization
    if said is None:
        return "plain"
    if "fp4" in f"{said.method} {said.algorithm} {said.expert_dtype}".lower():
        return "fp4"
    if said.bits == 4:
        return "int4"
    return "fp8_blocks" if said.block is not None and said.bits == 8 else "plain"


def _linked(device: Device) -> bool | None:
    """Whether such devices talk over links of their own; None: the catalogue does not say."""
    kind = device.interconnect.kind if device.interconnect else None
    return None if kind is None else not kind.startswith("PCIe")


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


def told_parameters(read: Model) -> Parameters:
    """The report's section on parameters."""
    found = read.parameters
    return Parameters(found.total, found.active, found.by_component, "exact" if found.exact else "derived")


def told_weights(read: Model) -> Weights:
    """The report's section on weights."""
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
    if packing is not None and packing.method == "gguf" and read.facts.checkpoint is not None:
        return _gguf(read.facts, packing)
    if packing is not None:
        return _shown(packing)
    if said is None:
        return None
    return {"method": said.method, "bits": said.bits, "group_size": said.group_size, "block": said.block}


def _gguf(facts: ModelFacts, packing: QuantizationSummary) -> dict[str, Any]:
    """As of any method, with the file's own label, whose number is what people call its bits."""
    from hfmem.checkpoint.gguf_names import label_bits, label_of

    label = label_of(facts.config.get("general.file_type"), facts.config_file)
    return {**_shown(packing), "bits": label_bits(label) or packing.bits, "file_type": label}


def _shown(packing: QuantizationSummary) -> dict[str, Any]:
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


def draft_info(
    read: Model, extras: Extras | None, serving: Serving, ranks: RankWeights, cache: CacheBytes
) -> DraftInfo | None:
    """What drafts, and what it adds to weights and cache."""
    if extras is None or extras.drafter is None:
        return None
    alone = replace(serving, speculative_tokens=0)
    own = rank_weights(read.architecture, read.parameters.groups, alone)
    held = engines.engine(alone.engine).cache(read.architecture, alone)
    return extras.draft_info((ranks, own), (cache, held))


def _kv_cache(read: Model, serving: Serving, cache: CacheBytes, ideal: CacheBytes, drafter: Drafter | None) -> KvCache:
    columns: dict[str, int | None] = {}
    for name in ENGINES:
        alone = drafter.alone(serving, name) if drafter else serving.alone(name)
        found = ideal if name == "ideal" else cache if serving == alone else None
        found = found or _cache_or_none(read.architecture, drafter, alone)
        columns[name] = None if found is None else found.bytes
    return KvCache(
        context=serving.context,
        num_seqs=serving.num_seqs,
        dtype=f"{cache.kv_dtype}/{cache.value_dtype}" if cache.value_dtype else cache.kv_dtype,
        engine=serving.engine,
        bytes=cache.bytes,
        bytes_per_rank=cache.bytes_per_rank,
        ideal_bytes=ideal.bytes,
        bytes_per_token=bytes_per_token(
            joined(read.architecture, drafter, serving.engine) if drafter else read.architecture, cache.kv_dtype
        ),
        state_bytes_per_seq=cache.state_bytes_per_seq,
        engines=columns,
    )


def _cache_or_none(arch: Architecture, drafter: Drafter | None, serving: Serving) -> CacheBytes | None:
    try:
        return cache_with(arch, drafter, serving)
    except UnsupportedError:
        return None


def _pool(architecture: Architecture, serving: Serving, cache: CacheBytes) -> tuple[EnginePool | None, list[Note]]:
    """The pool of the memory given for it; None and the engine's reason where it would not start with that."""
    rules = engines.pooling_engine(serving.engine)
    given = engines.given_pools(architecture, serving, max(len(cache.stage_bytes), 1))
    if rules is None or given is None:
        return None, []
    try:
        pool = rules.pool(architecture, serving, [size or 0 for size in given])
    except UnsupportedError as error:
        return None, [Note(POOL_TOO_SMALL, error.message)]
    seqs, told = serving.num_seqs_per_replica, []
    if pool.max_concurrency < 1:  # SGLang starts all the same
        text = (
            f"one request of {serving.context:,} tokens does not fit the pool of {pool.capacity_tokens:,} tokens "
            f"({pool.max_concurrency:.2f} of one)"
        )
        told.append(Note(POOL_TOO_SMALL, text))
    elif pool.max_concurrency < seqs or (pool.pages_per_seq and pool.num_pages <= seqs * pool.pages_per_seq):
        text = f"the pool holds {pool.max_concurrency:.2f} sequences of {serving.context:,} tokens at once, not {seqs}"
        told.append(Note(POOL_TOO_SMALL, text))
    found = EnginePool(
        pool.memory_bytes_per_rank, pool.page_size, pool.num_pages, pool.capacity_tokens, pool.max_concurrency
    )
    return found, told
