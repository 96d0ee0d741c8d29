"""Made-up results, in the form of measured ones and labelled as made up: nothing in here was measured on anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hfmem_kernels.benchmarks.item import facts
from hfmem_kernels.benchmarks.rows import Row

#: bytes per second and microseconds that the made-up device has
CEILING, LAUNCH_US = 4.0e12, 6.0

Share = Callable[[Row], float]


def timing(median: float) -> dict[str, Any]:
    """A timing with a spread of one percent."""
    return {"median_us": median, "low_us": median * 0.99, "high_us": median * 1.01, "samples": 21}


def microseconds(row: Row, share: float) -> float:
    """t0 and the bytes at a share of the ceiling."""
    return LAUNCH_US + row.traffic.kv_bytes / (CEILING * share) * 1e6


def record(row: Row, share: float, **peers: float) -> dict[str, Any]:
    """A row's record; `peers`: their times over ours."""
    ours = microseconds(row, share)
    return {
        "name": row.name, "status": "ok", "session": 0, "facts": facts(row, 2),
        "gate": {"passed": True, "worst": 0.5, "relative": 1e-3, "reason": ""}, "ours": timing(ours),
        "peers": {name: {"status": "ok", **timing(ours * ratio)} for name, ratio in peers.items()},
    }  # fmt: skip


def results(
    rows: Iterable[Row], share: Share = lambda row: 0.95, *, method: str = "fixture", **peers: float
) -> dict[str, Any]:
    """A results file over rows."""
    return {
        "schema": 1, "method": method, "command": "made up", "excluded": [],
        "device": {
            "name": "NVIDIA H200", "catalogue": "H200 SXM 141GB", "capability": "9.0", "multiprocessors": 132,
            "memory_bytes": 150109945856, "l2_bytes": 60 << 20, "bf16_operations": 989.4e12,
        },
        "software": {"python": "3", "torch": "0", "triton": "0", "cuda": "0", "driver": "0", "hfmem": "0"},
        "source": {"commit": None, "dirty": None, "fingerprint": "0123456789abcdef"},
        "sessions": [
            {
                "started": "2001-01-01T00:00:00+00:00", "seconds": 1.0, "launch_us": 1.5,
                "ceiling": {"bytes_per_second": CEILING, "bytes": 2 << 30},
                "readings": [{"sm_mhz": 1980.0, "celsius": 40.0, "watts": 500.0}],
            }
        ],
        "rows": [record(row, share(row), **peers) for row in rows],
        "experiments": [],
    }  # fmt: skip
