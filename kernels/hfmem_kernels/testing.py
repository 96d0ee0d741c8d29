"""Inputs for tests and benchmarks, and how far a kernel may be from the fp64 oracle: bounds derived from its number formats."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from hfmem_kernels import _reference, layout
from hfmem_kernels.layout import CacheSpec, Layout


@dataclass(frozen=True, slots=True)
class Case:
    """One decode call, by its numbers. `q_lens`: queries of each sequence, the last ones of its `seq_lens` tokens."""

    seq_lens: tuple[int, ...]
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    v_head_dim: int | None = None
    page_size: int = 16
    q_len: int = 1
    q_lens: tuple[int, ...] | None = None
    dtype: str = "bfloat16"
    cache_dtype: str | None = None
    cache_layout: Layout = Layout.NHD
    scales: str = "none"  #: "none", "tensor", "head" or "token"
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False
    alibi: bool = False
    magnitude: float = 1.0  #: standard deviation of the queries
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Inputs:
    """The tensors of a case. `arguments`: keyword arguments shared by `paged_decode_attention` and the oracle."""

    case: Case
    q: torch.Tensor
    cache: layout.PagedCache
    page_table: torch.Tensor
    seq_lens: torch.Tensor
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def positional(self) -> tuple[torch.Tensor, ...]:
        """q, k_cache, v_cache, page_table, seq_lens."""
        return self.q, self.cache.k, self.cache.v, self.page_table, self.seq_lens


def build(case: Case, device: torch.device | str = "cpu", *, spare_pages: int = 2) -> Inputs:
    """Random inputs, reproducible by `case.seed`. Pages are shuffled; every byte that no sequence owns is NaN.

    That covers pages of nobody, the slots behind each sequence's end and, with a window, everything before what any query
    still sees (engines free those pages and give them to others).
    """
    generator = torch.Generator().manual_seed(case.seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    dtype = getattr(torch, case.dtype)
    cache_dtype = case.cache_dtype or case.dtype
    v_dim = case.v_head_dim or case.head_dim
    spec = CacheSpec(
        case.num_kv_heads, case.head_dim, v_dim, case.page_size, cache_dtype, case.cache_layout, case.scales == "token"
    )
    counts = [layout.num_pages(n, case.page_size) for n in case.seq_lens]
    total = sum(counts) + spare_pages
    order = torch.randperm(total, generator=generator).tolist()
    table = layout.page_table(list(case.seq_lens), case.page_size, order, "cpu")
    cache = layout.allocate(spec, total, "cpu")
    q_lens = case.q_lens or (case.q_len,) * len(case.seq_lens)

    k = randn(total * case.page_size, case.num_kv_heads, case.head_dim)
    v = randn(total * case.page_size, case.num_kv_heads, v_dim)
    owned = torch.zeros(total, case.page_size, dtype=torch.bool)
    for b, (length, queries) in enumerate(zip(case.seq_lens, q_lens, strict=True)):
        first = max(0, length - queries + 1 - case.window) if case.window else 0
        t = torch.arange(first, length)
        owned[table[b, t // case.page_size].long(), t % case.page_size] = True
        for page in range(first // case.page_size):
            table[b, page] = -1
    k_scale, v_scale = _fill(cache, k, v, case)
    _poison(cache, ~owned)

    shape = (sum(q_lens),) if case.q_lens else (len(case.seq_lens), case.q_len)
    q = (randn(*shape, case.num_heads, case.head_dim) * case.magnitude).to(dtype)
    arguments: dict[str, Any] = {"scale": case.head_dim**-0.5, "window": case.window, "softcap": case.softcap}
    if case.q_lens:
        arguments["cu_q"] = torch.tensor([0, *q_lens]).cumsum(0).to(torch.int32).to(device)
    if case.sinks:
        arguments["sinks"] = randn(case.num_heads).to(device)
    if case.alibi:
        slopes = 2.0 ** (-8.0 * torch.arange(1, case.num_heads + 1) / case.num_heads)
        arguments["alibi_slopes"] = slopes.to(device)
    moved = _move(cache, device)
    if case.scales == "token":
        k_scale, v_scale = moved.k_scale, moved.v_scale
    if k_scale is not None and v_scale is not None:
        arguments |= {"k_scale": k_scale.to(device), "v_scale": v_scale.to(device)}
    lengths = torch.tensor(case.seq_lens, dtype=torch.int32, device=device)
    return Inputs(case, q.to(device), moved, table.to(device), lengths, arguments)


def oracle(inputs: Inputs, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """out and lse of the reference, computed in `dtype` from the very same stored cache."""
    arguments = inputs.arguments | {"window": inputs.case.window or 0, "softcap": inputs.case.softcap or 0.0}
    return _reference.decode(*inputs.positional, **arguments, dtype=dtype)


#: unit roundoff of the formats a value passes through: half a step of 24, 11 and 8 binary digits
ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


@dataclass(frozen=True, slots=True)
class Rounding:
    """What decides a bound. operand: the format weights enter the second product in; logit: the largest |logit| by magnitudes."""

    operand: str
    out_dtype: str
    head_dim: int
    tokens: int
    logit: float
    largest_value: float


def bounds(
    out: torch.Tensor, lse: torch.Tensor, magnitude: torch.Tensor, rounding: Rounding
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds of |out - oracle| and |lse - oracle|, elementwise, for a kernel that accumulates in fp32.

    `magnitude` = Σ p·|v| of the oracle; u = 2^-24.
    - A logit is a sum of head_dim products and passes a few operations more: wrong by at most δ = (head_dim + 16) · u · L, L the
      largest Σ |q|·|k| · scale (plus |bias|).
    - Weights are wrong by the factor e^δ, the normaliser too; weights are rounded to the operand format, the normaliser is
      not; sums of n terms add n · u: magnitude · (e^2δ - 1 + u_operand + n · u).
    - Weights below 2^-14 of the largest are subnormal in fp16: wrong by 2^-25 each, n · 2^-25 · max |v| in all.
    - The result is rounded once: u_out · (|out| + what it is wrong by).
    """
    delta = (rounding.head_dim + 16) * 2.0**-24 * max(1.0, rounding.logit)
    relative = math.expm1(2.0 * delta) + ROUNDOFF[rounding.operand] + (rounding.tokens + 16) * 2.0**-24
    bound = magnitude * relative
    if rounding.operand == "float16":
        bound = bound + rounding.tokens * 2.0**-25 * rounding.largest_value
    last = ROUNDOFF[rounding.out_dtype]
    finite = lse.masked_fill(torch.isinf(lse), 0.0).abs()
    return bound * (1 + last) + out.abs() * last + 1e-30, (finite + 4) * 2.0**-22 + delta + rounding.tokens * 2.0**-24


def error_budget(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """`bounds` for a case."""
    case = inputs.case
    out, lse = oracle(inputs)
    v_scale = inputs.arguments.get("v_scale")
    values = _dequantized(inputs.cache.v, v_scale)
    arguments = {name: value for name, value in inputs.arguments.items() if name != "v_scale"}
    absolute = replace(inputs, cache=replace(inputs.cache, v=values.abs()), arguments=arguments)
    k_largest = _dequantized(inputs.cache.k, inputs.arguments.get("k_scale")).abs().nan_to_num(0.0, 0.0).amax().item()
    logit = inputs.arguments["scale"] * inputs.q.double().abs().sum(-1).amax().item() * k_largest
    longest = max(case.seq_lens)
    quantized = (case.cache_dtype or case.dtype) != case.dtype
    operand = ("bfloat16" if case.scales == "token" else "float16") if quantized else case.dtype
    rounding = Rounding(
        operand, case.dtype, case.head_dim, longest, logit + (longest if case.alibi else 0),
        values.abs().nan_to_num(0.0, 0.0).amax().item(),
    )  # fmt: skip
    return bounds(out, lse, oracle(absolute)[0], rounding)


def _dequantized(cache: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """A cache [pages, page, heads, dim] times its scales, in fp32."""
    values = cache.to(torch.float32)
    if scale is None:
        return values
    return values * (scale[..., None] if scale.dim() == 3 else scale.reshape(-1, 1))


def _fill(
    cache: layout.PagedCache, k: torch.Tensor, v: torch.Tensor, case: Case
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Write k and v into the cache as an engine would, and return the scales of the tensor or the heads."""
    scales: list[torch.Tensor | None] = []
    for rows, values, inline in ((cache.k, k, cache.k_scale), (cache.v, v, cache.v_scale)):
        values = values.view(rows.shape)
        scale: torch.Tensor | None = None
        top = 127.0 if rows.dtype == torch.int8 else float(torch.finfo(rows.dtype).max)
        if case.scales == "tensor":
            scale = (values.abs().amax() / top).reshape(1)
            values = values / scale
        elif case.scales == "head":
            scale = values.abs().amax(dim=(0, 1, 3)) / top
            values = values / scale[:, None]
        elif inline is not None:
            inline.copy_(values.abs().amax(dim=3) / top)
            values = values / inline[..., None]
        if rows.dtype == torch.int8:
            values = values.round().clamp(-127, 127)
        rows.copy_(values.to(rows.dtype))
        scales.append(scale)
    return scales[0], scales[1]


def _poison(cache: layout.PagedCache, where: torch.Tensor) -> None:
    """NaN (int8: the largest value) in every slot of `where` [pages, page], and in its scales."""
    for rows in (cache.k, cache.v):
        if rows.dtype == torch.int8:
            rows[where] = 127
        elif rows.element_size() == 1:
            rows.view(torch.uint8)[where] = 0x7F  # NaN in both fp8 formats
        else:
            rows[where] = float("nan")
    for scale in (cache.k_scale, cache.v_scale):
        if scale is not None:
            scale[where] = float("nan")


def _move(cache: layout.PagedCache, device: torch.device | str) -> layout.PagedCache:
    """The cache on `device`, with the same strides."""
    if torch.device(device).type == "cpu":
        return cache
    storage = tuple(t.to(device) for t in cache.storage)

    def moved(view: torch.Tensor | None) -> torch.Tensor | None:
        if view is None:
            return None
        for old, new in zip(cache.storage, storage, strict=True):
            if view.untyped_storage().data_ptr() == old.untyped_storage().data_ptr():
                flat = new.flatten().view(view.dtype)
                return flat.as_strided(view.shape, view.stride(), view.storage_offset())
        raise AssertionError("a view without its storage")

    k, v = moved(cache.k), moved(cache.v)
    assert k is not None and v is not None
    return layout.PagedCache(k, v, moved(cache.k_scale), moved(cache.v_scale), storage)
