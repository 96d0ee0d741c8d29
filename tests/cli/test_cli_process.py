"""The command line as a process: what a shell does to its streams never shows a traceback, and never looks like "does not fit"."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

HELP, MODEL, UNKNOWN = "fit --help", "meta-llama/Meta-Llama-3-8B --offline", "nope/nope --offline"


def shell(words: str) -> subprocess.CompletedProcess[str]:
    """`hfmem WORDS` by a shell that reports the status of hfmem itself."""
    command = ["bash", "-c", f'set -o pipefail; "{sys.executable}" -m hfmem {words}']
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
@pytest.mark.parametrize("words", ["--help", "--version", HELP, MODEL])
def test_a_full_disk_is_told_in_a_line(words: str) -> None:
    done = shell(f"{words} > /dev/full")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "cannot be written: No space left" in done.stderr


@pytest.mark.parametrize(
    ("words", "status"), [(f"{HELP} >&-", 0), (f"{MODEL} >&- 2>&-", 0), (f"{UNKNOWN} 2>&-", 3), (f"{UNKNOWN} >&-", 3)]
)
def test_closed_streams_change_nothing(words: str, status: int) -> None:
    done = shell(words)
    assert done.returncode == status and "Traceback" not in done.stderr


@pytest.mark.parametrize("words", ["--version", HELP])
def test_a_reader_that_leaves_is_no_error(words: str) -> None:
    done = shell(f"{words} | true")
    assert (done.returncode, done.stderr) == (0, "")


def test_everything_is_written_before_the_end() -> None:
    done = shell("devices --json")
    assert done.returncode == 0 and done.stdout.endswith("]\n")


@pytest.mark.parametrize("flag", ["--ctx", "--batch", "--kv-memory"])
def test_a_number_of_five_thousand_digits_is_a_slip(flag: str) -> None:
    done = shell(f"{MODEL} {flag} {'1' * 5000}")
    assert done.returncode == 2
    assert len(done.stderr) < 200


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    done = shell(f"{tmp_path}")
    assert done.returncode == 3
    assert "config.json is not a file" in done.stderr
