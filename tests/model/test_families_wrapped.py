"""A model type that no rule covers, around a text model that one does: read if the files confirm it, refused if not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_server import shard

import hfmem
from hfmem.errors import MissingFileError, UnknownArchitectureError
from hfmem.memory.cache import bytes_per_token
from hfmem.model.families.registry import read_architecture
from hfmem.model.layers import CrossAttention

TEXT = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "tie_word_embeddings": False,
}
Tensor = tuple[str, str, tuple[int, ...]]


def qwen2(root: str, head: str) -> list[Tensor]:
    """Qwen2's tensors by `modeling_qwen2.py`, 3 layers: 2 × 16 rows of keys, biases of q, k and v."""
    names: list[Tensor] = [(f"{root}embed_tokens.weight", "BF16", (100, 64)), (f"{head}.weight", "BF16", (100, 64))]
    names.append((f"{root}norm.weight", "BF16", (64,)))
    for i in range(3):
        at = f"{root}layers.{i}."
        for name, rows in (("q", 64), ("k", 32), ("v", 32)):
            names += [(f"{at}self_attn.{name}_proj.weight", "BF16", (rows, 64))]
            names += [(f"{at}self_attn.{name}_proj.bias", "BF16", (rows,))]
        names.append((f"{at}self_attn.o_proj.weight", "BF16", (64, 64)))
        names += [(f"{at}mlp.{name}_proj.weight", "BF16", (96, 64)) for name in ("gate", "up")]
        names.append((f"{at}mlp.down_proj.weight", "BF16", (64, 96)))
        names += [(f"{at}{name}_layernorm.weight", "BF16", (64,)) for name in ("input", "post_attention")]
    return names


TOWER: list[Tensor] = [
    ("vision_tower.stem.conv.weight", "BF16", (32, 3, 4, 4)),
    ("mm_bridge.0.weight", "BF16", (64, 32)),
]
#: by hand: embedding and head, three layers (q, k, v with biases, o, three MLP matrices, two norms), the last norm
PARAMETERS = 2 * 6400 + 3 * (128 * 65 + 64 * 64 + 3 * 96 * 64 + 128) + 64
TOWER_PARAMETERS = 32 * 3 * 16 + 64 * 32


def folder(path: Path, config: dict[str, Any], tensors: list[Tensor]) -> str:
    blob = shard(tensors)
    (path / "config.json").write_text(json.dumps(config))
    with open(path / "model.safetensors", "wb") as file:
        file.write(blob.front)
        file.truncate(blob.size)
    return str(path)


@pytest.mark.parametrize("place", ["text_config", "llm_config", "language_config"])
@pytest.mark.parametrize(
    ("root", "head"),
    [
        ("language_model.model.", "language_model.lm_head"),
        ("model.language_model.", "lm_head"),
        ("llm.model.", "llm.lm_head"),
    ],
)
def test_an_unknown_wrapper_is_read_by_its_text_model(tmp_path: Path, place: str, root: str, head: str) -> None:
    config = {"model_type": "novel_vlm", "architectures": ["NovelVLM"], "dtype": "bfloat16", place: TEXT}
    report = hfmem.estimate(folder(tmp_path, config, qwen2(root, head) + TOWER), context=1000)
    assert report.parameters.total == PARAMETERS + TOWER_PARAMETERS
    assert report.weights.bytes == 2 * (PARAMETERS + TOWER_PARAMETERS)
    assert report.kv_cache.bytes_per_token == 3 * 2 * 2 * 16 * 2
    assert report.kv_cache.ideal_bytes == 1000 * 3 * 2 * 2 * 16 * 2
    assert "parts_by_files" in {note.code for note in report.warnings}


@pytest.mark.parametrize("lost", ["k_proj.weight", "layers.2.", "embed_tokens"])
def test_files_that_do_not_confirm_it_are_refused(tmp_path: Path, lost: str) -> None:
    config = {"model_type": "novel_vlm", "dtype": "bfloat16", "text_config": TEXT}
    tensors = [tensor for tensor in qwen2("language_model.model.", "language_model.lm_head") if lost not in tensor[0]]
    with pytest.raises(UnknownArchitectureError, match=r'"novel_vlm" is not known.*its text part'):
        hfmem.estimate(folder(tmp_path, config, tensors + TOWER))


def test_one_more_tensor_in_the_layers_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "novel_vlm", "dtype": "bfloat16", "text_config": TEXT}
    more: list[Tensor] = [
        (f"language_model.model.layers.{i}.cross_attn.k_proj.weight", "BF16", (32, 64)) for i in range(3)
    ]
    with pytest.raises(UnknownArchitectureError, match="does not explain"):
        hfmem.estimate(folder(tmp_path, config, qwen2("language_model.model.", "language_model.lm_head") + more))


def test_an_unknown_text_model_stays_unknown(tmp_path: Path) -> None:
    config = {"model_type": "novel_vlm", "dtype": "bfloat16", "text_config": {**TEXT, "model_type": "novel"}}
    with pytest.raises(UnknownArchitectureError, match='"novel_vlm" is not known'):
        hfmem.estimate(folder(tmp_path, config, TOWER))


def test_a_known_wrapper_needs_its_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "fast_vlm", "text_config": TEXT}))
    with pytest.raises(MissingFileError, match="headers alone"):
        hfmem.estimate(str(tmp_path))


PANGU: dict[str, Any] = {key: value for key, value in TEXT.items() if key != "model_type"}


def test_openpangu_vl_keeps_its_text_keys_at_the_top(tmp_path: Path) -> None:
    # vLLM's `openpangu_vl.py`: PanguEmbeddedForCausalLM under `model.language_model.`, biases on q, k, v and the output
    config = PANGU | {"model_type": "openpangu_vl", "dtype": "bfloat16", "bias": True, "vision_config": {"depth": 2}}
    biases: list[Tensor] = [(f"model.language_model.layers.{i}.self_attn.o_proj.bias", "BF16", (64,)) for i in range(3)]
    files = qwen2("model.language_model.", "lm_head") + biases
    report = hfmem.estimate(
        folder(tmp_path, config, [*files, ("model.visual.blocks.0.norm.weight", "BF16", (32,))]), context=100
    )
    assert report.parameters.total == PARAMETERS + 3 * 64 + 32
    assert report.kv_cache.bytes_per_token == 3 * 2 * 2 * 16 * 2
    assert not {note.code for note in report.warnings} & {"missing_tensors", "unexpected_tensors", "layers_mismatch"}


def test_nemotron_parse_3_5_reads_the_image_as_tokens() -> None:
    decoder = {
        "d_model": 64,
        "decoder_layers": 3,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 96,
        "vocab_size": 100,
    }
    decoder |= {"model_type": "mbart", "causal_vision_prefix": True, "tie_word_embeddings": False}
    config = {"model_type": "nemotron_parse", "architectures": ["RadioMBartPrefixForCausalLM"], "dtype": "bfloat16"}
    arch = read_architecture(config | {"decoder": decoder, "tie_word_embeddings": False, "encoder": {}})
    # `MBartDecoderLayer`: four projections, two layers, two norms, all with biases; two norms around them, embedding and head
    layer = 4 * (64 * 64 + 64) + 2 * 96 * 64 + 96 + 64 + 4 * 64
    assert arch.expected_parameters() == 2 * 6400 + 4 * 64 + 3 * layer
    assert bytes_per_token(arch) == 3 * 2 * 64 * 2
    assert arch.partial and not any(isinstance(cache, CrossAttention) for cache in arch.caches())
