"""dots3-note's text model: latent attention with an indexer, windowed latent attention between, experts from the second layer on.

Source: transformers 5.23.0 `models/dots3_note/`; vLLM 0.33.0 `models/dots3_note/nvidia/{model,mtp}.py` for what only the published
config.json says (`swa_*`, `num_nextn_predict_layers`).
"""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.blocks import gated_mlp, linear, norm
from hfmem.model.config import Config
from hfmem.model.families.deepseek import CORRECTION, mtp_head, nextn_layers
from hfmem.model.families.parts import COLUMN, WHOLE
from hfmem.model.inventory import Component, Inventory
from hfmem.model.latent_blocks import Indexer, Latent, indexer, latent_attention, latent_dims, read_indexer, read_latent
from hfmem.model.layers import Cache, Layer, SlidingAttention
from hfmem.model.moe import moe, read_experts, sparse_layers
from hfmem.model.stack import as_mtp, open_stack
from hfmem.records import replace

_SLIDING, _INDEXED, _FULL = "sliding_attention", "indexed_attention", "full_attention"
#: the windowed layers' sizes where a config gives none (`Dots3NoteTextConfig`)
_WINDOWED = {
    "num_attention_heads": 64,
    "q_lora_rank": 1024,
    "kv_lora_rank": 1024,
    "qk_nope_head_dim": 192,
    "v_head_dim": 128,
}
_WINDOW, _WINDOWED_HEAD = 512, 256


def dots3_note_text(cfg: Config) -> Architecture:
    """Both published spellings: the windowed layers' sizes as `swa_*`, or as transformers saves them in `per_layer_config`."""
    kinds = _kinds(cfg)
    wide, narrow, index = read_latent(cfg), _windowed(cfg, kinds), read_indexer(cfg)
    window = cfg.opt_int("sliding_window", "sliding_window_size") or _WINDOW
    d = latent_dims(cfg, wide)
    stack = open_stack(cfg, cfg, d)
    experts = read_experts(cfg)
    if experts is None:
        raise ContradictionError(f"{cfg.file}: 'n_routed_experts' is missing: every dots3-note model has experts")
    shared = cfg.positive("moe_shared_expert_intermediate_size", "shared_experts_intermediate_size")
    experts = replace(experts, shared_width=shared * cfg.positive("n_shared_experts"))
    sparse = sparse_layers(cfg, d.num_layers, dense_default=1)
    dense = [i for i in range(d.num_layers) if i not in set(sparse)]
    gate = cfg.opt_str("attention_gate_type") or "headwise"
    bias, block = cfg.flag("attention_bias", default=False), "model.layers.{}"
    stack.intermediate = cfg.positive("intermediate_size")
    for kind in (_INDEXED, _FULL, _SLIDING):
        where = [i for i, k in enumerate(kinds[: d.num_layers]) if k == kind]
        _attention(
            stack.inv,
            where,
            d.hidden,
            narrow if kind == _SLIDING else wide,
            index if kind == _INDEXED else None,
            bias=bias,
            gate=gate,
        )
    gated_mlp(stack.inv, f"{block}.mlp", dense, d.hidden, stack.intermediate)
    moe(stack.inv, f"{block}.mlp", sparse, d.hidden, experts, correction_bias=CORRECTION)
    stack.num_experts, stack.top_k = experts.count, experts.top_k
    extra = range(d.num_layers, d.num_layers + nextn_layers(cfg))
    if extra:  # a dense block of the kind that `layer_types` names after the last layer
        width = stack.intermediate

        def mtp(part: Inventory) -> None:
            for i in extra:
                slides = len(kinds) > i and kinds[i] == _SLIDING
                _attention(
                    part, [i], d.hidden, narrow if slides else wide, None if slides else index, bias=bias, gate=gate
                )
            gated_mlp(part, f"{block}.mlp", extra, d.hidden, width)
            mtp_head(part, block, extra, d.hidden, stack.vocab)

        as_mtp(stack.inv, mtp)
    # a windowed layer keeps one latent row a token: one head whose key is the latent and whose value its rotary part
    slides = SlidingAttention(narrow.num_heads, 1, narrow.kv_lora_rank, narrow.rope, window)
    caches: dict[str, Cache] = {_SLIDING: slides, _INDEXED: wide.sparse(index), _FULL: wide.cache()}
    stack.layers = [Layer((caches[kind],)) for kind in kinds[: d.num_layers]]
    stack.towers += [
        Layer((slides if len(kinds) > i and kinds[i] == _SLIDING else wide.sparse(index),), "mtp") for i in extra
    ]
    return stack.finish(cfg, "dots3_note")


def _kinds(cfg: Config) -> list[str]:
    """Each layer's attention. Layers called full have the indexer unless `use_dsa` is false."""
    count = cfg.positive("num_hidden_layers")
    given = cfg.published("per_layer_config") is not None
    said = cfg.published("use_dsa")
    types = cfg.opt_list("layer_types")
    if types is None:
        slides = cfg.published("use_sliding_window") is not False
        types = [_SLIDING if slides and i >= 2 and i % 4 != 1 else _INDEXED for i in range(count)]
    kinds = [cfg.choice("layer_types", str(kind), (_SLIDING, _INDEXED, _FULL)) for kind in types]
    if len(kinds) not in (count, count + nextn_layers(cfg)):
        raise ContradictionError(f"{cfg.file}: 'layer_types' has {len(kinds)} entries for {count} layers")
    if said is False:
        return [_FULL if kind == _INDEXED else kind for kind in kinds]
    if said is None and given:
        return kinds
    return [_INDEXED if kind == _FULL else kind for kind in kinds]


def _windowed(cfg: Config, kinds: Sequence[str]) -> Latent:
    """Ranks and heads of the windowed layers."""
    given = cfg.published("per_layer_config")
    # keys are padded to one width: "05" beside "29"
    overrides = {int(k): v for k, v in given.items() if str(k).isdigit()} if isinstance(given, dict) else {}
    first = next((i for i, kind in enumerate(kinds) if kind == _SLIDING), -1)
    own = overrides.get(first)
    if isinstance(own, dict):
        return read_latent(Config({**cfg.data, **own}, f"{cfg.file}: per_layer_config {first}", "", cfg.used_defaults))
    heads, q_rank, rank, nope, v = (
        default if cfg.published(f"swa_{name}") is None else cfg.positive(f"swa_{name}")
        for name, default in _WINDOWED.items()
    )
    if cfg.published("swa_qk_rope_head_dim") is not None:
        rope = cfg.positive("swa_qk_rope_head_dim")
    else:
        rope = (_WINDOWED_HEAD if cfg.published("swa_head_dim") is None else cfg.positive("swa_head_dim")) - nope
    return Latent(heads, q_rank, rank, rope, nope, v)


def _attention(
    inv: Inventory, layers: Sequence[int], hidden: int, latent: Latent, index: Indexer | None, *, bias: bool, gate: str
) -> None:
    """Latent attention, a gate for each head (or for each of its values), a norm of the rotary key; the block's two norms."""
    prefix = "model.layers.{}"
    at = f"{prefix}.self_attn"
    latent_attention(inv, at, layers, hidden, latent, bias=bias)
    headwise = gate == "headwise"
    rows, split = (latent.num_heads, WHOLE) if headwise else (latent.num_heads * latent.v, COLUMN)
    linear(inv, f"{at}.g_proj", layers, rows, hidden, Component.ATTENTION, split)
    norm(inv, f"{at}.k_rope_only_layernorm", layers, latent.rope)
    if index is not None:
        indexer(inv, f"{at}.indexer", layers, hidden, latent.q_lora_rank or hidden, index)
    norm(inv, f"{prefix}.input_layernorm", layers, hidden)
    norm(inv, f"{prefix}.post_attention_layernorm", layers, hidden)
