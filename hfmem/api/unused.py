"""Settings that were given and change nothing: said in a warning, so that nobody believes that they were counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hfmem.memory import engines
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture, Note
from hfmem.model.layers import CrossAttention

#: settings of `Serving` that only engines with a pool and a scheduler read, by the flags that set them
_OF_SERVERS: Final[dict[str, str]] = {
    "page_size": "--page-size",
    "max_num_batched_tokens": "--max-num-batched-tokens",
    "enable_prefix_caching": "prefix caching",
    "kv_memory_bytes": "--kv-memory",
    "eager": "--enforce-eager",
    "state_dtype": "--state-dtype",
}

_UNSET: Final = Serving(1)

#: code of these warnings
SETTING_UNUSED: Final = "setting_unused"


def unused_settings(architecture: Architecture, serving: Serving) -> Iterator[Note]:
    """A note for each setting that the engine, or the model, has no use for."""
    if not engines.is_server(serving.engine):
        for name, flag in _OF_SERVERS.items():
            if getattr(serving, name) != getattr(_UNSET, name):
                yield Note(SETTING_UNUSED, f"{flag} changes nothing under the rules of {serving.engine}")
    if serving.source_tokens is not None and not any(
        isinstance(kind, CrossAttention) for kind in architecture.caches()
    ):
        yield Note(SETTING_UNUSED, "--source-tokens changes nothing: this model has no cross attention")
