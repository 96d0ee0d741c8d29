"""Heads that draft a block of tokens at once with layers of their target's kind: Laguna's DFlash, the DSparks of Gemma 4 and Kimi
K3, Muse Glimmer's assistant.

Source: vLLM 0.33.0 `model_executor/models/{laguna_dflash,gemma4_dspark}.py`, `models/kimi_k3/nvidia/dspark_mla.py`; transformers
5.23.0 `models/muse_glimmer_assistant`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hfmem.model import blocks
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims
from hfmem.model.config import Config
from hfmem.model.families.gemma4 import gemma4_text
from hfmem.model.families.moe_shared import laguna
from hfmem.model.families.speculators import rest_of_layers
from hfmem.model.families.speculators_block import Block, markov
from hfmem.model.inventory import Component
from hfmem.model.latent_blocks import latent_attention, latent_dims, read_latent
from hfmem.model.layers import FullAttention, Layer, SlidingAttention
from hfmem.records import replace

#: what vLLM takes for the vocabulary of Muse Glimmer's assistant, and its class for the layers that it joins
_MUSE_WORDS: Final = 202_048
_MUSE_JOINED: Final = (1, 13, 25, 37, 49)


class _Kin(Block):
    """Another family's layers between the joined states of the target and a norm."""

    def __init__(self, cfg: Config, rule: Callable[[Config], Architecture]) -> None:
        self._like = rule(cfg)
        super().__init__(cfg)

    def _dims(self) -> Dims:
        a = self._like
        return Dims(
            a.hidden_size, a.num_hidden_layers, a.num_attention_heads or 0, a.num_kv_heads or 0, a.head_dim or 0
        )

    def _body(self) -> None:
        for spec in self._like.tensors:
            if spec.pattern.startswith("model.layers."):
                self.head.inv.specs.append(replace(spec, pattern=spec.pattern.removeprefix("model.")))
        self.head.once("fc", self.d.hidden, self.joined() * self.head.target)
        self.head.norm("hidden_norm")
        self.head.norm("norm")

    def _caches(self) -> list[Layer]:
        return [layer for layer in self._like.layers if layer.stack == "decoder"]


def laguna_dflash(cfg: Config) -> Architecture:
    """Laguna's DFlash: a norm for each of the joined states; its layers see everything, whatever `layer_types` says."""
    block = _Kin(cfg, laguna)
    blocks.norm(block.head.inv, "aux_hidden_norms.{}", range(block.joined()), block.head.target)
    block.caches = [Layer(tuple(_whole(cache) for cache in layer.caches)) for layer in block.caches]
    return block.close("dflash")


def _whole(cache: object) -> FullAttention:
    assert isinstance(cache, FullAttention | SlidingAttention)
    return FullAttention(cache.num_heads, cache.num_kv_heads, cache.head_dim, cache.v_head_dim)


def gemma4_dspark(cfg: Config) -> Architecture:
    """Gemma 4's DSpark: its dense layers, which keep keys and values of their own, in a file with both tables."""
    plain = {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "enable_moe_block": False}
    text = Config({**cfg.data, **plain}, cfg.file, "gemma4_text", cfg.used_defaults)
    block = _Kin(text, gemma4_text)
    head = block.head
    if not head.embeds:
        head.embeds = True
        blocks.embedding(head.inv, "embed_tokens.weight", head.vocab, head.hidden)
    blocks.lm_head(head.inv, "lm_head.weight", head.vocab, head.hidden, None)
    markov(block, text.opt_int("draft_vocab_size") or head.vocab)
    return block.close("dspark")


class _Latent(Block):
    """Latent attention and a dense feed-forward."""

    def _dims(self) -> Dims:
        return latent_dims(self.cfg, read_latent(self.cfg))

    def _body(self) -> None:
        head, d = self.head, self.d
        latent_attention(head.inv, "layers.{}.self_attn", range(d.num_layers), d.hidden, read_latent(self.cfg))
        rest_of_layers(head, d.num_layers)
        head.once("context_proj", d.hidden, self.joined() * head.target)
        head.norm("context_norm")
        head.norm("final_norm")

    def _caches(self) -> list[Layer]:
        return [Layer((read_latent(self.cfg).cache(),))] * self.d.num_layers


def k3_dspark(cfg: Config) -> Architecture:
    """Kimi K3's DSpark: latent attention; embedding and output table are the target's, whatever its width."""
    block = _Latent(cfg)
    block.head.embeds = False
    block.head.inv.specs[:] = [s for s in block.head.inv.specs if s.component is not Component.EMBEDDING]
    markov(block, block.head.vocab)
    return block.close("dspark")


def muse_glimmer_assistant(cfg: Config) -> Architecture:
    """Muse Glimmer's assistant: DFlash, its joined states under `encoder`; vocabulary and tables are the target's."""
    vocab = {"vocab_size": cfg.opt_int("vocab_size") or _MUSE_WORDS}
    types = cfg.opt_list("layer_types") or ["sliding_attention"] * cfg.positive("num_hidden_layers")
    joined = cfg.opt_list("target_layer_ids") or list(_MUSE_JOINED)
    filled = {**cfg.data, **vocab, "layer_types": types, "target_layer_ids": joined}
    block = Block(Config(filled, cfg.file, "muse_glimmer_assistant", cfg.used_defaults))
    renamed = {"fc.weight": "encoder.fc.weight", "hidden_norm.weight": "encoder.output_norm_enc.weight"}
    specs = block.head.inv.specs
    specs[:] = [replace(s, pattern=renamed.get(s.pattern, s.pattern)) for s in specs]
    return block.close("dflash")
