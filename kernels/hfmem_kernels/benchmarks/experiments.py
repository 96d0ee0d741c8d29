"""The questions that the first run on a device answers, each as variants timed side by side on one row's buffers.

Our op runs the variants as other launch configurations; where a choice is no part of those, a bare kernel stands in for it
(`_experiment_kernels`). A variant that is wrong, or does not compile, is a contender with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from hfmem_kernels._launch import device_facts
from hfmem_kernels.benchmarks import ours
from hfmem_kernels.benchmarks.grid import K
from hfmem_kernels.benchmarks.inputs import Inputs
from hfmem_kernels.benchmarks.ours import Launch, override
from hfmem_kernels.benchmarks.rows import Row, uniform
from hfmem_kernels.benchmarks.shapes import shape
from hfmem_kernels.layout import LatentFormat

#: prepares a variant of a row on its inputs
Prepare = Callable[[Inputs], Launch]

#: the tiles of the bare stream: the configuration that is expected to do best (64 tokens, 4 warps, 3 stages, 3 programs)
STREAM_BLOCK_N, STREAM_WARPS, STREAM_STAGES, STREAM_PER_SM, STREAM_REGISTERS = 64, 4, 3, 3, 168


@dataclass(frozen=True, slots=True)
class Experiment:
    """A question, the row it is asked on, and its variants; "as it is" is our op as it ships.

    unchecked: variants that do not compute the row's attention (other lengths, results that are not merged).
    """

    question: str
    row: Row
    variants: tuple[tuple[str, Prepare], ...]
    unchecked: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Stable and unique: results are stored under it."""
        return f"{self.question} · {self.row.name}"


def _as_is(inputs: Inputs) -> Launch:
    return ours.prepare(inputs)


def _changed(**changes: int | bool) -> Prepare:
    def prepare(inputs: Inputs) -> Launch:
        return ours.prepare(inputs, override(ours.default_config(inputs.row, inputs.device), **changes))

    return prepare


def _empty_sequences(inputs: Inputs) -> Launch:
    return ours.prepare(inputs, seq_lens=torch.ones_like(inputs.seq_lens))


def stream(carry: bool) -> Prepare:
    """The bare stream over bf16 or fp16 caches of equal lengths, NHD."""

    def prepare(inputs: Inputs) -> Launch:
        from hfmem_kernels.benchmarks._experiment_kernels import paged_stream_kernel

        row, s = inputs.row, inputs.row.shape
        (tokens,) = set(row.mix.lengths)
        programs = device_facts(inputs.device).num_sms * STREAM_PER_SM
        block_m = 16
        out = torch.zeros(programs, 2, block_m, s.head_dim, dtype=torch.float32, device=inputs.device)
        options: dict[str, int] = {"num_warps": STREAM_WARPS, "num_stages": STREAM_STAGES}
        if inputs.device.type == "cuda" and torch.version.cuda:
            options["maxnreg"] = STREAM_REGISTERS

        def launch(index: int) -> torch.Tensor:
            each, q = inputs.sets[index], inputs.queries[index]
            paged_stream_kernel[(programs,)](
                q, each.k, each.v, inputs.page_table, out, inputs.batch * s.num_kv_heads, s.num_kv_heads, tokens,
                s.scale * math.log2(math.e), q.stride(0), q.stride(2), each.k.stride(0), each.k.stride(1), each.k.stride(2),
                inputs.page_table.stride(0), GROUP=s.group, PAGE=row.page_size, DIM=s.head_dim, BLOCK_M=block_m,
                BLOCK_N=STREAM_BLOCK_N, CARRY=carry, **options,
            )  # fmt: skip
            return out

        return launch

    return prepare


BARE = (("bare stream, carried", stream(True)), ("bare stream, in the loop", stream(False)))


def _programs(*counts: int) -> tuple[tuple[str, Prepare], ...]:
    return tuple((f"{count} a multiprocessor", _changed(ctas_per_sm=count)) for count in counts)


def _tiles(*tiles: tuple[int, int, int, int]) -> tuple[tuple[str, Prepare], ...]:
    """(tokens, warps, stages, programs)."""
    return tuple(
        (f"{n} tokens, {warps} warps, {stages} stages, {ctas} programs",
         _changed(block_n=n, num_warps=warps, num_stages=stages, ctas_per_sm=ctas))
        for n, warps, stages, ctas in tiles
    )  # fmt: skip


def experiments(*, quick: bool = False) -> list[Experiment]:
    """The questions in the order of their weight."""
    llama = shape("llama-3.1-8b")
    wide = Row(llama, uniform(8, 32 * K))
    narrow = wide.in_fp8()
    small, middle = Row(llama, uniform(1, K)), Row(llama, uniform(1, 32 * K))
    uneven = Row(shape("qwen2-7b"), uniform(8, 32 * K))
    mla = shape("deepseek-v3-tp8")
    latent = Row(mla, uniform(64, 8 * K), page_size=64)
    packed = replace(latent, latent_format=LatentFormat.FP8_DS)
    alone = Row(mla, uniform(1, 8 * K), page_size=64), Row(shape("llama-3.1-70b-tp8"), uniform(1, 8 * K))
    as_is = ("as it is", _as_is)
    arithmetic = ("integer arithmetic", _changed(convert=False))
    one_product = ("one product", _changed(cut=False))
    rows_64 = (
        ("64 rows, 64 tokens", _changed(block_m=64)),
        ("64 rows, 32 tokens", _changed(block_m=64, block_n=32, num_stages=4)),
    )
    asked = [
        Experiment("page ids: carried or loaded in the loop", wide,
                   (as_is, *BARE), tuple(name for name, _ in BARE)),
        Experiment("fp8: pairs as int16 or single bytes", narrow, (as_is, ("single bytes", _changed(pairs=False)))),
        Experiment("fp8: conversions or integer arithmetic", narrow, (as_is, arithmetic)),
        Experiment("fp8: conversions or integer arithmetic", packed, (as_is, arithmetic, *_tiles((64, 4, 3, 2), (32, 4, 4, 2)))),
        Experiment("heads of a sequence: side by side or in turn", wide, (as_is, ("in turn", _changed(lockstep=False)))),
        Experiment("scores: in parts or one product, or 64 rows by wgmma", wide, (as_is, one_product, *rows_64)),
        Experiment("scores: in parts or one product", narrow, (as_is, one_product)),
        Experiment("scores: in parts or one product", latent, (as_is, one_product)),
        Experiment("what it costs to turn to another item", uneven,
                   (as_is, *((f"{n} tiles", _changed(piece_cost=n)) for n in (0, 2, 6)))),
        Experiment("programs a multiprocessor", wide, (as_is, *_programs(1, 2, 3, 4))),
        Experiment("programs a multiprocessor", narrow, (as_is, *_programs(1, 2, 3, 4))),
        *(Experiment("most pieces of an item", each, (as_is, *((f"{n} pieces", _changed(max_pieces=n)) for n in (8, 16, 32))))
          for each in alone),
        Experiment("t0: what a call costs before it reads", small,
                   (as_is, ("one token", _empty_sequences), *_programs(1, 2), one_product, *rows_64,
                    ("no least share", _changed(min_tiles=1)), ("4 tiles at least", _changed(min_tiles=4))), ("one token",)),
    ]  # fmt: skip
    if quick:
        return asked
    asked += [
        Experiment("tiles, warps and stages", wide, (as_is, *_tiles(
            (32, 4, 4, 4), (32, 4, 4, 2), (64, 4, 3, 3), (64, 4, 4, 2), (64, 8, 3, 2), (128, 8, 3, 1)))),
        Experiment("tiles, warps and stages", narrow, (as_is, *_tiles(
            (64, 4, 4, 3), (64, 4, 4, 2), (64, 4, 3, 4), (128, 4, 3, 2), (128, 8, 4, 2)))),
        Experiment("register cap: ours or the compiler's", wide, (as_is, ("the compiler's", _changed(register_cap=0)))),
        Experiment("programs a multiprocessor", middle, (as_is, *_programs(1, 2, 3, 4))),
        Experiment("scores: in parts or one product, or 64 rows by wgmma", middle, (as_is, one_product, *rows_64)),
        # 549 instructions a token instead of 769 (Triton 3.9), and twice as many reads, half of them from L2
        Experiment("rows of a block", replace(packed, shape=shape("deepseek-v3")), (as_is, (
            "16 rows", _changed(block_m=16, block_n=32, num_warps=4, num_stages=4, ctas_per_sm=2)), (
            "16 rows, 64 tokens", _changed(block_m=16, block_n=64, num_warps=4, num_stages=3, ctas_per_sm=2)))),
    ]  # fmt: skip
    return asked
