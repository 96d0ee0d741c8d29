"""From results of real devices to what the rest of the repository shows of them: hfmem's efficiency table, and the targets in
kernels/README.md.

Of several files of one device the newest counts. Made-up results are refused.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hfmem_kernels.benchmarks import results as stored
from hfmem_kernels.benchmarks.report import table
from hfmem_kernels.benchmarks.rows import Row
from hfmem_kernels.benchmarks.summary import fit_line
from hfmem_kernels.benchmarks.targets import Measured, Verdict, evaluate, regions_of

#: what hfmem calls a cache → the region of the targets whose rows speak for it
REGIONS = {"bf16": "≥ 512 MB bf16, page ≥ 16", "fp8": "fp8, ≥ 256 MB", "latent": "MLA, 16 heads"}
BEGIN = "<!-- kernel table: scripts/publish_results.py writes it -->"
END = "<!-- end of the kernel table -->"
NOTHING = "Not measured yet: `kernels/results/` holds no results from a device."

Results = Mapping[str, Any]


def newest(folder: Path) -> dict[str, tuple[Path, Results]]:
    """The newest results of each device under `folder` (`<device>/<file>.json`), by the device's name.

    Raises:
        OSError, ResultsError: a file that cannot be read, or was not measured on a device.
    """
    found: dict[str, tuple[Path, Results]] = {}
    for path in sorted(folder.glob("*/*.json")):
        results = stored.read(path)
        if results["method"] != "device":
            raise stored.ResultsError(f"{path}: made by {results['method']}, not measured on a device")
        name = results["device"]["catalogue"] or results["device"]["name"]
        if name not in found or _when(results) > _when(found[name][1]):
            found[name] = (path, results)
    return found


def _when(results: Results) -> str:
    return max((session["started"] for session in results["sessions"]), default="")


def efficiency(results: Results, rows: Sequence[Row], source: str) -> dict[str, Any] | None:
    """An entry of hfmem's `measured.json`: the median over the rows of each region. None where no session has a ceiling."""
    ceilings = [session["ceiling"]["bytes_per_second"] for session in results["sessions"] if session["ceiling"]]
    if not ceilings:
        return None
    measured = stored.measured(results, rows)
    shares: dict[str, list[float]] = {}
    for kind, region in REGIONS.items():
        found = [each.share for each in measured.values() if region in regions_of(each.row)]
        if found:
            shares[kind] = found
    line = fit_line(_plain(measured))
    return {
        "read_bytes_per_second": int(statistics.median(ceilings)),
        "attention": {kind: round(min(statistics.median(found), 1.0), 4) for kind, found in shares.items()},
        "launch_us": None if line is None else round(line.launch_us, 2),
        "source": source,
    }


def _plain(measured: Mapping[str, Measured]) -> list[tuple[int, float]]:
    return [
        (each.row.traffic.kv_bytes, each.microseconds)
        for each in measured.values()
        if each.row.dtype == "bfloat16"
        and each.row.page_size == 16
        and each.row.q_len == 1
        and not each.row.shape.window
    ]


def readme_block(devices: Mapping[str, tuple[Path, Results]], rows: Sequence[Row]) -> str:
    """What stands between the two marks in kernels/README.md."""
    if not devices:
        return NOTHING
    lines = []
    for name, (_, results) in sorted(devices.items()):
        verdicts = evaluate(rows, stored.measured(results, rows))
        lines += [
            f"{name}, {_when(results)[:10]}, torch {results['software']['torch']}, triton {results['software']['triton']}:",
            "",
        ]
        lines += [*table(("region", "target", "", "worst", "rows"), [_cells(each) for each in verdicts], left=3), ""]
    return "\n".join(lines).rstrip()


def _cells(verdict: Verdict) -> tuple[str, ...]:
    value = "" if verdict.value is None else f"{verdict.value:.3g}"
    return verdict.region, verdict.text, verdict.status, value, str(verdict.rows)


def with_block(text: str, block: str) -> str:
    """A file's text with the block between its marks.

    Raises:
        ValueError: the marks are not there.
    """
    pattern = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError("the marks of the kernel table are not there")
    return pattern.sub(lambda _: f"{BEGIN}\n{block}\n{END}", text)


def file_name(results: Results) -> str:
    """Where results belong under `kernels/results`: `<device>/<day>-<kernels' fingerprint>.json`."""
    name = results["device"]["catalogue"] or results["device"]["name"]
    folder = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"{folder}/{_when(results)[:10]}-{results['source']['fingerprint'][:8]}.json"
