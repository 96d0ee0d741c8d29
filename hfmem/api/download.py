"""What a download of a model takes: its files by use, what repeats the weights, and what each program would fetch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hfmem.checkpoint.file_groups import Fetch, FileGroup, fetches, group_files, select, total
from hfmem.hub import FetchOptions
from hfmem.hub.listing import FileList, list_files
from hfmem.records import dataclass


@dataclass(frozen=True, slots=True)
class FilesReport:
    """The files of one place, of the commit `revision`.

    `num_files` and `bytes` are of what `include` and `exclude` leave, as `groups` and `fetches` are.
    `redundant_bytes` are of the groups that repeat the weights. `bytes` are None where a size is not known.
    """

    id: str
    source: str
    revision: str | None
    num_files: int
    bytes: int | None
    redundant_bytes: int | None
    repository_bytes: int | None
    groups: tuple[FileGroup, ...]
    fetches: Mapping[str, Fetch]


def files_report(
    model: str,
    *,
    revision: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    fetch: FetchOptions | None = None,
) -> FilesReport:
    """The files that `model` (as `estimate` takes it) consists of, by one request and one for the commit.

    Args:
        include, exclude: patterns as `hf download` takes them.

    Raises:
        UsageError: the reference cannot be used. SourceError: the place cannot be read.
    """
    return described(list_files(model, revision=revision, options=fetch), include, exclude)


def described(found: FileList, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> FilesReport:
    """What there is to say of files that were listed; `include` and `exclude` as `files_report` takes them."""
    files = select(found.files, include, exclude)
    groups = group_files(files, found.components)
    programs = fetches(files)
    # of several formats of one GGUF model, all but one repeat it
    needed = set(programs["llama.cpp"].weights) if all(group.name != "safetensors" for group in groups) else set()
    repeated = [path for group in groups if group.redundant for path in group.files if path not in needed]
    return FilesReport(
        id=found.place,
        source=found.source,
        revision=found.revision,
        num_files=len(files),
        bytes=total(files, files),
        redundant_bytes=total(files, repeated),
        repository_bytes=total(found.files, found.files),
        groups=groups,
        fetches=programs,
    )
