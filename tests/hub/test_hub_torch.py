"""PyTorch files of a model, written by torch.save: read through the local Hub and from disk, never their weights."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hub_server import Blob, HubServer
from small_llama import LLAMA, PARAMETERS, llama_tensors

from hfmem.api.estimates import estimate
from hfmem.cli import main
from hfmem.errors import FormatError, HfmemError
from hfmem.hub import FetchOptions, load_model

torch = pytest.importorskip("torch")

FRESH = FetchOptions(no_cache=True)
State = dict[str, torch.Tensor]


def state(scale: int = 1) -> State:
    return {
        name: torch.zeros(tuple(n * scale for n in shape), dtype=torch.bfloat16) for name, _, shape in llama_tensors()
    }


def saved(value: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def sharded_files(tensors: State) -> dict[str, Any]:
    names = list(tensors)
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    files = [f"pytorch_model-{i + 1:05}-of-00002.bin" for i in range(2)]
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    weight_map = {name: files[i] for i, half in enumerate(halves) for name in half}
    blobs = {files[i]: saved({name: tensors[name] for name in half}) for i, half in enumerate(halves)}
    return {"pytorch_model.bin.index.json": {"metadata": {"total_size": total}, "weight_map": weight_map}, **blobs}


@pytest.mark.parametrize("layout", ["single", "sharded"])
def test_the_report_is_exact(hub: HubServer, capsys: pytest.CaptureFixture[str], layout: str) -> None:
    files = {"pytorch_model.bin": saved(state())} if layout == "single" else sharded_files(state())
    hub.add("org/m", {"config.json": LLAMA, **files})
    with pytest.raises(SystemExit) as left:
        main(["org/m", "--json", "--ctx", "100"])
    assert not left.value.code
    report = json.loads(capsys.readouterr().out)
    assert report["weights"]["evidence"] == "headers" and report["weights"]["grade"] == "exact"
    assert report["weights"]["bytes"] == 2 * PARAMETERS and report["parameters"]["total"] == PARAMETERS
    assert report["weights"]["by_dtype"] == {"BF16": 2 * PARAMETERS}
    assert report["weights"]["download_bytes"] == sum(len(data) for data in files.values() if isinstance(data, bytes))
    hub.clear()
    assert load_model("org/m").stats.cache_hit and not hub.requests("cdn")


def test_few_bytes_are_read(hub: HubServer) -> None:
    """16 times the rows and columns: the file grows to tens of megabytes, what is read does not."""
    small, large = saved(state()), saved(state(16))
    read = []
    for data in (small, large):
        hub.add("org/m", {"config.json": {**LLAMA, "hidden_size": 1024}, "pytorch_model.bin": data})
        hub.clear()
        load_model("org/m", options=FRESH)
        read.append(sum(entry.sent for entry in hub.requests("cdn")))
        assert len(hub.requests("cdn")) <= 6
    assert len(large) > 30_000_000 and max(read) < 300_000


def test_a_shared_storage_counts_once(hub: HubServer) -> None:
    tensors = state()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    hub.add("org/m", {"config.json": {**LLAMA, "tie_word_embeddings": True}, "pytorch_model.bin": saved(tensors)})
    report = estimate("org/m", context=10, fetch=FRESH)
    assert report.weights.bytes == 2 * (PARAMETERS - 6400) and report.parameters.total == PARAMETERS - 6400


@pytest.mark.parametrize("indexed", [True, False])
def test_files_from_before_torch_1_6(hub: HubServer, indexed: bool) -> None:
    old = saved(state(), _use_new_zipfile_serialization=False)
    files: dict[str, Any] = {"pytorch_model.bin": old}
    if indexed:
        index = {"metadata": {"total_size": 2 * PARAMETERS}, "weight_map": dict.fromkeys(state(), "pytorch_model.bin")}
        files["pytorch_model.bin.index.json"] = index
    hub.add("org/m", {"config.json": LLAMA, **files})
    report = estimate("org/m", context=10, fetch=FRESH)
    assert report.weights.evidence == ("index" if indexed else "config")
    assert report.weights.bytes == 2 * PARAMETERS
    warning = next(w for w in report.warnings if w.code == "legacy_torch_file")
    assert "by torch before 1.6" in warning.message and "org/m: pytorch_model.bin" in warning.message
    with pytest.raises(FormatError, match=r"torch before 1\.6"):
        hub.repos["org/m"].files["odd.bin"] = Blob(old, len(old))
        load_model("org/m/odd.bin", options=FRESH)


def test_one_named_file_and_local_files(hub: HubServer, tmp_path: Path) -> None:
    files = sharded_files(state())
    one = saved({"w": torch.zeros(10, 10, dtype=torch.float16)})
    hub.add("org/m", {"config.json": LLAMA, **files, "extra/adapter.pt": one})
    facts = load_model("https://huggingface.co/org/m/blob/main/extra/adapter.pt", options=FRESH)
    assert facts.checkpoint is not None and facts.checkpoint.total_bytes == 200 and facts.download_bytes == len(one)
    whole = load_model("org/m/pytorch_model-00002-of-00002.bin", options=FRESH)
    assert whole.checkpoint is not None and whole.checkpoint.total_bytes == 2 * PARAMETERS
    for name, data in {**files, "config.json": LLAMA, "x.pth": one}.items():
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    for place in (tmp_path, tmp_path / "pytorch_model-00001-of-00002.bin", tmp_path / "pytorch_model.bin.index.json"):
        local = load_model(str(place))
        assert local.checkpoint is not None and local.checkpoint.total_bytes == 2 * PARAMETERS
    lone = load_model(str(tmp_path / "x.pth"))
    assert lone.checkpoint is not None and lone.checkpoint.total_bytes == 200


def test_a_damaged_directory_is_no_loop(hub: HubServer) -> None:
    data = saved(state())
    hub.add("org/m", {"config.json": LLAMA, "bad.bin": Blob(data[: len(data) // 2], 1 << 40)})
    with pytest.raises(HfmemError):
        load_model("org/m/bad.bin", options=FRESH)
    assert sum(entry.sent for entry in hub.requests("cdn")) < 1 << 20
