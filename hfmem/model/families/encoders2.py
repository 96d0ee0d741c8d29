"""Encoders with blocks of their own: DistilBERT, ALBERT, ModernBERT, Nomic BERT, CLIP and SigLIP.

Source: transformers 5.23.0 `models/{distilbert,albert,modernbert,nomic_bert,clip,siglip}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from dataclasses import replace

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import assemble, read_dims
from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.encoders import TASKS, encoder_layers
from hfmem.model.families.heads import class_name, num_labels, task
from hfmem.model.families.multimodal import tower, tower_layers
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Column, Component, Inventory, Vocab


def distilbert(cfg: Config) -> Architecture:
    """DistilBERT: BERT's block without token types or pooler, under other names."""
    what = task(cfg, "model", TASKS)
    d = read_dims(cfg)
    inner, vocab = cfg.positive("hidden_dim", "intermediate_size"), cfg.positive("vocab_size")
    inv = Inventory()
    part = Part(inv, "" if what == "model" else "distilbert.")
    emb = part.at("embeddings.", component=Component.EMBEDDING)
    emb.tensor("word_embeddings.weight", (vocab, d.hidden), split=Vocab())
    emb.tensor("position_embeddings.weight", (cfg.positive("max_position_embeddings"), d.hidden))
    part.norm("embeddings.LayerNorm", d.hidden)
    block = part.at("transformer.layer.{}.", range(d.num_layers))
    at = block.at("attention.", component=Component.ATTENTION)
    for name in ("q_lin", "k_lin", "v_lin"):
        at.linear(name, d.hidden, d.hidden, split=COLUMN)
    at.linear("out_lin", d.hidden, d.hidden, split=ROW)
    block.linear("ffn.lin1", inner, d.hidden, Component.MLP, COLUMN)
    block.linear("ffn.lin2", d.hidden, inner, Component.MLP, ROW)
    block.norms(("sa_layer_norm", "output_layer_norm"), d.hidden)
    top, other = Part(inv), Part(inv, component=Component.OTHER)
    tied = cfg.flag("tie_word_embeddings", default=True)
    if what == "mlm":
        other.linear("vocab_transform", d.hidden, d.hidden, Component.LM_HEAD)
        top.norm("vocab_layer_norm", d.hidden)
        to = f"{part.prefix}embeddings.word_embeddings.weight" if tied else None
        top.tensor("vocab_projector.weight", (vocab, d.hidden), Component.LM_HEAD, Vocab(), tied_to=to, optional=tied)
        top.tensor("vocab_projector.bias", (vocab,), Component.LM_HEAD, Vocab())
    elif what in ("sequence", "choice"):
        other.linear("pre_classifier", d.hidden, d.hidden)
        other.linear("classifier", num_labels(cfg) if what == "sequence" else 1, d.hidden)
    elif what in ("token", "qa"):
        other.linear("classifier" if what == "token" else "qa_outputs", num_labels(cfg), d.hidden)
    return assemble(
        cfg, cfg, "encoder", d, encoder_layers(d.num_layers), inv, vocab=vocab, tied=tied, intermediate=inner
    )


def albert(cfg: Config) -> Architecture:
    """ALBERT: `num_hidden_groups` sets of weights serve all layers; a narrow embedding mapped up."""
    what = task(cfg, "model", TASKS)
    d = read_dims(cfg)
    inner, vocab, width = cfg.positive("intermediate_size"), cfg.positive("vocab_size"), cfg.positive("embedding_size")
    inv = Inventory()
    part = Part(inv, "" if what == "model" else "albert.")
    emb = part.at("embeddings.", component=Component.EMBEDDING)
    emb.tensor("word_embeddings.weight", (vocab, width), split=Vocab())
    emb.tensor("position_embeddings.weight", (cfg.positive("max_position_embeddings"), width))
    emb.tensor("token_type_embeddings.weight", (cfg.need_int("type_vocab_size"), width))
    emb.tensor("position_ids", (1, cfg.positive("max_position_embeddings")), optional=True, buffer=True)
    part.norm("embeddings.LayerNorm", width)
    part.linear("encoder.embedding_hidden_mapping_in", d.hidden, width, Component.EMBEDDING)
    groups, repeats = cfg.positive("num_hidden_groups"), cfg.positive("inner_group_num")
    block = part.at("encoder.albert_layer_groups.{}.albert_layers.{}.", range(groups))
    block = replace(block, axes=(*block.axes, tuple(range(repeats))))
    at = block.at("attention.", component=Component.ATTENTION)
    for name in ("query", "key", "value"):
        at.linear(name, d.hidden, d.hidden, split=COLUMN)
    at.linear("dense", d.hidden, d.hidden, split=ROW)
    block.norms(("attention.LayerNorm", "full_layer_layer_norm"), d.hidden)
    block.linear("ffn", inner, d.hidden, Component.MLP, COLUMN)
    block.linear("ffn_output", d.hidden, inner, Component.MLP, ROW)
    top, other = Part(inv), Part(inv, component=Component.OTHER)
    if what not in ("mlm", "token", "qa"):
        other.at(part.prefix).linear("pooler", d.hidden, d.hidden)
    tied = cfg.flag("tie_word_embeddings", default=True)
    if what in ("mlm", "pretraining"):
        embedded = f"{part.prefix}embeddings.word_embeddings.weight" if tied else None
        head = top.at("predictions.", component=Component.LM_HEAD)
        head.tensor("bias", (vocab,), split=Vocab())
        head.linear("dense", width, d.hidden)
        top.norm("predictions.LayerNorm", width)
        head.tensor("decoder.weight", (vocab, width), split=Vocab(), tied_to=embedded, optional=tied)
        to = "predictions.bias" if tied else None
        head.tensor("decoder.bias", (vocab,), split=Vocab(), tied_to=to, optional=tied)
    if what == "pretraining":
        other.linear("sop_classifier.classifier", num_labels(cfg), d.hidden)
    elif what in ("sequence", "token", "choice"):
        other.linear("classifier", 1 if what == "choice" else num_labels(cfg), d.hidden)
    elif what == "qa":
        other.linear("qa_outputs", num_labels(cfg), d.hidden)
    return assemble(
        cfg, cfg, "encoder", d, encoder_layers(d.num_layers), inv, vocab=vocab, tied=tied, intermediate=inner
    )


def modernbert(cfg: Config) -> Architecture:
    """ModernBERT: rotary positions, fused qkv, a gated feed-forward with both halves in `Wi`; the first layer has no input norm."""
    what = task(cfg, "model", TASKS)
    d = read_dims(cfg)
    inner, vocab = cfg.positive("intermediate_size"), cfg.positive("vocab_size")
    biased, bias = cfg.flag("norm_bias", default=False), cfg.flag("attention_bias", default=False)
    mlp_bias = cfg.flag("mlp_bias", default=False)
    inv = Inventory()
    part = Part(inv, "" if what == "model" else "model.")
    part.tensor("embeddings.tok_embeddings.weight", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    part.norms(("embeddings.norm", "final_norm"), d.hidden, bias=biased)
    block = part.at("layers.{}.", range(d.num_layers))
    vision.fused_projection(block.at("attn.", component=Component.ATTENTION), "Wqkv", d.hidden, bias=bias)
    block.linear("attn.Wo", d.hidden, d.hidden, Component.ATTENTION, ROW, bias=bias)
    block.linear("mlp.Wi", 2 * inner, d.hidden, Component.MLP, Column((inner, inner), (None, None)), bias=mlp_bias)
    block.linear("mlp.Wo", d.hidden, inner, Component.MLP, ROW, bias=mlp_bias)
    block.norm("mlp_norm", d.hidden, bias=biased)
    part.at("layers.{}.", range(1, d.num_layers)).norm("attn_norm", d.hidden, bias=biased)
    top, other = Part(inv), Part(inv, component=Component.OTHER)
    tied = cfg.flag("tie_word_embeddings", default=True)
    if what != "model":
        other.linear("head.dense", d.hidden, d.hidden, bias=cfg.flag("classifier_bias", default=False))
        top.norm("head.norm", d.hidden, bias=biased)
    if what == "mlm":
        to = "model.embeddings.tok_embeddings.weight" if tied else None
        top.tensor("decoder.weight", (vocab, d.hidden), Component.LM_HEAD, Vocab(), tied_to=to, optional=tied)
        if cfg.flag("decoder_bias", default=True):
            top.tensor("decoder.bias", (vocab,), Component.LM_HEAD, Vocab())
    elif what != "model":
        other.linear("classifier", 1 if what == "choice" else num_labels(cfg), d.hidden)
    return assemble(
        cfg, cfg, "encoder", d, encoder_layers(d.num_layers), inv, vocab=vocab, tied=tied, intermediate=inner
    )


def nomic_bert(cfg: Config) -> Architecture:
    """Nomic BERT: rotary positions, fused qkv, gated feed-forward, no biases; reads its early configs' GPT-2 spellings too."""
    what = task(cfg, "model", TASKS)
    d = read_dims(cfg)
    inner, vocab = cfg.positive("n_inner", "intermediate_size"), cfg.positive("vocab_size")
    inv = Inventory()
    part = Part(inv, "" if what == "model" else "nomic_bert.")
    part.tensor("embeddings.word_embeddings.weight", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    types = cfg.need_int("type_vocab_size")
    if types:
        part.tensor("embeddings.token_type_embeddings.weight", (types, d.hidden), Component.EMBEDDING)
    part.norm("emb_ln", d.hidden)
    block = part.at("encoder.layers.{}.", range(d.num_layers))
    width = d.num_heads * d.head_dim
    fused = Column((width, width, width), (None, None, None))
    block.linear("attn.Wqkv", 3 * width, d.hidden, Component.ATTENTION, fused, bias=False)
    block.linear("attn.out_proj", d.hidden, width, Component.ATTENTION, ROW, bias=False)
    block.linear("mlp.fc11", inner, d.hidden, Component.MLP, COLUMN, bias=False)
    block.linear("mlp.fc12", inner, d.hidden, Component.MLP, COLUMN, bias=False)
    block.linear("mlp.fc2", d.hidden, inner, Component.MLP, ROW, bias=False)
    block.norms(("norm1", "norm2"), d.hidden)
    tied = cfg.flag("tie_word_embeddings", default=True)
    other = Part(inv, component=Component.OTHER)
    if what == "mlm":
        head = Part(inv, "cls.predictions.", Component.LM_HEAD)
        head.linear("transform.dense", d.hidden, d.hidden)
        Part(inv).norm("cls.predictions.transform.layer_norm", d.hidden)
        to = "nomic_bert.embeddings.word_embeddings.weight"
        head.tensor("decoder.weight", (vocab, d.hidden), split=Vocab(), tied_to=to, optional=True)
        head.tensor("bias", (vocab,), split=Vocab())
        head.tensor("decoder.bias", (vocab,), split=Vocab(), tied_to="cls.predictions.bias", optional=True)
    elif what in ("sequence", "token"):
        if what == "sequence":
            other.linear("nomic_bert.pooler.dense", d.hidden, d.hidden)
        other.linear("classifier", num_labels(cfg), d.hidden)
    return assemble(
        cfg, cfg, "encoder", d, encoder_layers(d.num_layers), inv, vocab=vocab, tied=tied, intermediate=inner
    )


def clip(cfg: Config) -> Architecture:
    """CLIP: a text and an image encoder, a projection for each, a learned temperature."""
    text, seen = cfg.sub("text_config"), cfg.sub("vision_config")
    d = read_dims(text)
    inner, vocab = text.positive("intermediate_size"), text.positive("vocab_size")
    out = cfg.positive("projection_dim")
    inv = Inventory()
    part = Part(inv, "text_model.")
    rows = text.positive("max_position_embeddings")
    part.tensor("embeddings.token_embedding.weight", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    part.tensor("embeddings.position_embedding.weight", (rows, d.hidden), Component.EMBEDDING)
    part.tensor("embeddings.position_ids", (1, rows), Component.EMBEDDING, optional=True, buffer=True)
    block = part.at("encoder.layers.{}.", range(d.num_layers))
    vision.projections(block.at("self_attn.", component=Component.ATTENTION), d.hidden)
    vision.mlp(block.at("mlp.", component=Component.MLP), d.hidden, inner)
    block.norms(("layer_norm1", "layer_norm2"), d.hidden)
    part.norm("final_layer_norm", d.hidden)
    count = vision.clip(tower(inv, "vision_model."), seen)
    patches = (1, vision.patches(seen) + 1)
    tower(inv).tensor("vision_model.embeddings.position_ids", patches, optional=True, buffer=True)
    tower(inv).linear("visual_projection", out, seen.positive("hidden_size"), bias=False)
    Part(inv, component=Component.OTHER).linear("text_projection", out, d.hidden, bias=False)
    Part(inv, component=Component.OTHER).tensor("logit_scale", ())
    layers = (*encoder_layers(d.num_layers), *tower_layers(count))
    return assemble(cfg, text, "clip", d, layers, inv, vocab=vocab, tied=False, intermediate=inner)


def siglip(cfg: Config) -> Architecture:
    """SigLIP: a text and an image encoder, a head on the text side, a learned temperature and bias."""
    text, seen = cfg.sub("text_config"), cfg.sub("vision_config")
    d = read_dims(text)
    inner, vocab = text.positive("intermediate_size"), text.positive("vocab_size")
    inv = Inventory()
    part = Part(inv, "text_model.")
    rows = text.positive("max_position_embeddings")
    part.tensor("embeddings.token_embedding.weight", (vocab, d.hidden), Component.EMBEDDING, Vocab())
    part.tensor("embeddings.position_embedding.weight", (rows, d.hidden), Component.EMBEDDING)
    block = part.at("encoder.layers.{}.", range(d.num_layers))
    vision.projections(block.at("self_attn.", component=Component.ATTENTION), d.hidden)
    vision.mlp(block.at("mlp.", component=Component.MLP), d.hidden, inner)
    block.norms(("layer_norm1", "layer_norm2"), d.hidden)
    part.norm("final_layer_norm", d.hidden)
    out = text.opt_int("projection_size") or d.hidden
    Part(inv, component=Component.OTHER).linear("text_model.head", out, d.hidden)
    count = vision.siglip(tower(inv, "vision_model."), seen)
    other = Part(inv, component=Component.OTHER)
    other.tensor("logit_scale", (1,))
    other.tensor("logit_bias", (1,))
    layers = (*encoder_layers(d.num_layers), *tower_layers(count))
    return assemble(cfg, text, "siglip", d, layers, inv, vocab=vocab, tied=False, intermediate=inner)


def vision_model(cfg: Config) -> Architecture:
    """A CLIP or SigLIP image encoder saved alone, with CLIP's projection where the class has one."""
    inv = Inventory()
    part = tower(inv, "vision_model.")
    count = vision.clip(part, cfg) if cfg.model_type == "clip_vision_model" else vision.siglip(part, cfg)
    d = read_dims(cfg)
    if class_name(cfg).endswith("WithProjection"):
        tower(inv).linear("visual_projection", cfg.positive("projection_dim"), d.hidden, bias=False)
    return assemble(cfg, cfg, "vision", d, tower_layers(count), inv, vocab=0, tied=False)
