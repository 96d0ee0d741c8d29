"""StepFun's Step 3.5 and 3.7 (sliding and full layers with head gates, experts) and Step 3 (one KV head, factorised queries).

Source: transformers 5.23.0 `models/step3p7` and its checkpoint renames; vLLM 0.33.0 `step3p5.py`, `step3p5_mtp.py`,
`step3_text.py`, `step3_vl.py`. Experts of a layer are stored stacked in three tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from hfmem.errors import ContradictionError, UnknownArchitectureError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, attention, full, gated_mlp, linear, norm, read_dims, sliding
from hfmem.model.config import Config
from hfmem.model.families.deepseek import mtp_head, nextn_layers
from hfmem.model.families.multimodal import text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.families.vision import clip_blocks, side
from hfmem.model.inventory import Column, Component, ExpertSplit, Inventory, Replicated, Row
from hfmem.model.layers import FullAttention, Layer
from hfmem.model.stack import as_mtp, indices_of, layer_kinds, open_stack
from hfmem.records import replace

LAYER = "model.layers.{}"
FULL, SLIDING = "full_attention", "sliding_attention"
#: model_type whose class defaults hold for the text part
TEXT = "step3p5"


def _trimmed(values: list[object], num_layers: int, extra: int) -> list[object]:
    """Per-layer lists of Step count the prediction layers too."""
    return values[:num_layers] if len(values) == num_layers + extra else values


def _kinds(cfg: Config, num_layers: int, extra: int) -> list[str]:
    words = cfg.opt_list("layer_types")
    words = [FULL] * num_layers if words is None else _trimmed(words, num_layers, extra)
    return layer_kinds(cfg, "layer_types", words, (FULL, SLIDING), num_layers)


def _enumerated(cfg: Config, num_layers: int, first: int) -> list[int]:
    """Layers with experts: `moe_layers_enum` ("3,4,5" or a list), else all from `first` on."""
    given = cfg.published("moe_layers_enum")
    if given is None:
        return list(range(min(first, num_layers), num_layers))
    items = given.split(",") if isinstance(given, str) else given
    try:
        numbers = {int(item) for item in items if str(item).strip()}
    except (TypeError, ValueError) as error:
        raise ContradictionError(
            f"{cfg.file}: 'moe_layers_enum' is {str(given)[:60]!r}, expected layer numbers"
        ) from error
    return [i for i in range(num_layers) if i in numbers]


def _sparse(cfg: Config, num_layers: int, extra: int) -> list[int]:
    types = cfg.opt_list("mlp_layer_types")
    if types is not None:
        words = _trimmed(types, num_layers, extra)
        return indices_of(layer_kinds(cfg, "mlp_layer_types", words, ("dense", "sparse"), num_layers), "sparse")
    first = cfg.opt_int("first_k_dense_replace")
    return _enumerated(cfg, num_layers, 3 if first is None else first)


def _experts(
    inv: Inventory, prefix: str, indices: Sequence[int], hidden: int, width: int, count: int, top_k: int, *, bias: bool
) -> None:
    """A router and all experts of a layer, gate, up and down stacked in one tensor each."""
    if not 1 <= top_k <= count:
        raise ContradictionError(f"{top_k} experts per token cannot be picked from {count}")
    share, routed = Fraction(top_k, count), Component.EXPERTS
    linear(inv, f"{prefix}.gate", indices, count, hidden, routed, Replicated())
    if bias:
        inv.each(f"{prefix}.router_bias", indices, (count,), routed, buffer=True, optional=True)
    up, down = ExpertSplit(None, Column()), ExpertSplit(None, Row())
    for name in ("gate_proj", "up_proj"):
        inv.each(f"{prefix}.{name}.weight", indices, (count, width, hidden), routed, up, active=share)
    inv.each(f"{prefix}.down_proj.weight", indices, (count, hidden, width), routed, down, active=share)


def step3p5(cfg: Config) -> Architecture:
    """Step 3.5's text model. Sliding layers may have more query heads than full ones (`attention_other_setting`)."""
    text = Config(cfg.data, cfg.file, TEXT, cfg.used_defaults)
    groups = text.opt_int("num_attention_groups", "num_key_value_heads")
    d = read_dims(text)
    d = d if groups is None else replace(d, num_kv_heads=groups)
    other = text.opt_sub("attention_other_setting")
    heads = text.opt_int("num_sliding_attention_heads")
    if heads is None and other is not None:
        heads = other.opt_int("num_attention_heads")
    moving = replace(d, num_heads=heads or d.num_heads)
    if d.num_heads % d.num_kv_heads or moving.num_heads % d.num_kv_heads:
        raise ContradictionError(f"{cfg.file}: attention heads cannot share {d.num_kv_heads} KV heads")
    stack = open_stack(cfg, text, d)
    inv, extra = stack.inv, nextn_layers(text)
    kinds, sparse = _kinds(text, d.num_layers, extra), _sparse(text, d.num_layers, extra)
    gating = text.published("gating", "use_head_wise_attn_gate")
    if gating not in (None, True, False, "per-head"):
        raise UnknownArchitectureError(
            f"{cfg.file}: 'gating' is {str(gating)[:40]!r}, which is not known for {cfg.model_type!r}"
        )
    bias = text.flag("attention_bias", default=False)
    width = stack.intermediate = text.positive("intermediate_size")

    def attend(part: Inventory, place: str, indices: Sequence[int], dims: Dims) -> None:
        attention(part, f"{place}.self_attn", indices, dims, qkv_bias=bias, o_bias=bias, qk_norm="head")
        if gating is not False:
            linear(part, f"{place}.self_attn.g_proj", indices, dims.num_heads, d.hidden, Component.ATTENTION, Column())
        norm(part, f"{place}.input_layernorm", indices, d.hidden)
        norm(part, f"{place}.post_attention_layernorm", indices, d.hidden)

    attend(inv, LAYER, indices_of(kinds, FULL), d)
    attend(inv, LAYER, indices_of(kinds, SLIDING), moving)
    dense = [i for i in range(d.num_layers) if i not in set(sparse)]
    gated_mlp(inv, f"{LAYER}.mlp", dense, d.hidden, width)
    if sparse:
        stack.num_experts = text.positive("moe_num_experts", "n_routed_experts", "num_experts")
        stack.top_k = text.positive("moe_top_k", "num_experts_per_tok")
        expert, shared = text.positive("moe_intermediate_size"), text.positive("share_expert_dim", "share_expert_dims")
        biased = text.flag("use_moe_router_bias", default=True)
        _experts(inv, f"{LAYER}.moe", sparse, d.hidden, expert, stack.num_experts, stack.top_k, bias=biased)
        gated_mlp(inv, f"{LAYER}.share_expert", sparse, d.hidden, shared)
    if extra:
        last = range(d.num_layers, d.num_layers + extra)

        def mtp(part: Inventory) -> None:
            attend(part, LAYER, last, moving)
            gated_mlp(part, f"{LAYER}.mlp", last, d.hidden, width)
            mtp_head(part, LAYER, last, d.hidden, stack.vocab)
            part.specs[:] = [s for s in part.specs if not s.pattern.endswith("}.embed_tokens.weight")]

        as_mtp(inv, mtp)
    if SLIDING in kinds:
        window = text.positive("sliding_window")
        stack.layers = [Layer((full(d) if kind == FULL else sliding(moving, window),)) for kind in kinds]
        stack.towers += [Layer((sliding(moving, window),), "mtp")] * extra
    else:
        stack.layers = [Layer((full(d),))] * d.num_layers
    return stack.finish(cfg, "step3p5")


def _tower(part: Part, vision: Config) -> int:
    """The perception encoder: layer scales, two strided convolutions that quadruple the width."""
    width, count = vision.positive("width", "hidden_size"), vision.positive("layers", "num_hidden_layers")
    ratio = vision.opt_float("mlp_ratio")
    mlp = int(width * (8960 / 1536 if ratio is None else ratio))  # Step3p7VisionConfig.mlp_ratio
    height, across = side(vision, "patch_size")
    part.conv("conv1", width, vision.positive("num_channels"), (height, across), bias=False)
    grid = side(vision, "image_size")
    classed = vision.flag("use_cls_token", default=False)
    if classed:
        part.tensor("class_embedding", (width,))
    if vision.flag("use_abs_posemb", default=True):
        part.tensor("positional_embedding", ((grid[0] // height) * (grid[1] // across) + classed, width))
    if vision.flag("use_ln_pre", default=True):
        part.norm("ln_pre", width)
    if vision.flag("use_ln_post", default=False):
        part.norm("ln_post", width)
    block = part.at("transformer.resblocks.{}.", range(count))
    block.tensor("attn.in_proj_weight", (3 * width, width), split=Column((width, width, width)))
    block.tensor("attn.in_proj_bias", (3 * width,), split=Column((width, width, width)))
    block.linear("attn.out_proj", width, width, split=ROW)
    block.linear("mlp.c_fc", mlp, width, split=COLUMN)
    block.linear("mlp.c_proj", width, mlp, split=ROW)
    block.norms(("ln_1", "ln_2"), width)
    for name in ("ls_1.gamma", "ls_2.gamma"):
        block.tensor(name, (width,))
    part.conv("vit_downsampler1", 2 * width, width, (3, 3))
    part.conv("vit_downsampler2", 4 * width, 2 * width, (3, 3))
    return count


def tower_of(cfg: Config, inv: Inventory, hidden: int) -> int:
    """The tower that `vision_config` describes and its projector to `hidden`; returns the tower's blocks."""
    found = cfg.opt_sub("vision_config")
    vision = Config(found.data if found else {}, f"{cfg.file}: vision_config", "step3p5_vision", cfg.used_defaults)
    count = _tower(tower(inv, "vision_model."), vision)
    bias = cfg.flag("projector_bias", default=False)
    tower(inv).linear("vit_large_projector", hidden, 4 * vision.positive("width", "hidden_size"), bias=bias)
    return count


def step3p7(cfg: Config) -> Architecture:
    """Step 3.7: Step 3.5's text model with a vision tower. A config without `text_config` holds the text keys itself."""
    nested = cfg.opt_sub("text_config")
    data = nested.data if nested is not None else cfg.data if cfg.published("hidden_size") is not None else {}
    tied = cfg.published("tie_word_embeddings")
    data = data if tied is None else {**data, "tie_word_embeddings": tied}  # the outer flag decides, as in transformers
    text = Config(data, nested.file if nested else cfg.file, TEXT, cfg.used_defaults)
    inner = step3p5(text)
    inv = Inventory()
    count = tower_of(cfg, inv, inner.hidden_size)
    return wrap(cfg, text, inner, "step3p7", (), inv, tower_layers(count))


def step_vl(cfg: Config) -> Architecture:
    """Step3-VL-10B: Qwen3 under its own names with Step 3.7's tower."""
    text, inner = text_part(cfg, model_type="qwen3")
    inv = Inventory()
    found = cfg.sub("vision_config", model_type="step3p5_vision")
    seen = Config(found.data, found.file, "step3p5_vision", cfg.used_defaults)
    count = _tower(tower(inv, "vision_model."), seen)
    features, bias = 4 * seen.positive("width", "hidden_size"), cfg.flag("projector_bias", default=False)
    tower(inv).linear("vit_large_projector", inner.hidden_size, features, split=COLUMN, bias=bias)
    return wrap(cfg, text, inner, "step_vl", (), inv, tower_layers(count))


def step3_text(cfg: Config) -> Architecture:
    """Step 3's text model: queries through a shared low-rank part, keys and values of one head."""
    hidden, heads = cfg.positive("hidden_size"), cfg.positive("num_attention_heads")
    d = Dims(hidden, cfg.positive("num_hidden_layers"), heads, 1, cfg.positive("head_dim"))
    stack = open_stack(cfg, cfg, d)
    inv, every, mixer, part = stack.inv, range(d.num_layers), f"{LAYER}.self_attn", Component.ATTENTION
    shared_q = cfg.opt_int("share_q_dim") or d.head_dim
    linear(inv, f"{mixer}.q_proj", every, shared_q, hidden, part, Replicated())
    for name in ("k_proj", "v_proj"):
        linear(inv, f"{mixer}.{name}", every, d.head_dim, hidden, part, Replicated())
    norm(inv, f"{mixer}.inter_norm", every, shared_q)
    linear(inv, f"{mixer}.wq", every, heads * d.head_dim, shared_q, part, Column())
    linear(inv, f"{mixer}.o_proj", every, hidden, heads * d.head_dim, part, Row())
    sparse = _enumerated(cfg, d.num_layers, 1)
    stack.intermediate = cfg.positive("intermediate_size")
    gated_mlp(inv, f"{LAYER}.mlp", [i for i in every if i not in set(sparse)], hidden, stack.intermediate)
    stack.num_experts, stack.top_k = cfg.positive("moe_num_experts"), cfg.positive("moe_top_k")
    expert = cfg.positive("moe_intermediate_size")
    _experts(inv, f"{LAYER}.moe", sparse, hidden, expert, stack.num_experts, stack.top_k, bias=False)
    gated_mlp(inv, f"{LAYER}.share_expert", sparse, hidden, cfg.positive("share_expert_dim"))
    norm(inv, f"{LAYER}.input_layernorm", every, hidden)
    norm(inv, f"{LAYER}.post_attention_layernorm", every, hidden)
    stack.layers = [Layer((FullAttention(heads, 1, d.head_dim, d.head_dim),))] * d.num_layers
    return stack.finish(cfg, "step3")


def step3_vl(cfg: Config) -> Architecture:
    """Step 3 with its CLIP-like tower and two strided convolutions."""
    text = cfg.sub("text_config", model_type="step3_text")
    inner = step3_text(text)
    vision, inv = cfg.sub("vision_config", model_type="step3_vision"), Inventory()
    width, count = vision.positive("hidden_size"), vision.positive("num_hidden_layers")
    part = tower(inv, "vision_model.")
    height, across = side(vision, "patch_size")
    rows, columns = side(vision, "image_size")
    part.tensor("embeddings.class_embedding", (1, width))
    part.conv("embeddings.patch_embedding", width, vision.opt_int("num_channels") or 3, (height, across))
    part.tensor("embeddings.position_embedding.weight", ((rows // height) * (columns // across) + 1, width))
    clip_blocks(part.at("transformer."), count, width, vision.positive("intermediate_size"))
    out, rest = vision.positive("output_hidden_size"), tower(inv, "")
    rest.conv("vit_downsampler", out, width, (2, 2))
    rest.conv("vit_downsampler2", 2 * out, out, (3, 3))
    rest.linear("vit_large_projector", inner.hidden_size, 2 * out, bias=cfg.flag("projector_bias", default=False))
    return wrap(cfg, text, inner, "step3_vl", (), inv, tower_layers(count))
