"""The verdict on devices: what is left, how far it would go, and what would make it fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hfmem.render.lines import Line, line
from hfmem.report import Fit, Report
from hfmem.units import GIB, format_bytes

if TYPE_CHECKING:
    from hfmem.api.remedies import Remedy
    from hfmem.plan.allocator import Allocation

STYLES = {"fits": "bold green", "tight": "bold yellow", "does-not-fit": "bold red"}
#: what an engine's share is not asked to hold, so that the parts of the total do not add up to it (`hfmem.plan.fit`)
_OUTSIDE = {"vllm": "; the CUDA context lies outside", "sglang": "; for weights and cache alone"}
_MARKS = {"exact": "", "derived": "≈ ", "estimated": "~ "}


def fit_lines(report: Report) -> list[Line]:
    """Three lines for `report.fit`: devices, verdict, and the longest context and most sequences. Nothing without devices."""
    fit = report.fit
    if fit is None:
        return []
    return [
        line("  " + device_words(report, fit), hang=4),
        line("  ", (fit.verdict.replace("-", " "), STYLES[fit.verdict]), f" · {_left(report, fit)}", hang=4),
        line(("  " + _reach(report, fit), "dim" if fit.verdict == "does-not-fit" else ""), hang=4),
    ]


def device_words(report: Report, fit: Fit) -> str:
    """The devices, and what of their memory the engine may take."""
    share = "" if fit.utilization in (None, 1.0) else f"{fit.utilization:g} of "
    used = f", {format_bytes(fit.memory_used_bytes)} in use" if fit.memory_used_bytes else ""
    each = " on each" if fit.num_devices > 1 else ""
    outside = _OUTSIDE.get(report.kv_cache.engine, "") if share and "context_bytes" in report.runtime else ""
    memory = f"{_MARKS[fit.memory_grade]}{fit.memory_bytes_per_device / GIB:,.2f}"
    return (
        f"{fit.num_devices} × {fit.device}: {fit.usable_bytes_per_device / GIB:,.2f} GiB usable{each} "
        f"({share}{memory}{used}{outside})"
    )


def _left(report: Report, fit: Fit) -> str:
    where = " on the most loaded rank" if report.parallelism.num_ranks > 1 else ""
    if fit.headroom_bytes < 0:
        return f"{format_bytes(-fit.headroom_bytes)} missing{where}"
    if fit.verdict != "does-not-fit":
        return f"{format_bytes(fit.headroom_bytes)} free{where}"
    pool, seqs = report.engine_pool, report.kv_cache.num_seqs  # bytes are left, but not of the kind that is needed
    if pool is None or pool.max_concurrency >= seqs:
        return "one page is missing, which the engine keeps empty"
    return f"the pool holds {pool.max_concurrency:.2f} sequences at once, not {seqs:,}"


def _reach(report: Report, fit: Fit) -> str:
    cache = report.kv_cache
    if fit.max_context == 0 and fit.max_num_seqs == 0:
        codes = {warning.code for warning in report.warnings}
        if "pool_too_large" in codes:
            return "nothing fits: the pool that was given is too large"
        if "pool_too_small" in codes:
            return "not one sequence of any length fits the pool that was given"
        return "not one sequence of any length fits: weights and runtime alone are too large"
    longest = "any length" if fit.max_context is None else f"{fit.max_context:,} tokens" if fit.max_context else "none"
    most = (
        "any number of"
        if fit.max_num_seqs is None
        else f"at most {fit.max_num_seqs:,}"
        if fit.max_num_seqs
        else "not one"
    )
    word = "sequence" if fit.max_num_seqs in (0, 1) else "sequences"
    sequences = "1 sequence" if cache.num_seqs == 1 else f"{cache.num_seqs:,} sequences"
    return f"longest context {longest} for {sequences} · {most} {word} of {cache.context:,} tokens"


def allocation_lines(found: Sequence[Allocation]) -> list[Line]:
    """How many sequences of a mix of lengths each allocator holds, and what lies idle."""
    return [
        line(
            f"  {item.allocator:<10}  {item.num_seqs:,} sequences of the mix, {format_bytes(item.bytes_per_seq)} each on average, "
            f"{item.idle_share:.1%} of it idle",
            hang=14,
        )
        for item in found
    ]


def render_remedies(remedies: Sequence[Remedy]) -> list[Line]:
    """What would make it fit, on these devices first, by what is lost."""
    if not remedies:
        return [
            line("  nothing tried makes it fit: shorter context, fewer sequences, narrower formats, 64 devices", hang=4)
        ]
    width = max(len(remedy.flags) for remedy in remedies)
    lines = [line(("would fit, each alone: on these devices first, by what is lost:", "bold"))]
    for remedy in remedies:
        left = f"{remedy.verdict.replace('-', ' ')}, {format_bytes(remedy.headroom_bytes)} free"
        lines.append(line("  ", (f"{remedy.flags:<{width}}", "cyan"), f"  {remedy.text} ({left})", hang=width + 4))
    return lines
