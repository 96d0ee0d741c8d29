"""A diffusers pipeline as a table: one line a component."""

from __future__ import annotations

from hfmem.hub.pipeline import Pipeline
from hfmem.render.lines import Line, line
from hfmem.units import GIB, format_count


def render_pipeline(pipeline: Pipeline) -> list[Line]:
    """Lines for the components; a pipeline keeps nothing between tokens."""
    held = [part for part in pipeline.components if part.bytes is not None]
    count = sum(part.parameters or 0 for part in held)
    lines = [
        line((pipeline.id, "bold"), f" · diffusers pipeline {pipeline.kind} · {format_count(count)} parameters"),
        line(""),
    ]
    width = max((len(part.name) for part in pipeline.components), default=0)
    for part in pipeline.components:
        size = "–" if part.bytes is None else f"{part.bytes / GIB:,.2f} GiB"
        dtypes = ", ".join(code.lower() for code in part.by_dtype)
        detail = ", ".join(filter(None, (part.kind, format_count(part.parameters) if part.parameters else "", dtypes)))
        text = f"  {part.name:<{width}}  {size:>12}  "
        lines.append(
            line(text, ("=" if part.evidence == "headers" else " ", "green"), "  ", (detail, "dim"), hang=len(text))
        )
    total = sum(part.bytes or 0 for part in held)
    lines.append(line(("  " + "─" * (width + 14), "dim"), hang=None))
    lines.append(line("  ", (f"{'total':<{width}}", "bold"), f"  {total / GIB:,.2f} GiB".rjust(14), "     no KV cache"))
    return lines
