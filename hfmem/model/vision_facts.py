"""What a serving engine asks of a vision encoder's config before it has built one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfmem.model.config import Config


def vision_size(config: Mapping[str, Any], layers: int, hidden: int) -> tuple[int, int] | None:
    """`num_hidden_layers` and `hidden_size` of `vision_config`; None for a model without one.

    Args:
        layers, hidden: what the engine assumes where the part has no key of that name (Qwen's says `depth`).
    """
    part = Config(config).opt_sub("vision_config")
    if part is None:
        return None
    return _whole(part, "num_hidden_layers", layers), _whole(part, "hidden_size", hidden)


def _whole(part: Config, name: str, otherwise: int) -> int:
    value = part.lookup(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 20 else otherwise
