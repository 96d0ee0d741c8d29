"""A run's bookkeeping: order, budget, resuming, crashes, and that an error in one row loses no other.

Graph replays and the ceiling stand in for themselves with made-up times; nothing here measures anything.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from hfmem_kernels.benchmarks import ceiling, environment, gate, item, results, session, timing
from hfmem_kernels.benchmarks.experiments import Experiment
from hfmem_kernels.benchmarks.gate import Gate
from hfmem_kernels.benchmarks.inputs import Inputs
from hfmem_kernels.benchmarks.ours import Launch
from hfmem_kernels.benchmarks.peers import Absent, Peer
from hfmem_kernels.benchmarks.rows import Row, uniform
from hfmem_kernels.benchmarks.session import Plan
from hfmem_kernels.benchmarks.shapes import shape
from hfmem_kernels.benchmarks.summary import Timing

CPU = torch.device("cpu")
LLAMA = shape("llama-3.1-70b-tp8")
ROWS = tuple(Row(LLAMA, uniform(1, length)) for length in (16, 32, 48))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A "device" that is the CPU: the gate is green, every replay takes 10 µs, the ceiling is 1 TB/s."""
    seen: dict[str, Any] = {"built": [], "gate": Gate(True, 0.5, 1e-3), "captured": []}

    def build(row: Row, device: Any, sets: int = 1, **_: Any) -> Inputs:
        seen["built"].append(row.name)
        empty = torch.zeros(1)
        return Inputs(row, (None,) * sets, (empty,) * sets, empty, empty, None)  # type: ignore[arg-type]

    def capture(launch: Callable[[int], object], sets: int) -> str:
        launch(0)
        seen["captured"].append(sets)
        return "graph"

    def interleave(replays: Mapping[str, object]) -> dict[str, Timing]:
        return {name: Timing(10.0, 9.9, 10.2, 11) for name in replays}

    monkeypatch.setattr(item.inputs, "build", build)
    monkeypatch.setattr(gate, "check", lambda made, repeats: seen["gate"])
    monkeypatch.setattr(gate, "same_function", lambda made, out: Gate(True, 0.0, 1e-3))
    monkeypatch.setattr(gate, "compare", lambda *_: Gate(True, 0.0, 1e-3))
    monkeypatch.setattr(item.ours, "prepare", lambda *_, **__: lambda index: torch.zeros(1))
    monkeypatch.setattr(timing, "capture", capture)
    monkeypatch.setattr(timing, "interleave", interleave)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 33, 1 << 34))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(environment, "_said", lambda command: None)  # no git, no driver: processes of their own
    monkeypatch.setattr(environment, "readings", lambda: {"sm_mhz": 1000.0})
    limit = ceiling.Ceiling(1e12, 2 << 30, (4096, 8, 4), Timing(1.0, 1.0, 1.0, 3), 1.5)
    monkeypatch.setattr(ceiling, "measure", lambda device: limit)
    yield seen


def peer(
    name: str, prepare: Callable[[Inputs, Path | None], Launch], refuses: Callable[[Row], str | None] = lambda row: None
) -> Peer:
    return Peer(name, name, "triton", refuses, prepare)


def works(inputs: Inputs, folder: Path | None) -> Launch:
    return lambda index: torch.zeros(1)


def plan(folder: Path, items: tuple[Any, ...] = ROWS, **settings: Any) -> Plan:
    return Plan(items=items, folder=folder, command="made up", **settings)


def test_a_run_leaves_a_valid_file(stand_in: dict[str, Any], tmp_path: Path) -> None:
    def absent(inputs: Inputs, folder: Path | None) -> Launch:
        raise Absent("gone is not installed")

    def breaks(inputs: Inputs, folder: Path | None) -> Launch:
        raise ValueError("head_dim 128 is not what it likes\nsecond line")

    peers = (
        peer("good", works),
        peer("gone", absent),
        peer("bad", breaks),
        peer("shy", works, lambda row: "no such row"),
    )
    state = session.run(plan(tmp_path, peers=peers), CPU)
    assert results.read(tmp_path / "results.json") == state
    first = state["rows"][0]
    assert first["ours"]["median_us"] == 10.0 and first["ours"]["config"]["block_m"] == 16
    assert first["peers"]["good"] == {
        "status": "ok", "relative_error": 1e-3, "median_us": 10.0, "low_us": 9.9, "high_us": 10.2, "samples": 11
    }  # fmt: skip
    assert [first["peers"][name]["status"] for name in ("gone", "bad", "shy")] == ["skipped", "failed", "skipped"]
    assert first["peers"]["bad"]["reason"] == "ValueError: head_dim 128 is not what it likes"
    assert first["facts"]["kv_bytes"] == 16 * 512 and first["facts"]["model"] == "meta-llama/Llama-3.1-70B"
    assert state["sessions"][0]["ceiling"]["bytes_per_second"] == 1e12
    assert not (tmp_path / "trying.json").exists()


def test_a_killed_run_goes_on_where_it_stopped(
    stand_in: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = item.run_row, []

    def killed(bench: item.Bench, row: Row) -> item.Record:
        calls.append(row.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(bench, row)

    monkeypatch.setattr(item, "run_row", killed)
    with pytest.raises(KeyboardInterrupt):
        session.run(plan(tmp_path), CPU)
    assert [row["name"] for row in results.read(tmp_path / "results.json")["rows"]] == [ROWS[0].name]
    monkeypatch.setattr(item, "run_row", original)
    stand_in["built"].clear()
    state = session.run(plan(tmp_path), CPU)
    assert stand_in["built"] == [ROWS[1].name, ROWS[2].name]
    assert [(row["name"], row["session"]) for row in state["rows"]] == [(r.name, min(1, n)) for n, r in enumerate(ROWS)]
    stand_in["built"].clear()
    assert session.run(plan(tmp_path), CPU)["rows"] == state["rows"] and stand_in["built"] == []
    # a copy of the file elsewhere is gone on from, too
    elsewhere = session.run(plan(tmp_path / "new", earlier=tmp_path / "results.json"), CPU)
    assert elsewhere["rows"] == state["rows"] and stand_in["built"] == []


def test_other_kernels_or_another_device_start_afresh(
    stand_in: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session.run(plan(tmp_path), CPU)
    monkeypatch.setattr(environment, "fingerprint", lambda: "another")
    stand_in["built"].clear()
    state = session.run(plan(tmp_path), CPU)
    assert len(stand_in["built"]) == 3 and state["source"]["fingerprint"] == "another" and len(state["sessions"]) == 1
    assert "not continued" in capsys.readouterr().err


def test_a_row_that_fails_loses_no_other(
    stand_in: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = timing.interleave

    def fails_once(replays: Mapping[str, object]) -> dict[str, Timing]:
        monkeypatch.setattr(timing, "interleave", good)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(timing, "interleave", fails_once)
    state = session.run(plan(tmp_path, peers=(peer("good", works),)), CPU)
    first, second, third = state["rows"]
    assert (first["status"], first["reason"], first["ours"]) == ("failed", "RuntimeError: out of memory", None)
    assert first["peers"]["good"]["status"] == "failed"
    assert second["status"] == third["status"] == "ok"
    results.validate(state)
    stand_in["built"].clear()
    session.run(plan(tmp_path, peers=(peer("good", works),)), CPU)
    assert stand_in["built"] == [ROWS[0].name]  # what failed is tried again


def test_a_wrong_result_is_never_timed(stand_in: dict[str, Any], tmp_path: Path) -> None:
    stand_in["gate"] = Gate(False, 3.0, 0.5, "sequence 0: 3.00 of the bound")
    state = session.run(plan(tmp_path, items=ROWS[:1]), CPU)
    assert state["rows"][0]["status"] == "wrong" and state["rows"][0]["ours"] is None and stand_in["captured"] == []


def test_what_does_not_fit_is_skipped_with_its_size(
    stand_in: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 1 << 34))
    large = Row(LLAMA, uniform(32, 128 << 10))  # 32 · 131072 · 512 B
    state = session.run(plan(tmp_path, items=(large, ROWS[0])), CPU)
    assert state["rows"][0]["status"] == "skipped"
    assert state["rows"][0]["reason"] == "needs 2.1 GB a set, 0.5 GB may be taken"
    assert state["rows"][1]["status"] == "ok"


def test_the_budget_ends_the_run_between_items(
    stand_in: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def slow(bench: item.Bench, row: Row) -> item.Record:
        clock[0] += 40.0
        return {
            "name": row.name,
            "status": "skipped",
            "reason": "slow",
            "facts": {"kv_bytes": 1},
            "ours": None,
            "peers": {},
        }

    monkeypatch.setattr(session.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(item, "run_row", slow)
    state = session.run(plan(tmp_path, minutes=2.0, started=0.0), CPU)
    assert len(state["rows"]) == 2  # a third of 40 s, with half of it in reserve, would pass 120 s
    assert session.run(plan(tmp_path, minutes=0.0, started=0.0), CPU)["rows"] == state["rows"]


def test_a_crash_is_left_out_from_then_on(
    stand_in: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kills(inputs: Inputs, folder: Path | None) -> Launch:
        monkeypatch.setattr(torch.cuda, "synchronize", lost)
        raise RuntimeError("an illegal memory access was encountered")

    def lost() -> None:
        raise RuntimeError("an illegal memory access was encountered")

    peers = (peer("good", works), peer("deadly", kills))
    assert session.guarded(plan(tmp_path, peers=peers), CPU, lambda state: None) == session.LOST
    assert json.loads((tmp_path / "trying.json").read_text()) == [ROWS[0].name, "deadly"]
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    again = plan(tmp_path, items=ROWS[:1], peers=peers, after_crash=True)
    state = session.run(again, CPU)
    assert state["excluded"] == [[ROWS[0].name, "deadly"]]
    assert state["rows"][0]["peers"]["deadly"] == {"status": "failed", "reason": "brought the device down"}
    assert state["rows"][0]["peers"]["good"]["status"] == "ok" and state["rows"][0]["status"] == "ok"


def test_what_was_merely_killed_is_not_left_out(stand_in: dict[str, Any], tmp_path: Path) -> None:
    tmp_path.joinpath("trying.json").write_text(json.dumps([ROWS[0].name, "ours"]))
    state = session.run(plan(tmp_path), CPU)
    assert state["excluded"] == [] and state["rows"][0]["status"] == "ok"


def test_a_peer_that_takes_long_to_set_up_is_given_up(
    stand_in: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def slow(inputs: Inputs, folder: Path | None) -> Launch:
        clock[0] += 50.0
        return works(inputs, folder)

    monkeypatch.setattr(item.time, "monotonic", lambda: clock[0])
    state = session.run(plan(tmp_path, peers=(peer("slow", slow),), peer_seconds=60.0), CPU)
    assert [row["peers"]["slow"]["status"] for row in state["rows"]] == ["ok", "ok", "skipped"]
    assert state["rows"][2]["peers"]["slow"]["reason"] == "its set-up took 100 s in this run already"


def test_experiments_keep_what_worked(stand_in: dict[str, Any], tmp_path: Path) -> None:
    def breaks(inputs: Inputs) -> Launch:
        raise RuntimeError("OutOfResources")

    asked = Experiment("which", ROWS[0], (("as it is", lambda made: works(made, None)), ("larger", breaks)))
    state = session.run(plan(tmp_path, items=(asked,)), CPU)
    (record,) = state["experiments"]
    assert record["contenders"]["as it is"]["median_us"] == 10.0
    assert record["contenders"]["larger"] == {"status": "failed", "reason": "RuntimeError: OutOfResources"}
    assert session.run(plan(tmp_path, items=(asked,)), CPU)["experiments"] == [record]


def test_a_ceiling_that_fails_loses_no_time(
    stand_in: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(device: torch.device) -> ceiling.Ceiling:
        raise RuntimeError("no room")

    monkeypatch.setattr(ceiling, "measure", fails)
    state = session.run(plan(tmp_path), CPU)
    assert state["sessions"][0]["ceiling"] is None and state["rows"][0]["ours"]["median_us"] == 10.0
    results.validate(state)
    assert results.measured(state, ROWS) == {}  # no share of an unknown ceiling


def test_what_is_not_gone_on_from_is_kept(
    stand_in: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = session.run(plan(tmp_path), CPU)
    monkeypatch.setattr(environment, "fingerprint", lambda: "another")
    session.run(plan(tmp_path), CPU)
    assert results.read(tmp_path / "results-before-1.json") == before
    monkeypatch.setattr(environment, "fingerprint", lambda: "a third")
    session.run(plan(tmp_path, earlier=tmp_path / "nothing.json"), CPU)
    assert (tmp_path / "results-before-2.json").is_file()
    said = capsys.readouterr().err
    assert "other kernels: not continued" in said and "nothing.json: not there, nothing to go on from" in said


def test_what_differs_is_named(stand_in: dict[str, Any], tmp_path: Path) -> None:
    fresh = session.run(plan(tmp_path), CPU)
    other = {**fresh, "software": {**fresh["software"], "torch": "1.0"}}
    assert session.difference(other, fresh) == "another software, torch 1.0"
    unsaid = {**fresh, "software": {**fresh["software"], "driver": "575"}}
    assert session.difference(unsaid, fresh) is None and session.difference(fresh, fresh) is None
    told = {**fresh, "software": {**fresh["software"], "driver": "580"}}
    assert session.difference(unsaid, told) == "another software, driver 575"


def test_contenders_that_hang_when_timed_in_turn_are_left_out_together(
    stand_in: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows which of them it was: the next process times ours alone, and experiments not at all."""

    def hangs(replays: Mapping[str, object]) -> dict[str, Timing]:
        raise KeyboardInterrupt  # as far as this process is concerned

    asked = Experiment("which", ROWS[0], (("as it is", lambda made: works(made, None)),))
    peers, good = (peer("good", works),), timing.interleave
    for items in ((ROWS[0],), (asked,)):
        monkeypatch.setattr(timing, "interleave", hangs)
        with pytest.raises(KeyboardInterrupt):
            session.run(plan(tmp_path, items=items, peers=peers), CPU)
        assert json.loads((tmp_path / "trying.json").read_text()) == [items[0].name, item.TOGETHER]
        monkeypatch.setattr(timing, "interleave", good)
        state = session.run(plan(tmp_path, items=items, peers=peers, after_crash=True), CPU)
    (row,), (experiment,) = state["rows"], state["experiments"]
    assert row["status"] == "ok" and row["ours"]["median_us"] == 10.0
    assert row["peers"]["good"]["status"] == "failed" and "when all were timed" in row["peers"]["good"]["reason"]
    assert experiment["status"] == "failed" and "when all were timed" in experiment["reason"]


def test_a_process_that_hangs_ends_itself(tmp_path: Path) -> None:
    """The device's calls cannot be interrupted from Python: a thread ends the process, with the status of a lost device."""
    code = (
        "import time\nfrom hfmem_kernels.benchmarks import session\nsession.STALL_SECONDS = 0.1\n"
        "stall = session.Stall(0.1)\nstall.watch()\nstall.rest()\ntime.sleep(0.5)\nstall.watch()\ntime.sleep(30)\n"
    )
    folders = os.pathsep.join(each for each in sys.path if each)
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": folders}, timeout=60)
    assert done.returncode == session.LOST


def test_a_process_without_time_only_writes_down_where_the_last_one_ended(
    stand_in: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceiling, "measure", lambda device: pytest.fail("there is no time"))
    tmp_path.joinpath("trying.json").write_text(json.dumps([ROWS[0].name, "ours"]))
    state = session.run(plan(tmp_path, minutes=0.0, after_crash=True), CPU)
    assert state["excluded"] == [[ROWS[0].name, "ours"]] and state["rows"] == []
    assert results.read(tmp_path / "results.json") == state
