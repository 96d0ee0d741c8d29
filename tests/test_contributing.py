"""What CONTRIBUTING.md shows is what the repository holds."""

from __future__ import annotations

import re

import pytest
from repository import ROOT

TEXT = ROOT / "CONTRIBUTING.md"

pytestmark = pytest.mark.skipif(not TEXT.is_file(), reason="no CONTRIBUTING.md beside the tests (an installed copy)")


def added_lines() -> dict[str, list[str]]:
    """File → the lines that the diff in the text adds to it."""
    diff = re.search(r"```diff\n(.*?)```", TEXT.read_text(encoding="utf-8"), re.DOTALL)
    assert diff is not None
    found: dict[str, list[str]] = {}
    file = ""
    for text in diff[1].splitlines():
        if text.startswith("+++ b/"):
            file = text.removeprefix("+++ b/")
            found[file] = []
        elif text.startswith("+"):
            found[file].append(text[1:])
    return found


def test_the_diff_is_in_the_code() -> None:
    added = added_lines()
    assert {file.split("/")[0] for file in added} == {"hfmem", "tests"}
    for file, lines in added.items():
        block = "\n".join(lines).strip("\n")
        assert block in (ROOT / file).read_text(encoding="utf-8"), f"{file} does not hold the lines that the diff adds"


def test_the_files_it_names_exist() -> None:
    for name in re.findall(r"`((?:hfmem|tests|scripts)/[\w/.]+)`", TEXT.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name
