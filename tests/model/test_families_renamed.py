"""Types that files write and classes call otherwise; decoders whose weights only their files tell.

Parameters: transformers 5.23.0's class built on the meta device from the same config. Cache bytes: what its classes kept of small
models after a forward of 11 tokens (float32).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_server import shard

import hfmem
from hfmem.errors import MissingFileError, UnknownArchitectureError
from hfmem.memory.engines.transformers import cache
from hfmem.memory.serving import Serving
from hfmem.model.families.registry import read_architecture
from hfmem.model.inventory import Component
from hfmem.model.layers import FullAttention, SlidingAttention

#: LGAI-EXAONE/EXAONE-4.5-33B
EXAONE: dict[str, Any] = {
    "architectures": ["Exaone4_5_ForConditionalGeneration"],
    "model_type": "exaone4_5",
    "tie_word_embeddings": False,
    "text_config": {
        "model_type": "exaone4_5_text",
        "architectures": ["Exaone4ForCausalLM"],
        "dtype": "bfloat16",
        "hidden_size": 5120,
        "intermediate_size": 27392,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "num_hidden_layers": 64,
        "num_nextn_predict_layers": 1,
        "sliding_window": 4096,
        "sliding_window_pattern": "LLLG",
        "vocab_size": 153600,
    },
    "vision_config": {
        "model_type": "exaone4_5_vision",
        "depth": 28,
        "hidden_size": 2048,
        "in_channels": 3,
        "intermediate_size": 5120,
        "num_heads": 32,
        "num_key_value_heads": 8,
        "out_hidden_size": 5120,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}


def test_exaone_4_5_as_published() -> None:
    arch = read_architecture(EXAONE)
    mtp = arch.parameters_by_component()[Component.MTP]
    assert arch.expected_parameters() - mtp == 33_813_987_328
    # vLLM's `exaone4_5_mtp.py`: a block of EXAONE 4, a projection of two states, three norms
    block = 2 * 5120 * 5120 + 2 * 1024 * 5120 + 3 * 5120 * 27392 + 2 * 128 + 2 * 5120
    assert mtp == block + 2 * 5120 * 5120 + 3 * 5120
    caches = [c for layer in arch.layers if layer.stack == "decoder" for c in layer.caches]
    assert [isinstance(c, SlidingAttention) for c in caches] == [True, True, True, False] * 16


def test_a_text_part_by_its_class() -> None:
    """A type of the repository's own for a class that is known; an unknown one with an unknown class is refused."""
    own = EXAONE | {"text_config": EXAONE["text_config"] | {"model_type": "exaone_4_5_korean"}}
    assert read_architecture(own).expected_parameters() == read_architecture(EXAONE).expected_parameters()
    other = EXAONE | {"text_config": own["text_config"] | {"architectures": ["KoreanForCausalLM"]}}
    with pytest.raises(UnknownArchitectureError, match="exaone_4_5_korean"):
        read_architecture(other)


def test_mistral_with_layer_types_is_ministral() -> None:
    config = {
        "model_type": "mistral",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 4,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 131072,
        "sliding_window": 32768,
    }
    types = ["full_attention", "sliding_attention", "sliding_attention", "sliding_attention"]
    kinds = [type(c) for c in read_architecture(config | {"layer_types": types}).caches()]
    assert kinds == [FullAttention, SlidingAttention, SlidingAttention, SlidingAttention]
    assert [type(c) for c in read_architecture(config).caches()] == [SlidingAttention] * 4


def test_a_class_of_the_repository_s_own() -> None:
    llama = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "vocab_size": 99,
    }
    own = llama | {"architectures": ["LlamaForCausalLM_Hybrid"], "num_attention_heads": 4}
    code = {"AutoModelForCausalLM": "modeling_hybrid_llama.LlamaForCausalLM_Hybrid"}

    def codes(config: dict[str, Any]) -> set[str]:
        return {note.code for note in read_architecture(config).notes}

    assert "class_of_its_own" in codes(own | {"auto_map": code})
    assert "class_of_its_own" not in codes(own)
    assert "class_of_its_own" not in codes(own | {"architectures": ["LlamaForCausalLM"], "auto_map": code})
    assert "class_of_its_own" not in codes(own | {"auto_map": {"AutoConfig": "configuration_llama.LlamaConfig"}})


SMALL = {"vocab_size": 50, "num_attention_heads": 4, "hidden_size": 32}
KOSMOS = {"text_config": {"vocab_size": 50, "embed_dim": 32, "layers": 3, "ffn_dim": 48, "attention_heads": 4}}
STAGE = {"num_layers": 2, "num_heads": 4, "hidden_size": 32, "input_vocab_size": 60}
MBART = {"vocab_size": 50, "d_model": 32, "decoder_layers": 3, "decoder_attention_heads": 4}
CACHED: dict[str, tuple[dict[str, Any], int, int | None]] = {
    "git": (SMALL | {"num_hidden_layers": 3}, 8448, None),
    "idefics": (SMALL | {"num_hidden_layers": 4, "cross_layer_interval": 2}, 11264, None),
    "kosmos-2": (KOSMOS, 8448, None),
    "kosmos-2.5": (KOSMOS, 8448, None),
    # 13 positions of text and patches
    "udop": (
        {"vocab_size": 50, "d_model": 32, "d_kv": 8, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4},
        18432,
        13,
    ),
    "speecht5": ({"vocab_size": 50, "hidden_size": 32, "decoder_layers": 3, "decoder_attention_heads": 4}, 13824, 7),
    "pp_formulanet": ({"text_config": MBART}, 13824, 7),
    "bark": ({"semantic_config": STAGE, "coarse_acoustics_config": STAGE | {"num_layers": 3}}, 8448, None),
}


@pytest.mark.parametrize("model_type", CACHED)
def test_what_their_decoders_keep(model_type: str) -> None:
    config, expected, source = CACHED[model_type]
    arch = read_architecture({"model_type": model_type, "dtype": "float32", **config})
    serving = Serving(context=11, num_seqs=1, engine="transformers", source_tokens=source)
    assert cache(arch, serving).bytes == expected


def test_their_weights_are_what_the_files_hold(tmp_path: Path) -> None:
    config = {"model_type": "git", "dtype": "float32", "num_hidden_layers": 3, **SMALL}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingFileError, match="headers alone"):
        hfmem.estimate(str(tmp_path))
    blob = shard([("git.embeddings.word_embeddings.weight", "F32", (50, 32)), ("output.weight", "F32", (50, 32))])
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write(blob.front)
        file.truncate(blob.size)
    report = hfmem.estimate(str(tmp_path), context=11, engine="transformers")
    assert (report.weights.bytes, report.kv_cache.bytes) == (4 * 2 * 50 * 32, 8448)


def test_chart_to_table_is_got_ocr() -> None:
    arch = read_architecture({"model_type": "pp_chart2table", "architectures": ["GotOcr2ForConditionalGeneration"]})
    assert arch.expected_parameters() == 560_528_640
