"""What one line of the benchmark is: a shape, sequences and a cache, by their numbers. Integers only, no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hfmem_kernels.benchmarks.shapes import Shape
from hfmem_kernels.layout import (
    CacheSpec,
    LatentFormat,
    Layout,
    latent_page_bytes,
    latent_row_bytes,
    num_pages,
    row_bytes,
)
from hfmem_kernels.traffic import Traffic, decode_traffic, latent_traffic, visible_tokens

#: short names in the rows' names and tables
DTYPE_NAMES = {"bfloat16": "bf16", "float16": "fp16", "float8_e4m3fn": "e4m3", "float8_e5m2": "e5m2", "int8": "int8"}


@dataclass(frozen=True, slots=True)
class Mix:
    """The sequences of a batch: a name for tables, and the tokens of each (zero: a row of padding)."""

    name: str
    lengths: tuple[int, ...]

    @property
    def uniform(self) -> bool:
        """Whether all sequences have the same length."""
        return len(set(self.lengths)) == 1


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. `scales`: "none", "tensor", "head" or "token"; `baseline`: the name of the row it is compared with.

    `kept`: tokens that the cache holds of each sequence where a step reads fewer, picked anywhere (`page_size` 1); 0: it reads all.
    `listed`: they are picked by lists of slots, in pages of any size (latent rows only).
    """

    shape: Shape
    mix: Mix
    page_size: int = 16
    layout: Layout = Layout.NHD
    dtype: str = "bfloat16"
    scales: str = "none"
    q_len: int = 1
    latent_format: LatentFormat = LatentFormat.PLAIN
    baseline: str | None = None
    kept: int = 0
    listed: bool = False

    @property
    def name(self) -> str:
        """Stable, unique in a grid: results are stored under it."""
        cache = DTYPE_NAMES[self.dtype] + (f"-{self.scales}" if self.scales != "none" else "")
        if self.latent_format is not LatentFormat.PLAIN:
            cache = self.latent_format.value
        parts = [self.shape.name, self.mix.name, cache, f"p{self.page_size}"]
        parts += [self.layout.value] if self.layout is not Layout.NHD else []
        parts += [f"q{self.q_len}"] if self.q_len > 1 else []
        parts += [f"of {count_name(self.kept)}"] if self.kept else []
        parts += ["listed"] if self.listed else []
        return " ".join(parts)

    def in_fp8(self, baseline: str | None = None) -> Row:
        """The same row over an e4m3 cache with one scale."""
        return replace(self, dtype="float8_e4m3fn", scales="tensor", baseline=baseline)

    @property
    def query_dtype(self) -> str:
        """The dtype of queries and outputs: the cache's, bf16 over 8-bit caches."""
        return self.dtype if self.dtype in ("bfloat16", "float16") else "bfloat16"

    @property
    def spec(self) -> CacheSpec:
        """The cache of a layer that keeps keys and values."""
        s = self.shape
        return CacheSpec(
            s.num_kv_heads, s.head_dim, s.v_head_dim, self.page_size, self.dtype, self.layout, self.scales == "token"
        )

    @property
    def traffic(self) -> Traffic:
        """Bytes and operations of the step."""
        s, lengths = self.shape, list(self.mix.lengths)
        if s.latent:
            return latent_traffic(
                s.v_head_dim,
                s.head_dim - s.v_head_dim,
                s.num_heads,
                lengths,
                page_size=1
                if self.listed
                else self.page_size,  # a list has an entry a token, as tables of single tokens do
                dtype=self.dtype,
                latent_format=self.latent_format,
                q_len=self.q_len,
            )
        return decode_traffic(self.spec, s.num_heads, lengths, q_len=self.q_len, window=s.window)

    @property
    def token_row_bytes(self) -> int:
        """Bytes of one cached token, all KV heads."""
        if self.shape.latent:
            return latent_row_bytes(*self.latent_columns, self.dtype, self.latent_format)
        return self.shape.num_kv_heads * row_bytes(self.spec)

    @property
    def latent_columns(self) -> tuple[int, int]:
        """The columns that an MLA row stores as its latent, and the rotary ones."""
        s = self.shape
        if self.latent_format is LatentFormat.PLAIN:
            return s.v_head_dim, s.head_dim - s.v_head_dim
        return self.latent_format.columns

    @property
    def pages(self) -> int:
        """Pages that are allocated: those of the batch's visible tokens, not of a window's past; or of all that is kept."""
        if self.kept:
            return len(self.mix.lengths) * num_pages(self.kept, self.page_size)
        return sum(self.pages_of(length) for length in self.mix.lengths)

    def first_page(self, length: int) -> int:
        """The first page of a sequence that some query still sees."""
        return (length - visible_tokens(length, self.q_len, self.shape.window)) // self.page_size

    def pages_of(self, length: int) -> int:
        """Pages of one sequence that hold visible tokens."""
        return num_pages(length, self.page_size) - self.first_page(length)

    @property
    def cache_bytes(self) -> int:
        """Bytes of one copy of the cache."""
        if self.shape.latent:
            return self.pages * latent_page_bytes(self.page_size, self.token_row_bytes, self.latent_format)
        return self.pages * self.page_size * self.token_row_bytes

    @property
    def ragged(self) -> bool:
        """Whether the sequences' lengths differ."""
        return not self.mix.uniform


def count_name(tokens: int) -> str:
    """`32768` → `32k`, `3056` → `3056`."""
    return f"{tokens // 1024}k" if tokens >= 1024 and tokens % 1024 == 0 else str(tokens)


def uniform(batch: int, context: int) -> Mix:
    """`batch` sequences of `context` tokens."""
    return Mix(f"{batch}x{count_name(context)}", (context,) * batch)


def zipf(batch: int, total: int, name: str) -> Mix:
    """`batch` sequences of `total` tokens together, the n-th longest 1/n of the longest, in a fixed order that is not sorted."""
    harmonic = sum(1 / rank for rank in range(1, batch + 1))
    lengths = [max(1, int(total / harmonic / rank)) for rank in range(1, batch + 1)]
    lengths[0] += total - sum(lengths)
    # a stride that has no factor in common with the batch visits every place once
    stride = next(step for step in (37, 41, 43, 47) if batch % step)
    return Mix(name, tuple(lengths[place * stride % batch] for place in range(batch)))


def mixed(name: str, *parts: tuple[int, int]) -> Mix:
    """Sequences of several lengths: (count, tokens) in turn."""
    return Mix(name, tuple(tokens for count, tokens in parts for _ in range(count)))
