"""What ranks send each other in one pass over the layers: bytes that one rank sends (or, of logits, takes in).

Rings: an all-reduce of n bytes over r ranks is 2 (r − 1) / r · n, a gather (r − 1) / r · n. Read from vLLM 0.33.0 and SGLang
0.5.23: row-parallel projections and the input embedding are reduced (`RowParallelLinear`, `VocabParallelEmbedding`), logits
gathered (`LogitsProcessor`), experts of data-parallel replicas reached by dispatch and combine (`all2all.py`), data-parallel
attention by a gather before and a scatter after the feed-forward layer (`dp_attention.py`), whole layers by passing hidden states
on.
"""

from __future__ import annotations

from fractions import Fraction
from math import comb
from typing import Final

from hfmem.dtypes import BITS
from hfmem.memory import engines
from hfmem.memory.placement import BY_LAYER
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Component, ExpertSplit, Row, TensorSpec

_MIXERS: Final = frozenset({Component.ATTENTION})
_FEED_FORWARD: Final = frozenset({Component.MLP, Component.EXPERTS})


def link_bytes(arch: Architecture, serving: Serving, tokens: int, logits: int) -> int:
    """Bytes a rank sends while `tokens` tokens of its replica pass all layers, `logits` of which get logits."""
    width = (
        2 if engines.engine(serving.engine).HALVES_FP32 or arch.dtype not in ("F32", "F64") else BITS[arch.dtype] // 8
    )
    row = arch.hidden_size * width
    between_stages = (serving.pp - 1) * tokens * row
    if serving.engine in BY_LAYER:
        return (serving.tp * serving.pp - 1) * tokens * row
    tp, attn_tp = serving.tp, serving.attn_tp
    mixers, feed_forward, experts = _reduced_layers(arch)
    total = _all_reduce(mixers * -(-tokens // serving.attn_dp) * row, attn_tp)
    shared = serving.engine == "vllm" and serving.dp > 1  # replicas share the experts
    total += _all_reduce((feed_forward - (experts if shared else 0)) * tokens * row, tp)
    if shared:
        total += experts * int(2 * Fraction(tokens, tp) * row * _other_ranks(arch, serving))
    total += _all_reduce(tokens * row, attn_tp)  # the input embedding
    total += logits * arch.vocab_size * width * (tp - 1) // tp
    return total + between_stages


def _all_reduce(num_bytes: int, ranks: int) -> int:
    return 2 * (ranks - 1) * num_bytes // ranks


def _reduced_layers(arch: Architecture) -> tuple[int, int, int]:
    """Decoder layers whose mixer, whose feed-forward part ends in a split projection, and how many of those have experts."""
    mixers: set[int] = set()
    feed_forward: set[int] = set()
    experts: set[int] = set()
    for spec in arch.tensors:
        if spec.layer_axis is None or "encoder" in spec.pattern.split("."):
            continue
        layers = {layer for box in spec.boxes for layer in box[spec.layer_axis]}
        if isinstance(spec.split, ExpertSplit):
            experts |= layers
            feed_forward |= layers
        elif _ends_split(spec, _MIXERS):
            mixers |= layers
        elif _ends_split(spec, _FEED_FORWARD):
            feed_forward |= layers
    return len(mixers), len(feed_forward), len(experts)


def _ends_split(spec: TensorSpec, components: frozenset[Component]) -> bool:
    return spec.component in components and isinstance(spec.split, Row)


def _other_ranks(arch: Architecture, serving: Serving) -> Fraction:
    """How many other ranks need a token: all where each holds a part of every expert; under expert parallelism those that hold
    one of its experts, if the router chooses evenly."""
    ranks = serving.tp * serving.dp
    experts, chosen = arch.num_experts, arch.num_experts_per_tok
    if not serving.ep or not experts or not chosen:
        return Fraction(ranks - 1)
    others = experts - experts // ranks
    missed = Fraction(comb(others, chosen), comb(experts, chosen))
    return (ranks - 1) * (1 - missed)
