"""GigaChat 3.5: DeepSeek V3's latent attention in some layers, Qwen3-Next's delta nets in the others, gated norms around both.

Source: SGLang 0.5.23 `models/{gigachat35,gigachat35_mtp}.py`, `configs/gigachat35.py`; names as published (before its remap).
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import linear, norm
from hfmem.model.config import Config
from hfmem.model.delta_blocks import delta_net, read_delta_net
from hfmem.model.families.deepseek import CORRECTION
from hfmem.model.families.latent_gated import feed_forward
from hfmem.model.inventory import Column, Component, Inventory, Replicated
from hfmem.model.latent_blocks import latent_attention, latent_dims, read_latent
from hfmem.model.layers import Layer
from hfmem.model.stack import as_block, as_mtp, layer_kinds, open_stack

_LAYER = "model.layers.{}"
#: rows of a norm's gate between its two projections (`_GATED_NORM_LOW_RANK`)
_RANK = 16
_GATED = ("ZeroCenteredGatedNorm", "GatedNorm")
_PLAIN = ("LlamaRMSNorm", "ZeroCenteredRMSNorm")


def gigachat35(cfg: Config) -> Architecture:
    """The norms' kind and places are the config's (`norm_type`, `layernorm_type`)."""
    latent, net = read_latent(cfg), read_delta_net(cfg)
    d = latent_dims(cfg, latent)
    stack = open_stack(cfg, cfg, d)
    inv, every, mixer = stack.inv, list(range(d.num_layers)), f"{_LAYER}.self_attn"
    gated = cfg.choice("norm_type", cfg.opt_str("norm_type") or _PLAIN[0], (*_GATED, *_PLAIN)) in _GATED
    full = _full_layers(cfg, d.num_layers)
    attending = Inventory()
    latent_attention(attending, mixer, full, d.hidden, latent, bias=cfg.flag("attention_bias", default=False))
    inv.specs += attending.specs
    if cfg.flag("gated_attention", default=False):
        linear(inv, f"{mixer}.gate_proj", full, latent.num_heads * latent.v, d.hidden, Component.ATTENTION, Column())
    delta_net(inv, mixer, [i for i in every if i not in set(full)], d.hidden, net, fused=True)
    feed_forward(stack, cfg, CORRECTION)
    places = ["input_layernorm", "post_attention_layernorm"]
    kind = cfg.choice("layernorm_type", cfg.opt_str("layernorm_type") or "pre", ("pre", "post", "pre_post"))
    if kind != "pre":
        places += ["post_self_attn_layernorm", "post_feedforward_layernorm"]
    for place in places:
        norm(inv, f"{_LAYER}.{place}", every, d.hidden)
    if gated:
        for place in places:
            _gate(inv, f"{_LAYER}.{place}", every, d.hidden)
        if latent.q_lora_rank is not None:
            _gate(inv, f"{mixer}.q_a_layernorm", full, latent.q_lora_rank)
        _gate(inv, f"{mixer}.kv_a_layernorm", full, latent.kv_lora_rank)
        _gate(inv, "model.norm", None, d.hidden)
    stack.layers = [Layer((latent.cache() if i in set(full) else net.cache(),)) for i in every]
    if count := cfg.opt_int("num_nextn_predict_layers") or 0:
        if not full:
            raise ContradictionError(f"{cfg.file}: prediction layers attend and no layer of the model does")
        as_mtp(inv, lambda part: _prediction(part, inv, d.num_layers, count, d.hidden, gated, full[-1]))
    return stack.finish(cfg, "gigachat3_5")


def _full_layers(cfg: Config, count: int) -> list[int]:
    """Layers of latent attention: `layer_types`, else `full_attention_layers`."""
    types = cfg.opt_list("layer_types")
    if types is not None:
        words = ("linear_attention", "attention", "full_attention")
        return [i for i, kind in enumerate(layer_kinds(cfg, "layer_types", types, words, count)) if kind != words[0]]
    listed = cfg.need_list("full_attention_layers")
    if not all(type(i) is int and 0 <= i < count for i in listed):
        raise ContradictionError(f"{cfg.file}: 'full_attention_layers' names layers outside 0…{count - 1}")
    return sorted(set(listed))


def _gate(inv: Inventory, pattern: str, layers: list[int] | None, size: int) -> None:
    """A gated norm's two projections, down to sixteen rows and back."""
    for name, shape in (("gate_up_projection", (_RANK, size)), ("gate_down_projection", (size, _RANK))):
        if layers is None:
            inv.add(f"{pattern}.{name}.weight", shape, Component.NORM)
        else:
            inv.each(f"{pattern}.{name}.weight", layers, shape, Component.NORM, Replicated())


def _prediction(part: Inventory, inv: Inventory, first: int, count: int, hidden: int, gated: bool, source: int) -> None:
    """Prediction layers after the last: a block of latent attention, what joins its inputs, a norm before the head."""
    where = list(range(first, first + count))
    part.specs += as_block(inv.specs, f"{_LAYER}.", f"{_LAYER}.", range(first, first + count), source)
    linear(part, f"{_LAYER}.eh_proj", where, hidden, 2 * hidden, Component.MTP, Replicated())
    for name in ("enorm", "hnorm", "shared_head.norm"):
        norm(part, f"{_LAYER}.{name}", where, hidden)
        if gated:
            _gate(part, f"{_LAYER}.{name}", where, hidden)
