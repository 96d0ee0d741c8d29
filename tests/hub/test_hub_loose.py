"""Safetensors files of other names: read where they are one whole set, refused where it is open which they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer, shard

from hfmem.errors import MissingFileError
from hfmem.hub import FetchOptions, load_model
from hfmem.hub.loose import one_set

CONFIG = {"model_type": "llama"}
FIRST = shard([("layers.0.w", "BF16", (1024, 1024))])
SECOND = shard([("layers.1.w", "BF16", (512, 1024))])
FRESH = FetchOptions(no_cache=True)
BYTES = 2 * 1024 * (1024 + 512)


@pytest.mark.parametrize(
    "names",
    [
        ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        ("model-00001-of-00002.fp16.safetensors", "model-00002-of-00002.fp16.safetensors"),
        ("consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors"),
    ],
)
def test_shards_without_an_index(hub: HubServer, names: tuple[str, str]) -> None:
    hub.add("org/m", {"config.json": CONFIG, names[0]: FIRST, names[1]: SECOND})
    facts = load_model("org/m", options=FRESH)
    assert facts.checkpoint is not None and facts.checkpoint.total_bytes == BYTES
    assert tuple(file.name for file in facts.weight_files) == names
    assert facts.notice is not None and f"the weights are {names[0]} and 1 more" in facts.notice


@pytest.mark.parametrize("name", ["model.fp16.safetensors", "pytorch_model.safetensors", "weights.safetensors"])
def test_one_file_of_another_name(hub: HubServer, name: str) -> None:
    hub.add(
        "org/m", {"config.json": CONFIG, name: FIRST, "adapter_model.safetensors": b"x", "sub/model.safetensors": b"x"}
    )
    facts = load_model("org/m", options=FRESH)
    assert facts.checkpoint is not None and facts.checkpoint.total_bytes == 2 * 1024 * 1024


def test_the_usual_names_come_first(hub: HubServer) -> None:
    hub.add("org/m", {"config.json": CONFIG, "model.safetensors": SECOND, "model.fp16.safetensors": FIRST})
    facts = load_model("org/m", options=FRESH)
    assert facts.checkpoint is not None and facts.checkpoint.total_bytes == 2 * 512 * 1024


@pytest.mark.parametrize(
    "names",
    [
        ("model.fp16.safetensors", "model.fp32.safetensors"),
        ("model-00001-of-00002.safetensors",),
        ("model-00001-of-00002.safetensors", "model-00003-of-00002.safetensors"),
        ("a-00001-of-00002.safetensors", "b-00002-of-00002.safetensors"),
        ("model-00001-of-99999999.safetensors", "x.safetensors"),
    ],
)
def test_two_sets_or_half_of_one_are_none(hub: HubServer, names: tuple[str, ...]) -> None:
    assert one_set(names) is None
    files: dict[str, Any] = dict.fromkeys(names, FIRST)
    hub.add("org/m", {"config.json": CONFIG, **files})
    with pytest.raises(MissingFileError, match=r"no model\.safetensors and no .*found"):
        load_model("org/m", options=FRESH)


def test_a_folder_is_read_alike(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for number, blob in ((1, FIRST), (2, SECOND)):
        with open(tmp_path / f"model-0000{number}-of-00002.safetensors", "wb") as file:
            file.write(blob.front)
            file.truncate(blob.size)
    checkpoint = load_model(str(tmp_path)).checkpoint
    assert checkpoint is not None and checkpoint.total_bytes == BYTES
