"""Two pictures of a set of results: time over bytes, and operations over intensity. matplotlib (extra `bench`), PNG and SVG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfmem_kernels.benchmarks.rows import DTYPE_NAMES
from hfmem_kernels.benchmarks.summary import fit_line
from hfmem_kernels.benchmarks.targets import TRITON_PEERS, Measured

OURS, TRITON, OTHER, LINE = "#0b6bcb", "#c2571a", "#7a7f87", "#30343a"
#: rows beyond which marks are drawn smaller
CROWD = 80
#: marker of our rows by the cache's format
MARKERS = {"bf16": "o", "fp16": "h", "e4m3": "s", "e5m2": "D", "int8": "^"}


def draw(measured: Mapping[str, Measured], results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw `latency` and `roofline` into `folder`; nothing without a measured row.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    if not measured:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    shown = {name: each for name, each in measured.items() if _of_its_own(each)} or measured
    peak = results["device"].get("bf16_operations")
    paths = []
    for name, figure in (
        ("latency", _latency(shown, _caption(results))),
        ("roofline", _roofline(shown, _caption(results), peak)),
    ):
        for suffix in ("png", "svg"):
            paths.append(folder / f"{name}.{suffix}")
            figure.savefig(paths[-1], dpi=150)
    return paths


def _of_its_own(each: Measured) -> bool:
    """Rows that say something by their size; variants of one row in pages, layout or queries would lie on top of each other."""
    return each.row.baseline is None or each.row.ragged or each.row.dtype not in ("bfloat16", "float16")


def _caption(results: Mapping[str, Any]) -> str:
    said = f"{results['device']['name']}, torch {results['software']['torch']}, triton {results['software']['triton']}"
    return f"made-up numbers · {said}" if results["method"] == "fixture" else said


def _ceiling(measured: Mapping[str, Measured]) -> float:
    return max(each.ceiling for each in measured.values())


def _axes(title: str, caption: str, x: str, y: str) -> tuple[Any, Any]:
    from matplotlib import figure as figures

    made: Any = figures
    figure = made.Figure(figsize=(9.5, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_title(f"{title}\n", loc="left", fontsize=12, fontweight="bold")
    axes.text(0, 1.015, caption, transform=axes.transAxes, fontsize=9, color=OTHER)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, which="major", color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _legend(figure: Any) -> None:
    """Beside the axes: a grid of several hundred rows leaves no free corner."""
    figure.legend(frameon=False, fontsize=9, loc="outside right upper")


def _crowded(measured: Mapping[str, Measured]) -> bool:
    return len(measured) > CROWD


def _plain_numbers(axis: Any) -> None:
    """1, 10, 1,000 rather than powers of ten."""
    from matplotlib import ticker

    made: Any = ticker
    axis.set_major_formatter(made.FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axis.set_minor_formatter(made.NullFormatter())


def _ours(axes: Any, measured: Mapping[str, Measured], x: Any, y: Any) -> None:
    for dtype, marker in MARKERS.items():
        rows = [each for each in measured.values() if DTYPE_NAMES[each.row.dtype] == dtype]
        if rows:
            axes.scatter([x(e) for e in rows], [y(e) for e in rows], s=16 if _crowded(measured) else 34, marker=marker,
                         color=OURS, edgecolors="white", linewidths=0.6, zorder=3, label=f"hfmem, {dtype}")  # fmt: skip


def _peers(axes: Any, measured: Mapping[str, Measured], x: Any, y: Any) -> None:
    """The best Triton peer and the best other peer of each row."""
    for label, color, marker, triton in (
        ("best Triton peer", TRITON, "x", True),
        ("best other peer", OTHER, "+", False),
    ):
        found = []
        for each in measured.values():
            times = [time for name, time in each.peers.items() if (name in TRITON_PEERS) == triton]
            found += [(each, min(times))] if times else []
        if found:
            axes.scatter([x(each) for each, _ in found], [y(each, time) for each, time in found],
                         s=14 if _crowded(measured) else 40, marker=marker, color=color, zorder=2, label=label,
                         linewidths=0.8 if _crowded(measured) else 1.2)  # fmt: skip


def _latency(measured: Mapping[str, Measured], caption: str) -> Any:
    """Microseconds over megabytes, with bytes / R and the line through our plain rows."""
    figure, axes = _axes("Time of one decode step's attention, one layer", caption, "cache read, MB", "µs")

    def megabytes(each: Measured) -> float:
        return each.row.traffic.kv_bytes / 1e6

    sizes = sorted(megabytes(each) for each in measured.values())
    span = [sizes[0] / 1.5 * (sizes[-1] / sizes[0] * 2.25) ** (step / 60) for step in range(61)]
    ceiling = _ceiling(measured)
    axes.plot(
        span,
        [size * 1e6 / ceiling * 1e6 for size in span],
        color=LINE,
        linewidth=1,
        label=f"bytes / R, {ceiling / 1e12:.2f} TB/s",
    )
    plain = [
        (each.row.traffic.kv_bytes, each.microseconds)
        for each in measured.values()
        if each.row.dtype == "bfloat16" and each.row.page_size == 16 and each.row.q_len == 1
    ]
    line = fit_line(plain)
    if line is not None:
        times = [line.launch_us + size * 1e12 / line.bytes_per_second for size in span]
        axes.plot(span, times, color=OURS, linewidth=1, linestyle="--",
                  label=f"{line.launch_us:.1f} µs + bytes / {line.bytes_per_second / 1e12:.2f} TB/s")  # fmt: skip
    _peers(axes, measured, megabytes, lambda each, time: time)
    _ours(axes, measured, megabytes, lambda each: each.microseconds)
    fastest = min(min([each.microseconds, *each.peers.values()]) for each in measured.values())
    axes.set_ylim(bottom=fastest / 2)
    _plain_numbers(axes.xaxis)
    _plain_numbers(axes.yaxis)
    _legend(figure)
    return figure


def _roofline(measured: Mapping[str, Measured], caption: str, peak: float | None) -> Any:
    """TFLOP/s over FLOP a byte, under the slope R and, where it is known, the data sheet's `peak`."""
    figure, axes = _axes("Decode attention under the read ceiling", caption, "operations for each byte read", "TFLOP/s")

    def intensity(each: Measured) -> float:
        return each.row.traffic.intensity

    def rate(each: Measured, microseconds: float | None = None) -> float:
        return each.row.traffic.flops / (microseconds or each.microseconds) / 1e6

    ceiling = _ceiling(measured)
    values = sorted(intensity(each) for each in measured.values())
    span = [values[0] / 1.5, values[-1] * 1.5]
    axes.plot(
        span,
        [ceiling * value / 1e12 for value in span],
        color=LINE,
        linewidth=1,
        label=f"R = {ceiling / 1e12:.2f} TB/s, measured",
    )
    axes.plot(
        span,
        [0.9 * ceiling * value / 1e12 for value in span],
        color=LINE,
        linewidth=0.7,
        linestyle=":",
        label="90 % of it",
    )
    if peak:
        text = f"{peak / 1e12:,.0f} TFLOP/s in bf16, data sheet"
        axes.axhline(peak / 1e12, color=LINE, linewidth=1, linestyle="--", label=text)
    _peers(axes, measured, intensity, rate)
    _ours(axes, measured, intensity, rate)
    _plain_numbers(axes.xaxis)
    _plain_numbers(axes.yaxis)
    _legend(figure)
    return figure
