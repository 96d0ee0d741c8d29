"""`hfmem files`: groups, what repeats, who fetches what, in one request and one for the commit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_server import Blob, HubServer
from huggingface_hub.utils import filter_repo_objects
from hypothesis import given
from hypothesis import strategies as st

from hfmem.checkpoint.file_groups import fetches, group_files, group_of, select
from hfmem.cli import main

GB = 10**9
#: the layout of meta-llama/Llama-3.1-8B-Instruct, with a few formats more
LLAMA: dict[str, int | None] = {
    ".gitattributes": 1519,
    "LICENSE": 7627,
    "README.md": 44_000,
    "config.json": 855,
    "generation_config.json": 184,
    "model-00001-of-00002.safetensors": 5 * GB,
    "model-00002-of-00002.safetensors": 3 * GB,
    "model.safetensors.index.json": 23_950,
    "original/consolidated.00.pth": 8 * GB,
    "original/params.json": 199,
    "original/tokenizer.model": 2_000_000,
    "pytorch_model-00001-of-00001.bin": 8 * GB,
    "pytorch_model.bin.index.json": 20_000,
    "model.fp16.safetensors": 8 * GB,
    "onnx/model.onnx": 1_000_000,
    "onnx/model.onnx_data": 8 * GB,
    "tf_model.h5": 9 * GB,
    "training_args.bin": 3000,
    "special_tokens_map.json": 73,
    "tokenizer.json": 9_000_000,
    "tokenizer_config.json": 50_500,
}


def blobs(files: dict[str, int | None]) -> dict[str, Any]:
    return {name: Blob(b"", size or 0) for name, size in files.items()}


def test_groups_and_what_repeats() -> None:
    found = {group.name: group for group in group_files(LLAMA)}
    assert found["safetensors"].bytes == 8 * GB and found["safetensors"].redundant is None
    assert len(found["safetensors"].files) == 2
    repeated = {name for name, group in found.items() if group.redundant}
    assert repeated == {"pytorch", "original", "safetensors fp16", "onnx", "tensorflow", "training"}
    assert found["safetensors fp16"].redundant == "the same weights as safetensors, in another precision"
    assert found["onnx"].bytes == 8 * GB + 1_000_000
    assert set(found["tokenizer"].files) == {"special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"}
    assert sum(len(group.files) for group in found.values()) == len(LLAMA)


def test_what_programs_fetch() -> None:
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    found = fetches(LLAMA)
    assert found["transformers"].weights == shards and found["vllm"].weights == shards
    assert "config.json" in found["vllm"].others and "README.md" not in found["vllm"].others
    assert found["llama.cpp"].weights == () and "convert" in str(found["llama.cpp"].note)
    mistral = {"consolidated.safetensors": 5, "model-00001-of-00001.safetensors": 5, "model.safetensors.index.json": 1}
    assert fetches(mistral)["vllm"].weights == ("consolidated.safetensors",)
    assert fetches(mistral)["transformers"].weights == ("model-00001-of-00001.safetensors",)
    torch_only = {"pytorch_model.bin": 5, "training_args.bin": 1, "sub/x.bin": 2, "original/a/b.bin": 9}
    assert fetches(torch_only)["transformers"].weights == ("pytorch_model.bin",)
    # vLLM's pattern `*.bin` takes every folder but `original/`
    assert fetches(torch_only)["vllm"].weights == ("pytorch_model.bin", "sub/x.bin", "training_args.bin")
    gguf = {
        "m-Q8_0.gguf": 9,
        "m-Q4_K_M-00001-of-00002.gguf": 3,
        "m-Q4_K_M-00002-of-00002.gguf": 2,
        "mmproj-F16.gguf": 1,
    }
    llama_cpp = fetches(gguf)["llama.cpp"]
    assert llama_cpp.weights == ("m-Q4_K_M-00001-of-00002.gguf", "m-Q4_K_M-00002-of-00002.gguf", "mmproj-F16.gguf")
    assert llama_cpp.bytes == 6
    assert {group.name: group.redundant for group in group_files(gguf)}[
        "gguf"
    ] == "2 formats of one model: one is enough"


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("adapter_model.safetensors", "adapter"),
        ("consolidated-00001-of-00002.safetensors", "consolidated"),
        ("flax_model.msgpack", "flax"),
        ("checkpoint-500/optimizer.pt", "training"),
        ("modeling_foo.py", "code"),
        ("vae/diffusion_pytorch_model.safetensors", "component vae"),
        ("coreml/x.mlpackage/Data/weight.bin", "coreml"),
        ("openvino_model.bin", "openvino"),
        ("model.safetensors.index.fp16.json", "config"),
        ("tokenizer.model", "tokenizer"),
        ("images/x.png", "other"),
        ("gemma3-1b-it-int4.litertlm", "tflite"),
        ("gemma3-1b-it-int4.task", "tflite"),
    ],
)
def test_group_of(path: str, group: str) -> None:
    assert group_of(path, ("vae",)) == group


@given(
    st.lists(st.text("ab.*/?[", min_size=1, max_size=6), max_size=12),
    st.lists(st.text("ab.*/?[]", min_size=1, max_size=5), max_size=3),
    st.lists(st.text("ab.*/?[]", min_size=1, max_size=5), max_size=3),
)
def test_globs_are_huggingface_hubs(paths: list[str], include: list[str], exclude: list[str]) -> None:
    files: dict[str, int | None] = dict.fromkeys(paths, 1)
    theirs = filter_repo_objects(list(files), allow_patterns=include or None, ignore_patterns=exclude or None)
    assert list(select(files, include, exclude)) == list(theirs)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def test_the_command(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add("org/m", blobs(LLAMA))
    code, out, err = run(capsys, "files", "org/m", "--json")
    report = json.loads(out)
    assert (code, err, len(hub.requests())) == (0, "", 2)
    assert report["bytes"] == sum(size or 0 for size in LLAMA.values()) and report["num_files"] == len(LLAMA)
    fetched = report["fetches"]["transformers"]
    assert fetched["bytes"] == 8 * GB + 855 + 184 + 23_950 + 73 + 9_000_000 + 50_500
    code, out, _ = run(capsys, "files", "org/m")
    assert code == 0 and "transformers  fetches 8.0 GB" in out and "redundant" in out
    code, out, _ = run(capsys, "files", "org/m", "--include", "*.safetensors", "--exclude", "*fp16*", "--json")
    report = json.loads(out)
    assert report["num_files"] == 2 and report["bytes"] == 8 * GB
    assert report["repository_bytes"] == sum(size or 0 for size in LLAMA.values())
    code, out, _ = run(capsys, "files", "org/m", "--include", "onnx/", "--names")
    assert code == 0 and "onnx/model.onnx_data" in out and "llama.cpp     fetches nothing" in out


def test_what_listing_took(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add("org/m", blobs(LLAMA))
    code, _, err = run(capsys, "files", "org/m", "-v")
    sent = sum(entry.sent for entry in hub.requests())
    assert code == 0 and err.startswith(f"org/m: 2 requests, {sent:,} bytes read in ") and err.count("\n") == 1


def test_one_of_several_ggufs_is_needed(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add("org/g", blobs({"m-Q4_K_M.gguf": 400, "m-Q8_0.gguf": 800, "mmproj-F16.gguf": 50}))
    report = json.loads(run(capsys, "files", "org/g", "--json")[1])
    assert report["redundant_bytes"] == 800 and report["fetches"]["llama.cpp"]["bytes"] == 450


def test_pipelines_and_errors(hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = {
        "model_index.json": {
            "_class_name": "FluxPipeline",
            "vae": ["diffusers", "AutoencoderKL"],
            "scheduler": [None, None],
        },
        "vae/config.json": {},
        "vae/diffusion_pytorch_model.safetensors": Blob(b"", 100),
    }
    hub.add("org/p", pipeline)
    _, out, _ = run(capsys, "files", "org/p", "--json")
    assert {group["name"]: group["bytes"] for group in json.loads(out)["groups"]}["component vae"] == 100
    assert run(capsys, "files", "org/none")[0] == 3
    assert run(capsys, "files", "datasets/org/d")[0] == 2
    assert run(capsys, "files", "org/p", "--offline")[0] == 3
    assert run(capsys, "files", str(tmp_path / "gone"))[0] == 3
    (tmp_path / "a.gguf").write_bytes(b"x" * 10)
    assert json.loads(run(capsys, "files", str(tmp_path), "--json")[1])["bytes"] == 10


def test_the_commit_is_told_where_the_hub_tells_it(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    commit = hub.add("org/m", blobs(LLAMA)).commit
    hub.add("org/g", blobs({"m-Q4_K_M.gguf": 400}))  # the answer for a file that is not there names the commit too
    assert json.loads(run(capsys, "files", "org/m", "--json")[1])["revision"] == commit
    assert json.loads(run(capsys, "files", "org/m", "--revision", "main", "--json")[1])["revision"] == commit
    assert json.loads(run(capsys, "files", "org/g", "--json")[1])["revision"] == hub.repos["org/g"].commit
    hub.clear()
    assert json.loads(run(capsys, "files", f"org/m@{commit}", "--json")[1])["revision"] == commit
    assert len(hub.requests()) == 1
    hub.commit_header = False
    assert json.loads(run(capsys, "files", "org/m", "--revision", "main", "--json")[1])["revision"] is None
    hub.faults.append(lambda handler: "/resolve/" in handler.path and (handler.answer(503, b"", {}) or True))
    code, out, _ = run(capsys, "files", "org/m", "--json")
    assert code == 0 and json.loads(out)["num_files"] == len(LLAMA)
