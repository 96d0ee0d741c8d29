"""`hfmem compare MODEL…`: models or formats side by side."""

from __future__ import annotations

from typing import Annotated, Any

from hfmem.cli import options as o
from hfmem.cli.output import fetching, formatted, give, json_text, say_stats, write
from hfmem.errors import UsageError


def compare(
    models: o.Models,
    quant: Annotated[
        str | None,
        o.Option(
            "--quant", metavar="FORMATS", help="Formats to compare, e.g. bf16,fp8,int4,q4_k_m [default: as published]."
        ),
    ] = None,
    ctx: o.Ctx = None,
    batch: o.Batch = "1",
    kv_dtype: o.KvDtype = "auto",
    engine: o.Engine = None,
    revision: o.Revision = None,
    json: o.Json = False,
    format: o.Format = None,
    assume: o.Assume = None,
    no_cache: o.NoCache = False,
    refresh: o.Refresh = False,
    offline: o.Offline = False,
    verbose: o.Verbose = False,
) -> None:
    """Models and weight formats side by side."""
    from hfmem.units import parse_count

    kind = formatted(format, json)
    context = None if ctx is None else parse_count(ctx, "--ctx")
    num_seqs = parse_count(batch, "--batch")
    formats: list[str | None] = [None]
    if quant is not None:
        formats = [word.strip() for word in quant.split(",") if word.strip()]
        if not formats:
            raise UsageError("--quant names no format (example: bf16,fp8,int4)")
    from hfmem.api.estimates import estimate, read_model
    from hfmem.render.json import report_dict

    rows: list[tuple[str, Any]] = []
    for model in models:
        with fetching(no_cache, refresh, offline) as fetch:
            read = read_model(model, revision=revision, assume=assume, fetch=fetch)
        if verbose:
            say_stats(model, read.facts.stats)
        for name in formats:
            report = estimate(read, context=context, num_seqs=num_seqs, kv_dtype=kv_dtype, engine=engine, quant=name)
            words = [model] if len(models) > 1 or name is None else []
            rows.append((" ".join([*words, *([name] if name else [])]), report))
    told = [{"label": label, **report_dict(report)} for label, report in rows]
    if kind == "json":
        write(json_text(told))
        return
    from hfmem.render.compare import compare_grid

    give(kind, compare_grid(rows), told, ", ".join(models))
