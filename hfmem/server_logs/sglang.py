"""SGLang's lines: weights, the pools of tokens and of states, and how many tokens the memory after loading holds."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hfmem.errors import UnsupportedError
from hfmem.memory.engines.sglang import pool, splits_windows, state_slot_bytes, token_pool_bytes
from hfmem.memory.serving import Serving
from hfmem.records import replace
from hfmem.server_logs.checks import Check
from hfmem.server_logs.loaded import weights_check
from hfmem.server_logs.parse import LogFacts, Reading
from hfmem.server_logs.reasons import alternatives, explained

if TYPE_CHECKING:
    from hfmem.api.reading import Model

#: reading → its part of a pool, and what that is called
_PARTS = (
    ("key_bytes", 0, "K of the token pool"),
    ("value_bytes", 1, "V of the token pool"),
    ("cache_bytes", 2, "token pool"),
)
_DRAFTED = "a draft model or prediction layers have a cache too, which is not computed here"


def sglang_checks(read: Model, log: LogFacts, serving: Serving) -> list[Check]:
    """Every line of SGLang's that can be compared, weights first."""
    found = [weights_check(read, log, serving)]
    found += _pool_checks(read, log, serving)
    found.append(_states(read, log, serving))
    tokens = log.smallest("capacity_tokens") or log.smallest("pool_tokens")
    memory = _memory(log)
    if tokens is not None and memory is not None and memory.value > 0:

        def tokens_of(tried: Serving, held: int = int(memory.value)) -> float:
            return pool(read.architecture, tried, held).capacity_tokens

        share = memory.slack / memory.value
        item = explained("KV cache tokens", "count", tokens, tokens_of, serving, alternatives(log, serving), share)
        if item.verdict == "differs" and item.reason is None and log.settings.speculative:
            item = replace(item, reason=_DRAFTED)
        found.append(item)
    return [item for item in found if item is not None]


def _pool_checks(read: Model, log: LogFacts, serving: Serving) -> list[Check]:
    """Keys and values of the pool of layers that keep every token, and of windowed ones where they have a pool of their own."""
    pools = log.readings.get("pool_tokens", ())
    try:
        split = splits_windows(read.architecture, serving)
    except UnsupportedError:
        split = False
    row = _full_pool(log, split)
    found = []
    for at, windowed in ((row, False), (_windowed_pool(log, row), True)):
        if at is None or at >= len(pools) or (windowed and not split):
            continue
        for name, part, title in _PARTS:
            logged = log.readings.get(name, ())
            if at >= len(logged):
                continue
            compute = partial(_pool_bytes, read, int(pools[at].value), part, windowed)
            title = f"{title}, windowed" if windowed else title
            found.append(explained(title, "bytes", logged[at], compute, serving, alternatives(log, serving)))
    whole, full, windows = (log.first(name) for name in ("pools_bytes", "full_tokens", "windowed_tokens"))
    if not found and split and whole and full and windows:  # without the lines of each pool their sum

        def compute_both(tried: Serving, sizes: tuple[int, int] = (int(full.value), int(windows.value))) -> float:
            return sum(_pool_bytes(read, sizes[own], part, bool(own), tried) for own in (0, 1) for part in (0, 1, 2))

        found.append(explained("token pools", "bytes", whole, compute_both, serving, alternatives(log, serving)))
    return found


def _pool_bytes(read: Model, tokens: int, part: int, windowed: bool, serving: Serving) -> float:
    return token_pool_bytes(read.architecture, serving, tokens, windowed=windowed)[part]


def _full_pool(log: LogFacts, split: bool) -> int:
    """Which of the pools in the log is that of layers that keep every token: with windowed ones there are two, that of the windows
    first, which has fewer tokens unless `--swa-full-tokens-ratio` says otherwise."""
    full = log.first("full_tokens")
    pools = log.readings.get("pool_tokens", ())
    if full is not None:
        return next((row for row, item in enumerate(pools) if item.value == full.value), 0)
    if split and len(pools) > 1:
        return max(range(len(pools)), key=lambda row: (pools[row].value, -row))
    return 0


def _windowed_pool(log: LogFacts, full: int) -> int | None:
    """The pool of the windows beside the full one."""
    pools = log.readings.get("pool_tokens", ())
    windows = log.first("windowed_tokens")
    if windows is not None:
        return next((row for row, item in enumerate(pools) if item.value == windows.value and row != full), None)
    return full - 1 if full and pools[full - 1].value < pools[full].value else None


def _states(read: Model, log: LogFacts, serving: Serving) -> Check | None:
    """Convolutions and states of all slots and of one beside them, on one device of a pipeline."""
    slots, parts = log.first("state_slots"), [log.first(name) for name in ("convolution_bytes", "ssm_bytes")]
    if slots is None or None in parts or serving.pp > 1:
        return None
    known = [part for part in parts if part is not None]
    size, slack = sum(part.value for part in known), sum(part.slack for part in known)

    def compute(tried: Serving) -> float:
        return (int(slots.value) + 1) * state_slot_bytes(read.architecture, tried)

    tries = iter(
        (f"fits if states are {name}: --mamba-ssm-dtype {name}", replace(serving, state_dtype=dtype))
        for name, dtype in (("bfloat16", "BF16"), ("float16", "F16"), ("float32", "F32"))
    )
    return explained("recurrent states", "bytes", replace(known[0], value=size, slack=slack), compute, serving, tries)


def _memory(log: LogFacts) -> Reading | None:
    """The memory of SGLang's pools: what is left after loading, less the share of what was free before that stays free, and less
    what it reserves for a multimodal model's features. A draft model is loaded after the ranks."""
    ranks = log.settings.tp * log.settings.pp
    before, after = (
        min(log.readings.get(name, ())[:ranks], key=lambda reading: reading.value, default=None)
        for name in ("before_bytes", "after_bytes")
    )
    share = log.settings.utilization
    if before is None or after is None or share is None:
        return None
    reserved = log.first("reserved_bytes")
    kept = before.value * (1 - share) + (reserved.value if reserved else 0)
    slack = after.slack + before.slack + (reserved.slack if reserved else 0)
    return Reading(float(after.value - kept), slack, after.line)
