"""Rows of an MLA cache that carry their scales, in plain PyTorch: where they are, what they mean, and how they are made."""

from __future__ import annotations

import torch

from hfmem_kernels.layout import PACKED_ROWS, SCALE_BYTES, SPLIT_ROW_BYTES, SPLIT_SCALE_BYTES, LatentFormat

#: columns of an `fp8_ds_mla` row that share one scale
LATENT_GROUP = 128
#: of DeepSeek V4's rows, and of `nvfp4_ds_mla`
SPLIT_GROUP, NVFP4_GROUP = 64, 16
#: what the codes 0 … 7 of e2m1 stand for; 8 … 15 are the same, negative
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def parts_of(cache: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A uint8 cache [pages, page, bytes] as it lies: whole rows, or rows of 576 bytes and 8 bytes of scales [pages, page, …]."""
    if cache.shape[2] != SPLIT_ROW_BYTES:
        return (cache,)
    pages, page, _ = cache.shape
    row, start = SPLIT_ROW_BYTES - SPLIT_SCALE_BYTES, cache.storage_offset()
    data = cache.as_strided((pages, page, row), (cache.stride(0), row, 1), start)
    eight = (cache.stride(0), SPLIT_SCALE_BYTES, 1)
    return data, cache.as_strided((pages, page, SPLIT_SCALE_BYTES), eight, start + page * row)


def rows_at(cache: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """The tokens at `slots` (page · page size + place) of an MLA cache: [tokens, columns], or uint8 [tokens, bytes]."""
    pages, places = slots.long() // cache.shape[1], slots.long() % cache.shape[1]
    if cache.dtype != torch.uint8:
        return cache[pages, places]
    return torch.cat([part[pages, places] for part in parts_of(cache)], dim=1)


def store_rows(cache: torch.Tensor, slots: torch.Tensor, rows: torch.Tensor) -> None:
    """Write uint8 rows [tokens, bytes] to their slots."""
    start = 0
    for part in parts_of(cache):
        part[slots // cache.shape[1], slots % cache.shape[1]] = rows[:, start : start + part.shape[2]]
        start += part.shape[2]


def unpack(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """uint8 rows [tokens, bytes] → [tokens, latent + rotary columns], each latent column times its scale."""
    rows = rows.contiguous()
    latent_format = PACKED_ROWS[rows.shape[1]]
    rank, rope_dim = latent_format.columns

    def floats(start: int, size: int, element: torch.dtype) -> torch.Tensor:
        return rows[:, start : start + size].contiguous().view(element).to(dtype)

    if latent_format is LatentFormat.FP8_DS:
        size = rank // LATENT_GROUP * SCALE_BYTES
        latent, scales = floats(0, rank, torch.float8_e4m3fn), floats(rank, size, torch.float32)
        rope = floats(rank + size, 2 * rope_dim, torch.bfloat16)
    elif latent_format is LatentFormat.FP8_V4:
        latent, rope = floats(0, rank, torch.float8_e4m3fn), floats(rank, 2 * rope_dim, torch.bfloat16)
        exponents = rows[:, rank + 2 * rope_dim :][:, : rank // SPLIT_GROUP].to(dtype) - 127
        scales = torch.exp2(exponents)
    else:
        codes = rows[:, : rank // 2]
        halves = torch.stack([codes & 15, codes >> 4], dim=2).flatten(1).long()
        table = torch.tensor([*E2M1, *(-value for value in E2M1)], dtype=dtype, device=rows.device)
        latent, rope = table[halves], floats(rank // 2, rope_dim, torch.float8_e4m3fn)
        block = torch.arange(rank // NVFP4_GROUP, device=rows.device)
        scales = floats(rank // 2 + rope_dim, len(block), torch.float8_e4m3fn)[:, 8 * (block % 4) + block // 4]
    groups = latent.view(len(rows), scales.shape[1], rank // scales.shape[1])
    return torch.cat([(groups * scales[:, :, None]).flatten(1), rope], dim=1)


def pack(latent: torch.Tensor, rope: torch.Tensor, latent_format: LatentFormat) -> torch.Tensor:
    """latent [tokens, rank] and rope [tokens, rope dim] → uint8 rows [tokens, bytes], scales found as engines find them.

    A scale is that with which a group's largest magnitude is the format's largest: rounded up to a power of two for FP8_V4 (where
    it is that of 1e-4 at least), rounded to e4m3 for NVFP4_DS (2^-9 at least).
    """

    def bytes_of(values: torch.Tensor) -> torch.Tensor:
        return values.contiguous().view(torch.uint8).flatten(1)

    width = {LatentFormat.FP8_DS: LATENT_GROUP, LatentFormat.FP8_V4: SPLIT_GROUP}.get(latent_format, NVFP4_GROUP)
    groups = latent.float().view(len(latent), latent.shape[1] // width, width)
    biggest = groups.abs().amax(dim=-1)
    if latent_format is LatentFormat.FP8_DS:
        scale = torch.where(biggest > 0, biggest / 448.0, torch.ones_like(biggest))
        codes = (groups / scale[..., None]).clamp(-448, 448).to(torch.float8_e4m3fn)
        return torch.cat([bytes_of(codes), bytes_of(scale), bytes_of(rope.to(torch.bfloat16))], dim=1)
    if latent_format is LatentFormat.FP8_V4:
        bits = (biggest.clamp(min=1e-4) / 448.0).view(torch.int32)
        exponent = (bits >> 23) + ((bits & 0x7FFFFF) != 0)  # of the power of two that is no smaller
        scale = (exponent << 23).view(torch.float32)
        codes = (groups / scale[..., None]).clamp(-448, 448).to(torch.float8_e4m3fn)
        nothing = exponent.new_zeros(len(latent), 1)
        eight = torch.cat([exponent, nothing], dim=1).to(torch.uint8)
        return torch.cat([bytes_of(codes), bytes_of(rope.to(torch.bfloat16)), eight], dim=1)
    scale = (biggest / 6.0).clamp(2.0**-9, 448.0).to(torch.float8_e4m3fn)
    values = groups / scale.float()[..., None]
    size = values.abs()
    # nearest, ties to even codes
    steps = (size > 0.25, size >= 0.75, size > 1.25, size >= 1.75, size > 2.5, size >= 3.5, size > 5.0)
    halves = sum((step.to(torch.uint8) for step in steps), torch.zeros_like(size, dtype=torch.uint8))
    halves = (halves | (torch.signbit(values).to(torch.uint8) << 3)).flatten(1)
    block = torch.arange(scale.shape[1], device=latent.device)
    turned = torch.empty_like(scale.view(torch.uint8))
    turned[:, 8 * (block % 4) + block // 4] = scale.view(torch.uint8)
    tail = rope.float().clamp(-448, 448).to(torch.float8_e4m3fn)
    return torch.cat([halves[:, 0::2] | (halves[:, 1::2] << 4), bytes_of(tail), turned], dim=1)
