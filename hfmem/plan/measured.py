"""What measured kernels reach on a device: the share of its read ceiling that decode attention gets, where it has been timed.

`data/measured.json` is made by `scripts/publish_results.py` from the results of `kernels/results/`; a device that nobody has
measured is not in it, and nothing stands in its place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hfmem.records import dataclass


@dataclass(frozen=True, slots=True)
class Measured:
    """A device as it was measured.

    read_bytes_per_second: of a kernel that only reads. attention: share of it that decode attention reaches, by what the cache
    holds (`bf16`, `fp8`, `latent`). launch_us: what a call costs before it reads. source: the results file.
    """

    read_bytes_per_second: int
    attention: Mapping[str, float]
    launch_us: float | None
    source: str


@cache
def _packaged() -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads(
        Path(__file__).with_name("data").joinpath("measured.json").read_text(encoding="utf-8")
    )
    return dict(found["devices"])


def measured(device: str, table: Mapping[str, Any] | None = None) -> Measured | None:
    """What is known of the device of that name in the catalogue; None if it was not measured.

    Args:
        table: in the form of `devices` in the data file, instead of what the package holds.
    """
    found = (_packaged() if table is None else table).get(device)
    return None if found is None else Measured(**found)


def kind_of_cache(kv_dtype: str, *, latent: bool) -> str | None:
    """The key of `Measured.attention` for a cache; None for a format that is not among them."""
    if latent:
        return "latent" if kv_dtype in ("bf16", "fp16") else None
    return {"bf16": "bf16", "fp16": "bf16", "fp8": "fp8", "fp8_e5m2": "fp8"}.get(kv_dtype)
