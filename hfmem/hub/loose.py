"""Safetensors files under names that no program looks for first: shards without their index, one file of another name, a variant.

vLLM 0.33 loads every `*.safetensors` of a folder (`default_loader`), transformers a variant when told its name. Here they are the
weights only where they can be nothing else: one set of them, whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_SHARD: Final = re.compile(
    r"(?P<stem>.+?)-(?P<number>\d{1,6})-of-(?P<count>\d{1,6})(?P<rest>(\.[A-Za-z0-9_]+)?\.safetensors)"
)
#: what stands beside weights and is none: adapters, what a trainer keeps
_BESIDE: Final = re.compile(
    r"adapter|lora|^rank\d+\.|optimizer|scheduler|scaler|random_states|rng_state|training|embeddings?\.safetensors",
    re.IGNORECASE,
)
_TORCH: Final = (".pt", ".pth", ".bin")
_MOST: Final = 10_000


def one_set(listing: Iterable[str]) -> tuple[str, ...] | None:
    """The safetensors files at the top of a place, in order, if they are one file or all shards of one; else None."""
    sets: dict[tuple[str, ...], dict[int, str]] = {}
    for name in listing:
        if "/" in name or not name.endswith(".safetensors") or _BESIDE.search(name):
            continue
        shard = _SHARD.fullmatch(name)
        key: tuple[str, ...] = (shard["stem"], shard["rest"], shard["count"]) if shard else (name,)
        sets.setdefault(key, {})[int(shard["number"]) if shard else 1] = name
    if len(sets) != 1:
        return None
    ((kind, found),) = sets.items()
    count = int(kind[2]) if len(kind) > 1 else 1
    whole = count <= _MOST and found.keys() == set(range(1, count + 1))
    return tuple(found[number] for number in sorted(found)) if whole else None


def one_torch_file(listing: Iterable[str]) -> str | None:
    """The only file at the top of a place that torch.save may have written and that may be a model; None: none, or more."""
    found = [n for n in listing if "/" not in n and n.lower().endswith(_TORCH) and not _BESIDE.search(n)]
    return found[0] if len(found) == 1 else None
