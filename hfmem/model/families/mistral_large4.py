"""Mistral Large 4: shared latents, mixed RoPE, a Pixtral tower.

Source: transformers 5.23.0 `models/{mistral_large4}` and their checkpoint renames, in transformers' names, though its releases are
in Mistral's own layout.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import linear, norm
from hfmem.model.config import Config
from hfmem.model.families.deepseek import shared_indexers
from hfmem.model.families.latent_gated import LAYER, feed_forward
from hfmem.model.families.multimodal import NESTED, text_config, tower, tower_layers, wrap
from hfmem.model.families.vision import pixtral, side
from hfmem.model.inventory import Column, Component, Inventory, Replicated, Row
from hfmem.model.latent_blocks import indexer, latent_dims, read_indexer, read_latent
from hfmem.model.layers import Layer, SharedCache
from hfmem.model.stack import open_stack
from hfmem.records import replace


def _rotary_layers(cfg: Config, num_layers: int) -> list[bool]:
    """Which layers use RoPE: `no_rope_layers` (1 uses it, as in Llama 4), else all but every `no_rope_layer_interval`-th (4)."""
    given = cfg.opt_list("no_rope_layers")
    if given is None:
        interval = cfg.opt_int("no_rope_layer_interval") or 4
        return [bool((i + 1) % interval) for i in range(num_layers)]
    if len(given) != num_layers:
        raise ContradictionError(f"{cfg.file}: 'no_rope_layers' has {len(given)} entries for {num_layers} layers")
    return [bool(value) for value in given]


def _sources(cfg: Config, num_layers: int) -> list[int]:
    """Whose latent each layer reads (`kv_source_layers`): its own by default, else an earlier layer's."""
    given = cfg.opt_list("kv_source_layers")
    if given is None:
        return list(range(num_layers))
    if len(given) != num_layers or any(not isinstance(s, int) or not 0 <= s <= i for i, s in enumerate(given)):
        raise ContradictionError(
            f"{cfg.file}: 'kv_source_layers' is not a list of {num_layers} layers, each itself or an earlier one"
        )
    return given


def mistral_large4_text(cfg: Config) -> Architecture:
    """Mistral Large 4's text model: queries in one projection, an indexer, every fourth layer without RoPE and its latent part."""
    latent, index = read_latent(replace_missing_rank(cfg)), read_indexer(cfg)
    d = latent_dims(cfg, latent)
    stack = open_stack(cfg, cfg, d)
    inv, every, part = stack.inv, range(d.num_layers), Component.ATTENTION
    rotary, sources = _rotary_layers(cfg, d.num_layers), _sources(cfg, d.num_layers)
    indexed = shared_indexers(cfg, d.num_layers)
    mixer, bias = f"{LAYER}.self_attn", cfg.flag("attention_bias", default=False)
    own = {i for i in every if sources[i] == i}
    variants = {
        True: latent,
        False: replace(latent, rope=0, nope=latent.nope + latent.rope),
    }
    linear(inv, f"{mixer}.q_proj", every, latent.num_heads * (latent.nope + latent.rope), d.hidden, part, Column())
    for kind, variant in variants.items():
        where = [i for i in every if rotary[i] is kind]
        down = [i for i in where if i in own]
        row = variant.kv_lora_rank + variant.rope
        linear(inv, f"{mixer}.kv_a_proj_with_mqa", down, row, d.hidden, part, Replicated(), bias=bias)
        up = variant.num_heads * (variant.nope + variant.v)
        linear(inv, f"{mixer}.kv_b_proj", where, up, variant.kv_lora_rank, part, Column())
    norm(inv, f"{mixer}.kv_a_layernorm", sorted(own), latent.kv_lora_rank)
    linear(inv, f"{mixer}.o_proj", every, d.hidden, latent.num_heads * latent.v, part, Row(), bias=bias)
    indexer(inv, f"{mixer}.indexer", indexed, d.hidden, d.hidden, index)
    norm(inv, f"{mixer}.indexer.q_input_norm", indexed, d.hidden, bias=True)
    for leaf in ("scale", "bias"):
        inv.each(f"{mixer}.indexer.softmax_scaling.{leaf}", indexed, (index.num_heads,), part)
        inv.each(f"{mixer}.softmax_scaling.{leaf}", every, (latent.num_heads,), part, Column())
    inv.add("model.rotary_emb.alpha", (latent.rope // 2,), Component.OTHER)  # learned scales of the rotary frequencies
    feed_forward(stack, cfg, None)
    norm(inv, f"{LAYER}.input_layernorm", every, d.hidden)
    norm(inv, f"{LAYER}.post_attention_layernorm", every, d.hidden)
    has_indexer = set(indexed)
    stack.layers = [
        Layer((variants[rotary[i]].sparse(index, i in has_indexer),)) if i in own else Layer((SharedCache(sources[i]),))
        for i in every
    ]
    return stack.finish(cfg, "mistral_large4")


def replace_missing_rank(cfg: Config) -> Config:
    """The same config with queries projected in one step: Mistral Large 4 has no `q_lora_rank`."""
    return Config({**cfg.data, "q_lora_rank": None}, cfg.file, cfg.model_type, cfg.used_defaults)


#: what MistralLarge4Config assumes of its Pixtral tower
_TOWER = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 30,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 1540,
}


def mistral_large4(cfg: Config) -> Architecture:
    """Mistral Large 4 with a Pixtral tower, a patch merger and a two-layer projector."""
    text = text_config(cfg, model_type="mistral_large4_text")
    text = Config(text.data, text.file, "mistral_large4_text", cfg.used_defaults)
    inner = mistral_large4_text(text)
    found = cfg.opt_sub("vision_config")
    vision = Config(
        {**_TOWER, **(found.data if found else {})}, f"{cfg.file}: vision_config", "pixtral", cfg.used_defaults
    )
    inv = Inventory()
    count = pixtral(tower(inv, "model.vision_tower."), vision)
    width, hidden = vision.positive("hidden_size"), inner.hidden_size
    projector = tower(inv, "model.multi_modal_projector.")
    height, across = side(cfg, "spatial_merge_size")
    bias = cfg.flag("multimodal_projector_bias", default=False)
    projector.norm("norm", width, bias=False)
    projector.linear("patch_merger.merging_layer", width, width * height * across, bias=False)
    projector.linear("linear_1", hidden, width, bias=bias)
    projector.linear("linear_2", hidden, hidden, bias=bias)
    return wrap(cfg, text, inner, "mistral_large4", NESTED, inv, tower_layers(count))
