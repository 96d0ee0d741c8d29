"""Inkling with its towers: images folded step by step through linear layers, sound as tokens of an embedding of its own.

Source: transformers 5.23.0 `models/inkling/modeling_inkling.py`; names as published (`model.llm`, `model.visual`, `model.audio`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise, permutations
from math import ceil, log
from operator import mul

from hfmem.errors import ContradictionError
from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families.multimodal import respelled, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import Part
from hfmem.model.inventory import Inventory, TensorSpec
from hfmem.records import replace

#: the text model's modules under the published names; experts' gate and up are interleaved in one tensor
_SPELLED = {
    "embed_tokens.embed_norm.": "embed_norm.",
    "embed_tokens.": "embed.",
    "input_layernorm.": "attn_norm.",
    "post_attention_layernorm.": "mlp_norm.",
    "self_attn.q_proj.": "attn.wq_du.",
    "self_attn.k_proj.": "attn.wk_dv.",
    "self_attn.v_proj.": "attn.wv_dv.",
    "self_attn.o_proj.": "attn.wo_ud.",
    "self_attn.r_proj.": "attn.wr_du.",
    "self_attn.": "attn.",
    "sconv.conv1d.": "sconv.",
    "mlp.experts.gate_up_proj": "mlp.experts.w13_weight",
    "mlp.experts.down_proj": "mlp.experts.w2_weight",
    "shared_experts.up_proj": "shared_experts.shared_w13_weight",
    "shared_experts.down_proj": "shared_experts.shared_w2_weight",
    "e_score_correction_bias": "bias",
    "lm_head.": "model.llm.unembed.",
}


def _primes(value: int) -> list[int]:
    """Prime factors, largest first."""
    factors, n = [], 2
    while n * n <= value:
        while value % n == 0:
            factors.append(n)
            value //= n
        n += 1
    return sorted([*factors, value] if value > 1 else factors, reverse=True)


def _scales(frames: int, patch: int, steps: int, channels: int) -> list[tuple[int, int]]:
    """Pixels folded into one place and its channels before and after each step (`plan_out_scales`).

    Space is folded prime by prime, then time; steps are spread so that the sizes grow evenly.
    """
    sides, times = list(accumulate(_primes(patch), mul)), list(accumulate(_primes(frames), mul))
    plan = [(1, channels)]
    plan += [(side**2, ceil(side**2 * channels / 64) * 64) for side in sides]
    plan += [(time * patch**2, ceil(patch**2 * channels * time / 64) * 64) for time in times]
    whole = log(patch * patch * frames * channels)
    cost = [[abs(whole * i / steps - log(size)) for size, _ in plan] for i in range(steps + 1)]
    if steps >= len(plan):
        chosen = [row.index(min(row)) for row in cost]
    else:
        ways = permutations(range(len(plan)), steps + 1)
        chosen = list(min(ways, key=lambda way: sum(row[i] for row, i in zip(cost, way, strict=True))))
    chosen[0], chosen[-1] = 0, len(plan) - 1
    return [plan[i] for i in chosen]


def _folding(part: Part, cfg: Config, hidden: int) -> int:
    steps = cfg.positive("num_hidden_layers")
    patch, frames = cfg.positive("patch_size"), cfg.positive("temporal_patch_size")
    if len(_primes(patch)) + len(_primes(frames)) > 7:
        raise ContradictionError(
            f"{cfg.file}: patches of {frames} × {patch} × {patch} fold in more steps than are known"
        )
    scales = _scales(frames, patch, steps, cfg.positive("num_channels"))
    for i, (before, after) in enumerate(pairwise(scales)):
        last = i == steps - 1
        out = hidden if last else after[1]
        part.linear(f"layers.linear_{i}", out, before[1] * (after[0] // before[0]), bias=False)
        if not last:
            part.norm(f"layers.norm_{i}", out, bias=False)
    part.norm("final_norm", hidden, bias=False)
    return steps


def _fused(specs: Iterable[TensorSpec]) -> Iterator[TensorSpec]:
    """Gate and up of the shared experts as the one tensor that the files hold."""
    for spec in specs:
        if spec.pattern.endswith("shared_experts.up_proj"):
            count, rows, width = spec.shape
            yield replace(spec, shape=(count, 2 * rows, width))
        elif not spec.pattern.endswith("shared_experts.gate_proj"):
            yield spec


def inkling_mm(cfg: Config) -> Architecture:
    """The text model whole, and towers that end in its width."""
    text, inner = text_part(cfg)
    inv = Inventory()
    seen, heard = cfg.sub("vision_config"), cfg.sub("audio_config")
    steps = _folding(tower(inv, "model.visual."), seen, seen.positive("text_hidden_size"))
    width = heard.positive("text_hidden_size")
    sound = tower(inv, "model.audio.")
    sound.tensor("encoder.weight", (heard.positive("n_mel_bins") * heard.positive("mel_vocab_size"), width))
    sound.norm("final_norm", width, bias=False)
    inner = replace(inner, tensors=tuple(_fused(inner.tensors)))
    places = (("model.llm.unembed", "model.llm.unembed"), ("model.", "model.llm."))
    return wrap(cfg, text, respelled(inner, _SPELLED), "inkling_mm", places, inv, tower_layers(steps))
