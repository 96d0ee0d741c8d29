"""What the name of a GGUF file says: its quantization label, its part of a split, whether it is a projector.

`Llama-3-8B-Instruct-Q4_K_M.gguf`, `UD-IQ2_XXS/model-UD-IQ2_XXS-00002-of-00004.gguf`, `mmproj-F16.gguf`, `Model.i1-Q4_K_M.gguf`.
Which of a repository's files llama.cpp takes: `common/download.cpp` of October 2026 (`find_best_model`, `find_best_sibling`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Final

from hfmem.records import dataclass

_SPLIT: Final = re.compile(r"^(.*)-([0-9]{5})-of-([0-9]{5})$")
_LABEL: Final = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q[1-8]_(?:K_(?:XXS|XS|S|M|L|XL|P)|K|XXS|XS|S|M|L|XL|NL|[01](?:_[48]_[48])?)"
    r"|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|F(?:P)?16|F(?:P)?32))(?=$|[-._/])",
    re.IGNORECASE,
)

#: what the name of a file holds that is no model of its own: draft heads, in this case alone
_HEADS: Final = ("mtp-", "eagle3-", "dflash-", "dspark-")
#: what llama.cpp takes where no tag is given, before the first there is
_USUAL: Final = ("Q4_K_M", "Q8_0")
#: what it takes for a tag at a name's end
_TAG: Final = re.compile(r"[-.]([A-Z0-9_]+)$", re.IGNORECASE)
_BITS: Final = re.compile(r"(?<=[QF])[0-9]+|(?<=FP)[0-9]+")


@dataclass(frozen=True, slots=True)
class GgufName:
    """`stem` is the path without split and suffix, the same for all parts; `part` counts from 1 of `parts`."""

    path: str
    stem: str
    label: str | None
    part: int
    parts: int
    projector: bool


def parse_name(path: str) -> GgufName:
    """What `path`, relative to its repository, says."""
    stem = path[:-5] if path.lower().endswith(".gguf") else path
    part = parts = 1
    if match := _SPLIT.match(stem):
        stem, part, parts = match.group(1), int(match.group(2)), int(match.group(3))
    found = _LABEL.findall(stem)
    base = stem.rpartition("/")[2].lower()
    return GgufName(
        path=path,
        stem=stem,
        label=found[-1].upper().replace("FP16", "F16").replace("FP32", "F32") if found else None,
        part=part,
        parts=parts,
        projector="mmproj" in base,
    )


def label_of(file_type: object, path: str) -> str | None:
    """The quantization label: what the file's name says (it knows more of them), else `general.file_type`."""
    from hfmem.checkpoint.gguf import FILE_TYPES

    known = FILE_TYPES.get(file_type) or None if type(file_type) is int else None
    return parse_name(path).label or known


def holds_no_model(stem: str) -> bool:
    """Whether a file that is no projector holds calibration data or a draft head."""
    base = PurePosixPath(stem).name
    return "imatrix" in base.lower() or base.lower().startswith("draft-") or any(word in base for word in _HEADS)


def tagged(found: Mapping[str, tuple[GgufName, ...]], tag: str) -> str | None:
    """The stem that llama.cpp takes for `org/name:tag`: the first of the listing whose path has the tag, in any case, in front of a
    dot or a dash. So `F16` may take a BF16 file. None: there is none."""
    wanted = re.compile(re.escape(tag) + "[.-]", re.IGNORECASE)
    paths = sorted((parts[0].path, stem) for stem, parts in found.items())
    return next((stem for path, stem in paths if wanted.search(path)), None)


def usual(found: Mapping[str, tuple[GgufName, ...]]) -> str | None:
    """The stem that llama.cpp takes where no tag is given: Q4_K_M, else Q8_0, else the first of the listing."""
    first = min(((parts[0].path, stem) for stem, parts in found.items()), default=(None, None))[1]
    return next((stem for tag in _USUAL if (stem := tagged(found, tag))), first)


def nearest_projector(model: str, projectors: Iterable[str]) -> str | None:
    """The projector that llama.cpp loads beside a model, both by their stems: the deepest in the model's folder or above it, then
    the one whose bits are nearest to the model's, then the first."""
    parents = {str(folder) for folder in PurePosixPath(model).parents}
    near = (stem for stem in projectors if str(PurePosixPath(stem).parent) in parents)
    bits = _tag_bits(model)
    return min(
        near, key=lambda stem: (-len(PurePosixPath(stem).parts), abs(_tag_bits(stem) - bits), stem), default=None
    )


def _tag_bits(stem: str) -> int:
    """The first number of what stands after the last dash or dot (`extract_quant_bits`); 0 for none."""
    tag = _TAG.search(stem)
    number = re.search("[0-9]+", tag.group(1)) if tag else None
    return int(number.group()) if number else 0


def label_bits(label: str | None) -> int | None:
    """The number in a label: 4 of `Q4_K_M`, 2 of `IQ2_XXS`, 16 of `BF16`."""
    found = None if label is None else _BITS.search(label)
    return None if found is None else int(found.group())


def models(paths: Iterable[str]) -> dict[str, tuple[GgufName, ...]]:
    """The models among `paths`, each with its parts in order; projectors are models of their own."""
    found: dict[str, list[GgufName]] = {}
    for path in paths:
        if path.lower().endswith(".gguf"):
            name = parse_name(path)
            found.setdefault(name.stem, []).append(name)
    return {stem: tuple(sorted(names, key=lambda name: name.part)) for stem, names in sorted(found.items())}
