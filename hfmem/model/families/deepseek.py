"""DeepSeek V2, V3, R1, V3.1, V3.2 and models of their shape: Kimi K2, GLM-4.7-Flash, GLM 5, A.X K1, Mistral 4, MiniCPM3.

Source: transformers 5.23.0 `models/{deepseek_v2,deepseek_v3,deepseek_v32,glm4_moe_lite,glm_moe_dsa,axk1,mistral4,minicpm3}`; the
multi-token-prediction layer's names from the headers of the published DeepSeek-R1 and GLM-4.5 checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.errors import MissingKeyError, UnknownArchitectureError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.blocks import attention as plain_attention
from hfmem.model.blocks import full as full_attention
from hfmem.model.blocks import gated_mlp, linear, norm, plain_mlp, read_dims
from hfmem.model.config import Config
from hfmem.model.decoder_builder import read_as
from hfmem.model.inventory import Column, Component, Inventory, Replicated
from hfmem.model.latent_blocks import Indexer, Latent, indexer, latent_attention, latent_dims, read_indexer, read_latent
from hfmem.model.layers import Layer
from hfmem.model.moe import Experts, moe, read_experts, sparse_layers
from hfmem.model.stack import Stack, as_mtp, layer_kinds, open_stack
from hfmem.records import replace

CORRECTION = "gate.e_score_correction_bias"


def nextn_layers(cfg: Config) -> int:
    """How many multi-token-prediction layers the config itself declares.

    A class default is no evidence that a checkpoint stores them, so none is used.
    """
    value = cfg.published("num_nextn_predict_layers", "num_mtp_layers")
    return 0 if value is None else (cfg.opt_int("num_nextn_predict_layers", "num_mtp_layers") or 0)


def latent_block(
    inv: Inventory,
    prefix: str,
    indices: Sequence[int],
    hidden: int,
    latent: Latent,
    *,
    bias: bool,
    index: Indexer | None = None,
    indexed: Sequence[int] = (),
) -> None:
    """Attention (with an indexer in the layers of `indexed`) and the two norms of a pre-norm block."""
    latent_attention(inv, f"{prefix}.self_attn", indices, hidden, latent, bias=bias)
    if index is not None:
        indexer(inv, f"{prefix}.self_attn.indexer", indexed, hidden, latent.q_lora_rank or hidden, index)
    norm(inv, f"{prefix}.input_layernorm", indices, hidden)
    norm(inv, f"{prefix}.post_attention_layernorm", indices, hidden)


def mtp_head(
    inv: Inventory, prefix: str, indices: Sequence[int], hidden: int, vocab: int, *, shared: bool = False
) -> None:
    """What DeepSeek's multi-token-prediction layer has beside a decoder block: a projection, its own embedding and output head.

    With `shared`, it uses the model's own embedding and head, and the checkpoint stores them once.
    """
    linear(inv, f"{prefix}.eh_proj", indices, hidden, 2 * hidden, Component.MTP, Replicated())
    for name in ("enorm", "hnorm", "shared_head.norm"):
        norm(inv, f"{prefix}.{name}", indices, hidden)
    if shared:
        return
    linear(inv, f"{prefix}.embed_tokens", indices, vocab, hidden, Component.MTP, Column())
    linear(inv, f"{prefix}.shared_head.head", indices, vocab, hidden, Component.MTP, Column())


def latent_stack(
    cfg: Config,
    text: Config,
    *,
    prefix: str = "model",
    head: str = "lm_head.weight",
    correction: str | None = CORRECTION,
    index: Indexer | None = None,
    indexed: Sequence[int] | None = None,
    post_mlp_norm: bool = False,
    tied_default: bool = False,
    dense_default: int = 0,
    mlp_bias: bool = False,
    shared_mtp_vocab: bool = False,
) -> Stack:
    """The DeepSeek stack: latent attention everywhere, dense feed-forward first, experts after, maybe an indexer, maybe MTP.

    `indexed`: layers with an indexer of their own (default all, with `index`). `post_mlp_norm`: a norm after the experts (A.X K1).
    `mlp_bias`: dense feed-forwards and shared experts have biases, as V2's class makes them where its config says so.
    `shared_mtp_vocab`: the prediction layer stores no embedding and no head of its own.
    """
    latent = read_latent(text)
    d = latent_dims(text, latent)
    stack = open_stack(
        cfg, text, d, embed=f"{prefix}.embed_tokens.weight", final_norm=f"{prefix}.norm", head=head, tied_default=tied_default
    )  # fmt: skip
    inv = stack.inv
    experts = read_experts(text)
    sparse = sparse_layers(text, d.num_layers, dense_default=dense_default) if experts else []
    dense = [i for i in range(d.num_layers) if i not in set(sparse)]
    bias = text.flag("attention_bias", default=False)
    own = list(range(d.num_layers)) if indexed is None else list(indexed)
    block = f"{prefix}.layers.{{}}"
    latent_block(inv, block, range(d.num_layers), d.hidden, latent, bias=bias, index=index, indexed=own)
    if dense:
        stack.intermediate = text.positive("intermediate_size")
        gated_mlp(inv, f"{block}.mlp", dense, d.hidden, stack.intermediate, bias=mlp_bias)
    else:
        stack.intermediate = text.opt_int("intermediate_size")
    if experts:
        moe(inv, f"{block}.mlp", sparse, d.hidden, experts, correction_bias=correction, shared_bias=mlp_bias)
        stack.num_experts, stack.top_k = experts.count, experts.top_k
        if post_mlp_norm:
            norm(inv, f"{block}.post_mlp_layernorm", sparse, d.hidden)
    extra = nextn_layers(text)
    if extra:
        last = range(d.num_layers, d.num_layers + extra)

        def mtp(part: Inventory) -> None:
            latent_block(part, block, last, d.hidden, latent, bias=bias, index=index, indexed=last)
            _mtp_feed_forward(part, f"{block}.mlp", last, d.hidden, experts, stack.intermediate, correction)
            mtp_head(part, block, last, d.hidden, stack.vocab, shared=shared_mtp_vocab)

        as_mtp(inv, mtp)
    owned = set(own)
    stack.layers = [
        Layer((latent.cache() if index is None else latent.sparse(index, i in owned),)) for i in range(d.num_layers)
    ]
    return stack


def _mtp_feed_forward(
    inv: Inventory,
    prefix: str,
    indices: Sequence[int],
    hidden: int,
    experts: Experts | None,
    intermediate: int | None,
    correction: str | None,
) -> None:
    if experts is not None:
        moe(inv, prefix, indices, hidden, experts, correction_bias=correction)
    elif intermediate is not None:
        gated_mlp(inv, prefix, indices, hidden, intermediate)


def _mlp_bias(cfg: Config) -> bool:
    return cfg.flag("mlp_bias", default=False)


def deepseek_v2(cfg: Config) -> Architecture:
    """DeepSeek V2 and V2-Lite (no query compression); no load-balancing bias."""
    return latent_stack(cfg, cfg, correction=None, mlp_bias=_mlp_bias(cfg)).finish(cfg, "deepseek_v2")


def deepseek_v3(cfg: Config) -> Architecture:
    """DeepSeek V3, V3.1, R1 and Kimi K2."""
    return latent_stack(cfg, cfg).finish(cfg, "deepseek_v3")


def kimi_k2(cfg: Config) -> Architecture:
    """Kimi K2: DeepSeek V3's class. Published too with `group_query_attention` in place of the latent (Kimi2-PCL)."""
    if cfg.published("group_query_attention") is True and cfg.published("kv_lora_rank") is None:
        return _grouped_query(cfg).finish(cfg, "kimi_k2")
    if (
        cfg.published("group_query_attention") is True
    ):  # the 1T one: its modeling code and its converter differ on a head's width
        words = "'group_query_attention' is true beside 'kv_lora_rank': how wide its keys and values are is not known"
        raise UnknownArchitectureError(f"{cfg.file}: {words}")
    return latent_stack(cfg, cfg).finish(cfg, "kimi_k2")


def _grouped_query(cfg: Config) -> Stack:
    """Megatron-trained variant: plain grouped-query attention with `num_query_groups` KV heads, a norm over each head of q and k.

    Source: the index of jianzhnie/Kimi2-PCL: its tensors add up to its total_size with 128-wide heads and `num_query_groups` KV
    heads (its `num_key_value_heads` says otherwise).
    """
    d = read_dims(cfg)
    notes: list[Note] = []
    groups = cfg.opt_int("num_query_groups")
    if cfg.published("head_dim") is None and "kv_channels" not in cfg.data:
        d = replace(d, head_dim=128)
        notes.append(
            Note("assumed-head-dim", "config.json does not say how wide a head is; 128 as in the published Kimi2-PCL")
        )
    d = replace(d, num_kv_heads=groups or d.num_kv_heads)
    stack = open_stack(cfg, cfg, d)
    stack.notes = notes
    every = range(d.num_layers)
    inv = stack.inv
    plain_attention(
        inv, "model.layers.{}.self_attn", every, d, qk_norm="head", qk_norm_names=("q_layernorm", "k_layernorm")
    )
    norm(inv, "model.layers.{}.input_layernorm", every, d.hidden)
    norm(inv, "model.layers.{}.post_attention_layernorm", every, d.hidden)
    experts = read_experts(cfg)
    if experts is None:
        raise MissingKeyError(f"{cfg.file}: 'n_routed_experts' is missing and 'kimi_k2' needs it")
    sparse = sparse_layers(cfg, d.num_layers)
    stack.intermediate = cfg.positive("intermediate_size")
    dense = [i for i in every if i not in set(sparse)]
    gated_mlp(inv, "model.layers.{}.mlp", dense, d.hidden, stack.intermediate)
    moe(inv, "model.layers.{}.mlp", sparse, d.hidden, experts, correction_bias=CORRECTION)
    stack.num_experts, stack.top_k = experts.count, experts.top_k
    stack.layers = [Layer((full_attention(d),))] * d.num_layers
    return stack


def deepseek_v32(cfg: Config) -> Architecture:
    """DeepSeek V3.2: V3 with a lightning indexer in every layer."""
    return latent_stack(cfg, cfg, index=read_indexer(cfg)).finish(cfg, "deepseek_v32")


def shared_indexers(cfg: Config, num_layers: int) -> list[int]:
    """GLM 5.2's layers with an indexer of their own; the others reuse the choice of the last one before them.

    `indexer_types` says it in words, `index_topk_pattern` in letters, else every `index_topk_freq`-th layer from
    `index_skip_topk_offset` − 1 on has one, and all before that.
    """
    types = cfg.opt_list("indexer_types")
    if types is not None and len(types) != num_layers and cfg.published("index_topk_freq") is not None:
        types = None  # a published list that is too short (GLM-5.3-NVFP4: 74 of 78) beside the rule that made it
    if types is None and (pattern := cfg.published("index_topk_pattern")) is not None:
        types = [{"F": "full", "S": "shared"}.get(c, c) for c in pattern]
    if types is not None:
        kinds = layer_kinds(cfg, "indexer_types", types, ("full", "shared"), num_layers)
        return [i for i, kind in enumerate(kinds) if kind == "full"]
    freq = max(cfg.opt_int("index_topk_freq") or 1, 1)
    offset = cfg.opt_int("index_skip_topk_offset")
    offset = 2 if offset is None else offset  # what GlmMoeDsaConfig assumes
    return [i for i in range(num_layers) if max(i - offset + 1, 0) % freq == 0]


def glm_moe_dsa(cfg: Config) -> Architecture:
    """GLM 5: DeepSeek V3.2's shape; from 5.2 on only some layers have an indexer.

    Its prediction layer uses the model's embedding and head: the published totals (GLM-5: 753,864,139,008) hold one of each.
    """
    indexed = shared_indexers(cfg, cfg.positive("num_hidden_layers"))
    stack = latent_stack(cfg, cfg, index=read_indexer(cfg), indexed=indexed, shared_mtp_vocab=True)
    return stack.finish(cfg, "glm_moe_dsa")


def glm4_moe_lite(cfg: Config) -> Architecture:
    """GLM-4.7-Flash: DeepSeek V3's shape."""
    return latent_stack(cfg, cfg, dense_default=1).finish(cfg, "glm4_moe_lite")


def axk1(cfg: Config) -> Architecture:
    """SKT A.X K1: DeepSeek V3's shape with a norm after the experts; one dense layer first unless the config says otherwise."""
    return latent_stack(cfg, cfg, post_mlp_norm=True, dense_default=1).finish(cfg, "axk1")


def mistral4_stack(cfg: Config, text: Config, *, prefix: str, head: str) -> Stack:
    """Mistral Small 4's text part, for its wrapper: DeepSeek V3's shape without a load-balancing bias."""
    return latent_stack(cfg, text, prefix=prefix, head=head, correction=None)


def mistral4(cfg: Config) -> Architecture:
    """Mistral 4's text model on its own."""
    return mistral4_stack(cfg, cfg, prefix="model", head="lm_head.weight").finish(cfg, "mistral4")


def minicpm3(cfg: Config) -> Architecture:
    """MiniCPM3: latent attention in a dense model, tied by default."""
    return latent_stack(cfg, cfg, tied_default=True, mlp_bias=_mlp_bias(cfg)).finish(cfg, "minicpm3")


def youtu(cfg: Config) -> Architecture:
    """Youtu-LLM: DeepSeek's latent attention over a dense feed-forward in every layer."""
    return latent_stack(cfg, cfg).finish(cfg, "youtu")


def youtu_llm(cfg: Config) -> Architecture:
    """Youtu-LLM as first published, with code of its own."""
    return read_as(youtu, cfg, "youtu")


def plm(cfg: Config) -> Architecture:
    """PLM: DeepSeek's latent attention without a query rank, a feed-forward without a gate (llama.cpp `models/plm.cpp`)."""
    latent = read_latent(cfg)
    d = latent_dims(cfg, latent)
    stack = open_stack(cfg, cfg, d, tied_default=True)
    every, layer = range(d.num_layers), "model.layers.{}"
    latent_block(stack.inv, layer, every, d.hidden, latent, bias=cfg.flag("attention_bias", default=False))
    stack.intermediate = cfg.positive("intermediate_size")
    names = ("up_proj", "down_proj")
    plain_mlp(stack.inv, f"{layer}.mlp", every, d.hidden, stack.intermediate, bias=False, names=names)
    stack.layers = [Layer((latent.cache(),))] * d.num_layers
    return stack.finish(cfg, "plm")


def sarvam_mla(cfg: Config) -> Architecture:
    """Sarvam's mixture with latent attention: DeepSeek V3's block under Ling's keys (vLLM 0.33.0 `sarvam.py`)."""
    first, step = cfg.opt_int("first_k_dense_replace"), cfg.opt_int("moe_layer_freq") or 1
    first, count = 1 if first is None else first, cfg.positive("num_hidden_layers")
    shared = 1 if cfg.published("num_shared_experts") is None else cfg.need_int("num_shared_experts")
    freq = [int(i >= first and (i - first) % step == 0) for i in range(count)]
    data = {**cfg.data, "moe_layer_freq": freq, "num_shared_experts": shared}
    own = Config(data, cfg.file, cfg.model_type, cfg.used_defaults)
    return latent_stack(own, own).finish(cfg, "sarvam_mla")
