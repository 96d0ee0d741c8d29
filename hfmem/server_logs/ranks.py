"""How many ranks a log is of where it does not print the settings: by the labels before its lines.

vLLM names its workers by what is split (`Worker_DP0_PP1_TP3_EP3`: `v1/executor/multiproc_executor.py`), and until 0.10 `VllmWorker
rank=3` or `VllmWorker TP3`; SGLang puts `DP0 PP1 TP3 EP3` after the time (`managers/scheduler.py`). A part that is not split has no
label. vLLM prints many lines on the first rank alone: the highest label that is seen is a lower bound.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_VLLM: Final = re.compile(r"\bWorker((?:_[A-Z]{2,4}\d{1,4}){1,6})\b")
_OLD_VLLM: Final = re.compile(r"\bVllmWorker (?:rank=|TP)(\d{1,3})\b")
_SGLANG: Final = re.compile(r"\b\d\d:\d\d:\d\d((?: [A-Z_]{2,8}\d{1,4}){1,6})\]")
_LABEL: Final = re.compile(r"([A-Z]{2,4})(\d{1,4})")
#: what vLLM prints once on each rank as it begins
_ASSIGNED: Final = re.compile(
    r"rank \d{1,4} in world size \d{1,4} is assigned as DP rank (\d{1,4}), PP rank (\d{1,4}),[^\n]{0,40}? TP rank (\d{1,4})"
)
#: more lines than this tell nothing new
_MOST: Final = 4096


class Ranks(NamedTuple):
    """The least number of ranks of each kind that the labels tell of; `hidden`: there are several tensor-parallel ones, of
    which only the first prints. `ep`: experts are dealt out whole."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: bool = False
    hidden: bool = False


def ranks_seen(text: str, engine: str) -> Ranks:
    """What the labels of `text` tell."""
    highest: dict[str, int] = {}
    if engine == "llama.cpp":
        return Ranks()
    for count, match in enumerate((_VLLM if engine == "vllm" else _SGLANG).finditer(text)):
        if count > _MOST:
            break
        for name, rank in _LABEL.findall(match[1]):
            highest[name] = max(highest.get(name, 0), int(rank))
    assigned = [tuple(map(int, match)) for match in _ASSIGNED.findall(text)[:_MOST]]
    dp, pp, tp = (max(column, default=0) for column in zip(*assigned, strict=True)) if assigned else (0, 0, 0)
    old = max((int(rank) for rank in _OLD_VLLM.findall(text)[:_MOST]), default=0) if engine == "vllm" else 0
    tp = max(tp, highest.get("TP", 0), old) + 1
    return Ranks(
        tp,
        max(pp, highest.get("PP", 0)) + 1,
        max(dp, highest.get("DP", 0)) + 1,
        "EP" in highest,
        "TP" in highest and tp == 1,
    )
