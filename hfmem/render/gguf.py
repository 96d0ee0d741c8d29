"""A repository of many GGUF files as a table: one line a quantization."""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.api.gguf_choice import Choice
from hfmem.render.lines import Line, line
from hfmem.units import GIB, format_bytes, format_count


def render_choices(place: str, choices: Sequence[Choice], *, beside: Sequence[str] = ()) -> list[Line]:
    """Lines for the models of one place, smallest first, and the files beside them."""
    known = next((choice for choice in choices if choice.parameters), None)
    head: list[str] = [place, f"{len(choices)} GGUF models"]
    if known is not None:
        head += [str(known.model_type), f"{format_count(known.parameters or 0)} parameters"]
    lines = [line((head[0], "bold"), " · " + " · ".join(head[1:])), line("")]
    width = max(len(choice.reference) for choice in choices)
    lines.append(
        line((f"  {'give':<{width}}  {'size':>12}  bits/weight" + (f"  {'with cache':>12}" if known else ""), "dim"))
    )
    for choice in choices:
        size = "?" if choice.size_bytes is None else f"{choice.size_bytes / GIB:,.2f} GiB"
        bits = "" if choice.bits_per_weight is None else f"{choice.bits_per_weight:.2f}"
        total = "" if choice.total_bytes is None else f"{choice.total_bytes / GIB:,.2f} GiB"
        parts = f"  {choice.num_files} files" if choice.num_files > 1 else ""
        verdict = {None: "", True: "  fits", False: "  does not fit"}[choice.fits]
        lines.append(
            line(
                "  ",
                (f"{choice.reference:<{width}}", "bold"),
                f"  {size:>12}  {bits:>11}  {total:>12}",
                (verdict, "green" if choice.fits else "red"),
                parts,
                hang=None,
            )
        )
    if known is not None and known.kv_cache_bytes is not None:
        tokens = f"{known.context:,} tokens × {known.num_seqs}" if known.num_seqs != 1 else f"{known.context:,} tokens"
        lines.append(line((f"  with {format_bytes(known.kv_cache_bytes)} of KV cache: {tokens}, llama.cpp", "dim")))
    lines += [line((f"  beside: {name}", "dim")) for name in beside]
    return lines
