"""Rows of real server logs: parsed as `hfmem verify` parses a log, completed by what was copied with them, and compared.

A row is a JSON object with `excerpt` (text or lines), `engine`, and what was copied with it: `model`, `gpu`, `flags`, `numbers`.
Of rows marked `transcription`, hand-copied `numbers` fill in what the excerpt lacks; of rows marked `extraction` only what stands
in its own lines counts. Where a log's text is not kept, `readings` and `settings` are what was read of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
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
