"""NV-Embed.

Sources: nvidia/NV-Embed-v2 `modeling_nvembed.py` and the published tensor names and shapes.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families.multimodal import (
    text_architecture,
    text_config,
    tower,
    wrap,
)
from hfmem.model.families.parts import COLUMN, ROW
from hfmem.model.inventory import Inventory
from hfmem.model.layers import Layer, NoCache
from hfmem.records import replace


def nvembed(cfg: Config) -> Architecture:
    """NV-Embed: Mistral with attention in both directions (nothing is kept) and a latent attention pooling.

    Sizes that `latent_attention_config` leaves out are its class's: 512 latents of 4096, 8 heads of 4096, feed-forward 4 × as wide.
    """
    text = text_config(cfg)
    inner = text_architecture(Config(text.data, text.file, "mistral", text.used_defaults))
    inner = replace(
        inner,
        layers=(Layer((NoCache("encoder"),), stack="encoder"),) * inner.num_hidden_layers,
        tensors=tuple(spec for spec in inner.tensors if not spec.pattern.startswith("lm_head")),
    )
    shape = cfg.sub("latent_attention_config", model_type="latent_attention")
    latents, hidden = shape.opt_int("num_latents_value") or 512, shape.opt_int("hidden_dim") or 4096
    width, heads = shape.opt_int("latent_dim") or 4096, shape.opt_int("num_cross_heads") or 8
    inside, mult = heads * (shape.opt_int("cross_dim_head") or 4096), shape.opt_int("mult") or 4
    inv = Inventory()
    part = tower(inv, "latent_attention_model.")
    part.tensor("latents", (latents, width))
    attend, feed = part.at("cross_attend_blocks.0."), part.at("cross_attend_blocks.1.")
    attend.norm("norm", width)
    attend.norm("norm_context", hidden)
    attend.linear("fn.to_q", inside, width, split=COLUMN, bias=False)
    attend.linear("fn.to_kv", 2 * inside, hidden, split=COLUMN, bias=False)
    attend.linear("fn.to_out", width, inside, split=ROW, bias=False)
    feed.norm("norm", width)
    feed.linear("fn.net.0", 2 * mult * width, width, split=COLUMN)
    feed.linear("fn.net.2", width, mult * width, split=ROW)
    return wrap(cfg, text, inner, "nvembed", (("model.", "embedding_model."),), inv)
