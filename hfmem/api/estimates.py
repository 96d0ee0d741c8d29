"""What the command line shows and Python callers use. The line itself: `reading` → `memory` → `assembly`."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

from hfmem.api.configuration import Configuration
from hfmem.api.configuring import configure
from hfmem.api.reading import Model, in_format, read_model
from hfmem.hub import FetchOptions
from hfmem.memory.drafts import cache_with, held_with, joined, weights_with
from hfmem.memory.layer_table import LayerRun, layer_runs, merged, unused_bytes
from hfmem.memory.result import CacheBytes
from hfmem.memory.serving import Serving
from hfmem.memory.weights import RankWeights
from hfmem.model.architecture import Note
from hfmem.records import dataclass, replace
from hfmem.report import DraftInfo, Report

if TYPE_CHECKING:
    from hfmem.plan.devices import Device
    from hfmem.plan.explain import Explanation
    from hfmem.plan.explain_draft import Drafted
    from hfmem.plan.explain_rank import Rank

__all__ = ["LayerTable", "Model", "estimate", "explain", "in_format", "layer_table", "read_model"]


def estimate(
    model: str | Model,
    *,
    context: int | Literal["max"] | None = None,
    num_seqs: int | Literal["max"] = 1,
    kv_dtype: str = "auto",
    engine: str | None = None,
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    ep: bool = False,
    attn_dp: int = 1,
    dcp: int = 1,
    max_num_batched_tokens: int | None = None,
    max_num_seqs: int | None = None,
    eager: bool = False,
    language_model_only: bool = False,
    page_size: int | None = None,
    enable_prefix_caching: bool | None = None,
    state_dtype: str | None = None,
    swa_full_tokens_ratio: float | None = None,
    mamba_full_memory_ratio: float | None = None,
    max_total_tokens: int | None = None,
    cache_implementation: str = "dynamic",
    one_kind_of_page: bool = False,
    synchronous: bool = False,
    cpu_offload_gb: float | None = None,
    kv_memory_bytes: int | None = None,
    num_gpu_blocks: int | None = None,
    source_tokens: int | None = None,
    overhead: Fraction | float | None = None,
    device: str | Device | None = None,
    num_devices: int | Literal["min"] | None = None,
    utilization: Fraction | float | Literal["min"] | None = None,
    gpu_layers: int | Literal["max"] | None = None,
    cpu_moe_layers: int | Literal["min"] = 0,
    value_dtype: str | None = None,
    swa_full: bool = False,
    unified: bool = False,
    flash_attention: str = "auto",
    ubatch: int | None = None,
    kv_offload: bool = True,
    quant: str | None = None,
    dtype: str | None = None,
    lora: str | None = None,
    max_loras: int | None = None,
    max_lora_rank: int | None = None,
    draft: str | Model | None = None,
    draft_tokens: int | None = None,
    revision: str | None = None,
    assume: str | None = None,
    strict: bool = False,
    fetch: FetchOptions | None = None,
) -> Report:
    """What a model needs to be served, and whether it fits `device` where one is named.

    One of `context`, `num_seqs`, `gpu_layers` may be `"max"`, or of `num_devices`, `utilization`, `cpu_moe_layers` `"min"`: the
    most or the least with which it fits the device.

    Args:
        model: what a user types (`org/name`, a folder, a URL …), or a `Model` that has been read.
        context: tokens of each sequence; None: the positions the model was trained for.
        num_seqs: sequences at once, over all replicas.
        kv_dtype: `auto`, `bf16`, `fp16`, `fp8`, `fp8_e5m2`, `int8`, `int4`, `nvfp4`, or one of llama.cpp's types.
        engine: `vllm`, `sglang`, `transformers`, `llama.cpp`, or `ideal` for the model's own need. None: vLLM's rules, or
            transformers' for a model that vLLM does not serve.
        tp, pp, dp: tensor, pipeline and data parallel sizes; ep: experts are dealt out whole. attn_dp: SGLang's groups of
            data-parallel attention among the `tp` ranks. dcp: vLLM's, that share out a sequence's tokens.
        max_num_batched_tokens, max_num_seqs, page_size: the engine's settings; None: its defaults.
        enable_prefix_caching: of vLLM and SGLang, whose recurrent layers then keep more states; None: their default.
        state_dtype: `bf16`, `fp16` or `fp32` for recurrent states; None: the engine's own.
        swa_full_tokens_ratio, mamba_full_memory_ratio: how SGLang divides its pool; None: 0.8 and 0.9. max_total_tokens: the most
            that its pool may hold.
        cache_implementation: transformers': `dynamic`, `static`, `offloaded` or `offloaded_static`.
        one_kind_of_page, synchronous: vLLM without its hybrid cache manager, without asynchronous scheduling.
        cpu_offload_gb: GiB of weights that each of vLLM's ranks may leave in the host's memory.
        eager: without CUDA graphs. language_model_only: without the towers for images and sound.
        kv_memory_bytes: bytes of one rank's cache pool; fills `engine_pool`. num_gpu_blocks: vLLM's pool in blocks instead.
        source_tokens: encoder tokens a sequence, for cross attention; None: the encoder's maximum.
        quant, dtype: what if the weights were stored in another format, as in `in_format`.
        lora: a LoRA adapter (PEFT) to serve beside the model; `max_loras` of them at once, `max_lora_rank` as vLLM takes it.
        draft: a draft model for speculative decoding; `mtp`: the model's own prediction layers. draft_tokens: how many tokens it
            proposes at once, for which vLLM and SGLang keep states; None: as `--emit` launches it.
        overhead: a flat share of weights and cache (0.1 = 10 %) instead of the engine's runtime estimates.
        device: `h100`, `8xh100`, `80GiB`, `local` or a `Device`; fills `fit` and `engine_pool`.
        num_devices: how many; without `tp` and `pp` the engine's way to use them all. utilization: the share of each that the
            engine may take; None: its default.
        gpu_layers, cpu_moe_layers, value_dtype, swa_full, unified, flash_attention, ubatch, kv_offload: llama.cpp's settings
            (`hfmem.memory.serving.LlamaCpp`).
        revision, assume, strict, fetch: as in `read_model`.

    Returns:
        A frozen `Report`; all sizes are integer bytes.

    Raises:
        UsageError: an argument out of range.
        SourceError: the model could not be read.
        UnsupportedError: it was read, and no rule covers it or the engine refuses it.
    """
    settings = {name: value for name, value in locals().items() if name != "model"}
    return configure(model, **settings).report()


@dataclass(frozen=True, slots=True)
class LayerTable:
    """Rows by layer, the configuration they speak of, the engine's cache, and the estimate of the same settings.

    `unused_bytes`: of a rank of each pipeline stage, what the engine's pages take beyond the rows. A stage's rows and that are
    `engine.stage_bytes`, of which the estimate has the most loaded rank's.
    """

    runs: tuple[LayerRun, ...]
    serving: Serving
    engine: CacheBytes
    unused_bytes: tuple[int, ...]
    report: Report

    @property
    def draft(self) -> DraftInfo | None:
        """What drafts, if anything."""
        return self.report.draft


def layer_table(model: str | Model, *, merge: bool = True, **settings: Any) -> LayerTable:
    """What each layer keeps, per token and at a context, and what a rank holds of it. `settings` are those of `estimate`; `merge`
    folds equal layers over the whole model into one row.

    The layers of a draft come after the model's, in the stack "draft", or "predict" where its own prediction layers draft (`mtp`).

    Raises:
        UsageError, SourceError, UnsupportedError: as `estimate`.
    """
    found = configure(model, **settings)
    report, served = found.report(), _served(found)
    arch, held, serving = found.read.architecture, served.cache, served.serving
    if found.drafter is not None:
        arch = joined(arch, found.drafter, serving.engine)
    # the model's own need in the format that the engine keeps, as an estimate counts it
    runs = layer_runs(arch, replace(serving, kv_dtype=held.kv_dtype), held)
    return LayerTable(merged(runs) if merge else runs, serving, held, unused_bytes(runs, held), report)


def explain(model: str | Model, *, device_bytes: int | None = None, **settings: Any) -> Explanation:
    """The arithmetic behind an estimate, step by step; over several ranks also that of the most loaded one. `settings` are those
    of `estimate`. `device_bytes`: memory of one device, to count how many are needed by the sum alone.

    Raises:
        UsageError, SourceError, UnsupportedError: as `estimate`.
    """
    from hfmem.plan.explain import explain as explain_steps

    found = configure(model, **settings)
    report, served = found.report(), _served(found)
    read, serving = found.read, served.serving
    told = explain_steps(
        read.facts.repo_id,
        read.architecture,
        read.parameters,
        serving,
        engine=served.alone[1] if serving.engine != "ideal" else None,
        loaded_bytes=served.alone[0].all_ranks_bytes,
        host_bytes=served.ranks.host_bytes + served.cache.host_bytes,
        runtime=report.runtime,
        device_bytes=device_bytes,
        overhead=(Fraction(found.overhead or 0), served.ranks.bytes + served.cache.bytes_per_rank),
        draft=_drafted(found, served),
        rank=_rank(found, served, report),
    )
    assert told.total_bytes == report.total_bytes, "an explanation ends with the estimate's number"
    return replace(told, notes=tuple(Note(warning.code, warning.message) for warning in report.warnings))


@dataclass(frozen=True, slots=True)
class _Served:
    """Weights and cache with what drafts, and `alone` without it, on the devices."""

    serving: Serving
    ranks: RankWeights
    cache: CacheBytes
    alone: tuple[RankWeights, CacheBytes]


def _served(found: Configuration) -> _Served:
    """What the engine loads and keeps.

    Raises:
        UnsupportedError: it refuses the model or its draft.
    """
    read, serving, drafter = found.read, found.on_devices, found.drafter
    arch, groups = read.architecture, read.parameters.groups
    ranks, cache = weights_with(arch, groups, drafter, serving), cache_with(arch, drafter, serving)
    if drafter is None:
        return _Served(serving, ranks, cache, (ranks, cache))
    plain = replace(serving, speculative_tokens=0)
    alone = weights_with(arch, groups, None, plain), cache_with(arch, None, plain)
    return _Served(serving, ranks, cache, alone)


def _rank(found: Configuration, served: _Served, report: Report) -> Rank | None:
    """What an explanation has to know of the most loaded rank; None where it holds all that there is."""
    from hfmem.plan.explain_rank import Rank

    if report.per_rank.total_bytes == report.total_bytes:
        return None
    drafter = found.drafter
    arch, serving = found.read.architecture, served.serving
    loaded = served.ranks if drafter is not None and drafter.own else served.alone[0]
    tensors = held_with(arch, found.read.parameters.groups, drafter, serving)
    runs = layer_runs(joined(arch, drafter, serving.engine) if drafter else arch, serving, served.cache)
    stage = report.per_rank.stage
    return Rank(
        report.per_rank,
        report.stage_name(report.per_rank.stage),
        report.parallelism.num_ranks,
        tuple(tensors),
        weights_bytes=loaded.stage_bytes[stage],
        runs=merged(run for run in runs if run.stage == stage or not served.cache.stage_layers),
        unused_bytes=(unused_bytes(runs, served.cache) * (stage + 1))[stage],
        runtime=report.runtime,
    )


def _drafted(found: Configuration, served: _Served) -> Drafted | None:
    """What an explanation has to know of the draft."""
    from hfmem.api.assembly import draft_info
    from hfmem.plan.explain_draft import Drafted

    info = draft_info(found.read, found.extras, served.serving, served.ranks, served.cache)
    if found.drafter is None or info is None:
        return None
    return Drafted(
        info=info,
        drafter=found.drafter,
        loaded=(served.ranks.all_ranks_bytes, served.alone[0].all_ranks_bytes),
        cache=(served.cache, served.alone[1]),
    )
