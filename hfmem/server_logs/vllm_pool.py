"""vLLM's pool by the rules of the log's release: blocks, tokens, concurrency, the longest context, and what one request needs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from hfmem.errors import UnsupportedError
from hfmem.memory import engines
from hfmem.memory.engines.vllm.releases import LAST_OF_ONE_STEP, LATEST, release_of
from hfmem.memory.serving import Serving
from hfmem.records import replace
from hfmem.server_logs.checks import Check
from hfmem.server_logs.parse import LogFacts, Reading
from hfmem.server_logs.reasons import alternatives, assumed, explained, explained_further
from hfmem.server_logs.vllm_release import old_capacity

if TYPE_CHECKING:
    from hfmem.api.reading import Model

#: how far ranks of one engine differ in the memory that is left to them
_OTHER_RANK: Final = 0.05
_DRAFTED: Final = "a draft model or prediction layers have a cache too, which is not computed here"
_NO_CONTEXT: Final = "the log does not tell max_model_len, which decides how much of a pool windows and states take"


def pool_checks(read: Model, log: LogFacts, serving: Serving, request: Serving, minor: int) -> Iterator[Check]:
    """What one request needs, and what the memory for the cache holds, by the rules of vLLM 0.`minor`. `request`: how admission
    sees one request."""
    needed = _needed(read, log, request, minor)
    if needed is not None:
        yield needed
    pool = _memory(read, log, serving)
    if pool is None or pool.value <= 0:
        return
    memory, old = int(pool.value), old_capacity(log)
    share = pool.slack / max(memory, 1)
    settled: tuple[str, Serving] | None = None
    for name, reading, kind in (
        ("GPU blocks", log.smallest("num_blocks"), "blocks"),
        ("KV cache tokens", log.smallest("capacity_tokens"), "old tokens" if old else "tokens"),
        ("maximum concurrency", log.smallest("max_concurrency"), "concurrency"),
        ("longest context", log.first("max_context"), "context"),
    ):
        if reading is None:
            continue
        compute = partial(held, read, memory=memory, kind=kind, minor=minor)
        at = request if kind == "context" else serving
        item = explained(name, "count", reading, compute, at, alternatives(log, at), share)
        item = explained_further(item, compute, reading, settled, log, share)
        settled = settled or (assumed(item, log, at) if item.reason else None)
        if kind == "old tokens" and item.verdict == "differs" and release_of(log.version) is None:
            newer = partial(compute, kind="tokens")
            other = explained(name, "count", reading, newer, serving, alternatives(log, serving), share)
            if other.verdict != "differs" or (other.reason and not item.reason):
                item = other  # as from 0.21
        yield _with_reason(item, log, serving, kind)


def _with_reason(item: Check, log: LogFacts, serving: Serving, kind: str) -> Check:
    """`item` with what is known to move a pool where no assumption meets it."""
    if item.verdict != "differs":
        return item
    if _other_rank(item, log, serving):
        return replace(item, reason="another rank, whose line is not here, had less memory: the least counts")
    if item.reason is not None:
        return item
    if log.settings.speculative and (item.difference or 0) > 0:
        return replace(item, reason=_DRAFTED)
    untold = log.settings.context is None and log.first("concurrency_context") is None
    return replace(item, reason=_NO_CONTEXT) if untold and kind in ("tokens", "concurrency") else item


def _memory(read: Model, log: LogFacts, serving: Serving) -> Reading | None:
    """The pool's memory; where blocks are told, theirs, whatever was left."""
    override = log.first("override_blocks")
    blocks = int(override.value) if override is not None else log.settings.override_blocks
    if blocks and (size := _block_bytes(read, serving)):
        return Reading(blocks * size, 0, override.line if override is not None else 0)
    return log.smallest("available_bytes")


def _block_bytes(read: Model, serving: Serving) -> int:
    """Bytes of a block of the pool; 0 where the model has none, or vLLM's rules do not cover it."""
    from hfmem.memory.engines.vllm import layout

    try:
        return max(layout(read.architecture, serving).stage_block_bytes, default=0)
    except UnsupportedError:
        return 0


def _other_rank(item: Check, log: LogFacts, serving: Serving) -> bool:
    """Whether a pool a little smaller than its line is that of a rank the log does not show."""
    few = len(log.readings.get("available_bytes", ())) < serving.tp * serving.pp
    return few and item.difference is not None and 0 < item.difference < _OTHER_RANK


def held(read: Model, serving: Serving, *, memory: int, kind: str, minor: int = LATEST) -> float:
    """Blocks, tokens ("old tokens": as they were counted before 0.21), concurrency or the longest context of `memory` bytes.

    Raises:
        UnsupportedError: vLLM's rules do not cover the model or the layout, or it keeps no cache.
    """
    from hfmem.memory.engines.vllm import layout, max_model_len
    from hfmem.memory.engines.vllm.earlier import earlier_max_model_len, earlier_pool

    found, minor = layout(read.architecture, serving), _minor(serving, minor)
    if not found.groups or not max(found.stage_block_bytes):
        raise UnsupportedError(f"{read.architecture.model_type} models keep no cache between tokens")
    if kind == "context":
        longest = earlier_max_model_len(found, minor, memory)
        return max_model_len(read.architecture, serving, memory) if longest is None else longest
    size, pages = max(found.stage_block_bytes), found.request_blocks
    if earlier := earlier_pool(found, minor):
        size, pages = earlier.block_bytes, earlier.request_blocks
    blocks = memory // size
    if kind == "blocks":
        return blocks
    if kind == "old tokens":
        return blocks // len(found.groups) * found.plan.block_size * serving.dcp
    concurrency = blocks / pages  # below one too: a refusal says how many fit
    return concurrency if kind == "concurrency" else int(concurrency * serving.context)


def _minor(serving: Serving, minor: int) -> int:
    """The release whose rules are tried: with one step in flight, that of the last which had one."""
    return min(minor, LAST_OF_ONE_STEP) if serving.steps_in_flight == 1 else minor


def _needed(read: Model, log: LogFacts, serving: Serving, minor: int) -> Check | None:
    """The cache that one request of the whole context needs, as a refusal prints it."""
    from hfmem.memory.engines.vllm import layout
    from hfmem.memory.engines.vllm.earlier import earlier_admitted_bytes

    logged, context = log.first("needed_bytes"), log.first("needed_context")
    if logged is None or context is None:
        return None
    at = replace(serving, context=int(context.value))

    def compute(tried: Serving) -> float:
        earlier = earlier_admitted_bytes(layout(read.architecture, tried), _minor(tried, minor))
        return engines.engine("vllm").cache(read.architecture, tried).bytes_per_rank if earlier is None else earlier

    return explained(f"KV cache of {int(context.value):,} tokens", "bytes", logged, compute, at, alternatives(log, at))
