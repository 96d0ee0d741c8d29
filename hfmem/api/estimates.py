"""What the command line shows and Python callers use. The line itself: `reading` → `memory` → `assembly`."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from hfmem.api.configuration import DEFAULT_CONTEXT, DEFAULT_ENGINES, configure, default_engine
from hfmem.api.reading import Model, in_format, read_model
from hfmem.errors import UnsupportedError
from hfmem.hub import FetchOptions
from hfmem.memory import engines
from hfmem.memory.layer_table import LayerRun, layer_runs, merged
from hfmem.memory.result import CacheBytes
from hfmem.memory.serving import Serving
from hfmem.records import dataclass
from hfmem.report import Report, RuntimeItem

if TYPE_CHECKING:
    from hfmem.plan.devices import Device
    from hfmem.plan.explain import Explanation

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
    one_kind_of_page: bool = False,
    synchronous: bool = False,
    kv_memory_bytes: int | None = None,
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
        one_kind_of_page, synchronous: vLLM without its hybrid cache manager, without asynchronous scheduling.
        eager: without CUDA graphs. language_model_only: without the towers for images and sound.
        kv_memory_bytes: bytes of one rank's cache pool; fills `engine_pool`.
        source_tokens: encoder tokens a sequence, for cross attention; None: the encoder's maximum.
        quant, dtype: what if the weights were stored in another format, as in `in_format`.
        lora: a LoRA adapter (PEFT) to serve beside the model; `max_loras` of them at once, `max_lora_rank` as vLLM takes it.
        draft: a draft model for speculative decoding; `mtp`: the model's own prediction layers. draft_tokens: how many tokens it
            proposes at once, for which vLLM and SGLang keep states; None: as `--emit` launches it.
        overhead: a flat share of weights and cache (0.1 = 10 %) instead of the engine's runtime estimates.
        device: `h100`, `8xh100`, `80GiB`, `local` or a `Device`; fills `fit` and `engine_pool`.
        num_devices: how many; without `tp` and `pp` the engine's way to use them all. utilization: the share of each that the
            engine may take; None: its default.
        gpu_layers, cpu_moe_layers, value_dtype, swa_full, unified: llama.cpp's settings (`hfmem.memory.serving.LlamaCpp`).
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
    read, serving = _on_one_rank(model, context, num_seqs, kv_dtype, engine)
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

    read, serving = _on_one_rank(model, context, num_seqs, kv_dtype, engine)
    held = None if serving.engine == "ideal" else engines.cache_or_none(serving.engine, read.architecture, serving)
    loaded, on_host, runtime = _beside_cache(read, serving)
    return explain_steps(
        read.facts.repo_id,
        read.architecture,
        read.parameters,
        serving,
        engine=held,
        loaded_bytes=loaded,
        host_bytes=on_host,
        runtime=None if overhead is not None else runtime,
        overhead=overhead or Fraction(0),
        device_bytes=device_bytes,
    )


def _beside_cache(read: Model, serving: Serving) -> tuple[int | None, int, Mapping[str, RuntimeItem]]:
    """What the engine loads of the weights, what of them and the cache lies in the host's memory, and what it takes beside them;
    nothing where it refuses the model."""
    from hfmem.api.assembly import runtime_items
    from hfmem.memory.weights import rank_weights

    try:
        cache = engines.engine(serving.engine).cache(read.architecture, serving)
        ranks = rank_weights(read.architecture, read.parameters.groups, serving)
        return ranks.all_ranks_bytes, ranks.host_bytes + cache.host_bytes, runtime_items(read, serving, ranks, cache)
    except UnsupportedError:
        return None, 0, {}


def _on_one_rank(
    model: str | Model, context: int | None, num_seqs: int, kv_dtype: str, engine: str | None
) -> tuple[Model, Serving]:
    """The model and its serving on one rank; an engine that refuses it is no error here."""
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
    return read, serving
