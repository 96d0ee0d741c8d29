"""Models that tests put on the local Hub."""

from __future__ import annotations

from typing import Any

from hub_server import Blob, HubServer, shard, sharded

from hfmem.hub import FetchOptions

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "time_step_limit": [0.0, float("inf")]}
FRESH = FetchOptions(no_cache=True)
TENSORS = [("model.layers.0.w", "BF16", (128, 64)), ("model.layers.1.w", "BF16", (128, 64)), ("norm", "F32", (64,))]
TENSOR_BYTES = 2 * 128 * 64 * 2 + 64 * 4


def add_single(hub: HubServer, **settings: Any) -> Blob:
    """A repo with one weight file, beside second copies that must not count."""
    blob = shard(TENSORS)
    others = {
        name: shard([("x", "F32", (1000,))])
        for name in ("consolidated.safetensors", "model.fp16.safetensors", "original/model.safetensors")
    }
    hub.add("org/single", {"config.json": CONFIG, "model.safetensors": blob, **others}, **settings)
    return blob


def add_sharded(hub: HubServer, shards: int = 4, repo_id: str = "org/sharded", **settings: Any) -> dict[str, Any]:
    parts = {
        f"model-{i + 1:05d}-of-{shards:05d}.safetensors": [
            (f"model.layers.{i}.mlp.experts.{j}.w{k}.weight", "BF16", (32, 16)) for j in range(8) for k in (1, 2)
        ]
        for i in range(shards)
    }
    files = sharded(parts)
    consolidated = shard([("layers.0", "BF16", (999, 999))])
    hub.add(repo_id, {"config.json": CONFIG, "consolidated.safetensors": consolidated, **files}, **settings)
    return files


def weight_sizes(files: dict[str, Any]) -> int:
    return sum(blob.size for blob in files.values() if isinstance(blob, Blob))
