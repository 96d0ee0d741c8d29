"""Which class a checkpoint was saved from, and what task heads store. A head is what tells one file of a family from another."""

from __future__ import annotations

from hfmem.errors import UnknownArchitectureError
from hfmem.model.config import Config


def class_name(cfg: Config) -> str:
    """The first of `architectures`, "" where the config names none."""
    classes = cfg.published("architectures")
    first = classes[0] if isinstance(classes, list) and classes else ""
    return first if isinstance(first, str) else ""


def class_names(cfg: Config) -> tuple[str, ...]:
    """All of `architectures` that are names."""
    classes = cfg.published("architectures")
    return tuple(name for name in classes if isinstance(name, str)) if isinstance(classes, list) else ()


def task(cfg: Config, default: str, known: dict[str, str]) -> str:
    """The task of the saved class by the longest suffix of its name: a value of `known`, `default` where no class is named.

    Raises:
        UnknownArchitectureError: a class whose name ends in none of `known`.
    """
    name = class_name(cfg)
    if not name:
        return default
    for suffix in sorted(known, key=len, reverse=True):
        if name.endswith(suffix) and not (suffix == "Model" and name.endswith("HeadModel")):
            return known[suffix]
    raise UnknownArchitectureError(
        f"{cfg.file}: 'architectures' is {name[:80]!r}, a class of {cfg.model_type!r} whose tensors are not known"
    )


def num_labels(cfg: Config, default: int = 2) -> int:
    """Outputs of a classification head: `id2label`'s length, else `num_labels`, else what the class assumes (2; BART 3)."""
    labels = cfg.published("id2label")
    if isinstance(labels, dict):
        return len(labels)
    return default if cfg.published("num_labels") is None else cfg.positive("num_labels")
