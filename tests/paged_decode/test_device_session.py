"""The session on a device: its time is kept, what ended well is not run again, and what it would run is there."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

import device_session
from device_session import PEER_FILES, ROOT, Step, place, session, steps


def step(name: str, code: str, least: float = 0.0, most: float = 20.0) -> Step:
    return Step(name, (sys.executable, "-c", code), least, most)


def test_what_ended_well_is_not_run_again(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    good = step("good", f"open({str(mark)!r}, 'a').write('x'); print('said')")
    bad = step("bad", f"open({str(mark)!r}, 'a').write('y'); raise SystemExit(3)")
    for _ in range(2):
        known = session([good, bad], tmp_path / "out", 60)
        assert {name: each["status"] for name, each in known.items()} == {"good": 0, "bad": 3}
    assert mark.read_text() == "xyy" and (tmp_path / "out" / "session.log").read_text().startswith(
        "\n== good\nsaid\n\n== bad\n"
    )
    assert json.loads((tmp_path / "out" / "session.json").read_text()) == known


def test_what_is_to_be_taken_home_lies_in_one_folder(tmp_path: Path) -> None:
    """Three files at most and no folder, after every step: those of a step that is ended, too."""
    bench = tmp_path / "out" / "bench"
    code = f"import pathlib; p = pathlib.Path({str(bench)!r}); p.mkdir(); (p / 'results.json').write_text('1'); raise SystemExit(1)"
    session([step("first", "print(5)"), step("second", code)], tmp_path / "out", 60, tmp_path / "home")
    assert {p.name: p.is_file() for p in (tmp_path / "home").iterdir()} == dict.fromkeys(
        ["results.json", "session.json", "session.log"], True
    )
    assert (tmp_path / "home" / "session.log").read_text() == "\n== first\n5\n\n== second\n"
    assert json.loads((tmp_path / "home" / "session.json").read_text())["second"]["status"] == 1


def gone(process: Path) -> bool:
    """Whether the process of a /proc/…/stat ends within seconds: the kernel takes its time after the signal."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if process.read_text().split()[2] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_a_step_ends_when_its_time_is_over_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that ignores SIGTERM, in the step's own group, is gone as well; a step that needs more is left for the next call."""
    monkeypatch.setattr(device_session, "ENDING", 0.5)
    mark = tmp_path / "pid"
    stubborn = (
        "import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); open({str(mark)!r}, 'w').write(str(p.pid));"
        "time.sleep(60)"
    )
    started = time.monotonic()
    known = session([step("long", stubborn, most=3.0), step("later", "", least=1000.0)], tmp_path / "out", 30)
    assert time.monotonic() - started < 15
    assert known["long"]["status"] == "ended" and known["later"] == {"status": "no time", "seconds": 0}
    process = Path("/proc", mark.read_text(), "stat")
    assert gone(process)


def test_what_is_run_is_there(tmp_path: Path) -> None:
    """Scripts, tests and models that the steps name; the first steps fit one call of 560 s, each at its most."""
    found = {each.name: each for each in steps(tmp_path, tmp_path / "peers", "abc")}
    assert list(found) == [
        "quick",
        "latents",
        "bench-llama",
        "bench-v3.2",
        "bench-v4",
        "random",
        "core",
        "calls",
        "grid",
    ]
    assert all(each.least <= each.most for each in found.values())
    assert sum(found[name].most for name in ("quick", "latents", "bench-llama", "bench-v3.2", "bench-v4")) <= 500
    named = [word for each in found.values() for word in each.command if word.endswith(".py")]
    assert named and all((ROOT / word).is_file() for word in named)
    assert found["core"].command[-4:] == ("--peer-path", f"lmdeploy={tmp_path / 'peers'}", "--minutes", "4")


def test_peers_are_placed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in PEER_FILES["sglang"]:
        source = tmp_path / "wheel" / "sglang" / file
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(file)
    assert place(tmp_path / "peers", [f"sglang={tmp_path / 'wheel'}"]) == 0
    assert sorted(p.name for p in (tmp_path / "peers").rglob("*.py")) == [
        "decode_attention.py",
        "metadata.py",
        "score_mod.py",
    ]
    assert place(tmp_path / "peers", [f"vllm={tmp_path / 'wheel'}"]) == 2
    assert place(tmp_path / "peers", ["flash=x"]) == 2 and "expected NAME=DIR" in capsys.readouterr().err
