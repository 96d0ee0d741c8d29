"""Heads that draft for another model token by token: EAGLE 1 and 3, P-EAGLE. Their configs call themselves Llama or Qwen3.

Source: vLLM 0.33.0 `model_executor/models/{llama_eagle,llama_eagle3,qwen3_eagle3,deepseek_eagle3}.py`; what files hold:
`speculators` (`models/eagle3/core.py`: its own embedding and output table, `d2t` and `t2d` where the draft's vocabulary is a
smaller one) and ModelOpt's exporter (`export/plugins/hf_spec_export.py`: no embedding). Those that draft a block at once:
`speculators_block`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from hfmem.errors import ContradictionError
from hfmem.model import blocks
from hfmem.model.architecture import Architecture, Note
from hfmem.model.blocks import VOCAB, Dims, full, read_dims
from hfmem.model.config import Config
from hfmem.model.families.heads import class_name
from hfmem.model.inventory import Column, Component, Inventory, Replicated, Row
from hfmem.model.latent_blocks import latent_attention, latent_dims, read_latent
from hfmem.model.layers import Layer
from hfmem.records import replace

#: keys of a `speculators` config that its layers' own part (`transformer_layer_config`) does not have
_FORMAT: Final = "speculators_model_type"
_LAYERS: Final = "transformer_layer_config"
_AUX: Final = ("eagle_aux_hidden_state_layer_ids", "aux_hidden_state_layer_ids")
#: states of the target that EAGLE-3 joins where no config says how many
_EAGLE3_STATES: Final = 3


class DraftHead:
    """What every head has: its config on one level, the layers' sizes, and whether a file holds the embedding."""

    def __init__(self, cfg: Config) -> None:
        published = cfg.published(_FORMAT) is not None
        if published:
            inner = cfg.sub(_LAYERS).data
            top = {k: v for k, v in cfg.data.items() if k != _LAYERS and not (k in inner and v is None)}
            kept = ("model_type", "vocab_size", "hidden_size", "tie_word_embeddings")
            data = {**top, **{k: v for k, v in inner.items() if k in kept or k not in top}}
            cfg = Config(data, cfg.file, str(inner.get("model_type") or "llama"), cfg.used_defaults)
        self.cfg = cfg
        self.inv = Inventory()
        self.vocab = cfg.positive(*VOCAB)
        self.hidden = cfg.positive(*blocks.HIDDEN)
        self.target = cfg.opt_int("target_hidden_size") or self.hidden
        #: the `speculators` package stores the target's embedding again; a head of another width needs one of its own
        self.embeds = published or self.target != self.hidden or cfg.flag("has_embed_tokens", default=False)
        if self.embeds:
            blocks.embedding(self.inv, "embed_tokens.weight", self.vocab, self.hidden)

    def once(self, name: str, out: int, columns: int, component: Component = Component.OTHER) -> None:
        """A matrix outside the layers, whole on every rank (`ReplicatedLinear`)."""
        self.inv.add(f"{name}.weight", (out, columns), component, Replicated())

    def norm(self, name: str, size: int | None = None) -> None:
        """A norm outside the layers, of the hidden size where none is given."""
        blocks.norm(self.inv, name, None, size or self.hidden)

    def output(self) -> int:
        """The output table over the draft's own vocabulary, and what maps it to the target's. Returns its rows."""
        rows = self.cfg.opt_int("draft_vocab_size") or self.vocab
        blocks.lm_head(self.inv, "lm_head.weight", rows, self.hidden, None)
        if rows != self.vocab:
            self.inv.add("d2t", (rows,), Component.OTHER, buffer=True, optional=True)
            self.inv.add("t2d", (self.vocab,), Component.OTHER, buffer=True, optional=True)
        return rows

    def part(self, name: str) -> Mapping[str, Any]:
        """A part of the config such as `eagle_config`; empty where it has none."""
        sub = self.cfg.opt_sub(name)
        return sub.data if sub is not None else {}

    def states(self, part: str, *more: str) -> int | None:
        """How many of the target's layers a head joins, where the config lists them; `more` are other names for the list."""
        for place in (self.cfg.data, self.part(part)):
            for key in (*_AUX, *more):
                ids = place.get(key)
                if isinstance(ids, list) and ids:
                    return len(ids)
        return None

    def close(self, family: str, d: Dims, caches: list[Layer]) -> Architecture:
        """The architecture of what was described, one layer for each of `caches`."""
        notes = []
        if not self.embeds:
            notes.append(Note("draft_head", "a head that drafts for another model; it shares that model's embedding"))
        arch = blocks.assemble(
            self.cfg,
            self.cfg,
            family,
            d,
            caches,
            self.inv,
            vocab=self.vocab,
            tied=False,
            intermediate=self.cfg.positive("intermediate_size"),
            notes=notes,
        )
        return replace(arch, model_type=family)  # `llama` or `qwen3` would promise that model's class


def gqa(head: DraftHead, d: Dims, layers: Iterable[int], columns: int, bias: bool) -> None:
    """q, k and v from `columns` inputs, o back to the hidden size."""
    where, part = list(layers), Component.ATTENTION
    kv = Column(kv_heads=(d.num_kv_heads,))
    at = "layers.{}.self_attn"
    for name, heads, split in (("q", d.num_heads, Column()), ("k", d.num_kv_heads, kv), ("v", d.num_kv_heads, kv)):
        blocks.linear(head.inv, f"{at}.{name}_proj", where, heads * d.head_dim, columns, part, split, bias=bias)
    blocks.linear(head.inv, f"{at}.o_proj", where, d.hidden, d.num_heads * d.head_dim, part, Row(), bias=bias)


def draft_caches(cfg: Config, d: Dims, window: int | None) -> list[Layer]:
    """Full attention unless `layer_types` names windows."""
    types = cfg.opt_list("layer_types")
    if types is None:
        return [Layer((full(d),))] * d.num_layers
    if len(types) < d.num_layers:
        raise ContradictionError(f"{cfg.file}: 'layer_types' has {len(types)} entries for {d.num_layers} layers")
    return blocks.attention_by_types(cfg, d, types[: d.num_layers], window)


def rest_of_layers(head: DraftHead, num_layers: int) -> None:
    """Feed-forward and norms; EAGLE-3's `hidden_norm`, which the first layer alone is sure to have in files."""
    every = range(num_layers)
    blocks.gated_mlp(head.inv, "layers.{}.mlp", every, head.hidden, head.cfg.positive("intermediate_size"))
    for name in ("input_layernorm", "post_attention_layernorm"):
        blocks.norm(head.inv, f"layers.{{}}.{name}", every, head.hidden)


def _joined(head: DraftHead) -> None:
    """EAGLE-3's projection of the target's hidden states, the norms in front, the last norm and the output table."""
    cfg, eagle = head.cfg, head.part("eagle_config")
    if eagle.get("use_aux_hidden_state") is not False:
        count = cfg.opt_int("num_aux_hidden_states") or head.states("eagle_config") or _EAGLE3_STATES
        wide = count * head.target
        if eagle.get("norm_before_fc", cfg.published("norm_before_fc")):
            head.norm("input_norm", wide)
        if cfg.flag("fc_norm", default=False):
            blocks.norm(head.inv, "fc_norm.{}", range(count), head.target)
        head.once("fc", head.hidden, wide)
    head.norm("norm")
    head.output()


def _one_layer_name(head: DraftHead) -> None:
    """A head of one layer outside the `speculators` format calls it `midlayer`."""
    if head.cfg.published(_FORMAT) is None and head.cfg.positive(*blocks.LAYERS) == 1:
        head.inv.specs[:] = [
            replace(s, pattern=s.pattern.replace("layers.{}", "midlayer"), boxes=((),), layer_axis=None)
            if s.pattern.startswith("layers.{}")
            else s
            for s in head.inv.specs
        ]


def eagle3(cfg: Config) -> Architecture:
    """EAGLE-3 and P-EAGLE: Llama layers (Qwen3's with its norms), the first over embedding and hidden state side by side."""
    head = DraftHead(cfg)
    d = read_dims(head.cfg)
    bias = head.cfg.flag("attention_bias", default=False)
    gqa(head, d, [0], 2 * d.hidden, bias)
    gqa(head, d, range(1, d.num_layers), d.hidden, bias)
    if head.cfg.model_type == "qwen3":
        for name in ("q_norm", "k_norm"):
            blocks.norm(head.inv, f"layers.{{}}.self_attn.{name}", range(d.num_layers), d.head_dim)
    blocks.norm(head.inv, "layers.{}.hidden_norm", [0], d.hidden)
    rest_of_layers(head, d.num_layers)
    _joined(head)
    _one_layer_name(head)
    family = "peagle" if _all_at_once(cfg) else "eagle3"
    return head.close(family, d, draft_caches(head.cfg, d, head.cfg.opt_int("sliding_window")))


def _all_at_once(cfg: Config) -> bool:
    """Whether it is P-EAGLE, whose tokens are drafted in one step."""
    return cfg.published(_FORMAT) == "peagle" or class_name(cfg).lower().startswith("peagle")


def eagle3_latent(cfg: Config) -> Architecture:
    """EAGLE-3 before DeepSeek V2, V3 and Kimi K2: latent attention and a dense feed-forward."""
    head = DraftHead(cfg)
    latent = read_latent(head.cfg)
    d = latent_dims(head.cfg, latent)
    for layers, columns in (([0], 2 * d.hidden), (range(1, d.num_layers), d.hidden)):
        inv = Inventory()
        latent_attention(inv, "layers.{}.self_attn", layers, d.hidden, latent)
        for spec in inv.specs:
            narrow = spec.shape[-1] == d.hidden and not spec.pattern.endswith("o_proj.weight") and len(spec.shape) == 2
            head.inv.specs.append(_wider(spec, columns) if narrow else spec)
    blocks.norm(head.inv, "layers.{}.hidden_norm", [0], d.hidden)
    rest_of_layers(head, d.num_layers)
    _joined(head)
    _one_layer_name(head)
    return head.close("eagle3", d, [Layer((latent.cache(),))] * d.num_layers)


def _wider(spec: Any, columns: int) -> Any:
    return replace(spec, shape=(spec.shape[0], columns))


def eagle(cfg: Config) -> Architecture:
    """EAGLE 1: Llama layers (no norm before the first) behind a projection of embedding and hidden state; no table of its own."""
    head = DraftHead(cfg)
    d = read_dims(head.cfg)
    every = range(d.num_layers)
    bias = head.cfg.flag("attention_bias", default=False)
    gqa(head, d, every, d.hidden, bias)
    blocks.gated_mlp(head.inv, "layers.{}.mlp", every, d.hidden, head.cfg.positive("intermediate_size"))
    blocks.norm(head.inv, "layers.{}.input_layernorm", every[1:], d.hidden)
    blocks.norm(head.inv, "layers.{}.post_attention_layernorm", every, d.hidden)
    head.once("fc", d.hidden, 2 * d.hidden)
    return head.close("eagle", d, draft_caches(head.cfg, d, head.cfg.opt_int("sliding_window")))
