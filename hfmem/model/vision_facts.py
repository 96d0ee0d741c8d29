"""What a serving engine asks of a vision encoder's config before it has built one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfmem.model.config import Config


def vision_size(data: Mapping[str, Any]) -> tuple[int | None, int | None] | None:
    """`num_hidden_layers` and `hidden_size` of `vision_config`, the class's where it leaves them out; None for one that has no key
    of that name (Qwen's says `depth`) or no number there that a model could have. None for a model without that part."""
    if not isinstance(data.get("vision_config"), Mapping):
        return None
    part = Config(data).opt_sub("vision_config")
    return None if part is None else (_whole(part, "num_hidden_layers"), _whole(part, "hidden_size"))


def _whole(part: Config, name: str) -> int | None:
    value = part.lookup(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 20 else None
