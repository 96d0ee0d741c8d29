"""Formats that are not read are called by their names, with what to do; those beside a config.json are counted where that helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer

from hfmem.cli import main
from hfmem.errors import FormatError, MissingFileError
from hfmem.hub import FetchOptions, load_model
from hfmem.hub.kinds import unread

CONFIG = {"model_type": "llama"}
FRESH = FetchOptions(no_cache=True)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (("model.Q4_K_M.llamafile",), r"a llamafile \(.*unzip"),
        (("ggml-model-q4_0.bin",), r"GGML from before GGUF \(.*convert_llama_ggml_to_gguf"),
        (("llama-7b.ggmlv3.q4_0.bin",), "GGML from before GGUF"),
        (("rank0.engine", "rank1.engine"), r"a TensorRT engine \(rank0\.engine and 1 more"),
        (("rank0.safetensors",), "a TensorRT-LLM checkpoint"),
        (("model.bin", "vocabulary.json"), r"a CTranslate2 model \(model\.bin"),
        (("model.bin", "shared_vocabulary.txt"), "a CTranslate2 model"),
        (("params_shard_0.bin", "mlc-chat-config.json"), "an MLC model"),
        (("gemma3-1b-it-int4.litertlm",), "a LiteRT model"),
        (("Model.mlpackage/Data/weight.bin",), "a CoreML model"),
        (("model.pte",), "an ExecuTorch program"),
        (("m.rkllm",), "Rockchip"),
        (("model.nemo",), "a NeMo archive"),
        (("cpu-int4/model.onnx", "cpu-int4/model.onnx.data"), r"an ONNX export \(cpu-int4/model\.onnx and 1 more"),
        (("__0_0.distcp", ".metadata"), "a distributed checkpoint"),
        (("global_step10/mp_rank_00_model_states.pt",), "a DeepSpeed checkpoint"),
        (("model.weights.h5",), "a Keras model"),
        (("original/consolidated.00.pth",), "Meta's own layout"),
        (("last.ckpt",), "a training checkpoint"),
    ],
)
def test_formats_by_name(tmp_path: Path, files: tuple[str, ...], words: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 2000)
    with pytest.raises(MissingFileError, match=words):
        load_model(tmp_path)


def test_formats_that_are_read_have_no_such_name() -> None:
    names = (
        "model.safetensors",
        "pytorch_model.bin",
        "model-Q4_0.gguf",
        "model.pt",
        "consolidated.safetensors",
        "config.json",
    )
    assert unread(dict.fromkeys(names, 1)) is None


def test_models_in_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-100").mkdir()
    (tmp_path / "checkpoint-100" / "config.json").write_text("{}")
    (tmp_path / "checkpoint-100" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(MissingFileError, match=r"models lie in its folders: checkpoint-100"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("files", "size", "download"),
    [
        ({"tf_model.h5": b"x" * 3000}, None, 3000),
        ({"flax_model.msgpack": b"x" * 3000}, None, 3000),
        # constants of an OpenVINO graph are the weights, as they are compressed
        ({"openvino_model.bin": b"x" * 3000, "openvino_model.xml": b"<net/>"}, 3000, 3006),
    ],
)
def test_formats_beside_a_config(hub: HubServer, files: dict[str, Any], size: int | None, download: int) -> None:
    hub.add("org/m", {"config.json": CONFIG, **files})
    facts = load_model("org/m", options=FRESH)
    assert facts.checkpoint is None and facts.index_total_size == size and facts.download_bytes == download
    assert facts.notice is not None and next(iter(files)) in facts.notice


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"


def pointer(size: int) -> str:
    return LFS.format("0" * 64, size)


def test_a_clone_without_its_large_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "vocab_size": 1000,
    }
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | config | {"torch_dtype": "bfloat16"}))
    (tmp_path / "model.safetensors").write_text(pointer(340_000))
    facts = load_model(tmp_path)
    assert (facts.evidence, facts.download_bytes, facts.checkpoint) == ("config", 340_000, None)
    assert facts.warnings[0][0] == "lfs_pointers"
    with pytest.raises(SystemExit, match="0"):
        main([str(tmp_path), "--ctx", "1k", "--json"])
    # embedding and head, four attention matrices, three of the feed-forward, three norms; two bytes each
    parameters = 2 * 1000 * 64 + 4 * 64 * 64 + 3 * 64 * 128 + 3 * 64
    assert json.loads(capsys.readouterr().out)["weights"]["bytes"] == 2 * parameters
    with pytest.raises(SystemExit, match="0"):
        main(["files", str(tmp_path), "--json"])
    groups = {group["name"]: group["bytes"] for group in json.loads(capsys.readouterr().out)["groups"]}
    assert groups["safetensors"] == 340_000

    # an index is no large file: it tells the size of all tensors
    (tmp_path / "model.safetensors").unlink()
    shards = {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}
    index = {"metadata": {"total_size": 2 * parameters}, "weight_map": shards}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in shards.values():
        (tmp_path / name).write_text(pointer(170_000))
    facts = load_model(tmp_path)
    assert (facts.evidence, facts.index_total_size, facts.download_bytes) == ("index", 2 * parameters, 340_000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (pointer(900), "Git LFS pointer, not the file .*git lfs pull"),
        ("/annex/objects/SHA256E-s900--abc.json\n", "git-annex pointer, not the file .*git annex get"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_pointer_where_a_small_file_should_be(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / name).write_text(text)
    with pytest.raises(FormatError, match=rf"{name} is a {words}"):
        load_model(tmp_path)


def test_a_gguf_pointer_has_nothing_to_count(tmp_path: Path) -> None:
    (tmp_path / "m-Q4_K_M.gguf").write_text(pointer(10**9))
    with pytest.raises(FormatError, match="is a Git LFS pointer"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["model.pt", "weights.pth", "model_weights.bin"])
def test_one_file_of_torch_of_another_name(tmp_path: Path, name: str) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    torch.save({"layers.0.w": torch.zeros(16, 8)}, tmp_path / name)
    torch.save({"state": torch.zeros(3)}, tmp_path / "optimizer.pt")
    facts = load_model(tmp_path)
    assert facts.checkpoint is not None and facts.checkpoint.total_bytes == 16 * 8 * 4
    assert facts.notice is not None and f"the weights are {name}" in facts.notice
