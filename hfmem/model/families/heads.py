"""Which class a checkpoint was saved from, and what task heads store. A head is what tells one file of a family from another."""

from __future__ import annotations

from hfmem.errors import UnknownArchitectureError
from hfmem.model.config import Config


def class_name(cfg: Config) -> str:
    """The first of `architectures`, "" where the config names none."""
    classes = cfg.published("architectures")
    first = classes[0] if isinstance(classes, list) and classes else ""
    return first if isinstance(first, str) else ""


def task(cfg: Config, default: str, known: dict[str, str]) -> str:
    """The task of the saved class by the longest suffix of its name: a value of `known`, `default` where no class is named.

    Raises:
        UnknownArchitectureError: a class whose name ends in none of `known`.
    """
    name = class_name(cfg)
    if not name:
        return default
    for suffix in sorted(known, key=len, reverse=True):
        if name.endswith(suffix):
            return known[suffix]
    raise UnknownArchitectureError(
        f"{cfg.file}: 'architectures' is {name[:80]!r}, a class of {cfg.model_type!r} whose tensors are not known"
    )


def num_labels(cfg: Config) -> int:
    """Outputs of a classification head: `id2label`'s length, else `num_labels` (the class's own, or 2 as transformers assumes)."""
    labels = cfg.published("id2label")
    return len(labels) if isinstance(labels, dict) else cfg.opt_int("num_labels") or 2
