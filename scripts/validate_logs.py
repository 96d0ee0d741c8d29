#!/usr/bin/env python3
"""Predicted against logged for rows of real server logs, and how the errors are distributed.

    python scripts/validate_logs.py [LOGS.jsonl] [--configs FOLDER]... [--json | --readme] [--figures FILE]

A row is a JSON object with `excerpt` (text or lines), `engine`, and what was copied with it: `model`, `gpu`, `flags`, `numbers`.
The excerpt is parsed as `hfmem verify` parses a log. Of rows marked `transcription`, hand-copied `numbers` fill in what it lacks;
of rows marked `extraction` only what stands in the excerpt's own lines counts. Models come from the shipped catalogue, or from
config.json files in the folders given (`org__name/config.json`, `org__name.json`, `org--name.json`). Nothing is fetched.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from hfmem.errors import HfmemError, UsageError
from hfmem.hub.catalog import catalog_names
from hfmem.memory.engines.vllm.releases import GraphSizes
from hfmem.memory.formats import canonical_kv_dtype
from hfmem.plan.devices import find_device
from hfmem.server_logs.checks import Check
from hfmem.server_logs.compare import verify
from hfmem.server_logs.parse import LogFacts, Reading, parse_log
from hfmem.server_logs.settings import Settings
from hfmem.units import GIB, MIB
from log_models import Models

#: figures of public logs: numbers, settings and where they are from
FIGURES = Path(__file__).parent / "logged_figures.jsonl"
#: what a hand-copied number is called → our reading and its unit
NUMBERS: Mapping[str, tuple[str, int]] = {
    "weights_GB_as_logged": ("weights_bytes", GIB),
    "weights_GB_per_gpu_as_logged": ("weights_bytes", GIB),
    "weights_GiB": ("weights_bytes", GIB),
    "weights_GiB_per_gpu": ("weights_bytes", GIB),
    "weights_mem_usage_GB_per_gpu": ("weights_bytes", GIB),
    "available_kv_GiB": ("available_bytes", GIB),
    "available_kv_GiB_per_gpu": ("available_bytes", GIB),
    "kv_GiB_per_gpu": ("available_bytes", GIB),
    "kv_GiB": ("available_bytes", GIB),
    "kv_available_GiB": ("available_bytes", GIB),
    "kv_needed_GiB": ("needed_bytes", GIB),
    "activation_GiB": ("activations_bytes", GIB),
    "non_torch_GiB": ("engine_bytes", GIB),
    "cudagraph_GiB": ("cuda_graph_bytes", GIB),
    "cuda_graph_GiB": ("cuda_graph_bytes", GIB),
    "total_gpu_GiB": ("device_bytes", GIB),
    "kv_self_size_MiB": ("cache_bytes", MIB),
    "kv_tokens": ("capacity_tokens", 1),
    "pool_tokens": ("pool_tokens", 1),
    "key_GiB": ("key_bytes", GIB),
    "value_GiB": ("value_bytes", GIB),
    "compute_buffer_MiB": ("compute_buffer_bytes", MIB),
    "graph_estimate_GiB": ("graph_estimate_bytes", GIB),
    "gpu_blocks": ("num_blocks", 1),
    "est_max_len": ("max_context", 1),
    "max_concurrency": ("max_concurrency", 1),
}
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


@dataclass(frozen=True, slots=True)
class Row:
    """One row's outcome: its checks, or why it cannot be used."""

    id: str
    engine: str
    model: str
    checks: tuple[Check, ...] = ()
    unusable: str = ""
    part: str = ""
    notes: tuple[str, ...] = field(default=())


def check_row(row: Mapping[str, Any], models: Models) -> Row:
    """Parse, complete and compare one row."""
    ident, engine = str(row.get("id", "?")), str(row.get("engine", ""))
    excerpt = row.get("excerpt") or ""
    text = "\n".join(excerpt) if isinstance(excerpt, list) else str(excerpt)
    try:
        log = _figures(row) if "readings" in row else parse_log(text)
    except UsageError:
        log = LogFacts(_engine(engine), row.get("version"), Settings(), {})
    log, notes = _complete(log, row)
    name = row.get("model") or log.settings.model
    if log.engine not in ("vllm", "sglang", "llama.cpp") or engine.startswith(("ollama", "pegainfer", "vllm (tpu)")):
        return Row(ident, engine, str(name), unusable=f"{engine} is no engine of ours")
    if " says " in str(name):
        return Row(ident, engine, str(name), unusable="the row names two models")
    if not log.readings:
        return Row(ident, engine, str(name), unusable="no size is in the excerpt (truncated)")
    read = next((m for n in (name, log.settings.model, _named(text)) if n and (m := models.read(str(n)))), None)
    if read is None:
        why = "neither the row nor the excerpt names a model" if not name else f"{name} is in no source at hand"
        return Row(ident, engine, str(name), unusable=why)
    gpu = str(row.get("gpu") or "")
    try:
        device = find_device(re.sub(r"\(.*|^\d+x ?", "", gpu).strip()).device if gpu else None
    except UsageError:
        device = None
    if "extraction" in row:
        device = None  # a GPU named somewhere in a thread
    try:
        result = verify(read, log, device=device)
    except HfmemError as error:
        return Row(ident, engine, str(name), unusable=error.message)
    if not result.checks:
        return Row(
            ident, engine, str(name), unusable="its lines lack what they depend on (memory for the pool, context)"
        )
    checks = result.checks
    if read.facts.repo_id == name and name not in catalog_names():  # a base model in the format that the name tells
        checks = tuple(replace(c, what="weights of the named format") if c.what == "weights" else c for c in checks)
    return Row(ident, engine, str(name), checks, notes=notes)


def _figures(row: Mapping[str, Any]) -> LogFacts:
    """A log of which the figures alone are kept."""
    told = {**row["settings"]}
    told |= {name: Fraction(told[name]) for name in ("utilization",) if name in told}
    told |= {name: tuple(told[name]) for name in ("other",) if name in told}
    readings = {
        name: tuple(Reading(value, slack, 0) for value, slack in pairs) for name, pairs in row["readings"].items()
    }
    counted, form = row.get("graphs_counted", False), row.get("form")
    graphs = GraphSizes(*row["graphs"]) if "graphs" in row else None
    return LogFacts(_engine(row["engine"]), row.get("version"), Settings(**told), readings, 1, counted, form, graphs)


def figures(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `_figures` reads of a row's log: numbers and settings, none of its text; None where it says nothing."""
    text = "\n".join(row["excerpt"]) if isinstance(row["excerpt"], list) else str(row["excerpt"])
    try:
        log = parse_log(text)
    except UsageError:
        return None
    default = Settings()
    told = {name: getattr(log.settings, name) for name in Settings.__match_args__}
    told = {name: value for name, value in told.items() if value != getattr(default, name)}
    told |= {name: str(told[name]) for name in ("utilization",) if name in told}
    found = {name: row[name] for name in ("id", "gpu", "source") if row.get(name)}
    found |= {"engine": log.engine, "version": log.version, "settings": told}
    found["readings"] = {
        name: list(dict.fromkeys((item.value, item.slack) for item in items)) for name, items in log.readings.items()
    }
    more = {"graphs_counted": log.graphs_counted, "form": log.form, "graphs": log.graphs}
    return found | {name: value for name, value in more.items() if value}


def _engine(name: str) -> Any:
    return "llama.cpp" if "llama" in name else "sglang" if "sglang" in name else "vllm"


def _named(text: str) -> str | None:
    """The only model of the catalogue that a text names in full."""
    found = {name for name in re.findall(r"[\w.-]{2,60}/[\w.-]{2,90}", text) if name in catalog_names()}
    return found.pop() if len(found) == 1 else None


def _complete(log: LogFacts, row: Mapping[str, Any]) -> tuple[LogFacts, tuple[str, ...]]:
    """`log` with what the row's own fields say beside it."""
    flags, numbers = row.get("flags") or {}, row.get("numbers") or {}
    notes = []
    told = log.settings

    def whole(name: str) -> int | None:
        value = flags.get(name)
        return int(str(value)) if isinstance(value, int | str) and str(value).isdigit() else None

    kv = flags.get("kv_dtype")
    try:
        kv = canonical_kv_dtype(kv) if isinstance(kv, str) else None
    except UsageError:
        kv = None
    share = flags.get("gpu_memory_utilization", flags.get("util"))
    told = replace(
        told,
        tp=told.tp if told.tp > 1 else whole("tp") or 1,
        pp=told.pp if told.pp > 1 else whole("pp") or 1,
        context=told.context or whole("max_model_len") or whole("context_len") or whole("n_ctx"),
        max_num_seqs=told.max_num_seqs or whole("max_num_seqs"),
        eager=told.eager or flags.get("eager") is True,
        offline=told.offline or flags.get("offline") is True,
        quantization=told.quantization or flags.get("quantization"),
        ubatch=told.ubatch or whole("n_ubatch"),
        max_num_batched_tokens=told.max_num_batched_tokens or whole("max_num_batched_tokens"),
        page_size=told.page_size or whole("block_size"),
        prefix_caching=told.prefix_caching if told.prefix_caching is not None else flags.get("enable_prefix_caching"),
        kv_dtype=told.kv_dtype or kv,
        utilization=told.utilization or (Fraction(str(share)) if share and 0 < float(share) <= 1 else None),
    )
    readings = dict(log.readings)
    if "transcription" in row:
        for name, (target, unit) in NUMBERS.items():
            value = numbers.get(name)
            if target in readings or not isinstance(value, int | float) or value <= 0:
                continue
            digits = len(repr(value).partition(".")[2]) if isinstance(value, float) else 0
            slack = 10**-digits * unit / 2 if isinstance(value, float) else 0
            number = value if target == "max_concurrency" else round(value * unit)
            readings[target] = (Reading(number, slack, 0),)
            notes.append(f"{target} from the hand copy")
    return replace(log, version=log.version or row.get("version"), settings=told, readings=readings), tuple(notes)


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


#: what README shows: quantity → its words there
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
COLUMNS = ("test", "blind", "fitted on", "blind, November", "blind, evening", "blind, night", "blind, morning")
MARKS = ("<!-- accuracy table: scripts/validate_logs.py --readme writes it -->", "<!-- end of the accuracy table -->")


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


def main() -> int:
    """Print the comparison and the distribution."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="?", default=FIGURES, help="rows, one a line [default: %(default)s]")
    parser.add_argument("--figures", type=Path, help="write the figures of the rows there, and compare nothing")
    parser.add_argument("--configs", type=Path, action="append", default=[], help="folder of config.json files")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--readme", action="store_true", help="write the distribution into README.md")
    options = parser.parse_args()
    if options.figures:
        with options.logs.open(encoding="utf-8") as file:
            kept = [figures(json.loads(line)) for line in file if line.strip()]
        text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in kept if row)
        options.figures.write_text(text, encoding="utf-8")
        return 0
    models = Models(options.configs)
    with options.logs.open(encoding="utf-8") as file:
        raw = [json.loads(line) for line in file if line.strip()]
    rows = [replace(check_row(row, models), part=str(row.get("set", ""))) for row in raw]
    parts = dict.fromkeys(row.part for row in rows)
    summary = {part: distribution(row for row in rows if row.part == part) for part in parts}
    if options.readme:
        write_table(table(summary), Path(__file__).parent.parent / "README.md")
        return 0
    if options.json:
        answer = {"rows": [_plain(row) for row in rows], "distribution": summary.get("", summary)}
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
        return 0
    for row in rows:
        for item in row.checks:
            error = "" if item.difference is None else f"{item.difference:+8.2%}"
            reason = f"  ({item.reason})" if item.reason else ""
            values = f"{_text(item.logged, item):>14} {_text(item.predicted, item):>14} {error}"
            print(f"{row.id:>4} {row.model[:44]:<44} {item.what:<26} {values} {item.verdict}{reason}")
    unusable = [row for row in rows if row.unusable]
    print(f"\nnot usable: {len(unusable)} of {len(rows)} rows")
    for row in unusable:
        print(f"{row.id:>4} {row.model[:44]:<44} {row.unusable}")
    for part, found in summary.items():
        print(
            f"\n{part:<28} {'n':>4} {'median':>8} {'p90':>8} {'<= 1 %':>7} {'<= 10 %':>7} {'in band':>7} {'p90 with reasons':>17}"
        )
        for name, own in found.items():
            band = "" if own["in_band"] is None else f"{own['in_band']:.0%}"
            print(
                f"{name:<28} {own['n']:>4} {own['median']:>8.2%} {own['p90']:>8.2%} {own['within_1']:>7.0%}"
                f" {own['within_10']:>7.0%} {band:>7} {own['p90_under_the_reason']:>17.2%}"
            )
    return 0


def _text(value: float | None, item: Check) -> str:
    if value is None:
        return "-"
    return f"{value / GIB:,.3f} GiB" if item.measure == "bytes" else f"{value:,.2f}".removesuffix(".00")


def _plain(row: Row) -> dict[str, Any]:
    checks = [{name: getattr(item, name) for name in Check.__slots__} for item in row.checks]
    return {"id": row.id, "engine": row.engine, "model": row.model, "unusable": row.unusable, "checks": checks}


if __name__ == "__main__":
    sys.exit(main())
