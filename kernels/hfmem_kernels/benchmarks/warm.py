"""Compiling ahead, in several processes: a Triton kernel takes seconds on one core, and a run has a hundred of them.

Each process launches its part of the contenders once, on a few pages instead of gigabytes, and leaves the compiled kernels in
Triton's cache on the disk, where the run finds them. Nothing is checked or timed here; what fails says so in the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from hfmem_kernels.benchmarks import inputs, ours
from hfmem_kernels.benchmarks.experiments import Experiment
from hfmem_kernels.benchmarks.inputs import Inputs
from hfmem_kernels.benchmarks.peers import Folders, Peer
from hfmem_kernels.benchmarks.rows import Row

#: pages that stand for a row's own
PAGES = 64

Job = tuple[Row, Callable[[Inputs], ours.Launch]]


def jobs(items: Sequence[Row | Experiment], peers: Sequence[Peer], folders: Folders) -> list[Job]:
    """Everything that Triton compiles for these items, in their order: our op, variants, peers whose kernels are Triton's."""
    found: list[Job] = []
    for each in items:
        if isinstance(each, Experiment):
            found += [(each.row, prepare) for _, prepare in each.variants]
            continue
        found.append((each, ours.prepare))
        found += [
            (each, _adapted(peer, folders)) for peer in peers if peer.kind == "triton" and peer.refuses(each) is None
        ]
    return found


def _adapted(peer: Peer, folders: Folders) -> Callable[[Inputs], ours.Launch]:
    return lambda made: peer.prepare(made, folders.get(peer.project))


def warm(work: Sequence[Job], device: torch.device, part: int, parts: int, seconds: float) -> int:
    """Do every `parts`-th job from number `part` on, until `seconds` are over; returns how many were done."""
    started, done = time.monotonic(), 0
    for row, prepare in work[part::parts]:
        if time.monotonic() - started > seconds:
            break
        try:
            prepare(inputs.build(row, device, most_pages=PAGES))(0)
        except Exception:  # the run will meet it again, and tell
            continue
        done += 1
    return done
