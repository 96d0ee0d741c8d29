"""The JSON form of a report: its dataclasses, key for key, nothing rounded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from hfmem.errors import HfmemError
from hfmem.report import SCHEMA_VERSION, Report

#: parts of an engine's own memory that the contract names: null where the engine has none
_RUNTIME: Final = ("activations_bytes", "cuda_graph_bytes", "engine_bytes")


def to_dict(value: Any) -> Any:
    """Plain dicts, lists and scalars of a report (or any part of one)."""
    names = getattr(type(value), "__match_args__", ())  # of a record: its fields
    if names:
        return {name: to_dict(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): to_dict(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_dict(item) for item in value]
    return float(value) if isinstance(value, Fraction) else value  # a share


def error_dict(model: str, error: HfmemError) -> dict[str, Any]:
    """What stands in the array for a model that failed."""
    return {"model": {"id": model}, "error": {"code": error.code, "message": error.message}}


def versioned(value: Mapping[str, Any]) -> dict[str, Any]:
    """What a command prints that is no report, with the contract's `schema_version` first."""
    return {"schema_version": SCHEMA_VERSION, **value}


def report_dict(report: Report) -> dict[str, Any]:
    """The report by the JSON contract, `schema_version` first."""
    found: dict[str, Any] = to_dict(report)
    found["runtime"] = {**dict.fromkeys(_RUNTIME), **found["runtime"]}
    return {"schema_version": found.pop("schema_version"), **found}


def dumps(value: Any) -> str:
    """Indented JSON. Non-ASCII text is escaped, so that no string from a config can steer a terminal."""
    return json.dumps(value, indent=2, ensure_ascii=True)
