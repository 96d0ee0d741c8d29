"""The command line before a terminal, a pipe and a closed pipe."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from repository import ROOT


def _process(words: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hfmem", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **more)


def test_a_closed_pipe_is_no_error(folder: Path) -> None:
    source = f"{sys.executable} -m hfmem {folder} {folder} {folder} | head -n 1"
    done = subprocess.run(["bash", "-c", source], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    assert done.stdout.count("\n") == 1 and done.stderr == ""


def test_pipe_is_plain_and_terminal_wraps(folder: Path) -> None:
    plain = _process([str(folder)], cwd=ROOT)
    assert plain.returncode == 0 and "\x1b" not in plain.stdout
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "60", "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "hfmem", "./checkout"]
    process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=environment, cwd=folder.parent)
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    _, err = process.communicate(timeout=60)
    os.close(ours)
    text = seen.decode()
    assert process.returncode == 0 and err == b""
    assert "\x1b[" in text
    bare = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(len(line) for line in bare.splitlines()) <= 60


def test_no_color_is_honoured(folder: Path) -> None:
    environment = {**os.environ, "FORCE_COLOR": "1"}
    assert "\x1b" in _process([str(folder)], env=environment, cwd=ROOT).stdout
    assert "\x1b" not in _process([str(folder)], env={**environment, "NO_COLOR": "1"}, cwd=ROOT).stdout
