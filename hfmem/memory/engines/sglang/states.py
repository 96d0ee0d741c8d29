"""Slots of recurrent states: how many a budget holds, beside those of tokens that a draft proposes.

Read from SGLang 0.5.23: `srt/mem_cache/kv_cache_configurator.py` (`_handle_max_mamba_cache`).
"""

from __future__ import annotations

from typing import Final

from hfmem.memory.engines.sglang.layout import Layout
from hfmem.memory.engines.sglang.windows import running_requests
from hfmem.memory.result import count_in
from hfmem.memory.serving import Serving

#: `--max-running-requests` where a draft is served and nobody says
_DRAFTING_REQUESTS: Final = 48


def slots_of(budget: float, slot: int, each: int, serving: Serving) -> tuple[int, int]:
    """How many slots of states a budget of bytes holds, beside one for padding, and how many of those that tokens of a draft take
    while they are verified: one a token of as many requests as run, and of one more (`_handle_max_mamba_cache`). With the radix
    cache off and the requests told, it is one for each of these, whatever the budget.

    Args:
        slot: bytes of one. each: slots that a running request takes.
    """
    ahead = serving.speculative_tokens
    told = running_requests(serving)
    if told is not None:
        return told, ahead and ahead * (told + 1)
    if not ahead:
        return max(int(budget - slot) // slot, 0), 0
    slots = max(int((budget - slot * (1 + ahead)) // (slot * (1 + ahead / each))), 0)
    running = max((serving.max_num_seqs or _DRAFTING_REQUESTS) // serving.attn_dp, 1)
    return slots, ahead * (min(running, slots // each) + 1)


def largest_slot(plan: Layout, stages: tuple[range, ...]) -> int:
    """Bytes of a state slot on the stage with most of the layers that keep one: every stage reserves as much."""
    kept = [(state, indices) for kind, indices in plan.kinds if (state := plan.state(kind))]
    total, all_layers = (
        sum(state * len(ids) for state, ids in kept),
        sorted({index for _, ids in kept for index in ids}),
    )
    most = max(count_in(all_layers, stage) for stage in stages)
    return int(total * (most / len(all_layers))) if all_layers else 0
