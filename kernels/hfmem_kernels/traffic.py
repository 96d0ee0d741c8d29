"""Bytes and floating-point operations of one layer's decode step, by formula: what a measured time is divided into.

Plain integers, no torch. Every count is of the step itself, whatever a kernel does on top (partials, a second pass).
"""

from __future__ import annotations

from dataclasses import dataclass

from hfmem_kernels.layout import CacheSpec, LatentFormat, index_row_bytes, latent_row_bytes, row_bytes


@dataclass(frozen=True, slots=True)
class Traffic:
    """One attention layer, one step. kv_bytes: cache rows (scales included) that some query sees, each once."""

    kv_bytes: int
    query_bytes: int
    output_bytes: int
    table_bytes: int
    flops: int

    @property
    def total_bytes(self) -> int:
        """Everything that has to cross the memory bus once."""
        return self.kv_bytes + self.query_bytes + self.output_bytes + self.table_bytes

    @property
    def intensity(self) -> float:
        """Operations a byte: below the device's ratio of the two, bandwidth is the limit."""
        return self.flops / self.total_bytes

    def seconds(self, bytes_per_second: float, launch_seconds: float = 0.0) -> float:
        """The bandwidth bound t0 + bytes / R."""
        return launch_seconds + self.total_bytes / bytes_per_second


def visible_tokens(seq_len: int, q_len: int = 1, window: int | None = None) -> int:
    """Tokens of a sequence that at least one of its `q_len` newest queries sees."""
    return seq_len if window is None else min(seq_len, window + q_len - 1)


def visible_pairs(seq_len: int, q_len: int = 1, window: int | None = None) -> int:
    """(query, key) pairs under the causal mask: query i of a sequence sees seq_len - q_len + i + 1 tokens, the window at most."""
    seen = (max(0, seq_len - q_len + i + 1) for i in range(q_len))
    return sum(s if window is None else min(s, window) for s in seen)


def decode_traffic(
    spec: CacheSpec,
    num_heads: int,
    seq_lens: list[int],
    *,
    q_len: int = 1,
    window: int | None = None,
    query_bytes: int = 2,
) -> Traffic:
    """One step over a K/V cache: 2 operations for each multiply-add of Q·K and P·V."""
    tokens = sum(visible_tokens(n, q_len, window) for n in seq_lens)
    pairs = sum(visible_pairs(n, q_len, window) for n in seq_lens)
    rows = len(seq_lens) * q_len * num_heads
    return Traffic(
        kv_bytes=tokens * spec.num_kv_heads * row_bytes(spec),
        query_bytes=rows * spec.head_dim * query_bytes,
        output_bytes=rows * spec.v_head_dim * query_bytes,
        table_bytes=_table_bytes(seq_lens, spec.page_size, q_len, window),
        flops=2 * pairs * num_heads * (spec.head_dim + spec.v_head_dim),
    )


def latent_traffic(
    kv_lora_rank: int,
    rope_dim: int,
    num_heads: int,
    seq_lens: list[int],
    *,
    page_size: int,
    dtype: str = "bfloat16",
    latent_format: LatentFormat = LatentFormat.PLAIN,
    q_len: int = 1,
) -> Traffic:
    """One step over an MLA cache: all heads read the same row, keys of rank + rope columns, values of rank columns.

    DeepSeek V4's rows (FP8_V4) are values as a whole: rank 512 and no rope, whatever columns the format stores as which.
    """
    rows = len(seq_lens) * q_len * num_heads
    pairs = sum(visible_pairs(n, q_len) for n in seq_lens)
    columns = latent_format.columns if latent_format is LatentFormat.FP8_V4 else (kv_lora_rank, rope_dim)
    return Traffic(
        kv_bytes=sum(seq_lens) * latent_row_bytes(*columns, dtype, latent_format),
        query_bytes=rows * (kv_lora_rank + rope_dim) * 2,
        output_bytes=rows * kv_lora_rank * 2,
        table_bytes=_table_bytes(seq_lens, page_size, q_len, None),
        flops=2 * pairs * num_heads * (2 * kv_lora_rank + rope_dim),
    )


def index_traffic(
    num_heads: int, dim: int, seq_lens: list[int], *, page_size: int, packed: bool, queries: int = 1
) -> Traffic:
    """An indexer's scores of one step: keys of `dim` in e4m3 with a scale (packed) or in 16 bits, queries of the same width and an
    fp32 weight for each head; an fp32 score for each pair of a query and a key that it sees."""
    rows, pairs = len(seq_lens) * queries, sum(visible_pairs(n, queries) for n in seq_lens)
    return Traffic(
        kv_bytes=sum(seq_lens) * (index_row_bytes(dim) if packed else 2 * dim),
        query_bytes=rows * num_heads * (dim * (1 if packed else 2) + 4),
        output_bytes=4 * pairs,
        table_bytes=_table_bytes(seq_lens, page_size, queries, None),
        flops=2 * pairs * num_heads * (dim + 1),
    )


def _table_bytes(seq_lens: list[int], page_size: int, q_len: int, window: int | None) -> int:
    """int32 page ids of the pages that are read, and the int32 lengths."""
    pages = 0
    for n in seq_lens:
        first = (n - visible_tokens(n, q_len, window)) // page_size
        pages += -(-n // page_size) - first
    return 4 * (pages + len(seq_lens))
