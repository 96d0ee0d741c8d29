"""Nemotron-H and Nemotron-3: one mixer a layer (Mamba 2, attention, MLP or experts) by a pattern, experts maybe in a latent space.

Source: transformers 5.23.0 `models/nemotron_h`; published names (`backbone.layers.N.mixer.…`); the prediction stack from vLLM
0.33.0 `nemotron_h_mtp.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction

from hfmem.errors import ContradictionError, MissingKeyError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import HEADS, HIDDEN, KV_HEADS, Dims, attention, full, linear, norm, plain_mlp
from hfmem.model.config import Config
from hfmem.model.inventory import Column, Component, ExpertSplit, Inventory, Replicated, Row
from hfmem.model.layers import Cache, Layer, NoCache
from hfmem.model.stack import as_mtp, indices_of, layer_kinds, open_stack
from hfmem.model.state_blocks import Mamba2, mamba2, state_dtype

LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
#: newer spellings of the words in `layers_block_type`
SYNONYMS = {"linear_attention": "mamba", "full_attention": "attention"}
WORDS = ("mamba", "attention", "mlp", "moe")
UP_DOWN = ("up_proj", "down_proj")


def _kinds(cfg: Config, words_key: str, pattern_key: str) -> list[str]:
    """The mixers in order: a list of words, else a pattern of letters. Raises MissingKeyError when there is neither."""
    words = cfg.published(words_key, "layer_types") if words_key == "layers_block_type" else cfg.published(words_key)
    if words is None:
        pattern = cfg.opt_str(pattern_key)
        if pattern is None:
            raise MissingKeyError(
                f"{cfg.file}: {pattern_key!r} (or {words_key}) is missing and {cfg.model_type!r} needs it"
            )
        for letter in pattern:
            cfg.choice(pattern_key, letter, tuple(LETTERS))
        return [LETTERS[letter] for letter in pattern]
    if not isinstance(words, list):
        raise ContradictionError(f"{cfg.file}: {words_key!r} is {str(words)[:40]!r}, expected a list")
    named = [SYNONYMS.get(word, word) if isinstance(word, str) else word for word in words]
    return layer_kinds(cfg, words_key, named, WORDS, len(named))


def _dims(cfg: Config, num_layers: int) -> Dims:
    """Heads have a width of their own (`head_dim`, or `attention_head_dim` in Nemotron-H)."""
    heads = cfg.positive(*HEADS)
    kv_heads = cfg.opt_int(*KV_HEADS) or heads
    if heads % kv_heads:
        raise ContradictionError(f"{cfg.file}: {heads} attention heads cannot share {kv_heads} KV heads")
    return Dims(cfg.positive(*HIDDEN), num_layers, heads, kv_heads, cfg.positive("head_dim", "attention_head_dim"))


def _mixer(cfg: Config, hidden: int) -> Mamba2:
    bias = cfg.flag("use_bias", default=False)
    return Mamba2(
        hidden,
        cfg.positive("mamba_num_heads"),
        cfg.positive("mamba_head_dim"),
        cfg.positive("ssm_state_size"),
        cfg.positive("n_groups", "mamba_n_groups"),
        cfg.positive("conv_kernel", "mamba_d_conv"),
        cfg.flag("use_conv_bias", "mamba_conv_bias", default=True),
        bias,
        bias,
        state_dtype(cfg),
    )


def _experts(inv: Inventory, cfg: Config, prefix: str, indices: Sequence[int], hidden: int) -> None:
    """Ungated experts and a shared one; with `moe_latent_size` the routed ones work between two projections."""
    count, top_k = cfg.positive("n_routed_experts"), cfg.positive("num_experts_per_tok")
    if not 1 <= top_k <= count:
        raise ContradictionError(f"{cfg.file}: {top_k} experts per token cannot be picked from {count}")
    width, shared = cfg.positive("moe_intermediate_size"), cfg.positive("moe_shared_expert_intermediate_size")
    bias, routed = cfg.flag("mlp_bias", default=False), Component.EXPERTS
    latent = cfg.opt_int("moe_latent_size")
    inner = latent or hidden
    linear(inv, f"{prefix}.gate", indices, count, hidden, routed, Replicated())
    inv.each(f"{prefix}.gate.e_score_correction_bias", indices, (count,), routed, buffer=True, optional=True)
    share, experts = Fraction(top_k, count), f"{prefix}.experts.{{}}"
    up, down = ExpertSplit(1, Column()), ExpertSplit(1, Row())
    inv.each(f"{experts}.up_proj.weight", indices, (width, inner), routed, up, inner=count, active=share)
    inv.each(f"{experts}.down_proj.weight", indices, (inner, width), routed, down, inner=count, active=share)
    if latent:
        linear(inv, f"{prefix}.fc1_latent_proj", indices, latent, hidden, routed, Replicated(), bias=bias)
        linear(inv, f"{prefix}.fc2_latent_proj", indices, hidden, latent, routed, Replicated(), bias=bias)
    if cfg.opt_int("n_shared_experts") != 0:
        plain_mlp(inv, f"{prefix}.shared_experts", indices, hidden, shared, bias=bias, names=UP_DOWN)


def _mixers(inv: Inventory, cfg: Config, prefix: str, kinds: Sequence[str], d: Dims) -> None:
    """Each layer's norm and mixer."""
    norm(inv, f"{prefix}.norm", range(len(kinds)), d.hidden)
    _bodies(inv, cfg, f"{prefix}.mixer", kinds, d)


def _bodies(inv: Inventory, cfg: Config, mixer: str, kinds: Sequence[str], d: Dims) -> None:
    """The mixers of the layers whose kind is named ("": not among them)."""
    if recurrent := indices_of(kinds, "mamba"):
        mamba2(inv, mixer, recurrent, _mixer(cfg, d.hidden))
    bias = cfg.flag("attention_bias", default=False)
    attention(inv, mixer, indices_of(kinds, "attention"), d, qkv_bias=bias, o_bias=bias)
    if dense := indices_of(kinds, "mlp"):
        width, mlp_bias = cfg.positive("intermediate_size"), cfg.flag("mlp_bias", default=False)
        plain_mlp(inv, mixer, dense, d.hidden, width, bias=mlp_bias, names=UP_DOWN)
    if sparse := indices_of(kinds, "moe"):
        _experts(inv, cfg, mixer, sparse, d.hidden)


def _prediction(inv: Inventory, cfg: Config, d: Dims, steps: int) -> list[str]:
    """The `mtp.` stack: `steps` runs of a pattern of its own, whose kinds of layers are told; the first layer of a run projects its
    inputs, the last is normed."""
    run = _kinds(cfg, "mtp_layers_block_type", "mtp_hybrid_override_pattern")
    starts = [i * len(run) for i in range(steps)]
    ends = [start + len(run) - 1 for start in starts]

    def describe(part: Inventory) -> None:
        _mixers(part, cfg, "mtp.layers.{}", run * steps, d)
        linear(part, "mtp.layers.{}.eh_proj", starts, d.hidden, 2 * d.hidden, Component.MTP, Column())
        norm(part, "mtp.layers.{}.enorm", starts, d.hidden)
        norm(part, "mtp.layers.{}.hnorm", starts, d.hidden)
        norm(part, "mtp.layers.{}.final_layernorm", ends, d.hidden)

    as_mtp(inv, describe)
    return run * steps


def nemotron_h(cfg: Config) -> Architecture:
    """The pattern decides how many layers there are; `num_hidden_layers`, where given, must agree."""
    kinds = _kinds(cfg, "layers_block_type", "hybrid_override_pattern")
    declared = cfg.published("num_hidden_layers")
    if declared is not None and declared != len(kinds):
        raise ContradictionError(
            f"{cfg.file}: 'num_hidden_layers' is {declared} and the layer pattern has {len(kinds)} entries"
        )
    d = _dims(cfg, len(kinds))
    stack = open_stack(cfg, cfg, d, embed="backbone.embeddings.weight", final_norm="backbone.norm_f")
    _mixers(stack.inv, cfg, "backbone.layers.{}", kinds, d)
    steps = cfg.opt_int("num_nextn_predict_layers")
    predicting = _prediction(stack.inv, cfg, d, steps) if steps else []
    if "mlp" in kinds or "moe" not in kinds:
        stack.intermediate = cfg.opt_int("intermediate_size")
    if "moe" in kinds:
        stack.num_experts, stack.top_k = cfg.opt_int("n_routed_experts"), cfg.opt_int("num_experts_per_tok")
    stack.attention = "attention" in kinds
    state: Cache = _mixer(cfg, d.hidden).cache() if "mamba" in kinds else NoCache("mamba")
    caches: dict[str, Cache] = {"attention": full(d), "mamba": state, "mlp": NoCache("mlp"), "moe": NoCache("moe")}
    stack.layers = [Layer((caches[kind],)) for kind in kinds]
    stack.towers += [Layer((caches[kind],), "mtp") for kind in predicting]
    return stack.finish(cfg, "nemotron_h")


def nemotron_h_puzzle(cfg: Config) -> Architecture:
    """Nemotron-H cut by architecture search: `block_configs` names each layer's mixer and what differs in it from the config."""
    layers = _block_configs(cfg, "block_configs")
    d = _dims(cfg, len(layers))
    stack = open_stack(cfg, cfg, d, embed="backbone.embeddings.weight", final_norm="backbone.norm_f")
    caches = _puzzle(stack.inv, cfg, "backbone.layers.{}", layers, d)
    if cfg.opt_int("num_nextn_predict_layers"):
        run = _block_configs(cfg, "mtp_block_configs")
        ends = [len(run) - 1]

        def describe(part: Inventory) -> None:
            _puzzle(part, cfg, "mtp.layers.{}", run, d)
            linear(part, "mtp.layers.{}.eh_proj", [0], d.hidden, 2 * d.hidden, Component.MTP, Column())
            norm(part, "mtp.layers.{}.enorm", [0], d.hidden)
            norm(part, "mtp.layers.{}.hnorm", [0], d.hidden)
            norm(part, "mtp.layers.{}.final_layernorm", ends, d.hidden)

        as_mtp(stack.inv, describe)
    experts = [part.opt_int("n_routed_experts") or 0 for kind, part in layers if kind == "moe"]
    if experts:
        stack.num_experts, stack.top_k = max(experts), cfg.opt_int("num_experts_per_tok")
    stack.attention = any(kind == "attention" for kind, _ in layers)
    stack.layers = [Layer((cache,)) for cache in caches]
    return stack.finish(cfg, "nemotron_h")


def _block_configs(cfg: Config, key: str) -> list[tuple[str, Config]]:
    """Each layer's kind and the config as it holds there. Raises MissingKeyError, ContradictionError naming the key."""
    found = []
    for number, entry in enumerate(cfg.need_list(key)):
        kind = entry.get("block_type") if isinstance(entry, Mapping) else None
        if not isinstance(entry, Mapping) or not isinstance(kind, str):
            raise ContradictionError(f"{cfg.file}: entry {number} of {key!r} names no 'block_type'")
        cfg.choice(f"{key}.block_type", kind, WORDS)
        found.append((kind, Config({**cfg.data, **entry}, cfg.file, cfg.model_type, cfg.used_defaults)))
    return found


def _puzzle(inv: Inventory, cfg: Config, prefix: str, layers: Sequence[tuple[str, Config]], d: Dims) -> list[Cache]:
    """Norms and mixers of layers with configs of their own, alike ones together. Returns what each keeps."""
    norm(inv, f"{prefix}.norm", range(len(layers)), d.hidden)
    alike: dict[str, list[int]] = {}
    for i, (kind, part) in enumerate(layers):
        own = {key: value for key, value in part.data.items() if cfg.data.get(key) != value}
        alike.setdefault(json.dumps([kind, own], sort_keys=True, default=str), []).append(i)
    caches: dict[int, Cache] = {}
    for where in alike.values():
        kind, part = layers[where[0]]
        dims = _dims(part, len(layers))
        _bodies(inv, part, f"{prefix}.mixer", [kind if i in where else "" for i in range(len(layers))], dims)
        kept: Cache = NoCache(kind)
        if kind == "attention":
            kept = full(dims)
        elif kind == "mamba":
            kept = _mixer(part, d.hidden).cache()
        caches.update(dict.fromkeys(where, kept))
    return [caches[i] for i in range(len(layers))]
