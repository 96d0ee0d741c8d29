"""A model type that no rule covers, with the keys of one that does: read if the files hold its tensors, refused if not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_server import shard

import hfmem
from hfmem.errors import UnknownArchitectureError

Tensor = tuple[str, str, tuple[int, ...]]

NOVEL: dict[str, Any] = {
    "model_type": "novel",
    "architectures": ["NovelForCausalLM"],
    "dtype": "bfloat16",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
#: by hand: q and o 64 × 64, k and v 32 × 64, three matrices of 96 × 64, two norms
LAYER = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64 + 2 * 64
LLAMA = 2 * 6400 + 3 * LAYER + 64


def llama(head: bool = True, bias: bool = False, norms: bool = False) -> list[Tensor]:
    """Llama's tensors by `modeling_llama.py`; `bias`: Qwen2's q, k and v; `norms`: Qwen3's norms of q and k."""
    names: list[Tensor] = [("model.embed_tokens.weight", "BF16", (100, 64)), ("model.norm.weight", "BF16", (64,))]
    names += [("lm_head.weight", "BF16", (100, 64))] if head else []
    for i in range(3):
        at = f"model.layers.{i}."
        for name, rows in (("q", 64), ("k", 32), ("v", 32), ("o", 64)):
            names.append((f"{at}self_attn.{name}_proj.weight", "BF16", (rows, 64)))
            names += [(f"{at}self_attn.{name}_proj.bias", "BF16", (rows,))] if bias and name != "o" else []
        names += [(f"{at}self_attn.{name}_norm.weight", "BF16", (16,)) for name in "qk" if norms]
        names += [(f"{at}mlp.{name}_proj.weight", "BF16", (96, 64)) for name in ("gate", "up")]
        names.append((f"{at}mlp.down_proj.weight", "BF16", (64, 96)))
        names += [(f"{at}{name}_layernorm.weight", "BF16", (64,)) for name in ("input", "post_attention")]
    return names


def folder(path: Path, config: dict[str, Any], tensors: list[Tensor]) -> str:
    blob = shard(tensors)
    (path / "config.json").write_text(json.dumps(config))
    with open(path / "model.safetensors", "wb") as file:
        file.write(blob.front)
        file.truncate(blob.size)
    return str(path)


@pytest.mark.parametrize(
    ("kind", "files", "parameters"),
    [
        ("llama", llama(), LLAMA),
        ("qwen2", llama(bias=True), LLAMA + 3 * (64 + 2 * 32)),
        ("qwen3", llama(norms=True), LLAMA + 3 * 2 * 16),
    ],
)
def test_files_say_which_known_type_it_is(tmp_path: Path, kind: str, files: list[Tensor], parameters: int) -> None:
    config = NOVEL | ({"head_dim": 16} if kind == "qwen3" else {})
    report = hfmem.estimate(folder(tmp_path, config, files), context=1000)
    assert report.parameters.total == parameters and report.weights.bytes == 2 * parameters
    assert report.kv_cache.ideal_bytes == 1000 * 3 * 2 * 2 * 16 * 2
    said = [note.message for note in report.warnings if note.code == "assumed_architecture"]
    assert len(said) == 1 and f"those of {kind}" in said[0]
    assert report.model.model_type == "novel"


def test_a_tower_beside_it_is_read_with_it(tmp_path: Path) -> None:
    # LLaVA's first layout: the text model's keys at the top, `mm_` for the rest
    config = NOVEL | {"mm_hidden_size": 32, "mm_vision_select_layer": -2, "image_aspect_ratio": "pad"}
    tower: list[Tensor] = [("model.mm_projector.0.weight", "BF16", (64, 32))]
    report = hfmem.estimate(folder(tmp_path, config, llama() + tower), context=1000)
    assert report.parameters.total == LLAMA + 64 * 32


def test_a_head_that_is_not_stored_was_tied(tmp_path: Path) -> None:
    config = {key: value for key, value in NOVEL.items() if key != "tie_word_embeddings"}
    report = hfmem.estimate(folder(tmp_path, config, llama(head=False)), context=10)
    assert report.parameters.total == LLAMA - 6400


@pytest.mark.parametrize("key", ["attn_window", "kv_share_every", "sparse_block", "state_width"])
def test_a_key_that_may_speak_of_the_cache_refuses_it(tmp_path: Path, key: str) -> None:
    words = rf'model_type "novel" is not known.*{key}.*its files hold {LLAMA:,} parameters in {2 * LLAMA:,} bytes'
    with pytest.raises(UnknownArchitectureError, match=words):
        hfmem.estimate(folder(tmp_path, NOVEL | {key: 8}, llama()))


def test_so_do_other_tensors_in_its_layers(tmp_path: Path) -> None:
    more: list[Tensor] = [(f"model.layers.{i}.self_attn.gate.weight", "BF16", (4, 64)) for i in range(3)]
    with pytest.raises(UnknownArchitectureError, match=f"hold {LLAMA + 3 * 256:,} parameters"):
        hfmem.estimate(folder(tmp_path, NOVEL, llama() + more))
    with pytest.raises(UnknownArchitectureError, match="is not known"):
        hfmem.estimate(folder(tmp_path, NOVEL | {"num_hidden_layers": 2}, llama()))


def test_a_text_part_of_an_unknown_type_is_read_the_same_way(tmp_path: Path) -> None:
    config = {"model_type": "novel_vlm", "dtype": "bfloat16", "text_config": {**NOVEL, "model_type": "novel_text"}}
    tensors = [(f"language_model.{name}", dtype, shape) for name, dtype, shape in llama(bias=True)]
    report = hfmem.estimate(
        folder(tmp_path, config, [*tensors, ("tower.conv.weight", "BF16", (8, 3, 2, 2))]), context=10
    )
    assert report.parameters.total == LLAMA + 3 * (64 + 2 * 32) + 96
    assert report.kv_cache.bytes_per_token == 3 * 2 * 2 * 16 * 2


def test_without_files_it_stays_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(NOVEL))
    with pytest.raises(UnknownArchitectureError, match=r"nearest: llama .* --assume llama to go on$"):
        hfmem.estimate(str(tmp_path))
