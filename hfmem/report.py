"""The result of an estimate: one frozen dataclass a section of the JSON output, integer bytes throughout.

Field names are the JSON keys. `grade` says how a number came about: `exact` (read from headers), `derived` (computed from the
config by a rule), `estimated` (a named constant with a source and a band).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from hfmem.records import dataclass, field

Grade = Literal["exact", "derived", "estimated"]

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the model is and where its facts came from.

    `revision` is a commit's hash, None where there is none (a folder, the catalogue). Numbers of heads and their size are None
    where the model has none. `notice` is the one line to show when the facts are not live.
    """

    id: str
    revision: str | None
    source: str  # "hub" | "cache" | "local" | "catalog"
    model_type: str
    architectures: tuple[str, ...]
    dtype: str
    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int | None
    num_kv_heads: int | None
    head_dim: int | None
    vocab_size: int
    max_position_embeddings: int | None
    notice: str | None = None


@dataclass(frozen=True, slots=True)
class LayerRow:
    """A run of layers that keep the same thing, in layer order. `window` is in tokens, `state_bytes` per sequence and layer (ideal
    rules); `v_head_dim` is `head_dim` where values are as wide as keys."""

    kind: str  # "full" | "sliding" | "chunked" | "latent" | "latent_sparse" | "recurrent" | "cross" | "shared" | "none"
    count: int
    num_kv_heads: int | None
    head_dim: int | None
    v_head_dim: int | None
    window: int | None
    state_bytes: int


@dataclass(frozen=True, slots=True)
class Parameters:
    """Logical parameter counts: a 4-bit weight counts once, tied tensors once; `active` are those that one token runs through.

    `by_component`: embedding, attention, mlp, experts, norm, lm_head, vision, mtp, other; they add up to `total`.
    """

    total: int
    active: int
    by_component: Mapping[str, int]
    grade: Grade


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of the tensors that are loaded, all ranks together, before any engine's padding.

    `by_dtype` and `by_component` add up to `bytes`. `quantization` is {method, bits, group_size, …} or None; `download_bytes` what
    the files of a default download take, None where their sizes are not known.
    """

    bytes: int
    by_dtype: Mapping[str, int]
    by_component: Mapping[str, int]
    evidence: str  # "headers" | "index" | "config"
    quantization: Mapping[str, Any] | None
    download_bytes: int | None
    grade: Grade


@dataclass(frozen=True, slots=True)
class KvCache:
    """The cache of `num_seqs` sequences of `context` tokens.

    `bytes` is what `engine` asks for over all ranks, `bytes_per_rank` on the most loaded one, `ideal_bytes` what the model itself
    needs: no pages, no copies, min(context, window) tokens in windowed layers. `bytes_per_token` is the growth of the layers that
    keep every token, `state_bytes_per_seq` what a sequence takes whatever its length. `engines` holds every engine's bytes at TP 1,
    None where it refuses the model.
    """

    context: int
    num_seqs: int
    dtype: str
    engine: str
    bytes: int
    bytes_per_rank: int
    ideal_bytes: int
    bytes_per_token: int
    state_bytes_per_seq: int
    engines: Mapping[str, int | None]
    grade: Grade = "derived"


#: report words for the keys of `runtime`
RUNTIME_WORDS: Mapping[str, str] = {
    "activations_bytes": "activations",
    "cuda_graph_bytes": "CUDA graphs",
    "engine_bytes": "libraries",
    "context_bytes": "CUDA context",
    "overhead_bytes": "overhead",
    "lora_bytes": "LoRA",
}


@dataclass(frozen=True, slots=True)
class RuntimeItem:
    """One estimated part of an engine's own memory, per rank: the estimate, its band, and where it is from."""

    bytes: int
    low: int
    high: int
    grade: Grade
    source: str


@dataclass(frozen=True, slots=True)
class Parallelism:
    """How the model is laid out: tensor, pipeline and data parallel sizes, and whether experts are dealt out whole (`ep`).

    `attn_dp` are SGLang's groups of data-parallel attention among the `tp` ranks, `dcp` vLLM's that share out tokens.
    """

    tp: int
    pp: int
    ep: bool
    dp: int
    num_ranks: int
    attn_dp: int = 1
    dcp: int = 1


@dataclass(frozen=True, slots=True)
class PerRank:
    """The most loaded rank: one of pipeline stage `stage` (from 0)."""

    parameters: int
    weights_bytes: int
    kv_cache_bytes: int
    runtime_bytes: int
    total_bytes: int
    stage: int = 0


@dataclass(frozen=True, slots=True)
class HostMemory:
    """What an engine leaves in the host's memory. llama.cpp: the input embedding, and layers or experts that are not offloaded.
    vLLM: tables, and the weights for which a rank may take `cpu_offload_bytes` there.

    `gpu_layers` are on the devices, the output counted as one (None: all of them); of the first `cpu_moe_layers` the routed experts
    are on the host.
    """

    weights_bytes: int
    kv_cache_bytes: int
    gpu_layers: int | None = None
    cpu_moe_layers: int = 0
    cpu_offload_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EnginePool:
    """What the engine would log about its cache pool."""

    kv_memory_bytes_per_rank: int
    page_size: int
    num_pages: int
    capacity_tokens: int
    max_concurrency: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether it fits the devices asked about.

    `usable_bytes_per_device` is what the engine may take, `headroom_bytes` what a rank has left of it. `max_context` is the
    longest context at which the sequences asked for fit, `max_num_seqs` the most sequences of the context asked for: 0 where none
    does, None where nothing bounds it. `utilization` is the engine's share, `memory_grade` how the device's memory is known.
    """

    device: str
    num_devices: int
    memory_bytes_per_device: int
    usable_bytes_per_device: int
    verdict: Literal["fits", "tight", "does-not-fit"]
    headroom_bytes: int
    max_context: int | None
    max_num_seqs: int | None
    utilization: float | None = None
    memory_used_bytes: int = 0
    memory_grade: Grade = "exact"


@dataclass(frozen=True, slots=True)
class LoraInfo:
    """An adapter served beside the model. `bytes` are its own tensors', `reserved_bytes` what the engine keeps on a rank for
    `max_loras` of `max_lora_rank` (None where the engine holds adapters as they are)."""

    id: str
    method: str
    rank: int
    alpha: float | None
    target_modules: tuple[str, ...]
    parameters: int
    bytes: int
    base_model: str | None
    max_loras: int
    max_lora_rank: int | None
    reserved_bytes: int


@dataclass(frozen=True, slots=True)
class DraftInfo:
    """A draft model served beside the model, or its own prediction layers. `weights_bytes` are those of its files. What weights and
    cache of the estimate grow by because of it: on a rank of the last pipeline stage, and of the cache over all ranks."""

    id: str
    model_type: str
    parameters: int
    weights_bytes: int
    weights_bytes_per_rank: int
    kv_cache_bytes_per_rank: int
    kv_cache_bytes: int


@dataclass(frozen=True, slots=True)
class ReportWarning:
    """Something the user should know: a stable code and one sentence."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything an estimate says about one model: what `--json` prints, under the same names.

    `runtime` holds `activations_bytes`, `cuda_graph_bytes`, `engine_bytes`, `loading_bytes`, `context_bytes` … of one rank, as far
    as the engine has them. `total_bytes` is all ranks'. `fit` is None without a device, `engine_pool` unless the engine pools its
    cache and its memory is known. `schema_version` rises when a key changes its meaning or goes; new keys may come without.
    """

    model: ModelInfo
    layers: tuple[LayerRow, ...]
    parameters: Parameters
    weights: Weights
    kv_cache: KvCache
    runtime: Mapping[str, RuntimeItem]
    parallelism: Parallelism
    per_rank: PerRank
    total_bytes: int
    fit: Fit | None = None
    engine_pool: EnginePool | None = None
    warnings: tuple[ReportWarning, ...] = ()
    lora: LoraInfo | None = None
    draft: DraftInfo | None = None
    host: HostMemory | None = None
    schema_version: int = field(default=SCHEMA_VERSION)

    def stage_name(self, stage: int) -> str:
        """What to call a pipeline stage: `stage 2 of 3`, of llama.cpp `device 2 of 3`; empty where there is one."""
        layout, by_layer = self.parallelism, self.kv_cache.engine == "llama.cpp"
        count = layout.tp * layout.pp if by_layer else layout.pp
        return f"{'device' if by_layer else 'stage'} {stage + 1} of {count}" if count > 1 else ""
