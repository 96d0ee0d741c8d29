"""What a peer is to the benchmark: a name, the rows it can do, and a way to prepare a launch on our buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from hfmem_kernels.benchmarks.inputs import Inputs
from hfmem_kernels.benchmarks.ours import Launch
from hfmem_kernels.benchmarks.rows import Row
from hfmem_kernels.layout import LatentFormat, Layout

#: project names → folders that hold their modules (`--peer-path`)
Folders = Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class Peer:
    """Another implementation.

    project: its name in `--peer-path`. refuses: why it cannot do a row, None if it can. prepare: a launch, with everything that an
    engine does once a step (plans, index lists) done beforehand; raises `Absent` where it does not load, or whatever it raises.
    slow: it compiles for the better part of a minute, so that a quick run leaves it out.
    """

    name: str
    project: str
    kind: Literal["triton", "torch", "cuda"]
    refuses: Callable[[Row], str | None]
    prepare: Callable[[Inputs, Path | None], Launch]
    slow: bool = False


def first_refusal(row: Row, **allowed: bool) -> str | None:
    """Why a peer with these abilities cannot do a row. A name that is not given is not allowed.

    latent, kv (ordinary caches), window, sinks, ragged, queries (several a sequence), e4m3, e5m2, int8_token, head_scales, hnd,
    packed: what the row may have. Zero-length sequences are asked of nobody but us.
    """
    eight_bit = row.dtype not in ("bfloat16", "float16")
    asked = {
        "latent": (row.shape.latent, "no latent cache"),
        "kv": (not row.shape.latent, "latent caches only"),
        "window": (row.shape.window is not None, "no window"),
        "sinks": (row.shape.sinks, "no sinks"),
        "ragged": (row.ragged, "equal lengths only"),
        "queries": (row.q_len > 1, "one query a sequence"),
        "e4m3": (eight_bit and row.dtype == "float8_e4m3fn", "no e4m3 cache"),
        "e5m2": (row.dtype == "float8_e5m2", "no e5m2 cache"),
        "int8_token": (row.dtype == "int8", "no int8 cache"),
        "head_scales": (row.scales == "head", "no scale for each head"),
        "hnd": (row.layout in (Layout.HND, Layout.PACKED_HND), "no HND pages"),
        "packed": (row.layout in (Layout.PACKED, Layout.PACKED_HND), "no packed K and V"),
    }
    if unknown := set(allowed) - set(asked):
        raise TypeError(f"unknown abilities: {', '.join(sorted(unknown))}")
    if row.latent_format is not LatentFormat.PLAIN:
        return f"no {row.latent_format.value} rows"
    if row.listed:
        return "no lists of slots"
    if 0 in row.mix.lengths:
        return "an empty sequence"
    for name, (needed, reason) in asked.items():
        if needed and not allowed.get(name, False):
            return reason
    return None


def by_sequence(inputs: Inputs, out: torch.Tensor) -> torch.Tensor:
    """An output of rows [batch · q_len, heads, dim] as [batch, q_len, heads, dim]."""
    return out.reshape(inputs.batch, inputs.row.q_len, *out.shape[1:])


def query_starts(inputs: Inputs) -> torch.Tensor:
    """int32 [batch + 1]: the first row of each sequence's queries, and how many there are."""
    steps = torch.arange(inputs.batch + 1, device=inputs.device, dtype=torch.int32)
    return steps * inputs.row.q_len


def flat_pages(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Page lists as FlashInfer takes them: int32 starts [batch + 1], page ids of all sequences, tokens of each last page."""
    page, lengths = inputs.row.page_size, inputs.row.mix.lengths
    counts = [-(-length // page) for length in lengths]
    starts = torch.tensor([0, *counts], dtype=torch.int32).cumsum(0).to(torch.int32)
    ids = torch.cat([inputs.page_table[b, :count] for b, count in enumerate(counts)])
    last = torch.tensor([(length - 1) % page + 1 for length in lengths], dtype=torch.int32)
    return starts.to(inputs.device), ids, last.to(inputs.device)


def scalar(scale: torch.Tensor | float | None) -> float:
    """A scale of the tensor as a number, one where there is none."""
    return 1.0 if scale is None else float(scale)
