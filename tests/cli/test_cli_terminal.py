"""The command line before a terminal, a pipe and a closed pipe."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Run
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


@pytest.fixture
def on_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], list[str]]:
    """What a command shows on a terminal of so many columns."""

    def show(words: str, columns: int) -> list[str]:
        monkeypatch.setattr("hfmem.cli.output.terminal_columns", lambda: columns)
        status, out, err = run(*words.split())
        assert status in (0, 1) and err == ""
        return out.splitlines()

    return show


COMMANDS = (
    "google/gemma-3-27b-it --ctx 32k --offline",
    "layers google/gemma-3-27b-it --ctx 128k --offline",
    "compare Qwen/Qwen3-8B meta-llama/Meta-Llama-3-8B --offline",
    "compare Qwen/Qwen3-8B --quant bf16,fp8,int4 --gpu 4090 --num-gpus 2 --offline",
    "plan Qwen/Qwen3-8B --users 2 --gpu 4090,h100 --offline",
    "fit Qwen/Qwen3-8B --gpu 4090 --ctx 64k --batch 8 --offline",
    "explain Qwen/Qwen3-8B --offline",
    "devices",
)


@pytest.mark.parametrize("columns", [40, 60, 80, 100])
@pytest.mark.parametrize("words", COMMANDS)
def test_no_line_is_wider_than_the_terminal(
    on_terminal: Callable[[str, int], list[str]], words: str, columns: int
) -> None:
    assert max(len(text) for text in on_terminal(words, columns)) <= columns


def test_a_table_on_a_narrow_terminal_is_a_block_a_row(on_terminal: Callable[[str, int], list[str]]) -> None:
    (head, row, *_), narrow = (on_terminal("devices h100 nvl", columns) for columns in (120, 40))
    assert head.split() == ["memory", "bandwidth", "bf16", "fp8", "fp4", "link", "node"]
    assert row.startswith("H100 NVL 94GB") and narrow[0] == "H100 NVL 94GB"
    blocks = [text.split(maxsplit=1) for text in narrow[1:8]]
    assert [name for name, _ in blocks] == head.split()
    assert " ".join(cell for _, cell in blocks).split() == row.removeprefix("H100 NVL 94GB").split()


@pytest.mark.parametrize("words", ["{folder}", "fit {folder} --gpu h100", "devices h100", "explain {folder}", "--help"])
def test_a_locale_without_unicode_gets_ascii(folder: Path, words: str) -> None:
    """`LC_ALL=C` with Python's own way around it turned off, as on old consoles: signs are spelled, nothing fails."""
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = _process(words.format(folder=folder).split(), env=plain, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii() and "?" not in done.stdout


@pytest.mark.parametrize(
    "words", ["layers google/gemma-3-27b-it", "compare meta-llama/Meta-Llama-3-8B google/gemma-3-27b-it --ctx 8k"]
)
def test_columns_stay_columns_in_ascii(words: str) -> None:
    """`≈` and `…` take more letters when they are spelled: every row still ends where its head does."""
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [*words.split(), "--offline", "--no-cache"]
    spelled, signs = (_process(command, env=env, cwd=ROOT).stdout.splitlines() for env in (plain, {**os.environ}))
    rows = [number for number, text in enumerate(signs) if re.search(r"\d\.\d\d", text) and not text.startswith("GiB")]
    assert len(rows) >= 2 and any("…" in signs[number] or "≈" in signs[number] for number in rows)
    assert all(len(spelled[number]) == len(signs[number]) == len(signs[0]) for number in rows)


def test_what_has_no_spelling_is_a_question_mark() -> None:
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = _process(["é/模型", "--offline"], env={**plain, "PYTHONIOENCODING": "latin-1"}, cwd=ROOT)
    assert done.returncode in (2, 3) and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
