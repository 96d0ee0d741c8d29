"""Heads that draft a block of tokens at once for another model: DFlash and its kin (DFlash 2, Domino, DSpark).

Source: vLLM 0.33.0 `model_executor/models/{qwen3_dflash,qwen3_dflash2,qwen3_dspark}.py`, SGLang 0.5.23
`srt/models/{dflash,dspark}.py` and `srt/speculative/dflash_utils.py`; what files hold: `speculators`
(`models/{dflash,dspark}/core.py`: tables of its own) and SpecForge (`specforge/modeling/draft/{dflash,domino,dspark}.py`:
embedding and output table are the target's).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hfmem.errors import ContradictionError, MissingKeyError
from hfmem.model import blocks
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, read_dims, sliding
from hfmem.model.config import Config
from hfmem.model.families.speculators import DraftHead, draft_caches, gqa, rest_of_layers
from hfmem.model.inventory import Component, Replicated
from hfmem.model.layers import Layer
from hfmem.records import replace

_PART: Final = "dflash_config"


class Block:
    """DFlash's body: Qwen3 layers over masked positions, which read keys and values made of the target's hidden states."""

    def __init__(self, cfg: Config) -> None:
        self.head = DraftHead(cfg)
        self.cfg = self.head.cfg
        self.flash = Config(self.head.part(_PART), f"{self.cfg.file}: {_PART}", "", self.cfg.used_defaults)
        self.d = self._dims()
        self._body()
        self.caches = self._caches()

    def said(self, key: str) -> Any:
        """A value of `dflash_config`, else of the config's own level."""
        value = self.flash.published(key)
        return value if value is not None else self.cfg.published(key)

    def number(self, key: str) -> int:
        """The same as a count that must be there. Raises MissingKeyError naming the key."""
        if self.said(key) is None:
            raise MissingKeyError(
                f"{self.cfg.file}: {key!r} is missing, in {_PART!r} as beside it, and this draft head needs it"
            )
        return (self.flash if self.flash.published(key) is not None else self.cfg).positive(key)

    def ratio(self, key: str) -> float:
        """The same as a positive number."""
        return (self.flash if self.flash.published(key) is not None else self.cfg).positive_float(key)

    def yes(self, key: str, default: bool) -> bool:
        """The same as a flag."""
        return (self.flash if self.flash.published(key) is not None else self.cfg).flag(key, default=default)

    def word(self, key: str, usual: str, known: Sequence[str]) -> str:
        """The same as one of the words that are known, `usual` where it is absent."""
        part = self.flash if self.flash.published(key) is not None else self.cfg
        return self.cfg.choice(key, part.opt_str(key) or usual, known)

    def _dims(self) -> Dims:
        return read_dims(self.cfg)

    def _body(self) -> None:
        head, d = self.head, self.d
        gqa(head, d, range(d.num_layers), d.hidden, self.cfg.flag("attention_bias", default=False))
        for name in ("q_norm", "k_norm"):
            blocks.norm(head.inv, f"layers.{{}}.self_attn.{name}", range(d.num_layers), d.head_dim)
        rest_of_layers(head, d.num_layers)
        if self.said("conv_kernel_size"):
            self._convolutions(self.number("conv_kernel_size"), self.number("conv_group_size"))
        if self.said("use_aux_hidden_state") is not False:
            head.once("fc", d.hidden, self.joined() * head.target)
        head.norm("hidden_norm")
        head.norm("norm")

    def joined(self) -> int:
        """How many of the target's layers the head joins: as many as it has itself where no list says."""
        return self.head.states(_PART, "target_layer_ids", "dspark_target_layer_ids") or self.d.num_layers

    def _convolutions(self, taps: int, group: int) -> None:
        """DFlash 2's: over the block, around attention and around the feed-forward, coefficients for `group` channels together."""
        d, every = self.d, range(self.d.num_layers)
        if d.hidden % group:
            raise ContradictionError(
                f"{self.flash.file}: 'conv_group_size' {group} does not divide the hidden size {d.hidden}"
            )
        for name in ("attention_conv", "mlp_conv"):
            for leaf, shape in (
                ("base_kernel", (2, taps, d.hidden)),
                ("kernel_projection.weight", (2 * taps * (d.hidden // group), d.hidden)),
            ):
                self.head.inv.each(f"layers.{{}}.{name}.{leaf}", every, shape, Component.OTHER, Replicated())

    def _caches(self) -> list[Layer]:
        types, window = self.cfg.opt_list("layer_types"), self.flash.published("swa_window_size")
        window = window if window is not None else self.cfg.opt_int("sliding_window")
        if self.flash.published("use_swa") and not (types and "sliding_attention" in types):
            if not isinstance(window, int) or window < 1:
                raise ContradictionError(
                    f"{self.cfg.file}: {_PART!r} asks for windows and no key says how long they are"
                )
            return [Layer((sliding(self.d, window),))] * self.d.num_layers
        return draft_caches(self.cfg, self.d, window)

    def output_if_its_own(self) -> None:
        """The output table where the head does not use its target's."""
        wanted = self.head.embeds or self.cfg.flag("has_own_lm_head", default=False)
        if self.has_output(wanted or bool(self.cfg.opt_int("draft_vocab_size"))):
            self.head.output()

    def has_output(self, usual: bool) -> bool:
        """Whether a file holds an output table; Nemotron 3.5's heads have an embedding alone, and say so."""
        return self.cfg.flag("has_lm_head", default=usual)

    def close(self, family: str) -> Architecture:
        """DFlash's block begins with a token that is known already, all of DSpark's are drafted."""
        size = self.number("block_size") if self.said("block_size") is not None else None
        drafted = None if size is None else size - (family == "dflash") or None
        return replace(self.head.close(family, self.d, self.caches), drafted=drafted)


def dflash(cfg: Config) -> Architecture:
    """DFlash: embedding and output table are the target's, unless the config or the `speculators` format says otherwise."""
    block = Block(cfg)
    block.output_if_its_own()
    kind = block.word("projector_type", "dflash", ("dflash", "domino"))
    if kind == "domino":
        _domino(block)
    return block.close("dflash")


def domino(cfg: Config) -> Architecture:
    """Domino: DFlash whose logits a recurrent unit over the block's tokens before corrects, through a low-rank table."""
    block = Block(cfg)
    block.output_if_its_own()
    _domino(block)
    return block.close("dflash")


def _domino(block: Block) -> None:
    d, state, rank = block.d, block.number("gru_hidden_dim"), block.number("emb_dim")
    for name, columns in (("ih", d.hidden), ("hh", state)):  # three gates
        block.head.inv.add(f"prefix_gru.weight_{name}_l0", (3 * state, columns), Component.OTHER, Replicated())
    block.head.once("embed_proj.0", rank, d.hidden + state)
    block.head.once("embed_proj.2", block.head.vocab, rank)


def dflash2(cfg: Config) -> Architecture:
    """DFlash 2: DFlash with convolutions over the block, and tables that score one candidate token after another."""
    block = Block(cfg)
    block.output_if_its_own()
    rank = block.number("selector_rank")
    for name in ("predecessor", "successor"):
        block.head.inv.add(
            f"candidate_selector.{name}_codebook", (block.head.vocab, rank), Component.OTHER, Replicated()
        )
    block.head.once("candidate_selector.hidden_projection", rank, block.d.hidden)
    return block.close("dflash")


def dspark(cfg: Config) -> Architecture:
    """DSpark in a file with both tables: DFlash with a low-rank bias by the token before and a head that tells how sure it is."""
    block = Block(cfg)
    head = block.head
    if not head.embeds:  # the dense checkpoints hold both tables
        head.embeds = True
        blocks.embedding(head.inv, "embed_tokens.weight", head.vocab, head.hidden)
    markov(block, head.output() if block.has_output(True) else head.vocab)
    return block.close("dspark")


def dspark_shared(cfg: Config) -> Architecture:
    """DSpark as SpecForge trains it and SGLang serves it: embedding and output table are the target's."""
    block = Block(cfg)
    markov(block, block.head.vocab)
    return block.close("dspark")


def markov(block: Block, rows: int) -> None:
    """The bias by the token before, with what tells how much of it counts, and the confidence head."""
    head, d, rank = block.head, block.d, block.number("markov_rank")
    head.once("markov_head.markov_w1", head.vocab, rank)
    head.once("markov_head.markov_w2", rows, rank)
    kind = block.word("markov_head_type", "vanilla", ("vanilla", "gated", "rnn"))
    gates = {"gated": ("gate_proj", rank, d.hidden + rank), "rnn": ("joint_proj", 3 * rank, d.hidden + 2 * rank)}
    if kind in gates:
        name, out, columns = gates[kind]
        head.once(f"markov_head.{name}", out, columns)
        head.inv.add(f"markov_head.{name}.bias", (out,), Component.OTHER)
    if block.yes("enable_confidence_head", bool(block.said("confidence_head_alpha"))):
        wide = d.hidden + (rank if block.yes("confidence_head_with_markov", False) else 0)
        head.once("confidence_head.proj", 1, wide)
        head.inv.add("confidence_head.proj.bias", (1,), Component.OTHER)
