"""Safetensors headers as text, and what the general parser and the one by columns say of them."""

from __future__ import annotations

from typing import Any

from hub_server import header_bytes

from hfmem.checkpoint import safetensors
from hfmem.checkpoint.canonical import Columns
from hfmem.errors import HfmemError


def text_of(tensors: Any) -> bytes:
    """The JSON of a header of `(name, dtype, shape)`."""
    return header_bytes(tensors)[0][8:].rstrip(b" ")


def general(text: bytes) -> Any:
    """The general parser's reading of a header, or its refusal."""
    try:
        header = safetensors.header_of(safetensors.load(text, "f"), "f", len(text))
    except HfmemError as error:
        return type(error)
    return header.names, header.facts, header.metadata, header.data_bytes


def said(columns: Columns) -> Any:
    """As `general` says it."""
    names = [name for part in columns.parts for name in part.names]
    assert len(names) == columns.count
    return names, [fact for part in columns.parts for fact in part.facts], columns.metadata, columns.end
