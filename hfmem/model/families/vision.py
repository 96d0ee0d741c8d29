"""Vision towers that several wrappers share: CLIP, SigLIP, Pixtral, InternViT, and the Qwen-VL towers.

A tower function fills a `Part` (prefix and component) and returns the number of its transformer blocks. Linear layers split over
ranks as in the text model: q, k, v and up by columns, out and down by rows.

Source: transformers 5.23.0 `models/{clip,siglip,pixtral,internvl,qwen2_vl,qwen2_5_vl,qwen3_vl}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.config import Config
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Inventory, TensorSpec
from hfmem.records import replace


def side(cfg: Config, *names: str) -> tuple[int, int]:
    """A height and width: one number for both or a list of two."""
    value = cfg.lookup(*names)
    if isinstance(value, list) and len(value) == 2 and all(isinstance(v, int) and v > 0 for v in value):
        return value[0], value[1]
    if isinstance(value, list):
        raise ContradictionError(f"{cfg.file}: {names[0]!r} is not one or two positive integers")
    size = cfg.positive(*names)
    return size, size


def patches(cfg: Config) -> int:
    """Patches of one image: `image_size // patch_size` along each side."""
    (height, width), (ph, pw) = side(cfg, "image_size"), side(cfg, "patch_size")
    return (height // ph) * (width // pw)


def mlp(
    part: Part, hidden: int, intermediate: int, names: tuple[str, str] = ("fc1", "fc2"), *, bias: bool = True
) -> None:
    """Up and down projections with biases."""
    part.linear(names[0], intermediate, hidden, split=COLUMN, bias=bias)
    part.linear(names[1], hidden, intermediate, split=ROW, bias=bias)


def gated(part: Part, hidden: int, intermediate: int, *, bias: bool, out: int | None = None) -> None:
    """gate_proj, up_proj, down_proj."""
    part.linear("gate_proj", intermediate, hidden, split=COLUMN, bias=bias)
    part.linear("up_proj", intermediate, hidden, split=COLUMN, bias=bias)
    part.linear("down_proj", hidden if out is None else out, intermediate, split=ROW, bias=bias)


def projections(
    part: Part,
    hidden: int,
    *,
    bias: bool = True,
    k_bias: bool | None = None,
    names: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "out_proj"),
    width: int | None = None,
    kv_width: int | None = None,
    out_bias: bool | None = None,
) -> None:
    """Separate q, k, v and out projections; `width` is heads·head_dim (default: hidden)."""
    q, k, v, o = names
    inner = hidden if width is None else width
    kv = inner if kv_width is None else kv_width
    part.linear(k, kv, hidden, split=COLUMN, bias=bias if k_bias is None else k_bias)
    part.linear(v, kv, hidden, split=COLUMN, bias=bias)
    part.linear(q, inner, hidden, split=COLUMN, bias=bias)
    part.linear(o, hidden, inner, split=ROW, bias=bias if out_bias is None else out_bias)


def fused_projection(part: Part, name: str, hidden: int, *, bias: bool, kv_width: int | None = None) -> None:
    """q, k and v in one matrix, each split on its own; `kv_width` where k and v are narrower than q."""
    kv = hidden if kv_width is None else kv_width
    part.linear(name, hidden + 2 * kv, hidden, split=Column((hidden, kv, kv), (None, None, None)), bias=bias)


def clip_blocks(part: Part, count: int, hidden: int, intermediate: int) -> None:
    """The encoder blocks that CLIP and SigLIP share: pre-norm with biases everywhere, below `part`'s `layers.{}.`."""
    block = part.at("layers.{}.", range(count))
    projections(block.at("self_attn."), hidden)
    block.norms(("layer_norm1", "layer_norm2"), hidden)
    mlp(block.at("mlp."), hidden, intermediate)


def clip(part: Part, vision: Config) -> int:
    """CLIP's vision transformer: class token, patch embedding without bias, learned positions, pre- and post-norm."""
    hidden, count = vision.positive("hidden_size"), vision.positive("num_hidden_layers")
    channels = vision.positive("num_channels")
    emb = part.at("embeddings.")
    emb.tensor("class_embedding", (hidden,))
    emb.conv("patch_embedding", hidden, channels, side(vision, "patch_size"), bias=False)
    emb.tensor("position_embedding.weight", (patches(vision) + 1, hidden))
    part.norm("pre_layrnorm", hidden)  # spelled so in the class
    clip_blocks(part.at("encoder."), count, hidden, vision.positive("intermediate_size"))
    part.norm("post_layernorm", hidden)
    return count


def pooling_head(pool: Part, hidden: int, intermediate: int) -> None:
    """SigLIP's pooling: one learned query attends over all patches, then a feed-forward."""
    pool.tensor("probe", (1, 1, hidden))
    pool.tensor("attention.in_proj_weight", (3 * hidden, hidden))
    pool.tensor("attention.in_proj_bias", (3 * hidden,))
    pool.linear("attention.out_proj", hidden, hidden)
    pool.norm("layernorm", hidden)
    mlp(pool.at("mlp."), hidden, intermediate)


def siglip(part: Part, vision: Config, *, head: bool | None = None, positions: int | None = None) -> int:
    """SigLIP's vision transformer, with its attention-pooling head where `vision_use_head` (or `head`) says so.

    `positions` overrides the number of position embeddings (NaViT variants count them differently). Where the config decides on
    the head, the tower is part of a larger model, and vLLM does not build it (`siglip.py`: `use_head`).
    """
    hidden, count = vision.positive("hidden_size"), vision.positive("num_hidden_layers")
    intermediate = vision.positive("intermediate_size")
    emb = part.at("embeddings.")
    emb.conv("patch_embedding", hidden, vision.opt_int("num_channels") or 3, side(vision, "patch_size"))
    emb.tensor("position_embedding.weight", (patches(vision) if positions is None else positions, hidden))
    clip_blocks(part.at("encoder."), count, hidden, intermediate)
    part.norm("post_layernorm", hidden)
    before = len(part.inv.specs)
    if vision.flag("vision_use_head", default=True) if head is None else head:
        pooling_head(part.at("head."), hidden, intermediate)
    if head is None:
        part.inv.specs[before:] = [replace(spec, unread=True) for spec in part.inv.specs[before:]]
    return count


def unread_behind(inv: Inventory, depth: int, count: int, norm: str | None = None) -> None:
    """Mark the blocks of the tower in `inv` from `depth` on, of `count`, as not built by vLLM, and its last norm with them.

    Args:
        norm: part of that norm's name.
    """
    specs: list[TensorSpec] = []
    for spec in inv.specs:
        if norm is not None and norm in spec.pattern and depth < count:
            specs.append(replace(spec, unread=True))
        elif spec.layer_axis is None:
            specs.append(spec)
        else:
            for unread, blocks in ((False, range(depth)), (True, range(depth, count))):
                boxes = tuple((blocks, *box[1:]) for box in spec.boxes)
                specs += [replace(spec, boxes=boxes, unread=unread)] if blocks else []
    inv.specs[:] = specs


def feature_depth(cfg: Config, key: str, value: object, count: int, *, from_start: int = 0) -> int:
    """Blocks below the deepest of the layers that the text model sees: `value` is an index or a list of them under `key`.

    Args:
        from_start: added to an index counted from the start; LLaVA counts the embedding as layer 0, InternVL does not (1).

    Raises:
        ContradictionError: no such layers in a tower of `count`.
    """
    chosen = value if isinstance(value, list) else [value]
    depths = [layer + count + 1 if layer < 0 else layer + from_start for layer in chosen if isinstance(layer, int)]
    if len(depths) < len(chosen) or not depths or any(not 0 <= depth <= count for depth in depths):
        raise ContradictionError(f"{cfg.file}: {key!r} is {str(value)[:40]}, for a tower of {count} layers")
    return max(depths)


def pixtral(part: Part, vision: Config) -> int:
    """Pixtral's vision transformer: Llama-like blocks without biases, rotary positions."""
    hidden, count = vision.positive("hidden_size"), vision.positive("num_hidden_layers")
    part.conv("patch_conv", hidden, vision.positive("num_channels"), side(vision, "patch_size"), bias=False)
    part.norm("ln_pre", hidden, bias=False)
    block = part.at("transformer.layers.{}.", range(count))
    projections(block.at("attention."), hidden, bias=False, names=("q_proj", "k_proj", "v_proj", "o_proj"))
    gated(block.at("feed_forward."), hidden, vision.positive("intermediate_size"), bias=False)
    block.norms(("attention_norm", "ffn_norm"), hidden, bias=False)
    return count


def qwen2_vl(part: Part, vision: Config) -> int:
    """Qwen2-VL's tower: `embed_dim` wide inside, merged 2 × 2 into `hidden_size` (the text model's width)."""
    width, count = vision.positive("embed_dim"), vision.positive("depth")
    ratio = vision.positive_float("mlp_ratio")
    merge = vision.positive("spatial_merge_size") ** 2 * width
    patch = (vision.positive("temporal_patch_size"), *side(vision, "patch_size"))
    part.conv("patch_embed.proj", width, vision.positive("in_channels", "in_chans"), patch, bias=False)
    block = part.at("blocks.{}.", range(count))
    block.norms(("norm1", "norm2"), width)
    fused_projection(block.at("attn."), "qkv", width, bias=True)
    block.linear("attn.proj", width, width, split=ROW)
    mlp(block.at("mlp."), width, int(width * ratio))
    part.norm("merger.ln_q", width)
    part.linear("merger.mlp.0", merge, merge, split=COLUMN)
    part.linear("merger.mlp.2", vision.positive("hidden_size"), merge, split=ROW)
    return count


def qwen2_5_vl(part: Part, vision: Config, *, fused: bool = True, kv_width: int | None = None) -> int:
    """Qwen2.5-VL's tower: windowed blocks with a gated feed-forward and RMS norms. Qwen2.5-Omni keeps q, k and v apart, EXAONE 4.5
    shares k and v among heads (`kv_width`)."""
    width, count = vision.positive("hidden_size"), vision.positive("depth")
    merge = vision.positive("spatial_merge_size") ** 2 * width
    patch = (vision.positive("temporal_patch_size"), *side(vision, "patch_size"))
    part.conv("patch_embed.proj", width, vision.positive("in_channels", "in_chans"), patch, bias=False)
    block = part.at("blocks.{}.", range(count))
    block.norms(("norm1", "norm2"), width, bias=False)
    if fused:
        fused_projection(block.at("attn."), "qkv", width, bias=True, kv_width=kv_width)
        block.linear("attn.proj", width, width, split=ROW)
    else:
        projections(block.at("attn."), width, names=("q", "k", "v", "proj"))
    gated(block.at("mlp."), width, vision.positive("intermediate_size"), bias=True)
    part.norm("merger.ln_q", width, bias=False)
    part.linear("merger.mlp.0", merge, merge, split=COLUMN)
    part.linear("merger.mlp.2", vision.positive("out_hidden_size"), merge, split=ROW)
    return count


def qwen3_vl(part: Part, vision: Config, *, deepstack: bool = True, merger: bool = True) -> int:
    """Qwen3-VL's tower: learned positions, a merger, and one more merger for each of `deepstack_visual_indexes`.

    Qwen3.5's tower is the same without the deepstack mergers; without `merger` patches are normed and laid side by side (Ling 3).
    """
    width, count = vision.positive("hidden_size"), vision.positive("depth")
    merge = vision.positive("spatial_merge_size") ** 2 * width
    patch = (vision.positive("temporal_patch_size"), *side(vision, "patch_size"))
    part.conv("patch_embed.proj", width, vision.positive("in_channels", "in_chans"), patch)
    part.tensor("pos_embed.weight", (vision.positive("num_position_embeddings"), width))
    block = part.at("blocks.{}.", range(count))
    block.norms(("norm1", "norm2"), width)
    fused_projection(block.at("attn."), "qkv", width, bias=True)
    block.linear("attn.proj", width, width, split=ROW)
    mlp(block.at("mlp."), width, vision.positive("intermediate_size"), ("linear_fc1", "linear_fc2"))
    if not merger:
        part.norm("merger.norm", width)
        return count
    out = vision.positive("out_hidden_size")
    mergers = [(part.at("merger."), width)]
    if deepstack:
        extra = vision.need_list("deepstack_visual_indexes")
        mergers.append((part.at("deepstack_merger_list.{}.", range(len(extra))), merge))
    for at, normed in mergers:
        at.norm("norm", normed)
        at.linear("linear_fc1", merge, merge, split=COLUMN)
        at.linear("linear_fc2", out, merge, split=ROW)
    return count
