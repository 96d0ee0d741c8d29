"""The settings of an estimate as a caller gives them."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from numbers import Real
from operator import index
from typing import Any, Final

from hfmem.errors import UsageError

#: what a solver word asks for, by the setting it stands in for
UNKNOWNS: Final[dict[str, str]] = {
    "context": "max",
    "num_seqs": "max",
    "num_devices": "min",
    "utilization": "min",
    "gpu_layers": "max",
    "cpu_moe_layers": "min",
}
#: settings that are whole numbers
_COUNTS: Final = frozenset(
    {
        *("context", "num_seqs", "tp", "pp", "dp", "attn_dp", "dcp", "num_devices", "source_tokens", "kv_memory_bytes"),
        *("max_num_batched_tokens", "max_num_seqs", "page_size", "num_gpu_blocks", "gpu_layers", "cpu_moe_layers"),
        *("max_loras", "max_lora_rank", "draft_tokens", "max_total_tokens", "ubatch"),
    }
)
_SHARES: Final = frozenset(
    {"utilization", "overhead", "swa_full_tokens_ratio", "mamba_full_memory_ratio", "cpu_offload_gb"}
)
_WORDS: Final = frozenset(
    {
        "engine",
        "kv_dtype",
        "value_dtype",
        "cache_implementation",
        "flash_attention",
        "state_dtype",
        "quant",
        "dtype",
        "lora",
        "revision",
        "assume",
    }
)


class Settings:
    """Settings taken one by one; what is left over is a mistake of the caller's.

    Raises:
        UsageError: a value of another type, as "32k" is, which only the command line reads.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._left = {name: _checked(name, value) for name, value in values.items()}

    def take(self, name: str, default: Any = None) -> Any:
        """The setting of this name, `default` where it is None or was not given; it counts as read."""
        value = self._left.pop(name, None)
        return default if value is None else value

    def unknown(self) -> str | None:
        """The one setting that a solver word stands in for, which is then as if it had not been given.

        Raises:
            UsageError: more than one, or no device to solve for.
        """
        words = [name for name, word in UNKNOWNS.items() if self._left.get(name) == word]
        if not words:
            return None
        if len(words) > 1:
            raise UsageError(f"only one of {', '.join(words)} can be solved for at once")
        if self._left.get("device") is None:
            raise UsageError(f"{words[0]}={UNKNOWNS[words[0]]} needs a device (--gpu)")
        del self._left[words[0]]
        return words[0]

    def check_all_taken(self) -> None:
        """Raises TypeError, as a call with a wrong keyword does, naming a setting that nothing read."""
        if self._left:
            raise TypeError(f"no setting is called {next(iter(self._left))!r}")


def _checked(name: str, value: Any) -> Any:
    """`value`; of a count, the integer that it is (NumPy's included), or its solver word."""
    if value is None or value == UNKNOWNS.get(name):
        return value
    word = f" or {UNKNOWNS[name]!r}" if name in UNKNOWNS else ""
    if name in _COUNTS:
        if not isinstance(value, bool) and hasattr(value, "__index__"):
            return index(value)
        raise UsageError(f"{name} must be a whole number{word}, not {value!r}")
    if name in _SHARES and (not isinstance(value, Real) or not isfinite(value)):
        raise UsageError(f"{name} must be a number{word}, not {value!r}")
    if name in _WORDS and not isinstance(value, str):
        raise UsageError(f"{name} must be a string, not {value!r}")
    return value
