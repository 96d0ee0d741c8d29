"""What a model is, once its config has been read: the only thing later stages know about it."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from hfmem.model.inventory import Component, TensorSpec
from hfmem.model.layers import Cache, Layer, NoCache
from hfmem.model.rotary import Rotations
from hfmem.model.vision_facts import VisionTower
from hfmem.records import dataclass, replace
from hfmem.remembered import remembered


@dataclass(frozen=True, slots=True)
class Note:
    """A warning that travels into the report: a stable code and one sentence."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """Facts derived from config.json by one family's rule.

    Heads and head_dim describe the main (text) stack's first attention layer and are None where the model has no attention;
    per-layer truth is in `layers`. `dtype` is the canonical code of the config's dtype (the model's default for state and cache).
    `class_defaults` lists keys that config.json leaves out and the class default table supplied. `dtype_given` False: config.json
    names no dtype, and what the files store decides where it is known (`parameters.with_stored_dtype`). `partial`: the model has
    parts that `tensors` does not list, so that only its files tell what it weighs. `code` is where there is a class for
    transformers to run: its own, the repository's (`auto_map`), or only in other engines. `text_type` is the type of the text
    model inside a wrapper, empty for none, `vision_heads` the heads of its image encoder where the config tells. `image_prefix`:
    the config says that the tokens of an image see each other. `vision_size`: layers and hidden size of its `vision_config`, as
    far as that names them. `vision_tower`: what `vision_config` says of an encoder of images, `rotations` what the text model's
    part says of rotary embeddings; None where it says nothing. `residual_streams`: of a token, where there are several.
    `drafted`: tokens that a head proposes at once which drafts whole blocks. `router_dtype`: as config.json names it.
    """

    family: str
    model_type: str
    architectures: tuple[str, ...]
    dtype: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int | None
    num_kv_heads: int | None
    head_dim: int | None
    vocab_size: int
    max_position_embeddings: int | None
    layers: tuple[Layer, ...]
    tensors: tuple[TensorSpec, ...]
    tie_word_embeddings: bool = False
    intermediate_size: int | None = None
    num_experts: int | None = None
    num_experts_per_tok: int | None = None
    rope_scaled: bool = False
    assumed: str | None = None
    class_defaults: tuple[str, ...] = ()
    dtype_given: bool = True
    notes: tuple[Note, ...] = ()
    partial: bool = False
    code: Literal["transformers", "remote", "elsewhere"] = "transformers"
    text_type: str = ""
    vision_heads: int | None = None
    image_prefix: bool = False
    vision_size: tuple[int | None, int | None] | None = None
    vision_tower: VisionTower | None = None
    rotations: Rotations | None = None
    residual_streams: int | None = None
    drafted: int | None = None
    router_dtype: str | None = None

    @remembered
    def caches(self) -> tuple[Cache, ...]:
        """Every layer's caches in order, flattened."""
        return tuple(cache for layer in self.layers for cache in layer.caches)

    @remembered
    def kinds(self) -> tuple[Cache, ...]:
        """The distinct ones among all layers' caches, in the order in which they first appear."""
        return tuple(dict.fromkeys({id(cache): cache for cache in self.caches()}.values()))

    def expected_parameters(self) -> int:
        """Logical parameters by the inventory: buffers and tied copies left out."""
        return sum(s.count * s.elements for s in self.tensors if not s.buffer and s.tied_to is None)

    def active_parameters(self) -> int:
        """Parameters that one token uses: routed experts at top_k / num_experts; MTP layers do not run in plain decoding."""
        total = sum(
            (Fraction(s.count * s.elements) * s.active for s in self.tensors if not s.buffer and s.tied_to is None),
            Fraction(0),
        )
        return int(total)

    def parameters_by_component(self) -> dict[Component, int]:
        """Logical parameters of each component, by the inventory."""
        totals: dict[Component, int] = {}
        for s in self.tensors:
            if not s.buffer and s.tied_to is None:
                totals[s.component] = totals.get(s.component, 0) + s.count * s.elements
        return totals


def without_cache(architecture: Architecture) -> Architecture:
    """The same model with its decoder used as an encoder: every token sees every other, and nothing is kept."""
    encoder = Layer((NoCache("encoder"),), stack="encoder")
    layers = tuple(encoder if layer.stack == "decoder" else layer for layer in architecture.layers)
    return replace(architecture, layers=layers)
