"""Types without a rule of their own: what their files hold, no cache, and a refusal where no file says anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_server import shard

import hfmem
from hfmem.errors import MissingFileError, UnknownArchitectureError
from hfmem.model.families.file_types import BY_FILES
from hfmem.model.families.registry import FAMILIES, read_architecture

#: ResNet's stem as transformers writes it: a convolution and a batch norm, whose running statistics are no parameters
STEM = [
    ("resnet.embedder.embedder.convolution.weight", "F32", (64, 3, 7, 7)),
    ("resnet.embedder.embedder.normalization.weight", "F32", (64,)),
    ("resnet.embedder.embedder.normalization.bias", "F32", (64,)),
    ("resnet.embedder.embedder.normalization.running_mean", "F32", (64,)),
    ("resnet.embedder.embedder.normalization.running_var", "F32", (64,)),
    ("resnet.embedder.embedder.normalization.num_batches_tracked", "I64", ()),
]
CONFIG = {"architectures": ["ResNetForImageClassification"], "hidden_sizes": [256, 512], "depths": [3, 4]}


def folder(path: Path, config: dict[str, object]) -> str:
    blob = shard(STEM)
    (path / "config.json").write_text(json.dumps(config))
    with open(path / "model.safetensors", "wb") as file:
        file.write(blob.front)
        file.truncate(blob.size)
    return str(path)


@pytest.mark.parametrize("config", [{**CONFIG, "model_type": "resnet"}, CONFIG], ids=["by type", "by class"])
def test_weights_come_from_the_files_and_nothing_is_kept(tmp_path: Path, config: dict[str, object]) -> None:
    report = hfmem.estimate(folder(tmp_path, config))
    assert report.parameters.total == 64 * 3 * 7 * 7 + 2 * 64
    assert report.weights.bytes == 4 * (64 * 3 * 7 * 7 + 4 * 64) + 8
    assert report.weights.evidence == "headers"
    assert report.kv_cache.bytes == 0
    assert "inventory_unknown" in {note.code for note in report.warnings}


def test_a_config_alone_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "model_type": "resnet"}))
    with pytest.raises(MissingFileError, match="headers alone"):
        hfmem.estimate(str(tmp_path))


def test_none_is_offered_as_the_nearest_of_a_language_model() -> None:
    config = {
        "model_type": "esmd",
        "hidden_size": 320,
        "num_hidden_layers": 6,
        "num_attention_heads": 20,
        "vocab_size": 33,
    }
    with pytest.raises(UnknownArchitectureError) as refusal:
        read_architecture(config)
    assert not any(f"--assume {name} " in str(refusal.value) for name in BY_FILES)


def test_a_rule_of_its_own_comes_first() -> None:
    assert all(FAMILIES[name] == rule for name, rule in BY_FILES.items())


def test_types_that_generate_are_not_among_them() -> None:
    modeling_auto = pytest.importorskip("transformers.models.auto.modeling_auto", exc_type=ImportError)
    spoken_at_once = {"vits", "fastspeech2_conformer_with_hifigan"}  # all of the speech in one pass, nothing kept
    for task in ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ", "TEXT_TO_WAVEFORM"):
        assert not (BY_FILES.keys() - spoken_at_once) & getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES").keys()


def test_a_type_without_a_cache_does_not_stand_for_a_class_that_writes() -> None:
    with pytest.raises(
        UnknownArchitectureError, match='FooForCausalLM writes text, which no model of the type "resnet" does'
    ):
        read_architecture({"model_type": "resnet", "architectures": ["FooForCausalLM"]})
    assert read_architecture({"model_type": "resnet", "architectures": ["ResNetForImageClassification"]}).caches() == ()
