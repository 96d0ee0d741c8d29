"""A model of two shards on the local Hub, and what is stored of it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from hub_server import HubServer, sharded

from hfmem.hub import FetchStats, ModelFacts

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
