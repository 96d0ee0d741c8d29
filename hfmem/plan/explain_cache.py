"""The cache as arithmetic: what a token adds, what a context takes, and where the naive formula goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_type

from hfmem.memory.cache import (
    constant_bytes,
    decoding_kinds,
    decoding_layers,
    growth_per_token,
    held_tokens,
    layer_bytes,
    source_tokens,
    token_bytes,
)
from hfmem.memory.formats import KV_BITS, resolve_kv_dtype, vector_bytes
from hfmem.memory.result import CacheBytes
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    Cache,
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    FullAttention,
    IndexedAttention,
    LatentAttention,
    NoCache,
    NoTokens,
    RecurrentCache,
    SharedCache,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.plan.steps import Section, Step, bytes_of
from hfmem.units import counted


def _element(fmt: str, size: int) -> str:
    """How one vector of `size` elements becomes bytes: `× 2 bytes`, or its bytes where scales stand beside it."""
    if vector_bytes(fmt, size) * 8 == size * KV_BITS[fmt]:
        return f"{size:,} × {bytes_of(KV_BITS[fmt])}"
    return f"({size:,} × {bytes_of(KV_BITS[fmt])} + {vector_bytes(fmt, size) - size * KV_BITS[fmt] // 8} of scales)"


def _token_formula(cache: Cache, fmt: str) -> str:
    """One layer's bytes per token, as a product with the model's numbers."""
    match cache:
        case FullAttention() | SlidingAttention() | ChunkedAttention() | IndexedAttention():
            index = f" + {_element(fmt, cache.index_head_dim)} of index" if isinstance(cache, IndexedAttention) else ""
            if cache.head_dim == cache.v_head_dim:
                return f"2 (K and V) × {cache.num_kv_heads} heads × {_element(fmt, cache.head_dim)}{index}"
            both = f"(K {_element(fmt, cache.head_dim)} + V {_element(fmt, cache.v_head_dim)})"
            return f"{cache.num_kv_heads} heads × {both}{index}"
        case LatentAttention() | SparseLatentAttention():
            text = f"{_element(fmt, cache.kv_lora_rank)} + {_element(fmt, cache.qk_rope_head_dim)}"
            if isinstance(cache, SparseLatentAttention) and cache.has_indexer:
                text += f" + {_element(fmt, cache.index_head_dim)}"
            return f"({text})"
        case CrossAttention():
            return f"2 (K and V) × {cache.num_kv_heads} heads × {_element(fmt, cache.head_dim)}"
        case CompressedAttention():
            return f"1 row of {_element(fmt, cache.head_dim)}"
        case _:
            assert_type(cache, NoTokens)
            return "0"


def _name(cache: Cache) -> str:
    match cache:
        case FullAttention():
            return "Full attention"
        case IndexedAttention():
            return "Full attention with an indexer"
        case SlidingAttention(window=window):
            return f"Sliding window of {window:,}"
        case ChunkedAttention(chunk=chunk):
            return f"Chunks of {chunk:,}"
        case LatentAttention():
            return "Latent attention"
        case SparseLatentAttention():
            return (
                "Latent attention with an indexer" if cache.has_indexer else "Latent attention, another layer's indexer"
            )
        case CompressedAttention(ratio=ratio, window=window):
            return f"Compressed {ratio} to 1" if ratio else f"Sliding window of {window:,}"
        case CrossAttention():
            return "Cross attention"
        case SharedCache():
            return "Another layer's cache"
        case NoCache():
            return "No cache"
        case _:
            assert_type(cache, RecurrentCache)
            return "Recurrent state"


def _caches(arch: Architecture) -> Iterator[Cache]:
    return (cache for layer in decoding_layers(arch) for cache in layer.caches)


def _growth_formula(cache: Cache, fmt: str) -> str:
    """What one more token adds to one layer."""
    if not isinstance(cache, CompressedAttention):
        return _token_formula(cache, fmt)
    row = _element(fmt, cache.head_dim)
    if cache.index_head_dim:
        row = f"({row} + {_element(fmt, cache.index_head_dim)} of index)"
    return f"{row} / {cache.ratio}"


def per_token(arch: Architecture, serving: Serving) -> Section:
    """What each further token adds in the layers that keep every token."""
    fmt = resolve_kv_dtype(arch.dtype, serving.kv_dtype, serving.declared_kv_dtype)
    steps: list[Step] = []
    running = 0
    for cache, layers in decoding_kinds(arch).items():
        growth = growth_per_token(cache, fmt)
        if growth:
            size = int(len(layers) * growth)
            running += size
            formula = f"{counted(len(layers), 'layer')} × {_growth_formula(cache, fmt)}"
            steps.append(Step(_name(cache), formula, size, "bytes/token", _why(cache), running))
    if not steps:
        steps.append(Step("No layer keeps every token", "0", 0, "bytes/token"))
    return Section("Cache per token", tuple(steps), running, "bytes/token")


def _why(cache: Cache) -> str | None:
    match cache:
        case FullAttention() | IndexedAttention() if cache.num_heads > cache.num_kv_heads:
            if cache.num_kv_heads == 1:
                return f"one K/V head for all {cache.num_heads} query heads"
            group = cache.num_heads // cache.num_kv_heads
            return f"{cache.num_kv_heads} K/V heads, not {cache.num_heads}: a group of {group} query heads shares one"
        case CompressedAttention():
            return f"one row, key and value at once, stands for {cache.ratio} tokens"
        case LatentAttention() | SparseLatentAttention():
            return f"one compressed row and one rotary part for all {cache.num_heads} heads"
        case _:
            return None


def kept_steps(arch: Architecture, serving: Serving) -> tuple[list[Step], int]:
    """What each kind of layer keeps of all sequences at the context, and the sum."""
    fmt = resolve_kv_dtype(arch.dtype, serving.kv_dtype, serving.declared_kv_dtype)
    times = f"{serving.num_seqs:,} sequences × " if serving.num_seqs > 1 else ""
    steps: list[Step] = []
    running = 0
    for cache, layers in decoding_kinds(arch).items():
        one = layer_bytes(cache, serving.context, fmt, arch.dtype, serving.source_tokens)
        size = serving.num_seqs * len(layers) * one
        running += size
        formula, note = _context_formula(cache, serving, fmt, arch.dtype)
        if one or isinstance(cache, SharedCache):
            steps.append(
                Step(
                    f"{_name(cache)}, {counted(len(layers), 'layer')}",
                    f"{times}{len(layers)} × {formula}",
                    size,
                    "bytes",
                    note,
                    running,
                )
            )
    if not steps:
        steps.append(
            Step("Nothing is kept between tokens", "0", 0, "bytes", "an encoder, or a model without attention")
        )
    return steps, running


def at_context(arch: Architecture, serving: Serving, ideal: CacheBytes, engine: CacheBytes | None) -> Section:
    """The cache at the context, beside what the naive formula says and what an engine holds."""
    fmt = resolve_kv_dtype(arch.dtype, serving.kv_dtype, serving.declared_kv_dtype)
    steps, _ = kept_steps(arch, serving)
    if ideal.bytes and (naive := _naive(arch, serving, fmt)) is not None and naive.result != ideal.bytes:
        ratio = (
            f"{naive.result / ideal.bytes:,.1f} × too much"
            if ideal.bytes and naive.result > ideal.bytes
            else "not this model's"
        )
        reasons = "; ".join(_reasons(arch, serving))
        steps.append(
            Step(naive.title, naive.formula, naive.result, "bytes", f"{ratio}: {reasons}" if reasons else ratio)
        )
    if engine is not None and engine.bytes != ideal.bytes:
        note = "its pages, windows in flight and replicas on top" if engine.bytes > ideal.bytes else "it holds less"
        formula = f"{engine.bytes_per_seq:,} × {serving.num_seqs:,}"
        steps.append(Step(f"As {engine.engine} holds it", formula, engine.bytes, "bytes", note))
    return Section(f"Cache at {serving.context:,} tokens", tuple(steps), ideal.bytes, "bytes")


def _context_formula(cache: Cache, serving: Serving, fmt: str, model_dtype: str) -> tuple[str, str | None]:
    """One layer's bytes of one sequence at the context, and what limits them."""
    match cache:
        case SharedCache(source_layer=source):
            return "0", f"these layers read the cache of another (the first, layer {source}'s)"
        case CompressedAttention():
            size = layer_bytes(cache, serving.context, fmt, model_dtype, serving.source_tokens)
            return f"{size:,}", f"the last {cache.window:,} tokens in full" + (
                f", one row for each {cache.ratio} before them" if cache.ratio else ""
            )
        case CrossAttention():
            tokens = source_tokens(cache, serving.source_tokens)
            return f"{tokens:,} encoder positions × {_token_formula(cache, fmt)}", "written once, whatever the context"
        case FullAttention() | IndexedAttention() | LatentAttention() | SparseLatentAttention():
            return f"{serving.context:,} tokens × {token_bytes(cache, fmt):,}", None
        case SlidingAttention(window=limit) | ChunkedAttention(chunk=limit):
            tokens = held_tokens(cache, serving.context)
            note = f"min({serving.context:,}, {limit:,}) tokens" if serving.context > limit else None
            return f"{tokens:,} tokens × {_token_formula(cache, fmt)}", note
        case NoCache():
            return "0", None
        case _:
            assert_type(cache, RecurrentCache)
            size = constant_bytes(cache, fmt, model_dtype, serving.source_tokens)
            return f"{size:,}", "a state of constant size, whatever the context"


def _naive(arch: Architecture, serving: Serving, fmt: str) -> Step | None:
    """The articles' formula: 2 × layers × all heads × head size × bytes × tokens × sequences."""
    if arch.num_attention_heads is None or arch.head_dim is None:
        return None
    width = KV_BITS[fmt]
    tokens = serving.context * serving.num_seqs
    size = 2 * arch.num_hidden_layers * arch.num_attention_heads * arch.head_dim * width * tokens // 8
    heads = f"{arch.num_attention_heads} heads × {arch.head_dim}"
    formula = f"2 × {arch.num_hidden_layers} layers × {heads} × {bytes_of(width)} × {tokens:,} tokens"
    return Step("By the naive formula (all heads, all layers, full context)", formula, size, "bytes")


def _reasons(arch: Architecture, serving: Serving) -> list[str]:
    """Why the naive formula is not this model's, most telling first."""
    found: dict[str, int] = {}
    for cache in _caches(arch):
        reason: str | None
        match cache:
            case FullAttention() | IndexedAttention():
                reason = _head_reason(cache.num_heads, cache.num_kv_heads)
            case SlidingAttention(window=limit) | ChunkedAttention(chunk=limit) | CompressedAttention(window=limit):
                reason = f"{{}} layers keep {limit:,} tokens at most" if serving.context > limit else None
                if isinstance(cache, SlidingAttention | ChunkedAttention):
                    heads = _head_reason(cache.num_heads, cache.num_kv_heads)
                    if heads:
                        found[heads] = found.get(heads, 0) + 1
            case LatentAttention() | SparseLatentAttention():
                reason = (
                    f"{{}} layers keep one latent row of {cache.kv_lora_rank + cache.qk_rope_head_dim} for all heads"
                )
            case SharedCache():
                reason = "{} layers share another layer's cache"
            case NoCache():
                reason = None
            case CrossAttention():
                reason = "cross attention of {} layers comes on top"
            case _:
                assert_type(cache, RecurrentCache)
                reason = "{} layers keep a constant state"
        if reason:
            found[reason] = found.get(reason, 0) + 1
    reasons = [text.format(count) for text, count in found.items()]
    attending = sum(1 for layer in arch.layers if layer.stack == "decoder" and not _bare(layer.caches))
    if attending < arch.num_hidden_layers:
        reasons.append(f"{arch.num_hidden_layers - attending} layers keep nothing")
    return reasons


def _bare(caches: tuple[Cache, ...]) -> bool:
    return all(isinstance(cache, NoCache) for cache in caches)


def _head_reason(heads: int, kv_heads: int) -> str | None:
    if kv_heads == heads:
        return None
    return (f"{kv_heads} K/V heads serve" if kv_heads > 1 else "one K/V head serves") + f" {heads} heads in {{}} layers"
