"""Models by the names that logs use, from the shipped catalogue, from `log_configs.jsonl` and from folders of config.json files.

Nothing is fetched. `log_configs.jsonl` holds what decides memory in the configs of models that logged figures name and the
catalogue does not have."""

from __future__ import annotations

import atexit
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from hfmem.api.reading import Model, in_format, read_model
from hfmem.errors import HfmemError
from hfmem.hub import FetchOptions
from hfmem.hub.catalog import catalog_names
from hfmem.server_logs.names import base_of, is_publishers_own, model_names

#: configs of models that are not in the catalogue
_KNOWN = Path(__file__).parent / "log_configs.jsonl"
#: words at the end of a GGUF's name that are not part of the model's
GGUF_WORDS = re.compile(r"(?i)[\s_-]*(bf16|safetensors|qat|128k|gguf|q\d\w*)$|^unsloth_|'")


class Models:
    """Models by the names that logs use: catalogue first, then the folders' configs."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._configs: dict[str, Path] = {}
        for name, path in (pair for folder in folders for pair in _configs(folder)):
            self._configs.setdefault(_key(name), path)
        self._scratch: Path | None = None
        for row in map(json.loads, _KNOWN.read_text(encoding="utf-8").splitlines()):
            place = self._place(row["model"].replace("/", "--"))
            (place / "config.json").write_text(json.dumps(row["config"]), encoding="utf-8")
            for name in (row["model"], row["model"].rpartition("/")[2]):
                self._configs.setdefault(_key(name), place)
        self._tails = {_key(name.rpartition("/")[2]): name for name in catalog_names()}

    @cache  # noqa: B019 - one object, for the life of the script
    def read(self, name: str) -> Model | None:
        """The model of that name, None where neither source has it."""
        fetch = FetchOptions(offline=True, no_cache=True)
        if bare := re.fullmatch(r"(\S.*?) \(.*\)", name):  # a copyist's remark
            name = bare[1]
        names = (*model_names(name), GGUF_WORDS.sub("", GGUF_WORDS.sub("", name)).replace(" ", "-"))
        for candidate in (name,) if is_publishers_own(name) else names:
            key, tail = _key(candidate), _key(candidate.rpartition("/")[2])
            if is_publishers_own(name):
                tail = key
            known = candidate if candidate in catalog_names() else self._tails.get(tail)
            path = None if known else self._configs.get(key) or self._configs.get(tail)
            if known or path:
                try:
                    read = read_model(known or self._folder(path), fetch=fetch)
                    quant = base_of(name)[1]
                    if quant and read.quantization is None and read.packing is None:
                        return replace_id(in_format(read, quant), name)  # its config does not say so
                    return read
                except HfmemError:
                    continue
        base, quant = base_of(name)
        plain = self.read(base) if quant else None
        if plain is not None and plain.quantization is None:
            return replace_id(in_format(plain, quant), name)
        return None

    def _folder(self, path: Path | None) -> str:
        """A folder that holds the config: a lone file is copied into one."""
        assert path is not None
        if path.is_dir():
            return str(path)
        place = self._place(path.stem)
        (place / "config.json").write_bytes(path.read_bytes())
        return str(place)

    def _place(self, name: str) -> Path:
        """An empty folder that lives as long as the script."""
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp())
            atexit.register(shutil.rmtree, self._scratch, ignore_errors=True)
        place = self._scratch / name
        place.mkdir(exist_ok=True)
        return place


def replace_id(read: Model, name: str) -> Model:
    """`read` under another name."""
    return replace(read, facts=replace(read.facts, repo_id=name))


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _configs(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()):
        name = re.sub(r"--|__", "/", path.stem if path.suffix == ".json" else path.name, count=1)
        place = path if path.suffix == ".json" else path / "config.json"
        if place.is_file():
            yield name, place if path.suffix == ".json" else path
            yield name.rpartition("/")[2], place if path.suffix == ".json" else path
