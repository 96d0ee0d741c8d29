"""GGUF files on the Hub and on disk: which of a repository's files are one model, and their headers by ranged reads.

A reading starts with 64 KiB and then takes what the parser expects the vocabulary or the tensor list to need, so that a
header of 2 MB costs about 2 MB, and no byte is fetched twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from hfmem.checkpoint import gguf
from hfmem.checkpoint.gguf import GgufParser, merge_gguf
from hfmem.checkpoint.gguf_header import GgufHeader, LongArray, Value
from hfmem.checkpoint.gguf_names import GgufName, holds_no_model, models, nearest_projector, parse_name, tagged
from hfmem.checkpoint.tensors import Checkpoint
from hfmem.errors import FormatError, MissingFileError, UsageError
from hfmem.hub.facts import ModelFacts, WeightFile, gguf_facts
from hfmem.hub.files import Files
from hfmem.records import dataclass

#: bytes read first; later reads are at least this long and at most the second number
FIRST_BYTES: Final = 64 << 10
MAX_READ: Final = 16 << 20
#: parts of one split model, beyond any that was published
_MAX_PARTS: Final = 1000
#: strings of a header that are worth keeping; chat templates are longer
_MAX_TEXT: Final = 200

#: `read(file, offset, length)`: these bytes (fewer at the file's end), and the file's size where it is known
Read = Callable[[str, int, int], tuple[bytes, int | None]]


@dataclass(frozen=True, slots=True)
class GgufModel:
    """One model of a listing: all its parts, in order. `size` is None where a part's is not known."""

    stem: str
    label: str | None
    files: tuple[WeightFile, ...]

    @property
    def size(self) -> int | None:
        """Bytes of all parts."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def name(self) -> str:
        """What picks this model: its label where it has one, else its file."""
        return self.label or self.files[0].name


@dataclass(frozen=True, slots=True)
class GgufListing:
    """What a place holds: models by size, projectors (mmproj), and other GGUF files (calibration data, draft heads)."""

    models: tuple[GgufModel, ...]
    projectors: tuple[GgufModel, ...]
    others: tuple[GgufModel, ...]


class SeveralModelsError(UsageError):
    """A place with several GGUF models, and nothing that picks one. `listing` has them.

    `facts` are those of the smallest, where all are the same model in different formats. `by_label`: a label picks a model
    (on the Hub); else its file does.
    """

    code = "several_models"

    def __init__(self, place: str, listing: GgufListing, by_label: bool = True) -> None:
        self.place = place
        self.by_label = by_label
        self.facts: ModelFacts | None = None
        self.listing = listing
        labels = [model.name for model in listing.models]
        # else only the files tell the models apart
        unique = by_label and len(set(labels)) == len(labels) and all(model.label for model in listing.models)
        names = labels if unique else [model.files[0].name for model in listing.models]
        example = f"{place}:{names[0]}" if unique else f"{place}/{names[0]}"
        shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
        super().__init__(f"{place} holds {len(names)} GGUF models: {shown}; give one, as in {example}")


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """What was read of one model: its keys as JSON values, the file that has them, its tensors, its files."""

    keys: dict[str, Any]
    file: str
    checkpoint: Checkpoint
    files: tuple[WeightFile, ...]


def list_gguf(files: Mapping[str, int | None]) -> GgufListing:
    """The GGUF models among files with their sizes."""
    found: dict[str, list[GgufModel]] = {"model": [], "projector": [], "other": []}
    for stem, parts in models(files).items():
        item = GgufModel(stem, parts[0].label, tuple(WeightFile(part.path, files[part.path]) for part in parts))
        kind = "projector" if parts[0].projector else "other" if holds_no_model(stem) else "model"
        found[kind].append(item)
    key = lambda item: (item.size or 0, item.stem)  # noqa: E731
    return GgufListing(
        tuple(sorted(found["model"], key=key)),
        tuple(sorted(found["projector"], key=key)),
        tuple(sorted(found["other"], key=key)),
    )


def pick(place: str, listing: GgufListing, variant: str | None, by_label: bool = True) -> GgufModel:
    """The model that `variant` names, as llama.cpp takes a tag (`Q4_K_M`, any case); without it the only one there is.

    Raises:
        MissingFileError: there is none.
        SeveralModelsError: there are several.
    """
    found = listing.models
    if variant is not None:
        stem, word = by_tag(listing, variant), variant.lower()
        if stem is not None:
            found = tuple(model for model in listing.models if model.stem == stem)
        else:  # a file's own spelling of its label (`fp16`) means that too, and any word of a file name picks that file
            found = tuple(model for model in listing.models if (model.label or "").lower() == word)
            found = found or tuple(model for model in listing.models if word in _words(model.stem))
        if not found:
            have = ", ".join(dict.fromkeys(model.name for model in listing.models)) or "no GGUF model"
            raise MissingFileError(f"{place} has no {variant}; it has {have}")
    if not found:
        raise MissingFileError(f"{place} has no GGUF model{_only(listing)}")
    if len(found) > 1:
        raise SeveralModelsError(place, GgufListing(found, listing.projectors, listing.others), by_label)
    return found[0]


def by_tag(listing: GgufListing, tag: str) -> str | None:
    """The stem of the model that llama.cpp takes for a tag (`tagged`)."""
    return tagged(models(model.files[0].name for model in listing.models), tag)


def _words(stem: str) -> set[str]:
    """All runs of a file name's parts between `-` and `.`: `a-UD-Q4_K_XL` has `q4_k_xl` and `ud-q4_k_xl`."""
    parts = PurePosixPath(stem).name.lower().replace(".", "-").split("-")
    return {"-".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, min(len(parts), i + 4) + 1)}


def _only(listing: GgufListing) -> str:
    rest = [model.files[0].name for model in (*listing.projectors, *listing.others)]
    return f", only {', '.join(rest[:3])}" if rest else ""


def projector_for(model: GgufModel, listing: GgufListing) -> GgufModel | None:
    """The projector that llama.cpp would load beside a model (`nearest_projector`)."""
    stem = nearest_projector(model.stem, (item.stem for item in listing.projectors))
    return next((item for item in listing.projectors if item.stem == stem), None)


def parts_of(name: str) -> tuple[str, ...]:
    """All files of the split model that `name` is a part of; `name` alone where it is whole."""
    parsed: GgufName = parse_name(name)
    if parsed.parts == 1:
        return (name,)
    if not 1 <= parsed.part <= parsed.parts <= _MAX_PARTS:
        raise FormatError(f"{name}: part {parsed.part} of {parsed.parts}")
    end = name[-5:]
    return tuple(f"{parsed.stem}-{part:05}-of-{parsed.parts:05}{end}" for part in range(1, parsed.parts + 1))


def read_header(name: str, size: int | None, read: Read, label: str) -> GgufHeader:
    """One file's header, by as many reads as it takes.

    Raises:
        FormatError, ContradictionError, UnsupportedError: as `GgufParser.feed`.
    """
    data, known = read(name, 0, FIRST_BYTES)
    size = known if known is not None else size
    if size == 0 or not data:
        raise FormatError(f"{label} is empty (0 bytes)")
    parser = GgufParser(label, size)
    wanted = parser.feed(data)
    while parser.header is None:
        at = parser.received
        length = min(MAX_READ, max(FIRST_BYTES, parser.likely - at), gguf.MAX_HEADER_BYTES - at)
        length = max(length, wanted - at)
        if size is not None:
            length = min(length, size - at)
        data, _ = read(name, at, length)
        if not data:
            raise FormatError(f"{label}: ends inside its header (at byte {at:,})")
        wanted = parser.feed(data)
    return parser.header


def load_model_files(files: Files, names: Mapping[str, int | None], projector: GgufModel | None) -> GgufFacts:
    """The model in the files `names`, with a projector's tensors beside it where one belongs to it.

    Raises:
        FormatError, ContradictionError, UnsupportedError: a header that breaks its format's rules.
        MissingFileError: a part that is not there; a file that holds no language model.
    """
    beside = {} if projector is None else {file.name: file.size for file in projector.files}
    headers = files.gguf_headers({**names, **beside})
    main, extra = headers[: len(names)], headers[len(names) :]
    checkpoint = merge_gguf(main)
    first = min(main, key=lambda header: header.split or (0, 1))
    if first.is_projector:
        raise MissingFileError(
            f"{first.file} is a projector (mmproj) of {checkpoint.total_bytes:,} bytes without its language model"
        )
    found = _sized(names, main)
    if extra:
        added = merge_gguf(extra)
        found += _sized(beside, extra)
        checkpoint = Checkpoint(
            (*checkpoint.groups, *added.groups),
            "gguf",
            checkpoint.num_files + added.num_files,
            (checkpoint.file_bytes or 0) + (added.file_bytes or 0),
            checkpoint.metadata,
            checkpoint.notes,
        )
    return GgufFacts(_as_json(first.keys), next(iter(names)), checkpoint, found)


def load_place(files: Files, place: str, variant: str | None, *, by_label: bool = True) -> GgufFacts:
    """The one GGUF model of a place, or the one that `variant` picks, with its projector.

    Raises:
        MissingFileError, SeveralModelsError: as `pick`; else as `load_model_files`.
    """
    listing = list_gguf(files.tree())
    try:
        model = pick(place, listing, variant, by_label)
    except SeveralModelsError as several:
        smallest = several.listing.models[0]
        if len({_without_label(model) for model in several.listing.models}) == 1:
            found = load_model_files(files, {file.name: file.size for file in smallest.files}, None)
            several.facts = gguf_facts(found, place, None, "hub")
        raise
    return load_model_files(files, {file.name: file.size for file in model.files}, projector_for(model, listing))


def _without_label(model: GgufModel) -> str:
    """What the formats of one model have in common in their names."""
    base = PurePosixPath(model.stem).name.upper()
    return base.replace(model.label, "") if model.label else base


def load_file(files: Files, name: str, *, alone: bool = False) -> GgufFacts:
    """The model that one named file holds or is a part of, with the projector beside it; `alone`: without, as llama.cpp reads a
    file of this machine.

    Raises:
        MissingFileError, FormatError, ContradictionError, UnsupportedError: as `load_model_files`.
    """
    names = parts_of(name)
    if alone or parse_name(name).projector:
        return load_model_files(files, dict.fromkeys(names), None)
    tree = files.tree()
    sizes = {part: tree.get(part) for part in names}
    model = GgufModel(parse_name(name).stem, None, tuple(WeightFile(part, size) for part, size in sizes.items()))
    return load_model_files(files, sizes, projector_for(model, list_gguf(tree)))


def has_models(tree: Iterable[str]) -> bool:
    """Whether GGUF models are among these files."""
    return bool(list_gguf(dict.fromkeys(tree)).models)


def notice(files: Sequence[WeightFile]) -> str:
    """Which files the numbers are of."""
    main = [file.name for file in files if not parse_name(file.name).projector]
    beside = [file for file in files if parse_name(file.name).projector]
    text = main[0] + (f" and {len(main) - 1} more parts" if len(main) > 1 else "") if main else ""
    for file in beside:
        text += f", with the projector {file.name}" + (f" of {file.size / 1e9:.2f} GB" if file.size else "")
    return f"{text}; by llama.cpp's rules unless --engine names others"


def _sized(names: Mapping[str, int | None], headers: Sequence[GgufHeader]) -> tuple[WeightFile, ...]:
    return tuple(
        WeightFile(name, size if size is not None else header.header_bytes + header.data_bytes)
        for (name, size), header in zip(names.items(), headers, strict=True)
    )


def _as_json(keys: Mapping[str, Value]) -> dict[str, Any]:
    """The keys as JSON has them: arrays as lists, an array of which only the length was kept as `{"length": n}`."""
    out: dict[str, Any] = {}
    for key, value in keys.items():
        if isinstance(value, str) and len(value) > _MAX_TEXT:
            continue
        out[key] = _plain(value)
    return out


def _plain(value: Value) -> Any:
    match value:
        case LongArray(length):
            return {"length": length}
        case tuple():
            return [_plain(item) for item in value]
        case float() if value != value or value in (float("inf"), float("-inf")):
            return str(value)
        case _:
            return value
