"""Multimodal models without a class in transformers: OpenVLA, Alpamayo 2, BAGEL, MOSS-VL, and wrappers read by their text model.

Parameters of a rank were counted on vLLM 0.33.0's own classes, built on the meta device from these configs at tensor parallel size
1 and 2. OpenVLA's total is also what the Hub says of openvla/openvla-7b.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_server import shard

import hfmem
from hfmem.errors import ContradictionError, MissingFileError, UnknownArchitectureError
from hfmem.memory.cache import bytes_per_token
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.expected import synthesise
from hfmem.model.families.multimodal_types import TEXT_OF
from hfmem.model.families.registry import FAMILIES, read_architecture
from hfmem.model.layers import CrossAttention, FullAttention

TEXT: dict[str, Any] = {
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 768,
    "vocab_size": 9024,
    "tie_word_embeddings": False,
}
QWEN3_TOWER: dict[str, Any] = {
    "hidden_size": 128,
    "depth": 3,
    "num_heads": 4,
    "intermediate_size": 256,
    "out_hidden_size": 512,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_position_embeddings": 256,
    "deepstack_visual_indexes": [0, 1],
}
OPENVLA: dict[str, Any] = {
    "model_type": "openvla",
    "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
    "image_sizes": [224, 224],
    "use_fused_vision_backbone": True,
    "text_config": {"model_type": "llama", "vocab_size": 32064},
}
BAGEL: dict[str, Any] = {
    "model_type": "bagel",
    "llm_config": TEXT | {"model_type": "qwen2", "qk_norm": True, "layer_module": "Qwen2MoTDecoderLayer"},
    "vit_config": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "image_size": 56,
        "patch_size": 14,
    },
    "vae_config": {"z_channels": 16, "downsample": 8},
    "latent_patch_size": 2,
    "max_latent_size": 64,
    "vit_max_num_patch_per_side": 70,
}
ALPAMAYO: dict[str, Any] = {
    "model_type": "alpamayo2_super",
    "vlm_config": {
        "model_type": "qwen3_vl",
        "text_config": TEXT | {"model_type": "qwen3_vl_text", "head_dim": 64},
        "vision_config": QWEN3_TOWER | {"model_type": "qwen3_vl"},
    },
    "expert_config": {"hidden_size": 128},
}


@pytest.mark.parametrize(
    ("config", "one", "two"),
    [(OPENVLA, 7_541_237_184, 4_144_600_256), (BAGEL, 17_917_952, 9_001_792), (ALPAMAYO, 19_315_200, 9_777_984)],
    ids=["openvla", "bagel", "alpamayo"],
)
def test_as_vllm_builds_it(config: dict[str, Any], one: int, two: int) -> None:
    arch = read_architecture(config | {"dtype": "bfloat16"})
    for tp, parameters in ((1, one), (2, two)):
        serving = Serving(context=64, num_seqs=1, engine="vllm", tp=tp)
        assert rank_weights(arch, synthesise(arch), serving).parameters == parameters


def test_bagel_stores_what_draws_beside_it() -> None:
    arch = read_architecture(BAGEL)
    # the second set: q and o, k and v, biases, norms of a head, the feed-forward, two norms a layer; a last norm
    layer = 2 * 512 * 512 + 2 * 512 * 256 + 512 + 2 * 256 + 2 * 64 + 3 * 512 * 768 + 2 * 512
    drawn = 4 * layer + 512
    step = 256 * 512 + 512 + 512 * 512 + 512
    latent = 2 * 64 * 512 + 512 + 64 + 64 * 64 * 512
    assert arch.expected_parameters() == 17_917_952 + drawn + step + latent + 70 * 70 * 512
    assert bytes_per_token(read_architecture(BAGEL | {"dtype": "bfloat16"})) == 4 * 2 * 4 * 64 * 2
    # published configs count a block of SigLIP that is left out
    deep = BAGEL | {"vit_config": BAGEL["vit_config"] | {"num_hidden_layers": 27}}
    block = 4 * (128 * 128 + 128) + 2 * 128 * 256 + 256 + 128 + 4 * 128
    assert read_architecture(deep).expected_parameters() - arch.expected_parameters() == 23 * block
    without = BAGEL | {"visual_gen": False}
    assert arch.expected_parameters() - read_architecture(without).expected_parameters() == step + latent


def test_openvla_names_its_encoders() -> None:
    with pytest.raises(UnknownArchitectureError, match="'timm_model_ids' is 'resnet50'"):
        read_architecture(OPENVLA | {"timm_model_ids": ["resnet50", "vit_so400m_patch14_siglip_224"]})
    with pytest.raises(ContradictionError, match="do not name 1 encoders"):
        read_architecture(OPENVLA | {"use_fused_vision_backbone": False})


def test_moss_vl_attends_over_images_in_some_layers() -> None:
    text = TEXT | {"head_dim": 64, "cross_attention_layers": [1, 3], "attention_bias": False}
    arch = read_architecture({"model_type": "moss_vl", "text_config": text, "dtype": "bfloat16"})
    assert [type(cache) for cache in arch.caches()] == [FullAttention, CrossAttention] * 2
    # every layer: q and o, k and v, two norms of a head, the feed-forward, two norms; two gates where it attends over images
    layer = 2 * 512 * 512 + 2 * 512 * 256 + 2 * 64 + 3 * 512 * 768 + 2 * 512
    assert arch.expected_parameters() == 2 * 9024 * 512 + 4 * layer + 2 * 2 + 512
    assert arch.partial and bytes_per_token(arch) == 2 * 2 * 4 * 64 * 2
    with pytest.raises(ContradictionError, match="outside 0…3"):
        read_architecture({"model_type": "moss_vl", "text_config": text | {"cross_attention_layers": [4]}})


def test_moondream_2_says_nothing_of_its_sizes() -> None:
    data = {"model_type": "moondream1", "architectures": ["HfMoondream"], "config": {}, "dtype": "bfloat16"}
    arch = read_architecture(data)
    assert arch.expected_parameters() == 1_927_237_104  # vikhyatk/moondream2, by the Hub
    block = 3 * 2048 * 2048 + 3 * 2048 + 2048 * 2048 + 2048 + 2 * 2048 * 8192 + 8192 + 2048 + 2 * 2048
    shorter = read_architecture(data | {"config": {"text": {"n_layers": 20}}})
    assert arch.expected_parameters() - shorter.expected_parameters() == 4 * block
    assert bytes_per_token(arch) == 24 * 2 * 2048 * 2
    with pytest.raises(ContradictionError, match="files of 2024"):
        read_architecture(data | {"text_config": {"model_type": "phi"}})


Tensor = tuple[str, str, tuple[int, ...]]


def folder(path: Path, config: dict[str, Any], tensors: list[Tensor]) -> str:
    blob = shard(tensors)
    (path / "config.json").write_text(json.dumps(config))
    with open(path / "model.safetensors", "wb") as file:
        file.write(blob.front)
        file.truncate(blob.size)
    return str(path)


def decoder(root: str, head: str, *, bias: bool, norms: bool) -> list[Tensor]:
    """A decoder of two layers: 4 heads and 2 KV heads of 16, a feed-forward of 96, 100 words."""
    names: list[Tensor] = [(f"{root}embed_tokens.weight", "BF16", (100, 64)), (f"{head}.weight", "BF16", (100, 64))]
    names.append((f"{root}norm.weight", "BF16", (64,)))
    for at in (f"{root}layers.{i}." for i in range(2)):
        for name, rows in (("q", 64), ("k", 32), ("v", 32), ("o", 64)):
            names.append((f"{at}self_attn.{name}_proj.weight", "BF16", (rows, 64)))
            names += [(f"{at}self_attn.{name}_proj.bias", "BF16", (rows,))] if bias and name != "o" else []
        names += [(f"{at}self_attn.{name}_norm.weight", "BF16", (16,)) for name in "qk" if norms]
        names += [(f"{at}mlp.{name}_proj.weight", "BF16", (96, 64)) for name in ("gate", "up")]
        names.append((f"{at}mlp.down_proj.weight", "BF16", (64, 96)))
        names += [(f"{at}{name}_layernorm.weight", "BF16", (64,)) for name in ("input", "post_attention")]
    return names


SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 100,
    "tie_word_embeddings": False,
}
#: model_type → where its config holds the text model (None: at the top level), its class, the root and head of its files' names
PLACES: dict[str, tuple[str | None, str, str, str]] = {
    "funaudiochat": (
        "text_config",
        "FunAudioChatForConditionalGeneration",
        "language_model.model.",
        "language_model.lm_head",
    ),
    "moss_audio": ("language_config", "MossAudioModel", "language_model.", "lm_head"),
    "kanana-1.5-v": (
        "text_config",
        "KananaVForConditionalGeneration",
        "language_model.model.",
        "language_model.lm_head",
    ),
    "nvila": ("text_config", "NVILAForConditionalGeneration", "llm.model.", "llm.lm_head"),
    "nvila_lite": ("text_config", "NVILALiteForConditionalGeneration", "llm.model.", "llm.lm_head"),
    "pointsv1.5_chat": ("llm_config", "POINTSV15ChatModel", "llm.model.", "llm.lm_head"),
    "multi_modality": ("language_config", "MultiModalityCausalLM", "language_model.model.", "language_model.lm_head"),
    "sarashina2_vision": ("text_config", "Sarashina2VisionForCausalLM", "llm.model.", "llm.lm_head"),
    "funasr": (None, "FunASRForConditionalGeneration", "llm.model.", "llm.lm_head"),
    "fireredasr2": (None, "FireRedASR2ForConditionalGeneration", "llm.model.", "llm.lm_head"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_wrapper_that_does_not_name_its_text_model(tmp_path: Path, name: str) -> None:
    place, cls, root, head = PLACES[name]
    kind = TEXT_OF[name]
    bias, norms = kind == "qwen2", kind == "qwen3"
    # speech models of this kind call themselves what their text model is called
    config = SMALL | {"model_type": kind} if place is None else {"model_type": name, place: SMALL}
    tower: list[Tensor] = [("encoder.stem.weight", "BF16", (32, 3, 4)), ("bridge.weight", "BF16", (64, 32))]
    files = decoder(root, head, bias=bias, norms=norms) + tower
    report = hfmem.estimate(folder(tmp_path, config | {"architectures": [cls], "dtype": "bfloat16"}, files), context=10)
    layer = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64 + 2 * 64 + (128 if bias else 0) + (32 if norms else 0)
    assert report.parameters.total == 2 * 6400 + 2 * layer + 64 + 32 * 12 + 64 * 32
    assert report.kv_cache.bytes_per_token == 2 * 2 * 2 * 16 * 2
    codes = {note.code for note in report.warnings}
    assert "parts_by_files" in codes and not codes & {"missing_tensors", "unexpected_tensors", "layers_mismatch"}


def test_ovis_1_names_its_text_model(tmp_path: Path) -> None:
    # AIDC-AI/Ovis1.6 and Ovis2: any text model under `llm.`, an image tokenizer and its table beside it
    config = {"model_type": "ovis", "architectures": ["Ovis"], "dtype": "bfloat16"}
    files = [*decoder("llm.model.", "llm.lm_head", bias=True, norms=False), ("vte.weight", "BF16", (16, 64))]
    report = hfmem.estimate(
        folder(tmp_path, config | {"llm_config": SMALL | {"model_type": "qwen2"}}, files), context=10
    )
    layer = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64 + 2 * 64 + 128
    assert report.parameters.total == 2 * 6400 + 2 * layer + 64 + 16 * 64
    assert report.kv_cache.bytes_per_token == 2 * 2 * 2 * 16 * 2


def test_such_a_wrapper_needs_its_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nvila", "text_config": SMALL}))
    with pytest.raises(MissingFileError, match="headers alone"):
        hfmem.estimate(str(tmp_path))


def test_every_text_model_of_a_wrapper_has_a_rule() -> None:
    assert set(TEXT_OF.values()) <= set(FAMILIES)


def test_yi_vl_has_norms_in_its_projector() -> None:
    # 01-ai/Yi-VL-6B: Yi-6B (6,061,035,520 parameters as its card's files hold) and linear, norm, linear, norm from 1,280 to 4,096
    config = {
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 64_000,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "mm_hidden_size": 1280,
        "mm_projector_type": "mlp2x_gelu_Norm",
        "mm_vision_tower": "./vit/clip-vit-H-14",
        "model_type": "llava",
        "architectures": ["LlavaLlamaForCausalLM"],
    }
    arch = read_architecture(config)
    projector = 4096 * (1280 + 1) + 4096 * (4096 + 1) + 2 * 2 * 4096
    assert arch.expected_parameters() == 6_061_035_520 + projector
    names = {s.pattern for s in arch.tensors if "mm_projector" in s.pattern}
    assert names == {f"model.mm_projector.{i}.{leaf}" for i in (0, 1, 3, 4) for leaf in ("weight", "bias")}
