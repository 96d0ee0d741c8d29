"""Decode calls drawn at random, by numbers and layouts that nobody chose, and what they should give, in numpy and fp64.

Nothing of the package is used: elements are decoded from their bits, pages found by hand, heads taken one by one. `random_latents`
has the same for MLA caches.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[Any]
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
CODES = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2, "int8": torch.int8}
#: half a step at 1 of what weights are rounded to before values are weighed, and of results
HALF_STEP = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


@dataclass
class Call:
    """A call's arguments, what it should give, how far off that it may be, and what to say of it."""

    positional: tuple[torch.Tensor, ...]
    keywords: dict[str, Any]
    out: Array
    lse: Array
    out_bound: Array
    lse_bound: Array
    what: dict[str, Any]

    def check(self, out: torch.Tensor, lse: torch.Tensor) -> None:
        """Results are within their bounds, and exactly -inf where nothing is seen."""
        found, found_lse = (t.double().cpu().numpy() for t in (out, lse))
        assert (np.abs(found - self.out) <= self.out_bound).all(), self.what
        none = np.isinf(self.lse)
        assert (found_lse[none] == self.lse[none]).all() and not found[none].any(), self.what
        assert (np.abs(found_lse[~none] - self.lse[~none]) <= self.lse_bound[~none]).all(), self.what


def decoded(codes: Array, dtype: str) -> Array:
    """Bytes → what they stand for in an 8-bit format."""
    if dtype == "int8":
        return codes.view(np.int8).astype(np.float64)
    mantissa_bits, bias = (3, 7) if dtype == "float8_e4m3fn" else (2, 15)
    exponent = (codes.astype(np.int64) & 0x7F) >> mantissa_bits
    fraction = (codes & ((1 << mantissa_bits) - 1)) / 2.0**mantissa_bits
    size = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1.0 + fraction) * np.exp2(exponent - float(bias)))
    return np.where(codes >> 7, -size, size)


def numbers_of(cache: torch.Tensor, dtype: str) -> Array:
    """A cache of any strides as numbers."""
    dense = cache.contiguous()
    return decoded(dense.view(torch.uint8).numpy(), dtype) if dtype in CODES else dense.double().numpy()


def attention(
    q: Array, k: Array, v: Array, *, scale: float, window: int | None = None, softcap: float | None = None,
    sinks: Array | None = None, slopes: Array | None = None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """One sequence: q [queries, heads, dim], the newest of the tokens of k and v [tokens, kv heads, dim]. out, lse, Σ p·|v|."""
    tokens, kv_heads, _ = k.shape
    queries, heads, _ = q.shape
    out, size = (np.zeros((queries, heads, v.shape[2])) for _ in range(2))
    lse = np.full((queries, heads), -np.inf)
    for i, h in np.ndindex(queries, heads):
        at = tokens - queries + i
        first = 0 if window is None else max(0, at - window + 1)
        seen, kv = slice(first, max(first, at + 1)), h // (heads // kv_heads)
        x = k[seen, kv] @ q[i, h] * scale
        if softcap:
            x = softcap * np.tanh(x / softcap)
        if slopes is not None:
            x = x + slopes[h] * (np.arange(first, first + len(x)) - at)
        terms = x if sinks is None else np.append(x, sinks[h])
        if len(terms):
            lse[i, h] = terms.max() + math.log(np.exp(terms - terms.max()).sum())
            p = np.exp(x - lse[i, h])
            out[i, h], size[i, h] = p @ v[seen, kv], p @ np.abs(v[seen, kv])
    return out, lse, size


def bounds(
    found: tuple[Array, Array, Array], *, dim: int, tokens: int, logit: float, value: float, dtype: str, operand: str, query: str
) -> tuple[Array, Array]:  # fmt: skip
    """How far out and lse may be off: `hfmem_kernels.testing.bounds` has the reasons. query: the format queries enter products in.

    logit, value: the largest Σ |q|·|k| and |v|.
    """
    out, lse, size = found
    delta = (dim + 16) * 2.0**-24 * max(1.0, logit)
    if HALF_STEP[query] > HALF_STEP[dtype]:
        delta += HALF_STEP[query] * logit
    relative = math.expm1(2 * delta) + HALF_STEP[operand] * 1.02 + (tokens + 16) * 2.0**-24
    tiny = tokens * 2.0**-24 * value if operand == "float16" else 0.0
    smallest = 2.0**-25 if dtype == "float16" else 1e-30
    bound = (size * relative + tiny) * (1 + HALF_STEP[dtype]) + np.abs(out) * HALF_STEP[dtype] + smallest
    return bound, (np.where(np.isinf(lse), 0.0, np.abs(lse)) + 4) * 2.0**-22 + delta + tokens * 2.0**-24


def laid_out(
    dice: random.Random, shape: tuple[int, int, int, int], dtype: torch.dtype, *, columns_apart: bool = True
) -> torch.Tensor:  # fmt: skip
    """A [pages, page, heads, dim] with its first three axes in any order, rows and all begun anywhere; full of NaN (int8: -1)."""
    strides = [0, 0, 0, dice.choice((1, 1, 1, 1, 2, 3)) if columns_apart else 1]
    size = shape[3] * strides[3] + dice.choice((0, 0, 0, 1, 2, 4, 8, 16, 40))
    for axis in dice.sample(range(3), 3):
        strides[axis] = size
        size = size * shape[axis] + dice.choice((0, 0, 1, 3, 8, 64))
    start = dice.choice((0, 0, 1, 2, 5, 8, 16, 24))
    bits = torch.full(((size + start) * dtype.itemsize,), 0xFF, dtype=torch.uint8)
    return bits.view(dtype).as_strided(shape, strides, start)


def deal_pages(dice: random.Random, lengths: list[int], page: int, first: list[int]) -> tuple[torch.Tensor, int]:
    """A table as an engine may leave it, part of a wider one, and how many pages there are: behind a sequence's end, and where a
    window has passed, it holds anything."""
    counts = [-(-n // page) for n in lengths]
    pages, most = sum(counts) + dice.randint(1, 3), max([*counts, 1])
    ids = dice.sample(range(pages), pages)
    anything = dice.choices((-1, 2**31 - 1, -(2**31), 7), k=len(lengths) * (most + 8))
    table = torch.tensor(anything, dtype=torch.int32).view(len(lengths), -1)[:, 3 : 3 + most + dice.randint(0, 5)]
    for row, (count, seen) in enumerate(zip(counts, first, strict=True)):
        for at in range(seen // page, count):
            table[row, at] = ids.pop()
    return table, pages


def places(table: torch.Tensor, page: int, row: int, start: int, stop: int) -> tuple[Array, Array]:
    """Page and place in it of a sequence's tokens start … stop - 1."""
    at = np.arange(start, stop)
    return table[row].numpy()[at // page], at % page


def first_seen(lengths: list[int], counts: list[int], window: int | None) -> list[int]:
    """The first token of each sequence that one of its queries sees."""
    return [0 if window is None else max(0, n - c + 1 - window) for n, c in zip(lengths, counts, strict=True)]


def moved(tensor: torch.Tensor, device: str) -> torch.Tensor:
    """On the device, with the same strides and start."""
    if device == "cpu":
        return tensor
    whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).to(device).view(tensor.dtype)
    return whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def scales_of(
    dice: random.Random, generator: torch.Generator, form: str, shape: tuple[int, int, int]
) -> tuple[torch.Tensor, Any]:  # fmt: skip
    """The factor of each row [pages, page, heads], and the argument that says it; "token": NaN until rows are written."""
    factor = torch.full(shape, dice.choice((0.004, 0.03, 1.7)) if form in ("number", "one") else 1.0)
    if form == "head":
        factor = factor * torch.exp2(torch.randn(shape[2], generator=generator) * 1.5 - 4)
        return factor, torch.stack([factor[0, 0], factor[0, 0] * 0], 1)[:, 0]  # not adjacent
    if form == "token":
        order = dice.sample(range(3), 3)
        scattered = torch.full([shape[axis] for axis in order], float("nan")).permute(
            [order.index(a) for a in range(3)]
        )
        return torch.exp2(torch.randn(shape, generator=generator) * 2 - 5), scattered
    return factor, {"none": None, "number": float(factor[0, 0, 0]), "one": factor[0, 0, :1].clone()}[form]


def draw_decode(seed: int, device: str, most: int = 90) -> Call:
    """A call of `paged_decode_attention` over at most `most` tokens a sequence."""
    dice, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    dtype = dice.choice(("bfloat16", "bfloat16", "float16", "float32"))
    stored = dice.choice((dtype, *CODES))
    dim = dice.choice((8, 16, 33, 40, 64, 80, 96, 112, 128, 128, 192, 200, 256))
    v_dim = dice.choice((dim, dim, dim, 5, 24, 64, 96, 128, 160, 256))
    kv_heads, group = dice.choice((1, 1, 2, 3, 5)), dice.choice((1, 1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 33, 64))
    heads, page = kv_heads * group, dice.choice((1, 3, 7, 16, 16, 33, 48, 64, 100, 528))
    batch = dice.choice((1, 1, 2, 3, 4, 40)) if group * dim < 2000 else 1
    longest = most if batch < 40 else 3
    lengths = [dice.choice((0, 1, dice.randint(0, longest), dice.randint(longest // 2, longest))) for _ in range(batch)]
    varlen = dice.random() < 0.25
    counts = [dice.choice((1, 1, 1, 2, 3, 4, 8))] * batch if not varlen else [dice.randint(0, 4) for _ in lengths]
    window = dice.choice((None, None, 1, 5, 16, 30, 64, 10**10))
    softcap, scale = dice.choice((None, None, None, 1.0, 30.0)), dice.choice((None, None, 0.3, -0.2))
    first = first_seen(lengths, counts, window)
    table, pages = deal_pages(dice, lengths, page, first)

    caches, numbers, keywords = [], [], dict[str, Any](window=window, softcap=softcap, scale=scale)
    kind = dice.choice(("none", "number", "one", "head", "mixed", "token")) if stored in CODES else "none"
    for name, columns in (("k_scale", dim), ("v_scale", v_dim)):
        shape = (pages, page, kv_heads, columns)
        cache = laid_out(dice, shape, CODES.get(stored) or DTYPES[stored])
        codes = torch.randn(shape, generator=generator)
        codes = (codes * 30).round().clamp(-127, 127) if stored == "int8" else codes
        form = dice.choice(("none", "number", "one", "head")) if kind == "mixed" else kind
        factor, keywords[name] = scales_of(dice, generator, form, shape[:3])
        for row, length in enumerate(lengths):
            at = places(table, page, row, first[row], length)
            cache[at] = codes[at].to(cache.dtype)
            if form == "token":
                keywords[name][at] = factor[at]
        caches.append(cache)
        numbers.append(numbers_of(cache, stored) * factor.double().numpy()[..., None])

    factor_of_logits = dim**-0.5 if scale is None else scale
    largest = [max(float(np.nan_to_num(np.abs(n)).max()), 1e-6) for n in numbers]
    magnitude = min(dice.choice((0.0, 1e-4, 1.0, 1.0, 8.0)), 100.0 / (largest[0] * abs(factor_of_logits) * dim))
    rows = (torch.randn(sum(counts), heads, dim, generator=generator) * magnitude).to(DTYPES[dtype])
    q = rows if varlen else rows.view(batch, counts[0], heads, dim)
    if dice.random() < 0.3:
        q = q.transpose(-1, -2).contiguous().transpose(-1, -2)
    if not varlen and counts[0] == 1 and dice.random() < 0.5:
        q = q[:, 0]
    if dice.random() < 0.3:
        keywords["sinks"] = torch.randn(heads, generator=generator).to(DTYPES[dice.choice((dtype, "float32"))])
    if dice.random() < 0.2:
        keywords["alibi_slopes"] = torch.rand(heads, generator=generator)
    ends = np.cumsum([0, *counts])
    if varlen:
        keywords |= {"cu_q": torch.tensor(ends, dtype=torch.int32), "max_q_len": max([*counts, 1]) + dice.randint(0, 1)}

    parts, logit = [], 0.0
    for row, length in enumerate(lengths):
        k, v = (np.zeros((length, *n.shape[2:])) for n in numbers)
        for dense, n in zip((k, v), numbers, strict=True):
            dense[first[row] :] = n[places(table, page, row, first[row], length)]
        mine = rows[ends[row] : ends[row + 1]].double().numpy()
        parts.append(attention(
            mine, k, v, scale=factor_of_logits, window=window, softcap=softcap, sinks=array(keywords.get("sinks")),
            slopes=array(keywords.get("alibi_slopes")),
        ))  # fmt: skip
        logit = max(logit, abs(factor_of_logits) * largest[0] * np.abs(mine).sum(-1).max(initial=0.0))
    found = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
    plain = stored == dtype
    limits = bounds(
        found, dim=dim, tokens=longest, logit=logit + longest * ("alibi_slopes" in keywords), value=largest[1], dtype=dtype,
        operand=dtype if plain else "float16", query=dtype if plain else "float16",
    )  # fmt: skip
    what = {
        "seed": seed, "dtype": dtype, "stored": stored, "dims": (dim, v_dim), "heads": (heads, kv_heads), "page": page,
        "lengths": lengths, "queries": counts, "scales": kind, "strides": [c.stride() for c in caches],
        **{n: x if not isinstance(x, torch.Tensor) else list(x.shape) for n, x in keywords.items()},
    }  # fmt: skip
    there = {n: x.to(device) if isinstance(x, torch.Tensor) else x for n, x in keywords.items()}
    tensors = (q, *caches, table, torch.tensor(lengths, dtype=torch.int32))
    results = (found[0], found[1], *limits)
    shaped = (r.reshape(*q.shape[:-1], *r.shape[2:]) for r in results)
    return Call(tuple(moved(t, device) for t in tensors), there, *shaped, what)


def array(tensor: torch.Tensor | None) -> Array | None:
    return None if tensor is None else tensor.double().numpy()
