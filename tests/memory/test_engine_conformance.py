"""Engines over every config of the oracle folder: what transformers 5.23.0 allocates and vLLM 0.33.0's functions return.

Runs where `HFMEM_CORPUS` names the folder `corpus`; `oracle` lies beside it. A config no family reads yet is skipped, a
disagreement is a failure unless it stands in `EXPLAINED` with its reason.
"""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from hfmem.checkpoint.grouping import group_facts
from hfmem.checkpoint.tensors import TensorGroup
from hfmem.errors import UnsupportedError
from hfmem.memory.cache import bytes_per_token
from hfmem.memory.engines import engine
from hfmem.memory.engines.vllm import layout
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.architecture import Architecture
from hfmem.model.families.registry import read_architecture
from hfmem.model.inventory import Component
from hfmem.model.layers import CrossAttention

ORACLE = Path(os.environ.get("HFMEM_CORPUS") or "/nonexistent").parent / "oracle"
pytestmark = [
    pytest.mark.conformance,
    pytest.mark.skipif(
        not (ORACLE / "oracle.jsonl").is_file(), reason="HFMEM_CORPUS names no folder with oracle beside"
    ),
]

#: (model, what) → why hfmem and the oracle differ, and which side is right
_BROADCAST: Final = "the model needs its own KV heads; transformers' Falcon caches them broadcast to every query head"
_PHI4_MINI: Final = (
    "a window of 262,144 is more than the model's 131,072 positions: its layers keep every token they can hold"
)
EXPLAINED: Final[dict[tuple[str, str], str]] = {
    ("EleutherAI__gpt-neo-1.3B", "growth"): "local layers need their window; transformers masks the rest and keeps it",
    ("tiiuae__falcon-40b", "growth"): _BROADCAST,
    ("tiiuae__falcon-180B", "growth"): _BROADCAST,
    ("tiiuae__falcon-180B-chat", "growth"): _BROADCAST,
    ("microsoft__Phi-4-mini-reasoning", "growth"): _PHI4_MINI,
    ("microsoft__Phi-4-mini-reasoning", "transformers 1048576,1"): _PHI4_MINI,
    ("microsoft__Phi-4-mini-reasoning", "transformers 1048576,3"): _PHI4_MINI,
    (
        "Qwen__Qwen2.5-VL-3B-Instruct",
        "tp8 served",
    ): "the vision tower's FFN of 3420 is what does not divide: weights refuse it",
    ("THUDM__glm-4v-9b-hf", "tp8 served"): "the vision tower's 12 heads are what does not divide: weights refuse it",
    (
        "mlx-community__Mistral-Small-4-119B-4bit",
        "tp1 served",
    ): "vLLM stops at a config without `architectures`; the cache does not",
    (
        "mlx-community__Mistral-Small-4-119B-4bit",
        "tp8 served",
    ): "vLLM stops at a config without `architectures`; the cache does not",
}
#: models whose parameters vLLM lays out otherwise than their family's inventory says, by name of the run
_PARAMETERS_EXPLAINED: Final[dict[str, str]] = {
    "google-bert__bert-base-uncased": "vLLM builds the masked-language head with a table of its own, which the file shares",
    "microsoft__phi-2": "the Transformers backend gives the head no bias, which the file stores",
    "WizardLM__WizardCoder-15B-V1.0": "the Transformers backend has no plan for GPT-BigCode and repeats its layers",
    "llava-hf__llava-1.5-7b-hf": "vLLM leaves out the tower's last layer, whose output the projector never reads",
    "THUDM__glm-4v-9b-hf": "vLLM's tower has no biases in attention, transformers' has",
    "moonshotai__Kimi-K2-Thinking": "this copy of the config lacks `topk_method`: vLLM makes no correction bias then",
}
#: messages of the oracle's own tools and files, which say nothing of vLLM
_TOOLING: Final = ("cudart", "image processor", "No such file", "position_ids", "layer_types", "@gemma3.py")

#: the oracle measured Mllama with one image of four tiles
_MLLAMA_TOKENS: Final = 6404


def rows() -> list[dict[str, Any]]:
    if not (ORACLE / "oracle.jsonl").is_file():
        return []
    with (ORACLE / "oracle.jsonl").open() as lines:
        return [row for row in map(json.loads, lines) if not row.get("untrusted")]


@pytest.fixture(scope="module")
def architectures() -> dict[str, Architecture]:
    """Each config as a family reads it, in bf16, which is what the oracle ran everything in."""
    found = {}
    for row in rows():
        try:
            arch = read_architecture(json.loads((ORACLE / row["config"]).read_text()))
        except UnsupportedError:
            continue
        found[row["id"]] = replace(arch, dtype="BF16")
    return found


def check(differences: list[tuple[str, str, object]]) -> None:
    unexplained = [entry for entry in differences if entry[:2] not in EXPLAINED]
    assert not unexplained, "\n".join(map(str, unexplained))


def test_transformers_allocates_these_bytes(architectures: dict[str, Architecture]) -> None:
    differences: list[tuple[str, str, object]] = []
    checked = 0
    for row in rows():
        arch = architectures.get(row["id"])
        if arch is None:
            continue
        source = row.get("encoder_len_used") or _MLLAMA_TOKENS
        for key, measured in (row.get("kv") or {}).items():
            context, batch = map(int, key.split(","))
            got = engine("transformers").cache(arch, Serving(context, batch, source_tokens=source)).bytes
            checked += 1
            if got != measured["total"]:
                differences.append((row["id"], f"transformers {key}", (got, measured["total"])))
    assert checked > 500
    check(differences)


def test_growth_per_token(architectures: dict[str, Architecture]) -> None:
    differences: list[tuple[str, str, object]] = []
    for row in rows():
        arch, slope = architectures.get(row["id"]), row.get("kv_bytes_per_token_slope")
        if arch is None or slope is None:
            continue
        if arch.model_type == "deepseek_v4":  # no tensor grows by a token: the slope between two lengths does
            slope = row["asymptotic_slope_mid_to_hi"]
        if bytes_per_token(arch) != slope:
            differences.append((row["id"], "growth", (bytes_per_token(arch), slope)))
    check(differences)


def runs(row: dict[str, Any]) -> list[tuple[str, int, str, dict[str, Any]]]:
    """Name, tensor-parallel size, KV dtype and the oracle's record of each vLLM run of a row."""
    vllm = row["vllm"]
    if not isinstance(vllm, dict):
        return []
    found = [(name, tp, "auto", vllm[name]) for name, tp in (("tp1", 1), ("tp8", 8)) if vllm.get(name)]
    for name, record in (vllm.get("fp8_kv") or {}).items():
        if isinstance(record, dict) and name.startswith("tp"):
            found.append((f"fp8 {name}", int(name[2:]), "fp8", record))
    return found


def test_vllm_admits_one_request_of_these_bytes(architectures: dict[str, Architecture]) -> None:
    differences: list[tuple[str, str, object]] = []
    checked = 0
    for row in rows():
        arch = architectures.get(row["id"])
        if arch is None:
            continue
        for name, tp, kv_dtype, record in runs(row):
            if not record.get("layers"):
                continue
            for context, expected in record["one_request_bytes_by_max_model_len"].items():
                serving = Serving(int(context), tp=tp, kv_dtype=kv_dtype)
                got = engine("vllm").cache(arch, serving).bytes_per_rank
                block = max(layout(arch, serving).stage_block_bytes)
                checked += 1
                state = engine("vllm").cache(arch, serving).state_bytes_per_seq
                if (
                    not any(isinstance(cache, CrossAttention) for cache in arch.caches())
                    and state != tp * record["state_bytes"]
                ):
                    differences.append((row["id"], f"{name} state", (state, record["state_bytes"])))
                if (got, block) != (expected, record["pool_bytes_per_block"]):
                    differences.append((row["id"], f"{name} {context}", (got, expected, block)))
    assert checked > 500
    check(differences)


def test_vllm_specs_are_these(architectures: dict[str, Architecture]) -> None:
    """Kind, tokens and bytes of a page of every layer."""
    differences: list[tuple[str, str, object]] = []
    for row in rows():
        arch = architectures.get(row["id"])
        if arch is None:
            continue
        for name, tp, kv_dtype, record in runs(row):
            if not record.get("layers") or not record.get("pool_bytes_per_block"):
                continue
            plan = layout(arch, Serving(8192, tp=tp, kv_dtype=kv_dtype)).plan
            got: dict[tuple[str, int, int], int] = {}
            for member in plan.members:
                key = (member.spec.kind.value, member.spec.block_size, member.spec.page_bytes)
                got[key] = got.get(key, 0) + 1
            expected: dict[tuple[str, int, int], int] = {}
            for layer in record["layers"]:
                key = (layer["kind"], layer["block_size"], layer["page_bytes"])
                expected[key] = expected.get(key, 0) + layer["count"]
            if got != expected:
                differences.append((row["id"], f"{name} specs", (got, expected)))
    check(differences)


def test_vllm_refuses_what_vllm_refuses(architectures: dict[str, Architecture]) -> None:
    differences: list[tuple[str, str, object]] = []
    for row in rows():
        arch = architectures.get(row["id"])
        if arch is None:
            continue
        for name, tp, kv_dtype, record in runs(row):
            reason = record.get("error")
            if reason is None or any(word in reason for word in _TOOLING):
                continue
            try:
                engine("vllm").cache(arch, Serving(512, tp=tp, kv_dtype=kv_dtype))
            except UnsupportedError:
                continue
            differences.append((row["id"], f"{name} served", reason))
    check(differences)


def test_parameters_of_a_rank(architectures: dict[str, Architecture]) -> None:
    differences: list[tuple[str, str, object]] = []
    checked = 0
    for row in rows():
        arch = architectures.get(row["id"])
        if arch is None or row["id"] in _PARAMETERS_EXPLAINED:
            continue
        for name, tp, kv_dtype, record in runs(row):
            expected = record.get("params_rank")
            if expected is None or kv_dtype != "auto":
                continue
            got = rank_weights(arch, (), Serving(10, tp=tp)).parameters
            checked += 1
            if got != expected:
                differences.append((row["id"], f"{name} parameters", (got, expected)))
    assert checked > 200
    check(differences)


def test_weights_refuse_what_the_cache_does_not(architectures: dict[str, Architecture]) -> None:
    for model in ("Qwen__Qwen2.5-VL-3B-Instruct",):
        with pytest.raises(UnsupportedError, match="3420"):
            rank_weights(architectures[model], (), Serving(10, tp=8))


def checkpoint(path: Path) -> tuple[TensorGroup, ...]:
    """The tensors of a published checkpoint, from its headers."""
    names: list[str] = []
    facts: list[tuple[str, tuple[int, ...]]] = []
    for tensors in json.loads(gzip.decompress(path.read_bytes()))["shards"].values():
        for name, fact in tensors.items():
            if name != "__metadata__":
                names.append(name)
                facts.append((fact["dtype"], tuple(fact["shape"])))
    return group_facts(names, facts)


def published() -> list[tuple[str, Architecture, tuple[TensorGroup, ...]]]:
    """Every checkpoint whose headers and config are at hand and whose family is known."""
    found = []
    folder = ORACLE.parent / "headers"
    for path in sorted(folder.glob("*.json.gz")):
        name = path.name.removesuffix(".json.gz")
        configs = (ORACLE.parent / "corpus" / "models" / name / "config.json", folder / "configs" / f"{name}.json")
        config = next((candidate for candidate in configs if candidate.is_file()), None)
        if config is None:
            continue
        try:
            arch = read_architecture(json.loads(config.read_text()))
        except UnsupportedError:
            continue
        found.append((name, arch, checkpoint(path)))
    return found


def test_published_weights_on_ranks() -> None:
    """One rank holds the file but for tied copies and draft layers; stages hold it all; two ranks at least half each."""
    seen = 0
    for name, arch, groups in published():
        total = sum(group.total_bytes for group in groups)
        whole = rank_weights(arch, groups, Serving(10, engine="transformers"))
        tied = {spec.pattern for spec in arch.tensors if spec.tied_to}
        draft = any(spec.component is Component.MTP for spec in arch.tensors)
        copies = sum(group.total_bytes for group in groups if any(group.pattern.endswith(p) for p in tied))
        assert total - copies <= whole.bytes + (total if draft else 0), name
        assert whole.bytes <= total, name
        if not draft:
            assert whole.bytes >= total - copies, name
        if arch.num_hidden_layers >= 2:
            staged = rank_weights(arch, groups, Serving(10, pp=2, engine="transformers"))
            table = arch.vocab_size * arch.hidden_size * 4
            assert whole.bytes <= staged.all_ranks_bytes <= whole.bytes + table, name
        try:
            halves = rank_weights(arch, groups, Serving(10, tp=2, engine="transformers"))
        except UnsupportedError:
            continue
        assert -(-whole.bytes // 2) <= halves.bytes <= whole.bytes, name
        seen += 1
    assert seen > 30
