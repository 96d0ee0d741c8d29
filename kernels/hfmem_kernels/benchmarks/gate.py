"""Is the result right? Against the fp64 oracle, within bounds derived from the formats; nothing is timed before that.

Two passes over the row's own buffers: short lengths of every kind (a page's edges, an empty sequence) with all sequences compared,
and the row's lengths with a few compared. The random values behind the short lengths are as good as poison: reading them shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hfmem_kernels import _reference, testing
from hfmem_kernels.benchmarks import ours
from hfmem_kernels.benchmarks.inputs import Inputs
from hfmem_kernels.benchmarks.rows import Row
from hfmem_kernels.layout import LatentFormat

#: lengths of the first pass, in turn, as far as the row's own allow
SHORT = (3000, 17, 0, 1073, 1, 528, 64, 2011)
#: sequences and KV heads of a row that the second pass compares
SEQUENCES, HEADS = 3, 2
#: runs that have to agree bit for bit: which program comes last differs, the result must not
REPEATS = 8
#: ‖out - oracle‖ / ‖oracle‖ up to which a peer is taken to compute the same function: of 16-bit and of 8-bit caches, whose
#: peers may quantize queries and weights too. Their accuracy is not judged here.
SAME_FUNCTION = {2: 0.02, 1: 0.12}


@dataclass(frozen=True, slots=True)
class Gate:
    """What the comparison found. worst: the largest error over its bound; relative: ‖out - oracle‖ / ‖oracle‖."""

    passed: bool
    worst: float
    relative: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The oracle for one sequence and KV head: out [q_len, group, dim], and the bound of each element."""

    out: torch.Tensor
    bound: torch.Tensor


def oracle(inputs: Inputs, index: int, b: int, head: int, length: int) -> Answer:
    """The answer for sequence `b` of set `index` at `length` tokens."""
    row, each = inputs.row, inputs.sets[index]
    shape, dtype = row.shape, torch.float64
    start = max(0, length - row.q_len + 1 - shape.window) if shape.window else 0
    pages = inputs.page_table[b]

    def scale_of(scale: torch.Tensor | float | None) -> torch.Tensor | None:
        if scale is None or isinstance(scale, float):
            return None if scale is None else torch.tensor(scale, device=inputs.device)
        if scale.dim() == 3:
            return _reference.gather(scale, pages, start, length)[:, head : head + 1]
        return scale[head : head + 1]

    if each.latent is not None:
        slots = pages[:length] if row.listed else _reference.slots_of(pages, row.page_size, start, length)
        k = _reference.latents(each.latent, slots, scale_of(each.k_scale), dtype)
        v = k[..., : shape.v_head_dim]
    else:
        keys = _reference.gather(each.k[:, :, head : head + 1], pages, start, length)
        values = _reference.gather(each.v[:, :, head : head + 1], pages, start, length)
        k = _reference.dequantize(keys, scale_of(each.k_scale), dtype)
        v = _reference.dequantize(values, scale_of(each.v_scale), dtype)
    heads = slice(head * shape.group, (head + 1) * shape.group)
    q = inputs.queries[index][b, :, heads].to(dtype)
    sinks = None if inputs.sinks is None else inputs.sinks[heads]

    def attend(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _reference.attend(
            q, k, values, seq_len=length, start=start, scale=shape.scale, window=shape.window or 0, softcap=0.0,
            sinks=sinks, alibi_slopes=None,
        )  # fmt: skip

    if length == 0:
        zeros = q.new_zeros(*q.shape[:-1], shape.v_head_dim)
        return Answer(zeros, zeros)
    out, lse = attend(v)
    return Answer(out, bound_of(row, q, k, v, out, lse, attend(v.abs())[0]))


def bound_of(
    row: Row, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, absolute: torch.Tensor
) -> torch.Tensor:  # fmt: skip
    """How far each element of `out` may be off, for keys and values [tokens, heads, dim]; absolute: Σ p · |v|."""
    logit = row.shape.scale * q.abs().sum(-1).amax().item() * k.abs().amax().item()
    rounding = testing.Rounding(
        _operand(row), row.query_dtype, row.shape.head_dim, len(k), logit, float(v.abs().amax().item())
    )
    return testing.bounds(out, lse, absolute, rounding)[0]


def _operand(row: Row) -> str:
    """The format in which weights enter the second product: as in `testing.error_budget`; packed latents have scales of tokens."""
    if row.latent_format is not LatentFormat.PLAIN or row.scales == "token":
        return "bfloat16"
    return row.dtype if row.dtype == row.query_dtype else "float16"


def compare(
    inputs: Inputs, out: torch.Tensor, lengths: list[int], places: list[tuple[int, int]], index: int = 0
) -> Gate:
    """An output [batch, q_len, heads, dim] against the oracle at `places`: (sequence, KV head)."""
    group = inputs.row.shape.group
    worst, error, size = 0.0, 0.0, 0.0
    reason = ""
    for b, head in places:
        answer = oracle(inputs, index, b, head, lengths[b])
        found = out[b, :, head * group : (head + 1) * group].double()
        wrong = (found - answer.out).abs()
        # the bound of an empty sequence is zero; NaN is not equal to zero and stays
        ratio = torch.where(wrong == 0, 0.0, wrong / answer.bound).nan_to_num(torch.inf, torch.inf).amax().item()
        if ratio > worst:
            worst = ratio
            reason = f"sequence {b} of {lengths[b]} tokens, KV head {head}: {ratio:.2f} of the bound"
        error += float(wrong.nan_to_num(torch.inf, torch.inf).square().sum().item())
        size += float(answer.out.square().sum().item())
    relative = (error / size) ** 0.5 if size else error**0.5
    passed = worst <= 1.0
    return Gate(passed, worst, relative, "" if passed else reason)


def sample(lengths: list[int], kv_heads: int) -> list[tuple[int, int]]:
    """The shortest, a middle and the longest sequence that is not empty, and the first and last KV head of each."""
    order = sorted((b for b, n in enumerate(lengths) if n), key=lambda b: lengths[b])
    if not order:
        return []
    chosen = {order[0], order[len(order) // 2], order[-1]}
    return [(b, head) for b in sorted(chosen) for head in sorted({0, kv_heads - 1})][: SEQUENCES * HEADS]


def short_lengths(row: Row) -> list[int]:
    """The lengths of the first pass: at least the queries of each sequence that is not empty, never more than the row's."""
    turns = (SHORT[b % len(SHORT)] for b in range(len(row.mix.lengths)))
    return [0 if n == 0 else min(own, max(n, row.q_len)) for n, own in zip(turns, row.mix.lengths, strict=True)]


def check(inputs: Inputs, *, repeats: int = REPEATS) -> Gate:
    """Our op on the row, in both passes, and whether repeated runs agree bit for bit."""
    row = inputs.row
    lengths, short = list(row.mix.lengths), short_lengths(row)
    kv_heads = row.shape.num_kv_heads
    there = torch.tensor(short, dtype=torch.int32, device=inputs.device)
    everywhere = [(b, (b * 5) % kv_heads) for b in range(len(short))]
    first = compare(inputs, ours.prepare(inputs, seq_lens=there)(0), short, everywhere)
    if not first.passed:
        return first
    launch = ours.prepare(inputs)
    out = launch(0).clone()
    second = compare(inputs, out, lengths, sample(lengths, kv_heads))
    if not second.passed:
        return second
    for _ in range(repeats):
        if not torch.equal(launch(0), out):
            return Gate(False, second.worst, second.relative, "two runs differ: a race")
    return Gate(True, max(first.worst, second.worst), max(first.relative, second.relative))


def same_function(inputs: Inputs, out: torch.Tensor) -> Gate:
    """Whether a peer's output is of the same function: by the norm of its error, not by our bounds."""
    lengths = list(inputs.row.mix.lengths)
    found = compare(inputs, out, lengths, sample(lengths, inputs.row.shape.num_kv_heads))
    wide = inputs.row.dtype == inputs.row.query_dtype and inputs.row.latent_format is LatentFormat.PLAIN
    limit = SAME_FUNCTION[2 if wide else 1]
    passed = found.relative <= limit
    return Gate(passed, found.worst, found.relative, "" if passed else f"off by {found.relative:.3g} of the norm")
