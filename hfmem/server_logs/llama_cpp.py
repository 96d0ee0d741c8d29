"""llama.cpp's and its forks' lines: the cache that a context was given, and the compute buffer.

Forks and older releases differ from today's rules in two ways that a log shows: latent attention kept as full keys and values
(before MLA, `mla = 0`) or as the latent with a transposed copy (`mla = 1`), and windowed layers that keep every token (before
`llama-kv-cache-iswa`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.engines.llama_cpp.cells import UBATCH, cell_bytes, state_cell_bytes
from hfmem.memory.formats import GGML_BLOCKS
from hfmem.memory.runtime import Estimate, estimate_runtime
from hfmem.memory.serving import LlamaCpp, Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import LatentAttention, SparseLatentAttention
from hfmem.records import replace
from hfmem.server_logs.checks import Check, check
from hfmem.server_logs.parse import LogFacts, Reading

#: a reason that the log itself is short of a line
_PART: Final = "the cache of the windowed layers is not in this log: the full ones' alone"


#: micro-batches that people set
_UBATCHES: Final = (64, 128, 256, 1024, 2048, 4096)


def llama_checks(arch: Architecture, log: LogFacts, serving: Serving) -> list[Check]:
    """The cache's size, the states', and the compute buffer against its band."""
    found = []
    logged = log.first("cache_bytes")
    if logged is not None and log.settings.context is not None:
        found.append(_cache_check(arch, log, serving, logged))
    if states := _states_check(arch, log):
        found.append(states)
    buffer = log.largest("compute_buffer_bytes")
    latent = any(isinstance(cache, LatentAttention | SparseLatentAttention) for cache in arch.caches())
    # under latent attention what forks' `-mla` and `-amb` say is in it, too: no estimate here
    if buffer is not None and buffer.value > 0 and not latent:
        told, slots = log.settings, log.settings.slots
        load = replace(
            serving,
            context=max(serving.context // slots, 1),
            num_seqs=slots,
            kv_dtype=_known_type(told.key_type),
            llama_cpp=LlamaCpp(
                unified=told.unified,
                ubatch=told.ubatch,
                value_dtype=_known_type(told.value_type or told.key_type),
                flash_attention={True: "on", False: "off", None: "auto"}[told.flash_attention],
            ),
        )
        found.append(_compute_check(arch, log, load, buffer))
    return found


def _known_type(name: str | None) -> str:
    """A cache's type as a log has it; forks' own count as 16 bits here."""
    name = (name or "f16").lower()
    return name if name in GGML_BLOCKS or name in ("f32", "bf16") else "f16"


def _compute_check(arch: Architecture, log: LogFacts, load: Serving, buffer: Reading) -> Check:
    """The compute buffer by the rule of the log's build; where nothing tells it, the band holds the oldest's too."""
    rows = log.first("output_rows")
    outputs = int(rows.value) if rows else None
    build = build_of(log.version) or log.form

    def under(number: int | None) -> Estimate:
        found = estimate_runtime(arch, load, build=number, outputs=outputs)
        return found["activations_bytes"]

    own = under(build)
    ends = [own] if build is not None else [own, under(0)]
    low, high = min(item.low for item in ends), max(item.high for item in ends)
    return check("compute buffer", "bytes", buffer, own.bytes, low=low, high=high, estimated=True)


def build_of(version: str | None) -> int | None:
    """`9849 (799fcc04a)` or `b9849` → 9849."""
    found = re.match(r"b?(\d{3,6})\b", version or "")
    return int(found[1]) if found else None


def _cache_check(arch: Architecture, log: LogFacts, serving: Serving, logged: Reading) -> Check:
    """The cells of all layers, as this release keeps them, or as another does."""
    told = log.settings
    key, value = told.key_type or "f16", told.value_type or told.key_type or "f16"

    def size(latent: str, windows: bool, full_only: bool = False, ubatch: int = told.ubatch or UBATCH) -> int:
        return cell_bytes(
            arch,
            serving.context,
            key,
            value,
            latent=latent,
            windows=windows and not told.full_windows,
            slots=told.slots,
            unified=told.unified,
            ubatch=ubatch,
            full_only=full_only,
        )

    try:
        result = check("KV cache", "bytes", logged, size(told.latent or "compressed", True))
    except UnsupportedError as error:
        return replace(check("KV cache", "bytes", logged, None), reason=error.message)
    if result.verdict != "differs":
        return result
    if not result.predicted:
        reason = "a model that reads all tokens at once: earlier builds keep a cache for it all the same"
        return replace(result, reason=reason)
    tries = [(reason, size(how, windows)) for reason, how, windows in _variants(told.latent)]
    if log.first("lone_caches") is not None:
        tries.append((_PART, size(told.latent or "compressed", True, full_only=True)))
    if told.ubatch is None:
        tries += [
            (f"fits with micro-batches of {count} tokens (--ubatch-size)", size("compressed", True, ubatch=count))
            for count in _UBATCHES
        ]
    for reason, tried in tries:
        if abs(tried - logged.value) <= max(logged.slack, logged.value // 1000):
            return replace(result, reason=reason, met=tried)
    return result


def _states_check(arch: Architecture, log: LogFacts) -> Check | None:
    """`llama_memory_recurrent`: a cell a sequence, each with copies to roll back to where a draft proposes tokens."""
    logged, cells, copies = (log.first(name) for name in ("state_bytes", "state_cells", "rollback_states"))
    if logged is None or cells is None:
        return None
    rows = int(cells.value) * (1 + (int(copies.value) if copies else 0))
    try:
        size = rows * state_cell_bytes(arch)
    except UnsupportedError as error:
        return replace(check("recurrent states", "bytes", logged, None), reason=error.message)
    result = check("recurrent states", "bytes", logged, size)
    more = round(logged.value / size) if size else 0
    if result.verdict == "differs" and copies is None and more > 1 and abs(more * size - logged.value) <= logged.slack:
        reason = (
            f"fits with {more - 1} states of each sequence to roll back to, as where a draft proposes as many tokens"
        )
        return replace(result, reason=reason, met=more * size)
    return result


def _variants(latent: str | None) -> Iterator[tuple[str, str, bool]]:
    """Reason, how latent attention is kept, and whether windows are."""
    yield "this release keeps every token in windowed layers", latent or "compressed", False
    if latent is None:
        yield "this release keeps the latents a second time as values", "transposed", False
        yield "this release keeps full keys and values of latent attention (no MLA)", "full", False
