"""What `scripts/bench_paged_decode.py` does with its arguments: a plan, a run, and the files that are left."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hfmem_kernels.benchmarks import results as stored
from hfmem_kernels.benchmarks import session, warm
from hfmem_kernels.benchmarks.experiments import experiments
from hfmem_kernels.benchmarks.grid import GRIDS, full_grid, quick_grid, smoke_grid, unique
from hfmem_kernels.benchmarks.item import Record
from hfmem_kernels.benchmarks.peers import PEERS, Folders, Peer
from hfmem_kernels.benchmarks.plots import draw
from hfmem_kernels.benchmarks.report import report
from hfmem_kernels.benchmarks.results import ResultsError
from hfmem_kernels.benchmarks.session import Item, Plan

__all__ = ["ResultsError", "compile_part", "folders_of", "items_of", "main", "peers_of", "plan", "show"]


def items_of(grid: str) -> list[Item]:
    """Rows and experiments in order: the quick rows, the experiments that go with them, the other rows, the other experiments."""
    rows = GRIDS[grid]()
    if grid == "smoke":
        return list(rows)
    count, asked = len(quick_grid()), experiments(quick=True)
    rest = [] if grid == "quick" else experiments()[len(asked) :]
    return [*rows[:count], *asked, *rows[count:], *rest]


def peers_of(grid: str, wanted: str) -> tuple[Peer, ...]:
    """The peers that a run tries: all, those of the quick grid, or those that `wanted` names (`none`: no peer).

    Raises:
        SystemExit: a name that no peer has.
    """
    if wanted == "none":
        return ()
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if unknown := set(names) - {peer.name for peer in PEERS}:
        raise SystemExit(f"error: no peer {', '.join(sorted(unknown))} (there are {', '.join(p.name for p in PEERS)})")
    if names:
        return tuple(peer for peer in PEERS if peer.name in names)
    return tuple(peer for peer in PEERS if grid != "quick" or not peer.slow)


def folders_of(words: Sequence[str]) -> Folders:
    """`vllm=/somewhere` → a mapping.

    Raises:
        SystemExit: not of that form, a peer without that name, or no such folder.
    """
    found = {}
    for word in words:
        name, _, folder = word.partition("=")
        if name not in {peer.project for peer in PEERS} or not folder:
            known = ", ".join(sorted({peer.project for peer in PEERS}))
            raise SystemExit(f"error: --peer-path {word!r} is not NAME=FOLDER with a name of {known}")
        if not Path(folder).is_dir():
            raise SystemExit(f"error: --peer-path {name}: {folder} is no folder")
        found[name] = Path(folder).resolve()
    return found


def plan(grid: str, *, wanted: str, folders: Sequence[str], **settings: Any) -> Plan:
    """The plan of a run; `settings` are the fields of `Plan`."""
    return Plan(items=tuple(items_of(grid)), peers=peers_of(grid, wanted), folders=folders_of(folders), **settings)


def main(made: Plan, device: torch.device | None, grid: str) -> int:
    """Run, then leave report and plots beside the results. Returns the exit status: 0, or `session.LOST`."""

    def then(state: Record) -> None:
        _leave(state, made.folder, len(made.items))

    return session.guarded(made, device, then)


def compile_part(made: Plan, device: torch.device | None, part: int, parts: int, seconds: float) -> int:
    """Compile a part of what the plan still has to do into Triton's cache."""
    done: set[str] = set()
    for path in (made.file, made.earlier):
        if path is not None and path.is_file():
            done |= stored.finished(stored.read(path), (peer.name for peer in made.peers))
    if device is not None:
        left = [each for each in made.items if each.name not in done]
        warm.warm(warm.jobs(left, made.peers, made.folders), device, part, parts, seconds)
    return 0


def show(path: Path, folder: Path) -> int:
    """Report and plots of a results file."""
    try:
        _leave(stored.read(path), folder, None)
    except (OSError, ResultsError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _leave(state: Record, folder: Path, planned: int | None) -> None:
    rows = unique([*full_grid(), *smoke_grid()])
    text = report(state, rows, planned)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    try:
        draw(stored.measured(state, rows), state, folder)
    except ImportError:
        session.say("no plots: matplotlib is not installed (pip install 'hfmem[bench]')")
