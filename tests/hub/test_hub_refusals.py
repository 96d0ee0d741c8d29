"""What a Hub does not give, and what its repositories hold wrong: one message each."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hub_models import CONFIG, FRESH, TENSORS, add_sharded, add_single, weight_sizes
from hub_server import Blob, HubServer, shard

from hfmem.errors import (
    AccessError,
    ContradictionError,
    FormatError,
    MissingFileError,
    ModelNotFoundError,
    NetworkError,
)
from hfmem.hub import load_model


def test_gated(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    add_single(hub, gated=True)
    with pytest.raises(AccessError, match=r"org/single is gated: accept its licence at http.*hf auth login.*HF_TOKEN"):
        load_model("org/single", options=FRESH)
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(AccessError, match="gated and this token's user is not on its list"):
        load_model("org/single", options=FRESH)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert load_model("org/single", options=FRESH).source == "hub"
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(AccessError, match="refuses the token"):
        load_model("org/single", options=FRESH)


def test_private_disabled_and_unknown(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    add_single(hub, private=True)
    with pytest.raises(ModelNotFoundError, match=r"org/single is not at http.*HF_TOKEN if it is private"):
        load_model("org/single", options=FRESH)
    with pytest.raises(ModelNotFoundError, match="org/nothing is not at"):
        load_model("org/nothing", options=FRESH)
    with pytest.raises(ModelNotFoundError, match=r"did you mean meta-llama/Meta-Llama-3-8B\?"):
        load_model("meta-llama/Meta-Lama-3-8B", options=FRESH)
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(ModelNotFoundError, match="this token may not read it"):
        load_model("org/single", options=FRESH)
    hub.repos["org/single"].disabled = True
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    with pytest.raises(AccessError, match="disabled"):
        load_model("org/single", options=FRESH)


def test_unknown_revision(hub: HubServer) -> None:
    add_single(hub)
    with pytest.raises(ModelNotFoundError, match="org/single has no revision 'v9'"):
        load_model("org/single@v9", options=FRESH)


def test_a_server_that_sends_no_error_codes(hub: HubServer) -> None:
    hub.error_codes = hub.commit_header = False
    blob = add_single(hub)
    assert load_model("org/single", options=FRESH).download_bytes == blob.size
    with pytest.raises(ModelNotFoundError, match="org/nothing"):
        load_model("org/nothing", options=FRESH)
    hub.add("org/noconfig", {"README.md": b"hello"})
    with pytest.raises(MissingFileError, match=r"org/noconfig has no config\.json; found README\.md"):
        load_model("org/noconfig", options=FRESH)
    hub.tree_route = False
    with pytest.raises(ModelNotFoundError, match="org/nothing"):
        load_model("org/nothing", options=FRESH)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README.md": b"x"}, r"has no config\.json; found README\.md"),
        ({}, r"has no config\.json; it holds no files"),
        (
            {"adapter_config.json": {"base_model_name_or_path": "org/base"}, "adapter_model.safetensors": b"x"},
            r"it is an adapter \(PEFT\) of org/base: run hfmem on it",
        ),
        ({"model_index.json": {"_class_name": "FluxPipeline"}}, r"it is a diffusers pipeline \(FluxPipeline\)"),
        (
            {"config.json": CONFIG, "model.nemo": b"x" * 5_000_000, "README.md": b""},
            r"no model\.safetensors .*holds a NeMo archive \(model\.nemo, 5 MB\)",
        ),
        ({"config.json": CONFIG, "mmproj-f16.gguf": b"x"}, r"no model\.safetensors .*GGUF files: mmproj-f16\.gguf"),
    ],
)
def test_what_is_no_plain_model_is_named(hub: HubServer, files: dict[str, Any], message: str) -> None:
    hub.add("org/m", files)
    with pytest.raises(MissingFileError, match=message):
        load_model("org/m", options=FRESH)


def test_no_terminal_codes_from_a_repo_in_messages(hub: HubServer) -> None:
    hub.add("org/m", {"\x1b[31mred.bin\x07": b"x"})
    with pytest.raises(MissingFileError) as caught:
        load_model("org/m", options=FRESH)
    assert "\x1b" not in caught.value.message and "\x07" not in caught.value.message


@pytest.mark.parametrize("content", [b"", b"  \n", b"{", b"[1]", b"\xff\xfe", b"{" * 100_000, b'"x"', b"9" * 5000])
def test_config_that_is_none(hub: HubServer, content: bytes) -> None:
    hub.add("org/m", {"config.json": content, "model.safetensors": shard(TENSORS)})
    with pytest.raises(FormatError, match=r"org/m: config\.json"):
        load_model("org/m", options=FRESH)


def test_weight_files_that_are_broken(hub: HubServer) -> None:
    good = shard(TENSORS)
    cases: list[tuple[Blob, type[Exception], str]] = [
        (Blob(b"", 0), FormatError, "empty"),
        (Blob(b"abc", 3), FormatError, "too few"),
        (Blob(good.front, good.size - 1), ContradictionError, "past the file's end"),
        (Blob(good.front, good.size + 1), ContradictionError, "belong to none"),
        (Blob((1 << 40).to_bytes(8, "little"), 1 << 41), FormatError, "limit 100 MB"),
        (Blob((200_000).to_bytes(8, "little") + b"{", 150_000), FormatError, "truncated"),
        (Blob(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", 63), FormatError, "LFS pointer"),
    ]
    for blob, error, message in cases:
        hub.add("org/m", {"config.json": CONFIG, "model.safetensors": blob})
        with pytest.raises(error, match=message):
            load_model("org/m", options=FRESH)


@pytest.mark.parametrize("name", ["../evil.safetensors", "/etc/passwd", "a\\b.safetensors", "", "a/../b.safetensors"])
def test_an_index_that_leaves_the_repo(hub: HubServer, name: str) -> None:
    hub.metadata_route = False
    hub.add("org/m", {"config.json": CONFIG, "model.safetensors.index.json": {"weight_map": {"w": name}}})
    with pytest.raises(ContradictionError, match="no file of this repository"):
        load_model("org/m", options=FRESH)
    assert not hub.requests("cdn")


def test_an_index_that_names_a_missing_shard(hub: HubServer) -> None:
    hub.metadata_route = False
    files = add_sharded(hub, 3)
    del hub.repos["org/sharded"].files["model-00002-of-00003.safetensors"]
    with pytest.raises(MissingFileError, match="model-00002-of-00003"):
        load_model("org/sharded", options=FRESH)
    assert files
    hub.add("org/m", {"config.json": CONFIG, "model.safetensors.index.json": b""})
    with pytest.raises(FormatError, match=r"index\.json is empty"):
        load_model("org/m", options=FRESH)


def test_the_route_in_trouble_is_gone_around(hub: HubServer) -> None:
    from hub_server import fail_times

    files = add_sharded(hub, 3)
    hub.faults.append(fail_times(99, 503, on="safetensors-metadata"))
    facts = load_model("org/sharded")
    assert facts.download_bytes == weight_sizes(files)
    # a server in trouble is not a server without the route
    hub.faults.clear()
    add_sharded(hub, 3, "org/next")
    hub.clear()
    load_model("org/next")
    assert [entry for entry in hub.requests() if "safetensors-metadata" in entry.path]


@pytest.mark.parametrize("answer", [b"<html>Welcome", b"[]", b'{"headers": {}}', b'{"headers": 3, "index": null}'])
def test_a_mirror_that_answers_everything(hub: HubServer, answer: bytes) -> None:
    files = add_sharded(hub, 3)

    def fault(handler: Any) -> bool:
        if "safetensors-metadata" not in handler.path:
            return False
        handler.answer(200, answer, {})
        return True

    hub.faults.append(fault)
    assert load_model("org/sharded", options=FRESH).download_bytes == weight_sizes(files)


def test_main_moves_between_two_requests(hub: HubServer) -> None:
    files = add_sharded(hub, 2)

    def fault(handler: Any) -> bool:
        if "safetensors-metadata" not in handler.path:
            return False
        header = {"w": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}
        body = json.dumps({"headers": {"model-1.safetensors": header}, "index": {}}).encode()
        handler.answer(200, body, {"X-Repo-Commit": "f" * 40})
        return True

    hub.faults.append(fault)
    assert load_model("org/sharded", options=FRESH).download_bytes == weight_sizes(files)


def test_an_endpoint_that_is_no_hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from hfmem.errors import UsageError

    monkeypatch.setenv("HF_ENDPOINT", "hub.example.com")
    with pytest.raises(UsageError, match="HF_ENDPOINT"):
        load_model("org/m")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.com")
    with pytest.raises(NetworkError, match="cannot be resolved"):
        load_model("org/m")
