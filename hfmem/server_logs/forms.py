"""Which release of vLLM a log is of, where it does not say: by what it prints, and by the lines of the source that print it.

vLLM puts the file and line of each message before it (`[gpu_worker.py:298] Available KV cache memory`). The lines below were read
from the wheels that `hfmem.memory.engines.vllm.releases` names; a log between two of them is taken for the nearer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

#: message → line of the source → N of the release 0.N; where two releases share a line, the other messages decide
_LINES: Final[tuple[tuple[re.Pattern[str], Mapping[int, int]], ...]] = (
    (
        re.compile(r"gpu_model_runner\.py:(\d{3,5})\] Model loading took"),
        {
            1347: 8,
            1801: 9,
            2007: 10,
            2392: 10,
            2653: 11,
            3338: 11,
            3549: 12,
            3659: 13,
            3905: 14,
            4130: 15,
            4221: 16,
            4338: 17,
            4566: 18,
            4820: 19,
            4879: 20,
            4959: 21,
        }
        | {
            5132: 22,
            5187: 23,
            5255: 24,
            5306: 25,
            5347: 26,
            5405: 27,
            5515: 28,
            5471: 29,
            5416: 30,
            5354: 31,
            5088: 33,
        },
    ),
    (
        re.compile(r"gpu_worker\.py:(\d{3,5})\] Available KV cache memory"),
        {
            232: 9,
            276: 10,
            298: 10,
            359: 12,
            375: 13,
            358: 14,
            356: 15,
            373: 16,
            424: 17,
            456: 18,
            436: 19,
            440: 20,
            462: 21,
            466: 22,
            480: 23,
            508: 24,
        }
        | {538: 25, 560: 26, 563: 27, 578: 28, 625: 29, 640: 30, 692: 31, 772: 33},
    ),
    (
        re.compile(r"kv_cache_utils\.py:(\d{3,5})\] GPU KV cache size"),
        {
            634: 8,
            716: 9,
            849: 10,
            864: 10,
            1087: 11,
            1229: 11,
            1286: 12,
            1291: 13,
            1305: 14,
            1307: 15,
            1314: 17,
            1316: 18,
            1319: 19,
            1711: 20,
            1710: 21,
            1733: 22,
        }
        | {1744: 23, 2146: 24, 2177: 26, 2235: 27, 1869: 28, 2032: 29},
    ),
)
#: what tells the release, about, where neither version nor lines do: later first
_FORMS: Final[tuple[tuple[str, int], ...]] = (
    (r"GPU KV cache size: [\d,]{1,20} tokens, Maximum concurrency", 28),
    (r"for consumed memory", 27),
    (r"\bkernel_config=", 20),
    (r"\bdcp_comm_backend=|Estimated CUDA graph memory", 19),
    (r"Asynchronous scheduling is|enable_return_routed_experts=", 16),
    (r"structured_outputs_config=", 11),
)
#: until 0.27 the pool's tokens are a line of their own
_LINE_OF_ITS_OWN: Final = re.compile(r"GPU KV cache size: [\d,]{1,20} tokens(?!, M)")
#: what the V0 engine alone prints (0.6 to 0.9, `worker/worker.py`, `executor/executor_base.py`), and what such a log is taken for
_V0: Final = re.compile(r"PyTorch activation peak memory takes|# (?:GPU|CUDA|cuda) blocks: ")
_V1: Final = re.compile(r"Available KV cache memory: |GPU KV cache size: ")
_V0_FORM: Final = 7
#: releases so near in one message agree
_NEAR: Final = 2


def release_told(text: str) -> int | None:
    """N of the release 0.N by what `text` prints, about; None: nothing tells."""
    if _V0.search(text) and not _V1.search(text):
        return _V0_FORM
    least = next((minor for pattern, minor in _FORMS if re.search(pattern, text)), None)
    found = [_nearest(int(match[1]), table) for pattern, table in _LINES if (match := pattern.search(text))]
    found = [minor for minor in found if least is None or minor >= least - _NEAR]
    if not found:
        return least
    # later sources grew shorter now and then: what most messages agree on
    return max(found, key=lambda minor: sum(abs(minor - other) <= _NEAR for other in found))


def line_of_its_own(text: str) -> bool:
    """Whether the pool's tokens are printed as until 0.27: without the concurrency."""
    return _LINE_OF_ITS_OWN.search(text) is not None


def _nearest(line: int, table: Mapping[int, int]) -> int:
    return table[min(table, key=lambda known: abs(known - line))]
