"""Weights in formats that are not read: what they are called, which files they are, and what to do instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from hfmem.hub.facts import WeightFile
from hfmem.records import dataclass
from hfmem.units import format_gb

_FROM: Final = "give the model that it was made from"
_GGUF: Final = (
    "convert it to GGUF with llama.cpp's convert_llama_ggml_to_gguf.py, or give the model that it was made from"
)
#: files of one format by their paths, what it is called, and what to do; the first that matches a place's files is its format
_KINDS: Final[tuple[tuple[re.Pattern[str], str, str], ...]] = tuple(
    (re.compile(pattern, re.IGNORECASE), name, advice)
    for pattern, name, advice in (
        (r".*\.llamafile", "a llamafile", "`unzip` it and give the GGUF file inside"),
        (r"(.*/)?(ggml-[^/]*|[^/]*\.ggml(v\d)?[^/]*)\.bin|.*\.ggml", "GGML from before GGUF", _GGUF),
        (r"(.*/)?rank\d+\.engine|.*\.(engine|plan)", "a TensorRT engine", _FROM),
        (r"(.*/)?rank\d+\.safetensors", "a TensorRT-LLM checkpoint", _FROM),
        (r"(.*/)?openvino_[^/]*\.(bin|xml)", "an OpenVINO model", _FROM),
        (r"(.*/)?params_shard_\d+\.bin", "an MLC model", _FROM),
        (r".*\.(litertlm|task|tflite)", "a LiteRT model", _FROM),
        (r".*\.(mlpackage|mlmodelc)/.*|.*\.mlmodel", "a CoreML model", _FROM),
        (r".*\.pte", "an ExecuTorch program", _FROM),
        (r".*\.rk(llm|nn)", "a model for Rockchip's NPU", _FROM),
        (r".*\.mnn(\.weight)?", "an MNN model", _FROM),
        (r".*\.nemo", "a NeMo archive", "give its transformers export"),
        (r".*\.onnx([._]data.*)?", "an ONNX export", _FROM),
        (
            r".*\.distcp",
            "a distributed checkpoint of PyTorch",
            "merge it first (torch.distributed.checkpoint.format_utils)",
        ),
        (
            r"(.*/)?(global_step\d+/|mp_rank_\d+_).*",
            "a DeepSpeed checkpoint",
            "merge it with its zero_to_fp32.py first",
        ),
        (r".*\.msgpack", "Flax weights", "load them with from_flax=True and save them anew"),
        (r".*\.weights\.h5", "a Keras model", "export it to transformers first"),
        (r".*\.h5", "TensorFlow weights", "load them with from_tf=True and save them anew"),
        (r"(.*/)?consolidated\.\d+\.pth", "a model in Meta's own layout", "give its transformers version (…-hf)"),
        (r".*\.ckpt", "a training checkpoint", "save its state_dict beside a config.json"),
    )
)
#: formats of which a file's size is that of the weights, and those of which config.json tells all but it
_SIZED: Final = ("an OpenVINO model",)
_COUNTED: Final = ("Flax weights", "TensorFlow weights")


@dataclass(frozen=True, slots=True)
class Unread:
    """Weights in a format that is not read: its name with an article, its files, and what to do instead."""

    name: str
    files: tuple[WeightFile, ...]
    advice: str

    @property
    def size(self) -> int | None:
        """Bytes of all files, None where one's is not known."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)

    @property
    def words(self) -> str:
        """What it is, in a message: `a NeMo archive (model.nemo, 1.2 GB)`."""
        first = "".join(c if c.isprintable() else "?" for c in self.files[0].name[:80])
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        size = f", {format_gb(self.size)}" if self.size else ""
        return f"{self.name} ({first}{more}{size})"


def unread(tree: Mapping[str, int | None]) -> Unread | None:
    """The weights among a place's files that are in none of the formats that are read; None: there are no such."""
    if "model.bin" in tree and any(re.fullmatch(r"(shared_|source_)?vocabulary\.(json|txt)", name) for name in tree):
        return Unread("a CTranslate2 model", (WeightFile("model.bin", tree["model.bin"]),), _FROM)
    for pattern, name, advice in _KINDS:
        found = tuple(WeightFile(path, tree[path]) for path in sorted(tree) if pattern.fullmatch(path))
        if found:
            return Unread(name, found, advice)
    return None


def beside_config(found: Unread) -> tuple[int | None, str] | None:
    """Of weights beside a transformers config.json: their bytes where the files tell them, and a line about it; None: no help."""
    if found.name in _SIZED:
        data = [file.size for file in found.files if not file.name.endswith(".xml")]
        return None if None in data else sum(
            size or 0 for size in data
        ), f"the weights are {found.words}: their size is the files'"
    if found.name in _COUNTED:
        return None, f"the weights are {found.words}, which are not read: everything is derived from config.json"
    return None


def folders_with_models(tree: Mapping[str, int | None]) -> tuple[str, ...]:
    """Folders below a place that hold a config.json and weights that are read, or GGUF files."""
    configs = {path.removesuffix("/config.json") for path in tree if path.endswith("/config.json")}
    ends = (".safetensors", "pytorch_model.bin", ".gguf")
    return tuple(
        folder
        for folder in sorted(configs)
        if any(
            path.startswith(f"{folder}/") and "/" not in path[len(folder) + 1 :] and path.endswith(ends)
            for path in tree
        )
    )
