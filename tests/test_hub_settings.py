"""The environment means here what it means to huggingface_hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from hfmem.errors import UsageError
from hfmem.hub.settings import read_settings

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
