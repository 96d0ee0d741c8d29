"""One line of a run: a row, or an experiment on a row, measured or checked, whatever happens to it told in its record."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from hfmem_kernels.benchmarks import gate, inputs, ours, timing
from hfmem_kernels.benchmarks.experiments import Experiment
from hfmem_kernels.benchmarks.inputs import Inputs
from hfmem_kernels.benchmarks.peers import Absent, Peer
from hfmem_kernels.benchmarks.peers.loading import first_line
from hfmem_kernels.benchmarks.rows import Row
from hfmem_kernels.benchmarks.targets import regions_of

#: share of the free memory that the sets may take: dense copies for peers take as much again
MEMORY_SHARE = 0.42
#: the longest that one contender may be prepared, seconds, unless the run says so: a compiler that hangs must not take it along
PATIENCE = 120.0

#: stands for all contenders of a row, when they are timed in turn and any of them may be the one that fails
TOGETHER = "all in turn"

Record = dict[str, Any]


class DeviceLost(Exception):
    """The device answers no more in this process: an illegal access, or a launch that failed for good."""


@dataclass
class Bench:
    """What every item of a run needs. `device` None: the interpreter, which checks and times nothing.

    trying: called with the contender's name before anything of it runs, so that one that ends the process can be named.
    excluded: (item, contender) that did so before. peer_seconds: set-up time a peer may take over all rows; spent: what it took.
    patience: the longest that one contender may be prepared, seconds.
    """

    device: torch.device | None
    peers: tuple[Peer, ...] = ()
    folders: Mapping[str, Path] = field(default_factory=dict)
    l2_bytes: int = 0
    peer_seconds: float = 40.0
    spent: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    patience: float = PATIENCE
    excluded: frozenset[tuple[str, str]] = frozenset()
    trying: Callable[[str, str], None] = lambda item, contender: None

    @property
    def where(self) -> torch.device:
        """Where tensors lie."""
        return self.device or torch.device("cpu")


def facts(row: Row, sets: int) -> Record:
    """What a reader of the results wants to know of a row."""
    s, t = row.shape, row.traffic
    return {
        "model": s.model, "tp": s.tp, "heads": s.num_heads, "kv_heads": s.num_kv_heads, "head_dim": s.head_dim,
        "v_head_dim": s.v_head_dim, "window": s.window, "sinks": s.sinks, "batch": len(row.mix.lengths),
        "longest": max(row.mix.lengths), "dtype": row.dtype, "scales": row.scales, "page_size": row.page_size,
        "layout": row.layout.value, "q_len": row.q_len, "kv_bytes": t.kv_bytes, "total_bytes": t.total_bytes,
        "flops": t.flops, "cache_bytes": row.cache_bytes, "sets": sets, "regions": regions_of(row),
    }  # fmt: skip


def prepare_sets(bench: Bench, row: Row) -> tuple[Inputs | None, str]:
    """The row's inputs, or why there are none."""
    if bench.device is None:
        return inputs.build(row, "cpu", 1), ""
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(bench.device)
    limit = int(free * MEMORY_SHARE)
    sets = inputs.num_sets(row.cache_bytes, bench.l2_bytes, limit)
    if sets == 0:
        return None, f"needs {row.cache_bytes / 1e9:.1f} GB a set, {limit / 1e9:.1f} GB may be taken"
    return inputs.build(row, bench.device, sets), ""


def run_row(bench: Bench, row: Row) -> Record:
    """Gate, then ours and every peer in turn. Raises only `DeviceLost`."""
    record: Record = {"name": row.name, "status": "ok", "facts": facts(row, 0), "gate": None, "ours": None, "peers": {}}
    with _told(record):
        if (row.name, "ours") in bench.excluded:
            return {**record, "status": "failed", "reason": "brought the device down"}
        bench.trying(row.name, "ours")
        made, why = prepare_sets(bench, row)
        if made is None:
            return {**record, "status": "skipped", "reason": why}
        record["facts"] = facts(row, len(made.sets))
        found = gate.check(made, repeats=gate.REPEATS if bench.device else 1)
        record["gate"] = asdict(found)
        if not found.passed:
            return {**record, "status": "wrong", "reason": found.reason}
        replays: dict[str, timing.Replay] = {}
        config = ours.default_config(row, bench.where)
        if bench.device is not None:
            replays["ours"] = timing.capture(ours.prepare(made), len(made.sets))
        alone = (row.name, TOGETHER) in bench.excluded
        for peer in bench.peers:
            barred = "the row hung, or brought the device down, when all were timed" if alone else None
            record["peers"][peer.name] = _peer(bench, peer, row, made, replays, barred)
        if bench.device is not None:
            bench.trying(row.name, TOGETHER)
            timings = timing.interleave(replays)
            record["ours"] = {**asdict(timings["ours"]), "config": asdict(config)}
            for name, found_timing in timings.items():
                if name != "ours":
                    record["peers"][name] |= asdict(found_timing)
    return record


def _peer(
    bench: Bench, peer: Peer, row: Row, made: Inputs, replays: dict[str, timing.Replay], why: str | None = None
) -> Record:
    """A peer's record, without a timing yet; its replay goes into `replays`. `why`: nobody is to be tried."""
    if peer.name in bench.absent:
        return {"status": "skipped", "reason": bench.absent[peer.name]}
    if (refusal := peer.refuses(row)) is not None:
        return {"status": "skipped", "reason": refusal}
    if why is not None:
        return {"status": "failed", "reason": why}
    if (row.name, peer.name) in bench.excluded:
        return {"status": "failed", "reason": "brought the device down"}
    if bench.spent.get(peer.name, 0.0) > bench.peer_seconds:
        return {"status": "skipped", "reason": f"its set-up took {bench.spent[peer.name]:.0f} s in this run already"}
    bench.trying(row.name, peer.name)
    started = time.monotonic()
    try:
        with _within(bench.patience):
            launch = peer.prepare(made, bench.folders.get(peer.project))
            found = gate.same_function(made, launch(0))
            if not found.passed:
                return {"status": "wrong", "reason": found.reason}
            if bench.device is not None:
                replays[peer.name] = timing.capture(launch, len(made.sets))
        return {"status": "ok", "relative_error": found.relative}
    except Absent as error:
        bench.absent[peer.name] = str(error)
        return {"status": "skipped", "reason": str(error)}
    except Exception as error:
        _alive(bench, error)
        return {"status": "failed", "reason": first_line(error)}
    finally:
        bench.spent[peer.name] = bench.spent.get(peer.name, 0.0) + time.monotonic() - started


def run_experiment(bench: Bench, experiment: Experiment) -> Record:
    """All variants in turn, on the row's buffers. Raises only `DeviceLost`."""
    row = experiment.row
    record: Record = {
        "question": experiment.question, "row": row.name, "status": "ok", "facts": {"kv_bytes": row.traffic.kv_bytes},
        "contenders": {},
    }  # fmt: skip
    with _told(record):
        made, why = prepare_sets(bench, row)
        if made is None:
            return {**record, "status": "skipped", "reason": why}
        if (experiment.name, TOGETHER) in bench.excluded:
            return {**record, "status": "failed", "reason": "hung, or brought the device down, when all were timed"}
        record["config"] = asdict(ours.default_config(row, bench.where))
        replays: dict[str, timing.Replay] = {}
        for name, prepare in experiment.variants:
            record["contenders"][name] = _variant(bench, experiment, name, prepare, made, replays)
        if bench.device is not None and replays:
            bench.trying(experiment.name, TOGETHER)
            for name, found in timing.interleave(replays).items():
                record["contenders"][name] |= asdict(found)
    return record


def _variant(
    bench: Bench,
    experiment: Experiment,
    name: str,
    prepare: Callable[[Inputs], ours.Launch],
    made: Inputs,
    replays: dict[str, timing.Replay],
) -> Record:
    if (experiment.name, name) in bench.excluded:
        return {"status": "failed", "reason": "brought the device down"}
    bench.trying(experiment.name, name)
    try:
        with _within(bench.patience):
            launch = prepare(made)
            out = launch(0)
            if name not in experiment.unchecked:
                found = gate.compare(
                    made, out, list(made.row.mix.lengths), gate.sample(list(made.row.mix.lengths), made.row.shape.num_kv_heads)
                )  # fmt: skip
                if not found.passed:
                    return {"status": "wrong", "reason": found.reason}
            if bench.device is not None:
                replays[name] = timing.capture(launch, len(made.sets))
        return {"status": "ok"}
    except Exception as error:
        _alive(bench, error)
        return {"status": "failed", "reason": first_line(error)}


@contextmanager
def _told(record: Record) -> Iterator[None]:
    """An error of the item itself becomes its record."""
    try:
        yield
    except DeviceLost:
        raise
    except Exception as error:
        if torch.cuda.is_available():
            _alive(None, error)
        record |= {"status": "failed", "reason": first_line(error)}
        record |= {"ours": None} if "ours" in record else {}
        for contender in (record.get("peers") or record.get("contenders") or {}).values():
            if contender["status"] == "ok":  # prepared, and never timed
                contender |= {"status": "failed", "reason": "the row failed before it was timed"}


def _alive(bench: Bench | None, error: Exception) -> None:
    """Whether the device still answers after an error.

    Raises:
        DeviceLost: it does not.
    """
    if bench is not None and bench.device is None:
        return
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # refuses where a capture that failed is still open: nothing could be allocated from then on
    except Exception:
        raise DeviceLost(first_line(error)) from error


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after `seconds`, as soon as Python runs in it; without effect beside the main thread."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"not ready after {seconds:.0f} s")

    try:
        before = signal.signal(signal.SIGALRM, give_up)
    except ValueError:
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
