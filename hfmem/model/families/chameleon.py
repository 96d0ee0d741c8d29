"""Chameleon: images are tokens of the vocabulary, made by a VQGAN's encoder; Llama with normed q and k.

Source: transformers 5.23.0 `models/chameleon/modeling_chameleon.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.families import vqgan
from hfmem.model.families.multimodal import tower
from hfmem.model.inventory import Component
from hfmem.model.layer_lists import full_layers
from hfmem.records import replace


def chameleon(cfg: Config) -> Architecture:
    """Norms of q and k have a weight and a bias for each head."""
    m = DecoderBuilder(cfg)
    bias, mlp_bias = cfg.flag("attention_bias", default=False), cfg.flag("mlp_bias", default=False)
    m.attention(qkv_bias=bias, o_bias=bias)
    for name, heads in (("q_norm", m.d.num_heads), ("k_norm", m.d.num_kv_heads)):
        for leaf in ("weight", "bias"):
            m.each(f"self_attn.{name}.{leaf}", (heads, m.d.head_dim), Component.NORM)
    m.gated(cfg.positive("intermediate_size"), bias=mlp_bias)
    m.norms("input_layernorm", "post_attention_layernorm")
    seen, part = cfg.sub("vq_config"), tower(m.inv, "model.vqmodel.")
    base, factors, blocks = (
        seen.positive("base_channels"),
        seen.need_numbers("channel_multiplier"),
        seen.positive("num_res_blocks"),
    )
    latent, dim = seen.positive("latent_channels"), seen.positive("embed_dim")
    kept = 2 * latent if seen.flag("double_latent", default=False) else latent
    plain = seen.choice("attn_type", seen.opt_str("attn_type") or "vanilla", ("vanilla",)) == "vanilla"
    size, sizes = seen.positive("resolution"), set(seen.opt_list("attn_resolutions") or ())
    attends = [level for level in range(len(factors)) if size >> level in sizes]
    vqgan.encoder(
        part.at("encoder."), seen.positive("in_channels"), base, factors, blocks, attends, kept, mid_attention=plain
    )
    part.tensor("quantize.embedding.weight", (seen.positive("num_embeddings"), dim))
    part.conv("quant_conv", dim, latent, (1, 1))
    part.conv("post_quant_conv", latent, dim, (1, 1))
    return replace(m.close("chameleon", full_layers(m.d)), model_type=cfg.model_type)
