"""The whole line put together: what the command line shows and Python callers use.

`reading` → `configuration` → `assembly` is an estimate; `estimates`, `answers`, `planning` and the others ask it their questions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfmem.api.answers import fit
    from hfmem.api.estimates import LayerTable, estimate, explain, layer_table
    from hfmem.api.planning import plan
    from hfmem.api.reading import Model, in_format, read_model

__all__ = ["LayerTable", "Model", "estimate", "explain", "fit", "in_format", "layer_table", "plan", "read_model"]

_LAZY = {
    "LayerTable": "estimates",
    "Model": "reading",
    "estimate": "estimates",
    "explain": "estimates",
    "fit": "answers",
    "in_format": "reading",
    "layer_table": "estimates",
    "plan": "planning",
    "read_model": "reading",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"hfmem.api.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
