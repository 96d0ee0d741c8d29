"""Reading models from a Hub: which requests are made, and what comes back."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hub_models import CONFIG, FRESH, TENSOR_BYTES, TENSORS, add_sharded, add_single, weight_sizes
from hub_server import Blob, Handler, HubServer, fail_times, hold_until, shard, sharded

from hfmem.errors import (
    MissingFileError,
)
from hfmem.hub import FetchOptions, load_model
from hfmem.hub.connection import MAX_PER_HOST
from hfmem.hub.files import DEFAULT_GUESS


def test_single_file(hub: HubServer) -> None:
    blob = add_single(hub)
    facts = load_model("org/single", options=FRESH)
    assert facts.source == "hub"
    assert facts.config == CONFIG
    assert facts.revision == hub.repos["org/single"].commit
    assert facts.evidence == "headers"
    assert facts.checkpoint is not None
    assert facts.checkpoint.total_bytes == TENSOR_BYTES
    assert facts.checkpoint.num_tensors == 3
    assert facts.download_bytes == blob.size == 8 + int.from_bytes(blob.front[:8], "little") + TENSOR_BYTES
    # config.json, the metadata route (no index: 404), the file and the storage host it redirects to
    assert len(hub.requests()) == facts.stats.requests == 4


@pytest.mark.parametrize("packed", [False, True])
def test_sharded_model_takes_three_requests_with_the_metadata_route(hub: HubServer, packed: bool) -> None:
    hub.gzip = hub.chunked = packed  # as the Hub's API does it
    files = add_sharded(hub, 161)
    facts = load_model("org/sharded", options=FRESH)
    assert facts.checkpoint is not None
    assert facts.checkpoint.num_tensors == 161 * 16
    assert facts.checkpoint.total_bytes == facts.index_total_size == 161 * 16 * 32 * 16 * 2
    # no size is in the response: the headers' length is worked out from their content
    assert facts.download_bytes == weight_sizes(files)
    assert facts.checkpoint.num_files == 161
    # the third, for model.safetensors, is given up when the route answers first
    assert 2 <= len(hub.requests()) <= 3 and 2 <= facts.stats.requests <= 3


def test_sharded_model_without_the_metadata_route(hub: HubServer) -> None:
    hub.metadata_route = False
    files = add_sharded(hub, 161)
    by_range = load_model("org/sharded", options=FRESH)
    assert by_range.download_bytes == weight_sizes(files)
    # config, route, model.safetensors, index; then the redirect and the storage host for each shard
    assert len(hub.requests()) == 4 + 2 * 161
    # connections are kept: not one a request
    assert hub.connections["hub"] <= 40
    assert hub.connections["cdn"] <= 40
    hub.metadata_route = True
    by_route = load_model("org/sharded", options=FRESH)
    assert by_route.checkpoint is not None
    assert by_range.checkpoint == by_route.checkpoint
    assert by_range.weight_files == by_route.weight_files


def test_no_host_is_asked_for_more_at_once_than_it_bears(hub: HubServer) -> None:
    hub.metadata_route = False
    add_sharded(hub, 161)
    now, most = {"hub": 0, "cdn": 0}, {"hub": 0, "cdn": 0, "both": 0}

    def watch(handler: Handler) -> bool:
        with hub.lock:
            now[handler.server.role] += 1
            for name, value in {**now, "both": sum(now.values())}.items():
                most[name] = max(most[name], value)
        time.sleep(0.05)
        with hub.lock:
            now[handler.server.role] -= 1
        return False

    hub.faults.append(watch)
    load_model("org/sharded", options=FRESH)
    assert most["hub"] <= MAX_PER_HOST and most["cdn"] <= MAX_PER_HOST
    assert (
        most["both"] > MAX_PER_HOST
    )  # the Hub is asked for further files while a storage host answers for the first ones


def test_single_file_without_the_metadata_route(hub: HubServer) -> None:
    hub.metadata_route = False
    add_single(hub)
    load_model("org/single")
    assert len(hub.requests()) == 5  # nothing but the index itself says that there is none
    hub.add("org/two", {"config.json": CONFIG, "model.safetensors": shard(TENSORS)})
    hub.clear()
    load_model("org/two")
    assert len(hub.requests()) == 4


def test_elsewhere_the_index_is_asked_for_while_the_single_file_is_on_its_way(hub: HubServer) -> None:
    hub.metadata_route = False
    add_single(hub)
    fault, asked = hold_until(r"index\.json", on="//model.safetensors")  # the storage host's answer
    hub.faults.append(fault)
    started = time.monotonic()
    assert load_model("org/single", options=FRESH).evidence == "headers"
    assert asked.is_set() and time.monotonic() - started < 4
    # a sharded model does not wait for the single file at all
    add_sharded(hub, 2)
    fault, _ = hold_until("//model-00002-of", on="/model.safetensors$")
    hub.faults[:] = [fault]
    started = time.monotonic()
    assert load_model("org/sharded", options=FRESH).evidence == "headers"
    assert time.monotonic() - started < 4


def test_on_the_official_hub_the_route_speaks_for_the_index(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, facts_dir: Path
) -> None:
    monkeypatch.setattr("hfmem.hub.settings.OFFICIAL_ENDPOINTS", frozenset({hub.url}))
    add_single(hub)
    add_sharded(hub, 3)

    def indices() -> list[str]:
        return [entry.path for entry in hub.requests() if "/resolve/" in entry.path and "index.json" in entry.path]

    for trouble in (fail_times(99, 500, on="safetensors-metadata"), fail_times(99, 404, on="safetensors-metadata")):
        hub.faults[:] = [trouble]
        hub.clear()
        assert load_model("org/single", options=FRESH).evidence == "headers"
        assert indices() == []
        found = load_model("org/sharded", options=FetchOptions(refresh=True))
        assert found.checkpoint is not None and found.checkpoint.num_files == 3
        assert len(indices()) == 1
        assert not (facts_dir / "endpoints-1.json").exists()  # a fault of the moment


def test_an_endpoint_without_the_route_is_remembered(hub: HubServer) -> None:
    hub.metadata_route = False
    add_sharded(hub, 2)
    add_sharded(hub, 2, "org/other")
    load_model("org/sharded")
    hub.clear()
    load_model("org/other")
    assert not [entry for entry in hub.requests() if "safetensors-metadata" in entry.path]
    assert len(hub.requests()) == 3 + 2 * 2


def test_revisions_are_read_at_their_commit_and_not_by_the_route_of_main(hub: HubServer) -> None:
    add_sharded(hub, 2, branches={"v1": "1" * 40, "refs/pr/7": "7" * 40})
    for revision, commit in (("v1", "1" * 40), ("refs/pr/7", "7" * 40), ("1" * 40, "1" * 40)):
        hub.clear()
        facts = load_model(f"org/sharded@{revision}", options=FRESH)
        assert facts.revision == commit
        assert not [entry for entry in hub.requests() if "safetensors-metadata" in entry.path]
        shards = [entry.path for entry in hub.requests("hub") if "/model-0" in entry.path]
        assert len(shards) == 2
        assert all(f"/resolve/{commit}/" in path for path in shards)
    assert load_model("org/sharded", revision="v1", options=FRESH).revision == "1" * 40


def test_a_repo_with_a_new_name(hub: HubServer) -> None:
    add_sharded(hub, 2)
    hub.renamed["old/name"] = "org/sharded"
    for route in (True, False):
        hub.metadata_route = route
        facts = load_model("old/name", options=FRESH)
        assert facts.checkpoint is not None and facts.checkpoint.num_files == 2
        assert facts.revision == hub.repos["org/sharded"].commit


def test_small_files_behind_relative_redirects(hub: HubServer) -> None:
    hub.resolve_cache = True
    add_sharded(hub, 2)
    facts = load_model("org/sharded")
    assert facts.revision == hub.repos["org/sharded"].commit
    hub.clear()
    again = load_model("org/sharded")
    assert again.source == "cache"
    assert len(hub.requests()) == 1  # the redirect itself names the commit


@pytest.mark.parametrize("length", [*range(99_993, 100_009), *range(DEFAULT_GUESS - 9, DEFAULT_GUESS + 2)])
def test_header_lengths_around_the_guess(hub: HubServer, length: int) -> None:
    """A header that the first request holds costs one request, a longer one exactly one more (each with its redirect)."""
    hub.add("org/m", {"config.json": CONFIG, "model.safetensors": shard(TENSORS, pad_to=length)})
    facts = load_model("org/m", options=FRESH)
    assert facts.download_bytes == 8 + length + TENSOR_BYTES
    weights = [entry for entry in hub.requests("cdn") if entry.path.partition("?")[0].endswith("//model.safetensors")]
    assert [entry.status for entry in weights] == [206] * (1 if 8 + length <= DEFAULT_GUESS else 2)
    # nothing is read twice; past the header only what the first guess took
    assert sum(entry.sent for entry in weights) == min(max(8 + length, DEFAULT_GUESS), facts.download_bytes)


def test_shards_are_asked_for_as_much_as_their_names_need(hub: HubServer) -> None:
    hub.metadata_route = False
    many = [(f"model.layers.{i}.self_attn.some_projection.weight", "BF16", (4096, 14336)) for i in range(3000)]
    hub.add("org/m", {"config.json": CONFIG, **sharded({"big.safetensors": many, "tiny.safetensors": TENSORS})})
    load_model("org/m", options=FRESH)
    sent = {entry.path.partition("//")[2].partition("?")[0]: entry for entry in hub.requests("cdn")}
    assert len(hub.requests("cdn")) == 2  # neither needed a second request
    header = len(hub.repos["org/m"].files["big.safetensors"].front)
    assert header > DEFAULT_GUESS
    assert header <= sent["big.safetensors"].sent < 1.4 * header
    assert sent["tiny.safetensors"].sent <= 8192


@pytest.mark.parametrize("length", [5_000, 300_000])
def test_a_server_that_ignores_range_costs_kilobytes(hub: HubServer, length: int) -> None:
    hub.ranges = False
    tensors = [("w", "BF16", (1 << 16, 1 << 14))]  # 2 GiB
    hub.add("org/m", {"config.json": CONFIG, "model.safetensors": shard(tensors, pad_to=length)})
    facts = load_model("org/m", options=FRESH)
    assert facts.download_bytes == 8 + length + (1 << 31)
    assert facts.stats.bytes_read < 2 * (DEFAULT_GUESS + length)
    # what the server could push into socket buffers before it saw the connection close
    assert sum(entry.sent for entry in hub.requests("cdn")) < 32 << 20


def test_the_token_stays_with_the_endpoint(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.metadata_route = False
    add_sharded(hub, 3, gated=True)
    monkeypatch.setenv("HF_TOKEN", " hf_good\n")
    load_model("org/sharded", options=FRESH)
    assert hub.requests("cdn")
    assert not [entry for entry in hub.requests("cdn") if "authorization" in entry.headers]
    assert {entry.headers.get("authorization") for entry in hub.requests("hub")} == {"Bearer hf_good"}


def test_token_sources(hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    add_single(hub)

    def sent() -> str | None:
        hub.clear()
        load_model("org/single", options=FRESH)
        return hub.requests("hub")[0].headers.get("authorization")

    assert sent() is None
    (tmp_path / "token").write_text("hf_good\n")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert sent() == "Bearer hf_good"
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_stranger")
    assert sent() == "Bearer hf_stranger"
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert sent() == "Bearer hf_good"
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert sent() is None


def test_user_agent(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setenv("HF_HUB_USER_AGENT_ORIGIN", "partner")
    add_single(hub)
    load_model("org/single", options=FRESH)
    agent = hub.requests()[0].headers["user-agent"]
    assert agent.startswith("hfmem/")
    assert f"; hf_hub/{huggingface_hub.__version__}; python/3." in agent
    assert agent.endswith("; origin/partner")


@pytest.mark.parametrize("tree", [True, False])
def test_pytorch_weights(hub: HubServer, tree: bool) -> None:
    hub.tree_route = tree
    index = {"metadata": {"total_size": 5000}, "weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}}
    shards = {"pytorch_model-1.bin": Blob(b"PK", 3000), "pytorch_model-2.bin": Blob(b"PK", 2100)}
    hub.add("org/m", {"config.json": CONFIG, "pytorch_model.bin.index.json": index, **shards})
    facts = load_model("org/m", options=FRESH)
    assert (facts.evidence, facts.index_total_size, facts.checkpoint) == ("index", 5000, None)
    assert facts.download_bytes == (5100 if tree else None)
    hub.add("org/one", {"config.json": CONFIG, "pytorch_model.bin": Blob(b"PK", 777)})
    one = load_model("org/one", options=FRESH)
    assert (one.evidence, one.download_bytes, one.checkpoint) == ("config", 777, None)


def test_mistral_layout(hub: HubServer) -> None:
    blob = shard(TENSORS)
    hub.add("org/m", {"params.json": {"dim": 64}, "consolidated.safetensors": blob})
    facts = load_model("org/m", options=FRESH)
    assert facts.config_file == "params.json"
    assert facts.config == {"dim": 64}
    assert facts.download_bytes == blob.size
    assert facts.notice is not None and "consolidated" in facts.notice
    hub.add("org/both", {"config.json": CONFIG, "params.json": {"dim": 64}, "consolidated.safetensors": blob})
    both = load_model("org/both", options=FRESH)
    assert both.config_file == "config.json"
    assert both.notice is not None and "consolidated" in both.notice


def test_the_index_comes_before_the_single_file(hub: HubServer) -> None:
    files = sharded({"model-1.safetensors": TENSORS})
    other = shard([("x", "F32", (5000,))])
    hub.add("org/m", {"config.json": CONFIG, **files, "model.safetensors": other})
    for route in (True, False):
        hub.metadata_route = route
        facts = load_model("org/m", options=FRESH)
        assert facts.checkpoint is not None and facts.checkpoint.total_bytes == TENSOR_BYTES


def test_one_file_of_a_repo(hub: HubServer) -> None:
    blob = shard([("w", "F16", (10, 10))])
    hub.add("org/m", {"config.json": CONFIG, "model.safetensors": shard(TENSORS), "other.safetensors": blob})
    facts = load_model("https://huggingface.co/org/m/blob/main/other.safetensors", options=FRESH)
    assert facts.checkpoint is not None and facts.checkpoint.total_bytes == 200
    assert facts.download_bytes == blob.size
    with pytest.raises(MissingFileError, match=r"x\.gguf is not there"):
        load_model("org/m/x.gguf", options=FRESH)
    with pytest.raises(MissingFileError, match="org/m has no Q4_K_M; it has no GGUF model"):
        load_model("org/m:Q4_K_M", options=FRESH)
    for name in (
        "model.safetensors",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "config.json",
    ):
        whole = load_model(f"https://huggingface.co/org/m/blob/main/{name}", options=FRESH)
        assert whole.checkpoint is not None and whole.checkpoint.total_bytes == TENSOR_BYTES
    with pytest.raises(MissingFileError, match="nope"):
        load_model("hf://org/m@main/nope.safetensors", options=FRESH)


def test_quantization_settings_beside_the_config(hub: HubServer) -> None:
    packed = shard([("l.qweight", "I32", (64, 64)), ("l.scales", "F16", (64,))])
    settings = {"bits": 4, "group_size": 128}
    files = {"config.json": CONFIG, "model.safetensors": packed, "quantize_config.json": settings}
    hub.add("org/q", files)
    facts = load_model("org/q")
    assert facts.extra == {"quantize_config.json": settings}
    assert load_model("org/q").extra == facts.extra  # by the stored facts
    hub.add("org/known", {**files, "config.json": {**CONFIG, "quantization_config": {"bits": 4}}})
    assert load_model("org/known").extra == {}
    assert not [entry for entry in hub.requests() if "org/known" in entry.path and "quant" in entry.path]


def test_a_listing_of_several_pages(hub: HubServer) -> None:
    files = {f"file-{i:05d}.txt": b"x" for i in range(1500)}
    hub.add("org/m", {**files, "config.json": CONFIG, "pytorch_model.bin": Blob(b"PK", 55)})
    assert load_model("org/m", options=FRESH).download_bytes == 55


def test_progress_is_reported_from_the_calling_thread(hub: HubServer) -> None:
    import threading

    hub.metadata_route = False
    add_sharded(hub, 5)
    seen: list[tuple[int, int, str]] = []
    threads: set[int] = set()

    def progress(done: int, total: int, label: str) -> None:
        threads.add(threading.get_ident())
        seen.append((done, total, label))

    load_model("org/sharded", options=FetchOptions(no_cache=True, progress=progress))
    assert [entry[:2] for entry in seen if "headers" in entry[2]] == [(i, 5) for i in range(1, 6)]
    assert all("org/sharded" in entry[2] for entry in seen)
    assert threads == {threading.get_ident()}


def test_config_survives_as_it_is(hub: HubServer) -> None:
    config = json.loads('{"a": null, "b": 1e-05, "c": [1, {"d": "ü"}], "model_type": "x"}')
    hub.add("org/m", {"config.json": config, "model.safetensors": shard(TENSORS)})
    assert load_model("org/m").config == config
    assert load_model("org/m").config == config
