"""The attention shapes of real models, read through hfmem's catalogue: no head count is written down here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of attention layer of a model, on one of `tp` ranks.

    `head_dim` of a latent shape is the whole row, `v_head_dim` the latent. `layers`: how many layers of the model have it.
    `scale_dim`: the head dimension that the softmax scale is of; of latents the one before absorption.
    """

    name: str
    model: str
    tp: int
    layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    scale_dim: int
    window: int | None = None
    sinks: bool = False
    latent: bool = False

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.num_heads // self.num_kv_heads

    @property
    def scale(self) -> float:
        """The softmax scale."""
        return float(self.scale_dim**-0.5)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a shape is read: a model of the catalogue, its ranks, and whether its windowed layers are meant."""

    model: str
    tp: int = 1
    windowed: bool = False


#: the grid's names for shapes → where they are read
SOURCES: dict[str, Source] = {
    "llama-3.1-8b": Source("meta-llama/Llama-3.1-8B"),
    "llama-3.1-70b-tp8": Source("meta-llama/Llama-3.1-70B", tp=8),
    "qwen3-30b-a3b": Source("Qwen/Qwen3-30B-A3B"),
    "qwen2-7b": Source("Qwen/Qwen2-7B-Instruct"),
    "llama-2-7b": Source("meta-llama/Llama-2-7b-hf"),
    "gemma-3-12b-window": Source("google/gemma-3-12b-it", windowed=True),
    "gpt-oss-20b-window": Source("openai/gpt-oss-20b", windowed=True),
    "gpt-oss-20b": Source("openai/gpt-oss-20b"),
    "qwen3-next": Source("Qwen/Qwen3-Next-80B-A3B-Instruct"),
    "deepseek-v3-tp8": Source("deepseek-ai/DeepSeek-V3", tp=8),
    "deepseek-v3": Source("deepseek-ai/DeepSeek-V3"),
    "deepseek-v4-flash-tp4": Source("deepseek-ai/DeepSeek-V4-Flash", tp=4),
}


@cache
def shape(name: str) -> Shape:
    """The shape of that name, from the model's config in the shipped catalogue, which needs no package beside this one.

    Raises:
        KeyError: no such name.
        LookupError: the model is not there, or has no layer, or several kinds, of the sort that is meant.
    """
    from hfmem.hub.catalog import load_catalog_entry
    from hfmem.memory.serving import Serving
    from hfmem.model.families.registry import read_architecture
    from hfmem.model.layers import CompressedAttention, LatentAttention, SparseLatentAttention
    from hfmem.plan.bench import bench_plan, sink_layers

    source = SOURCES[name]
    facts = load_catalog_entry(source.model)
    if facts is None:
        raise LookupError(f"{source.model}: not in the catalogue")
    architecture = read_architecture(facts.config)
    for each in architecture.caches():
        if isinstance(each, CompressedAttention):  # window and compressed rows are alike, and values as a whole
            return Shape(
                name, source.model, source.tp, len(architecture.layers), each.num_heads // source.tp, 1, each.head_dim,
                each.head_dim, each.head_dim, sinks=bool(sink_layers(architecture)), latent=True,
            )  # fmt: skip
    plan = bench_plan(architecture, Serving(context=1 << 20, tp=source.tp, kv_dtype="bf16"))
    found = [each for each in plan.shapes if (each.window is not None) == source.windowed]
    if len(found) != 1:
        raise LookupError(f"{source.model}: expected one kind of layer for {name}, found {len(found)}")
    (one,) = found
    before = {
        cache.qk_nope_head_dim + cache.qk_rope_head_dim
        for cache in architecture.caches()
        if isinstance(cache, LatentAttention | SparseLatentAttention)
    }
    return Shape(
        name=name,
        model=source.model,
        tp=source.tp,
        layers=one.count,
        num_heads=one.num_heads,
        num_kv_heads=one.num_kv_heads,
        head_dim=one.head_dim,
        v_head_dim=one.v_head_dim,
        scale_dim=before.pop() if one.op == "mla_decode" else one.head_dim,
        window=one.window,
        sinks=one.sinks,
        latent=one.op == "mla_decode",
    )
