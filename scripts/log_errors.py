"""How the errors of rows of logs are distributed, by quantity, and the table of them in docs/accuracy.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hfmem.errors import UsageError
from hfmem.server_logs.checks import Check
from log_rows import Row

#: checks that are one quantity
QUANTITIES: Mapping[str, tuple[str, ...]] = {
    "weights": ("weights",),
    "weights, format by name": ("weights of the named format",),
    "KV capacity": ("GPU blocks", "KV cache tokens", "maximum concurrency", "longest context", "KV cache of"),
    "KV pool bytes": ("K of the token pool", "V of the token pool", "token pool", "KV cache", "recurrent states"),
    "memory left for the cache": ("memory left for the cache",),
    "KV capacity by the device": ("cache tokens by the device",),
    "peak activation": ("peak activation",),
    "CUDA graphs": ("CUDA graphs",),
    "CUDA graphs, vLLM's estimate": ("estimate of CUDA graphs",),
    "non-torch memory": ("non-torch memory",),
    "compute buffer": ("compute buffer",),
    "files": ("files",),
    "llama.cpp: weights on devices": ("weights on", "weights of the host"),
}


def quantity(item: Check) -> str:
    """Which of `QUANTITIES` a check belongs to."""
    titles = [
        (len(title), name)
        for name, all_titles in QUANTITIES.items()
        for title in all_titles
        if item.what.startswith(title)
    ]
    return max(titles)[1]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(-(-len(ordered) * round(share * 100) // 100) - 1, 0)]


def error(item: Check) -> float:
    """|predicted - logged| / logged; none for a concurrency that is 0.0078 and printed as 0.01, where two decimals tell no more."""
    met = item.measure == "count" and item.logged < 0.5 and item.verdict == "equal"
    return 0.0 if met else abs(item.difference or 0)


def distribution(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """By quantity: n, median and 90th percentile of |error|, the worst, and how many rows differ with a reason."""
    errors: dict[str, list[float]] = {}
    explained: dict[str, int] = {}
    after: dict[str, list[float]] = {}
    held: dict[str, list[bool]] = {}
    for row in rows:
        worst: dict[str, Check] = {}
        for item in row.checks:  # a row counts once a quantity, by its worst line
            name = quantity(item)
            if name not in worst or error(item) > error(worst[name]):
                worst[name] = item
        for name, item in worst.items():
            if item.difference is None:
                continue
            if item.low is not None and item.high is not None:
                held.setdefault(name, []).append(item.low <= item.logged <= item.high)
            if item.reason and item.verdict == "differs":
                explained[name] = explained.get(name, 0) + 1
            errors.setdefault(name, []).append(error(item))
            met = error(item) if item.met is None else abs(item.met - item.logged) / abs(item.logged)
            after.setdefault(name, []).append(met)
    return {
        name: {
            "n": len(values),
            "median": percentile(values, 0.5),
            "p90": percentile(values, 0.9),
            "worst": max(values),
            "within_1": sum(value <= 0.01 for value in values) / len(values),
            "within_10": sum(value <= 0.1 for value in values) / len(values),
            "in_band": sum(held[name]) / len(values) if len(held.get(name, ())) == len(values) else None,
            "differ_with_a_reason": explained.get(name, 0),
            "p90_under_the_reason": percentile(after[name], 0.9),
        }
        for name, values in errors.items()
    }


#: what the table shows: quantity → its words there
TABLE: Mapping[str, str] = {
    "weights": "weights of a rank",
    "weights, format by name": "weights, the copy's format taken from its name",
    "KV capacity": "vLLM: the pool's memory → tokens, blocks, concurrency",
    "KV pool bytes": "SGLang and llama.cpp: bytes of the cache",
    "peak activation": "vLLM: peak of activations",
    "non-torch memory": "vLLM: growth outside PyTorch",
    "memory left for the cache": "memory left for vLLM's cache, from device and share",
    "CUDA graphs": "CUDA graphs",
    "CUDA graphs, vLLM's estimate": "CUDA graphs, as vLLM estimates them",
    "compute buffer": "llama.cpp's compute buffer",
}
#: … of these sets, in columns
COLUMNS = (
    "test",
    "blind",
    "fitted on",
    "blind, November",
    "blind, evening",
    "blind, night",
    "blind, morning",
    "blind, 28 November",
    "blind, 28 November, noon",
)
MARKS = ("<!-- accuracy table: scripts/validate_logs.py --table writes it -->", "<!-- end of the accuracy table -->")


def table(summary: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """The distribution in Markdown: rows, median, 90th percentile, and the share within 1 % (in the band, where there is one)."""
    lines = [f"| what | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for name, words in TABLE.items():
        cells = [_cell(summary.get(column, {}).get(name)) for column in COLUMNS]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    band = found["in_band"]
    share = f"{found['within_1']:.0%}" if band is None else f"{band:.0%} in band"
    return f"{found['n']}: {_percent(found['median'])}, {_percent(found['p90'])}, {share}".replace("%", " %")


def _percent(share: float) -> str:
    return f"{share:.2%}" if share < 0.01 else f"{share:.1%}" if share < 0.1 else f"{share:.0%}"


def write_table(text: str, path: Path) -> None:
    """Put the table between its marks."""
    whole = path.read_text(encoding="utf-8")
    before, _, rest = whole.partition(MARKS[0])
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        raise UsageError(f"{path} has no marks for the table")
    path.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}", encoding="utf-8")
