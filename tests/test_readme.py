"""The README's commands and the program stay in step."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter

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


def test_comparison_is_what_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the reason why it is not live, nothing of it is on stdout."""
    shown = re.findall(r"```text\n(.+?)```", README, re.DOTALL)[2]
    words = re.search(r"^    hfmem (compare .+--gpu rtx4090)$", README, re.MULTILINE)
    assert words
    assert _output([*shlex.split(words[1]), "--offline"], capsys) == (0, shown.splitlines())


@pytest.mark.parametrize("command", _commands())
def test_every_command_runs(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command shown runs, offline and from the catalogue; only a model that stands for the reader's own is not there (3)."""
    words = shlex.split(command.partition("#")[0])[1:]
    if len(words) == 1 and words[0].isalpha():
        assert words[0] in {info.callback.__name__ for info in app.registered_commands if info.callback}
        return
    if any(word.isupper() and word.isalpha() for word in words):  # a placeholder
        return
    status, _ = _output([*words, "--offline"], capsys)
    if any(word.startswith(("./", "org/")) for word in words):
        assert status == 3  # nobody's folder, nobody's repository
    else:
        assert status in ((0, 1) if words[0] == "fit" else (0,))


def test_the_python_shown_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shown = re.search(r"```python\n(.+?)```", README, re.DOTALL)
    assert shown
    exec(compile(shown[1], "README.md", "exec"), {})
    total, rank, engines = capsys.readouterr().out.split(maxsplit=2)
    assert 0 < int(rank) < int(total) and "vllm" in engines


def test_the_sets_of_logs_are_as_large_as_it_says() -> None:
    rows = [json.loads(line) for line in (ROOT / "scripts" / "logged_figures.jsonl").read_text().splitlines()]
    sets = Counter(row["set"] for row in rows)
    page = (ROOT / "docs" / "accuracy.md").read_text()
    assert all(f"with what {len(rows)} servers logged" in text for text in (README, page))
    told = {name: int(count) for name, count in re.findall(r"^- \*\*(.+?)\*\* \((\d+)\)", page, re.MULTILINE)}
    assert told == {name: sets[name] for name in told} and len(told) >= 6
    assert f"The {sets['tune']} logs used for writing them are not shown." in page


def test_the_pages_that_it_links_are_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) >= 2 and all((ROOT / link).is_file() for link in links)
