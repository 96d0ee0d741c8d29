"""The command line as a process: what is written arrives, the status is kept, and other programs' business at exit is done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hfmem import cli
from hfmem.__main__ import main

ENTRY = "import atexit, sys; atexit.register(print, 'bye', flush=True); from hfmem.__main__ import main; main()"
MODEL = "meta-llama/Meta-Llama-3-8B"


def ran(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HOME": str(home), "HFMEM_CACHE": str(home / "facts"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("entry", [("-m", "hfmem"), ("-c", ENTRY)])
def test_status_and_streams(entry: tuple[str, str], tmp_path: Path) -> None:
    said = "bye\n" if entry[0] == "-c" else ""
    done = ran(*entry, MODEL, "--json", home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("}\n" + said)
    missing = ran(*entry, str(tmp_path / "nothing"), home=tmp_path)
    assert (missing.returncode, missing.stdout) == (3, said)
    assert missing.stderr.startswith("error: ")
    unfit = ran(*entry, "fit", MODEL, "--gpu", "8GiB", home=tmp_path)
    assert unfit.returncode == 1 and MODEL in unfit.stdout
    assert ran(*entry, MODEL, "--ctx", "none", home=tmp_path).returncode == 2


def test_a_profiler_tells_what_it_saw(tmp_path: Path) -> None:
    done = ran("-m", "cProfile", "-m", "hfmem", MODEL, "--json", home=tmp_path)
    assert "function calls" in done.stdout


def test_a_call_inside_a_program_ends_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run in (main, cli.main):
        with pytest.raises(SystemExit) as raised:
            run([str(tmp_path / "nothing")])
        assert raised.value.code == 3

    def interrupted(words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    with pytest.raises(SystemExit) as raised:
        cli.main(["x"])
    assert raised.value.code == 128 + signal.SIGINT
