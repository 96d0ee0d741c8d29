"""LongCat-Flash and -Lite: a layer has two latent-attention blocks with a dense MLP each, and experts across them, some empty.

Source: transformers 5.23.0 `models/longcat_flash`. Its class allocates weights for the empty experts too; checkpoints store only
the `n_routed_experts` real ones, which is what counts here.
"""

from __future__ import annotations

from fractions import Fraction

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import gated_mlp, linear, norm, routed_experts
from hfmem.model.config import Config
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, Inventory, Replicated, Vocab
from hfmem.model.latent_blocks import Latent, latent_attention, latent_dims, read_latent
from hfmem.model.layers import Layer
from hfmem.model.stack import as_mtp, open_stack
from hfmem.records import replace

LAYER = "model.layers.{}"
#: the two halves of a layer
HALVES = (0, 1)


def longcat_flash(cfg: Config) -> Architecture:
    """LongCat-Flash. A token picks `moe_topk` of the real and the empty experts together: it uses that share of the real ones."""
    latent = read_latent(cfg)
    d = replace(latent_dims(cfg, latent), num_layers=_num_layers(cfg))
    stack = open_stack(cfg, cfg, d)
    inv, every = stack.inv, range(d.num_layers)
    width = cfg.positive("ffn_hidden_size", "intermediate_size")
    bias = cfg.flag("attention_bias", default=False)
    for half in HALVES:
        latent_attention(inv, f"{LAYER}.self_attn.{half}", every, d.hidden, latent, bias=bias)
    part = Part(inv, component=Component.MLP).at("model.layers.{}.mlps.{}.", every)
    mlps = replace(part, axes=(tuple(every), HALVES))
    mlps.linear("gate_proj", width, d.hidden, split=COLUMN, bias=False)
    mlps.linear("up_proj", width, d.hidden, split=COLUMN, bias=False)
    mlps.linear("down_proj", d.hidden, width, split=ROW, bias=False)
    for name in ("input_layernorm", "post_attention_layernorm"):
        place = Part(inv, component=Component.NORM, axes=(tuple(every), HALVES))
        place.tensor(f"{LAYER}.{name}.{{}}.weight", (d.hidden,))
    routed = cfg.positive("n_routed_experts")
    empty = cfg.opt_int("zero_expert_num") or 0
    top_k = cfg.positive("moe_topk", "num_experts_per_tok")
    expert_width = cfg.positive("expert_ffn_hidden_size", "moe_intermediate_size")
    _experts(inv, f"{LAYER}.mlp", d.num_layers, d.hidden, expert_width, routed, empty, top_k)
    stack.intermediate, stack.num_experts, stack.top_k = width, routed, top_k
    if cfg.published("ngram_vocab_size_ratio") is not None:
        _ngrams(inv, cfg, d.hidden, stack.vocab)
    elif cfg.published("num_nextn_predict_layers") is None or cfg.opt_int("num_nextn_predict_layers"):
        as_mtp(inv, lambda own: _prediction(own, d.hidden, stack.vocab, width, latent, bias=bias))
    stack.layers = [Layer((latent.cache(), latent.cache()))] * d.num_layers
    return stack.finish(cfg, "longcat_flash")


def _prediction(inv: Inventory, hidden: int, vocab: int, width: int, latent: Latent, *, bias: bool) -> None:
    """The prediction layer that checkpoints store whatever the config says: one dense block with an embedding of its own.

    Names: vLLM 0.33.0 `longcat_flash_mtp.py`.
    """
    place = "model.mtp.layers.{}"
    inv.add("model.mtp.embed_tokens.weight", (vocab, hidden), Component.MTP, Vocab())
    latent_attention(inv, f"{place}.self_attn", [0], hidden, latent, bias=bias)
    gated_mlp(inv, f"{place}.transformer_layer.mlp", [0], hidden, width)
    linear(inv, f"{place}.eh_proj", [0], hidden, 2 * hidden, Component.MTP, Replicated())
    for name in ("enorm.m", "hnorm.m", "input_layernorm", "post_attention_layernorm"):
        norm(inv, f"{place}.{name}", [0], hidden)
    norm(inv, "model.mtp.norm", None, hidden)


def _ngrams(inv: Inventory, cfg: Config, hidden: int, vocab: int) -> None:
    """LongCat-Flash-Lite: tables of the 2- to `emb_neighbor_num`-grams before a token, `emb_split_num` of each length, each with a
    prime-like number of rows of its own and a projection to the hidden size (vLLM 0.33.0 `longcat_flash_ngram.py`)."""
    tables = cfg.positive("emb_split_num") * (cfg.positive("emb_neighbor_num") - 1)
    if tables < 1 or hidden % tables:
        raise ContradictionError(f"{cfg.file}: {tables} n-gram tables do not share a width of {hidden}")
    width, rows = hidden // tables, cfg.positive("ngram_vocab_size_ratio") * vocab
    at = Part(inv, "model.ngram_embeddings.", Component.EMBEDDING)
    for i in range(tables):  # the number is no layer's: all tables are on the first pipeline stage
        at.tensor(f"embedders.{i}.weight", (rows + 2 * i + 1, width), split=Vocab())
        at.tensor(f"post_projs.{i}.weight", (hidden, width))


def _num_layers(cfg: Config) -> int:
    """Published as `num_layers`; `num_hidden_layers`, where a config has it instead, counts attention blocks: two a layer."""
    if cfg.published("num_layers") is None and cfg.published("num_hidden_layers") is not None:
        return cfg.positive("num_hidden_layers") // 2
    return cfg.positive("num_layers")


def _experts(
    inv: Inventory, prefix: str, num_layers: int, hidden: int, width: int, routed: int, empty: int, top_k: int
) -> None:
    every, found = range(num_layers), Inventory()
    routed_experts(found, prefix, every, hidden, width, routed, min(top_k, routed))
    share = Fraction(min(top_k, routed + empty), routed + empty)
    inv.specs.extend(replace(s, active=share) for s in found.specs if ".experts." in s.pattern)
    router = f"{prefix}.router"
    linear(inv, f"{router}.classifier", every, routed + empty, hidden, Component.EXPERTS, Replicated())
    inv.each(
        f"{router}.e_score_correction_bias", every, (routed + empty,), Component.EXPERTS, buffer=True, optional=True
    )
