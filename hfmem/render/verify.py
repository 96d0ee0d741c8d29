"""A log beside its prediction, line by line, and the command that calibrates the next estimate."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from hfmem.render.lines import Line, line
from hfmem.server_logs.checks import Check, Verification
from hfmem.units import format_bytes

_MARKS = {"equal": "=", "near": "≈", "within": "~", "differs": "≠", "unknown": "?"}
_STYLES = {"equal": "green", "near": "green", "within": "", "differs": "bold red", "unknown": "yellow"}
_HEAD = ("line", "", "logged", "predicted", "difference")


def render_verification(found: Verification, notes: Sequence[str] = ()) -> list[Line]:
    """The heading, one row a check with its reason below it, what was assumed, and the flags."""
    version = f" {found.version}" if found.version else ""
    layout = "".join(f", {name} {size}" for name, size in (("TP", found.tp), ("PP", found.pp)) if size > 1)
    lines = [
        line((found.model, "bold"), (f" · {found.engine}{version}", ""), (f" · {found.context:,} tokens{layout}", "")),
        *(line((note, "dim"), hang=0) for note in notes),
        line(("", "")),
    ]
    if not found.checks:
        lines.append(
            line(("  no line of this log can be checked: it prints neither weights nor the cache's memory", ""))
        )
    rows = [_HEAD, *(_row(item) for item in found.checks)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for number, row in enumerate(rows if found.checks else []):
        item = found.checks[number - 1] if number else None
        cells = [
            f"{row[0]:>{widths[0]}}",
            f"{row[1]:<{widths[1]}}",
            *(f"{cell:>{width}}" for cell, width in zip(row[2:], widths[2:], strict=True)),
        ]
        mark = _MARKS[item.verdict] if item else " "
        style = _STYLES[item.verdict] if item else "dim"
        lines.append(line(("  ".join(cells), "dim" if item is None else ""), (f"  {mark}", style), hang=None))
        if item is not None and (why := _why(item)):
            lines.append(line((" " * (widths[0] + 2) + why, "dim"), hang=widths[0] + 4))
    lines += [line((f"! {text}", "yellow"), hang=2) for text in found.assumptions]
    lines.append(line(("  = to the last digit   ≈ within 1 %   ~ within the estimate's band   ≠ differs", "dim")))
    command = " ".join([f"hfmem {shlex.quote(found.model)}", *(f"{k} {v}".strip() for k, v in found.flags.items())])
    return [*lines, line(("  next time: ", "dim"), (command, "bold"), hang=4)]


def _row(item: Check) -> tuple[str, ...]:
    gap = "" if item.difference is None else f"{item.difference:+.2%}"
    shown = str(item.line) if item.line else "-"
    return (shown, item.what, _value(item, item.logged), _value(item, item.predicted), gap)


def _value(item: Check, value: float | None) -> str:
    if value is None:
        return "-"
    if item.measure == "bytes":
        return format_bytes(round(value)) if value >= 0 else f"-{format_bytes(round(-value))}"
    return f"{value:,.2f}".removesuffix(".00")


def _why(item: Check) -> str:
    if item.reason:
        return item.reason
    if item.low is not None and item.high is not None:
        return f"estimated between {_value(item, item.low)} and {_value(item, item.high)}"
    return "no assumption tried here explains it" if item.verdict == "differs" else ""
