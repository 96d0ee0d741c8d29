"""GGUF models as a user names them: on the local Hub and on disk, with the bytes that reading them takes."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from gguf_files import (
    LLAMA_KEYS,
    LLAMA_PARAMETERS,
    gguf_blob,
    gguf_header,
    llama_tensors,
    tensor_bytes,
)
from hub_server import Blob, HubServer
from launches import words

from hfmem.api.estimates import estimate, read_model
from hfmem.cli import main
from hfmem.errors import ContradictionError, FormatError, HfmemError, MissingFileError, OfflineError
from hfmem.hub import FetchOptions, load_model
from hfmem.hub.gguf import SeveralModelsError

FRESH = FetchOptions(no_cache=True)
Q4 = llama_tensors()
Q8 = llama_tensors("Q8_0")
#: K and V of 2 heads × 64 in fp16, 2 layers
TOKEN_BYTES = 2 * 2 * 64 * 2 * 2


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def vocabulary(count: int) -> dict[str, Any]:
    """Words, scores, kinds and merges, as a tokenizer of `count` words has them."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [f"word{i % 977}of{i}" for i in range(count)],
        "tokenizer.ggml.scores": [0.25] * count,
        "tokenizer.ggml.token_type": [1] * count,
        "tokenizer.ggml.merges": [f"ab{i % 991} cd{i}" for i in range(count)],
        "tokenizer.chat_template": "{{ messages }} " * 400,
    }


def test_a_header_of_two_megabytes_costs_about_two(hub: HubServer) -> None:
    blob = gguf_blob({**LLAMA_KEYS, **vocabulary(45_000)}, Q4)
    assert 2_000_000 < len(blob.front) < 2_400_000
    hub.add("org/m", {"m-Q4_K_M.gguf": blob})
    facts = load_model("org/m/m-Q4_K_M.gguf", options=FRESH)
    assert facts.checkpoint is not None and facts.checkpoint.total_bytes == tensor_bytes(Q4)
    spans = []
    for entry in hub.requests("cdn"):
        first, last = entry.headers["range"].removeprefix("bytes=").split("-")
        spans.append((int(first), int(last) + 1))
    assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(spans))  # no byte twice, none left out
    read = sum(entry.sent for entry in hub.requests())
    assert len(blob.front) <= read < 1.1 * len(blob.front)
    assert len(spans) <= 12
    # the redirect is followed once; the listing says whether a projector lies beside
    assert [entry.path for entry in hub.requests("hub") if "/tree/" not in entry.path] == [
        "/org/m/resolve/main/m-Q4_K_M.gguf"
    ]
    assert len(hub.requests("hub")) == 2


def test_the_report_of_one_file(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    blob = gguf_blob(LLAMA_KEYS, Q4)
    hub.add("org/m", {"README.md": b"x", "m-Q4_K_M.gguf": blob})
    for name in ("org/m", "org/m:Q4_K_M", "org/m:q4_k_m", "org/m/m-Q4_K_M.gguf", "hf://org/m@main:Q4_K_M"):
        code, out, _ = run(capsys, name, "--json", "--ctx", "1000", "--no-cache")
        assert code == 0, name
        report = json.loads(out)
        assert report["model"]["id"] == "org/m" and report["model"]["source"] == "hub"
        assert report["model"]["revision"] == hub.repos["org/m"].commit
        assert report["model"]["model_type"] == "llama" and report["model"]["num_kv_heads"] == 2
        assert report["parameters"]["total"] == LLAMA_PARAMETERS
        weights = report["weights"]
        assert weights["bytes"] == tensor_bytes(Q4) and weights["evidence"] == "headers"
        assert weights["download_bytes"] == blob.size
        assert weights["by_dtype"]["Q6_K"] == 2 * 512 * 256 // 256 * 210
        assert weights["by_dtype"]["F32"] == 5 * 256 * 4
        assert weights["quantization"]["method"] == "gguf" and weights["quantization"]["file_type"] == "Q4_K_M"
        assert weights["quantization"]["bits"] == 4
        # llama.cpp rounds a context up to 256 cells
        assert report["kv_cache"]["engine"] == "llama.cpp" and report["kv_cache"]["bytes"] == 1024 * TOKEN_BYTES
        assert report["kv_cache"]["ideal_bytes"] == 1000 * TOKEN_BYTES
        assert "m-Q4_K_M.gguf" in report["model"]["notice"]
    code, out, _ = run(capsys, "org/m", "--json", "--engine", "vllm", "--ctx", "1000")
    assert json.loads(out)["kv_cache"]["engine"] == "vllm"


@pytest.mark.parametrize("layout", ["whole", "split"])
def test_split_files_are_one_model(hub: HubServer, layout: str) -> None:
    first, second = llama_tensors(layers=(0,)), llama_tensors(layers=(1,), ends=False)
    count = len(first) + len(second)
    parts = {
        "big/m-Q4_K_M-00001-of-00002.gguf": gguf_blob(
            {**LLAMA_KEYS, "split.no": 0, "split.count": 2, "split.tensors.count": count}, first
        ),
        "big/m-Q4_K_M-00002-of-00002.gguf": gguf_blob({"split.no": 1, "split.count": 2}, second),
    }
    hub.add("org/m", parts)
    name = "org/m:Q4_K_M" if layout == "whole" else "org/m/big/m-Q4_K_M-00002-of-00002.gguf"
    facts = load_model(name, options=FRESH)
    assert facts.checkpoint is not None
    assert facts.checkpoint.total_bytes == tensor_bytes(first) + tensor_bytes(second)
    assert facts.download_bytes == sum(blob.size for blob in parts.values())
    report = estimate(name, context=512, fetch=FRESH)
    assert report.parameters.total == LLAMA_PARAMETERS
    hub.add("org/m", dict(list(parts.items())[:1]))
    with pytest.raises((MissingFileError, ContradictionError), match=r"00002-of-00002|2 files"):
        load_model(name, options=FRESH)


def several(hub: HubServer) -> dict[str, Blob]:
    files = {
        "m-Q4_K_M.gguf": gguf_blob(LLAMA_KEYS, Q4),
        "m-Q8_0.gguf": gguf_blob({**LLAMA_KEYS, "general.file_type": 7}, Q8),
        "UD-Q3/m-UD-Q3_K_XL.gguf": gguf_blob(LLAMA_KEYS, llama_tensors("Q3_K")),
        "imatrix_unsloth.gguf": Blob(b"GGUF", 5000),
    }
    hub.add("org/many", files)
    return files


def test_a_table_of_quantizations(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    files = several(hub)
    code, out, err = run(capsys, "org/many", "--ctx", "1024", "--no-cache")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines() if line.startswith("  org/many")]
    assert [line[0] for line in lines] == ["org/many:UD-Q3_K_XL", "org/many:Q4_K_M", "org/many:Q8_0"]
    assert "imatrix_unsloth.gguf" in out and "3 GGUF models" in out
    code, out, _ = run(capsys, "org/many", "--ctx", "1024", "--json", "--no-cache")
    told = json.loads(out)
    rows = told["choices"]
    assert (
        code == 0
        and told["model"] == {"id": "org/many"}
        and [row["label"] for row in rows] == ["UD-Q3_K_XL", "Q4_K_M", "Q8_0"]
    )
    for row, name in zip(rows, ("UD-Q3/m-UD-Q3_K_XL.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf"), strict=True):
        assert row["files"] == [name] and row["size_bytes"] == files[name].size
        assert row["bits_per_weight"] == pytest.approx(8 * files[name].size / LLAMA_PARAMETERS, abs=1e-4)
        assert row["kv_cache_bytes"] == 1024 * TOKEN_BYTES
        assert row["total_bytes"] == files[name].size + 1024 * TOKEN_BYTES
        assert json.loads(run(capsys, row["reference"], "--json")[1])["weights"]["evidence"] == "headers"
    for gpu, status, verdicts in (("1MiB", 1, [False] * 3), ("1TiB", 0, [True] * 3)):
        code, out, _ = run(capsys, "org/many", "--ctx", "1024", "--json", "--gpu", gpu)
        assert code == status and [row["fits"] for row in json.loads(out)["choices"]] == verdicts
    assert "does not fit" in run(capsys, "org/many", "--ctx", "1024", "--gpu", "1MiB")[1]
    # beside another model the choices are one item of the array
    hub.add("org/one", {"m-Q8_0.gguf": files["m-Q8_0.gguf"]})
    both = json.loads(run(capsys, "org/many", "org/one", "--json")[1])
    assert len(both[0]["choices"]) == 3 and both[1]["model"]["id"] == "org/one"


def test_picking_one_of_several(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    files = several(hub)
    for word, name in (
        ("Q8_0", "m-Q8_0.gguf"),
        ("q8_0", "m-Q8_0.gguf"),
        ("UD-Q3_K_XL", "UD-Q3/m-UD-Q3_K_XL.gguf"),
        ("Q3_K_XL", "UD-Q3/m-UD-Q3_K_XL.gguf"),
    ):
        assert load_model(f"org/many:{word}", options=FRESH).download_bytes == files[name].size
    code, _, err = run(capsys, "org/many:Q9_K")
    assert code == 3 and "org/many has no Q9_K; it has UD-Q3_K_XL, Q4_K_M, Q8_0" in err
    with pytest.raises(SeveralModelsError, match="give one, as in org/many:UD-Q3_K_XL"):
        estimate("org/many", fetch=FRESH)
    hub.add("org/two", {"a-Q8_0.gguf": files["m-Q8_0.gguf"], "b-Q8_0.gguf": files["m-Q8_0.gguf"]})
    with pytest.raises(SeveralModelsError, match=r"a-Q8_0\.gguf, b-Q8_0\.gguf; give one, as in org/two/a-Q8_0\.gguf"):
        load_model("org/two", options=FRESH)
    assert str(load_model("org/two:Q8_0", options=FRESH).config_file).endswith(
        "a-Q8_0.gguf"
    )  # llama.cpp's: the first that fits


@pytest.mark.parametrize("name", ["org/many:Q8_0", "org/many/m-Q8_0.gguf", "hf://org/many@main:q8_0"])
def test_the_command_names_the_file(hub: HubServer, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """`-hf org/many` alone would serve Q4_K_M."""
    several(hub)
    code, out, _ = run(capsys, "fit", name, "--gpu", "h100", "--ctx", "1024", "--emit", "llama.cpp", "--no-cache")
    assert code == 0
    assert words(out)[:5] == ["llama-server", "-hf", "org/many", "--hf-file", "m-Q8_0.gguf"]


def test_the_command_for_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    header, size = gguf_header(LLAMA_KEYS, Q4)
    (tmp_path / "m-Q4_K_M.gguf").write_bytes(header.ljust(size, b"\0"))
    for place in (tmp_path, tmp_path / "m-Q4_K_M.gguf"):
        code, out, err = run(capsys, "fit", str(place), "--gpu", "h100", "--ctx", "1024", "--emit", "llama.cpp")
        assert code == 0, err
        assert words(out)[:3] == ["llama-server", "--model", str(tmp_path / "m-Q4_K_M.gguf")]


def test_a_label_that_llama_cpp_reads_otherwise(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    """`F16` is in `m-BF16.gguf`, which stands first: the half-precision file is named by itself. `fp16` is F16 to us alone."""
    half, brain = (gguf_blob(LLAMA_KEYS, llama_tensors(dtype)) for dtype in ("F16", "BF16"))
    hub.add("org/f", {"m-BF16.gguf": brain, "m-F16.gguf": half})
    _, out, _ = run(capsys, "org/f", "--json", "--ctx", "1024", "--no-cache")
    assert {row["reference"] for row in json.loads(out)["choices"]} == {"org/f:BF16", "org/f/m-F16.gguf"}
    hub.add("org/g", {"m-Q4_K_M.gguf": gguf_blob(LLAMA_KEYS, Q4), "m-fp16.gguf": half})
    assert load_model("org/g:F16", options=FRESH).download_bytes == half.size


def test_a_projector_is_counted_and_named(hub: HubServer) -> None:
    tower = [("v.blk.0.attn_q.weight", "F16", (64, 64)), ("mm.0.weight", "F16", (256, 64))]
    keys = {"general.architecture": "clip", "clip.has_vision_encoder": True}
    projector, precise = gguf_blob(keys, tower), gguf_blob(keys, [(n, "F32", s) for n, _, s in tower])
    model = gguf_blob(LLAMA_KEYS, Q4)
    hub.add("org/vl", {"m-Q4_K_M.gguf": model, "mmproj-F16.gguf": projector, "mmproj-F32.gguf": precise})
    report = estimate("org/vl", context=512, fetch=FRESH)
    assert report.weights.bytes == tensor_bytes(Q4) + tensor_bytes(tower)
    assert report.weights.by_component["vision"] == tensor_bytes(tower)
    assert report.weights.download_bytes == model.size + projector.size
    assert "with the projector mmproj-F16.gguf" in str(report.model.notice)
    named = estimate("org/vl/m-Q4_K_M.gguf", context=512, fetch=FRESH)  # `-hf org/vl --hf-file` loads it as well
    assert named.weights.bytes == report.weights.bytes and named.model.notice == report.model.notice
    with pytest.raises(MissingFileError, match=r"mmproj-F16\.gguf is a projector"):
        load_model("org/vl/mmproj-F16.gguf", options=FRESH)


def test_stored_facts_answer_again(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    several(hub)
    first = load_model("org/many:Q8_0")
    hub.clear()
    again = load_model("org/many:q8_0")
    assert again.stats.cache_hit and again.checkpoint == first.checkpoint and again.config == first.config
    assert not hub.requests("cdn") and "m-Q8_0.gguf" in str(again.notice)
    assert load_model("org/many:Q4_K_M").checkpoint != first.checkpoint
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = load_model("org/many:Q8_0")
    assert offline.checkpoint == first.checkpoint and "offline" in str(offline.notice)


def test_a_download_in_the_hubs_cache_answers_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commit = "a" * 40
    snapshot = tmp_path / "models--org--m" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--m" / "refs").mkdir()
    (tmp_path / "models--org--m" / "refs" / "main").write_text(commit)
    header, size = gguf_header(LLAMA_KEYS, Q4)
    with open(snapshot / "m-Q4_K_M.gguf", "wb") as file:
        file.write(header)
        file.truncate(size)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("org/m", "org/m:Q4_K_M", "org/m/m-Q4_K_M.gguf"):
        facts = load_model(name)
        assert facts.source == "cache" and facts.revision == commit
        assert facts.checkpoint is not None and facts.checkpoint.total_bytes == tensor_bytes(Q4)
        assert "Hugging Face cache" in str(facts.notice)
    with pytest.raises(OfflineError):
        load_model("org/m:Q8_0")


def test_memory_stays_small(hub: HubServer) -> None:
    """A vocabulary of 2 MB is walked and dropped: what is held is the latest read and what is kept of it."""
    blob = gguf_blob({**LLAMA_KEYS, **vocabulary(40_000)}, Q4)
    hub.add("org/m", {"m.gguf": blob})
    load_model("org/m/m.gguf", options=FRESH)  # imports
    tracemalloc.start()
    load_model("org/m/m.gguf", options=FRESH)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * len(blob.front)


def test_other_weights_come_first(hub: HubServer) -> None:
    config = {"model_type": "llama", "hidden_size": 64}
    hub.add("org/m", {"config.json": config, "m-Q4_K_M.gguf": gguf_blob(LLAMA_KEYS, Q4)})
    assert load_model("org/m", options=FRESH).checkpoint is not None  # a config alone does not hide the files
    with pytest.raises(HfmemError, match="adapter"):
        hub.add("org/a", {"adapter_config.json": {}, "m-Q4_K_M.gguf": gguf_blob(LLAMA_KEYS, Q4)})
        load_model("org/a", options=FRESH)


def test_local_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header, size = gguf_header({**LLAMA_KEYS, **vocabulary(3000)}, Q4)
    folder = tmp_path / "models"
    folder.mkdir()
    with open(folder / "m-Q4_K_M.gguf", "wb") as file:
        file.write(header)
        file.truncate(size)
    for place in (folder / "m-Q4_K_M.gguf", folder):
        code, out, _ = run(capsys, str(place), "--json")
        report = json.loads(out)
        assert code == 0 and report["model"]["source"] == "local"
        assert report["weights"]["bytes"] == tensor_bytes(Q4)
        assert report["kv_cache"]["engine"] == "llama.cpp"
    (folder / "b-Q8_0.gguf").write_bytes((folder / "m-Q4_K_M.gguf").read_bytes())
    code, out, _ = run(capsys, str(folder), "--json")
    assert code == 0 and [row["reference"] for row in json.loads(out)["choices"]] == [
        f"{folder}/b-Q8_0.gguf",
        f"{folder}/m-Q4_K_M.gguf",
    ]


def hostile(front: bytes, size: int = 1 << 40) -> Blob:
    return Blob(front, size)


@pytest.mark.parametrize(
    ("front", "words"),
    [
        (b"GGUF\x03\0\0\0" + b"\xff" * 16, "claims"),
        (b"GGUF\x03\0\0\0" + (0).to_bytes(8, "little") + (1).to_bytes(8, "little") + b"\xff" * 8, "a name of"),
        # one key: an array of 2^61 strings
        (
            b"GGUF\x03\0\0\0" + bytes(8) + (1).to_bytes(8, "little") + (1).to_bytes(8, "little") + b"k"
            + (9).to_bytes(4, "little") + (8).to_bytes(4, "little") + (1 << 61).to_bytes(8, "little"),
            "an array of",
        ),
        # one key: a string of 2^40 bytes
        (
            b"GGUF\x03\0\0\0" + bytes(8) + (1).to_bytes(8, "little") + (1).to_bytes(8, "little") + b"k"
            + (8).to_bytes(4, "little") + (1 << 39).to_bytes(8, "little"),
            "would take",
        ),
    ],
)  # fmt: skip
def test_hostile_headers_cost_little(hub: HubServer, front: bytes, words: str) -> None:
    hub.add("org/m", {"m.gguf": hostile(front)})
    with pytest.raises((FormatError, ContradictionError), match=words):
        load_model("org/m/m.gguf", options=FRESH)
    assert sum(entry.sent for entry in hub.requests("cdn")) <= 64 << 10


def test_a_vocabulary_without_an_end_is_given_up(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many strings as an array may claim, and long ones: reading ends at the limit of headers."""
    monkeypatch.setattr("hfmem.checkpoint.gguf.MAX_HEADER_BYTES", 4 << 20)
    count = 500_000
    front = (
        b"GGUF\x03\0\0\0" + bytes(8) + (1).to_bytes(8, "little") + (1).to_bytes(8, "little") + b"k"
        + (9).to_bytes(4, "little") + (8).to_bytes(4, "little") + count.to_bytes(8, "little")
    )  # fmt: skip
    hub.add("org/m", {"m.gguf": hostile(front + ((40).to_bytes(8, "little") + bytes(40)) * 100_000)})
    with pytest.raises(FormatError, match="its header would take"):
        load_model("org/m/m.gguf", options=FRESH)
    assert sum(entry.sent for entry in hub.requests("cdn")) <= 4 << 20


def test_reading_takes_its_keys_from_the_exact_architecture(hub: HubServer) -> None:
    keys = {**LLAMA_KEYS, "xllama.block_count": 7, "clip.llama.block_count": 9, "qwen2.attention.head_count": 64}
    hub.add("org/m", {"m.gguf": gguf_blob(keys, Q4)})
    architecture = read_model("org/m", fetch=FRESH).architecture
    assert (architecture.num_hidden_layers, architecture.num_attention_heads) == (2, 4)
    hub.add("org/x", {"m.gguf": gguf_blob({**keys, "general.architecture": "yllama"}, Q4)})
    with pytest.raises(HfmemError, match=r"general\.architecture 'yllama' is not known; nearest: llama") as caught:
        read_model("org/x", fetch=FRESH)
    assert caught.value.exit_code == 4


def test_a_gguf_file_cannot_be_assumed_to_be_another(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add("org/m", {"m-Q4_K_M.gguf": gguf_blob(LLAMA_KEYS, Q4)})
    status, out, err = run(capsys, "org/m", "--assume", "qwen2", "--no-cache")
    assert (status, out) == (2, "") and "a GGUF file says itself what it is" in err
