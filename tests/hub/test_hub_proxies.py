"""The transport through proxies and with certificates of the test's own."""

from __future__ import annotations

import base64
import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_server import HubServer
from raw_http import FRESH, client, reply

from hfmem.errors import NetworkError
from hfmem.hub import load_model
from hfmem.hub.connection import origin_of, proxy_for


class Proxy(BaseHTTPRequestHandler):
    """Forwards plain requests and CONNECT tunnels."""

    seen: list[str]
    wanted: str | None

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.seen.append(f"GET {self.path}")
        if self.wanted and self.headers.get("proxy-authorization") != self.wanted:
            return self.send_error(407)
        host, _, rest = self.path.removeprefix("http://").partition("/")
        name, _, port = host.partition(":")
        lines = [f"GET /{rest} HTTP/1.1", f"Host: {host}", "Connection: close"]
        lines += [f"{k}: {v}" for k, v in self.headers.items() if k.lower() in ("range", "authorization")]
        with socket.create_connection((name, int(port))) as upstream:
            upstream.sendall("\r\n".join([*lines, "", ""]).encode())
            while data := upstream.recv(1 << 16):
                self.wfile.write(data)
        self.close_connection = True

    def do_CONNECT(self) -> None:
        self.seen.append(f"CONNECT {self.path}")
        if self.wanted and self.headers.get("proxy-authorization") != self.wanted:
            return self.send_error(407)
        name, _, port = self.path.partition(":")
        if name != "127.0.0.1":
            return self.send_error(502, "no way out")
        with socket.create_connection((name, int(port))) as upstream:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=self.pump, args=(upstream, self.connection), daemon=True)
            back.start()
            self.pump(self.connection, upstream)
            back.join(5)
        self.close_connection = True

    @staticmethod
    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy() -> Iterator[tuple[str, type[Proxy]]]:
    handler = type("Handler", (Proxy,), {"seen": [], "wanted": None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda request, client_address: None  # type: ignore[assignment,misc]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


def test_http_proxy(
    hub: HubServer, model: str, proxy: tuple[str, type[Proxy]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, handler = proxy
    monkeypatch.setenv("http_proxy", f"http://user:p%40ss@{address}")
    handler.wanted = "Basic " + base64.b64encode(b"user:p@ss").decode()
    facts = load_model(model, options=FRESH)
    assert facts.checkpoint is not None and facts.checkpoint.num_tensors == 3
    assert len(handler.seen) == len(hub.requests()) == 4 + 6
    assert any("localhost" in line for line in handler.seen)  # the storage host, too
    handler.seen.clear()
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    load_model(model, options=FRESH)
    assert handler.seen == []


def test_https_goes_through_a_tunnel(proxy: tuple[str, type[Proxy]], monkeypatch: pytest.MonkeyPatch) -> None:
    address, handler = proxy
    monkeypatch.setattr("hfmem.hub.http.BACKOFF", 0.005)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.com")
    monkeypatch.setenv("ALL_PROXY", f"http://{address}")
    with pytest.raises(NetworkError, match="502 no way out"):
        load_model("org/unheard-of", options=FRESH)
    assert set(handler.seen) == {"CONNECT hub.example.com:443"}


@pytest.mark.parametrize("address", ["socks5://127.0.0.1:1080", "https://u:secret@proxy:1", "http://[::"])
def test_proxies_of_other_kinds_are_refused(
    hub: HubServer, model: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", address)
    with pytest.raises(NetworkError, match="only http:// proxies") as caught:
        load_model(model, options=FRESH)
    assert "secret" not in caught.value.message


def test_certificates(tmp_path: Path, proxy: tuple[str, type[Proxy]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose certificate nothing trusts, then one that SSL_CERT_FILE names; straight and through a tunnel."""
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    try:
        subprocess.run(
            [*openssl, *names, "-keyout", "key.pem", "-out", "cert.pem"], cwd=tmp_path, check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no openssl to make a certificate with")
    import ssl

    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reply(self, 200 if self.path == "/x" else 400, b"secret")  # in a tunnel no request names the whole address

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda request, client_address: None  # type: ignore[assignment,misc]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    url = f"https://127.0.0.1:{server.server_port}"
    try:
        with pytest.raises(NetworkError, match=r"certificate of 127\.0\.0\.1:\d+ is not trusted"):
            client(url).get(url + "/x", max_bytes=10)
        for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            with monkeypatch.context() as patch:
                patch.setenv(variable, str(tmp_path / "cert.pem"))
                http = client(url)
                assert http.get(url + "/x", max_bytes=10).body == b"secret"
                http.close()
        with monkeypatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
            patch.setenv("https_proxy", f"http://{proxy[0]}")
            http = client(url)
            for _ in range(3):
                assert http.get(url + "/x", max_bytes=10).body == b"secret"
            http.close()
            assert set(proxy[1].seen) == {f"CONNECT 127.0.0.1:{server.server_port}"}
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
        with pytest.raises(NetworkError, match=r"SSL_CERT_FILE=.*: no certificates could be read"):
            client(url).get(url + "/x", max_bytes=10)
    finally:
        server.shutdown()
        server.server_close()


def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hfmem.hub.http.BACKOFF", 0.005)
    monkeypatch.setenv("http_proxy", "http://somebody:secret@127.0.0.1:9")  # the discard port: nothing listens there
    with pytest.raises(NetworkError, match=r"^hub\.example cannot be reached through the proxy 127\.0\.0\.1:9: "):
        client("http://hub.example").get("http://hub.example/x", max_bytes=10)


def test_a_machine_that_knows_no_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """certifi's certificates, else the system's by truststore, else none."""
    import ssl

    from hfmem.hub.connection import _tls_context

    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)

    class Bare(ssl.SSLContext):
        loaded: Any = None

        def get_ca_certs(self, binary_form: bool = False) -> Any:
            return []

        def load_verify_locations(self, cafile: Any = None, capath: Any = None, cadata: Any = None) -> None:
            self.loaded = cafile

    bare = Bare(ssl.PROTOCOL_TLS_CLIENT)
    paths = ssl.get_default_verify_paths()._replace(capath=str(tmp_path))  # a folder without certificates
    monkeypatch.setattr(ssl, "create_default_context", lambda **_: bare)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    system = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    monkeypatch.setitem(sys.modules, "certifi", None)
    monkeypatch.setitem(sys.modules, "truststore", SimpleNamespace(SSLContext=lambda _: system))
    assert _tls_context() is system
    monkeypatch.setitem(sys.modules, "truststore", None)
    assert _tls_context() is bare and bare.loaded is None
    monkeypatch.setitem(sys.modules, "certifi", SimpleNamespace(where=lambda: "bundle.pem"))
    assert _tls_context() is bare and bare.loaded == "bundle.pem"
    bare.loaded = None
    (tmp_path / "some.0").write_text("")
    assert _tls_context() is bare and bare.loaded is None  # the folder's are looked up by name when they are needed


def test_the_proxy_of_another_scheme_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ftp_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:10")
    assert proxy_for(origin_of("https://hub.example")) is None
    found = proxy_for(origin_of("http://hub.example"))
    assert found is not None and found.port == 10
