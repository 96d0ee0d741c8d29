"""A local HTTP server that behaves like the Hub, for tests and benchmarks: two hosts, its codes and headers, faults.

Small files are answered by the first host; weight files redirect to the second one (another port and host name), as
the Hub sends readers to its storage. On the way of a request: `hub_routes` decides what the answer is, from `hub_files`, and
`hub_answers` writes it; `hub_faults` come before.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from hub_answers import Logged, Server
from hub_faults import Fault, fail_times, hold_until, stall_times, truncate_times
from hub_files import Blob, Repo, header_bytes, shard, sharded
from hub_routes import Handler

__all__ = [
    "Blob",
    "Handler",
    "HubServer",
    "fail_times",
    "header_bytes",
    "hold_until",
    "shard",
    "sharded",
    "stall_times",
    "truncate_times",
]


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
        self._servers = [Server(self, "hub", Handler), Server(self, "cdn", Handler)]
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
