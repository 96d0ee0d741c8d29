#!/usr/bin/env python3
"""Predicted against logged for rows of real server logs, and how the errors are distributed.

    python scripts/validate_logs.py LOGS.jsonl [--configs FOLDER]... [--json]

A row is a JSON object with `excerpt` (text or lines), `engine`, and what was copied with it: `model`, `gpu`, `flags`, `numbers`.
The excerpt is parsed as `hfmem verify` parses a log. Of rows marked `transcription`, hand-copied `numbers` fill in what it lacks;
of rows marked `extraction` only what stands in the excerpt's own lines counts. Models come from the shipped catalogue, or from
config.json files in the folders given (`org__name/config.json`, `org__name.json`, `org--name.json`). Nothing is fetched.
"""

from __future__ import annotations

import argparse
import atexit
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from hfmem.errors import HfmemError, UsageError
from hfmem.hub import FetchOptions
from hfmem.hub.catalog import catalog_names
from hfmem.memory.formats import canonical_kv_dtype
from hfmem.plan.devices import find_device
from hfmem.plan.log_settings import Settings
from hfmem.plan.logs import LogFacts, Reading, base_of, model_names, parse_log
from hfmem.plan.verify import verify
from hfmem.plan.verify_types import Check
from hfmem.reading import Model, in_format, read_model
from hfmem.units import GIB, MIB

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
    "pool_tokens": ("capacity_tokens", 1),
    "gpu_blocks": ("num_blocks", 1),
    "est_max_len": ("max_context", 1),
    "max_concurrency": ("max_concurrency", 1),
}
#: words at the end of a GGUF's name that are not part of the model's
GGUF_WORDS = re.compile(r"(?i)[\s_-]*(bf16|safetensors|qat|128k|gguf|q\d\w*)$|^unsloth_|'")
#: checks that are one quantity
QUANTITIES: Mapping[str, tuple[str, ...]] = {
    "weights": ("weights",),
    "weights, format by name": ("weights of the named format",),
    "KV capacity": ("GPU blocks", "KV cache tokens", "maximum concurrency", "longest context", "KV cache of"),
    "KV pool bytes": ("K of the token pool", "V of the token pool", "token pool", "KV cache"),
    "memory left for the cache": ("memory left for the cache",),
    "KV capacity by the device": ("cache tokens by the device",),
    "peak activation": ("peak activation",),
    "CUDA graphs": ("CUDA graphs",),
    "non-torch memory": ("non-torch memory",),
    "compute buffer": ("compute buffer",),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row's outcome: its checks, or why it cannot be used."""

    id: str
    engine: str
    model: str
    checks: tuple[Check, ...] = ()
    unusable: str = ""
    notes: tuple[str, ...] = field(default=())


class Models:
    """Models by the names that logs use: catalogue first, then the folders' configs."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._configs: dict[str, Path] = {}
        for name, path in (pair for folder in folders for pair in _configs(folder)):
            self._configs.setdefault(_key(name), path)
        self._scratch: Path | None = None
        self._tails = {_key(name.rpartition("/")[2]): name for name in catalog_names()}

    @cache  # noqa: B019 - one object, for the life of the script
    def read(self, name: str) -> Model | None:
        """The model of that name, None where neither source has it."""
        fetch = FetchOptions(offline=True, no_cache=True)
        if bare := re.fullmatch(r"(\S.*?) \(.*\)", name):  # a copyist's remark
            name = bare[1]
        for candidate in (*model_names(name), GGUF_WORDS.sub("", GGUF_WORDS.sub("", name)).replace(" ", "-")):
            key = _key(candidate)
            known = candidate if candidate in catalog_names() else self._tails.get(_key(candidate.rpartition("/")[2]))
            path = None if known else self._configs.get(key) or self._configs.get(_key(candidate.rpartition("/")[2]))
            if known or path:
                try:
                    read = read_model(known or self._folder(path), fetch=fetch)
                    quant = base_of(name)[1]
                    if quant and read.quantization is None and read.packing is None:
                        return replace_id(in_format(read, quant), name)  # its config does not say so
                    return read
                except HfmemError:
                    continue
        base, quant = base_of(name)
        plain = self.read(base) if quant else None
        if plain is not None and plain.quantization is None:
            return replace_id(in_format(plain, quant), name)
        return None

    def _folder(self, path: Path | None) -> str:
        """A folder that holds the config: a lone file is copied into one."""
        assert path is not None
        if path.is_dir():
            return str(path)
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp())
            atexit.register(shutil.rmtree, self._scratch, ignore_errors=True)
        place = self._scratch / path.stem
        place.mkdir(exist_ok=True)
        (place / "config.json").write_bytes(path.read_bytes())
        return str(place)


def replace_id(read: Model, name: str) -> Model:
    """`read` under another name."""
    return replace(read, facts=replace(read.facts, repo_id=name))


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _configs(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()):
        name = re.sub(r"--|__", "/", path.stem if path.suffix == ".json" else path.name, count=1)
        place = path if path.suffix == ".json" else path / "config.json"
        if place.is_file():
            yield name, place if path.suffix == ".json" else path
            yield name.rpartition("/")[2], place if path.suffix == ".json" else path


def check_row(row: Mapping[str, Any], models: Models) -> Row:
    """Parse, complete and compare one row."""
    ident, engine = str(row.get("id", "?")), str(row.get("engine", ""))
    excerpt = row.get("excerpt") or ""
    text = "\n".join(excerpt) if isinstance(excerpt, list) else str(excerpt)
    try:
        log = parse_log(text)
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
        max_num_batched_tokens=told.max_num_batched_tokens or whole("max_num_batched_tokens"),
        page_size=told.page_size or whole("block_size"),
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
    return LogFacts(log.engine, log.version or row.get("version"), told, readings, log.starts), tuple(notes)


def quantity(item: Check) -> str:
    """Which of `QUANTITIES` a check belongs to."""
    exact = next((name for name, titles in QUANTITIES.items() if item.what in titles), None)
    return exact or next(name for name, titles in QUANTITIES.items() if item.what.startswith(titles))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(-(-len(ordered) * round(share * 100) // 100) - 1, 0)]


def distribution(rows: Iterable[Row]) -> dict[str, dict[str, float]]:
    """By quantity: n, median and 90th percentile of |error|, the worst, and how many rows differ with a reason."""
    errors: dict[str, list[float]] = {}
    explained: dict[str, int] = {}
    after: dict[str, list[float]] = {}
    for row in rows:
        worst: dict[str, Check] = {}
        for item in row.checks:  # a row counts once a quantity, by its worst line
            name = quantity(item)
            if name not in worst or abs(item.difference or 0) > abs(worst[name].difference or 0):
                worst[name] = item
        for name, item in worst.items():
            if item.difference is None:
                continue
            if item.reason and item.verdict == "differs":
                explained[name] = explained.get(name, 0) + 1
            errors.setdefault(name, []).append(abs(item.difference))
            met = item.predicted if item.met is None else item.met
            after.setdefault(name, []).append(abs((met or 0) - item.logged) / abs(item.logged))
    return {
        name: {
            "n": len(values),
            "median": percentile(values, 0.5),
            "p90": percentile(values, 0.9),
            "worst": max(values),
            "differ_with_a_reason": explained.get(name, 0),
            "p90_under_the_reason": percentile(after[name], 0.9),
        }
        for name, values in errors.items()
    }


def main() -> int:
    """Print the comparison and the distribution."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path)
    parser.add_argument("--configs", type=Path, action="append", default=[], help="folder of config.json files")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    models = Models(options.configs)
    with options.logs.open(encoding="utf-8") as file:
        rows = [check_row(json.loads(line), models) for line in file if line.strip()]
    summary = distribution(rows)
    if options.json:
        sys.stdout.write(json.dumps({"rows": [_plain(row) for row in rows], "distribution": summary}, indent=2) + "\n")
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
    print(f"\n{'':<28} {'n':>4} {'median':>8} {'p90':>8} {'worst':>8}  {'with reason':>11} {'p90 then':>8}")
    for name, found in summary.items():
        print(
            f"{name:<28} {found['n']:>4} {found['median']:>8.2%} {found['p90']:>8.2%} {found['worst']:>8.2%}"
            f"  {found['differ_with_a_reason']:>11} {found['p90_under_the_reason']:>8.2%}"
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
