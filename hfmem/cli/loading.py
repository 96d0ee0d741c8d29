"""What an estimate needs once a model's facts are there, loaded while they are on their way."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final

from hfmem.memory.serving import ENGINES

#: what every model needs, in the order of its use
_SURE: Final = (
    "hfmem.checkpoint.logical",
    "hfmem.model.families.registry",
    "hfmem.model.parameters",
    "hfmem.model.crosscheck",
    "hfmem.api.assembly",
    "hfmem.render.table",
    *ENGINES.values(),
)
#: what many do: quantized ones, and the decoders that most of today's are kin to
_LIKELY: Final = (
    "hfmem.model.families.llama",
    "hfmem.checkpoint.quantization_config",
    "hfmem.checkpoint.quantization",
    "hfmem.model.families.deepseek",
)


def load_ahead(is_waiting: Callable[[], bool]) -> None:
    """Loads modules for as long as there is nothing else to do."""
    for name in (*_SURE, *_LIKELY):
        if not is_waiting():
            return
        import_module(name)
