"""Text that a stranger's config, tensor names or folder bring along steers neither a terminal nor a page nor a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from pathlib import Path

import pytest
from commands import Run
from hub_server import header_bytes
from small_llama import LLAMA, llama_tensors

ESCAPES = "\x1b[2J\x9b31m\x07\u202e\r"
MARKUP = "<script>alert(1)</script>|`x`![](y)"
FORMS = ["table", "json", "markdown", "csv", "html"]
COMMANDS = ["estimate", "compare", "layers", "explain", "files", "fit --gpu h100", "plan --users 1"]


@pytest.fixture
def hostile(tmp_path: Path) -> str:
    """A checkout in a folder named like a formula, with control characters and markup in every text that is repeated."""
    place = tmp_path / f"=1+1{MARKUP.replace('/', '')}"
    place.mkdir()
    evil = f"=cmd|{ESCAPES}{MARKUP}"
    config = {**LLAMA, "architectures": [evil], "_name_or_path": evil, "quantization_config": {"quant_method": evil}}
    (place / "config.json").write_text(json.dumps(config))
    front, size = header_bytes([*llama_tensors(), (f"x{evil}.weight", "BF16", (4,))])
    with (place / "model.safetensors").open("wb") as file:
        file.write(front)
        file.truncate(size)
    return place.name


@pytest.mark.parametrize(
    ("command", "form"),
    [(c, f) for c in COMMANDS for f in FORMS if c != "files" or f in ("table", "json")],
)
def test_nothing_steers(
    run: Run, hostile: str, tmp_path: Path, command: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *words = command.split()
    options = {"table": [], "json": ["--json"]}.get(form, ["--format", form])
    status, out, err = run(name, hostile, *words, *options)
    assert (status, bool(out)) == (0, True)
    assert not {c for c in out + err if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")}
    if form in ("markdown", "html"):
        assert "<script" not in out and (form == "html" or "![" not in out)
    if form == "csv":
        cells = [cell for row in csv.reader(io.StringIO(out)) for cell in row]
        assert not [cell for cell in cells if cell[:1] in ("=", "+", "@")]
    if form == "json":
        json.loads(out)
