"""Networks as they are: names that do not resolve in time, dead addresses, log-in pages, mirrors that pass on the Hub's words."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any

import pytest
from hub_server import Handler, HubServer, fail_times, shard, sharded
from raw_http import FRESH, client, reply, serve

from hfmem.errors import ModelNotFoundError, NetworkError
from hfmem.hub import FetchOptions, load_model
from hfmem.hub.connection import Origin, origin_of, proxy_for
from hfmem.hub.http import token_follows
from hfmem.hub.listing import list_files

KNOWN = "meta-llama/Meta-Llama-3-8B"
CONFIG = {"model_type": "llama"}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hfmem.hub.http.BACKOFF", 0.005)


@pytest.fixture
def stuck_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    release = threading.Event()

    def getaddrinfo(*_: Any) -> Any:
        release.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield
    release.set()


def test_a_resolver_that_does_not_answer(stuck_resolver: None) -> None:
    started = time.monotonic()
    with pytest.raises(NetworkError, match=r"deadline of 0\.5 s"):
        load_model("org/unheard-of", options=FetchOptions(no_cache=True, deadline=0.5))
    assert time.monotonic() - started < 5


def test_a_resolver_that_does_not_answer_and_a_stored_answer(
    stuck_resolver: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hfmem.hub.http.QUICK_CONNECT", 0.3)
    started = time.monotonic()
    facts = load_model(KNOWN)
    assert facts.source == "catalog" and "cannot be reached: timed out" in (facts.notice or "")
    assert time.monotonic() - started < 5


def test_a_dead_address_before_a_living_one(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/m", {"config.json": CONFIG, "model.safetensors": shard([("w", "BF16", (4,))])})
    monkeypatch.setattr("hfmem.hub.addresses._PATIENCE", 0.2)
    usual = socket.getaddrinfo

    def getaddrinfo(*asked: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)), *usual(*asked)]

    with socket.socket() as silent:  # its queue is full: further connections are not answered
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        port = silent.getsockname()[1]
        waiting = []
        for _ in range(3):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            waiting.append(sock)
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        started = time.monotonic()
        assert load_model("org/m", options=FRESH).checkpoint is not None
        assert time.monotonic() - started < 8
        for sock in waiting:
            sock.close()


def test_a_host_with_an_address_of_version_six(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6
        daemon_threads = True
        hub: Any
        role = "hub"

    try:
        server = Server(("::1", 0), Handler)
    except OSError:
        pytest.skip("this machine has no IPv6")
    server.hub = hub
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    hub.add("org/m", {"config.json": CONFIG, "model.safetensors": shard([("w", "BF16", (4,))])})
    monkeypatch.setenv("HF_ENDPOINT", f"http://[::1]:{server.server_port}")
    try:
        assert load_model("org/m", options=FRESH).checkpoint is not None
        hosts = {entry.headers["host"] for entry in hub.requests("hub")}
        assert hosts == {f"[::1]:{server.server_port}"}
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("url", "no_proxy", "bypassed"),
    [
        ("https://hub.example.com", "example.com", True),
        ("https://hub.example.com", ".example.com", True),
        ("https://hub.example.com", "other.com, hub.example.com:443", True),
        ("https://hub.example.com", "hub.example.com:8443", False),
        ("https://hub.example.com", "notexample.com", False),
        ("https://hub.example.com", "*", True),
        ("http://[::1]:80", "::1", True),
        ("http://127.0.0.1:8000", "127.0.0.1", True),
        ("http://127.0.0.1:8000", "localhost", False),
    ],
)
def test_hosts_that_need_no_proxy(url: str, no_proxy: str, bypassed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (proxy_for(origin_of(url)) is None) is bypassed


def test_a_log_in_page_is_no_answer() -> None:
    def respond(handler: Any) -> None:
        reply(
            handler, 200, b"\n<!DOCTYPE html><html>Welcome to the hotel</html>", content_type="text/html; charset=utf-8"
        )

    with serve(respond) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", url)
        with pytest.raises(NetworkError, match=r"web page instead of config\.json"):
            load_model("org/unheard-of", options=FRESH)
        facts = load_model(KNOWN)  # what is stored serves where the Hub itself cannot be reached
        assert facts.source == "catalog" and "log-in" in (facts.notice or "")


def test_bytes_after_a_body_do_not_become_the_next_answer() -> None:
    def respond(handler: Any) -> None:
        reply(handler, 200, b"ok" + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfake", content_length="2")

    with serve(respond) as url:
        http = client(url)
        for _ in range(3):
            assert http.get(url + "/x", max_bytes=10).body == b"ok"


def test_a_token_goes_from_one_name_of_the_hub_to_another_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def respond(handler: Any) -> None:
        seen.append((handler.server.server_port, handler.headers.get("authorization")))
        to = {"/a": f"{second}/b", "/b": f"{third}/c", "/c": f"{second}/d"}.get(handler.path)
        reply(handler, 302, location=to) if to else reply(handler, 200, b"end")

    seen: list[tuple[int, str | None]] = []
    with serve(respond) as first, serve(respond) as second, serve(respond) as third:
        monkeypatch.setattr("hfmem.hub.http._HUB_ORIGINS", frozenset({origin_of(second)}))
        http = client(first, token="hf_secret")
        assert http.get(first + "/a", max_bytes=10).body == b"end"
        assert [token for _, token in seen] == ["Bearer hf_secret", "Bearer hf_secret", None, None]


def test_the_hub_is_huggingface_hubs() -> None:
    from huggingface_hub.utils import _http

    from hfmem.hub.http import _HUB_ORIGINS

    theirs = getattr(_http, "_HUB_ORIGINS", None)
    if theirs is None:
        pytest.skip("this release of huggingface_hub has no such list")
    assert {Origin(*origin) for origin in theirs if origin[0] == "https"} <= _HUB_ORIGINS


def test_a_mirror_whose_pages_point_to_the_hub(hub: HubServer) -> None:
    files: dict[str, Any] = {"config.json": CONFIG, **{f"extra/{i:04d}.txt": b"x" for i in range(1500)}}
    hub.add("org/m", files)

    def fault(handler: Any) -> bool:
        if "/tree/" not in handler.path:
            return False
        answer = handler.answer

        def official(status: int, body: bytes, headers: Any) -> None:
            link = headers.get("Link")
            answer(
                status, body, {**headers, "Link": link.replace(hub.url, "https://huggingface.co")} if link else headers
            )

        handler.answer = official
        return False

    hub.faults.append(fault)
    assert set(files) <= set(list_files("org/m", options=FRESH).files)


@pytest.mark.parametrize("said", ['"api";r=0;t=1', '"resolvers" ; r = 0 ; t = 1', '"a";r=5;t=9, "api";r=0;t=1'])
def test_what_is_left_of_a_rate_limit(said: str) -> None:
    from hfmem.hub.wire import retry_after

    assert retry_after(429, {"ratelimit": said}) == retry_after(429, {"ratelimit": said, "retry-after": "60"}) == 2
    assert retry_after(429, {"ratelimit": said.replace("r=0", "r=10").replace("r = 0", "r = 10")}) is None
    assert retry_after(503, {"ratelimit": said}) is None  # the limit is not why
    assert retry_after(503, {"ratelimit": said, "retry-after": "60"}) == 60


def test_what_a_token_may_follow() -> None:
    def follows(before: str, after: str, home: str = "https://huggingface.co") -> bool:
        return token_follows(origin_of(before), origin_of(after), origin_of(home))

    assert follows("https://huggingface.co", "https://huggingface.co")
    assert follows("https://hf.co", "https://huggingface.co")
    assert follows("http://mirror.example", "https://mirror.example", home="http://mirror.example")
    assert follows("https://mirror.example", "https://huggingface.co", home="https://mirror.example")
    for after in ("https://cdn-lfs.hf.co", "http://huggingface.co", "https://huggingface.co:444", "https://evilhf.co"):
        assert not follows("https://huggingface.co", after)
    assert not follows("http://mirror.example", "https://mirror.example:8443", home="http://mirror.example")
    assert not follows("https://mirror.example", "http://mirror.example", home="https://mirror.example")


def test_messages_hold_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    def respond(handler: Any) -> None:
        to = f"http://user:secret@{handler.headers['host']}{handler.path}/x?signature=secret"
        reply(handler, 302, location=to) if "loop" in handler.path else reply(handler, 404)

    with serve(respond) as url:
        secret = url.replace("://", "://user:secret@")
        with pytest.raises(NetworkError, match="more than 10 redirects") as raised:
            client(url).get(secret + "/loop?token=secret", max_bytes=10)
        assert "secret" not in str(raised.value)
        monkeypatch.setenv("HF_ENDPOINT", secret)
        with pytest.raises(ModelNotFoundError, match=r"at http://127") as missing:
            load_model("org/unheard-of", options=FRESH)
        assert "secret" not in str(missing.value)


def test_a_redirect_to_nowhere() -> None:
    with serve(lambda handler: reply(handler, 302)) as url, pytest.raises(NetworkError, match="redirected to nowhere"):
        client(url).get(url + "/x", max_bytes=10)


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_a_file_that_is_listed_and_said_not_to_be_there(hub: HubServer, name: str) -> None:
    """Second copies are not taken for the weights because a server lost the first one for a moment."""
    hub.metadata_route = False
    files = {
        "model.safetensors": shard([("w", "BF16", (4,))]),
        "consolidated.safetensors": shard([("x", "BF16", (9,))]),
    }
    if "index" in name:
        files = {**sharded({"model-1.safetensors": [("w", "BF16", (4,))]}), **files}
        del files["model.safetensors"]
    hub.add("org/m", {"config.json": {"model_type": "llama"}, **files})
    hub.faults.append(fail_times(99, 404, on=f"resolve/.*{name}$"))
    with pytest.raises(NetworkError, match=f"{name} is in the list of files"):
        load_model("org/m", options=FRESH)
