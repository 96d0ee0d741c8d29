"""Models on this machine: a folder, one safetensors file, or an index. Only header bytes are read, never the weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hfmem.checkpoint.canonical import Known
from hfmem.checkpoint.pointer import MAX_POINTER_BYTES, pointer_size, refuse_pointer
from hfmem.checkpoint.safetensors import PREFIX_BYTES, Header, header_length, parse_header
from hfmem.errors import FormatError, MissingFileError, ModelNotFoundError, SourceError, UsageError
from hfmem.hub.facts import ModelFacts, Source, gguf_facts
from hfmem.hub.files import MAX_CONFIG_BYTES, parse_object
from hfmem.hub.weights import (
    SINGLE,
    TORCH_INDEX,
    Weights,
    from_index,
    from_named_file,
    is_gguf_place,
    other_weights,
    quantization_files,
    safetensors_weights,
    without_config,
)
from hfmem.records import dataclass

if TYPE_CHECKING:
    from hfmem.checkpoint.gguf import GgufHeader
    from hfmem.checkpoint.torch_pickle import TorchFile

CONFIG = "config.json"
_MAX_INDEX_FILE = 256 << 20
#: a folder with more files, or deeper ones, than any repository of a model
_MAX_FILES = 20_000
_MAX_DEPTH = 8
#: how pointers of Git LFS and git-annex begin
_POINTERS = (b"vers", b"/ann")
_TORCH_SHARD = r"pytorch_model(-\d+-of-\d+)?\.bin"


def _refuse_pipe(path: Path) -> None:
    """Opening a named pipe would wait for its writer, and a device may never end.

    Raises:
        FormatError: neither a file nor a folder.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise FormatError(f"{path} is not a file")


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """`Files` of a folder. `label` is the folder as the user knows it."""

    folder: Path
    label: str

    def read(self, name: str, max_bytes: int) -> bytes | None:
        _refuse_pipe(self.folder / name)
        try:
            with open(self.folder / name, "rb") as file:
                data = file.read(max_bytes + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise unreadable(self.folder / name, error) from None
        if len(data) > max_bytes:
            raise FormatError(f"{self.folder / name} takes more than {max_bytes:,} bytes")
        return data

    def headers(self, sizes: Mapping[str, int]) -> dict[str, Header]:
        known = Known()
        return {name: self.header(name, known) for name in sizes}

    def header(self, name: str, known: Known) -> Header:
        """The header of one file, checked against the file's size; `known` is what the model's other headers taught."""
        path = self.folder / name
        where = str(path)
        try:
            if not path.is_file():
                if path.exists():
                    raise FormatError(f"{where} is not a file")
                broken = " (a broken link: its blob is gone)" if path.is_symlink() else ""
                raise MissingFileError(f"{self.label}: {name} is not there{broken}")
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size == 0:
                    raise FormatError(f"{where} is empty (0 bytes)")
                prefix = file.read(PREFIX_BYTES)
                if prefix[:4] in _POINTERS and size <= MAX_POINTER_BYTES:
                    refuse_pointer(prefix + file.read(), where)
                length = header_length(prefix, where, size)
                data = file.read(length)
        except OSError as error:
            raise unreadable(path, error) from None
        if len(data) < length:
            raise FormatError(f"{where}: truncated: the header takes {length:,} bytes and {len(data):,} are there")
        return parse_header(data, size, file=where, known=known)

    def listing(self) -> dict[str, int | None]:
        try:
            with os.scandir(self.folder) as entries:
                return {entry.name: _size(entry.path) for entry in entries if not entry.is_dir()}
        except OSError as error:
            raise unreadable(self.folder, error) from None

    def tree(self) -> dict[str, int | None]:
        found: dict[str, int | None] = {}
        for place, folders, names in os.walk(self.folder):
            within = Path(place).relative_to(self.folder)
            folders[:] = [name for name in sorted(folders) if not name.startswith(".")]
            if len(within.parts) >= _MAX_DEPTH:
                folders.clear()
            for name in names:
                found[(within / name).as_posix()] = _size(os.path.join(place, name))
            if len(found) > _MAX_FILES:
                raise UsageError(f"{self.label} holds more than {_MAX_FILES:,} files: is it a model's folder?")
        return found

    def read_range(self, name: str, offset: int, length: int) -> tuple[bytes, int | None]:
        path = self.folder / name
        _refuse_pipe(path)
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(offset)
                return file.read(length), size
        except (FileNotFoundError, NotADirectoryError):
            broken = " (a broken link: its blob is gone)" if path.is_symlink() else ""
            raise MissingFileError(f"{self.label}: {name} is not there{broken}") from None
        except OSError as error:
            raise unreadable(path, error) from None

    def _refuse_pointers(self, names: Iterable[str]) -> None:
        for name in names:
            if (path := self.folder / name).is_file() and path.stat().st_size <= MAX_POINTER_BYTES:
                refuse_pointer(self.read_range(name, 0, MAX_POINTER_BYTES)[0], str(path))

    def gguf_headers(self, sizes: Mapping[str, int | None]) -> list[GgufHeader]:
        from hfmem.hub.gguf import read_header

        self._refuse_pointers(sizes)
        return [read_header(name, size, self.read_range, str(self.folder / name)) for name, size in sizes.items()]

    def torch_files(self, sizes: Mapping[str, int | None]) -> list[TorchFile]:
        from hfmem.hub.torchfiles import read_torch_file

        self._refuse_pointers(sizes)
        return [read_torch_file(name, size, self.read_range, str(self.folder / name)) for name, size in sizes.items()]


def load_local(path_text: str) -> ModelFacts:
    """The facts of a local model.

    Raises:
        ModelNotFoundError: no such path.
        SourceError: it cannot be read, or is no model.
    """
    path = Path(os.path.expanduser(path_text))
    try:
        if path.is_dir():
            return _load_folder(_snapshot_of(path), path_text)
        if path.is_file():
            return _load_file(path, path_text)
        if not path.exists():
            raise ModelNotFoundError(f"{path_text}: no such folder or file")
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError as error:
        raise UsageError(f"{path_text!r}: {error}") from None
    raise FormatError(f"{path_text} is neither a folder nor a file")


def folder_facts(folder: Path, label: str, *, repo_id: str, revision: str | None, source: Source) -> ModelFacts:
    """The facts of a folder with config.json and weights; `label` names it in messages.

    Raises:
        SourceError: it cannot be read, or is no model.
    """
    files = LocalFiles(folder, label)
    data = files.read(CONFIG, MAX_CONFIG_BYTES)
    if data is None:
        if is_gguf_place(files):
            return _load_gguf(files, None, repo_id, revision, source)
        config, name, weights = without_config(files, files.listing())
    else:
        config, name = parse_object(data, str(folder / CONFIG)), CONFIG
        found = safetensors_weights(files)
        if found is None and is_gguf_place(files):
            return _load_gguf(files, None, repo_id, revision, source)
        weights = other_weights(files, files.listing()) if found is None else found
    extra: dict[str, Mapping[str, object]] = {}
    for file in quantization_files(config, weights.checkpoint):
        text = files.read(file, MAX_CONFIG_BYTES)
        if text is not None:
            extra[file] = parse_object(text, str(folder / file))
    return ModelFacts(
        repo_id=repo_id,
        revision=revision,
        source=source,
        config=config,
        config_file=str(folder / name),
        checkpoint=weights.checkpoint,
        evidence=weights.evidence,
        index_total_size=weights.index_total_size,
        download_bytes=weights.download_bytes,
        weight_files=weights.files,
        extra=extra,
        notice=weights.notice,
        warnings=weights.warnings,
    )


def _load_gguf(files: LocalFiles, name: str | None, repo_id: str, revision: str | None, source: Source) -> ModelFacts:
    from hfmem.hub.gguf import load_file, load_place

    found = load_place(files, files.label, None, by_label=False) if name is None else load_file(files, name, alone=True)
    return gguf_facts(found, repo_id, revision, source)


def unreadable(path: Path, error: OSError) -> SourceError:
    """The error for a path that the system refuses to read."""
    return SourceError(f"{path} cannot be read: {error.strerror or error}")


def _load_folder(folder: Path, label: str) -> ModelFacts:
    commit = folder.name if folder.parent.name == "snapshots" else None
    return folder_facts(folder, label, repo_id=label, revision=commit, source="local")


def _load_file(path: Path, label: str) -> ModelFacts:
    name = path.name.lower()
    folder = path.parent
    files = LocalFiles(folder, str(folder))
    if name == CONFIG:
        return folder_facts(folder, label, repo_id=label, revision=None, source="local")
    weights: Weights
    if name.endswith(".gguf"):
        return _load_gguf(files, path.name, label, None, "local")
    if name.endswith(".safetensors.index.json"):
        weights = from_index(files, files.read(path.name, _MAX_INDEX_FILE) or b"", path.name)
    elif name.endswith(".safetensors"):
        whole = safetensors_weights(files) if path.name != SINGLE else None
        in_set = whole is not None and any(file.name == path.name for file in whole.files)
        weights = whole if whole is not None and in_set else from_named_file(files, path.name)
    elif name == TORCH_INDEX or re.fullmatch(_TORCH_SHARD, name):
        weights = other_weights(files, files.listing())
    else:
        weights = from_named_file(files, path.name)
    data = files.read(CONFIG, MAX_CONFIG_BYTES)
    if data is None:
        raise MissingFileError(f"{folder} has no config.json beside {path.name}")
    return ModelFacts(
        repo_id=label,
        revision=None,
        source="local",
        config=parse_object(data, str(folder / CONFIG)),
        config_file=str(folder / CONFIG),
        checkpoint=weights.checkpoint,
        evidence=weights.evidence,
        index_total_size=weights.index_total_size,
        download_bytes=weights.download_bytes,
        weight_files=weights.files,
        notice=weights.notice,
        warnings=weights.warnings,
    )


def _snapshot_of(path: Path) -> Path:
    """A `models--org--name` folder of the Hub cache stands for the snapshot that its `refs/main` names."""
    if not path.name.startswith("models--") or not (path / "snapshots").is_dir():
        return path
    try:
        commit = (path / "refs" / "main").read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        snapshots = sorted((path / "snapshots").iterdir())
        if len(snapshots) != 1:
            raise MissingFileError(
                f"{path} has {len(snapshots)} snapshots and no refs/main; name one of them"
            ) from None
        return snapshots[0]
    return path / "snapshots" / commit


def _size(path: str) -> int | None:
    """Bytes of a file, of the one meant where a pointer of Git LFS stands for it; None: it cannot be told."""
    try:
        size = os.stat(path).st_size
        if not 0 < size <= MAX_POINTER_BYTES or not os.path.isfile(path):
            return size
        with open(path, "rb") as file:
            meant = pointer_size(file.read(MAX_POINTER_BYTES))
    except OSError:
        return None
    return size if meant is None else meant
