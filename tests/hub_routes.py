"""What the local Hub answers: its routes, its codes and headers, and the storage host beside it."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_answers import Answers
from hub_files import Blob, Repo


class Handler(Answers):
    """One connection to one of the two hosts."""

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
            return self.blob(blob, {}) if blob else self.answer(404, b"", {})
        if match := re.fullmatch(r"/api/resolve-cache/models/(.+?)/([0-9a-f]{40})/(.+)", path):
            opened = self._open(match[1], match[2])
            return None if opened is None else self.blob(opened[0].files[match[3]], self._about(*opened))
        if match := re.fullmatch(r"/api/models/(.+)/safetensors-metadata/(.+)", path):
            return self._metadata(match[1], match[2])
        if match := re.fullmatch(r"/api/models/(.+)/tree/(.+)", path):
            return self._tree(match[1], match[2])
        if match := re.fullmatch(r"/api/models/(.+)/revision/([^/]+)", path):
            return self._info(match[1], match[2])
        if path.removeprefix("/api/") in hub.other_types:
            return self.small(b"{}")
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
            self.error(401, None, "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and token not in hub.tokens):
            self.error(404 if token else 401, "RepoNotFound", "Repository not found")
        elif repo.disabled:
            self.error(403, None, "Access to this resource is disabled.")
        elif repo.gated and token not in hub.tokens:
            self.error(403 if token else 401, "GatedRepo", f"Access to model {repo_id} is restricted.")
        elif revision in ("main", repo.commit):
            return repo, repo.commit
        elif revision in repo.branches:
            return repo, repo.branches[revision]
        elif revision in repo.branches.values():
            return repo, revision
        else:
            self.error(404, "RevisionNotFound", "Invalid rev id")
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
            return self.error(404, "EntryNotFound", "Entry not found", about)
        etag = '"' + hashlib.sha1(blob.front + str(blob.size).encode()).hexdigest() + '"'
        if name.endswith((".safetensors", ".bin", ".gguf")) or blob.size > 10 << 20:
            about |= {"X-Linked-Size": str(blob.size), "X-Linked-Etag": etag}
            return self.answer(302, b"", about | {"Location": f"{hub.cdn_url}/repos/{repo_id}//{name}?sig=abc"})
        if hub.resolve_cache:
            location = f"/api/resolve-cache/models/{repo_id}/{commit}/{name}?etag=1"
            return self.answer(307, b"Temporary Redirect", about | {"Location": location})
        self.blob(blob, about | {"ETag": etag})

    def _metadata(self, repo_id: str, index_name: str) -> None:
        if not self.server.hub.metadata_route:
            return self.answer(404, b"<html>Sorry", {"Content-Type": "text/html"})
        opened = self._open(repo_id, "main")
        if opened is None:
            return
        files, known = opened[0].files, opened[0].metadata
        if index_name not in files:
            return self.error(404, "EntryNotFound", "Entry not found")
        if index_name not in known:
            known[index_name] = self._all_headers(files, index_name)
        self.small(known[index_name])

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
        self.small(json.dumps({"id": repo_id, "sha": commit, "siblings": files}).encode())

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
        self.small(json.dumps(entries[page : page + 1000]).encode(), link if rest else {})
