"""The same as `random_cases` for an indexer's scores: keys in e4m3 with scales or in 16 bits, buffers of any width."""

from __future__ import annotations

import random

import numpy as np
import torch
from random_cases import DTYPES, Array, Call, deal_pages, decoded, laid_out, moved, numbers_of, places

#: what stands in a buffer before
BEFORE = -123.0


def packed_keys(
    dice: random.Random, pages: int, page: int, dim: int, owned: list[tuple[Array, Array]], seed: int
) -> tuple[torch.Tensor, Array]:  # fmt: skip
    """uint8 [pages, page, dim + 4], a page's elements and behind them its scales, and what the keys are; NaN where nothing is."""
    draw = np.random.default_rng(seed)
    size, start = -(-page * (dim + 4) // 16) * 16 + dice.choice((0, 16, 160)), dice.choice((0, 16, 48))
    raw = torch.full((start + pages * size,), 0xFF, dtype=torch.uint8)
    by_page, keys = raw[start:].view(pages, size).numpy(), np.full((pages, page, dim), np.nan)
    for p, at in ((p, at) for each in owned for p, at in zip(*each, strict=True)):
        codes, scale = draw.integers(0, 0x60, dim, dtype=np.uint8), np.exp2(draw.normal(-3, 3, 1)).astype(np.float32)
        codes |= draw.integers(0, 2, dim, dtype=np.uint8) << 7
        by_page[p, at * dim : (at + 1) * dim] = codes
        by_page[p, page * dim + 4 * at : page * dim + 4 * at + 4] = scale.view(np.uint8)
        keys[p, at] = decoded(codes, "float8_e4m3fn") * float(scale[0])
    return raw.as_strided((pages, page, dim + 4), (size, dim + 4, 1), start), keys


def draw_index(seed: int, device: str, most: int = 80) -> Call:
    """A call of `index_logits` with a buffer; the scores are `out`, and there is no lse."""
    dice, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    dim, heads = dice.choice((32, 64, 128)), dice.choice((1, 3, 8, 16, 17, 32, 64))
    page, batch, queries = (
        dice.choice((1, 2, 3, 16, 33, 64, 128)),
        dice.choice((1, 2, 3, 5)),
        dice.choice((1, 1, 2, 3, 4)),
    )
    packed = dice.random() < 0.6
    narrow = packed and dice.random() < 0.5
    dtype = torch.float8_e4m3fn if narrow else DTYPES[dice.choice(("bfloat16", "float16"))]
    lengths = [dice.choice((0, 1, dice.randint(0, most), dice.randint(most // 2, most))) for _ in range(batch)]
    table, pages = deal_pages(dice, lengths, page, [0] * batch)
    owned = [places(table, page, row, 0, n) for row, n in enumerate(lengths)]
    if packed:
        keys, values = packed_keys(dice, pages, page, dim, owned, seed)
    else:
        keys = laid_out(dice, (pages, page, 1, dim), dtype, columns_apart=False)[:, :, 0]
        for at in owned:
            keys[at] = torch.randn(len(at[0]), dim, generator=generator).to(dtype)
        values = numbers_of(keys, "")
    first = dice.choice((0, 1))
    q = torch.randn(batch, queries, heads, dim + 1, generator=generator).to(dtype)[..., first : first + dim]
    weights = torch.randn(batch, queries, heads + 3, generator=generator)[..., 2 : 2 + heads]
    columns = dice.choice((table.shape[1] * page + 7, max([*lengths, 1]), max(1, max(lengths) // 2)))
    out = torch.full((batch, queries, columns + 4), BEFORE)[..., 3 : 3 + columns]

    expected, size = np.full(out.shape, BEFORE), np.zeros(out.shape)
    for b, i in np.ndindex(batch, queries):
        seen = min(max(0, lengths[b] - queries + 1 + i), columns)
        k, mine, weight = values[owned[b]][:seen], q[b, i].double().numpy(), weights[b, i].double().numpy()
        expected[b, i, :seen] = np.maximum(k @ mine.T, 0) @ weight
        size[b, i, :seen] = np.abs(k) @ np.abs(mine).T @ np.abs(weight)
    # dim + heads additions in fp32; sm_89 and later add products of e4m3 with fewer digits
    share = 2.0**-10 if narrow and device != "cpu" else (dim + heads + 16) * 2.0**-24
    what = {
        "seed": seed, "dtype": dtype, "packed": packed, "dim": dim, "heads": heads, "page": page, "lengths": lengths,
        "queries": queries, "columns": columns, "strides": keys.stride(), "start": keys.storage_offset(),
    }  # fmt: skip
    tensors = (q, keys, weights, table, torch.tensor(lengths, dtype=torch.int32))
    there = {"out": moved(out, device)}
    return Call(tuple(moved(t, device) for t in tensors), there, expected, expected, size * share, size, what)
