"""Facts of widely used models that ship with the package, for when the Hub cannot be asked.

`data/catalog.json` is a JSON array with one entry a line, each as `facts_to_json` writes it and each starting with
its `id`. A model is found by searching the bytes for that start, so that one look-up maps the file, reads it up
to there and parses one line, however many models there are.
"""

from __future__ import annotations

import json
import mmap
import re
from functools import lru_cache
from pathlib import Path

from hfmem.errors import FormatError
from hfmem.hub.facts import ModelFacts, facts_from_json

PATH = Path(__file__).parent / "data" / "catalog.json"
_NAME = rb'^\{"id":"([^"\\]+)"'


@lru_cache(maxsize=1)
def _data() -> bytes | mmap.mmap:
    try:
        with PATH.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
        return b""


def _line(repo_id: str) -> bytes | None:
    start = b'\n{"id":' + json.dumps(repo_id).encode("ascii") + b","
    at = _data().find(start)
    if at < 0:
        return None
    end = _data().find(b"\n", at + 1)
    return _data()[at + 1 : end if end >= 0 else None].rstrip(b",\r]")


def in_catalog(repo_id: str) -> bool:
    """Whether the catalogue has this model."""
    return _line(repo_id) is not None


def load_catalog_entry(repo_id: str) -> ModelFacts | None:
    """The shipped facts of a model, None where there are none.

    Raises:
        FormatError: the package's data file is damaged.
    """
    line = _line(repo_id)
    if line is None:
        return None
    try:
        return facts_from_json(json.loads(line), "catalog")
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError(f"{PATH}: the entry of {repo_id} is damaged: {error}") from None


def catalog_names() -> tuple[str, ...]:
    """The models of the catalogue, in its order."""
    return tuple(name.decode("utf-8") for name in re.findall(_NAME, _data(), re.MULTILINE))


def names_like(pattern: str) -> tuple[str, ...]:
    """The catalogue's names that `pattern` describes, sorted: `Qwen/*`, `*8b*`, whatever the case; `*` is any run of letters."""
    described = re.compile(".*".join(map(re.escape, pattern.split("*"))), re.IGNORECASE)
    return tuple(sorted((name for name in catalog_names() if described.fullmatch(name)), key=str.lower))


def suggest(repo_id: str) -> str | None:
    """A catalogue name that `repo_id` may be a slip of, compared without regard to case; None when nothing is close."""
    from difflib import SequenceMatcher

    def sized(name: str) -> str:
        return name.lower() if "/" in repo_id else name.lower().rpartition("/")[2]

    wanted = repo_id.lower()
    best, best_score = None, 0.8
    for name in catalog_names():
        matcher = SequenceMatcher(None, wanted, sized(name))
        if matcher.real_quick_ratio() <= best_score or matcher.quick_ratio() <= best_score:
            continue
        score = matcher.ratio()
        if score > best_score:
            best, best_score = name, score
    if best is None and "/" in repo_id:
        # the right name under another organisation (`llama/Meta-Llama-3-8B`)
        tail = wanted.rpartition("/")[2]
        best = next((name for name in catalog_names() if name.lower().rpartition("/")[2] == tail), None)
    return best if best != repo_id else None
