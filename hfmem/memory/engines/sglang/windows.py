"""The pool of windowed layers: what a running request holds of it, and how large it is beside the pool of the others.

Read from SGLang 0.5.23: `srt/model_executor/pool_configurator.py` (`compute_swa_request_cap`, `SWARequestCapPoolConfigurator`,
`validate_swa_pool_size`), `srt/arg_groups/fields/schedule.py` and `srt/environ.py` (defaults), `srt/arg_groups/parallel_hook.py`
(a prefill chunk is shared out over groups of data-parallel attention).
"""

from __future__ import annotations

from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.engines.sglang.layout import Layout, pages
from hfmem.memory.engines.sglang.support import window_leaves_out_itself
from hfmem.memory.serving import Serving
from hfmem.model.layers import Cache, ChunkedAttention, SlidingAttention

#: `--swa-full-tokens-ratio`, `--chunked-prefill-size` on Hopper, SGLANG_SWAEVICTION_INTERVAL
_SWA_RATIO: Final = 0.8
_CHUNKED_PREFILL: Final = 8192
EVICTION_INTERVAL: Final = 128
#: `--max-running-requests` where a draft is served and nobody says (`speculative_hook.py`)
DRAFTING_REQUESTS: Final = 48


def request_tokens(plan: Layout, kind: Cache, ahead: int) -> int:
    """Rows of the windowed pool that a running request holds: its window, what is not evicted yet, a page, and one more or what two
    steps of a draft allocate (`compute_swa_request_cap`)."""
    held = _window(plan, kind) + EVICTION_INTERVAL * max(ahead, 1) + plan.page
    return held + (2 * ahead or plan.page)


def _window(plan: Layout, kind: Cache) -> int:
    """Tokens that a windowed layer looks back at, as the model's class counts them: most leave out the token itself."""
    match kind:
        case ChunkedAttention(chunk=size):
            return size
        case SlidingAttention(window=size):
            return size - 1 if window_leaves_out_itself(plan.arch) else size
        case _:
            raise AssertionError(f"{kind} has no window")


def chunk_tokens(serving: Serving) -> int:
    """Tokens of one prefill chunk of a group of ranks."""
    return (serving.max_num_batched_tokens or _CHUNKED_PREFILL) // serving.attn_dp


def tokens_in_flight(serving: Serving, most: int | None = None) -> int:
    """Tokens of prefill that are under way: of two chunks, or of one where pipeline stages turn the overlap schedule off. `most`:
    of a chunk, where prompts are no longer."""
    chunk = min(chunk_tokens(serving), most or chunk_tokens(serving))
    return chunk * (1 if serving.pp > 1 else 2)


def ratio(serving: Serving) -> float:
    """Tokens of the windowed pool to those of the full one."""
    return serving.swa_full_tokens_ratio or _SWA_RATIO


def at_most(tokens: int, serving: Serving) -> int:
    """Tokens of a pool that `--max-total-tokens` leaves of those that the memory holds (`_apply_token_constraints`)."""
    return min(tokens, serving.max_total_tokens or tokens)


def running_requests(serving: Serving) -> int | None:
    """Requests that a group of ranks runs at once, where that is known and sizes the pools: with the radix cache off."""
    most = serving.max_num_seqs or (DRAFTING_REQUESTS if serving.speculative_tokens else None)
    if serving.enable_prefix_caching is not False or most is None:
        return None
    return max(most // serving.attn_dp, 1)


def cap(plan: Layout, serving: Serving) -> int | None:
    """Tokens of the windowed pool where the worst case of the requests sizes it, not the ratio (`SWARequestCapPoolConfigurator`):
    prefill chunks and a page beside what they hold. None: the ratio does, or no layer has a window or none is full."""
    running = running_requests(serving)
    windowed = [kind for kind, _ in plan.kinds if plan.windowed(kind)]
    if running is None or not windowed or not _some_full(plan):
        return None
    held = max(request_tokens(plan, kind, serving.speculative_tokens) for kind in windowed)
    return pages(running * held + tokens_in_flight(serving) + plan.page, plan.page)


def _some_full(plan: Layout) -> bool:
    return any(plan.token_bytes(kind) and not plan.windowed(kind) for kind, _ in plan.kinds)


def limits(plan: Layout, serving: Serving, tokens: int, rows: int) -> list[float]:
    """Sequences that the windowed pool holds: at their whole length, or once windows are evicted, with two prefill chunks beside.

    Raises:
        UnsupportedError: the pool admits no request (`validate_swa_pool_size`).
    """
    found: list[float] = []
    full = _some_full(plan)
    by_ratio = int(tokens * (ratio(serving) if full else 1)) // plan.page * plan.page
    held = at_most(cap(plan, serving) or by_ratio, serving)
    prefill = tokens_in_flight(serving, serving.context)
    for kind, _ in plan.kinds:
        if not plan.windowed(kind):
            continue
        window = _window(plan, kind)
        if full and window + plan.page >= held:
            raise UnsupportedError(
                f"SWA pool ({held} tokens) cannot hold even one request: the prefill admission floor is "
                f"sliding_window_size ({window}) + page_size ({plan.page})"
            )
        evicted = (held - prefill - plan.page) / request_tokens(plan, kind, serving.speculative_tokens)
        found.append(max(held / rows, evicted))
    return found
