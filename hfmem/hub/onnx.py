"""ONNX exports: a graph and the files that hold its weights. Only their sizes are known: a graph is not parsed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

from hfmem.hub.facts import WeightFile
from hfmem.hub.files import Files
from hfmem.hub.weights import Weights
from hfmem.records import dataclass

#: names of the export in full precision, as Optimum and transformers.js write them, best first
_MAIN: Final = ("model", "decoder_model_merged", "decoder_model", "encoder_model")
_DATA: Final = re.compile(r"(.+)(\.onnx[._]data(_\d+)?|\.onnx\.data)")


@dataclass(frozen=True, slots=True)
class OnnxExport:
    """One graph with its external data. `size` None: a file's is not known."""

    name: str
    files: tuple[WeightFile, ...]

    @property
    def size(self) -> int | None:
        """Bytes of the graph and its data."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)


def exports(tree: Mapping[str, int | None]) -> tuple[OnnxExport, ...]:
    """The ONNX models among the files, the one in full precision first, then by name."""
    found: list[OnnxExport] = []
    for path in sorted(tree):
        if not path.endswith(".onnx"):
            continue
        stem = path.removesuffix(".onnx")
        data = [name for name in sorted(tree) if (match := _DATA.fullmatch(name)) and match[1] == stem]
        found.append(OnnxExport(path, tuple(WeightFile(name, tree[name]) for name in (path, *data))))
    return tuple(sorted(found, key=_rank))


def _rank(export: OnnxExport) -> tuple[int, int, str]:
    stem = PurePosixPath(export.name).stem
    return (_MAIN.index(stem) if stem in _MAIN else len(_MAIN), export.name.count("/"), export.name)


def onnx_weights(files: Files) -> Weights:
    """The weights of a place's ONNX export, by the sizes of its files; there is one at least."""
    main, *others = exports(files.tree())
    count = len(main.files) - 1
    notice = f"the weights are an ONNX export: {main.name}"
    if count:
        notice += f" with {count} file{'' if count == 1 else 's'} of data"
    sizes = [f"{other.name} {other.size / 1e9:.2f} GB" for other in others if other.size is not None]
    more = (("onnx_variants", f"further ONNX exports: {', '.join(sizes[:8])}"),) if sizes else ()
    return Weights(None, "index" if main.size else "config", main.size, main.files, notice, more)
