"""PEFT adapters: `adapter_config.json` and the headers of the adapter's weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, assert_never

from hfmem.checkpoint.tensors import Checkpoint
from hfmem.errors import FormatError, MissingFileError, ModelNotFoundError, OfflineError
from hfmem.hub.facts import FetchStats
from hfmem.hub.files import MAX_CONFIG_BYTES, Files, parse_object
from hfmem.hub.options import FetchOptions
from hfmem.hub.reference import HubRef, LocalPath, parse_reference, with_revision
from hfmem.hub.settings import read_settings
from hfmem.hub.weights import ADAPTER, from_named_file
from hfmem.records import dataclass

_WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """One adapter as its repository has it. `base` is the model it was trained on, as its config names it."""

    repo_id: str
    config: Mapping[str, Any]
    checkpoint: Checkpoint
    file_bytes: int | None
    base: str | None
    base_revision: str | None
    stats: FetchStats = FetchStats()


def load_adapter(ref_text: str, *, revision: str | None = None, options: FetchOptions | None = None) -> AdapterFacts:
    """The adapter that `ref_text` names: a repository, a Hub address, a folder.

    Raises:
        UsageError: the text cannot be used. SourceError: the adapter cannot be read; MissingFileError: it is none.
    """
    options = options or FetchOptions()
    settings = read_settings()
    ref = with_revision(parse_reference(ref_text, endpoint=settings.endpoint, exists=os.path.exists), revision)
    match ref:
        case LocalPath():
            from hfmem.hub.local import LocalFiles

            folder = Path(os.path.expanduser(ref.path))
            if not folder.exists():
                raise ModelNotFoundError(f"{ref.path}: no such folder")
            return _read(LocalFiles(folder if folder.is_dir() else folder.parent, ref.path), ref.path)
        case HubRef():
            if settings.offline or options.offline:
                raise OfflineError(f"offline mode: the adapter {ref.repo_id} is on the Hub")
            return _remote(ref, options)
        case _:
            assert_never(ref)


def _remote(ref: HubRef, options: FetchOptions) -> AdapterFacts:
    from hfmem.hub.remote import RemoteFiles
    from hfmem.hub.source import open_client
    from hfmem.records import replace

    client = open_client(options, quick=False)
    try:
        files = RemoteFiles(client, read_settings().endpoint, ref.repo_id, ref.revision or "main")
        return replace(_read(files, ref.repo_id), stats=client.stats())
    finally:
        client.close()


def _read(files: Files, place: str) -> AdapterFacts:
    data = files.read(ADAPTER, MAX_CONFIG_BYTES)
    if data is None:
        raise MissingFileError(f"{place} is no adapter: it has no {ADAPTER}")
    config = parse_object(data, f"{place}: {ADAPTER}")
    listing = files.listing()
    name = next((name for name in _WEIGHTS if name in listing), None)
    if name is None:
        raise MissingFileError(f"{place} has neither {_WEIGHTS[0]} nor {_WEIGHTS[1]}")
    weights = from_named_file(files, name)
    if weights.checkpoint is None:
        raise FormatError(f"{place}: {name} cannot be read")
    base = config.get("base_model_name_or_path")
    base_revision = config.get("revision")
    return AdapterFacts(
        place,
        config,
        weights.checkpoint,
        weights.download_bytes,
        base if isinstance(base, str) and base else None,
        base_revision if isinstance(base_revision, str) and base_revision else None,
    )
