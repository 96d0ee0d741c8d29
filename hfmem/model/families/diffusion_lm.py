"""Language models that denoise blocks or whole sequences: LLaDA 1 and 2, SDAR, Dream.

LLaDA 2 and SDAR decode block after block over a cache, as SGLang serves them; LLaDA 1 and Dream look at the whole sequence in every
step and keep nothing. Their code is published beside their weights: GSAI-ML/LLaDA-8B-Instruct `modeling_llada.py`,
Dream-org/Dream-v0-Instruct-7B `modeling_dream.py`; SGLang 0.5.23 `models/{llada2,sdar,sdar_moe}.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims
from hfmem.model.config import Config
from hfmem.model.decoder_builder import DecoderBuilder, read_as
from hfmem.model.families.bailing_moe import bailing_moe
from hfmem.model.families.llama import qwen2, qwen3
from hfmem.model.families.moe import qwen3_moe
from hfmem.model.inventory import Column, Component, Row
from hfmem.model.layers import Layer, NoCache
from hfmem.records import replace


def _assuming(cfg: Config, defaults: Mapping[str, Any]) -> Config:
    """The config with what its class assumes for keys that it leaves out."""
    data = {**cfg.data, **{key: value for key, value in defaults.items() if cfg.published(key) is None}}
    return Config(data, cfg.file, cfg.model_type, cfg.used_defaults)


def sdar(cfg: Config) -> Architecture:
    """SDAR: Qwen 3's tensors and cache."""
    return read_as(qwen3, cfg, "qwen3")


def sdar_moe(cfg: Config) -> Architecture:
    """SDAR's mixtures: Qwen 3's."""
    return read_as(qwen3_moe, cfg, "qwen3_moe")


def llada2_moe(cfg: Config) -> Architecture:
    """LLaDA 2: Ling 2's block with norms of q and k."""
    told = _assuming(cfg, {"use_qk_norm": True, "tie_word_embeddings": False})
    return replace(bailing_moe(told), family="llada2_moe")


def dream(cfg: Config) -> Architecture:
    """Dream: Qwen 2.5's tensors, attention over the whole sequence, no cache."""
    return _cacheless(read_as(qwen2, cfg, "qwen2"))


def llada(cfg: Config) -> Architecture:
    """LLaDA 1: OLMo's Llama block under OLMo's names; the vocabulary is padded to `embedding_size` rows."""
    cfg.choice("block_type", cfg.opt_str("block_type") or "", ("llama",))
    hidden, heads = cfg.positive("d_model", "hidden_size"), cfg.positive("n_heads", "num_attention_heads")
    kv_heads = cfg.opt_int("n_kv_heads", "num_key_value_heads") or heads
    d = Dims(hidden, cfg.positive("n_layers", "num_hidden_layers"), heads, kv_heads, hidden // heads)
    rows = cfg.opt_int("embedding_size") or cfg.positive("vocab_size")
    told = Config({**cfg.data, "vocab_size": rows}, cfg.file, cfg.model_type, cfg.used_defaults)
    root, inner = "model.transformer", cfg.positive("mlp_hidden_size")
    tied, bias = cfg.flag("weight_tying"), cfg.flag("include_bias", default=False)
    m = DecoderBuilder(
        told,
        d=d,
        layers=f"{root}.blocks.{{}}",
        embed=f"{root}.wte",
        head=f"{root}.ff_out",
        final=f"{root}.ln_f",
        tied=tied,
    )
    own = bias or cfg.flag("include_qkv_bias", default=False)
    for name, count in (("q_proj", heads), ("k_proj", kv_heads), ("v_proj", kv_heads)):
        split = Column(kv_heads=(None if name == "q_proj" else kv_heads,))
        m.linear(name, count * d.head_dim, hidden, split, bias=own)
    m.linear("attn_out", hidden, hidden, Row(), bias=bias)
    for name in ("ff_proj", "up_proj"):
        m.linear(name, inner, hidden, Column(), bias=bias, component=Component.MLP)
    m.linear("ff_out", hidden, inner, Row(), bias=bias, component=Component.MLP)
    m.norms("attn_norm", "ff_norm")
    return _cacheless(m.close("llada", [Layer((NoCache("diffusion"),))] * d.num_layers))


def _cacheless(arch: Architecture) -> Architecture:
    return replace(arch, layers=(Layer((NoCache("diffusion"),)),) * arch.num_hidden_layers)
