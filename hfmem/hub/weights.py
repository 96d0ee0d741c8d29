"""Which files are the weights: one coherent set, as transformers loads it, and what is known when there is none.

Order: the shards of `model.safetensors.index.json`; else `model.safetensors`; else, as an own line of the report
says, Mistral's `consolidated` files, PyTorch's `pytorch_model.bin`, or the one set of safetensors files of another name (`loose`).
Never a second copy (`consolidated` beside the above, `*.fp16.*`, `original/`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn

from hfmem.checkpoint.file_size import file_size
from hfmem.checkpoint.index import MAX_INDEX_BYTES, Index, check_shard_name, parse_index
from hfmem.checkpoint.merge import merge
from hfmem.checkpoint.pointer import PointerError
from hfmem.checkpoint.safetensors import Header
from hfmem.checkpoint.shard_stream import ShardStream
from hfmem.checkpoint.tensors import Checkpoint
from hfmem.errors import AdapterError, FormatError, HfmemError, MissingFileError, UnsupportedError
from hfmem.hub.facts import Evidence, WeightFile
from hfmem.hub.files import DEFAULT_GUESS, MAX_CONFIG_BYTES, Files, guess_front, parse_object
from hfmem.records import dataclass, replace

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
CONSOLIDATED_INDEX: Final = "consolidated.safetensors.index.json"
CONSOLIDATED: Final = "consolidated.safetensors"
TORCH_INDEX: Final = "pytorch_model.bin.index.json"
TORCH: Final = "pytorch_model.bin"
PARAMS: Final = "params.json"
ADAPTER: Final = "adapter_config.json"
DIFFUSERS: Final = "model_index.json"
MODULES: Final = "modules.json"
#: what a server without a listing is asked for by name
PROBED: Final = (TORCH_INDEX, TORCH, CONSOLIDATED_INDEX, CONSOLIDATED, PARAMS, ADAPTER, DIFFUSERS, MODULES)
#: quantization settings that stand beside config.json instead of in it: AutoGPTQ's and AutoAWQ's, and ModelOpt's
_INTEGER_FILES: Final = ("quantize_config.json", "quant_config.json")
_FLOAT_FILES: Final = ("hf_quant_config.json",)
_QUANTO_FILES: Final = ("quanto_qmap.json",)

#: files of things that go with a model, and are none
_HELPERS: Final = {
    "processor": ("preprocessor_config.json", "processor_config.json", "image_processor_config.json"),
    "tokenizer": ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt"),
}
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".nemo")
_SCALE_NAMES = frozenset({"weight_packed", "weight_scale", "weight_scale_inv", "weight_scale_2", "SCB", "absmax"})
_QUANTIZED_DTYPES = frozenset({"F4", "F6_E2M3", "F6_E3M2", "F8_E4M3", "F8_E5M2", "I8", "U8", "I32", "U32"})


@dataclass(frozen=True, slots=True)
class Weights:
    """The weight part of `ModelFacts`."""

    checkpoint: Checkpoint | None
    evidence: Evidence
    index_total_size: int | None
    files: tuple[WeightFile, ...]
    notice: str | None = None
    warnings: tuple[tuple[str, str], ...] = ()

    @property
    def download_bytes(self) -> int | None:
        """Size of all files; None where one is not known."""
        sizes = [file.size for file in self.files]
        return None if None in sizes or not sizes else sum(size for size in sizes if size is not None)


def from_headers(headers: Mapping[str, Header], index: Index | None = None) -> Weights:
    """The weights of shards whose headers were read."""
    files = tuple(WeightFile(name, file_size(header)) for name, header in headers.items())
    checkpoint = merge(headers, index, file_bytes=sum(file.size or 0 for file in files))
    return Weights(checkpoint, "headers", index.total_size if index else None, files)


def from_metadata_route(stream: ShardStream, what: str) -> Weights:
    """The weights by the Hub's safetensors-metadata response, once all of it was fed."""
    checkpoint, sizes, metadata = stream.finish()
    for shard in sizes:
        check_shard_name(shard, what)
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    files = tuple(WeightFile(name, size) for name, size in sizes.items())
    return Weights(checkpoint, "headers", total if type(total) is int and total > 0 else None, files)


def from_index(files: Files, data: bytes, name: str) -> Weights:
    """The weights of the shards that an index names."""
    if not data.strip():
        raise FormatError(f"{files.label}: {name} is empty ({len(data)} bytes)")
    index = parse_index(data, name)
    folder = name.rpartition("/")[0]
    try:
        found = files.headers({_join(folder, shard): guess_front(index.by_shard[shard]) for shard in index.shards})
    except PointerError:
        return _from_pointers(files, [_join(folder, shard) for shard in index.shards], index.total_size)
    return from_headers({shard: found[_join(folder, shard)] for shard in index.shards}, index)


def from_file(files: Files, name: str) -> Weights:
    """The weights of one safetensors file."""
    try:
        return from_headers(files.headers({name: DEFAULT_GUESS}))
    except PointerError:
        return _from_pointers(files, [name], None)


def _from_pointers(files: Files, names: Iterable[str], total: int | None) -> Weights:
    """What is known of weights whose files a clone has pointers of: the files' sizes, and what an index says."""
    tree = files.tree()
    found = tuple(WeightFile(name, tree.get(name)) for name in names)
    source = "their index" if total else "config.json"
    what = f"the weight files are pointers of Git LFS: their sizes are known, tensors are counted from {source}"
    warning = ("lfs_pointers", f"{what} (`git lfs pull`, or the repository's name on the Hub, for the headers)")
    return Weights(None, "index" if total else "config", total, found, warnings=(warning,))


def safetensors_weights(files: Files) -> Weights | None:
    """The default set of safetensors files, None where there is none."""
    index = files.read(INDEX, MAX_INDEX_BYTES)
    if index is not None:
        return from_index(files, index, INDEX)
    return from_file(files, SINGLE) if SINGLE in files.listing() else None


def other_weights(files: Files, listing: Mapping[str, int | None]) -> Weights:
    """The weights of a model without `model.safetensors` and without its index.

    Raises:
        MissingFileError: there are none that can be read; says what was found.
    """
    if CONSOLIDATED_INDEX in listing or CONSOLIDATED in listing:
        return _consolidated(files, listing)
    if TORCH_INDEX in listing:
        data = files.read(TORCH_INDEX, MAX_INDEX_BYTES)
        if data is not None:
            index = parse_index(data, TORCH_INDEX)
            found = tuple(WeightFile(shard, listing.get(shard)) for shard in index.shards)
            missing = [file.name for file in found if file.name not in listing and "/" not in file.name]
            if missing and any(file.name in listing for file in found):
                raise MissingFileError(f"{files.label}: {TORCH_INDEX} names {missing[0]}, which is not there")
            return from_torch(files, found, index.total_size)
    if TORCH in listing:
        if listing[TORCH] == 0:
            raise FormatError(f"{files.label}: {TORCH} is empty (0 bytes)")
        return from_torch(files, (WeightFile(TORCH, listing[TORCH]),), None)
    if ADAPTER not in listing and DIFFUSERS not in listing:
        from hfmem.hub.loose import one_set  # for places without the usual names only

        if (names := one_set(listing)) is not None:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            notice = f"the weights are {names[0]}{more}: no {SINGLE} and no {INDEX} here"
            return replace(from_headers(files.headers(dict.fromkeys(names, DEFAULT_GUESS))), notice=notice)
    if not any(name in (ADAPTER, DIFFUSERS) for name in listing) and any(n.endswith(".onnx") for n in files.tree()):
        from hfmem.hub.onnx import onnx_weights

        return onnx_weights(files)
    if not any(name in (ADAPTER, DIFFUSERS) for name in listing):
        from hfmem.hub.kinds import beside_config, unread

        if (other := unread(files.tree())) is not None and (known := beside_config(other)) is not None:
            return Weights(None, "index" if known[0] else "config", known[0], other.files, known[1])
        from hfmem.hub.loose import one_torch_file

        if other is None and (single := one_torch_file(listing)) is not None:
            notice = f"the weights are {single}: no {SINGLE} and no {TORCH} here"
            return replace(_read_torch(files, (WeightFile(single, listing[single]),), None), notice=notice)
    if not any(name in (ADAPTER, DIFFUSERS) or name.lower().endswith(_WEIGHT_SUFFIXES) for name in listing):
        # a config on its own (a vendored one, a model not uploaded yet) is enough for everything but the stored bytes
        return Weights(None, "config", None, (), "no weight files here: everything is derived from config.json")
    _refuse(files, listing, f"{files.label} has no {SINGLE} and no {INDEX}")


def from_torch(files: Files, found: tuple[WeightFile, ...], total: int | None) -> Weights:
    """The weights of a model's files of `torch.save`.

    Of a file that holds no directory of its tensors (written before torch 1.6, or damaged) only index and config tell.
    """
    from hfmem.checkpoint.torch_pickle import LegacyTorchError

    try:
        return _read_torch(files, found, total)
    except PointerError:
        return _from_pointers(files, [file.name for file in found], total)
    except FormatError as error:
        code = "legacy_torch_file" if isinstance(error, LegacyTorchError) else "unreadable_torch_file"
        source = "the index" if total else "config.json"
        warning = (code, f"{error.message}; weights are counted from {source}")
        return Weights(None, "index" if total else "config", total, found, warnings=(warning,))


def _read_torch(files: Files, found: tuple[WeightFile, ...], total: int | None) -> Weights:
    from hfmem.checkpoint.torch_pickle import merge_torch

    read = files.torch_files({file.name: file.size for file in found})
    sized = tuple(WeightFile(file.name, part.file_bytes) for file, part in zip(found, read, strict=True))
    return Weights(merge_torch(read), "headers", total, sized)


def without_config(files: Files, listing: Mapping[str, int | None]) -> tuple[dict[str, Any], str, Weights]:
    """Config and weights of a repo that has no config.json: Mistral's own layout.

    Raises:
        MissingFileError: anything else, saying what it is instead.
    """
    if PARAMS in listing and (CONSOLIDATED in listing or CONSOLIDATED_INDEX in listing):
        data = files.read(PARAMS, MAX_CONFIG_BYTES)
        if data is not None:
            return parse_object(data, PARAMS), PARAMS, _consolidated(files, listing)
    if MODULES in listing:
        from hfmem.hub.sentence import sentence_transformer

        if (found := sentence_transformer(files)) is not None:
            return found
    refuse_without_config(files, listing)


def refuse_without_config(files: Files, listing: Mapping[str, int | None]) -> NoReturn:
    """Raises the error for a place without config.json.

    Raises:
        MissingFileError: always.
    """
    _refuse(files, listing, f"{files.label} has no config.json")


def _refuse(files: Files, listing: Mapping[str, int | None], start: str) -> NoReturn:
    if ADAPTER in listing:
        base = _string(files, ADAPTER, "base_model_name_or_path")
        rest = f" of {base}: run hfmem on it" if base else ""
        raise AdapterError(f"{start}; it is an adapter (PEFT){rest}", base)
    message = start + describe(files, listing)
    if DIFFUSERS in listing:
        from hfmem.hub.pipeline import refusal

        raise refusal(files, message)
    raise MissingFileError(message)


def describe(files: Files, listing: Mapping[str, int | None]) -> str:
    """What a place that is no plain transformers model holds, as the rest of a message."""
    if DIFFUSERS in listing:
        kind = _string(files, DIFFUSERS, "_class_name")
        return f"; it is a diffusers pipeline{f' ({kind})' if kind else ''}"
    gguf = sorted(name for name in listing if name.lower().endswith(".gguf"))
    if gguf:
        return f"; it holds GGUF files: {_some(gguf)}"
    from hfmem.hub.kinds import folders_with_models, unread

    tree = files.tree()
    if folders := folders_with_models(tree):
        return f"; models lie in its folders: {_some(list(folders))}"
    if (other := unread(tree)) is not None:
        return f"; it holds {other.words}, which hfmem does not read: {other.advice}"
    if not tree:
        return "; it holds no files"
    weights = [name for name in listing if name.lower().endswith(_WEIGHT_SUFFIXES)]
    kinds = [kind for kind, names in _HELPERS.items() if any(name in listing for name in names)]
    if kinds and not weights:
        return f"; it holds a {' and a '.join(kinds)} and no model"
    return f"; found {_some(sorted(weights or listing or tree))}"


def listed_weights(tree: Mapping[str, int | None]) -> Weights | None:
    """The default set of safetensors files by their names and sizes alone; None where these do not tell it."""
    from hfmem.hub.loose import one_set

    names = one_set(name for name in tree if name.startswith("model-")) if INDEX in tree else None
    if names is None and SINGLE in tree:
        names = (SINGLE,)
    if names is None or any(tree[name] is None for name in names):
        return None
    notice = "no headers were read: the weights follow from config.json, and the files' sizes are compared with them"
    return Weights(None, "config", None, tuple(WeightFile(name, tree[name]) for name in names), notice)


def quantization_files(
    config: Mapping[str, Any], checkpoint: Checkpoint | None, tree: Iterable[str] | None = None
) -> tuple[str, ...]:
    """Files to look for beside config.json, when the tensors look quantized, or are not known, and it does not say how.

    `tree` are the files that are there, where that is known.
    """
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        if any(part.get(key) for key in ("quantization_config", "compression_config", "quantization")):
            return ()
    if checkpoint is None:
        names = (*_FLOAT_FILES, *_QUANTO_FILES)
        return names if tree is None else tuple(name for name in (*_INTEGER_FILES, *names) if name in tree)
    ends = {group.pattern.rpartition(".")[2] for group in checkpoint.groups}
    if "qweight" in ends:
        return _INTEGER_FILES
    if "_data" in ends:
        return _QUANTO_FILES
    packed = sum(group.total_bytes for group in checkpoint.groups if group.dtype in _QUANTIZED_DTYPES)
    return _FLOAT_FILES if ends & _SCALE_NAMES or 4 * packed > checkpoint.total_bytes else ()


def is_gguf_place(files: Files) -> bool:
    """Whether GGUF files are the only weights that can be read in a place without safetensors."""
    tree = files.tree()
    if any(name in tree for name in (INDEX, SINGLE, CONSOLIDATED_INDEX, CONSOLIDATED, TORCH_INDEX, TORCH, ADAPTER)):
        return False
    if DIFFUSERS in tree or not any(name.lower().endswith(".gguf") for name in tree):
        return False
    from hfmem.hub.gguf import has_models

    return has_models(tree)


def from_named_file(files: Files, name: str) -> Weights:
    """The weights of one file that the user named.

    Raises:
        UnsupportedError: no file of weights that can be read.
    """
    if name.lower().endswith(".safetensors"):
        return from_file(files, name)
    if name.lower().endswith((".bin", ".pt", ".pth")):
        return _read_torch(files, (WeightFile(name, None),), None)
    raise UnsupportedError(f"{name}: files of this kind are not read; give a safetensors, GGUF or PyTorch file")


def _consolidated(files: Files, listing: Mapping[str, int | None]) -> Weights:
    notice = "the weights are Mistral's consolidated files: the repo has no model.safetensors"
    if CONSOLIDATED_INDEX in listing:
        data = files.read(CONSOLIDATED_INDEX, MAX_INDEX_BYTES)
        if data is not None:
            return replace(from_index(files, data, CONSOLIDATED_INDEX), notice=notice)
    return replace(from_file(files, CONSOLIDATED), notice=notice)


def _string(files: Files, name: str, key: str) -> str | None:
    """The string under `key` of a small JSON file, when it can be had."""
    try:
        data = files.read(name, MAX_CONFIG_BYTES)
        value = parse_object(data, name).get(key) if data is not None else None
    except HfmemError:
        return None
    return value if isinstance(value, str) and value.isprintable() and 0 < len(value) <= 120 else None


def _some(names: list[str]) -> str:
    shown = ", ".join("".join(c if c.isprintable() else "?" for c in name[:80]) for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
