"""Where the Hub does not answer: stored facts, the shipped catalogue, and what each says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import HubServer, fail_times, shard, stall_times
from repository import ROOT
from stored_models import CONFIG, LLAMA, TENSORS, add, plain

from hfmem.errors import AccessError, ModelNotFoundError, NetworkError
from hfmem.hub import FetchOptions, load_model
from hfmem.hub.catalog import catalog_names, load_catalog_entry, suggest


def test_gated_without_a_token_falls_back_to_the_catalogue(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(LLAMA, {"config.json": CONFIG, "model.safetensors": shard(TENSORS)}, gated=True)
    facts = load_model(LLAMA)
    assert facts.source == "catalog"
    assert facts.date is not None
    assert facts.notice == (
        f"from the shipped catalogue of {facts.date} (the repo is gated: `hf auth login` or HF_TOKEN for live data)"
    )
    assert facts.checkpoint is not None
    assert facts.checkpoint.total_bytes == 16_060_522_496
    assert {group.dtype for group in facts.checkpoint.groups} == {"BF16"}
    assert sum(group.total_elements for group in facts.checkpoint.groups) == 8_030_261_248
    assert facts.config["max_position_embeddings"] == 8192
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert load_model(LLAMA).source == "hub"
    monkeypatch.delenv("HF_TOKEN")
    seen = load_model(LLAMA)  # what was read while there was a token
    assert seen.source == "cache"
    assert seen.notice is not None and "the repo is gated" in seen.notice


def test_a_hidden_repo_of_the_catalogue(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_model(LLAMA).source == "catalog"  # 401: it may be there, for others
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    with pytest.raises(ModelNotFoundError):  # 404: it is not
        load_model(LLAMA)


def test_gated_and_in_no_catalogue(hub: HubServer) -> None:
    add(hub, gated=True)
    with pytest.raises(AccessError, match="gated"):
        load_model("org/m")


def test_an_unreachable_hub_falls_back_fast(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    add(hub)
    load_model("org/m")
    monkeypatch.setattr("hfmem.hub.http.BACKOFF", 5.0)  # any retry would show
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    for endpoint in (f"http://127.0.0.1:{port}", "https://hub.example.com"):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        started = time.monotonic()
        facts = load_model(LLAMA)
        assert time.monotonic() - started < 2.4  # a first retry would wait 2.5 s at least
        assert facts.source == "catalog"
        assert facts.notice is not None and "cannot be reached" in facts.notice


def test_a_hub_that_is_silent_is_waited_for_once(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults.append(stall_times(99, 20, on="."))
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "1")
    started = time.monotonic()
    facts = load_model(LLAMA)
    assert 0.9 < time.monotonic() - started < 10
    assert facts.stats.cache_hit and hub.connections["hub"] <= 3  # config.json, the route, the single file: once each
    assert facts.source == "catalog"
    assert facts.notice is not None and "timed out" in facts.notice


def test_settings_that_cannot_be_used() -> None:
    code = "from hfmem.hub import load_model; load_model('org/m')"
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT", "HFMEM_DEADLINE"):
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            name: "soon",
            "HF_HUB_OFFLINE": "1",
        }
        out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert "hfmem.errors.UsageError" in out.stderr.splitlines()[-1]
        assert name in out.stderr.splitlines()[-1]


def test_a_hub_that_fails_falls_back_to_stored_facts(hub: HubServer) -> None:
    add(hub)
    first = load_model("org/m")
    hub.faults.append(fail_times(999, 503))
    facts = load_model("org/m")
    assert plain(facts) == plain(first)
    assert facts.notice is not None and "answered 503" in facts.notice and first.revision is not None
    assert first.revision[:7] in facts.notice
    with pytest.raises(NetworkError):
        load_model("org/m", options=FetchOptions(no_cache=True))


def test_names_of_two_endpoints_are_kept_apart(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    add(hub)
    load_model("org/m")
    with HubServer() as other:
        monkeypatch.setenv("HF_ENDPOINT", other.url)
        other.add("org/m", {"config.json": {"model_type": "mine"}, "model.safetensors": shard(TENSORS)})
        assert load_model("org/m").config == {"model_type": "mine"}
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert load_model("org/m").config == CONFIG


def test_without_a_commit_nothing_is_believed_for_long(hub: HubServer, facts_dir: Path) -> None:
    hub.commit_header = False
    add(hub)
    assert load_model("org/m").revision is None
    assert load_model("org/m").source == "hub"
    assert not list(facts_dir.glob("facts-1/*/*"))


def test_catalogue_entries_are_sound() -> None:
    names = catalog_names()
    assert len(names) >= 60
    assert len(set(names)) == len(names)
    for family in ("Llama-2-7b-hf", "Meta-Llama-3-70B", "Llama-3.1-405B", "Llama-3.2-3B", "Llama-3.3-70B-Instruct"):
        assert f"meta-llama/{family}" in names
    assert any(name.startswith("meta-llama/Llama-4") for name in names)
    assert {"google/gemma-7b", "google/gemma-3-27b-it", "mistralai/Mistral-7B-v0.3"} <= set(names)
    for name in names:
        entry = load_catalog_entry(name)
        assert entry is not None and entry.repo_id == name
        assert entry.config["model_type"]
        assert entry.provenance and entry.date
        assert (entry.evidence == "headers") == (entry.checkpoint is not None)
    assert load_catalog_entry("meta-llama") is None
    assert load_catalog_entry('x","') is None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # as the Hub's own pages count the stored tensors
        ("mistralai/Mistral-7B-v0.1", 7_241_732_096),
        ("google/gemma-2b", 2_506_172_416),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("microsoft/Phi-3.5-mini-instruct", 3_821_079_552),
    ],
)
def test_catalogue_tensors_against_published_counts(name: str, parameters: int) -> None:
    entry = load_catalog_entry(name)
    assert entry is not None and entry.checkpoint is not None
    assert sum(group.total_elements for group in entry.checkpoint.groups) == parameters


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("meta-llama/Llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("Qwen3-8B", "Qwen/Qwen3-8B"),
        ("mistral/Mistral-7B-v0.1", "mistralai/Mistral-7B-v0.1"),
        ("somebody/gpt-oss-20b", "openai/gpt-oss-20b"),
        ("zzzz/yyyy", None),
        (LLAMA, None),
    ],
)
def test_suggestions(typed: str, meant: str | None) -> None:
    assert suggest(typed) == meant


def test_one_look_up_reads_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []
    loads = json.loads
    monkeypatch.setattr("hfmem.hub.catalog.json.loads", lambda text: parsed.append(len(text)) or loads(text))
    load_catalog_entry(LLAMA)
    assert len(parsed) == 1 and parsed[0] < 50_000
