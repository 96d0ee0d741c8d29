"""Inkling's short convolutions in vLLM: no states, but pages of a sliding window beside each layer's attention.

Read from vLLM 0.33.0 `models/inkling/nvidia/sconv_swa_attn.py` (`InklingConvState`): the inputs of a layer's four convolutions
(keys, values, what attention and feed-forward give) are one packed row for each KV head, padded to a power of two, in pages of as
many tokens as the kernel is wide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.engines.vllm.groups import Member
from hfmem.memory.engines.vllm.specs import Kind, PagedSpec, Spec
from hfmem.model.layers import Cache, FullAttention, Layer, ShortConvState, SlidingAttention

#: model types whose class keeps its convolutions so
PAGED_CONVOLUTIONS: Final = frozenset({"inkling_text", "inkling_mm_model"})

_BF16_BYTES: Final = 2


def _conv_spec(layer: Layer, tp: int) -> PagedSpec:
    """The packed rows of one layer on one rank: `elements / num_kv_heads` for each of the rank's KV heads."""
    convs = [cache for cache in layer.caches if isinstance(cache, ShortConvState)]
    heads = next(c.num_kv_heads for c in layer.caches if isinstance(c, FullAttention | SlidingAttention))
    if tp > heads:
        raise UnsupportedError(f"vLLM's convolution cache takes no more ranks than KV heads ({heads}), not {tp}")
    kernel = convs[0].conv_kernel
    raw = sum(conv.hidden_size for conv in convs) // heads
    row = 1 << (raw - 1).bit_length()
    return PagedSpec(Kind.SLIDING, kernel, heads // tp, row * _BF16_BYTES, ("conv", row), window=kernel)


def paged_members(layers: Sequence[Layer], specs: Mapping[Cache, Sequence[Spec]], tp: int) -> Iterator[Member]:
    """Each layer's members in the order in which vLLM registers them: the convolutions' pages, then attention's (`specs`)."""
    first = 0
    for index, layer in enumerate(layers):
        conv = next(i for i, cache in enumerate(layer.caches) if isinstance(cache, ShortConvState))
        yield Member(index, first + conv, _conv_spec(layer, tp))
        for position, cache in enumerate(layer.caches):
            for spec in specs.get(cache, ()):
                yield Member(index, first + position, spec)
        first += len(layer.caches)
