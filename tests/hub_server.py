"""A local HTTP server that behaves like the Hub, for tests and benchmarks: two hosts, its codes and headers, faults.

Small files are answered by the first host; weight files redirect to the second one (another port and host name), as
the Hub sends readers to its storage. Weights are never held in memory: a file is its first bytes and a size, and what
lies beyond reads as zeros.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

BITS = {"F64": 64, "F32": 32, "BF16": 16, "F16": 16, "F8_E4M3": 8, "I8": 8, "U8": 8, "I32": 32, "I64": 64}


@dataclass(frozen=True)
class Blob:
    """A file: its first bytes and its size."""

    front: bytes
    size: int

    def read(self, first: int, end: int) -> bytes:
        part = self.front[first:end]
        return part + b"\0" * (min(end, self.size) - first - len(part))


@dataclass
class Repo:
    """A repository: its files, and who may see it. `branches` maps further revisions to commits (same files)."""

    files: dict[str, Blob]
    commit: str = ""
    gated: bool = False
    private: bool = False
    disabled: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    #: answers of the safetensors-metadata route, by index: made once, so that what is measured is the client
    metadata: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.commit:
            names = repr(sorted((name, blob.front, blob.size) for name, blob in self.files.items()))
            self.commit = hashlib.sha1(names.encode()).hexdigest()


@dataclass
class Logged:
    """One request that arrived. `sent` is the number of body bytes that the answer had."""

    host: str
    method: str
    path: str
    headers: Mapping[str, str]
    status: int
    sent: int


Fault = Callable[["_Handler"], bool]


class HubServer:
    """The two hosts. Attributes may be changed while it runs; `log` holds every request."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.tokens = {"hf_good"}
        self.metadata_route = True
        self.tree_route = True
        self.error_codes = True
        self.other_types: set[str] = set()  # paths below /api/ that answer, such as "datasets/org/d"
        self.commit_header = True
        self.ranges = True
        self.resolve_cache = False
        self.gzip = False
        self.chunked = False  # API answers in chunks
        self.renamed: dict[str, str] = {}  # repo → what it is called now
        self.latency = 0.0
        self.faults: list[Fault] = []
        self.log: list[Logged] = []
        self.lock = threading.Lock()
        self.connections = {"hub": 0, "cdn": 0}
        self._servers = [_Server(("127.0.0.1", 0), self, "hub"), _Server(("127.0.0.1", 0), self, "cdn")]
        self.url = f"http://127.0.0.1:{self._servers[0].server_port}"
        self.cdn_url = f"http://localhost:{self._servers[1].server_port}"
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def __enter__(self) -> HubServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, repo_id: str, files: Mapping[str, bytes | Blob | Any], **settings: Any) -> Repo:
        """A repo of `files`: bytes, `Blob`s, or anything else as JSON."""
        blobs: dict[str, Blob] = {}
        for name, content in files.items():
            if not isinstance(content, Blob):
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                content = Blob(data, len(data))
            blobs[name] = content
        self.repos[repo_id] = Repo(blobs, **settings)
        return self.repos[repo_id]

    def requests(self, host: str | None = None) -> list[Logged]:
        with self.lock:
            return [entry for entry in self.log if host in (None, entry.host)]

    def clear(self) -> None:
        """Forgets the requests so far, also one that a fetch did not wait for and that is still on its way."""
        seen = -1
        while seen != len(self.log):
            seen = len(self.log)
            time.sleep(0.03)
        with self.lock:
            self.log.clear()


def fail_times(times: int, status: int, *, on: str = "", headers: Mapping[str, str] | None = None) -> Fault:
    """Answers the first `times` requests whose path matches the pattern `on` with `status`."""
    left = [times]

    def fault(handler: _Handler) -> bool:
        if left[0] <= 0 or not re.search(on, handler.path):
            return False
        left[0] -= 1
        handler.answer(status, b"", dict(headers or {}))
        return True

    return fault


def truncate_times(times: int, keep: int, *, on: str) -> Fault:
    """Announces the whole body, sends `keep` bytes of it, and hangs up."""
    left = [times]

    def fault(handler: _Handler) -> bool:
        if left[0] > 0 and re.search(on, handler.path):
            left[0] -= 1
            handler.keep = keep
        return False

    return fault


def stall_times(times: int, seconds: float, *, on: str) -> Fault:
    """Waits before it answers."""
    left = [times]

    def fault(handler: _Handler) -> bool:
        if left[0] > 0 and re.search(on, handler.path):
            left[0] -= 1
            time.sleep(seconds)
        return False

    return fault


def header_bytes(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], *, pad_to: int | None = None
) -> tuple[bytes, int]:
    """A safetensors file's front (length and JSON) and the file's size. `pad_to` makes the JSON exactly that long."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dtype, shape in tensors:
        size = BITS[dtype] // 8
        for extent in shape:
            size *= extent
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    length = pad_to if pad_to is not None else -(-len(text) // 8) * 8
    assert length >= len(text), (length, len(text))
    return length.to_bytes(8, "little") + text.ljust(length), 8 + length + at


def shard(tensors: Iterable[tuple[str, str, tuple[int, ...]]], *, pad_to: int | None = None) -> Blob:
    """A safetensors file whose data is zeros that no one stores."""
    return Blob(*header_bytes(tensors, pad_to=pad_to))


def sharded(shards: Mapping[str, list[tuple[str, str, tuple[int, ...]]]]) -> dict[str, Any]:
    """The index and the shards of a sharded model."""
    files: dict[str, Any] = {name: shard(tensors) for name, tensors in shards.items()}
    total = sum(blob.size - len(blob.front) for blob in files.values())
    weight_map = {tensor[0]: name for name, tensors in shards.items() for tensor in tensors}
    return {"model.safetensors.index.json": {"metadata": {"total_size": total}, "weight_map": weight_map}, **files}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], hub: HubServer, role: str) -> None:
        super().__init__(address, _Handler)
        self.hub, self.role = hub, role

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hangs up early is what some tests are about


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server
    keep: int | None = None

    def setup(self) -> None:
        super().setup()
        with self.server.hub.lock:
            self.server.hub.connections[self.server.role] += 1

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def _handle(self) -> None:
        hub = self.server.hub
        self.keep = None
        if hub.latency:
            time.sleep(hub.latency)
        if any(fault(self) for fault in list(hub.faults)):
            return
        path = unquote(urlsplit(self.path).path)
        for before, after in hub.renamed.items():
            if path.startswith((f"/{before}/", f"/api/models/{before}/")):
                return self.answer(307, b"", {"Location": self.path.replace(before, after, 1)})
        if self.server.role == "cdn":
            if "authorization" in self.headers:  # a signed address allows no second signature
                return self.answer(400, b"<Error><Code>InvalidArgument</Code></Error>", {})
            repo_id, _, name = path.removeprefix("/repos/").partition("//")
            blob = hub.repos[repo_id].files.get(name)
            return self._blob(blob, {}) if blob else self.answer(404, b"", {})
        if match := re.fullmatch(r"/api/resolve-cache/models/(.+?)/([0-9a-f]{40})/(.+)", path):
            opened = self._open(match[1], match[2])
            return None if opened is None else self._blob(opened[0].files[match[3]], self._about(*opened))
        if match := re.fullmatch(r"/api/models/(.+)/safetensors-metadata/(.+)", path):
            return self._metadata(match[1], match[2])
        if match := re.fullmatch(r"/api/models/(.+)/tree/(.+)", path):
            return self._tree(match[1], match[2])
        if match := re.fullmatch(r"/api/models/(.+)/revision/([^/]+)", path):
            return self._info(match[1], match[2])
        if path.removeprefix("/api/") in hub.other_types:
            return self._small(b"{}")
        # the revision is one percent-encoded segment
        if match := re.fullmatch(r"/([^?]+?)/resolve/([^/?]+)/([^?]+)", self.path.partition("?")[0]):
            return self._resolve(unquote(match[1]), unquote(match[2]), unquote(match[3]))
        self.answer(404, b"<html>Sorry, we can't find the page", {"Content-Type": "text/html"})

    def _open(self, repo_id: str, revision: str) -> tuple[Repo, str] | None:
        """The repo and the commit, or None when an error was answered."""
        hub = self.server.hub
        repo = hub.repos.get(repo_id)
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        if token and token not in hub.tokens and token != "hf_stranger":
            self._error(401, None, "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and token not in hub.tokens):
            self._error(404 if token else 401, "RepoNotFound", "Repository not found")
        elif repo.disabled:
            self._error(403, None, "Access to this resource is disabled.")
        elif repo.gated and token not in hub.tokens:
            self._error(403 if token else 401, "GatedRepo", f"Access to model {repo_id} is restricted.")
        elif revision in ("main", repo.commit):
            return repo, repo.commit
        elif revision in repo.branches:
            return repo, repo.branches[revision]
        elif revision in repo.branches.values():
            return repo, revision
        else:
            self._error(404, "RevisionNotFound", "Invalid rev id")
        return None

    def _about(self, repo: Repo, commit: str) -> dict[str, str]:
        return {"X-Repo-Commit": commit} if self.server.hub.commit_header else {}

    def _resolve(self, repo_id: str, revision: str, name: str) -> None:
        hub = self.server.hub
        opened = self._open(repo_id, revision)
        if opened is None:
            return
        repo, commit = opened
        blob = repo.files.get(name)
        about = self._about(repo, commit)
        if blob is None:
            return self._error(404, "EntryNotFound", "Entry not found", about)
        etag = '"' + hashlib.sha1(blob.front + str(blob.size).encode()).hexdigest() + '"'
        if name.endswith((".safetensors", ".bin", ".gguf")) or blob.size > 10 << 20:
            about |= {"X-Linked-Size": str(blob.size), "X-Linked-Etag": etag}
            return self.answer(302, b"", about | {"Location": f"{hub.cdn_url}/repos/{repo_id}//{name}?sig=abc"})
        if hub.resolve_cache:
            location = f"/api/resolve-cache/models/{repo_id}/{commit}/{name}?etag=1"
            return self.answer(307, b"Temporary Redirect", about | {"Location": location})
        self._blob(blob, about | {"ETag": etag})

    def _metadata(self, repo_id: str, index_name: str) -> None:
        if not self.server.hub.metadata_route:
            return self.answer(404, b"<html>Sorry", {"Content-Type": "text/html"})
        opened = self._open(repo_id, "main")
        if opened is None:
            return
        files, known = opened[0].files, opened[0].metadata
        if index_name not in files:
            return self._error(404, "EntryNotFound", "Entry not found")
        if index_name not in known:
            known[index_name] = self._all_headers(files, index_name)
        self._small(known[index_name])

    def _all_headers(self, files: Mapping[str, Blob], index_name: str) -> bytes:
        index = json.loads(files[index_name].front)
        headers: dict[str, Any] = {}
        for name in sorted(set(index["weight_map"].values())):
            front = files[name].front
            headers[name] = json.loads(front[8 : 8 + int.from_bytes(front[:8], "little")])
        body = {"index": {"metadata": index.get("metadata", {})}, "headers": headers}
        return json.dumps(body, separators=(",", ":")).encode()

    def _info(self, repo_id: str, revision: str) -> None:
        """What `/api/models/…?blobs=true` says: commit and files with sizes."""
        opened = self._open(repo_id, revision)
        if opened is None:
            return
        repo, commit = opened
        files = [{"rfilename": name, "size": blob.size} for name, blob in sorted(repo.files.items())]
        self._small(json.dumps({"id": repo_id, "sha": commit, "siblings": files}).encode())

    def _tree(self, repo_id: str, revision: str) -> None:
        if not self.server.hub.tree_route:
            return self.answer(404, b"<html>Sorry", {"Content-Type": "text/html"})
        opened = self._open(repo_id, revision)
        if opened is None:
            return
        entries: list[dict[str, Any]] = []
        query = parse_qs(urlsplit(self.path).query)
        recursive = query.get("recursive") == ["true"]
        files = opened[0].files
        folders = {name[:at] for name in files for at in range(len(name)) if name[at] == "/"}
        entries += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in sorted(folders)]
        for name, blob in sorted(files.items()):
            entries.append({"type": "file", "oid": "0" * 40, "size": blob.size, "path": name})
        entries = [entry for entry in entries if recursive or "/" not in entry["path"]]
        page = int(query.get("cursor", ["0"])[0])
        rest = entries[page + 1000 :]
        query_text = f"recursive={str(recursive).lower()}&cursor={page + 1000}"
        link = {"Link": f'<{self.server.hub.url}/api/models/{repo_id}/tree/{revision}?{query_text}>; rel="next"'}
        self._small(json.dumps(entries[page : page + 1000]).encode(), link if rest else {})

    def _small(self, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        extra = {"Content-Type": "application/json", **(headers or {})}
        if self.server.hub.gzip and "gzip" in (self.headers.get("accept-encoding") or ""):
            return self.answer(200, gzip.compress(body, 1), extra | {"Content-Encoding": "gzip"})
        self.answer(200, body, extra)

    def _blob(self, blob: Blob, headers: dict[str, str]) -> None:
        wanted = self.headers.get("range")
        if wanted is None or not self.server.hub.ranges:
            return self._stream(200, blob, 0, blob.size, headers)
        first_text, _, last_text = wanted.removeprefix("bytes=").partition("-")
        first, end = int(first_text), min(int(last_text) + 1, blob.size)
        if first >= blob.size:
            return self.answer(416, b"", headers | {"Content-Range": f"bytes */{blob.size}"})
        span = {"Content-Range": f"bytes {first}-{end - 1}/{blob.size}"}
        self._stream(206, blob, first, end, headers | span)

    def _stream(self, status: int, blob: Blob, first: int, end: int, headers: Mapping[str, str]) -> None:
        """Sends bytes as they are made: a client that ignores a whole-file answer's end sees how many it was sent."""
        self.send_response(status)
        for name, value in {"Accept-Ranges": "bytes", "Content-Length": str(end - first), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        entry = self._log(status, 0)
        sent = 0
        stop = end if self.keep is None else min(end, first + self.keep)
        try:
            while self.command == "GET" and first + sent < stop:
                part = blob.read(first + sent, min(stop, first + sent + (1 << 16)))
                sent += len(part)
                entry.sent = sent  # before the client can have it and look
                self.wfile.write(part)
                self.wfile.flush()
        except OSError:
            self.close_connection = True
        if self.keep is not None:
            self.close_connection = True

    def _error(self, status: int, code: str | None, text: str, headers: Mapping[str, str] | None = None) -> None:
        about = {"X-Error-Code": code, "X-Error-Message": text} if self.server.hub.error_codes else {}
        self.answer(status, text.encode(), {**(headers or {}), **{k: v for k, v in about.items() if v}})

    def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self._log(status, len(body))
        self.send_response(status)
        chunked = self.server.hub.chunked and self.keep is None
        length = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body))}
        # the Hub tells on every answer what is left
        for name, value in {**length, "RateLimit": '"api";r=499;t=300', **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET" and chunked:
            for start in range(0, len(body), 1000):
                part = body[start : start + 1000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
        elif self.command == "GET":
            self.wfile.write(body if self.keep is None else body[: self.keep])
        if self.keep is not None:
            self.close_connection = True

    def _log(self, status: int, sent: int) -> Logged:
        headers = {name.lower(): value for name, value in self.headers.items()}
        entry = Logged(self.server.role, self.command, self.path, headers, status, sent)
        with self.server.hub.lock:
            self.server.hub.log.append(entry)
        return entry
