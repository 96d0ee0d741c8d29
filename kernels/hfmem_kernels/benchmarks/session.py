"""A run: its items in order of weight, its budget of time, and its results file, rewritten after every item.

What is in the file already is not done again, so a run that was killed, or ran out of minutes, goes on where it stopped. An item
that takes the device down ends this process with `LOST`; the caller starts it again, and the contender that was running is left
out.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch

from hfmem_kernels.benchmarks import ceiling, environment, item, results
from hfmem_kernels.benchmarks.experiments import Experiment
from hfmem_kernels.benchmarks.item import Bench, DeviceLost, Record
from hfmem_kernels.benchmarks.peers import Folders, Peer
from hfmem_kernels.benchmarks.peers.loading import first_line
from hfmem_kernels.benchmarks.rows import Row

#: exit status of a process whose device is lost: start it again
LOST = 75

#: seconds beyond its patience after which a contender that neither failed nor finished hangs: compilers are given up before that
STALL_SECONDS = 30.0

#: items between two readings of clocks and temperature, which are a process of their own
READINGS_EVERY = 8

Item = Row | Experiment


@dataclass(frozen=True)
class Plan:
    """What a run is to do.

    minutes: None for no end. earlier: results to go on from, besides those in `folder`. after_crash: an earlier process of this
    run ended in what `trying` names.
    """

    items: tuple[Item, ...]
    folder: Path
    command: str
    peers: tuple[Peer, ...] = ()
    folders: Folders = field(default_factory=dict)
    minutes: float | None = None
    peer_seconds: float = 40.0
    patience: float = item.PATIENCE
    earlier: Path | None = None
    commit: str | None = None
    after_crash: bool = False
    started: float = field(default_factory=time.monotonic)

    @property
    def file(self) -> Path:
        """The results."""
        return self.folder / "results.json"

    @property
    def trying(self) -> Path:
        """Which item and contender is running; left behind by a process that ended in it."""
        return self.folder / "trying.json"


def interpreted(device: torch.device | None) -> str:
    """The `method` of the results."""
    return "interpreter" if device is None else "device"


def open_results(plan: Plan, device: torch.device | None) -> Record:
    """The results to go on with: those of the folder, else the earlier ones, if they are of this device and these sources."""
    fresh: Record = {
        "schema": results.SCHEMA,
        "method": interpreted(device),
        "command": plan.command,
        "device": environment.device_info(device or torch.device("cpu")),
        "software": environment.software_info(),
        "source": environment.source_info(plan.commit),
        "sessions": [],
        "rows": [],
        "experiments": [],
        "excluded": [],
    }
    for path in (plan.file, plan.earlier):
        if path is None or not path.is_file():
            if path is not None and path == plan.earlier:
                say(f"{path}: not there, nothing to go on from")
            continue
        found = results.read(path)
        if (other := difference(found, fresh)) is None:
            return {**found, "command": plan.command, "excluded": found.get("excluded", [])}
        say(f"{path}: {other}: not continued")
        if path == plan.file:
            say(f"{path}: kept as {_put_aside(path)}")
    return fresh


def difference(found: Record, fresh: Record) -> str | None:
    """Why results are not of this device, these versions and these kernels; None if they are. A driver that says nothing is any."""
    if found["method"] != fresh["method"]:
        return f"another method, {found['method']}"
    for key in ("device", "software"):
        for name in fresh[key]:
            ours, theirs = fresh[key][name], found[key].get(name)
            if ours != theirs and not (name == "driver" and None in (ours, theirs)):
                return f"another {key}, {name} {theirs}"
    if found["source"]["fingerprint"] != fresh["source"]["fingerprint"]:
        return "other kernels"
    return None


def _put_aside(path: Path) -> Path:
    """Give results that are not gone on from a name that nothing has yet: they took a device."""
    number = 1
    while (aside := path.with_name(f"{path.stem}-before-{number}{path.suffix}")).exists():
        number += 1
    return path.rename(aside)


def run(plan: Plan, device: torch.device | None) -> Record:
    """Do the plan's items and return the results, which are in the plan's file as well.

    Raises:
        DeviceLost: the file says what has been done; a new process can go on.
    """
    state = open_results(plan, device)
    done = results.finished(state, (peer.name for peer in plan.peers))
    _note_crash(plan, state)
    session = len(state["sessions"])
    opened: Record = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": 0.0, "ceiling": None, "launch_us": None,
        "readings": [],
    }  # fmt: skip
    state["sessions"].append(opened)

    def save() -> None:
        opened["seconds"] = round(time.monotonic() - plan.started, 1)
        results.write(plan.file, state)

    left = [each for each in plan.items if each.name not in done]
    say(f"{len(left)} of {len(plan.items)} items to do")
    timely = plan.minutes is None or plan.minutes > 0
    if device is not None and left and timely:
        _measure_ceiling(device, opened)
    stall = Stall(plan.patience)
    bench = _bench(plan, state, device, stall)
    took: list[float] = []
    for number, each in enumerate(left):
        # the first item loads the peers as well, which says nothing of the others
        reserve = 1.5 * statistics.median(took[1:][-5:]) if len(took) > 1 else 0.0
        if plan.minutes is not None and time.monotonic() - plan.started + reserve > 60 * plan.minutes:
            say(f"{plan.minutes:g} minutes are over: {len(left) - number} items left for another run")
            break
        begun = time.monotonic()
        if device is not None and number % READINGS_EVERY == 0:
            opened["readings"].append(environment.readings())
        try:
            record = item.run_row(bench, each) if isinstance(each, Row) else item.run_experiment(bench, each)
        except DeviceLost:
            save()  # `trying.json` says the rest
            raise
        finally:
            stall.rest()
        _store(state, record | {"session": session})
        took.append(time.monotonic() - begun)
        save()
        say(f"[{number + 1}/{len(left)}] {each.name}: {_line(record, opened)}  ({took[-1]:.1f} s)")
        gc.collect()
    plan.trying.unlink(missing_ok=True)
    save()
    return state


def _measure_ceiling(device: torch.device, session: Record) -> None:
    """R into the session; without it the times stand, and no share can be told."""
    try:
        found = ceiling.measure(device)
    except Exception as error:
        say(f"the read ceiling could not be measured: {first_line(error)}")
        return
    session |= {"ceiling": asdict(found) | {"shape": list(found.shape)}, "launch_us": found.launch_us}
    rate = f"{found.bytes_per_second / 1e12:.3f} TB/s over {found.bytes / 1e9:.1f} GB"
    say(f"R = {rate} ± {found.timing.spread:.1%}, an empty graph node {found.launch_us:.2f} µs")


class Stall:
    """Ends the process with `LOST` when a contender takes so long that the device must hang: nothing that Python does could."""

    def __init__(self, patience: float = item.PATIENCE) -> None:
        self._seconds = patience + STALL_SECONDS
        self._timer: threading.Timer | None = None

    def watch(self) -> None:
        """Begin to count, again."""
        self.rest()
        self._timer = threading.Timer(self._seconds, os._exit, (LOST,))
        self._timer.daemon = True
        self._timer.start()

    def rest(self) -> None:
        """Count no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _bench(plan: Plan, state: Record, device: torch.device | None, stall: Stall) -> Bench:
    def trying(name: str, contender: str) -> None:
        if device is not None:
            stall.watch()
        plan.folder.mkdir(parents=True, exist_ok=True)
        plan.trying.write_text(json.dumps([name, contender]), encoding="utf-8")

    return Bench(
        device=device,
        peers=plan.peers,
        folders=plan.folders,
        l2_bytes=state["device"]["l2_bytes"],
        peer_seconds=plan.peer_seconds,
        patience=plan.patience,
        excluded=frozenset((name, contender) for name, contender in state["excluded"]),
        trying=trying,
    )


def _note_crash(plan: Plan, state: Record) -> None:
    """Leave out from now on what the earlier process crashed in. One that was killed crashed in nothing."""
    if not plan.trying.is_file():
        return
    name, contender = json.loads(plan.trying.read_text(encoding="utf-8"))
    plan.trying.unlink()
    if not plan.after_crash:
        return
    say(f"an earlier process ended in {name}, {contender}: left out from now on")
    state["excluded"].append([name, contender])


def _store(state: Record, record: Record) -> None:
    """Add a record, in the place of an earlier one of the same name."""
    kept = state["rows" if "name" in record else "experiments"]
    name = results.item_name(record)
    kept[:] = [each for each in kept if results.item_name(each) != name]
    kept.append(record)


def _line(record: Record, session: Record) -> str:
    """What the progress line says of an item."""
    if record["status"] != "ok":
        return f"{record['status']}: {record['reason']}"
    if "contenders" in record:
        times = {name: found.get("median_us") for name, found in record["contenders"].items()}
        return ", ".join(f"{name} {time:.1f} µs" if time else f"{name} –" for name, time in times.items())
    if record["ours"] is None:
        ran = [f"{name} {found['status']}" for name, found in record["peers"].items() if found["status"] != "skipped"]
        return f"right, {record['gate']['worst']:.2f} of the bound; " + (", ".join(ran) or "no peer")
    time_us = record["ours"]["median_us"]
    rate = record["facts"]["kv_bytes"] / (time_us * 1e-6)
    reached = (
        f"{rate / session['ceiling']['bytes_per_second']:.1%} of R" if session["ceiling"] else f"{rate / 1e9:,.0f} GB/s"
    )
    peers = [
        f"{name} {found['median_us'] / time_us:.2f}×"
        for name, found in record["peers"].items()
        if found["status"] == "ok"
    ]
    return f"{time_us:.1f} µs, {reached}; " + (", ".join(peers) or "no peer")


def guarded(plan: Plan, device: torch.device | None, then: Callable[[Record], None]) -> int:
    """`run`, then what is to be made of its results; the process's exit status."""
    try:
        state = run(plan, device)
    except DeviceLost as error:
        say(f"the device is lost ({first_line(error)}): a new process goes on")
        return LOST
    then(state)
    return 0


def say(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
