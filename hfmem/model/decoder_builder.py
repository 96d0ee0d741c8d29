"""A decoder while its family describes it: the usual keys read once, tensors collected under one naming, then closed.

A family's rule opens a `DecoderBuilder` with its names, adds what each layer holds, and closes it with the layers' caches. Families
that are Llama with other names, norms or experts need five to fifteen lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from hfmem.errors import ContradictionError
from hfmem.model import blocks
from hfmem.model.architecture import Architecture, Note
from hfmem.model.blocks import VOCAB, Dims
from hfmem.model.config import Config
from hfmem.model.inventory import Column, Component, Inventory, Replicated, Row, Split
from hfmem.model.layers import Layer, SlidingAttention
from hfmem.model.task_heads import head_tensors, task_of
from hfmem.records import replace

#: roots that a bare `…Model` class does not write before its tensors' names
_ROOTS: Final = ("model.", "transformer.", "gpt_neox.", "biogpt.")


class DecoderBuilder:
    """Opens with the token embedding; `layers` is the pattern of a layer, `{}` its index.

    Args:
        cfg: the (text) config.
        d: heads and sizes; read under their usual names when None.
        layers, embed, head, final: names of the layer list, embedding, output projection and last norm, as published.
        norm_bias: norms are LayerNorms with a bias.
        tied: whether the output projection shares the embedding's storage; `tie_word_embeddings` when None.
        untold_tie: what an absent `tie_word_embeddings` means where no class default is known (remote code).
        embed_dim: width of the embedding where it is not the hidden size.
        classifier, tagger: what the class calls its head for sequences, for tokens.
    """

    def __init__(
        self,
        cfg: Config,
        *,
        d: Dims | None = None,
        layers: str = "model.layers.{}",
        embed: str = "model.embed_tokens",
        head: str = "lm_head",
        final: str = "model.norm",
        norm_bias: bool = False,
        tied: bool | None = None,
        untold_tie: bool = False,
        embed_dim: int | None = None,
        classifier: str = "score",
        tagger: str = "score",
    ) -> None:
        self.cfg = cfg
        self.d = d or blocks.read_dims(cfg)
        self.inv = Inventory()
        self.every = range(self.d.num_layers)
        self.vocab = cfg.positive(*VOCAB)
        self.width = embed_dim or self.d.hidden
        self.tied = cfg.flag("tie_word_embeddings", default=untold_tie) if tied is None else tied
        self.norm_bias = norm_bias
        self.moe: tuple[int, int] | None = None
        self.intermediate: int | None = None
        self.task = task_of(cfg)
        self._layers, self._embed, self._head, self._final = layers, embed, head, final
        self._classifier, self._tagger = classifier, tagger
        blocks.embedding(self.inv, f"{embed}.weight", self.vocab, self.width)

    def at(self, tail: str) -> str:
        """The pattern of something inside each layer."""
        return f"{self._layers}.{tail}"

    # ---- inside the layers ------------------------------------------------------------------------------------------------

    def norms(
        self, *tails: str, size: int | None = None, layers: Iterable[int] | None = None, bias: bool | None = None
    ) -> None:
        """Norms in each layer (default: of the hidden size, in every layer)."""
        where = self.every if layers is None else list(layers)
        for tail in tails:
            blocks.norm(
                self.inv, self.at(tail), where, size or self.d.hidden, bias=self.norm_bias if bias is None else bias
            )

    def attention(
        self,
        tail: str = "self_attn",
        *,
        layers: Iterable[int] | None = None,
        d: Dims | None = None,
        qkv_bias: bool = False,
        o_bias: bool = False,
        names: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
        qk_norm: str | None = None,
        qk_norm_names: tuple[str, str] = ("q_norm", "k_norm"),
        qk_norm_bias: bool = False,
    ) -> None:
        """Separate q, k, v, o projections; see `blocks.attention`. `qk_norm_bias`: the norms of q and k have biases too."""
        where = self.every if layers is None else list(layers)
        dims = d or self.d
        blocks.attention(
            self.inv,
            self.at(tail),
            where,
            dims,
            qkv_bias=qkv_bias,
            o_bias=o_bias,
            names=names,
            qk_norm=qk_norm,
            qk_norm_names=qk_norm_names,
        )
        if qk_norm is not None and qk_norm_bias:
            heads = (1, 1) if qk_norm == "head" else (dims.num_heads, dims.num_kv_heads)
            for name, count in zip(qk_norm_names, heads, strict=True):
                self.inv.each(self.at(f"{tail}.{name}.bias"), where, (count * dims.head_dim,), Component.NORM)

    def linear(
        self,
        tail: str,
        out_features: int,
        in_features: int,
        split: Column | Row | Replicated,
        *,
        bias: bool = False,
        component: Component = Component.ATTENTION,
        layers: Iterable[int] | None = None,
    ) -> None:
        """One `nn.Linear` in each layer."""
        where = self.every if layers is None else list(layers)
        blocks.linear(self.inv, self.at(tail), where, out_features, in_features, component, split, bias=bias)

    def qkv(self, tail: str, *, bias: bool = False) -> None:
        """One projection holding q, k and v in each layer."""
        blocks.fused_qkv(self.inv, self.at(tail), self.every, self.d, bias=bias)

    def gated(
        self,
        intermediate: int,
        tail: str = "mlp",
        *,
        layers: Iterable[int] | None = None,
        bias: bool = False,
        names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    ) -> None:
        """A gated feed-forward in each layer."""
        where = self.every if layers is None else list(layers)
        blocks.gated_mlp(self.inv, self.at(tail), where, self.d.hidden, intermediate, bias=bias, names=names)
        self._note_width(intermediate, where)

    def fused_gated(
        self,
        intermediate: int,
        gate_up: str,
        down: str,
        *,
        layers: Iterable[int] | None = None,
        bias: bool = False,
    ) -> None:
        """A gated feed-forward whose gate and up are one matrix of twice the rows."""
        where = self.every if layers is None else list(layers)
        both = Column((intermediate, intermediate), (None, None))
        self.linear(gate_up, 2 * intermediate, self.d.hidden, both, bias=bias, component=Component.MLP, layers=where)
        self.linear(down, self.d.hidden, intermediate, Row(), bias=bias, component=Component.MLP, layers=where)
        self._note_width(intermediate, where)

    def plain(
        self,
        intermediate: int,
        tail: str,
        names: tuple[str, str],
        *,
        bias: bool,
        layers: Iterable[int] | None = None,
    ) -> None:
        """A feed-forward without a gate in each layer."""
        where = self.every if layers is None else list(layers)
        blocks.plain_mlp(self.inv, self.at(tail), where, self.d.hidden, intermediate, bias=bias, names=names)
        self._note_width(intermediate, where)

    def experts(
        self,
        tail: str,
        intermediate: int,
        num_experts: int,
        top_k: int,
        *,
        layers: Iterable[int] | None = None,
        names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj"),
        router: str = "gate",
        correction: str | None = None,
        correction_is_buffer: bool = True,
    ) -> None:
        """Routed experts and their router; `correction` is the name (below `tail`) of a bias that only steers the choice."""
        where = self.every if layers is None else list(layers)
        blocks.routed_experts(
            self.inv,
            self.at(tail),
            where,
            self.d.hidden,
            intermediate,
            num_experts,
            top_k,
            names=names,
            router=router,
        )
        if correction is not None:
            self.each(f"{tail}.{correction}", (num_experts,), Component.EXPERTS, where, buffer=correction_is_buffer)
        if where:
            self.moe = (num_experts, top_k)

    def each(
        self,
        tail: str,
        shape: tuple[int, ...],
        component: Component,
        layers: Iterable[int] | None = None,
        split: Split | None = None,
        *,
        buffer: bool = False,
    ) -> None:
        """A tensor in each layer under its full name; a buffer may be missing from files."""
        where = self.every if layers is None else list(layers)
        self.inv.each(self.at(tail), where, shape, component, split, buffer=buffer, optional=buffer)

    def _note_width(self, intermediate: int, layers: Sequence[int]) -> None:
        if layers and self.intermediate is None:
            self.intermediate = intermediate

    # ---- closing ----------------------------------------------------------------------------------------------------------

    def close(
        self,
        family: str,
        caches: Sequence[Layer],
        *,
        final: bool = True,
        head: bool = True,
        head_bias: bool = False,
        intermediate: int | None = None,
        head_rows: int | None = None,
    ) -> Architecture:
        """Add the last norm and the head that the published class has, and put the architecture together.

        A bare `…Model` has no head and writes its tensors without the root's name. `intermediate` is the `intermediate_size` to
        report (default: the first feed-forward's), `head_rows` the head's where it has no row for each word.
        """
        if final:
            blocks.norm(self.inv, self._final, None, self.d.hidden, bias=self.norm_bias)
        if self.task != "lm":
            for name, shape in head_tensors(self.task, self.cfg, self.d.hidden, self._classifier, self._tagger).items():
                self.inv.add(name, shape, Component.OTHER)
        elif head:
            tied_to = f"{self._embed}.weight" if self.tied else None
            blocks.lm_head(self.inv, f"{self._head}.weight", head_rows or self.vocab, self.width, tied_to)
            if head_bias:
                self.inv.add(f"{self._head}.bias", (self.vocab,), Component.LM_HEAD)
        if len(caches) != self.d.num_layers:
            raise ContradictionError(f"{self.cfg.file}: {len(caches)} layers described for {self.d.num_layers}")
        num_experts, top_k = self.moe or (None, None)
        notes = _open_window(self.cfg, caches)
        arch = blocks.assemble(
            self.cfg,
            self.cfg,
            family,
            self.d,
            caches,
            self.inv,
            vocab=self.vocab,
            tied=self.tied,
            intermediate=self.intermediate if intermediate is None else intermediate,
            num_experts=num_experts,
            top_k=top_k,
            notes=notes,
        )
        return bare(arch) if self.task == "none" else arch


def bare(arch: Architecture) -> Architecture:
    """The model as a bare `…Model` is saved: without an output projection, `layers.0…` for `model.layers.0…`."""

    def unrooted(name: str) -> str:
        for root in _ROOTS:
            if name.startswith(root):
                return name[len(root) :]
        return name

    kept = (s for s in arch.tensors if s.component != Component.LM_HEAD)
    specs = (replace(s, pattern=unrooted(s.pattern), tied_to=s.tied_to and unrooted(s.tied_to)) for s in kept)
    return replace(arch, tensors=tuple(specs))


def _open_window(cfg: Config, caches: Sequence[Layer]) -> list[Note]:
    """A window longer than the positions never closes (Phi-4-mini: 262,144 over 131,072): worth a word."""
    positions = cfg.opt_int(*blocks.POSITIONS)
    widest = max((c.window for layer in caches for c in layer.caches if isinstance(c, SlidingAttention)), default=0)
    if positions is None or widest <= positions:
        return []
    message = f"a window of {widest:,} tokens is longer than the model's {positions:,} positions: within them every token is kept"
    return [Note("open_window", message)]


def read_as(rule: Callable[[Config], Architecture], cfg: Config, model_type: str) -> Architecture:
    """Apply `rule` with the class defaults of another model type (an old or remote spelling of the same class)."""
    arch = rule(Config(cfg.data, cfg.file, model_type, cfg.used_defaults))
    return replace(arch, model_type=cfg.model_type)
