"""Filling caches as an engine does (slot mapping, quantization), reading them back, and moving pages."""

from __future__ import annotations

import torch

from hfmem_kernels import _validate
from hfmem_kernels._addresses import cache_format, scale_mode, scale_strides
from hfmem_kernels._calls import parted
from hfmem_kernels._heuristics import LaunchConfig, next_power_of_2
from hfmem_kernels._launch import decoder_of, require_triton, run
from hfmem_kernels._reference import gather
from hfmem_kernels._reference_rows import pack, store_rows
from hfmem_kernels._register import nothing, op

_CONFIG = LaunchConfig(block_m=16, block_n=16, num_warps=1, num_stages=1, ctas_per_sm=8)


def write_kv(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    *,
    k_scale: torch.Tensor | float | None = None,
    v_scale: torch.Tensor | float | None = None,
    impl: str = "triton",
) -> None:
    """Store new tokens' keys and values in their slots.

    Args:
        k, v: [tokens, kv_heads, dim] in bf16, fp16 or fp32.
        k_cache, v_cache: as in `paged_decode_attention`; 8-bit caches are rounded to nearest even and saturated.
        slot_mapping: int64 [tokens], page · page_size + place in the page; negative: the token is not stored.
        k_scale, v_scale: what is divided by before rounding: a number, one element or [kv_heads]; with
            [pages, page_size, kv_heads] each row gets largest magnitude / largest code, which is written there.

    Raises:
        ValueError: an argument does not fit; the message names it.
        RuntimeError: impl="triton" without Triton or without a device it runs on.
    """
    for name, rows, cache in (("k", k, k_cache), ("v", v, v_cache)):
        _validate.check_dtype(name, rows, _validate.QUERY_DTYPES)
        _validate.check_dtype(f"{name}_cache", cache, [*_validate.QUERY_DTYPES, *_validate.QUANTIZED])
        _validate.check_device(f"{name}_cache", cache, k.device)
        _validate.check_shape(
            f"{name}_cache", cache, ["pages", "page size", k_cache.shape[2] if name == "v" else "kv heads", "dim"]
        )
        _validate.check_shape(name, rows, [k.shape[0], cache.shape[2], cache.shape[3]])
        _validate.check_device(name, rows, k.device)
    if v_cache.dtype != k_cache.dtype or v_cache.shape[:3] != k_cache.shape[:3]:
        _validate.fail(
            "v_cache", f"{list(k_cache.shape[:3])} in {k_cache.dtype}", f"{list(v_cache.shape[:3])} in {v_cache.dtype}"
        )
    _check_slots(slot_mapping, k)
    _validate.check_scale("k_scale", k_scale, k_cache)
    _validate.check_scale("v_scale", v_scale, v_cache)
    (k_factor, k_scale), (v_factor, v_scale) = parted(k_scale), parted(v_scale)
    if impl == "reference":
        _write_reference(k, k_cache, slot_mapping, k_scale, k_factor)
        _write_reference(v, v_cache, slot_mapping, v_scale, v_factor)
        return
    require_triton(impl, k)
    write_kv_op(k, v, k_cache, v_cache, slot_mapping, k_scale, v_scale, k_factor, v_factor)


def write_latent(
    latent: torch.Tensor,
    rope: torch.Tensor,
    cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    *,
    cache_scale: torch.Tensor | float | None = None,
    impl: str = "triton",
) -> None:
    """Store new tokens in an MLA cache: latent [tokens, rank] and rope [tokens, rope dim] side by side in one row.

    cache: as in `mla_decode_attention`. uint8 rows get codes and scales as their format says (`LatentFormat`); other 8-bit caches
    divide by `cache_scale`. `slot_mapping` and what is raised: as `write_kv`.
    """
    _validate.check_dtype("latent", latent, _validate.QUERY_DTYPES)
    _validate.check_shape("latent", latent, ["tokens", "rank"])
    _validate.check_dtype("rope", rope, [latent.dtype])
    _validate.check_shape("rope", rope, [latent.shape[0], "rope dim"])
    _validate.check_device("rope", rope, latent.device)
    _check_slots(slot_mapping, latent)
    _validate.check_dtype("cache", cache, [*_validate.QUERY_DTYPES, *_validate.QUANTIZED, torch.uint8])
    if cache.dtype != torch.uint8:
        _validate.check_shape("cache", cache, ["pages", "page size", latent.shape[1] + rope.shape[1]])
        cache_scale = _validate.check_one_scale("cache_scale", cache_scale, cache)
        rank = latent.shape[1]
        rows = cache[:, :, None, :]
        write_kv(
            latent[:, None, :], rope[:, None, :], rows[..., :rank], rows[..., rank:], slot_mapping,
            k_scale=cache_scale, v_scale=cache_scale, impl=impl,
        )  # fmt: skip
        return
    _validate.check_device("cache", cache, latent.device)
    latent_format = _validate.check_packed_rows(cache)
    if (latent.shape[1], rope.shape[1]) != latent_format.columns:
        rank, turned = latent_format.columns
        expected = f"{rank} columns, and {turned} of rope, for {latent_format.value}"
        _validate.fail("latent", expected, f"{latent.shape[1]}, {rope.shape[1]}")
    if cache_scale is not None:
        _validate.fail("cache_scale", "None for rows that carry their scales", cache_scale)
    if impl == "reference":
        kept = slot_mapping >= 0
        store_rows(cache, slot_mapping[kept], pack(latent[kept], rope[kept], latent_format))
        return
    require_triton(impl, latent)
    write_latent_op(latent, rope, cache, slot_mapping)


def gather_kv(cache: torch.Tensor, page_table: torch.Tensor, seq_lens: torch.Tensor) -> torch.Tensor:
    """The dense rows [batch, longest, …] of a paged cache [pages, page_size, …], zero behind each sequence's end.

    For tests, migration and prefill kernels without page tables; it reads the lengths, so it waits for the device.

    Raises:
        ValueError: an argument does not fit, or a page id or a length is none of this cache; the message names it.
    """
    _validate.check_tensor("cache", cache)
    if cache.dim() < 2:
        _validate.fail("cache", "shape [pages, page size, …]", f"shape {list(cache.shape)}")
    _validate.check_pages(page_table, seq_lens, cache.device)
    _validate.check_indices(page_table, seq_lens, cache)
    longest = int(seq_lens.max()) if seq_lens.numel() else 0
    dense = torch.zeros(page_table.shape[0], longest, *cache.shape[2:], dtype=torch.float32, device=cache.device)
    dense = dense.to(cache.dtype)
    for b, length in enumerate(seq_lens.tolist()):
        dense[b, :length] = gather(cache, page_table[b], 0, length)
    return dense


def move_pages(cache: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor) -> None:
    """Copy whole pages inside a cache [pages, …], all read before any is written, as defragmentation needs.

    Raises:
        ValueError: `sources` and `targets` are no int32 or int64 vectors of the same length where the cache is.
    """
    _validate.check_tensor("cache", cache)
    _validate.check_dtype("sources", sources, [torch.int32, torch.int64])
    _validate.check_dtype("targets", targets, [sources.dtype])
    _validate.check_shape("sources", sources, ["pages"])
    _validate.check_shape("targets", targets, [sources.shape[0]])
    _validate.check_device("sources", sources, cache.device)
    _validate.check_device("targets", targets, cache.device)
    raw = cache.view(torch.uint8) if cache.element_size() == 1 else cache
    raw[targets.long()] = raw[sources.long()]


def _check_slots(slot_mapping: torch.Tensor, rows: torch.Tensor) -> None:
    _validate.check_dtype("slot_mapping", slot_mapping, [torch.int64])
    _validate.check_device("slot_mapping", slot_mapping, rows.device)
    _validate.check_shape("slot_mapping", slot_mapping, [rows.shape[0]])
    if not slot_mapping.is_contiguous():
        _validate.fail("slot_mapping", "a contiguous tensor", f"stride {slot_mapping.stride(0)}")


def _round(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """To nearest even, saturated."""
    if dtype == torch.int8:
        return values.round().clamp(-127, 127).to(dtype)
    top = torch.finfo(dtype).max
    return values.clamp(-top, top).to(dtype)


def _write_reference(
    rows: torch.Tensor, cache: torch.Tensor, slots: torch.Tensor, scale: torch.Tensor | None, factor: float
) -> None:
    kept = slots >= 0
    pages, places = slots[kept] // cache.shape[1], slots[kept] % cache.shape[1]
    values = rows[kept].float()
    if cache_format(cache) == 0:
        cache[pages, places] = values.to(cache.dtype)
        return
    if scale is not None and scale.dim() == 3:
        top = 127.0 if cache.dtype == torch.int8 else torch.finfo(cache.dtype).max
        biggest = values.abs().amax(dim=-1)
        divisor = torch.where(biggest > 0, biggest / top, torch.ones_like(biggest))
        scale[pages, places] = divisor
        values = values / divisor[..., None]
    elif scale is not None:
        values = values / (scale.reshape(-1, 1) if scale.numel() > 1 else scale.reshape(()))
    else:
        values = values / torch.tensor(factor, dtype=torch.float32)
    cache.view(torch.uint8)[pages, places] = _round(values, cache.dtype).view(torch.uint8)


@op("write_kv", mutates=("k_cache", "v_cache", "k_scale", "v_scale"), fake=nothing)
def write_kv_op(
    k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, slot_mapping: torch.Tensor,
    k_scale: torch.Tensor | None, v_scale: torch.Tensor | None, k_factor: float, v_factor: float,
) -> None:  # fmt: skip
    """The checked call."""
    from hfmem_kernels._kernels_cache import write_kernel

    if k.numel() == 0:
        return
    kind = cache_format(k_cache)
    k_bytes, v_bytes = (c.view(torch.uint8) if kind else c for c in (k_cache, v_cache))
    nothing = slot_mapping
    arguments = [
        k, v, k_bytes, v_bytes, slot_mapping, nothing if k_scale is None else k_scale,
        nothing if v_scale is None else v_scale, k_factor, v_factor, *k.stride(), *v.stride(), *k_bytes.stride(),
        *v_bytes.stride(), *scale_strides(k_scale), *scale_strides(v_scale),
    ]  # fmt: skip
    constants = {
        "PAGE": k_cache.shape[1], "DK": k.shape[2], "DV": v.shape[2], "BLOCK_K": next_power_of_2(k.shape[2]),
        "BLOCK_V": next_power_of_2(v.shape[2]), "FORMAT": kind, "K_SCALES": scale_mode(k_scale),
        "V_SCALES": scale_mode(v_scale), "DECODER": decoder_of(k.device),
    }  # fmt: skip
    run(write_kernel, (k.shape[0], k.shape[1]), arguments, constants, _CONFIG, warmup=False)


@op("write_latent", mutates=("cache",), fake=nothing)
def write_latent_op(latent: torch.Tensor, rope: torch.Tensor, cache: torch.Tensor, slot_mapping: torch.Tensor) -> None:
    """The checked call for uint8 rows."""
    from hfmem_kernels._kernels_cache import write_packed_latent_kernel

    if latent.shape[0] == 0:
        return
    arguments = [latent, rope, cache, slot_mapping, *latent.stride(), *rope.stride(), *cache.stride()[:2]]
    constants = {"PAGE": cache.shape[1], "ROWS": cache.shape[2], "DECODER": decoder_of(latent.device)}
    run(write_packed_latent_kernel, (latent.shape[0],), arguments, constants, _CONFIG, warmup=False)
