"""`*.safetensors.index.json` and `*.bin.index.json`: which file holds which tensor.

Only the map is trusted. `metadata.total_size` may be 0, absent, a float, stale, or include the headers, and some
published indices go on after their JSON ends: such things become notes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from hfmem.checkpoint.pointer import refuse_pointer
from hfmem.errors import ContradictionError, FormatError, HfmemError
from hfmem.records import dataclass, field

#: longest real one: 10 MB for 91,991 tensors
MAX_INDEX_BYTES: Final = 200_000_000
_MAX_COMMAS: Final = 3_000_000
_MAX_BRACKETS: Final = 100_000

_DRIVE: Final = r"[A-Za-z]:"
_CONTROL: Final = r"[\x00-\x1f\x7f\ud800-\udfff]"


@dataclass(frozen=True, slots=True)
class Index:
    """`weight_map` gives each tensor's file, relative to the index's folder, `by_shard` each file's tensors; do not change them."""

    file: str
    weight_map: Mapping[str, str]
    total_size: int | None
    total_parameters: int | None
    notes: tuple[str, ...] = ()
    by_shard: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        by_shard = self.by_shard
        for name, shard in self.weight_map.items():
            try:
                by_shard[shard].append(name)
            except KeyError:
                by_shard[shard] = [name]

    @property
    def shards(self) -> tuple[str, ...]:
        """The files, in natural order of their names."""
        return tuple(sorted(self.by_shard, key=natural_key))


def natural_key(name: str) -> tuple[tuple[int, str], ...]:
    """Sorts `model-2-of-10` before `model-10-of-10`."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((int(part), "") if i % 2 and len(part) < 19 else (-1, part) for i, part in enumerate(parts))


def parse_index(data: bytes, file: str) -> Index:
    """The facts of an index file.

    Raises:
        FormatError: not JSON, or no `weight_map` in it.
        ContradictionError: a file name that leaves the index's folder or cannot be one, or a tensor that is given two
            files.
    """
    if len(data) > MAX_INDEX_BYTES:
        raise FormatError(f"{file}: {len(data):,} bytes are more than any index takes")
    refuse_pointer(data, file)
    root, notes = _load(data, file)
    if not isinstance(root, dict):
        raise FormatError(f"{file}: not an index: its JSON is no object")
    weight_map = root.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{file}: not an index: it has no weight_map")
    if set(map(type, weight_map.values())) != {str}:
        tensor = next(name for name, shard in weight_map.items() if type(shard) is not str)
        raise ContradictionError(f"{file}: the weight_map gives tensor {tensor!r} no file name")
    for shard in dict.fromkeys(weight_map.values()):
        check_shard_name(shard, file)
    metadata = root.get("metadata")
    if not isinstance(metadata, dict):
        metadata = {}
    return Index(
        file, weight_map, _count(metadata.get("total_size")), _count(metadata.get("total_parameters")), tuple(notes)
    )


def check_shard_name(shard: str, file: str) -> None:
    """Refuses a file name that is not a plain relative path below the index's folder.

    Raises:
        ContradictionError: naming the file name.
    """
    parts = shard.split("/")
    if (
        not shard
        or len(shard) > 1024
        or "\\" in shard
        or re.search(_CONTROL, shard)
        or re.match(_DRIVE, shard)
        or any(part in ("", ".", "..") for part in parts)
    ):
        raise ContradictionError(f"{file}: the weight_map names {shard[:80]!r}, which is no file of this repository")


def _load(data: bytes, file: str) -> tuple[Any, list[str]]:
    if data.count(b",") > _MAX_COMMAS or data.count(b"[") + data.count(b"{") > _MAX_BRACKETS:
        raise FormatError(f"{file}: the JSON holds more values than any index")
    plain = _load_plain(data)
    if plain is not None:
        return plain, []

    def hook(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            first: dict[str, Any] = {}
            for key, value in pairs:
                if first.setdefault(key, value) != value:
                    raise ContradictionError(f"{file}: the key {key!r} occurs twice, with different values")
        return found

    try:
        # what follows the JSON need not be text at all, so only a leading part must decode
        text = data.decode("utf-8", errors="surrogateescape").lstrip(" \t\r\n")
        if not text:
            raise FormatError(f"{file}: empty")
        root, end = json.JSONDecoder(object_pairs_hook=hook).raw_decode(text)
        text[:end].encode("utf-8")
    except HfmemError:
        raise
    except RecursionError:
        raise FormatError(f"{file}: the JSON is nested too deeply") from None
    except UnicodeEncodeError:
        raise FormatError(f"{file}: not UTF-8") from None
    except json.JSONDecodeError as error:
        raise FormatError(f"{file}: not JSON at character {error.pos}: {error.msg}") from None
    except ValueError:
        raise FormatError(f"{file}: holds an integer of thousands of digits") from None
    rest = text[end:].strip()
    return root, [f"{file}: {len(rest):,} characters after the JSON were ignored"] if rest else []


def _load_plain(data: bytes) -> Any:
    """The value of JSON in which nothing is unusual, None where something is. At the speed of the library's own scanner.

    A key that occurs twice would leave fewer strings in the value than there are in the text.
    """
    if b"\\" in data:
        return None
    try:
        root = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(root, dict) or not isinstance(root.get("weight_map"), dict):
        return None
    names = root["weight_map"]
    found = len(names) + sum(type(shard) is str for shard in names.values())
    found += sum(_strings(value) for key, value in root.items() if key != "weight_map") + len(root)
    return root if 2 * found == data.count(b'"') else None


def _strings(value: Any) -> int:
    """How many strings a JSON value holds, keys included."""
    match value:
        case str():
            return 1
        case dict():
            return len(value) + sum(_strings(item) for item in value.values())
        case list():
            return sum(_strings(item) for item in value)
        case _:
            return 0


def _count(value: Any) -> int | None:
    """A positive whole number, also written as a float; None for anything else (some tools write 0 for "unknown")."""
    if type(value) is float and 0 < value < 2**63 and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 < value < 2**63 else None
