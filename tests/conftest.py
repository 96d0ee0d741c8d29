"""No test reaches the network or the user's own caches; `hub` is a local server that behaves like the Hub."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Run
from hub_server import HubServer
from hypothesis import HealthCheck, settings

from hfmem.cli import main

# both are measured in seconds: on a busy machine they fail without a fault
settings.register_profile("hfmem", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hfmem")

_PREFIXES = ("HF_", "HFMEM_", "HUGGING", "TRANSFORMERS_OFFLINE", "XDG_CACHE_HOME")


def _is_loopback(host: Any) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    return host in (None, "", "localhost", "::1") or str(host).startswith("127.")


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Other hosts do not resolve and cannot be connected to."""
    patch = pytest.MonkeyPatch()
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not _is_loopback(address[0]):
            raise OSError(101, "Network is unreachable")
        connect(self, address)

    def guarded_resolve(host: Any, *rest: Any, **named: Any) -> Any:
        if not _is_loopback(host):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *rest, **named)

    patch.setattr(socket.socket, "connect", guarded_connect)
    patch.setattr(socket, "getaddrinfo", guarded_resolve)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty caches, no token, no proxy, whatever the machine has."""
    for name in list(os.environ):
        if (name.startswith(_PREFIXES) and name != "HFMEM_CORPUS") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))
    monkeypatch.setenv("HFMEM_CACHE", str(home / "hfmem"))


@pytest.fixture
def facts_dir() -> Path:
    """Where the test's facts are stored."""
    return Path(os.environ["HFMEM_CACHE"])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub of the test's own, named by HF_ENDPOINT; retries wait milliseconds."""
    monkeypatch.setattr("hfmem.hub.http.BACKOFF", 0.005)
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process: exit status, stdout, stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(list(words))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(left.value.code or 0), out, err

    return call
