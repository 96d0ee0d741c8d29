"""Step 5: Step 3.5's blocks whose full layers read the regions that an indexer picks.

For every eight tokens such a layer keeps a summary of 256 bytes beside their keys and values: as much as one more key of 16
elements in bf16, which is how it is counted. vLLM 0.33 also keeps the last seven tokens' raw rows of each sequence.

Source: vLLM 0.33.0 `models/step5/nvidia/{model,config,sparse_summary_cache,csa_tail_ring}.py` and its `Step5Config`.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import linear, norm
from hfmem.model.config import Config
from hfmem.model.families.multimodal import tower_layers, wrap
from hfmem.model.families.step import LAYER, step3p5, tower_of
from hfmem.model.inventory import Column, Component, Inventory, Replicated
from hfmem.model.layers import FullAttention, IndexedAttention, Layer
from hfmem.records import replace

#: elements of the indexer's queries and keys, and what a summary of eight tokens takes of each in 16 bit
_PROXY, _SUMMARY = 256, 16
_HEADS = 16  # `Step5SparseConfig.sparse_indexer_num_heads`


def step5(cfg: Config) -> Architecture:
    """The text model; only checkpoints with a `sparse_config` are served."""
    data = dict(cfg.data)
    for own, name in (
        ("swa_num_attention_heads", "num_sliding_attention_heads"),
        ("moe_layer_list", "moe_layers_enum"),
    ):
        if data.get(own) is not None and data.get(name) is None:
            data[name] = data[own]
    if data.get("moe_layers_enum") is None:
        data["first_k_dense_replace"] = 1
    if data.get("share_expert_dim") is None:
        data["share_expert_dim"] = cfg.positive("moe_intermediate_size") * cfg.positive(
            "moe_top_k", "num_experts_per_tok"
        )
    sparse = cfg.sub("sparse_config", model_type="step5")
    for key, value in (("proxy_dim", _PROXY), ("region_block_size", 8), ("sparse_indexer_num_k_heads", 1)):
        if sparse.published(key) is not None:
            cfg.choice(key, str(sparse.published(key)), (str(value),))
    arch = step3p5(Config(data, cfg.file, cfg.model_type, cfg.used_defaults))
    if sparse.published("enabled") is False:
        return replace(arch, family="step5", model_type=cfg.model_type)
    heads = (
        _HEADS if sparse.published("sparse_indexer_num_heads") is None else sparse.positive("sparse_indexer_num_heads")
    )
    full = [i for i, layer in enumerate(arch.layers) if isinstance(layer.caches[0], FullAttention)]
    inv, place, part, hidden = (
        Inventory(arch.tensors),
        f"{LAYER}.self_attn.sparse_indexer",
        Component.ATTENTION,
        arch.hidden_size,
    )
    linear(inv, f"{place}_q", full, heads * _PROXY, hidden, part, Column())
    for name in ("k", "z"):
        linear(inv, f"{place}_{name}", full, _PROXY, hidden, part, Replicated())
    linear(inv, f"{place}_w", full, heads, hidden, part, Column())
    norm(inv, f"{place}_q_norm", full, _PROXY)
    norm(inv, f"{place}_k_norm", full, _PROXY, bias=True)
    inv.each(f"{LAYER}.self_attn.ssmax_s", full, (arch.num_attention_heads or 0,), part)
    return replace(
        arch,
        family="step5",
        model_type=cfg.model_type,
        tensors=tuple(inv.specs),
        layers=tuple(map(_indexed, arch.layers)),
    )


def _indexed(layer: Layer) -> Layer:
    own = layer.caches[0]
    if not isinstance(own, FullAttention):
        return layer
    return Layer(
        (IndexedAttention(own.num_heads, own.num_kv_heads, own.head_dim, own.v_head_dim, _SUMMARY),), layer.stack
    )


def step5_vl(cfg: Config) -> Architecture:
    """Step 5 with Step 3.7's tower and projector."""
    found = cfg.sub("text_config", model_type="step5")
    tied = cfg.published("tie_word_embeddings")
    data = found.data if tied is None else {**found.data, "tie_word_embeddings": tied}
    text = Config(data, found.file, "step5", cfg.used_defaults)
    inner, inv = step5(text), Inventory()
    count = tower_of(cfg, inv, inner.hidden_size)
    return wrap(cfg, text, inner, "step5", (), inv, tower_layers(count))
