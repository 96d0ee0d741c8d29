"""Files by use as a table. Sizes are of downloads, so in GB (10^9)."""

from __future__ import annotations

from hfmem.api.download import FilesReport
from hfmem.checkpoint.file_groups import Fetch, FileGroup
from hfmem.render.lines import Line, line
from hfmem.units import format_gb


def render_files(report: FilesReport, *, names: bool = False) -> list[Line]:
    """Lines for one place; `names` lists every file of each group."""
    lines = [line((report.id, "bold"), f" · {_count(report.num_files)} · {_size(report.bytes)}"), line("")]
    width = max((len(group.name) for group in report.groups), default=0)
    for group in report.groups:
        lines.append(_group(group, width))
        if names:
            lines += [line((f"      {path}", "dim"), hang=None) for path in group.files]
    if report.redundant_bytes:
        lines.append(line(("  redundant", "yellow"), f": {_size(report.redundant_bytes)} of {_size(report.bytes)}"))
    lines.append(line(""))
    lines += [_fetch(name, fetch) for name, fetch in report.fetches.items()]
    if report.repository_bytes != report.bytes:
        lines.append(line((f"  the whole repository: {_size(report.repository_bytes)}", "dim")))
    return lines


def _group(group: FileGroup, width: int) -> Line:
    text = f"  {group.name:<{width}}  {_size(group.bytes):>9}  {_count(len(group.files)):>9}  "
    note = ("redundant: " + group.redundant, "yellow") if group.redundant else (_sample(group.files), "dim")
    return line(text, note, hang=len(text))


def _fetch(name: str, fetch: Fetch) -> Line:
    start = f"  {name:<13} fetches "
    if not fetch.weights:
        return line(start + "nothing", (f": {fetch.note}", "dim"), hang=len(start))
    beside = f" and {_count(len(fetch.others))} of config and tokenizer" if fetch.others else ""
    return line(start, (_size(fetch.bytes), "bold"), f": {_sample(fetch.weights)}{beside}", hang=len(start))


def _sample(names: tuple[str, ...]) -> str:
    return ", ".join(names[:2]) + (f", … ({len(names)} files)" if len(names) > 2 else "")


def _count(number: int) -> str:
    return f"{number:,} file{'' if number == 1 else 's'}"


def _size(size: int | None) -> str:
    return "?" if size is None else format_gb(size)
