"""Numbers that no model has: JSON as Python reads it knows NaN, Infinity and any size, and none of them may get further."""

from __future__ import annotations

import json
from typing import Any

import pytest
from commands import Run

from hfmem.api.reading import read_model
from hfmem.errors import ContradictionError, MissingKeyError
from hfmem.hub import FetchOptions
from hfmem.model.config import Config
from hfmem.model.families.registry import read_architecture
from hfmem.model.inventory import Replicated, TensorSpec

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "rope_theta": 1e4,
}


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), 1e308, 0, 0.0, -0.5, 1e-300, "2", True, [2.0]]
)
def test_ratios_of_sizes(value: Any) -> None:
    with pytest.raises(ContradictionError, match="'expand' is "):
        Config({"expand": value}).positive_float("expand")


@pytest.mark.parametrize("value", [2, 2.0, 0.25, 1e6])
def test_ratios_that_are(value: float) -> None:
    assert Config({"expand": value}).positive_float("expand") == value


def test_numbers_of_layers() -> None:
    assert Config({"dense": [0, 3.0]}).numbers("dense") == [0, 3]
    assert Config({}).numbers("dense") is None
    for wrong in ([[1]], [None], ["1"], [True], [1.5], 3):
        with pytest.raises(ContradictionError, match="'dense' is "):
            Config({"dense": wrong}).numbers("dense")


def test_numbers_that_must_be_there() -> None:
    assert Config({"widths": [4, 8]}).need_numbers("widths") == [4, 8]
    with pytest.raises(MissingKeyError, match="'widths'"):
        Config({}).need_numbers("widths")
    for wrong in ([], ["4"], [4, None], 4):
        with pytest.raises(ContradictionError, match="'widths' is "):
            Config({"widths": wrong}).need_numbers("widths")


def test_lists_of_towers_and_vocoders_that_do_not_fit() -> None:
    for config in (
        {"model_type": "csm", "codec_config": {"upsampling_ratios": [1, "a"]}},
        {"model_type": "seamless_m4t_v2", "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1], [3]]},
        {"model_type": "seamless_m4t_v2", "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [None]},
        {"model_type": "swin", "depths": []},
        {"model_type": "lfm2", "full_attn_idxs": [[1], 2]},
    ):
        with pytest.raises(ContradictionError):
            read_architecture(config)


@pytest.mark.parametrize(
    ("model", "part", "key"),
    [
        ("nvidia/Qwen3.8-Flash-Next-NVFP4", "text_config", "ple_layer_ids"),
        ("XiaomiMiMo/MiMo-V2.5", "vision_config", "fullatt_block_indexes"),
    ],
)
def test_layers_by_number_that_are_none(model: str, part: str, key: str) -> None:
    config = dict(read_model(model, fetch=FetchOptions(offline=True, no_cache=True)).facts.config)
    config[part] = {**config[part], key: [[1], 2]}
    with pytest.raises(ContradictionError, match=key):
        read_architecture(config)


@pytest.mark.parametrize("value", ["1e308", "Infinity", "NaN", "-1.0", "0"])
@pytest.mark.parametrize("where", ["factor", "partial_rotary_factor"])
def test_scalings_of_the_rotary_table(run: Run, tmp_path: Any, where: str, value: str) -> None:
    scaling = {"rope_type": "yarn", "original_max_position_embeddings": 512, "factor": 2.0, where: 0.5}
    text = json.dumps(LLAMA | {"rope_scaling": scaling}).replace(f'"{where}": 0.5', f'"{where}": {value}')
    (tmp_path / "config.json").write_text(text)
    status, _, err = run(str(tmp_path), "--ctx", "512")
    named = f"error: {tmp_path / 'config.json'}: rotary embeddings: '{where}' is "
    assert status == 4 and err.startswith(named) and err.count("\n") == 1


def test_a_scaling_that_is(run: Run, tmp_path: Any) -> None:
    scaling = {"rope_type": "yarn", "original_max_position_embeddings": 512, "factor": 4.0}
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"rope_scaling": scaling}))
    assert run(str(tmp_path), "--ctx", "512")[0] == 0


@pytest.mark.parametrize("value", [{"a": 1}, ["llama"]])
def test_a_model_type_that_is_no_word(run: Run, tmp_path: Any, value: Any) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512}
    config = LLAMA | {"model_type": value, "rope_scaling": scaling}
    (tmp_path / "config.json").write_text(json.dumps(config))
    status, _, err = run(str(tmp_path), "--ctx", "512", "--assume", "llama")
    assert status == 0, err


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("Infinity", "'resblock_kernel_sizes' is Infinity"),
        ("2.5", "'resblock_kernel_sizes' is 2.5"),
        ('"3"', "'resblock_kernel_sizes' is \"3\""),
        ("-1", "would have the shape"),
    ],
)
def test_a_size_in_a_list_that_is_no_size(run: Run, tmp_path: Any, value: str, said: str) -> None:
    text = json.dumps({"model_type": "seamless_m4t_v2", "torch_dtype": "float32", "resblock_kernel_sizes": [3, 7, 5]})
    (tmp_path / "config.json").write_text(text.replace("5]", f"{value}]"))
    status, _, err = run(str(tmp_path), "--ctx", "512")
    assert status == 4 and err.count("\n") == 1 and said in err


@pytest.mark.parametrize("size", [float("inf"), 2.5, "3", -1, True])
def test_a_tensor_has_whole_sizes(size: Any) -> None:
    TensorSpec("a.weight", (3, 0), (), "mlp", Replicated())
    with pytest.raises(ContradictionError, match=r"a\.weight would have the shape \(3, "):
        TensorSpec("a.weight", (3, size), (), "mlp", Replicated())
