"""The transport under trouble: retries, limits, redirects, proxies, and an end to every wait."""

from __future__ import annotations

import gzip
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from hub_server import Blob, HubServer, fail_times, sharded, stall_times, truncate_times
from raw_http import FRESH, client, reply, serve
from repository import ROOT

from hfmem.errors import FormatError, HfmemError, NetworkError
from hfmem.hub import FetchOptions, load_model
from hfmem.hub.http import MAX_DISCARD, Deadline


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_trouble_that_passes_is_waited_out(hub: HubServer, model: str, status: int) -> None:
    hub.faults.append(fail_times(2, status, on=r"config\.json"))
    hub.faults.append(fail_times(2, status, on=r"model-1-of-3"))
    facts = load_model(model, options=FRESH)
    assert facts.checkpoint is not None and facts.checkpoint.num_tensors == 3
    assert sum(entry.status == status for entry in hub.requests()) == 4


def test_trouble_that_stays_is_an_error(hub: HubServer, model: str) -> None:
    hub.faults.append(fail_times(99, 503, on=r"model-1-of-3"))
    with pytest.raises(NetworkError, match=r"answered 503 Service Unavailable \(5 tries\)"):
        load_model(model, options=FRESH)


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "1"},
        {"RateLimit": '"api";r=0;t=0'},
        {"Retry-After": "date"},
    ],
)
def test_the_server_says_how_long_to_wait(hub: HubServer, model: str, headers: dict[str, str]) -> None:
    if headers.get("Retry-After") == "date":
        headers = {"Retry-After": formatdate(time.time() + 2, usegmt=True)}
    hub.faults.append(fail_times(1, 429, on=r"config\.json", headers=headers))
    started = time.monotonic()
    load_model(model, options=FRESH)
    assert 0.9 <= time.monotonic() - started < 10


def test_a_wait_past_the_deadline_is_not_begun(hub: HubServer, model: str) -> None:
    hub.faults.append(fail_times(1, 429, headers={"Retry-After": "3600"}, on=r"config\.json"))
    started = time.monotonic()
    with pytest.raises(NetworkError, match="429 Too Many Requests; waiting 3600 s would pass the deadline of 5 s"):
        load_model(model, options=FetchOptions(no_cache=True, deadline=5))
    assert time.monotonic() - started < 4


def test_stalls_are_cut_off_and_tried_again(hub: HubServer, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    hub.faults.append(stall_times(1, 20, on=r"model-2-of-3"))
    started = time.monotonic()
    load_model(model, options=FRESH)
    assert 0.9 < time.monotonic() - started < 10


def test_the_deadline_ends_everything(hub: HubServer, model: str) -> None:
    hub.faults.append(stall_times(99, 20, on=r"model-2-of-3"))
    started = time.monotonic()
    with pytest.raises(NetworkError, match=r"deadline of 0\.5 s"):
        load_model(model, options=FetchOptions(no_cache=True, deadline=0.5))
    assert time.monotonic() - started < 8


def test_a_body_that_trickles_meets_the_deadline() -> None:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b" ")
            time.sleep(0.1)

    with serve(respond) as url:
        started = time.monotonic()
        with pytest.raises(NetworkError, match="deadline"):
            client(url, deadline=Deadline(0.6)).get(url + "/x", max_bytes=5000)
        assert time.monotonic() - started < 20  # the whole body would take 100


def test_bodies_that_end_early_are_read_again(hub: HubServer, model: str) -> None:
    hub.faults.append(truncate_times(1, 5, on=r"config\.json"))
    hub.faults.append(truncate_times(2, 50, on=r"model-2-of-3.*sig"))
    facts = load_model(model, options=FRESH)
    assert facts.checkpoint is not None and facts.checkpoint.num_tensors == 3
    hub.faults.append(truncate_times(99, 5, on=r"config\.json"))
    with pytest.raises(NetworkError, match="ended early"):
        load_model(model, options=FRESH)


def test_connections_that_the_server_closed_while_idle() -> None:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        reply(handler, 200, b"ok")
        handler.close_connection = True  # without saying so

    with serve(respond) as url:
        http = client(url)
        for _ in range(5):
            assert http.get(url + "/x", max_bytes=10).body == b"ok"
            time.sleep(0.02)


def test_redirects() -> None:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        seen.append((handler.path, handler.headers.get("authorization")))
        match handler.path:
            case "/loop":
                reply(handler, 302, location="/loop")
            case "/out":
                reply(handler, 302, location=f"http://localhost:{other}/back")
            case "/back":
                reply(handler, 302, location=f"{home}/end")
            case "/relative/a":
                reply(handler, 307, location="../end?x=1")
            case "/file":
                reply(handler, 302, location="file:///etc/passwd")
            case "/bad":
                reply(handler, 302, location="http://[::")
            case _:
                reply(handler, 200, b"end")

    seen: list[tuple[str, str | None]] = []
    with serve(respond) as home, serve(respond) as second:
        other = second.rpartition(":")[2]
        http = client(home, token="hf_secret")
        assert http.get(home + "/relative/a", max_bytes=10).url == home + "/end?x=1"
        assert seen == [("/relative/a", "Bearer hf_secret"), ("/end?x=1", "Bearer hf_secret")]
        seen.clear()
        assert http.get(home + "/out", max_bytes=10).body == b"end"
        # neither the other host nor, on the way back, the first one gets it
        assert seen == [("/out", "Bearer hf_secret"), ("/back", None), ("/end", None)]
        seen.clear()
        assert http.get(second + "/end", max_bytes=10).body == b"end"
        assert seen == [("/end", None)]
        with pytest.raises(NetworkError, match="more than 10 redirects"):
            http.get(home + "/loop", max_bytes=10)
        for path in ("/file", "/bad"):
            with pytest.raises(NetworkError, match="not a web address"):
                http.get(home + path, max_bytes=10)


@pytest.mark.parametrize(
    ("content_range", "body"),
    [
        (None, b"x" * 10),
        ("bytes 1-10/100", b"x" * 10),
        ("bytes 0-8/100", b"x" * 9),
        ("bytes 0-9", b"x" * 9),
        ("items 0-9/100", b"x" * 10),
        ("bytes a-b/c", b"x" * 10),
        ("bytes 0-19/100", b"x" * 20),
    ],
)
def test_ranges_that_are_not_the_ones_asked_for(content_range: str | None, body: bytes) -> None:
    headers = {} if content_range is None else {"content_range": content_range}
    with serve(lambda handler: reply(handler, 206, body, **headers)) as url, pytest.raises(NetworkError):
        client(url).get(url + "/x", max_bytes=10, byte_range=(0, 10), retries=0)


def test_ranges() -> None:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/star":
            reply(handler, 206, b"0123456789", content_range="bytes 0-9/*")
        elif handler.path == "/short":
            reply(handler, 206, b"abc", content_range="bytes 0-2/3")
        elif handler.path == "/whole":
            reply(handler, 200, bytes(range(100)))
        elif handler.path == "/packed":
            reply(handler, 206, gzip.compress(b"0123456789"), content_range="bytes 0-9/10", content_encoding="gzip")
        elif handler.path == "/multi":
            reply(handler, 206, b"--x", content_type="multipart/byteranges; boundary=x")
        else:
            reply(handler, 416, b"", content_range="bytes */0")

    with serve(respond) as url:
        http = client(url)

        def get(path: str, first: int = 0, end: int = 10) -> tuple[bytes, int | None]:
            response = http.get(url + path, max_bytes=end, byte_range=(first, end))
            return response.body, response.total_size

        assert get("/star") == (b"0123456789", None)
        assert get("/short") == (b"abc", 3)
        assert get("/whole") == (bytes(range(10)), 100)
        assert get("/whole", 95, 120) == (bytes(range(95, 100)), 100)
        assert http.get(url + "/empty", max_bytes=10, byte_range=(0, 10)).total_size == 0
        for path in ("/packed", "/multi"):
            with pytest.raises(NetworkError):
                get(path)
        with pytest.raises(NetworkError, match="ignores byte ranges"):
            get("/whole", MAX_DISCARD + 1, MAX_DISCARD + 2)


def test_bodies_have_a_limit() -> None:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/bomb":
            reply(handler, 200, bomb, content_encoding="gzip")
        elif handler.path == "/chunked":
            handler.send_response(200)
            handler.send_header("transfer-encoding", "chunked")
            handler.end_headers()
            for _ in range(40):
                handler.wfile.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
            handler.wfile.write(b"0\r\n\r\n")
        elif handler.path == "/cut":
            reply(handler, 200, gzip.compress(os.urandom(500))[:300], content_encoding="gzip")
        elif handler.path == "/br":
            reply(handler, 200, b"x", content_encoding="br")
        elif handler.path == "/announced":
            reply(handler, 200, b"", content_length=str(1 << 40))
        else:
            reply(handler, 200, b"x" * 1001)

    bomb = gzip.compress(b"\0" * (64 << 20))
    with serve(respond) as url:
        http = client(url)
        for path in ("/bomb", "/chunked", "/announced", "/plain"):
            with pytest.raises(FormatError, match="bytes"):
                http.get(url + path, max_bytes=1000 if path == "/plain" else 30_000 if path == "/chunked" else 1 << 20)
        assert len(http.get(url + "/chunked", max_bytes=1 << 20).body) == 40 * 1024
        assert len(http.get(url + "/plain", max_bytes=1001).body) == 1001
        with pytest.raises(NetworkError, match="ends early"):
            http.get(url + "/cut", max_bytes=1000, retries=1)
        with pytest.raises(NetworkError, match="not asked for"):
            http.get(url + "/br", max_bytes=1000)


@pytest.mark.parametrize(
    "garbage", [b"", b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500, b"\x16\x03\x01" * 9]
)
def test_servers_that_do_not_speak_http(garbage: bytes) -> None:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1000)
            self.request.sendall(garbage)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with pytest.raises(NetworkError):
            client(url).get(url + "/x", max_bytes=1000, retries=0)
        server.shutdown()


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setattr("hfmem.hub.http.BACKOFF", 0.005)
    with pytest.raises(NetworkError, match=r"127\.0\.0\.1:\d+ cannot be reached: Connection refused \(3 tries\)"):
        load_model("org/unheard-of", options=FRESH)


def test_ctrl_c_stops_at_once(hub: HubServer, model: str, facts_dir: Path) -> None:
    hub.faults.append(stall_times(99, 60, on=r"model-\d-of-3"))
    # a job that a shell put into the background ignores SIGINT, and so would its children
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{listen}; from hfmem.hub import load_model; print('go', flush=True); load_model({model!r})"
    root = str(ROOT)
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "go\n"
            while not [entry for entry in hub.requests() if "/index" in entry.path or ".index.json" in entry.path]:
                time.sleep(0.02)
            time.sleep(0.3)
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert time.monotonic() - started < 8
    assert "KeyboardInterrupt" in errors
    assert not list(facts_dir.rglob("*.json.z*"))


def test_threads_end_with_the_fetch(hub: HubServer, model: str) -> None:
    hub.faults.append(stall_times(1, 1.5, on=r"model-1-of-3"))
    hub.faults.append(fail_times(9, 404, on=r"model-2-of-3"))
    before = {thread for thread in threading.enumerate() if "process_request" not in thread.name}
    with pytest.raises(HfmemError):
        load_model(model, options=FRESH)
    for _ in range(100):
        left = [t for t in threading.enumerate() if t not in before and "process_request" not in t.name]
        if not left:
            break
        time.sleep(0.02)
    assert left == []


def test_one_failure_ends_the_others(hub: HubServer) -> None:
    parts = {f"m-{i:03d}.safetensors": [(f"w.{i}", "BF16", (4,))] for i in range(300)}
    hub.add("org/big", {"config.json": {}, **sharded(parts)})
    hub.metadata_route = False
    hub.latency = 0.02
    hub.repos["org/big"].files["m-000.safetensors"] = Blob(b"", 0)
    with pytest.raises(FormatError, match="empty"):
        load_model("org/big", options=FRESH)
    assert len(hub.requests()) < 200  # of 604
