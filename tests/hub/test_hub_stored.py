"""Answers without the Hub: stored facts, the Hub's own cache, the shipped catalogue, and what each says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer, fail_times, shard, sharded, stall_times
from repository import ROOT

from hfmem.errors import AccessError, ModelNotFoundError, NetworkError, OfflineError
from hfmem.hub import FetchOptions, FetchStats, ModelFacts, load_model
from hfmem.hub.catalog import catalog_names, load_catalog_entry, suggest
from hfmem.hub.facts import facts_from_json, facts_to_json

CONFIG = {"model_type": "llama"}
TENSORS = [("a.0", "BF16", (16, 16)), ("a.1", "BF16", (16, 16)), ("b", "F32", (7,))]
LLAMA = "meta-llama/Meta-Llama-3-8B"


def plain(facts: ModelFacts) -> ModelFacts:
    """Without what belongs to one call."""
    return replace(facts, source="hub", stats=FetchStats(), notice=None)


def add(hub: HubServer, repo_id: str = "org/m", **settings: Any) -> None:
    parts = {"m-1.safetensors": TENSORS, "m-2.safetensors": [("c", "I8", (3,))]}
    hub.add(repo_id, {"config.json": CONFIG, **sharded(parts)}, **settings)


def write_hf_cache(hub: HubServer, repo_id: str, ref: str = "main") -> Path:
    """The repo as huggingface_hub lays it out: blobs, and links to them. Weights are sparse files."""
    repo = hub.repos[repo_id]
    root = Path(os.environ["HF_HOME"]) / "hub" / ("models--" + repo_id.replace("/", "--"))
    snapshot = root / "snapshots" / repo.commit
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    for at, (name, blob) in enumerate(repo.files.items()):
        with open(root / "blobs" / str(at), "wb") as file:
            file.write(blob.front)
            file.truncate(blob.size)
        (snapshot / name).symlink_to(f"../../blobs/{at}")
    (root / "refs").mkdir()
    (root / "refs" / ref).write_text(repo.commit)
    return snapshot


def test_the_second_run_takes_one_small_request(hub: HubServer) -> None:
    add(hub)
    first = load_model("org/m")
    hub.clear()
    second = load_model("org/m")
    assert (second.source, second.stats.cache_hit, second.notice) == ("cache", True, None)
    assert plain(second) == plain(first)
    assert [entry.path for entry in hub.requests()] == ["/org/m/resolve/main/config.json"]
    assert hub.requests()[0].sent < 1000


def test_a_commit_needs_no_request_at_all(hub: HubServer) -> None:
    add(hub)
    commit = hub.repos["org/m"].commit
    first = load_model(f"org/m@{commit}")
    hub.clear()
    second = load_model(f"org/m@{commit}")
    assert plain(second) == plain(first)
    assert second.notice is None
    assert hub.requests() == []
    assert load_model(f"org/m@{commit}", options=FetchOptions(refresh=True)).source == "hub"


def test_a_new_commit_is_seen(hub: HubServer) -> None:
    add(hub)
    old = load_model("org/m")
    hub.add("org/m", {"config.json": {"model_type": "other"}, "model.safetensors": shard(TENSORS)})
    hub.clear()
    new = load_model("org/m")
    assert new.source == "hub"
    assert new.revision != old.revision
    assert new.config["model_type"] == "other"
    assert sum("config.json" in entry.path for entry in hub.requests()) == 1
    assert load_model("org/m").source == "cache"


def test_refresh_and_no_cache(hub: HubServer, facts_dir: Path) -> None:
    add(hub)
    load_model("org/m", options=FetchOptions(no_cache=True))
    assert not facts_dir.exists()
    load_model("org/m")
    assert load_model("org/m", options=FetchOptions(no_cache=True)).source == "hub"
    [entry] = facts_dir.glob("facts-1/org--m/*")
    entry.write_bytes(b"old")
    assert load_model("org/m", options=FetchOptions(refresh=True)).source == "hub"
    assert entry.read_bytes() != b"old"
    assert load_model("org/m").source == "cache"


@pytest.mark.parametrize("damage", ["empty", "cut", "flip", "json", "schema", "sum", "other", "folder"])
def test_damaged_entries_are_fetched_again(hub: HubServer, facts_dir: Path, damage: str) -> None:
    import zlib

    add(hub)
    good = load_model("org/m")
    [path] = facts_dir.glob("facts-1/org--m/*")
    data = path.read_bytes()
    content = json.loads(zlib.decompress(data))
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "flip":
            path.write_bytes(data[:40] + bytes([data[40] ^ 0x55]) + data[41:])
        case "json":
            path.write_bytes(zlib.compress(b'["not", "facts"]'))
        case "schema":
            path.write_bytes(zlib.compress(json.dumps({**content, "schema": 0}).encode()))
        case "sum":
            content["checkpoint"]["groups"][0][3] = "x"
            path.write_bytes(zlib.compress(json.dumps(content).encode()))
        case "other":
            path.write_bytes(zlib.compress(json.dumps({**content, "id": "org/else"}).encode()))
        case "folder":
            path.unlink()
            path.mkdir()
    again = load_model("org/m")
    assert again.source == "hub"
    assert plain(again) == plain(good)


def test_facts_survive_the_way_through_json(hub: HubServer) -> None:
    add(hub)
    facts = load_model("org/m")
    text = json.dumps(facts_to_json(facts))
    assert plain(facts_from_json(json.loads(text), "cache")) == plain(facts)


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root writes everywhere")
def test_a_cache_folder_without_permission(hub: HubServer, facts_dir: Path) -> None:
    facts_dir.mkdir(mode=0o500)
    add(hub)
    assert load_model("org/m").source == "hub"


def test_a_cache_folder_that_is_a_file(hub: HubServer, facts_dir: Path) -> None:
    facts_dir.parent.mkdir(exist_ok=True)
    facts_dir.write_text("in the way")
    add(hub)
    assert load_model("org/m").source == "hub"
    assert load_model("org/m").source == "hub"
    assert facts_dir.read_text() == "in the way"


def test_several_processes_share_the_cache(hub: HubServer, facts_dir: Path) -> None:
    add(hub)
    code = (
        "from hfmem.hub import load_model, FetchOptions\n"
        "for i in range(15):\n"
        "    facts = load_model('org/m', options=FetchOptions(refresh=i % 2 == 0))\n"
        "    assert facts.checkpoint.total_bytes == 2 * 16 * 16 * 2 + 28 + 3, facts\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    assert len(list(facts_dir.glob("facts-1/org--m/*"))) == 1
    assert not [path for path in facts_dir.rglob("*") if path.name.startswith(".")]


def test_offline_opens_no_socket(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    add(hub)
    online = load_model("org/m")
    hub.clear()

    def refuse(*_: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            facts = load_model("org/m")
            assert plain(facts) == plain(online)
            assert facts.source == "cache"
            assert facts.notice is not None and "offline mode; unset HF_HUB_OFFLINE" in facts.notice
            assert load_model(LLAMA).source == "catalog"
            with pytest.raises(OfflineError, match="org/unknown is in no cache here and not in the shipped catalogue"):
                load_model("org/unknown")
            with pytest.raises(OfflineError, match=f"did you mean {LLAMA}"):
                load_model("meta-llama/Meta-Lama-3-8B")
    assert load_model(LLAMA, options=FetchOptions(offline=True)).source == "catalog"
    with pytest.raises(OfflineError):
        load_model(LLAMA, revision="v2", options=FetchOptions(offline=True))


def test_the_hub_cache_offline_and_online(hub: HubServer, facts_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(hub)
    live = load_model("org/m", options=FetchOptions(no_cache=True))
    write_hf_cache(hub, "org/m")
    hub.clear()
    # online: one small request says that the download is the current commit
    confirmed = load_model("org/m")
    assert confirmed.source == "cache"
    assert len(hub.requests()) == 1
    assert replace(plain(confirmed), config_file="config.json") == plain(live)
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HFMEM_CACHE", str(facts_dir / "empty"))
        offline = load_model("org/m")
        assert offline.checkpoint == live.checkpoint
        assert offline.download_bytes == live.download_bytes
        assert offline.notice is not None and "from the Hugging Face cache, commit" in offline.notice
        commit = hub.repos["org/m"].commit
        assert load_model(f"org/m@{commit}").revision == commit
        with pytest.raises(OfflineError):
            load_model("org/m@v1")


def test_a_download_in_the_hub_cache_that_is_not_complete(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    add(hub)
    snapshot = write_hf_cache(hub, "org/m")
    (snapshot / "m-2.safetensors").unlink()
    assert load_model("org/m", options=FetchOptions(no_cache=True)).source == "hub"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OfflineError):
        load_model("org/m")


def test_a_snapshot_or_the_repo_folder_of_the_hub_cache_as_a_path(hub: HubServer) -> None:
    add(hub)
    snapshot = write_hf_cache(hub, "org/m")
    for path in (snapshot, snapshot.parent.parent):
        facts = load_model(str(path))
        assert facts.source == "local"
        assert facts.revision == hub.repos["org/m"].commit
        assert facts.checkpoint is not None and facts.checkpoint.num_tensors == 4
    assert hub.requests() == []


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


def test_start_up_imports_stay_small(hub: HubServer) -> None:
    """An answer from the catalogue needs none of the modules that cost tens of milliseconds."""
    code = (
        "import sys; from hfmem.hub import load_model, FetchOptions\n"
        f"load_model({LLAMA!r}, options=FetchOptions(offline=True))\n"
        "heavy = ['http.client', 'ssl', 'urllib.request', 'httpx', 'httpx2', 'requests', 'huggingface_hub.hf_api', 'rich', 'typer',"
        " 'torch', 'transformers', 'email', 'difflib', 'importlib.resources']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
