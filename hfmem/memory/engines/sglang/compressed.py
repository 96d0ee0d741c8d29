"""DeepSeek V4's pools: rows of windows, compressed rows, and what the compressors keep of unfinished groups.

Read from SGLang 0.5.23: `srt/model_executor/pool_configurator.py` (`DSV4PoolConfigurator`),
`srt/mem_cache/deepseek_v4_memory_pool.py` (rings of states, index keys), `kernels/ops/attention/dsv4/kv_layout.py` (bytes of a
page), `srt/arg_groups/model_overrides/deepseek_v4.py` and `srt/arg_groups/deepseek_v4_hook.py` (pages of 256, a windowed pool of
0.1 of the full one, 256 requests). V4.1 keeps rows of other layers and is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hfmem.dtypes import num_bytes
from hfmem.errors import UnsupportedError
from hfmem.memory.engines.sglang import support
from hfmem.memory.engines.sglang.layout import pages
from hfmem.memory.engines.sglang.windows import EVICTION_INTERVAL, at_most, tokens_in_flight
from hfmem.memory.result import CacheBytes, LayerGroup, Pool, count_in, group_layers, memory_of_stages
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import CompressedAttention
from hfmem.records import dataclass

NAME: Final = "sglang"
_PAGE: Final = 256
_SWA_RATIO: Final = 0.1
_REQUESTS: Final = 256
#: groups of 4 tokens, whose rows have index keys, and of 128
_FEW, _MANY = 4, 128
#: rows of unfinished groups that are kept: of a page of the windowed pool (groups of 4), of a request (of 128); and with a draft
_RING: Final = {False: (8, 128), True: (16, 256)}
#: a row's bytes, 448 in fp8, 64 in bf16 and 8 of scales, and what a page is rounded up to
_ROW, _ROW_UNIT = 584, 576
_INDEX_GROUP: Final = 128


@dataclass(frozen=True, slots=True)
class Rows:
    """What the layers of one pipeline stage take: `window`, `few`, `many` are the layers with a window alone, with groups of 4 and
    of 128. `drafts`: a draft is served."""

    head_dim: int
    index_dim: int
    drafts: bool
    window: int
    few: int
    many: int

    @property
    def layers(self) -> int:
        """Layers in all: each has a window."""
        return self.window + self.few + self.many

    def _page(self, rows: int) -> int:
        return -(-rows * _ROW // _ROW_UNIT) * _ROW_UNIT

    def windowed_page(self, layers: int, few: int) -> int:
        """Bytes of a page of the windowed pool in so many layers, of which `few` keep unfinished groups of 4."""
        ring = _RING[self.drafts][0]
        states = num_bytes("F32", 4 * (self.head_dim + self.index_dim))  # two groups, values and scores
        return self._page(_PAGE) * layers + ring * states * few

    def full_page(self, few: int, many: int) -> int:
        """Bytes of the compressed rows of a page of tokens, with their index keys."""
        keys = self.index_dim + self.index_dim // _INDEX_GROUP * 4
        rows = _PAGE // _FEW
        return few * (self._page(rows) + rows * keys) + many * self._page(_PAGE // _MANY)

    def request_states(self, requests: int, many: int) -> int:
        """Bytes of unfinished groups of 128 for so many requests, one more, and a ring of padding."""
        ring = _RING[self.drafts][1]
        rows = -(-((requests + 1) * ring + ring + 1) // _MANY) * _MANY
        return rows * num_bytes("F32", 2 * self.head_dim) * many

    def inflated(self, size: float) -> float:
        """Bytes with a draft's layer beside the stage's."""
        return size * (self.layers + 1) / self.layers if self.drafts else size


def is_compressed(arch: Architecture) -> bool:
    """Whether the model has these pools."""
    return any(isinstance(kind, CompressedAttention) for kind in arch.kinds())


def cache(arch: Architecture, serving: Serving) -> CacheBytes:
    """What `num_seqs` running sequences of `context` tokens occupy at worst, on all ranks.

    Raises:
        UnsupportedError: a layout that SGLang does not have.
    """
    kinds = _kinds(arch, serving)
    stages = _stages(arch, serving)
    seqs = serving.num_seqs_per_replica
    on_stage, groups, alone = [0] * len(stages), [], 0
    for kind, indices in kinds:
        rows = _rows((kind,), (1,), serving)
        size = _layer(kind, rows, serving, seqs)
        for stage, layers in enumerate(stages):
            on_stage[stage] += count_in(indices, layers) * size
        one = len(indices) * _layer(kind, rows, serving, 1) * serving.attn_tp
        states = len(indices) * rows.request_states(1, rows.many) * serving.attn_tp
        alone += one
        per_token = rows.full_page(rows.few, rows.many) // _PAGE
        groups.append(LayerGroup(kind, indices, per_token * serving.attn_tp, serving.context, one, states, size))
    return CacheBytes(
        engine=NAME,
        kv_dtype="fp8",
        bytes=serving.tp * sum(on_stage) * serving.dp,
        bytes_per_rank=max(on_stage),
        bytes_per_seq=alone,
        state_bytes_per_seq=sum(group.state_bytes for group in groups),
        layer_groups=tuple(groups),
        page_size=_PAGE,
        stage_bytes=tuple(on_stage),
        stage_layers=tuple((layers,) for layers in stages),
        decoder_first=True,
    )


def _layer(kind: CompressedAttention, rows: Rows, serving: Serving, seqs: int) -> int:
    """Bytes of one layer for so many sequences on a rank."""
    whole = seqs * pages(serving.context, _PAGE)
    prefill = tokens_in_flight(serving, serving.context)
    held = min(whole, pages(seqs * _request(kind, serving) + prefill + _PAGE, _PAGE))
    return (
        held // _PAGE * rows.windowed_page(1, rows.few)
        + whole // _PAGE * rows.full_page(rows.few, rows.many)
        + rows.request_states(seqs, rows.many)
    )


def pool(arch: Architecture, serving: Serving, memory_bytes_per_rank: int | Sequence[int]) -> Pool:
    """How SGLang divides a pool of that size: states of requests first, then full tokens with 0.1 of them in the windowed pool.

    Raises:
        UnsupportedError: the memory holds no pool, or SGLang refuses the layout.
    """
    kinds = _kinds(arch, serving)
    stages = _stages(arch, serving)
    memory = memory_of_stages(memory_bytes_per_rank, len(stages))
    ratio = serving.swa_full_tokens_ratio or _SWA_RATIO
    requests = max((serving.max_num_seqs or _REQUESTS) // serving.attn_dp, 1)
    found, cells = [], []
    for stage, size in zip(stages, memory, strict=True):
        counts = tuple(count_in(indices, stage) for _, indices in kinds)
        rows = _rows(tuple(kind for kind, _ in kinds), counts, serving)
        page = ratio * rows.windowed_page(rows.layers, rows.few) + rows.full_page(rows.few, rows.many)
        cell = rows.inflated(page / _PAGE)
        found.append(int(max(size - rows.request_states(requests, rows.many), 0) / cell))
        cells.append(cell)
    tokens = at_most(min(found), serving) // _PAGE * _PAGE
    window = max(kind.window for kind, _ in kinds)
    held = int(tokens * ratio) // _PAGE * _PAGE
    if window + _PAGE >= held:
        raise UnsupportedError(
            f"SWA pool ({held} tokens) cannot hold even one request: the prefill admission floor is "
            f"sliding_window_size ({window}) + page_size ({_PAGE})"
        )
    whole = pages(serving.context, _PAGE)
    prefill = tokens_in_flight(serving, serving.context)
    evicted = min((held - prefill - _PAGE) / _request(kind, serving) for kind, _ in kinds)
    return Pool(
        memory_bytes_per_rank=min(memory),
        page_size=_PAGE,
        page_bytes=int(max(cells) * _PAGE),
        num_pages=tokens // _PAGE,
        capacity_tokens=tokens,
        max_concurrency=min(tokens / whole, max(held / whole, evicted), float(requests)),
        log_lines=(
            f"DSV4 pool sizes: full={tokens}, swa={held}, c4={tokens // _FEW}, c128={tokens // _MANY}, "
            f"c4_state={held // _PAGE * _RING[serving.speculative_tokens > 0][0]}, c128_state=0",
            f"max_total_num_tokens={tokens}, context_len={serving.context}",
        ),
    )


def _kinds(arch: Architecture, serving: Serving) -> tuple[tuple[CompressedAttention, tuple[int, ...]], ...]:
    """Each kind of cache with its layers.

    Raises:
        UnsupportedError: not DeepSeek V4's, or a format or tensor-parallel size that SGLang does not take.
    """
    support.check_heads(arch, serving.attn_tp)
    if serving.kv_dtype not in ("auto", "fp8", "bf16"):
        raise UnsupportedError(f"SGLang has no {serving.kv_dtype} cache for {arch.model_type} models")
    found: list[tuple[CompressedAttention, tuple[int, ...]]] = []
    caches = tuple(layer.caches for layer in arch.layers if layer.stack == "decoder")
    for kind, indices in group_layers(caches).items():
        known = isinstance(kind, CompressedAttention) and kind.ratio in (0, _FEW, _MANY) and not kind.keys_from_rows
        if not isinstance(kind, CompressedAttention) or not known:
            raise UnsupportedError(f"SGLang's cache of {arch.model_type} models is not known here")
        found.append((kind, indices))
    return tuple(found)


def _stages(arch: Architecture, serving: Serving) -> tuple[range, ...]:
    layers = sum(layer.stack == "decoder" for layer in arch.layers)
    return support.pipeline_stages(layers, serving.pp)


def _rows(kinds: Sequence[CompressedAttention], counts: Sequence[int], serving: Serving) -> Rows:
    """Of so many layers of each kind."""
    by_ratio = {
        ratio: sum(count for kind, count in zip(kinds, counts, strict=True) if kind.ratio == ratio)
        for ratio in (0, _FEW, _MANY)
    }
    return Rows(
        head_dim=kinds[0].head_dim,
        index_dim=max(kind.index_head_dim or 0 for kind in kinds),
        drafts=serving.speculative_tokens > 0,
        window=by_ratio[0],
        few=by_ratio[_FEW],
        many=by_ratio[_MANY],
    )


def _request(kind: CompressedAttention, serving: Serving) -> int:
    """Rows of the windowed pool that a running request holds (`compute_swa_request_cap`)."""
    ahead = serving.speculative_tokens
    return kind.window + EVICTION_INTERVAL * max(ahead, 1) + _PAGE + (2 * ahead or _PAGE)
