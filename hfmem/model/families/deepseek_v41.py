"""DeepSeek V4.1: V4's trunk, compressed rows that layers share, n-gram tables (Engram) in some layers, an image encoder.

`compress_ratios` (one number a layer): 0 the window alone; 1 or 2 also one row for that many tokens, which only the layers of
`kv_source_layer_ids` compress and keep; the layers after one read its rows. Indexers are in `index_source_layer_ids`, their keys
made of the source's rows. Source: vLLM 0.33.0 `models/deepseek_v41`, `models/deepseek_v4/common/vision.py` and the names that its
weight mappers take from checkpoints.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError, UnknownArchitectureError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import linear, norm
from hfmem.model.config import Config
from hfmem.model.families.deepseek_v4 import (
    LAYER,
    PART,
    WHOLE,
    Sizes,
    draft,
    need_experts,
    read_dims,
    read_sizes,
    trunk,
)
from hfmem.model.families.multimodal import cut_by_heads, text_config, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW
from hfmem.model.inventory import Component, Inventory, Vocab
from hfmem.model.layers import Cache, CompressedAttention, Layer, SharedCache
from hfmem.model.moe import Experts
from hfmem.model.stack import Stack, open_stack
from hfmem.records import replace

_RATIOS = (0, 1, 2)
#: heads of the image encoder where the config leaves them out (vLLM 0.33.0 `configs/deepseek_v41.py`)
_IMAGE_HEADS = 16


def _ids(cfg: Config, key: str, num_layers: int) -> list[int]:
    """A list of layer indices, counted from 0, in order."""
    ids = cfg.opt_list(key) or []
    if any(not isinstance(i, int) or not 0 <= i < num_layers for i in ids) or len(set(ids)) != len(ids):
        raise ContradictionError(f"{cfg.file}: {key!r} names a layer twice or beyond {num_layers}")
    return sorted(ids)


def _ratios(cfg: Config, num_layers: int) -> list[int]:
    """`compress_ratios` of the decoder's layers; prediction layers may follow."""
    ratios = cfg.need_list("compress_ratios")
    if len(ratios) < num_layers:
        raise ContradictionError(f"{cfg.file}: 'compress_ratios' has {len(ratios)} entries for {num_layers} layers")
    for ratio in ratios:
        if ratio not in _RATIOS:
            raise UnknownArchitectureError(
                f"{cfg.file}: 'compress_ratios' holds {str(ratio)[:40]!r}, expected 0, 1 or 2"
            )
    return [int(ratio) for ratio in ratios[:num_layers]]


def _attention_layers(stack: Stack, cfg: Config, s: Sizes) -> None:
    """Compressors and indexers where they are, and what each layer keeps."""
    d, inv, attn = stack.d, stack.inv, f"{LAYER}.attn"
    ratios = _ratios(cfg, d.num_layers)
    sources = _ids(cfg, "kv_source_layer_ids", d.num_layers)
    indexed = _ids(cfg, "index_source_layer_ids", d.num_layers)
    for i, ratio in enumerate(ratios):
        if ratio and (not sources or sources[0] > i or not indexed or indexed[0] > i):
            raise ContradictionError(
                f"{cfg.file}: layer {i} compresses, and 'kv_source_layer_ids' or 'index_source_layer_ids' has none before it"
            )
        if not ratio and (i in sources or i in indexed):
            raise ContradictionError(f"{cfg.file}: layer {i} is a source and its 'compress_ratios' is 0")
    for i in indexed:
        if (own := max(source for source in sources if source <= i)) not in indexed:
            raise ContradictionError(f"{cfg.file}: layer {i} has an indexer, and its source {own} makes no keys")
    linear(inv, f"{attn}.compressor.wkv", sources, d.head_dim, d.hidden, PART, WHOLE)
    gated = [i for i in sources if ratios[i] > 1]  # one token needs no gate
    linear(inv, f"{attn}.compressor.wgate", gated, d.head_dim, d.hidden, PART, WHOLE)
    norm(inv, f"{attn}.compressor.norm", sources, d.head_dim)
    linear(inv, f"{attn}.indexer.wq_b", indexed, s.index_heads * s.index_dim, s.q_rank, PART, WHOLE)
    linear(inv, f"{attn}.indexer.weights_proj", indexed, s.index_heads, d.hidden, PART, WHOLE)
    keyed = [i for i in sources if i in indexed]
    linear(inv, f"{attn}.indexer.wk", keyed, s.index_dim, d.head_dim, PART, WHOLE)
    norm(inv, f"{attn}.indexer.k_norm", keyed, s.index_dim)
    alone = CompressedAttention(d.num_heads, d.head_dim, cfg.positive("sliding_window"), 0)
    for i, ratio in enumerate(ratios):
        caches: tuple[Cache, ...] = (alone,)
        if i in sources:
            index = s.index_dim if i in keyed else None
            caches = (replace(alone, ratio=ratio, index_head_dim=index, keys_from_rows=True, index_topk=s.index_topk),)
        elif ratio:
            caches = (alone, SharedCache(max(source for source in sources if source < i)))
        stack.layers.append(Layer(caches))


def _engram(stack: Stack, cfg: Config, hc: int) -> None:
    """Tables of hashed n-grams, and what mixes their rows into the residual streams."""
    d, inv = stack.d, stack.inv
    ids = cfg.opt_list("engram_layer_ids") or []
    if not ids:
        return
    layers, rows = _ids(cfg, "engram_layer_ids", d.num_layers), cfg.need_list("engram_num_embeddings")
    if len(rows) != len(ids) or any(not isinstance(count, int) or count < 1 for count in rows):
        raise ContradictionError(f"{cfg.file}: 'engram_num_embeddings' is not one number for each of {len(ids)} layers")
    width, ngram = cfg.positive("engram_head_dim"), cfg.positive("engram_max_ngram_size")
    for layer, count in zip(ids, rows, strict=True):
        inv.each(f"{LAYER}.engram.embed.weight", [layer], (count, width), Component.EMBEDDING, Vocab())
    hashed = (ngram - 1) * cfg.positive("engram_n_heads") * width
    linear(inv, f"{LAYER}.engram.wkv", layers, d.hidden * (hc + 1), hashed, Component.OTHER, COLUMN)
    for name in ("q_weight", "k_weight"):
        inv.each(f"{LAYER}.engram.{name}", layers, (hc, d.hidden), Component.OTHER)


def _draft(stack: Stack, cfg: Config, s: Sizes, experts: Experts, hc: int) -> None:
    """The draft layers, whose experts may be fewer."""
    if steps := cfg.opt_int("n_mtp_layers", "num_nextn_predict_layers"):
        count = cfg.opt_int("dspark_n_routed_experts") or experts.count
        top_k = cfg.opt_int("dspark_num_experts_per_tok") or experts.top_k
        own = replace(experts, count=count, top_k=top_k)
        draft(stack, cfg, s, own, hc, steps, ("embed", "head"), folded=False)


def _images(inv: Inventory, cfg: Config, hidden: int) -> int:
    """The image encoder, the projector that merges its patches, and three learnt tokens; the encoder's layers."""
    width, count = cfg.positive("hidden_size"), cfg.positive("num_hidden_layers")
    inner, patch = cfg.positive("intermediate_size"), cfg.positive("patch_size")
    part = tower(inv, "vision.")
    part.linear("patch_embed.proj", width, 3 * patch * patch)
    part.norm("norm", width, bias=False)
    block = part.at("blocks.{}.", range(count))
    block.norms(("norm1", "norm2"), width, bias=False)
    block.linear("attn.wqkv", 3 * width, width, split=COLUMN)
    block.linear("attn.wo", width, width, split=ROW)
    block.linear("mlp.w1", 2 * inner, width, bias=False, split=COLUMN)
    block.linear("mlp.w2", width, inner, bias=False, split=ROW)
    align = tower(inv, "aligner.")
    align.linear("w1", hidden, width * cfg.positive("downsample_ratio") ** 2, split=COLUMN)
    align.linear("w2", hidden, hidden, split=ROW)
    heads = cfg.opt_int("num_attention_heads")
    inv.specs[:] = cut_by_heads(inv.specs, _IMAGE_HEADS if heads is None else heads)
    for name in ("image_start", "image_end", "image_newline"):
        tower(inv).tensor(name, (hidden,))
    return count


def deepseek_v41_text(cfg: Config, *, images: bool = False) -> Architecture:
    """The text model; `images`: routers have a second bias, for image tokens."""
    d = read_dims(cfg)
    sizes, experts, hc = read_sizes(cfg, d, {}), need_experts(cfg), cfg.positive("hc_mult")
    stack = open_stack(cfg, cfg, d, embed="embed.weight", final_norm="norm", head="head.weight")
    trunk(stack.inv, LAYER, d.num_layers, d, sizes, experts, hc)
    if images:
        biases = f"{LAYER}.ffn.gate.bias_vl"
        stack.inv.each(biases, range(d.num_layers), (experts.count,), Component.EXPERTS, buffer=True, optional=True)
    _attention_layers(stack, cfg, sizes)
    _engram(stack, cfg, hc)
    _draft(stack, cfg, sizes, experts, hc)
    stack.intermediate, stack.num_experts, stack.top_k = experts.width, experts.count, experts.top_k
    return stack.finish(cfg, "deepseek_v41")


def deepseek_v41(cfg: Config) -> Architecture:
    """DeepSeek V4.1, with its image encoder where the config has one."""
    text, seen = text_config(cfg, model_type="deepseek_v41_text"), cfg.opt_sub("vision_config")
    looks = seen is not None and bool(seen.opt_int("num_hidden_layers"))
    inner = deepseek_v41_text(text, images=looks)
    inv = Inventory()
    count = _images(inv, seen, inner.hidden_size) if seen is not None and looks else 0
    whole = wrap(cfg, text, inner, "deepseek_v41", (), inv, tower_layers(count))
    return replace(whole, drafted=text.opt_int("dspark_block_size"))
