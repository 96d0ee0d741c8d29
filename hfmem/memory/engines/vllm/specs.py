"""vLLM's cache specs: how one layer's pages look on one rank, and how many pages admission counts for one request.

Read from vLLM 0.33.0, `v1/kv_cache_interface.py`: `AttentionSpec` and its kinds, `MambaSpec`. A spec here is what one rank holds.
"""

from __future__ import annotations

from enum import StrEnum

from hfmem.records import dataclass, replace


class Kind(StrEnum):
    """The allocation rule of a spec: vLLM's class of that name."""

    FULL = "FullAttentionSpec"
    MLA = "MLAAttentionSpec"
    SLIDING = "SlidingWindowSpec"
    SLIDING_MLA = "SlidingWindowMLASpec"
    CHUNKED = "ChunkedLocalAttentionSpec"
    CROSS = "CrossAttentionSpec"
    MAMBA = "MambaSpec"


#: kinds that hold every token: vLLM's uniform type of `FullAttentionSpec`
HOLDS_ALL = frozenset({Kind.FULL, Kind.MLA})


@dataclass(frozen=True, slots=True)
class PagedSpec:
    """Pages of `block_size` tokens: `slots` heads × `block_size / tokens_per_state` states × `content_bytes`.

    `window` is the window of a sliding spec and the chunk of a chunked one. `page_padded` is set where the page is made larger than
    its content. `shape` holds what else tells two specs apart (head sizes, format, role) and matters for grouping only. A block of
    the pool is a multiple of `stride` bytes.
    """

    kind: Kind
    block_size: int
    slots: int
    content_bytes: int
    shape: tuple[object, ...]
    tokens_per_state: int = 1
    window: int | None = None
    page_padded: int | None = None
    stride: int = 1

    @property
    def content_page_bytes(self) -> int:
        """Bytes of a page's states, before padding."""
        return self.slots * (self.block_size // self.tokens_per_state) * self.content_bytes

    @property
    def page_bytes(self) -> int:
        """Bytes of a page."""
        return self.page_padded or self.content_page_bytes

    def aligned(self, alignment: int) -> PagedSpec:
        """The page rounded up to a multiple of `alignment` bytes."""
        padded = -(-self.content_page_bytes // alignment) * alignment
        return self if padded == self.content_page_bytes else replace(self, page_padded=padded)


@dataclass(frozen=True, slots=True)
class StateSpec:
    """One state a page (`MambaSpec`). `request_pages` is how many of them one request holds: one, or in the cache mode `align`
    (prefix caching) two and one for each prefill checkpoint the layer can export. `replicated`: whole on every rank."""

    block_size: int
    state_bytes: int
    request_pages: int
    shape: tuple[object, ...] = ()
    page_padded: int | None = None
    replicated: bool = False

    @property
    def kind(self) -> Kind:
        """Always `MambaSpec`, whatever the recurrence."""
        return Kind.MAMBA

    @property
    def page_bytes(self) -> int:
        """Bytes of a page."""
        return self.page_padded or self.state_bytes


Spec = PagedSpec | StateSpec


@dataclass(frozen=True, slots=True)
class Limits:
    """What admission reckons with: a request of `max_model_len` tokens, `in_flight_tokens` scheduled but not settled, and
    `encoder_tokens` of encoder output, its tokens shared out over `dcp` ranks."""

    max_model_len: int
    in_flight_tokens: int
    encoder_tokens: int
    dcp: int = 1


def ceil_div(value: int, divisor: int) -> int:
    """Integer division, rounded up."""
    return -(-value // divisor)


def request_pages(spec: Spec, limits: Limits) -> int:
    """Pages one request takes at most (`max_memory_usage_bytes / page_size_bytes`).

    A sliding window holds the `window - 1` tokens before the first one in flight, those in flight, and one page more because the
    window may begin inside a page; a chunk holds its tokens and those in flight.
    """
    if isinstance(spec, StateSpec):
        return spec.request_pages
    match spec.kind:
        case Kind.FULL | Kind.MLA:
            return ceil_div(ceil_div(limits.max_model_len, limits.dcp), spec.block_size)
        case Kind.SLIDING | Kind.SLIDING_MLA:
            tokens = min((spec.window or 1) - 1 + limits.in_flight_tokens, limits.max_model_len)
            return ceil_div(tokens, spec.block_size) + 1
        case Kind.CHUNKED:
            tokens = min((spec.window or 0) + limits.in_flight_tokens, limits.max_model_len)
            return ceil_div(tokens, spec.block_size)
        case Kind.CROSS:
            return ceil_div(limits.encoder_tokens, spec.block_size)
        case Kind.MAMBA:
            raise AssertionError("a paged spec is no state")


def same_uniform_type(a: Spec, b: Spec) -> bool:
    """Whether two layers always need the same number of pages, so that one group can hold both (`is_uniform_type`)."""
    if isinstance(a, StateSpec) or isinstance(b, StateSpec):
        return (
            isinstance(a, StateSpec)
            and isinstance(b, StateSpec)
            and (a.block_size, a.page_bytes, a.request_pages) == (b.block_size, b.page_bytes, b.request_pages)
            and a.replicated == b.replicated
        )
    if a.block_size != b.block_size:
        return False
    if a.kind in HOLDS_ALL or b.kind in HOLDS_ALL:
        return a.kind in HOLDS_ALL and b.kind in HOLDS_ALL
    return a.kind == b.kind and a.window == b.window
