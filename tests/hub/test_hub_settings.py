"""The environment means here what it means to huggingface_hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hfmem.errors import UsageError
from hfmem.hub.settings import find_token, read_settings

_THEIRS = """
import json
from huggingface_hub import constants as c
print(json.dumps([c.ENDPOINT, c.HF_HUB_OFFLINE, c.HF_HUB_CACHE, c.HF_TOKEN_PATH, c.HF_HUB_ETAG_TIMEOUT,
                  c.HF_HUB_DOWNLOAD_TIMEOUT, c.HF_HUB_DISABLE_IMPLICIT_TOKEN]))
"""
_OURS = """
import json, os
from huggingface_hub import constants
from hfmem.hub.settings import _token_path, is_true, read_settings
s = read_settings()
path = _token_path(os.environ, constants.HF_TOKEN_PATH)
print(json.dumps([s.endpoint, s.offline, str(s.hub_cache), str(path), int(s.etag_timeout), int(s.download_timeout),
                  is_true(os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN"))]))
"""


def _asked(code: str, environment: dict[str, str]) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"HF_ENDPOINT": "https://mirror.example/hub/", "HF_HUB_OFFLINE": "yes"},
        {"HF_HOME": "~/hf", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "on"},
        {"XDG_CACHE_HOME": "$HOME/xdg", "HF_HUB_ETAG_TIMEOUT": "3", "HF_HUB_DOWNLOAD_TIMEOUT": "0"},
        {"HF_HUB_CACHE": "/data/hub", "HUGGINGFACE_HUB_CACHE": "/old/hub", "HF_TOKEN_PATH": "~/t"},
        {"HUGGINGFACE_HUB_CACHE": "/old/hub", "HUGGINGFACE_CO_STAGING": "1"},
    ],
)
def test_same_constants(variables: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    environment |= {"HOME": "/home/somebody", **variables}
    assert _asked(_OURS, environment) == _asked(_THEIRS, environment)


def test_what_a_program_has_loaded_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://mirror.example")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/data/hub")
    found = read_settings()
    assert (found.endpoint, found.offline, str(found.hub_cache)) == ("https://mirror.example", True, "/data/hub")


@pytest.mark.parametrize("value", ["-1", "soon", "nan", "1e9"])
def test_a_time_limit_that_is_none(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", value)
    with pytest.raises(UsageError, match="HF_HUB_ETAG_TIMEOUT"):
        read_settings()


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_token_file_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    from huggingface_hub.utils import _auth

    path = tmp_path / "token"
    path.mkdir() if content is None else path.write_bytes(content)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(path))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(path))
    with pytest.raises((OSError, UnicodeDecodeError)):
        _auth._get_token_from_file()
    with pytest.raises(UsageError, match=r"token file .* cannot be read .*HF_TOKEN"):
        find_token()
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert find_token() == "hf_x"


def test_no_token_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    assert find_token() is None


def test_an_empty_endpoint_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "")  # as it is where HF_ENDPOINT is set to nothing
    assert read_settings({"HF_ENDPOINT": ""}).endpoint == "https://huggingface.co"
