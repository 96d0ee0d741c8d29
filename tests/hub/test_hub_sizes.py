"""Models by their config and the sizes of their files (`--no-headers`): two requests, and what these can tell."""

from __future__ import annotations

import json
from typing import Any

import pytest
from commands import Run
from hub_server import Blob, HubServer, hold_until, shard, sharded
from small_llama import LLAMA, llama_tensors

from hfmem.api.reading import read_model
from hfmem.errors import MissingFileError, ModelNotFoundError, UsageError
from hfmem.hub import FetchOptions, load_model

TENSORS = llama_tensors()
SIZES = FetchOptions(no_cache=True, no_headers=True)
PARTS = {"model-00001-of-00002.safetensors": TENSORS[:3], "model-00002-of-00002.safetensors": TENSORS[3:]}


def paths(hub: HubServer) -> list[str]:
    return sorted(entry.path.rpartition("/")[2].partition("?")[0] for entry in hub.requests())


@pytest.mark.parametrize("files", [{"model.safetensors": shard(TENSORS)}, sharded(PARTS)], ids=["one", "shards"])
def test_two_requests_at_once(hub: HubServer, files: dict[str, Any]) -> None:
    hub.add("org/m", {"config.json": LLAMA, **files, "other.safetensors": Blob(b"", 999)})
    fault, _ = hold_until("/tree/", on="config.json")
    hub.faults.append(fault)
    derived = read_model("org/m", fetch=SIZES)
    assert paths(hub) == ["config.json", "main"]
    exact = read_model("org/m", fetch=FetchOptions(no_cache=True))
    assert derived.facts.download_bytes == exact.facts.download_bytes
    assert derived.facts.revision == exact.facts.revision == hub.repos["org/m"].commit
    assert derived.parameters.weights_bytes == exact.parameters.weights_bytes
    assert (derived.parameters.exact, exact.parameters.exact) == (False, True)
    assert (derived.facts.evidence, exact.facts.evidence) == ("config", "headers")
    assert derived.notes == ()
    assert derived.facts.notice is not None and derived.facts.notice.startswith("no headers were read")


@pytest.mark.parametrize(("change", "word"), [(-5000, "less"), (200_000, "more")])
def test_files_that_hold_something_else(hub: HubServer, change: int, word: str) -> None:
    whole = shard(TENSORS)
    hub.add("org/m", {"config.json": LLAMA, "model.safetensors": Blob(whole.front, whole.size + change)})
    (note,) = read_model("org/m", fetch=SIZES).notes
    assert note.code == "file_sizes_differ" and f"bytes {word} than the" in note.message


def test_stored_facts_are_used_and_none_are_stored(hub: HubServer, run: Run) -> None:
    hub.add("org/m", {"config.json": LLAMA, "model.safetensors": shard(TENSORS)})
    for _ in range(2):  # nothing that says less than headers is kept
        _, out, _ = run("org/m", "--json", "--no-headers")
        assert json.loads(out)["weights"]["evidence"] == "config"
    run("org/m")
    hub.clear()
    _, out, _ = run("org/m", "--json", "--no-headers")
    assert json.loads(out)["weights"]["evidence"] == "headers" and len(hub.requests()) == 1


@pytest.mark.parametrize(
    "files",
    [
        {"pytorch_model.bin": Blob(b"PK", 900)},
        {"weights.safetensors": shard(TENSORS)},
        sharded({"a.safetensors": TENSORS[:3], "b.safetensors": TENSORS[3:]}),
    ],
    ids=["torch", "loose", "shards of other names"],
)
def test_what_names_and_sizes_do_not_tell_is_read_as_ever(hub: HubServer, files: dict[str, Any]) -> None:
    hub.add("org/m", {"config.json": LLAMA, **files})
    found = load_model("org/m", options=SIZES)
    usual = load_model("org/m", options=FetchOptions(no_cache=True))
    assert (found.checkpoint, found.evidence, found.notice) == (usual.checkpoint, usual.evidence, usual.notice)


def test_a_server_without_a_list_of_files(hub: HubServer) -> None:
    hub.tree_route = False
    hub.add("org/m", {"config.json": LLAMA, "model.safetensors": shard(TENSORS)})
    assert load_model("org/m", options=SIZES).evidence == "headers"


def test_errors_are_those_of_any_fetch(hub: HubServer) -> None:
    with pytest.raises(ModelNotFoundError):
        load_model("org/none", options=SIZES)
    hub.add("org/m", {"model.safetensors": shard(TENSORS)})
    with pytest.raises(MissingFileError, match=r"no config\.json"):
        load_model("org/m", options=SIZES)
    with pytest.raises(UsageError, match="--no-headers"):
        read_model("org/m", strict=True, fetch=SIZES)


def test_quantization_settings_beside_the_config(hub: HubServer) -> None:
    settings = {"bits": 4, "group_size": 128}
    hub.add("org/q", {"config.json": LLAMA, "model.safetensors": shard(TENSORS), "quantize_config.json": settings})
    assert load_model("org/q", options=SIZES).extra == {"quantize_config.json": settings}
    assert paths(hub) == ["config.json", "main", "quantize_config.json"]


@pytest.mark.parametrize("words", ["", "fit --gpu h100", "plan", "layers", "explain"])
def test_commands_that_take_it(hub: HubServer, run: Run, words: str) -> None:
    hub.add("org/m", {"config.json": LLAMA, "model.safetensors": shard(TENSORS)})
    status, out, _ = run(*words.split(), "org/m", "--no-headers", "--no-cache", "--json")
    assert status == 0 and json.loads(out)
    assert paths(hub) == ["config.json", "main"]


def test_a_file_that_was_named_is_opened(hub: HubServer) -> None:
    """Its name tells less than a repository's list, and reading it costs no more."""
    other = shard([("w", "F16", (10, 10))])
    hub.add("org/m", {"config.json": LLAMA, "model.safetensors": shard(TENSORS), "other.safetensors": other})
    facts = load_model("org/m/other.safetensors", options=SIZES)
    assert facts.checkpoint is not None and facts.checkpoint.total_bytes == 200
    (asked,) = [entry.path for entry in hub.requests("hub") if "other" in entry.path]
    assert f"/resolve/{hub.repos['org/m'].commit}/" in asked  # of the commit that the config is of
