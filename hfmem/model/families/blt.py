"""Byte Latent Transformer: a local encoder reads bytes, a global stack their patches, a local decoder writes bytes.

Source: transformers 5.23.0 `models/blt/`; names as published. Its cache holds keys and values of every byte in the local encoder
and decoder; patches are formed and pass the global stack anew at every step.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture, Note
from hfmem.model.blocks import Dims, assemble, attention, full, gated_mlp, lm_head, norm, read_dims
from hfmem.model.config import Config
from hfmem.model.families.parts import Part
from hfmem.model.inventory import Component, Inventory, Vocab
from hfmem.model.layers import Layer, NoCache

_SIZES = (3, 4, 5, 6, 7, 8)


def blt(cfg: Config) -> Architecture:
    """The local decoder is the main stack; the entropy model that cuts patches (`patcher`) is stored beside it."""
    reader, writer, world = cfg.sub("encoder_config"), cfg.sub("decoder_config"), cfg.sub("global_config")
    inv = Inventory()
    model = Part(inv, "model.")
    d, width, inner = _local(inv, "model.local_encoder", reader)
    vocab = reader.positive("vocab_size")
    model.tensor("local_encoder.embed_tokens.weight", (vocab, width), Component.EMBEDDING, Vocab())
    groups, hashes = (
        cfg.opt_list("encoder_hash_byte_group_size") or _SIZES,
        cfg.positive("encoder_hash_byte_group_vocab"),
    )
    rows = hashes * cfg.positive("encoder_hash_byte_group_nb_functions") * len(groups)
    model.tensor("encoder_hash_tok_embedding.weight", (rows, width), Component.EMBEDDING, Vocab())
    own, hidden, _ = _local(inv, "model.local_decoder", writer)
    norm(inv, "model.local_decoder.norm", None, hidden)
    patches, _ = _stack(inv, "model.global_transformer", world)
    if (gathered := width * cfg.positive("cross_attn_k")) != patches.hidden:
        at = "global_transformer.token_embedding_projection"
        model.linear(at, patches.hidden, gathered, Component.OTHER, bias=False)
    if cfg.flag("patch_in_forward", default=True):
        _patcher(inv, cfg.sub("patcher_config"))
    tied = cfg.flag("tie_word_embeddings", default=False)
    out = cfg.positive("vocab_size")
    lm_head(inv, "lm_head.weight", out, hidden, "model.local_encoder.embed_tokens.weight" if tied else None)
    layers = [
        *[Layer((full(own),))] * own.num_layers,
        *[Layer((full(d),))] * d.num_layers,
        *[Layer((NoCache("global"),), stack="encoder")] * patches.num_layers,
    ]
    note = Note("patches_anew", "tokens are bytes; the global stack keeps nothing: patches pass it anew at every step")
    inner = writer.positive("intermediate_size")
    return assemble(cfg, cfg, "blt", own, layers, inv, vocab=out, tied=tied, intermediate=inner, notes=[note])


def _stack(inv: Inventory, prefix: str, cfg: Config) -> tuple[Dims, int]:
    """Llama's blocks; a feed-forward of 8/3 of the width where none is given."""
    d = read_dims(cfg)
    inner = cfg.opt_int("intermediate_size") or 8 * d.hidden // 3
    every, block = range(d.num_layers), f"{prefix}.layers.{{}}"
    attention(inv, f"{block}.self_attn", every, d)
    gated_mlp(inv, f"{block}.mlp", every, d.hidden, inner)
    for name in ("input_layernorm", "post_attention_layernorm"):
        norm(inv, f"{block}.{name}", every, d.hidden)
    return d, inner


def _local(inv: Inventory, prefix: str, cfg: Config) -> tuple[Dims, int, int]:
    """A local stack with cross attention between bytes and patches: after every layer, or one for all."""
    d, inner = _stack(inv, prefix, cfg)
    crossed = d.num_layers if cfg.flag("cross_attn_all_layers", default=False) else 1
    cross = f"{prefix}.cross_attn_layers.{{}}"
    attention(inv, cross, range(crossed), d)
    for name in ("q_norm", "k_norm"):
        norm(inv, f"{cross}.{name}", range(crossed), d.hidden)
    given = cfg.positive("hidden_size_global") if "decoder" in prefix else d.hidden
    wide = d.hidden * cfg.positive("cross_attn_k")
    Part(inv, f"{prefix}.").linear("patch_embedding_projection", wide, given, Component.OTHER, bias=False)
    return d, d.hidden, inner


def _patcher(inv: Inventory, cfg: Config) -> None:
    d, _ = _stack(inv, "model.patcher", cfg)
    vocab = cfg.positive("vocab_size")
    part = Part(inv, "model.patcher.", Component.OTHER)
    part.tensor("embed_tokens.weight", (vocab, d.hidden))
    part.tensor("norm.weight", (d.hidden,))
    part.linear("lm_head", vocab, d.hidden, bias=False)
