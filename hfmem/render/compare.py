"""Several reports side by side: one row each."""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.errors import HfmemError
from hfmem.render.fit import STYLES, device_words
from hfmem.render.grid import Grid
from hfmem.render.table import held_grade, held_weights
from hfmem.report import Fit, HostMemory, Report
from hfmem.units import GIB, format_count

#: a label, and what is told of it or why nothing is
Row = tuple[str, Report | HfmemError]

_MARKS = {"exact": "=", "derived": "≈", "estimated": "~"}
_HEAD = ("", "params", "weights", "", "bits each", "KV cache", "sequences", "tokens", "total", "on host", "engine")
#: what stands beside them where devices are named
_FIT_HEAD = ("GPUs", "verdict", "left", "longest")
_VERDICT = len(_HEAD) + _FIT_HEAD.index("verdict")
_UNTOLD = "cannot be told"


def compare_grid(rows: Sequence[Row], *, reasons: bool = False) -> Grid:
    """A row for each (label, report): parameters, weights as the engine loads them, bits per parameter as stored, cache and total;
    on devices the verdict, what is left or missing on the fullest rank, and the longest context that fits; sizes in GiB.

    Parameters, sequences, lengths, engines and numbers of devices have columns where they differ, and stand below the table where
    they do not: it has to fit 80 columns. What settings leave on the host has one where there is any. On devices an error has a
    row, too; `reasons`: with its message below the table.
    """
    reports = [found for _, found in rows if isinstance(found, Report)]
    caches = [report.kv_cache for report in reports]
    lengths, engines = ({f"{cache.context:,}" for cache in caches}, {cache.engine for cache in caches})
    loads = {cache.num_seqs for cache in caches}
    counts = {report.fit.num_devices for report in reports if report.fit is not None}
    sizes = {format_count(report.parameters.total) for report in reports}
    size = f"{format_count(reports[0].parameters.total)} parameters, " if len(sizes) == 1 else ""
    sequences = "1 sequence" if loads == {1} else f"{caches[0].num_seqs:,} sequences"
    load = (
        f"{sequences if len(loads) == 1 else 'as many sequences as its row says,'} "
        f"of {'the length in its row' if len(lengths) > 1 else f'{caches[0].context:,} tokens'}"
    )
    served = "" if len(engines) > 1 else f", {caches[0].engine}"
    shown = rows if counts else [(label, found) for label, found in rows if isinstance(found, Report)]
    fits = [(report, report.fit) for report in reports if report.fit is not None]

    def cells(found: Report | HfmemError) -> tuple[str, ...]:
        row = _cells(found, len(sizes) > 1, len(loads) > 1, len(lengths) > 1, len(engines) > 1)
        return (*row, *_fit_cells(found, len(counts) > 1)) if counts else row

    return Grid(
        head=(*_HEAD, *_FIT_HEAD) if counts else _HEAD,
        rows=tuple((label, *cells(found)) for label, found in shown),
        left=frozenset({0, 3, _HEAD.index("engine"), _VERDICT}),
        notes=(
            f"GiB; {size}{load}{served}; total: with activations and the engine's own memory",
            *([_devices(fits)] if fits else []),
            *(["weights: as they are loaded; bits each: as they are stored"] if _differ(reports) else []),
            *(f"{label}: {found.message}" for label, found in shown if reasons and isinstance(found, HfmemError)),
            "= exact  ≈ derived by rule",
        ),
        styles=tuple((_words(verdict), style) for verdict, style in STYLES.items()),
    )


def _devices(fits: Sequence[tuple[Report, Fit]]) -> str:
    """The devices of all rows; what is usable of them where that is the same for all."""
    each = {device_words(report, fit) for report, fit in fits}
    ranks = any(report.parallelism.num_ranks > 1 for report, _ in fits)
    where = "; left: free or missing (−)" + (" on the most loaded rank" if ranks else "")
    counts = {fit.num_devices for _, fit in fits}
    named = fits[0][1].device if len(counts) > 1 else f"{fits[0][1].num_devices} × {fits[0][1].device}"
    return f"{each.pop() if len(each) == 1 else named}{where}; longest: tokens of context that fit"


def _differ(reports: Sequence[Report]) -> bool:
    """Whether an engine loads some of them in another format, or not all of them."""
    return any(held_weights(report) != report.weights.bytes for report in reports)


def _cells(
    found: Report | HfmemError, with_size: bool, with_load: bool, with_length: bool, with_engine: bool
) -> tuple[str, ...]:
    """The cells under `_HEAD` but the first."""
    if isinstance(found, HfmemError):
        return ("",) * (len(_HEAD) - 1)
    weights, total, cache = found.weights, found.parameters.total, found.kv_cache
    return (
        format_count(total) if with_size else "",
        f"{held_weights(found) / GIB:,.2f}",
        _MARKS[held_grade(found)],
        f"{8 * weights.bytes / total:.2f}" if total else "",
        f"{cache.bytes / GIB:,.2f}",
        f"{cache.num_seqs:,}" if with_load else "",
        f"{cache.context:,}" if with_length else "",
        f"{found.total_bytes / GIB:,.2f}",
        _on_host(found.host),
        cache.engine if with_engine else "",
    )


def _on_host(host: HostMemory | None) -> str:
    """GiB of the total that settings leave in the host's memory."""
    if host is None or (host.gpu_layers is None and not host.cpu_moe_layers and not host.cpu_offload_bytes):
        return ""
    return f"{(host.weights_bytes + host.kv_cache_bytes) / GIB:,.2f}"


def _fit_cells(found: Report | HfmemError, with_count: bool) -> tuple[str, str, str, str]:
    """The cells under `_FIT_HEAD`."""
    if isinstance(found, HfmemError) or found.fit is None:
        return "", _UNTOLD, "", ""
    fit = found.fit
    longest = "any" if fit.max_context is None else f"{fit.max_context:,}" if fit.max_context else "none"
    return f"{fit.num_devices}" if with_count else "", _words(fit.verdict), _left(found, fit), longest


def _left(report: Report, fit: Fit) -> str:
    """GiB free, or missing (−); where bytes are left, but not enough of what the pool is cut into, that."""
    if fit.headroom_bytes < 0:
        return f"−{-fit.headroom_bytes / GIB:,.2f}"
    if fit.verdict != "does-not-fit":
        return f"{fit.headroom_bytes / GIB:,.2f}"
    pool, seqs = report.engine_pool, report.kv_cache.num_seqs
    if pool is None or pool.max_concurrency >= seqs:
        return "one page missing"
    return f"{pool.max_concurrency:.2f} of {seqs:,} at once"


def _words(verdict: str) -> str:
    return verdict.replace("-", " ")
