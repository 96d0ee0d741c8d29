"""The same as `random_cases` for MLA caches: plain rows and those that carry their scales, by page tables and by lists of slots.

Rows are random bytes, decoded here from the descriptions of vLLM's and SGLang's sources (`hfmem_kernels.layout.LatentFormat`).
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from random_cases import (
    CODES,
    DTYPES,
    Array,
    Call,
    array,
    attention,
    bounds,
    deal_pages,
    decoded,
    first_seen,
    laid_out,
    moved,
    numbers_of,
    places,
)

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def _bf16(values: Array) -> tuple[Array, Array]:
    """Bytes of what is near `values`, and what they stand for."""
    rounded = torch.from_numpy(values).to(torch.bfloat16)
    return rounded.view(torch.uint8).numpy(), rounded.double().numpy()


def _codes(draw: np.random.Generator, n: int) -> Array:
    """e4m3 codes but the two of NaN."""
    codes = draw.integers(0, 256, n, dtype=np.uint8)
    return np.where(codes & 0x7F == 0x7F, np.uint8(0x38), codes)


def row_656(draw: np.random.Generator) -> tuple[Array, Array, Array]:
    """Bytes of a row, none elsewhere, and its columns: 512 e4m3, 4 fp32 scales, 64 bf16."""
    codes, scales = _codes(draw, 512), np.exp2(draw.normal(-6, 2, 4)).astype(np.float32)
    rope, turned = _bf16(draw.normal(size=64))
    columns = decoded(codes, "float8_e4m3fn") * np.repeat(scales.astype(np.float64), 128)
    return np.concatenate([codes, scales.view(np.uint8), rope]), codes[:0], np.concatenate([columns, turned])


def row_584(draw: np.random.Generator) -> tuple[Array, Array, Array]:
    """448 e4m3 and 64 bf16; behind the page's rows seven powers of two and a byte of nothing."""
    codes, powers = _codes(draw, 448), draw.integers(115, 124, 8, dtype=np.uint8)
    rope, turned = _bf16(draw.normal(size=64))
    columns = decoded(codes, "float8_e4m3fn") * np.repeat(np.exp2(powers[:7].astype(np.float64) - 127), 64)
    return np.concatenate([codes, rope]), powers, np.concatenate([columns, turned])


def row_352(draw: np.random.Generator) -> tuple[Array, Array, Array]:
    """256 bytes of two e2m1 codes, the even column in the low half; 64 e4m3; 32 e4m3 scales, block s at 8 · (s mod 4) + s div 4."""
    halves, rope, scales = (
        draw.integers(0, 256, 256, dtype=np.uint8),
        _codes(draw, 64),
        draw.integers(0, 72, 32, dtype=np.uint8),
    )
    columns = np.stack([E2M1[halves & 15], E2M1[halves >> 4]], 1).reshape(512)
    block = np.arange(32)
    columns = columns * np.repeat(decoded(scales, "float8_e4m3fn")[8 * (block % 4) + block // 4], 16)
    return (
        np.concatenate([halves, rope, scales]),
        rope[:0],
        np.concatenate([columns, decoded(rope, "float8_e4m3fn") * 1.0]),
    )


ROWS = {656: row_656, 584: row_584, 352: row_352}


def packed_cache(
    dice: random.Random, pages: int, page: int, width: int, written: list[tuple[int, int]], seed: int
) -> Any:
    """A uint8 cache of rows of `width` bytes, NaN where nothing is written, and its columns [pages, page, …]."""
    draw = np.random.default_rng(seed)
    split = width == 584
    token = width if split else width + dice.choice((0, 16, 48))
    size = -(-page * 584 // 576) * 576 + dice.choice((0, 576)) if split else page * token + dice.choice((0, 16, 160))
    start = dice.choice((0, 16, 48))
    raw = torch.full((start + pages * size,), 0xFF, dtype=torch.uint8)
    by_page = raw[start:].view(pages, size).numpy()
    columns = np.full((pages, page, 512 if split else 576), np.nan)
    for p, at in written:
        row, behind, columns[p, at] = ROWS[width](draw)
        step = 576 if split else token
        by_page[p, at * step : at * step + len(row)] = row
        by_page[p, page * 576 + at * 8 : page * 576 + at * 8 + len(behind)] = behind
    return raw.as_strided((pages, page, width), (size, token, 1), start), columns


def draw_latent(seed: int, device: str, listed: bool, most: int = 80) -> Call:
    """A call of `mla_decode_attention`, or with `listed` of `sparse_mla_decode_attention`."""
    dice, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    packed = dice.choice((0, 0, 0, 656, 584, 352))
    dtype = "bfloat16" if packed else dice.choice(tuple(DTYPES))
    stored = "uint8" if packed else dice.choice((dtype, dtype, *CODES))
    rank = 512 if packed else dice.choice((16, 32, 64, 128, 256, 512, 512))
    width = {0: rank + dice.choice((0, 1, 8, 16, rank // 2)), 584: 512}.get(packed, 576)
    heads, page, batch = (
        dice.choice((1, 2, 5, 8, 16, 17, 40)),
        dice.choice((1, 2, 3, 16, 33, 64, 528)),
        dice.choice((1, 2, 3)),
    )
    lengths = [dice.choice((0, 1, dice.randint(0, most))) for _ in range(batch)]
    window, count = (None, 1) if listed else (dice.choice((None, None, 7, 40)), dice.choice((1, 1, 2, 3)))
    first = first_seen(lengths, [count] * batch, window)
    table, pages = deal_pages(dice, lengths, page, first)
    owned = [places(table, page, row, first[row], n) for row, n in enumerate(lengths)]

    keywords: dict[str, Any] = {"kv_lora_rank": rank, "scale": dice.choice((width**-0.5, 0.1))}
    if packed:
        written = [(int(p), int(at)) for each in owned for p, at in zip(*each, strict=True)]
        cache, columns = packed_cache(dice, pages, page, packed, written, seed)
    else:
        cache = laid_out(dice, (pages, page, 1, width), CODES.get(stored) or DTYPES[stored])[:, :, 0]
        codes = torch.randn(pages, page, width, generator=generator)
        codes = (codes * 30).round().clamp(-127, 127) if stored == "int8" else codes
        for at in owned:
            cache[at] = codes[at].to(cache.dtype)
        columns = numbers_of(cache, stored)
    if stored in CODES and dice.random() < 0.8:
        factor = dice.choice((0.0625, 1.5))
        keywords["cache_scale"] = dice.choice((factor, torch.tensor(factor), torch.tensor([[[factor]]])))
        columns = columns * factor
    if dice.random() < 0.3:
        keywords["sinks"] = torch.randn(heads, generator=generator)
    largest = max(float(np.nan_to_num(np.abs(columns)).max()), 1e-6)
    magnitude = min(dice.choice((1e-3, 1.0, 5.0)), 60 / (largest * width * keywords["scale"]))
    q = (torch.randn(batch, count, heads, width, generator=generator) * magnitude).to(DTYPES[dtype])
    if listed:
        q = q[:, 0]
        second, third, rows = _lists(dice, owned, page)
        dense = [columns.reshape(-1, width)[each] for each in rows]
    else:
        keywords["window"], second, third = window, table, lengths
        dense = [np.concatenate([np.zeros((f, width)), columns[at]]) for f, at in zip(first, owned, strict=True)]
    parts = [
        attention(
            (q[b : b + 1] if listed else q[b]).double().numpy(), d[:, None], d[:, None, :rank], scale=keywords["scale"],
            window=window, sinks=array(keywords.get("sinks")),
        )
        for b, d in enumerate(dense)
    ]  # fmt: skip
    found = tuple((np.concatenate if listed else np.stack)(part) for part in zip(*parts, strict=True))
    half = dtype if stored == dtype else "bfloat16" if packed == 584 else "float16"
    logit = keywords["scale"] * float(q.double().abs().sum(-1).max()) * largest
    limits = bounds(
        found, dim=width, tokens=most, logit=logit, value=largest, dtype=dtype, operand=half,
        query=dtype if stored == dtype else "float16",
    )  # fmt: skip
    what = {
        "seed": seed, "dtype": dtype, "stored": stored, "row": packed, "columns": (width, rank), "heads": heads, "page": page,
        "lengths": lengths, "queries": count, "strides": cache.stride(),
        **{n: x if not isinstance(x, torch.Tensor) else list(x.shape) for n, x in keywords.items()},
    }  # fmt: skip
    there = {n: x.to(device) if isinstance(x, torch.Tensor) else x for n, x in keywords.items()}
    tensors = (q, cache, second, torch.tensor(third, dtype=torch.int32))
    return Call(tuple(moved(t, device) for t in tensors), there, found[0], found[1], *limits, what)


def _lists(
    dice: random.Random, owned: list[tuple[Array, Array]], page: int
) -> tuple[torch.Tensor, list[int], list[list[int]]]:  # fmt: skip
    """Lists of slots in a wider tensor, with holes and repeats in any order, anything behind their ends; lengths; what is read."""
    wide = dice.randint(1, 70)
    slots = torch.full((len(owned), wide + 5), 2**31 - 1, dtype=torch.int32)[:, 2 : 2 + wide]
    lengths, rows = [], []
    for token, (ids, at) in enumerate(owned):
        known = [int(p) * page + int(a) for p, a in zip(ids, at, strict=True)]
        listed = [
            dice.choice(known) if known and dice.random() < 0.8 else -dice.randint(1, 2**31)
            for _ in range(dice.randint(0, wide))
        ]
        slots[token, : len(listed)] = torch.tensor(listed, dtype=torch.int64).to(torch.int32)
        lengths.append(len(listed))
        rows.append([slot for slot in listed if slot >= 0])
    return slots, lengths, rows
