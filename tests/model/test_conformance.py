"""Every real config, header and index at hand against what transformers measured and what was published. No tolerance.

Runs where `HFMEM_CORPUS` names a folder `corpus` with `models/<org>__<name>/{config.json,*.index.json}` and, beside it, `oracle`
(`oracle.jsonl` and the configs of its rows) and `headers` (gzipped safetensors headers). A disagreement passes only if
`conformance_notes.py` says which side is right and why.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from conformance_notes import NOTES

from hfmem.checkpoint.grouping import group_facts
from hfmem.checkpoint.index import parse_index
from hfmem.checkpoint.tensors import Checkpoint
from hfmem.dtypes import num_bytes
from hfmem.errors import HfmemError
from hfmem.memory.cache import bytes_per_token
from hfmem.memory.engines import engine
from hfmem.memory.layer_table import layer_runs
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.crosscheck import check, check_names, contradictions
from hfmem.model.expected import index_names, synthesise
from hfmem.model.families.registry import read_architecture
from hfmem.model.layers import CompressedAttention
from hfmem.model.parameters import count_parameters
from hfmem.plan.explain import explain as explain_steps

CORPUS = Path(os.environ.get("HFMEM_CORPUS") or "/nonexistent")
pytestmark = [
    pytest.mark.conformance,
    pytest.mark.skipif(not CORPUS.is_dir(), reason="HFMEM_CORPUS names no folder of real configs"),
]


# ---- the reference data ---------------------------------------------------------------------------------------------------


@functools.cache
def oracle_rows() -> dict[str, dict[str, Any]]:
    path = CORPUS.parent / "oracle" / "oracle.jsonl"
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["id"]: row for row in rows if not row.get("untrusted") and "error" not in row}


def rows_with(*keys: str) -> list[str]:
    return sorted(name for name, row in oracle_rows().items() if all(row.get(key) is not None for key in keys))


def header_files() -> dict[str, Path]:
    folder = CORPUS.parent / "headers"
    return {path.name.removesuffix(".json.gz"): path for path in sorted(folder.glob("*.json.gz"))}


def index_files() -> dict[str, Path]:
    return {
        f"{path.parent.name}/{path.name}": path
        for path in sorted(CORPUS.glob("models/*/*.index.json"))
        if (path.parent / "config.json").is_file()
    }


def config_of(name: str) -> dict[str, Any] | None:
    for path in (CORPUS / "models" / name / "config.json", CORPUS.parent / "headers" / "configs" / f"{name}.json"):
        if path.is_file():
            data: dict[str, Any] = json.loads(path.read_bytes())
            return data
    return None


@functools.cache
def oracle_architecture(name: str) -> Architecture:
    path = CORPUS.parent / "oracle" / oracle_rows()[name]["config"]
    return read_architecture(json.loads(path.read_bytes()))


@functools.cache
def header(name: str) -> tuple[Checkpoint, int]:
    data = json.loads(gzip.decompress(header_files()[name].read_bytes()))
    names: list[str] = []
    facts: list[tuple[str, tuple[int, ...]]] = []
    end = 0
    for tensors in data["shards"].values():
        tensors.pop("__metadata__", None)
        names += tensors
        facts += [(fact["dtype"], tuple(fact["shape"])) for fact in tensors.values()]
        end += max((fact["data_offsets"][1] for fact in tensors.values()), default=0)
    return Checkpoint(group_facts(names, facts), "safetensors", len(data["shards"]), None), end


def explain(name: str, what: str, problems: list[str]) -> None:
    """Fail on an unexplained disagreement, and on an explanation of an agreement."""
    note = NOTES.get(name, {}).get(what)
    if note is None:
        assert not problems, f"{name}: " + "; ".join(problems)
    else:
        assert problems, f"{name}: conformance_notes explains a disagreement in {what!r} that is not there"


# ---- the oracle: what transformers counts and allocates -------------------------------------------------------------------


@pytest.mark.parametrize("name", rows_with("params_total"))
def test_params_total(name: str) -> None:
    row = oracle_rows()[name]
    if row.get("params_untrusted"):
        pytest.skip("marked untrusted")
    arch = oracle_architecture(name)
    # transformers does not build multi-token-prediction layers, published files hold them
    extra = sum(
        s.count * s.elements for s in arch.tensors if s.component == "mtp" and not s.buffer and s.tied_to is None
    )
    got = arch.expected_parameters() - (0 if row.get("method") == "analytic" else extra)
    problems = (
        [] if row["params_total"] in (got, got + extra) else [f"{got:,} parameters, measured {row['params_total']:,}"]
    )
    explain(name, "params_total", problems)


@pytest.mark.parametrize("name", rows_with("params_active"))
def test_params_active(name: str) -> None:
    row = oracle_rows()[name]
    if row.get("params_untrusted"):
        pytest.skip("marked untrusted")
    got = oracle_architecture(name).active_parameters()
    problems = [] if got == row["params_active"] else [f"{got:,} active, measured {row['params_active']:,}"]
    explain(name, "params_active", problems)


@pytest.mark.parametrize("name", [name for name in rows_with("groups") if oracle_rows()[name]["groups"]])
def test_groups(name: str) -> None:
    """Embedding and head; the oracle sorts the other tensors by words in their names, and a head's own norm to the head."""
    row = oracle_rows()[name]
    if row.get("params_untrusted"):
        pytest.skip("marked untrusted")
    ours = {str(key): value for key, value in oracle_architecture(name).parameters_by_component().items()}
    measured = row["groups"]
    problems = []
    if ours.get("embedding", 0) != measured.get("embedding", 0):
        problems.append(f"embedding {ours.get('embedding', 0):,}, measured {measured.get('embedding', 0):,}")
    head, measured_head = ours.get("lm_head", 0), measured.get("lm_head", 0)
    if head != measured_head and head + ours.get("norm", 0) != measured_head + measured.get("norm", 0):
        problems.append(f"lm_head {head:,}, measured {measured_head:,}")
    explain(name, "groups", problems)


def measured_dtype(row: dict[str, Any]) -> str:
    """The dtype the measurement ran in, as its tensors' descriptions say."""
    text = " ".join([*row.get("slope_tensors", {}), *row.get("windowed_tensors", {}), *row.get("constant_tensors", {})])
    return "BF16" if "bfloat16" in text or "float32" not in text else "F32"


def encoder_tokens(row: dict[str, Any]) -> int | None:
    """How long an encoder's output was in the measurement: said, or read off the constant keys `[heads, tokens, head_dim]`."""
    if row.get("encoder_len_used"):
        return int(row["encoder_len_used"])
    lengths = {
        int(m[1]) for text in row.get("constant_tensors", {}) if (m := re.search(r"keys \[\d+, (\d+), \d+\]", text))
    }
    return lengths.pop() if len(lengths) == 1 else None


def transformers_cache(name: str, context: int, num_seqs: int) -> Any:
    row = oracle_rows()[name]
    arch = dataclasses.replace(oracle_architecture(name), dtype=measured_dtype(row))
    return engine("transformers").cache(arch, Serving(context, num_seqs, source_tokens=encoder_tokens(row)))


@pytest.mark.parametrize("name", rows_with("kv"))
def test_kv(name: str) -> None:
    row = oracle_rows()[name]
    problems = []
    for key, measured in row["kv"].items():
        context, num_seqs = map(int, key.split(","))
        got = transformers_cache(name, context, num_seqs).bytes
        if got != measured["total"]:
            problems.append(f"{context} tokens × {num_seqs}: {got:,} bytes, measured {measured['total']:,}")
    explain(name, "kv", problems)


@pytest.mark.parametrize("name", rows_with("kv_bytes_per_token_slope"))
def test_slope(name: str) -> None:
    row = oracle_rows()[name]
    got = bytes_per_token(dataclasses.replace(oracle_architecture(name), dtype=measured_dtype(row)))
    measured = row["kv_bytes_per_token_slope"]
    if any(isinstance(cache, CompressedAttention) for cache in oracle_architecture(name).caches()):
        measured = row[
            "asymptotic_slope_mid_to_hi"
        ]  # a compressed row stands for several tokens: no tensor grows by one a token
    explain(name, "slope", [] if got == measured else [f"{got:,} bytes per token, measured {measured:,}"])


@pytest.mark.parametrize("name", rows_with("constant_state_bytes"))
def test_state(name: str) -> None:
    measured = oracle_rows()[name]["constant_state_bytes"]
    got = transformers_cache(name, 8192, 1).state_bytes_per_seq
    explain(name, "state", [] if got == measured else [f"{got:,} constant bytes, measured {measured:,}"])


# ---- published headers and indices ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(header_files()))
def test_headers(name: str) -> None:
    checkpoint, end = header(name)
    assert checkpoint.total_bytes == end  # every shard's data ends where its tensors add up to
    config = config_of(name)
    if config is None:
        pytest.skip("no config.json beside the headers")
    problems: list[str] = []
    try:
        arch = read_architecture(config)
    except HfmemError as error:
        problems = [error.message]
    else:
        problems = [f"{note.code}: {note.message}" for note in contradictions(check(arch, checkpoint))]
        report = count_parameters(arch, checkpoint)
        if report.weights_bytes != end:
            problems.append(f"{report.weights_bytes:,} bytes of weights, the files hold {end:,}")
        allowed = {arch.expected_parameters()}
        optional = sum(s.count * s.elements for s in arch.tensors if s.optional and s.tied_to is None and not s.buffer)
        allowed.add(arch.expected_parameters() - optional)
        if report.total not in allowed:
            problems.append(f"{report.total:,} parameters stored, {arch.expected_parameters():,} expected")
    explain(name, "headers", problems)


LIES = {
    "num_hidden_layers": lambda value: value + 1,
    "vocab_size": lambda value: value + 64,
    "num_key_value_heads": lambda value: value // 2,
    "intermediate_size": lambda value: value + 64,
    "head_dim": lambda value: value * 2,
}


@pytest.mark.parametrize("name", list(header_files()))
def test_a_config_that_lies_is_found_out(name: str) -> None:
    """Wherever a wrong number changes what the config makes one expect, the stored tensors contradict it."""
    config = config_of(name)
    if config is None:
        pytest.skip("no config.json beside the headers")
    checkpoint, _ = header(name)
    truth = read_architecture(config)
    known = {note.code for note in contradictions(check(truth, checkpoint))}
    for part in (config, config.get("text_config")):
        for key, lie in LIES.items():
            if not isinstance(part, dict) or not isinstance(part.get(key), int):
                continue
            told = part[key]
            part[key] = lie(told)
            try:
                arch = read_architecture(config)
            except HfmemError:
                continue  # it contradicts the config itself
            finally:
                part[key] = told
            if arch.tensors != truth.tensors:
                found = {note.code for note in contradictions(check(arch, checkpoint))}
                assert found - known, f"{name}: {key} {told} told as {lie(told)}"


@pytest.mark.parametrize("name", list(index_files()))
def test_index(name: str) -> None:
    path = index_files()[name]
    problems: list[str] = []
    try:
        arch = read_architecture(json.loads((path.parent / "config.json").read_bytes()))
        index = parse_index(path.read_bytes(), path.name)
    except HfmemError as error:
        problems = [error.message]
    else:
        names = index_names(index)
        problems = [f"{note.code}: {note.message}" for note in contradictions(check_names(arch, names))]
        quantized = "quantization_config" in json.loads((path.parent / "config.json").read_bytes())
        if index.total_size and not quantized:
            stored = synthesise(arch, names=names)
            tables = sum(group.count for group in names if group.pattern.endswith("rotary_emb.inv_freq"))
            # old files repeat the rotary table of head_dim / 2 floats in every layer, in float32 or in the model's dtype
            sizes = {
                sum(num_bytes(code, g.total_elements) for g in stored)
                + num_bytes(table, tables * (arch.head_dim or 0) // 2)
                for code in ("F32", "BF16", "F8_E4M3")
                for table in ("F32", "BF16")
            }
            if index.total_size not in sizes:
                nearest = min(sizes, key=lambda size: abs(size - (index.total_size or 0)))
                problems.append(f"{index.total_size:,} bytes in the index, the inventory takes {nearest:,}")
    explain(name.partition("/")[0], "index", problems)


# ---- what is told about every real config adds up -------------------------------------------------------------------------


def config_names() -> list[str]:
    return sorted(path.parent.name for path in CORPUS.glob("models/*/config.json"))


@pytest.mark.parametrize("name", config_names())
def test_tables_add_up(name: str) -> None:
    config = config_of(name)
    assert config is not None
    try:
        arch = read_architecture(config)
    except HfmemError as error:
        explain(name, "tables", [error.message])
        return
    serving = Serving(32_768, 2)
    ideal = engine("ideal").cache(arch, serving).bytes
    assert sum(run.bytes for run in layer_runs(arch, serving)) == ideal
    report = count_parameters(arch)
    assert sum(report.by_component.values()) == report.total == arch.expected_parameters()
    assert sum(report.weights_by_component.values()) == sum(report.weights_by_dtype.values()) == report.weights_bytes
    assert 0 < report.active <= report.total
    told = explain_steps(name, arch, report, serving)
    parameters, _, per_token, cache, _ = told.sections
    assert sum(step.result for step in parameters.steps if step.running is not None) == report.total
    assert per_token.result == bytes_per_token(arch)
    assert sum(step.result for step in cache.steps if step.running is not None) == ideal
    explain(name, "tables", [])
