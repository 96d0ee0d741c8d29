"""Settings of the wrong type are usage errors that name the setting, not tracebacks from deep inside."""

from __future__ import annotations

from typing import Any

import pytest

import hfmem
from hfmem.errors import UsageError
from hfmem.hub import FetchOptions

MODEL = "Qwen/Qwen3-8B"
OFFLINE = FetchOptions(offline=True, no_cache=True)


class OwnInteger:
    """As NumPy's integers are: no `int`, but an index."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("context", "32k", "context must be a whole number or 'max', not '32k'"),
        ("context", 3.5, "context must be a whole number or 'max', not 3.5"),
        ("num_seqs", True, "num_seqs must be a whole number or 'max', not True"),
        ("tp", "2", "tp must be a whole number, not '2'"),
        ("kv_memory_bytes", 1e9, "kv_memory_bytes must be a whole number, not 1000000000.0"),
        ("utilization", "90%", "utilization must be a number or 'min', not '90%'"),
        ("utilization", float("nan"), "utilization must be a number or 'min', not nan"),
        ("overhead", "10%", "overhead must be a number, not '10%'"),
        ("engine", 3, "engine must be a string, not 3"),
        ("kv_dtype", 8, "kv_dtype must be a string, not 8"),
        ("engine", "ollama", "engine 'ollama' is not one of .*; it runs llama.cpp: --engine llama.cpp"),
    ],
)
def test_a_setting_of_the_wrong_type_is_named(setting: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}$"):
        hfmem.estimate(MODEL, device="h100", fetch=OFFLINE, **{setting: value})


def test_integers_of_other_libraries_are_integers() -> None:
    other: Any = OwnInteger(32768)
    assert hfmem.estimate(MODEL, context=other, fetch=OFFLINE) == hfmem.estimate(MODEL, context=32768, fetch=OFFLINE)
