"""A checkout of the small Llama."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_server import header_bytes
from small_llama import LLAMA, llama_tensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A local checkout of `LLAMA`, its weights a hole in the file."""
    place = tmp_path / "checkout"
    place.mkdir()
    (place / "config.json").write_text(json.dumps(LLAMA))
    front, size = header_bytes(llama_tensors())
    with (place / "model.safetensors").open("wb") as file:
        file.write(front)
        file.truncate(size)
    return place
