"""Phi-4-mini-flash (SambaY): Mamba and windowed attention by turns, one full attention in the middle; the rest reads what the
first half kept.

Source: microsoft/Phi-4-mini-flash-reasoning `configuration_phi4flash.py` and `modeling_phi4flash.py`.
"""

from __future__ import annotations

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import full, fused_qkv, read_dims, sliding
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder
from hfmem.model.families.parts import Part
from hfmem.model.inventory import Column, Component, Row
from hfmem.model.layers import Cache, Layer, NoCache, SharedCache
from hfmem.model.state_blocks import Mamba1, auto_rank, mamba1, state_dtype


def _number(cfg: Config, name: str, usual: int) -> int:
    """A size of the mixer, `usual` (the configuration class's own default) where config.json leaves it out."""
    return usual if cfg.published(name) is None else cfg.positive(name)


def phi4flash(cfg: Config) -> Architecture:
    """Layers from the middle on, and two: no states and no keys of their own. Their Mamba layers gate what the last state space of
    the first half put out, their attention reads the one full layer's cache. Attention is differential: two maps a pair of heads.
    """
    d = read_dims(cfg)
    if d.num_layers % 4:
        raise ContradictionError(f"{cfg.file}: 'num_hidden_layers' is {d.num_layers}, which 4 does not divide")
    m = DecoderBuilder(cfg, d=d, final="model.final_layernorm", norm_bias=True, untold_tie=True)
    step, shared = _number(cfg, "mb_per_layer", 2), d.num_layers // 2 + 1
    recurrent = [i for i in m.every if i % step == 0]
    attending = [i for i in m.every if i % step]
    if shared not in attending:
        raise ContradictionError(f"{cfg.file}: 'mb_per_layer' is {step}, which leaves layer {shared} without attention")
    inner = d.hidden * _number(cfg, "mamba_expand", 2)
    rank = auto_rank(cfg, d.hidden, "mamba_dt_rank")
    sizes = (_number(cfg, "mamba_d_state", 16), _number(cfg, "mamba_d_conv", 4))
    mixer = Mamba1(d.hidden, inner, *sizes, rank, conv_bias=True, bias=False, dtype=state_dtype(cfg))
    mamba1(m.inv, m.at("attn"), [i for i in recurrent if i <= shared], mixer)
    gated = [i for i in recurrent if i > shared]
    m.linear("attn.in_proj", inner, d.hidden, Column(), layers=gated)
    m.linear("attn.out_proj", d.hidden, inner, Row(), layers=gated)
    heads = d.num_heads * d.head_dim
    own, reading = [i for i in attending if i <= shared], [i for i in attending if i > shared]
    fused_qkv(m.inv, m.at("attn.Wqkv"), own, d, bias=True)
    m.linear("attn.Wqkv", heads, d.hidden, Column(), bias=True, layers=reading)
    m.linear("attn.out_proj", d.hidden, heads, Row(), bias=True, layers=attending)
    part = Part(m.inv).at(m.at("attn.inner_cross_attn."), attending, Component.ATTENTION)
    for name in ("q1", "k1", "q2", "k2"):
        part.tensor(f"lambda_{name}", (d.head_dim,))
    part.norm("subln", 2 * d.head_dim, bias=False)
    width = cfg.positive("intermediate_size")
    m.fused_gated(width, "mlp.fc1", "mlp.fc2")
    m.norms("input_layernorm", "post_attention_layernorm")
    window, caches = cfg.positive("sliding_window"), dict[int, Cache]()
    for i in m.every:
        if i in attending:
            near = sliding(d, window) if i < d.num_layers // 2 else full(d)
            caches[i] = near if i <= shared else SharedCache(shared)
        else:
            caches[i] = mixer.cache() if i <= shared else NoCache("gated memory")
    return m.close("phi4_flash", [Layer((caches[i],)) for i in m.every])
