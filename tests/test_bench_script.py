"""`scripts/bench_paged_decode.py`: the program that starts itself again, with the runs themselves replaced."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "bench_paged_decode.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with nothing compiled ahead."""
    spec = importlib.util.spec_from_file_location("bench_paged_decode", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_compile_ahead", lambda arguments, minutes: None)
    return module


def run(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, statuses: list[int], *words: str
) -> tuple[int, list[list[str]]]:
    """The program's status, and the words its children were started with."""
    started: list[list[str]] = []

    def child(command: list[str]) -> Any:
        started.append(command[2:])
        return subprocess.CompletedProcess(command, statuses[len(started) - 1])

    monkeypatch.setattr(script.subprocess, "run", child)
    monkeypatch.setattr(sys, "argv", ["bench_paged_decode.py", *words])
    return script.main(), started


def test_one_child_with_its_minutes(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    status, started = run(script, monkeypatch, [0], "--quick", "--out", "x")
    assert (status, started) == (0, [["--quick", "--out", "x", "--worker", "--seconds-left", "120"]])
    _, started = run(script, monkeypatch, [0], "--grid", "full")
    assert started == [["--grid", "full", "--worker"]]
    _, started = run(script, monkeypatch, [0], "--minutes", "8")
    assert started == [["--minutes", "8", "--worker", "--seconds-left", "480"]]


@pytest.mark.parametrize("lost", [75, -6, -11], ids=["device lost", "aborted", "segmentation fault"])
def test_a_child_that_crashed_is_started_again(lost: int, script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    status, started = run(script, monkeypatch, [lost, lost, 0])
    assert status == 0 and [words[-1] for words in started[1:]] == ["--after-crash"] * 2
    assert "--after-crash" not in started[0]


@pytest.mark.parametrize("ended", [0, 1, 2, -2, -9, -15])
def test_a_child_that_ended_or_was_ended_is_not(
    ended: int, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, started = run(script, monkeypatch, [ended])
    assert status == abs(ended) and len(started) == 1


def test_it_gives_up_in_the_end(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    status, started = run(script, monkeypatch, [75] * 20)
    assert status == 75 and len(started) == script.RESTARTS + 1


def test_a_report_of_results_that_are_not_there(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    words = [sys.executable, str(SCRIPT), "--report", str(tmp_path / "none.json"), "--out", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
