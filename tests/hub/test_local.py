"""Models on disk: the same facts as from the Hub, header bytes only, and no network."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hub_server import Blob, HubServer, shard, sharded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfmem.errors import (
    ContradictionError,
    FormatError,
    HfmemError,
    MissingFileError,
    ModelNotFoundError,
    SourceError,
    UnsupportedError,
)
from hfmem.hub import FetchOptions, load_model

CONFIG = {"model_type": "llama"}
TENSORS = [("layers.0.w", "BF16", (1024, 1024)), ("layers.1.w", "BF16", (1024, 1024))]
OTHERS = [("norm", "F32", (1024,))]


def write(folder: Path, files: dict[str, Any]) -> Path:
    """The files in a folder; weights as sparse files, so that reading them would show."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Blob):
            with open(path, "wb") as file:
                file.write(content.front)
                file.truncate(content.size)
        else:
            path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def two_shards() -> dict[str, Any]:
    return {"config.json": CONFIG, **sharded({"m-1-of-2.safetensors": TENSORS, "m-2-of-2.safetensors": OTHERS})}


def test_a_folder_gives_what_the_hub_gives(hub: HubServer, tmp_path: Path) -> None:
    files = {**two_shards(), "consolidated.safetensors": shard([("x", "F32", (99,))])}
    hub.add("org/m", files)
    remote = load_model("org/m", options=FetchOptions(no_cache=True))
    hub.clear()
    local = load_model(str(write(tmp_path / "m", files)))
    assert local.source == "local"
    assert local.repo_id == str(tmp_path / "m")
    assert local.config == remote.config
    assert local.checkpoint == remote.checkpoint
    assert local.weight_files == remote.weight_files
    assert local.download_bytes == remote.download_bytes
    assert hub.requests() == []


def test_weights_are_never_read(tmp_path: Path) -> None:
    """A sparse file of 4 TB: anything but its header would take hours."""
    folder = write(
        tmp_path / "m", {"config.json": CONFIG, "model.safetensors": shard([("w", "BF16", (1 << 21, 1 << 20))])}
    )
    facts = load_model(str(folder))
    assert facts.checkpoint is not None and facts.checkpoint.total_bytes == 1 << 42


def test_relative_paths_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "org" / "m", two_shards())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in ("./org/m", "~/org/m", str(tmp_path / "org" / "m"), (tmp_path / "org" / "m").as_uri()):
        facts = load_model(text)
        assert (facts.source, facts.notice) == ("local", None)
    assert load_model(Path("org/m")).notice is None
    # written like a repo id: local, as in transformers, and the report says so
    facts = load_model("org/m")
    assert facts.source == "local"
    assert facts.notice is not None and "hf://org/m" in facts.notice


def test_single_files_and_indices(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", {**two_shards(), "extra.safetensors": shard(OTHERS)})
    whole = load_model(str(folder))
    for name in ("m-1-of-2.safetensors", "model.safetensors.index.json", "config.json"):
        facts = load_model(str(folder / name))
        assert facts.checkpoint == whole.checkpoint, name
    extra = load_model(str(folder / "extra.safetensors"))
    assert extra.checkpoint is not None and extra.checkpoint.total_bytes == 4096
    assert extra.config == CONFIG
    with pytest.raises(FormatError, match="ends inside its header"):
        load_model(str(write(tmp_path / "g", {"x.gguf": b"GGUF"}) / "x.gguf"))
    with pytest.raises(UnsupportedError, match="of this kind are not read"):
        load_model(str(write(tmp_path / "g", {"notes.txt": b"x"}) / "notes.txt"))
    lonely = write(tmp_path / "l", {"x.safetensors": shard(OTHERS)})
    with pytest.raises(MissingFileError, match=r"has no config\.json beside x\.safetensors"):
        load_model(str(lonely / "x.safetensors"))


def test_shards_in_a_folder_below(tmp_path: Path) -> None:
    files = sharded({"parts/a.safetensors": TENSORS, "parts/b.safetensors": OTHERS})
    facts = load_model(str(write(tmp_path / "m", {"config.json": CONFIG, **files})))
    assert facts.checkpoint is not None and facts.checkpoint.num_tensors == 3


def test_quantization_settings_beside_the_config(tmp_path: Path) -> None:
    quantization = {"quantization": {"quant_algo": "NVFP4"}}
    packed = shard([("w", "U8", (64, 64)), ("w_scale", "F8_E4M3", (64, 4))])
    files = {"config.json": CONFIG, "model.safetensors": packed, "hf_quant_config.json": quantization}
    assert load_model(str(write(tmp_path / "m", files))).extra == {"hf_quant_config.json": quantization}


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({}, MissingFileError, r"has no config\.json; it holds no files"),
        ({"README.md": b""}, MissingFileError, r"has no config\.json; found README\.md"),
        ({"mmproj-x.gguf": b"GGUF"}, MissingFileError, r"GGUF files: mmproj-x\.gguf"),
        ({"adapter_config.json": {"base_model_name_or_path": "org/b"}}, MissingFileError, r"adapter \(PEFT\) of org/b"),
        ({"config.json": b""}, FormatError, r"config\.json is empty"),
        ({"config.json": b"{,}"}, FormatError, r"config\.json: not JSON at line 1, column 2"),
        ({"config.json": b"[]"}, FormatError, "not a JSON object"),
        (
            {"config.json": CONFIG, "x.ckpt": b"x"},
            MissingFileError,
            r"no model\.safetensors and no .*; it holds a training checkpoint \(x\.ckpt, ",
        ),
        ({"config.json": CONFIG, "model.safetensors": b""}, FormatError, r"model\.safetensors is empty"),
        ({"config.json": CONFIG, "model.safetensors": b"1234567"}, FormatError, "too few"),
        ({"config.json": CONFIG, "pytorch_model.bin": b""}, FormatError, r"pytorch_model\.bin is empty"),
        ({"config.json": CONFIG, "model.safetensors.index.json": b""}, FormatError, "empty"),
        (
            {"config.json": CONFIG, "model.safetensors.index.json": {"weight_map": {"w": "../../x.safetensors"}}},
            ContradictionError,
            "no file of this repository",
        ),
        (
            {"config.json": CONFIG, "model.safetensors.index.json": {"weight_map": {"w": "gone.safetensors"}}},
            MissingFileError,
            r"gone\.safetensors is not there",
        ),
    ],
)
def test_bad_folders(tmp_path: Path, files: dict[str, Any], error: type[HfmemError], message: str) -> None:
    with pytest.raises(error, match=message):
        load_model(str(write(tmp_path / "m", files)))


def test_a_config_alone(tmp_path: Path) -> None:
    facts = load_model(str(write(tmp_path / "m", {"config.json": CONFIG, "tokenizer.json": b"{}"})))
    assert (facts.evidence, facts.checkpoint, facts.download_bytes) == ("config", None, None)
    assert facts.notice is not None and "config.json" in facts.notice


def test_a_shard_outside_the_folder_is_not_opened(tmp_path: Path) -> None:
    write(tmp_path, {"secret.safetensors": shard(OTHERS)})
    for name in ("../secret.safetensors", str(tmp_path / "secret.safetensors"), "sub/../../secret.safetensors"):
        index = {"weight_map": {"norm": name}}
        folder = write(tmp_path / "m", {"config.json": CONFIG, "model.safetensors.index.json": index, "sub/x": b""})
        with pytest.raises(ContradictionError):
            load_model(str(folder))


def test_truncated_and_trailing_files(tmp_path: Path) -> None:
    blob = shard(TENSORS)
    for size, message in ((blob.size - 1, "past the file's end"), (blob.size + 5, "belong to none"), (20, "truncated")):
        folder = write(tmp_path / "m", {"config.json": CONFIG, "model.safetensors": Blob(blob.front[:size], size)})
        with pytest.raises((ContradictionError, FormatError), match=message):
            load_model(str(folder))


def test_broken_links_and_folders_in_the_way(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", two_shards())
    (folder / "m-2-of-2.safetensors").unlink()
    (folder / "m-2-of-2.safetensors").symlink_to("../blobs/gone")
    with pytest.raises(MissingFileError, match="broken link"):
        load_model(str(folder))
    (folder / "m-2-of-2.safetensors").unlink()
    (folder / "m-2-of-2.safetensors").mkdir()
    with pytest.raises(FormatError, match="is not a file"):
        load_model(str(folder))


_FILES = st.dictionaries(
    st.sampled_from(
        ["config.json", "model.safetensors", "model.safetensors.index.json", "a.safetensors", "params.json",
         "consolidated.safetensors", "pytorch_model.bin.index.json", "adapter_config.json", "hf_quant_config.json"]
    ),
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b"{}", b"null", b'{"weight_map": {"w": "a.safetensors"}}', b'{"weight_map": {"w": 3}}']),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
        st.binary(max_size=60).map(lambda data: len(data).to_bytes(8, "little") + data),
        st.sampled_from([shard(OTHERS).front + b"\0" * 4096, shard([("w", "U8", (3,)), ("w_scale", "F32", ())]).front]),
    ),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=_FILES)
def test_any_bytes_give_facts_or_a_clear_error(tmp_path: Path, files: dict[str, bytes]) -> None:
    import shutil

    shutil.rmtree(tmp_path / "m", ignore_errors=True)
    folder = write(tmp_path / "m", files)
    try:
        facts = load_model(str(folder))
    except HfmemError as error:
        assert error.message and "\n" not in error.message
    else:
        assert isinstance(facts.config, dict)


def test_no_such_path(tmp_path: Path) -> None:
    for text in (str(tmp_path / "nothing"), "./nothing", "nothing.safetensors", "~nobody-here/x"):
        with pytest.raises(ModelNotFoundError, match="no such folder or file"):
            load_model(text)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", two_shards())
    folder.chmod(0)
    try:
        with pytest.raises(SourceError, match="Permission denied"):
            load_model(str(folder))
    finally:
        folder.chmod(0o700)


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same refusal as root sees none of: the system's error, made here."""
    folder = write(tmp_path / "m", two_shards())
    real = open

    def refuse(path: Any, *rest: Any, **named: Any) -> Any:
        if str(path).endswith("m-2-of-2.safetensors"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest, **named)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(SourceError, match=r"m-2-of-2\.safetensors cannot be read: Permission denied"):
        load_model(str(folder))
