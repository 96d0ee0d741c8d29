"""Sizes of engines that have no rules here: TensorRT-LLM's pool and engine, LMDeploy's blocks.

They are compared with what the model itself needs, without pages or rounding: TensorRT-LLM prints bytes and tokens of the pool that
it made (`kvCacheManager.cpp`), the last of which counts, and TurboMind whole MiB of a block (`BlockManager.cc`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from hfmem.errors import HfmemError
from hfmem.memory import engines
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.records import replace
from hfmem.server_logs.checks import Check
from hfmem.server_logs.parse import LogFacts, Reading
from hfmem.server_logs.reasons import explained, more_ranks
from hfmem.units import MIB

if TYPE_CHECKING:
    from hfmem.api.reading import Model

_FORMATS: Final = ("fp8", "nvfp4", "int4", "int8")
#: tokens of a block of TurboMind's: `--cache-block-seq-len`
_BLOCK: Final = 64
_WINDOWED: Final = (
    "its layers do not all keep every token: how this engine shares the pool among them is not known here"
)


def foreign_checks(read: Model, log: LogFacts, serving: Serving) -> list[Check]:
    """The pool's bytes for its tokens, a block's bytes, and a rank's weights."""
    found = [_weights(read, log, serving)]
    size, tokens = log.readings.get("allocated_bytes", ()), log.readings.get("allocated_tokens", ())
    if size and tokens:  # the PyTorch backend makes a small one first, to measure
        found.append(_pool(read, size[-1], int(tokens[-1].value), serving))
    if (block := log.first("block_bytes")) is not None:
        floored = replace(block, value=block.value + MIB / 2, slack=MIB / 2)
        found.append(_block(read, floored, serving))
    return [item for item in found if item is not None]


def _pool(read: Model, logged: Reading, tokens: int, serving: Serving) -> Check:
    def compute(tried: Serving) -> float:
        return engines.engine("ideal").cache(read.architecture, replace(tried, context=tokens)).bytes_per_rank

    item = explained(f"pool of {tokens:,} tokens", "bytes", logged, compute, serving, _others(serving))
    mixed = len({type(kind) for kind in read.architecture.kinds()}) > 1
    return replace(item, reason=_WINDOWED) if item.verdict == "differs" and not item.reason and mixed else item


def _block(read: Model, logged: Reading, serving: Serving) -> Check:
    def compute(tried: Serving) -> float:
        return engines.engine("ideal").cache(read.architecture, tried).bytes_per_rank

    def longer() -> Iterator[tuple[str, Serving]]:
        for tokens in (_BLOCK, 2 * _BLOCK):
            for reason, tried in (("", serving), *_others(serving)):
                said = (
                    f"fits with blocks of {tokens} tokens: --cache-block-seq-len {tokens}" if tokens != _BLOCK else ""
                )
                yield "; ".join(filter(None, (said, reason))), replace(tried, context=tokens)

    return explained(f"block of {_BLOCK} tokens", "bytes", logged, compute, replace(serving, context=_BLOCK), longer())


def _others(serving: Serving) -> Iterator[tuple[str, Serving]]:
    """Another format of the cache, then other numbers of ranks."""
    if serving.kv_dtype == "auto":
        yield "fits if the cache is fp8: --kv-dtype fp8", replace(serving, kv_dtype="fp8")
    if serving.tp == 1:
        yield from more_ranks(serving)


def _weights(read: Model, log: LogFacts, serving: Serving) -> Check | None:
    """What was loaded against the model's weights, in its own format or another."""
    from hfmem.api.reading import in_format

    logged = log.largest("weights_bytes")
    if logged is None:
        return None

    def compute(tried: Serving, model: Model = read) -> float:
        return rank_weights(model.architecture, model.parameters.groups, tried).bytes

    item = explained("weights", "bytes", logged, compute, serving, more_ranks(serving) if serving.tp == 1 else iter(()))
    for name in _FORMATS if item.verdict == "differs" and not item.reason else ():
        try:
            value = compute(serving, in_format(read, name))
        except HfmemError:
            continue
        if abs(value - logged.value) <= 0.02 * logged.value:
            return replace(item, reason=f"fits if the weights loaded are {name}: --quant {name}", met=value)
    return item
