"""A text stack under construction: what a family collects before it becomes an `Architecture`.

Multimodal wrappers hold the same text stacks as text-only models do, under another name prefix; a family's rule therefore fills a
`Stack` for the text part, may add towers to it, and finishes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

from hfmem.errors import ContradictionError, UnknownArchitectureError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.blocks import VOCAB, Dims, assemble, embedding, lm_head, norm
from hfmem.model.config import Config
from hfmem.model.inventory import Component, Inventory, TensorSpec
from hfmem.model.layers import Layer, NoCache
from hfmem.records import dataclass, field, replace


@dataclass(slots=True)
class Stack:
    """Dimensions, tensors and layers of the main stack. `text` is the config part that describes it."""

    text: Config
    d: Dims
    vocab: int
    tied: bool
    inv: Inventory = field(default_factory=Inventory)
    layers: list[Layer] = field(default_factory=list)
    towers: list[Layer] = field(default_factory=list)  # beside the decoder: encoders' blocks, prediction layers ("mtp")
    intermediate: int | None = None
    num_experts: int | None = None
    top_k: int | None = None
    attention: bool = True
    notes: list[Note] = field(default_factory=list)

    def tower(self, count: int, role: str = "vision") -> None:
        """`count` blocks of an encoder tower, which keep nothing between tokens."""
        self.towers.extend([Layer((NoCache(role),), stack=role)] * count)

    def finish(self, cfg: Config, family: str) -> Architecture:
        """The architecture of the whole config. Raises ContradictionError when layers and their count disagree."""
        if len(self.layers) != self.d.num_layers:
            raise ContradictionError(
                f"{self.text.file}: {len(self.layers)} layer types for {self.d.num_layers} layers ('num_hidden_layers')"
            )
        arch = assemble(
            cfg,
            self.text,
            family,
            self.d,
            [*self.layers, *self.towers],
            self.inv,
            vocab=self.vocab,
            tied=self.tied,
            intermediate=self.intermediate,
            num_experts=self.num_experts,
            top_k=self.top_k,
            notes=self.notes,
        )
        if self.attention:
            return arch
        return replace(arch, num_attention_heads=None, num_kv_heads=None, head_dim=None)


def open_stack(
    cfg: Config,
    text: Config,
    d: Dims,
    *,
    embed: str = "model.embed_tokens.weight",
    final_norm: str | None = "model.norm",
    head: str = "lm_head.weight",
    tied: bool | None = None,
    tied_default: bool = False,
) -> Stack:
    """A stack with its embedding, final norm and output projection.

    Tying is what the whole config says, else the text part, else the class default, else `tied_default`.
    """
    if tied is None:
        said = cfg.published("tie_word_embeddings")
        source = cfg if said is not None else text
        tied = source.flag("tie_word_embeddings", default=tied_default)
    vocab = text.positive(*VOCAB)
    stack = Stack(text, d, vocab, tied)
    embedding(stack.inv, embed, vocab, d.hidden)
    if final_norm is not None:
        norm(stack.inv, final_norm, None, d.hidden)
    lm_head(stack.inv, head, vocab, d.hidden, embed if tied else None)
    return stack


def as_mtp(inv: Inventory, describe: Callable[[Inventory], None]) -> None:
    """Add what `describe` lists as multi-token-prediction tensors: published, not run in plain decoding, maybe absent."""
    part = Inventory()
    describe(part)
    inv.specs.extend(replace(s, component=Component.MTP, active=Fraction(0), optional=True) for s in part.specs)


def first_again(layers: Sequence[Layer], count: int) -> list[Layer]:
    """`count` prediction layers that keep what the first layers of the decoder keep: windows follow their own numbers."""
    return [Layer(layer.caches, "mtp") for layer in layers[:count]]


def as_block(specs: Iterable[TensorSpec], layer: str, place: str, indices: range, source: int = 0) -> list[TensorSpec]:
    """The tensors of one layer of `specs` (patterns that begin with `layer`, index `source`) again, in `indices` of `place`.

    What a prediction layer that is a decoder block of its own is made of.
    """
    block = []
    for s in specs:
        if s.pattern.startswith(layer) and any(source in box[0] for box in s.boxes):
            boxes = tuple((indices, *box[1:]) for box in s.boxes if source in box[0])
            block.append(replace(s, pattern=place + s.pattern.removeprefix(layer), boxes=boxes))
    return block


def indices_of(kinds: Sequence[str], *wanted: str) -> list[int]:
    """Positions of the layers whose kind is one of `wanted`."""
    return [i for i, kind in enumerate(kinds) if kind in wanted]


def layer_kinds(cfg: Config, key: str, values: Iterable[object], known: Sequence[str], num_layers: int) -> list[str]:
    """A per-layer list of words, each one known, one a layer.

    Raises:
        UnknownArchitectureError: a word that is not in `known`.
        ContradictionError: more or fewer entries than layers.
    """
    kinds: list[str] = []
    for value in values:
        if not isinstance(value, str):
            raise UnknownArchitectureError(
                f"{cfg.file}: {key!r} holds {str(value)[:40]!r}, expected one of {', '.join(known)}"
            )
        kinds.append(cfg.choice(key, value, known))
    if len(kinds) != num_layers:
        raise ContradictionError(f"{cfg.file}: {key!r} has {len(kinds)} entries for {num_layers} layers")
    return kinds
