"""What a quantized copy may keep in 16 bit, where its name alone tells the format: recipes that published copies have.

NVFP4 and AWQ copies of models with many experts often quantize these alone, those of hybrid models leave linear attention as it
was, and a prediction layer is rarely quantized (`ignore` in the configs of RedHatAI's, NVIDIA's and cyankiwi's copies).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from hfmem.checkpoint.roles import is_expert, is_prediction
from hfmem.checkpoint.tensors import TensorGroup
from hfmem.errors import HfmemError
from hfmem.server_logs.names import base_of
from hfmem.server_logs.parse import LogFacts

if TYPE_CHECKING:
    from hfmem.api.reading import Model

_KEPT: Final[tuple[tuple[str, Callable[[str], bool]], ...]] = (
    ("its linear attention", lambda pattern: "linear_attn" in pattern),
    ("all but its experts", lambda pattern: not is_expert(pattern)),
    ("its attention", lambda pattern: "self_attn" in pattern),
    ("its attention of both kinds", lambda pattern: "attn" in pattern),
)


def format_by_name(read: Model, log: LogFacts) -> str | None:
    """The format that only the model's name told."""
    if read.parameters.exact or read.packing is None:
        return None
    names = (log.settings.model, *log.settings.also, read.facts.repo_id)
    return next((quant for name in names if name and (quant := base_of(name)[1])), None)


def recipes(read: Model, quant: str) -> Iterator[tuple[str, tuple[TensorGroup, ...]]]:
    """What a copy in `quant` may keep as it was, and its tensors then; each also with prediction layers kept."""
    from hfmem.api.reading import in_format
    from hfmem.checkpoint.quantization import logical_groups
    from hfmem.checkpoint.whatif import convert

    try:
        plain = in_format(read, "bf16")
        logical = logical_groups(plain.parameters.groups, None)
        stored = convert(logical, quant, tied=read.architecture.tie_word_embeddings)
    except HfmemError:
        return
    predicts = any(is_prediction(group.pattern) for group in logical)
    kept: tuple[tuple[str, Callable[[str], bool]], ...] = (*_KEPT, ("", lambda _: False))
    for words, keeps in kept:
        for mtp in (False, True) if predicts else (False,):
            if not words and not mtp:
                continue
            groups = tuple(
                was if keeps(was.pattern) or (mtp and is_prediction(was.pattern)) else now
                for was, now in zip(logical, stored, strict=True)
            )
            what = " and ".join(part for part in (words, "its prediction layers" if mtp else "") if part)
            tensors = tuple(
                TensorGroup(part.pattern, part.dtype, part.shape, group.boxes)
                for group in groups
                for part in group.parts
            )
            yield f"fits if the copy keeps {what} in 16 bit: its own config tells", tensors
