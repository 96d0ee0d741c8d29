"""The second run: stored facts, the Hub's own cache, several processes, and what each costs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub_models import add_sharded
from hub_server import HubServer, shard
from repository import ROOT
from stored_models import LLAMA, TENSORS, add, plain, write_hf_cache

from hfmem.errors import OfflineError
from hfmem.hub import FetchOptions, load_model
from hfmem.hub.facts import facts_from_json, facts_to_json


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


def test_an_address_with_a_password_is_stored_without_it(
    hub: HubServer, facts_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.metadata_route = False  # remembered of the address, too
    add_sharded(hub)
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("//", "//me:sekret@"))
    load_model("org/sharded")
    stored = [path for path in facts_dir.rglob("*") if path.is_file()]
    assert any(path.name == "endpoints-1.json" for path in stored)
    assert not [path for path in stored if "sekret" in str(path) or b"sekret" in path.read_bytes()]
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert load_model("org/sharded").source == "cache"


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
