"""The size of a safetensors file, by its header."""

from __future__ import annotations

import json
from itertools import accumulate
from math import prod
from typing import Final

from hfmem.checkpoint.safetensors import PREFIX_BYTES, Header
from hfmem.dtypes import BITS

# `"":{"dtype":"F8_E4M3","shape":[,],"data_offsets":[,]},` without the name and the numbers
ENTRY: Final = '"":{"dtype":"","shape":[],"data_offsets":[,]},'


def file_size(header: Header) -> int:
    """Bytes of the file that `header` is of; computed, where an endpoint sent it already parsed.

    The format's library writes compact JSON and pads it with spaces to a multiple of 8; a file written by something
    else may differ by some bytes.
    """
    if header.file_bytes is not None:
        return header.file_bytes
    names = header.text_names()
    length = sum(len(_quoted(name)) - 2 for name in names)
    facts = {fact: (prod(fact[1]) * BITS[fact[0]] // 8, _fact_text(fact)) for fact in set(header.facts)}
    found = [facts[fact] for fact in header.facts]
    ends = list(accumulate(size for size, _ in found))
    begins = [0, *ends[:-1]] if ends else []
    length += sum(text for _, text in found)
    length += sum(map(len, map(str, ends))) + sum(map(len, map(str, begins)))
    length += 2 - 1 + len(ENTRY) * len(found) if found else 2
    if header.metadata:
        inner = sum(len(_quoted(key)) + len(_quoted(value)) + 2 for key, value in header.metadata)
        length += len('"__metadata__":{}') + inner - 1 + (1 if found else 0)
    return padded_bytes(length) + header.data_bytes


def padded_bytes(length: int) -> int:
    """Bytes in front of the data, of a header whose JSON is so long."""
    return PREFIX_BYTES + -(-length // 8) * 8


def _fact_text(fact: tuple[str, tuple[int, ...]]) -> int:
    dtype, shape = fact
    return len(dtype) + len(",".join(map(str, shape)))


def _quoted(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")
