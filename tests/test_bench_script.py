"""`scripts/bench_paged_decode.py`: the program that starts itself again, with the runs themselves replaced."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

#: stands for a child that is ended because it hangs
HANGS = 1000
SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "bench_paged_decode.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module, with nothing compiled ahead."""
    spec = importlib.util.spec_from_file_location("bench_paged_decode", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_compile_ahead", lambda arguments, minutes: None)
    monkeypatch.setattr(module.signal, "signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    return module


def run(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, statuses: list[int], *words: str
) -> tuple[int, list[list[str]]]:
    """The program's status, and the words its children were started with."""
    started: list[list[str]] = []

    def child(command: list[str], timeout: float | None) -> Any:
        started.append(command[2:])
        minutes = command[command.index("--seconds-left") + 1] if "--seconds-left" in command else None
        assert timeout is None if minutes is None else timeout == pytest.approx(float(minutes) + script.GRACE, abs=1)
        if statuses[len(started) - 1] == HANGS:
            assert timeout is not None
            raise subprocess.TimeoutExpired(command, timeout)
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


def test_a_child_that_hangs_is_ended_and_told_of(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    status, started = run(script, monkeypatch, [HANGS, 0], "--quick")
    assert status == 0 and started[1][-1] == "--after-crash"


def test_a_folder_that_cannot_be_made(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    status, started = run(script, monkeypatch, [], "--out", str(tmp_path / "file" / "x"))
    assert (status, started) == (2, []) and capsys.readouterr().err.startswith("error: --out ")


def test_ending_the_program_ends_its_child(tmp_path: Path) -> None:
    """As a time limit ends it: SIGTERM to the first process. The child, a program that sleeps here, must not stay."""
    file, sleeps, starts = (tmp_path / name for name in ("child", "sleeps.py", "starts.py"))
    sleeps.write_text(f"import os, time\nopen({str(file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n")
    starts.write_text(
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('bench', {str(SCRIPT)!r})\n"
        "bench = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(bench)\n"
        "bench._compile_ahead = lambda *_: None\n"
        f"bench._child = lambda *words: [sys.executable, {str(sleeps)!r}]\n"
        "sys.exit(bench.main())\n"
    )
    parent = subprocess.Popen([sys.executable, str(starts), "--out", str(tmp_path / "out")])
    for _ in range(400):
        if file.is_file() and file.read_text():
            break
        time.sleep(0.05)
    parent.terminate()
    assert parent.wait(timeout=20) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


def test_an_older_python_is_told(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script.sys, "version_info", (3, 10, 12))
    status, started = run(script, monkeypatch, [])
    assert (status, started) == (2, []) and "needs Python 3.11 or later" in capsys.readouterr().err


def test_a_report_of_results_that_are_not_there(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    words = [sys.executable, str(SCRIPT), "--report", str(tmp_path / "none.json"), "--out", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
