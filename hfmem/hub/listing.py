"""The files of a repository or a folder with their sizes, by one request; one more, at the same time, tells the commit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from hfmem.errors import MissingFileError, ModelNotFoundError, OfflineError, SourceError
from hfmem.hub.facts import FetchStats
from hfmem.hub.files import MAX_CONFIG_BYTES, parse_object
from hfmem.hub.options import FetchOptions
from hfmem.hub.reference import HubRef, LocalPath, parse_reference, with_revision
from hfmem.hub.settings import read_settings
from hfmem.hub.store import is_commit
from hfmem.records import dataclass

if TYPE_CHECKING:
    from hfmem.hub.remote import RemoteFiles

_PIPELINE = "model_index.json"
_ANY = "config.json"


@dataclass(frozen=True, slots=True)
class FileList:
    """`revision` is the commit, None where none is known. `files` maps each path to its size, None where it is not known;
    `components` are a diffusers pipeline's folders."""

    place: str
    source: str
    revision: str | None
    files: dict[str, int | None]
    components: tuple[str, ...] = ()
    stats: FetchStats = FetchStats()


def list_files(ref_text: str, *, revision: str | None = None, options: FetchOptions | None = None) -> FileList:
    """The files of the place that `ref_text` names.

    Raises:
        UsageError: the text or the revision cannot be used. SourceError: the place cannot be read.
    """
    options = options or FetchOptions()
    settings = read_settings()
    ref = with_revision(parse_reference(ref_text, endpoint=settings.endpoint, exists=os.path.exists), revision)
    match ref:
        case LocalPath():
            return _local(ref.path)
        case HubRef():
            if settings.offline or options.offline:
                raise OfflineError(f"offline mode: the list of {ref.repo_id}'s files is on the Hub")
            return _remote(ref, options)
        case _:
            assert_never(ref)


def _local(path_text: str) -> FileList:
    from hfmem.hub.local import LocalFiles

    path = Path(os.path.expanduser(path_text))
    if not path.exists():
        raise ModelNotFoundError(f"{path_text}: no such folder or file")
    if path.is_file():
        return FileList(path_text, "local", None, {path.name: path.stat().st_size})
    files = LocalFiles(path, path_text)
    tree = files.tree()
    data = files.read(_PIPELINE, MAX_CONFIG_BYTES) if _PIPELINE in tree else None
    return FileList(path_text, "local", None, tree, _components(data, path_text))


def _remote(ref: HubRef, options: FetchOptions) -> FileList:
    from hfmem.hub.source import open_client

    client = open_client(options, quick=False)
    try:
        from hfmem.hub.remote import RemoteFiles
        from hfmem.hub.workers import Task

        settings = read_settings()
        repo = RemoteFiles(client, settings.endpoint, ref.repo_id, ref.revision or "main")
        asked = Task(client, lambda: _commit(repo, settings.etag_timeout))
        tree = repo.tree()
        if not tree:
            raise MissingFileError(f"{ref.repo_id} has no files")
        folders = {name.partition("/")[0] for name in tree if "/" in name}
        data = repo.read(_PIPELINE, MAX_CONFIG_BYTES) if _PIPELINE in tree and folders else None
        commit = asked.result()
    finally:
        client.close()
    return FileList(ref.repo_id, "hub", commit, tree, _components(data, ref.repo_id), client.stats())


def _commit(repo: RemoteFiles, timeout: float) -> str | None:
    """The commit of the repo's revision: answers for a file name it, also where there is no such file; those for lists do not."""
    if is_commit(repo.revision):
        return repo.revision
    try:
        response = repo.client.get(repo.url(_ANY), max_bytes=1, byte_range=(0, 1), timeout=timeout, retries=0)
    except SourceError:
        return None
    commit = response.header("x-repo-commit")
    return commit if is_commit(commit) else None


def _components(data: bytes | None, label: str) -> tuple[str, ...]:
    """Folders of a diffusers pipeline: the keys of its index that name a class."""
    if data is None:
        return ()
    index = parse_object(data, f"{label}: {_PIPELINE}")
    return tuple(key for key, value in index.items() if isinstance(value, list) and not key.startswith("_"))
