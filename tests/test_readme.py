"""The README's commands and the program stay in step."""

from __future__ import annotations

import re
import shlex

import pytest
from repository import ROOT

from hfmem.cli import app, main

README = (ROOT / "README.md").read_text()


def _commands() -> list[str]:
    lines = re.findall(r"^    (.+)$", README, re.MULTILINE) + re.findall(r"`(hfmem [^`]+)`", README)
    found = [line.partition("#")[0].rpartition("&& ")[2].strip() for line in lines]
    return [command for command in found if command.startswith("hfmem ")]


def _output(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    with pytest.raises(SystemExit) as left:
        main(words)
    return int(left.value.code or 0), capsys.readouterr().out.splitlines()


def test_ci_runs_the_second_command_word_for_word() -> None:
    first, second = re.findall(r"^    (pip install .+)$", README, re.MULTILINE)
    assert first.startswith("pip install . && hfmem ")
    script = (ROOT / ".ci" / "run").read_text()
    assert second.replace("pip install", "pip install -q") in script.splitlines()


def test_first_output_is_what_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    command = re.search(r"^    pip install \. && hfmem (.+)$", README, re.MULTILINE)
    shown = re.search(r"```text\n(.+?)```", README, re.DOTALL)
    assert command and shown
    status, lines = _output([*shlex.split(command[1]), "--offline"], capsys)

    def of_every_day(rows: list[str]) -> list[str]:
        return [re.sub(r"of \d{4}-\d\d-\d\d \(.*", "", row) for row in rows]  # the day, and why it was not live

    assert status == 0
    assert of_every_day(lines) == of_every_day(shown[1].splitlines())


def test_layer_table_is_what_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    shown = re.findall(r"```text\n(.+?)```", README, re.DOTALL)[1]
    words = re.search(r"`hfmem (layers Qwen/Qwen3-Next[^`]+)`", README)
    assert words
    assert _output([*shlex.split(words[1]), "--offline"], capsys) == (0, shown.splitlines())


@pytest.mark.parametrize("command", _commands())
def test_every_command_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command shown is one that exists, with flags that exist: reading may fail here (3), usage may not (2)."""
    words = shlex.split(command.partition("#")[0])[1:]
    if len(words) == 1 and words[0].isalpha():
        assert words[0] in {info.callback.__name__ for info in app.registered_commands if info.callback}
        return
    if any(word.isupper() and word.isalpha() for word in words):  # a placeholder
        return
    status, _ = _output([*words, "--offline"], capsys)
    assert status in ((0, 1, 3) if words[0] == "fit" else (0, 3))
