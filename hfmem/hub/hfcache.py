"""Models that huggingface_hub has already downloaded: `<cache>/models--org--name/{refs,snapshots,blobs}`."""

from __future__ import annotations

from pathlib import Path

from hfmem.errors import HfmemError
from hfmem.hub.facts import ModelFacts
from hfmem.hub.store import is_commit


def cached_commit(cache: Path, repo_id: str, revision: str) -> str | None:
    """The commit that the cache holds for a revision."""
    folder = _folder(cache, repo_id)
    commit: str | None = revision
    if not is_commit(revision):
        try:
            commit = (folder / "refs" / revision).read_text("ascii").strip()
        except (OSError, ValueError):
            return None
    try:
        return commit if is_commit(commit) and (folder / "snapshots" / str(commit)).is_dir() else None
    except OSError:
        return None


def snapshot_facts(cache: Path, repo_id: str, commit: str) -> ModelFacts | None:
    """The facts of a downloaded commit, None unless its config and all of its weight files' headers are there."""
    from hfmem.hub.local import folder_facts  # the parsers cost milliseconds that a start without a download saves

    folder = _folder(cache, repo_id) / "snapshots" / commit
    try:
        if not (folder / "config.json").is_file():
            return None
        facts = folder_facts(folder, repo_id, repo_id=repo_id, revision=commit, source="cache")
    except (HfmemError, OSError):
        return None  # partly downloaded, or damaged: as good as not there
    return facts if facts.checkpoint is not None else None


def snapshot_gguf(cache: Path, repo_id: str, commit: str, file: str | None, variant: str | None) -> ModelFacts | None:
    """The facts of a downloaded GGUF model, None unless all of its parts are there."""
    from hfmem.hub.facts import gguf_facts
    from hfmem.hub.gguf import load_file, load_place
    from hfmem.hub.local import LocalFiles

    files = LocalFiles(_folder(cache, repo_id) / "snapshots" / commit, repo_id)
    try:
        found = load_place(files, repo_id, variant) if file is None else load_file(files, file)
    except (HfmemError, OSError):
        return None
    return gguf_facts(found, repo_id, commit, "cache")


def _folder(cache: Path, repo_id: str) -> Path:
    return cache / ("models--" + repo_id.replace("/", "--"))
