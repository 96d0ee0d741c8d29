"""DFlash with a head behind it that corrects the drafted block: XPress and LiLiCorr.

Source: vLLM 0.33.0 `model_executor/models/{qwen3_xpress,lilicorr}.py`, whose loaders name what files hold.
"""

from __future__ import annotations

from typing import Final

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families.parts import Part
from hfmem.model.families.speculators_block import Block
from hfmem.model.inventory import Component

#: what XPress's class takes where the config says nothing: rank, feed-forward, drafted tokens
_RANK: Final = 256
_INNER: Final = 512
_STEPS: Final = 15
#: LiLiCorr's numbers for each candidate: two probabilities, a distance, a rank, a flag
_FEATURES: Final = 5


def xpress(cfg: Config) -> Architecture:
    """XPress: logits corrected by the block's own tokens, mixed position by position in `xpress_rank` channels."""
    block = Block(cfg)
    block.output_if_its_own()
    own, vocab, hidden = block.cfg, block.head.vocab, block.d.hidden
    rank, inner = own.opt_int("xpress_rank") or _RANK, own.opt_int("xpress_mlp_hidden") or _INNER
    size = own.opt_int("xpress_block_size") or (own.opt_int("num_speculative_steps") or _STEPS) + 1
    part = Part(block.head.inv, "xpress_head.", Component.OTHER)
    shapes = {
        "w1": (vocab, rank),
        "down_h": (rank, hidden),
        "down_g": (rank, hidden),
        "in_proj": (rank, 3 * rank),
        "mlp.gate_proj": (inner, rank),
        "mlp.up_proj": (inner, rank),
        "mlp.down_proj": (rank, inner),
        "w2": (vocab, rank),
    }
    for name, shape in shapes.items():
        part.tensor(f"{name}.weight", shape)
    part.tensor("mix.L", (rank, size, size))
    return block.close("dflash")


def lilicorr(cfg: Config) -> Architecture:
    """LiLiCorr: layers of attention over the candidates of every position, which score one after another."""
    block = Block(cfg)
    block.output_if_its_own()
    hidden = block.d.hidden
    width = block.number("lilicorr_hidden_size") if block.said("lilicorr_hidden_size") else hidden
    size, picked, heads = (block.number(key) for key in ("block_size", "lilicorr_candidate_topk", "lilicorr_num_heads"))
    if size < 2 or width % heads:
        raise ContradictionError(
            f"{block.cfg.file}: LiLiCorr cannot cut {width} channels into {heads} heads in blocks of {size}"
        )
    part = Part(block.head.inv, "lilicorr.", Component.OTHER)
    for name in ("pass_hidden_proj", "context_proj", *(("token_proj",) if width != hidden else ())):
        part.linear(name, width, hidden)
    part.norm("feature_norm", _FEATURES)
    part.linear("feature_mlp.up_proj", width, _FEATURES)
    part.linear("feature_mlp.down_proj", width, width)
    part.tensor("slot_embedding", (1, 1, size - 1, 1, width))
    part.tensor("rank_embedding", (1, 1, 1, picked, width))
    part.tensor("relative_slot_bias", (heads, 2 * size - 1))
    part.tensor("same_slot_bias", (heads,))
    layer = part.at("layers.{}.", range(block.number("lilicorr_num_layers")))
    layer.norms(("attn_norm", "mlp_norm"), width, bias=False)
    layer.tensor("attn.in_proj_weight", (3 * width, width))
    layer.tensor("attn.in_proj_bias", (3 * width,))
    layer.linear("attn.out_proj", width, width)
    inner = int(width * block.ratio("lilicorr_mlp_ratio"))
    layer.linear("mlp.up_proj", inner, width)
    layer.linear("mlp.down_proj", width, inner)
    part.norms(("output_norm", "anchor_norm"), width, bias=False)
    part.linear("factor_input_proj", width, 3 * width)
    for name in ("out_head", "in_head", "anchor_out_head"):
        part.linear(name, block.number("lilicorr_factor_dim"), width)
    return block.close("dflash")
