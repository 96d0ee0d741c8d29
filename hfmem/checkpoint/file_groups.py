"""What the files of a model repository are for: groups by name alone, which of them repeat the weights, and who fetches what.

Programs' choices: transformers 5.23.0 (`modeling_utils`: safetensors before `pytorch_model`, shards of an index), vLLM 0.33.0
(`default_loader`, `weight_utils`: Mistral's files where there are any, then `*.safetensors`, `*.bin`, `*.pt`), llama.cpp
(`-hf`: Q4_K_M, else Q8_0, else the first GGUF file, and a projector beside it). Patterns are those of `hf download` (`fnmatch`,
in which `*` crosses folders).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final

from hfmem.checkpoint.gguf_names import holds_no_model, models, nearest_projector, parse_name, usual
from hfmem.records import dataclass

Sizes = Mapping[str, int | None]

_DEFAULT_SAFE: Final = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_DEFAULT_TORCH: Final = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
_CONSOLIDATED: Final = re.compile(r"consolidated[^/]*\.safetensors")
_VARIANT: Final = re.compile(r"(?:model|pytorch_model)[^/]*?\.([A-Za-z0-9_]+)(?:-\d+-of-\d+)?\.(?:safetensors|bin)")
_TRAINING: Final = re.compile(
    r"(^|/)(optimizer\.(bin|pt)|scheduler\.pt|scaler\.pt|training_args\.bin|rng_state[^/]*\.pth|trainer_state\.json"
    r"|events\.out\.tfevents[^/]*)$|(^|/)(checkpoint-\d+|global_step\d+|runs)/"
)
_TOKENIZER: Final = re.compile(
    r"(^|/)(tokenizer[^/]*|vocab[^/]*|merges\.txt|spiece\.model|sentencepiece[^/]*|special_tokens_map\.json"
    r"|added_tokens\.json|[^/]*\.tiktoken|tekken\.json|bpe\.codes|chat_template[^/]*|[^/]*\.jinja)$"
)
_SUFFIXES: Final = {
    ".gguf": "gguf",
    ".ggml": "ggml",
    ".onnx": "onnx",
    ".onnx_data": "onnx",
    ".h5": "tensorflow",
    ".tflite": "tflite",
    ".litertlm": "tflite",
    ".task": "tflite",
    ".msgpack": "flax",
    ".ot": "rust",
    ".mlmodel": "coreml",
    ".nemo": "nemo",
    ".safetensors": "safetensors",
    ".bin": "pytorch",
    ".pt": "pytorch",
    ".pth": "pytorch",
    ".ckpt": "pytorch",
    ".engine": "tensorrt",
    ".py": "code",
    ".json": "config",
    ".yaml": "config",
    ".yml": "config",
    ".model": "tokenizer",
}
_FOLDERS: Final = {"onnx": "onnx", "openvino": "openvino", "coreml": "coreml", "original": "original"}
#: groups that hold weights, in the order in which a listing shows them
WEIGHT_GROUPS: Final = (
    *(
        "safetensors",
        "pytorch",
        "consolidated",
        "gguf",
        "adapter",
        "original",
        "onnx",
        "openvino",
        "tensorflow",
        "flax",
    ),
    *("coreml", "rust", "tflite", "nemo", "tensorrt", "ggml"),
)
#: small files that every program takes along
_COMPANIONS: Final = frozenset({"config", "tokenizer"})


@dataclass(frozen=True, slots=True)
class FileGroup:
    """Files of one use. `redundant` says what else holds the same, None where nothing does. `bytes` None: a size is unknown."""

    name: str
    files: tuple[str, ...]
    bytes: int | None
    redundant: str | None = None


@dataclass(frozen=True, slots=True)
class Fetch:
    """What one program would fetch: its weight files, the small files beside them, and why nothing where there is nothing."""

    weights: tuple[str, ...]
    others: tuple[str, ...]
    bytes: int | None
    note: str | None = None


def group_of(path: str, components: Iterable[str] = ()) -> str:
    """The use of a file, by its path; `components` are the folders of a diffusers pipeline."""
    pure = PurePosixPath(path)
    name = pure.name
    top = pure.parts[0] if len(pure.parts) > 1 else ""
    if _TRAINING.search(path):
        return "training"
    if top in components:
        return f"component {top}" if pure.suffix in (".safetensors", ".bin", ".onnx", ".msgpack") else "config"
    if top in _FOLDERS:
        return _FOLDERS[top]
    if name.startswith("adapter_model.") or name == "adapter_config.json":
        return "adapter"
    if not top and _CONSOLIDATED.fullmatch(name):
        return "consolidated"
    if ".mlpackage/" in path:
        return "coreml"
    if name.startswith("openvino_"):
        return "openvino"
    if name.endswith((".onnx.data", ".onnx_data", ".onnx_data_1")) or re.search(r"\.onnx[._]data", name):
        return "onnx"
    if name.endswith((".safetensors.index.json", ".bin.index.json")):
        return "config"
    group = _SUFFIXES.get(pure.suffix.lower())
    if group in WEIGHT_GROUPS and (found := _VARIANT.fullmatch(name)) and not _is_default(name):
        return f"{group} {found[1]}"
    if _TOKENIZER.search(path) and group not in WEIGHT_GROUPS:
        return "tokenizer"
    if name.upper().startswith(("README", "LICENSE", "NOTICE", "USE_POLICY")) or name in (
        ".gitattributes",
        ".gitignore",
    ):
        return "documents"
    return group or "other"


def _is_default(name: str) -> bool:
    return bool(_DEFAULT_SAFE.fullmatch(name) or _DEFAULT_TORCH.fullmatch(name))


def group_files(files: Sizes, components: Iterable[str] = ()) -> tuple[FileGroup, ...]:
    """All files by use, weights first, with what repeats the weights of another group."""
    folders = tuple(components)
    found: dict[str, list[str]] = {}
    for path in sorted(files):
        group = group_of(path, folders)
        if group == "gguf":
            group = "gguf projector" if parse_name(path).projector else "gguf"
        found.setdefault(group, []).append(path)
    main = _main_group(found)
    return tuple(
        FileGroup(name, tuple(paths), total(files, paths), _redundant(name, paths, main))
        for name, paths in sorted(found.items(), key=lambda item: (_rank(item[0]), item[0]))
    )


def _rank(name: str) -> int:
    word = name.split()[0]
    return WEIGHT_GROUPS.index(word) if word in WEIGHT_GROUPS else 90 if word == "component" else 100


def _main_group(found: Mapping[str, Sequence[str]]) -> str | None:
    """The weights that a program takes first; adapters and calibration data are none."""
    order = ("safetensors", "pytorch", "consolidated", "gguf", "original", "onnx", "tensorflow", "flax")
    return next((name for name in order if name in found), None)


def _redundant(name: str, paths: Sequence[str], main: str | None) -> str | None:
    if name == "training":
        return "state of training, which serving does not read"
    if main is None:
        return None
    if name == "gguf" and main == "gguf":
        return f"{len(models(paths))} formats of one model: one is enough" if len(models(paths)) > 1 else None
    word = name.split()[0]
    if name == main or word not in WEIGHT_GROUPS or word == "adapter" or name == "gguf projector":
        return None
    return f"the same weights as {main}, in another {'precision' if word == main else 'format'}"


def total(files: Sizes, paths: Iterable[str]) -> int | None:
    """Bytes of some files, None where one's size is not known."""
    sizes = [files.get(path) for path in paths]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def select(files: Sizes, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> dict[str, int | None]:
    """The files that `hf download --include … --exclude …` takes. A pattern that ends in `/` means all below that folder."""
    wanted, unwanted = [_glob(p) for p in include], [_glob(p) for p in exclude]
    return {
        path: size
        for path, size in files.items()
        if (not wanted or any(fnmatchcase(path, p) for p in wanted)) and not any(fnmatchcase(path, p) for p in unwanted)
    }


def _glob(pattern: str) -> str:
    pattern = pattern.replace("\\", "/")
    return pattern + "*" if pattern.endswith("/") else pattern


def fetches(files: Sizes) -> dict[str, Fetch]:
    """What transformers, vLLM and llama.cpp would fetch with their defaults."""
    top = [path for path in files if "/" not in path]
    companions = tuple(path for path in sorted(top) if group_of(path) in _COMPANIONS)
    return {
        "transformers": _fetch(files, _transformers(top), companions, "no safetensors and no pytorch_model.bin"),
        "vllm": _fetch(files, _vllm(files, top), companions, "no safetensors, .bin or .pt files"),
        "llama.cpp": _fetch(files, _llama_cpp(files), (), "no GGUF file: convert the model first"),
    }


def _fetch(files: Sizes, weights: Sequence[str], others: Sequence[str], reason: str) -> Fetch:
    if not weights:
        return Fetch((), (), 0, reason)
    kind = PurePosixPath(weights[0]).suffix  # the index of another format stays where it is
    beside = tuple(path for path in others if not path.endswith(".index.json") or path.endswith(f"{kind}.index.json"))
    return Fetch(tuple(weights), beside, total(files, (*weights, *beside)))


def _shards(top: Sequence[str], index: str, single: str, shard: re.Pattern[str]) -> list[str]:
    if index in top:
        return sorted(path for path in top if shard.fullmatch(path) and path != single) or [single]
    return [single] if single in top else []


def _transformers(top: Sequence[str]) -> list[str]:
    if "model.safetensors" in top:  # looked for before an index
        return ["model.safetensors"]
    found = _shards(top, "model.safetensors.index.json", "model.safetensors", _DEFAULT_SAFE)
    if not found:
        found = _shards(top, "pytorch_model.bin.index.json", "pytorch_model.bin", _DEFAULT_TORCH)
    return [path for path in found if path in top]


def _vllm(files: Sizes, top: Sequence[str]) -> list[str]:
    if any(fnmatchcase(path, "consolidated*.safetensors") for path in files):
        return sorted(path for path in files if fnmatchcase(path, "consolidated*.safetensors"))
    if "model.safetensors.index.json" in top:
        return sorted(path for path in top if _DEFAULT_SAFE.fullmatch(path) and path != "model.safetensors") or [
            path for path in top if path == "model.safetensors"
        ]
    for pattern in ("*.safetensors", "*.bin", "*.pt"):
        if any(fnmatchcase(path, pattern) for path in top):
            # the download's pattern crosses folders, though only the files at the top are loaded
            return sorted(p for p in files if fnmatchcase(p, pattern) and not fnmatchcase(p, "original/**/*"))
    return []


def _llama_cpp(files: Sizes) -> list[str]:
    found = models(files)
    main = {stem: parts for stem, parts in found.items() if not parts[0].projector and not holds_no_model(stem)}
    chosen = usual(main)
    if chosen is None:
        return []
    beside = nearest_projector(chosen, (stem for stem, parts in found.items() if parts[0].projector))
    return [part.path for stem in (chosen, beside) if stem is not None for part in found[stem]]
