"""Parsed facts on disk, by repo and commit. Losing an entry costs a fetch; a damaged one is never believed.

Under HFMEM_CACHE, else XDG_CACHE_HOME/hfmem, else ~/.cache/hfmem:

- `facts-1/<org>--<name>/<commit>[@file].json.z`: facts as `facts_to_json` writes them, compressed with zlib
- `refs-1/<endpoint>/<org>--<name>/<revision>`: the commit that a revision was at when last asked
- `endpoints-1.json`: which endpoints lack the safetensors-metadata route, and since when
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from hfmem.errors import FormatError, SourceError
from hfmem.hub.facts import ModelFacts, facts_from_json, facts_to_json

_COMMIT = r"[0-9a-f]{40}"
_MAX_ENTRY = 64 << 20
#: seconds after which a mirror is asked for the safetensors-metadata route again
_ENDPOINT_MEMORY = 7 * 86400


def is_commit(revision: str | None) -> bool:
    """Whether `revision` is a full commit hash, which always means the same files."""
    return revision is not None and re.fullmatch(_COMMIT, revision) is not None


class FactStore:
    """The folder of stored facts. Reading never raises and writing never fails a run: both give up in silence."""

    def __init__(self, root: Path, *, read: bool = True, write: bool = True) -> None:
        self.root = root
        self._read, self._write = read, write

    def commit_of(self, endpoint: str, repo_id: str, revision: str) -> str | None:
        """The commit that `revision` was at when last asked."""
        if is_commit(revision):
            return revision
        if not self._read:
            return None
        text = _read_bytes(self._ref_path(endpoint, repo_id, revision))
        commit = text.decode("ascii", "replace").strip() if text else None
        return commit if is_commit(commit) else None

    def load(self, repo_id: str, commit: str, part: str | None = None) -> ModelFacts | None:
        """The facts of a commit; `part` is the file of a reference that names one."""
        packed = _read_bytes(self._facts_path(repo_id, commit, part)) if self._read else None
        if not packed:
            return None
        try:
            unpacker = zlib.decompressobj()
            data = json.loads(unpacker.decompress(packed, _MAX_ENTRY))
            facts = facts_from_json(data, "cache")
        except (ValueError, TypeError, KeyError, AttributeError, zlib.error, RecursionError, FormatError):
            return None
        return facts if unpacker.eof and (facts.repo_id, facts.revision) == (repo_id, commit) else None

    def save(self, facts: ModelFacts, endpoint: str, revision: str, part: str | None = None) -> None:
        """Stores facts that have a commit, and that `revision` is at it."""
        if facts.revision is None or not is_commit(facts.revision):
            return
        text = json.dumps(facts_to_json(facts), separators=(",", ":"), ensure_ascii=False)
        try:
            packed = zlib.compress(text.encode("utf-8"), 6)
        except UnicodeEncodeError:  # an unpaired surrogate in config.json
            return
        if self._put(self._facts_path(facts.repo_id, facts.revision, part), packed):
            self.save_ref(endpoint, facts.repo_id, revision, facts.revision)

    def save_ref(self, endpoint: str, repo_id: str, revision: str, commit: str) -> None:
        """Stores that `revision` is at `commit` now."""
        if not is_commit(revision) and self.commit_of(endpoint, repo_id, revision) != commit:
            self._put(self._ref_path(endpoint, repo_id, revision), commit.encode("ascii"))

    def entries(self) -> list[tuple[str, str, int]]:
        """What is stored: repo, commit (with the file of a reference that named one) and bytes on disk, by name."""
        found = []
        for path in sorted((self.root / "facts-1").glob("*/*.json.z")):
            with contextlib.suppress(OSError):  # another process may have cleared it meanwhile
                repo_id = path.parent.name.replace("--", "/", 1)
                found.append((repo_id, unquote(path.name.removesuffix(".json.z")), path.stat().st_size))
        return found

    def clear(self) -> None:
        """Removes everything stored here, and nothing else that may lie in the folder.

        Raises:
            SourceError: a file cannot be removed.
        """
        import shutil

        try:
            for name in ("facts-1", "refs-1"):
                if (self.root / name).is_dir():
                    shutil.rmtree(self.root / name)
            (self.root / "endpoints-1.json").unlink(missing_ok=True)
        except OSError as error:
            raise SourceError(f"{self.root} cannot be cleared: {error.strerror or error}") from None

    def lacks_metadata_route(self, endpoint: str) -> bool:
        """Whether this endpoint was lately seen to have no safetensors-metadata route."""
        since = self._endpoints().get(_place(endpoint))
        return isinstance(since, int | float) and 0 <= time.time() - since < _ENDPOINT_MEMORY

    def remember_no_metadata_route(self, endpoint: str) -> None:
        """Stores that this endpoint has no safetensors-metadata route."""
        known = {**self._endpoints(), _place(endpoint): int(time.time())}
        self._put(self.root / "endpoints-1.json", json.dumps(known).encode())

    def _endpoints(self) -> dict[str, Any]:
        text = _read_bytes(self.root / "endpoints-1.json") if self._read else None
        try:
            known = json.loads(text) if text else {}
        except ValueError:
            return {}
        return known if isinstance(known, dict) else {}

    def _facts_path(self, repo_id: str, commit: str, part: str | None) -> Path:
        name = commit if part is None else f"{commit}@{quote(part, safe='')}"
        return self.root / "facts-1" / repo_id.replace("/", "--") / f"{name}.json.z"

    def _ref_path(self, endpoint: str, repo_id: str, revision: str) -> Path:
        return self.root / "refs-1" / _safe(_place(endpoint)) / repo_id.replace("/", "--") / _safe(revision)

    def _put(self, path: Path, data: bytes) -> bool:
        """Writes the whole file or nothing: other processes see the old one or the new one."""
        if not self._write:
            return False
        temporary = path.with_name(f".{path.name[:60]}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "xb") as file:
                file.write(data)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            return False
        return True


def _place(endpoint: str) -> str:
    """An address without the user and password that it may hold: they are not to lie on a disk."""
    scheme, slashes, rest = endpoint.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"


def _safe(text: str) -> str:
    """A file name of its own for `text`; a dot first would be hidden, or the folder itself."""
    return "_" + quote(text, safe="")


def _read_bytes(path: Path) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_ENTRY)
    except OSError:
        return None
