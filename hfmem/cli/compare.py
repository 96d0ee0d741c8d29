"""`hfmem compare MODEL…`: models, formats, lengths or engines side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

from hfmem.cli import options as o
from hfmem.cli.output import complain, formatted, give, json_text, write
from hfmem.cli.reading import read_for
from hfmem.errors import HfmemError, UsageError

if TYPE_CHECKING:
    from hfmem.report import Report


def compare(
    models: o.Models,
    quant: Annotated[
        str | None,
        o.Option(
            "--quant", metavar="FORMATS", help="Formats to compare, e.g. bf16,fp8,int4,q4_k_m [default: as published]."
        ),
    ] = None,
    ctx: o.Lengths = None,
    batch: o.Batch = "1",
    kv_dtype: o.KvDtype = "auto",
    engine: o.Engines = None,
    revision: o.Revision = None,
    json: o.Json = False,
    format: o.Format = None,
    assume: o.Assume = None,
    no_cache: o.NoCache = False,
    refresh: o.Refresh = False,
    offline: o.Offline = False,
    verbose: o.Verbose = False,
) -> int:
    """Models, weight formats, lengths and engines side by side."""
    from hfmem.units import parse_count

    kind = formatted(format, json)
    contexts = [None] if ctx is None else [parse_count(word, "--ctx") for word in _lengths(ctx)]
    num_seqs = parse_count(batch, "--batch")
    formats: list[str | None] = [None]
    if quant is not None:
        formats = [word.strip() for word in quant.split(",") if word.strip()]
        if not formats:
            raise UsageError("--quant names no format (example: bf16,fp8,int4)")
    engines = [None] if engine is None else [word.strip() for word in engine.split(",") if word.strip()]
    if not engines:
        raise UsageError("--engine names no engine (example: vllm,sglang)")
    from hfmem.api.estimates import estimate
    from hfmem.render.json import error_dict, report_dict

    asked = list(product(formats, contexts, engines))
    rows: list[tuple[str, Report]] = []
    told: list[dict[str, Any]] = []
    status = 0

    def failed(error: HfmemError, model: str, words: Sequence[str]) -> int:
        """What one row leaves that cannot be given, where there are others."""
        if isinstance(error, UsageError) or len(models) * len(asked) == 1:
            raise error
        where = " ".join(words)
        complain(error if where in error.message else f"{where}: {error.message}")
        told.append({"label": " ".join(words), **error_dict(model, error)})
        return error.exit_code

    for model in models:
        try:
            read = read_for(model, revision, assume, no_cache, refresh, offline, verbose)
        except HfmemError as error:
            status = max(status, failed(error, model, [model]))
            continue
        for name, context, rules in asked:
            words = [model] if len(models) > 1 or name is None else []
            label = " ".join([*words, *([name] if name else [])])
            try:
                report = estimate(read, context=context, num_seqs=num_seqs, kv_dtype=kv_dtype, engine=rules, quant=name)
            except HfmemError as error:
                status = max(status, failed(error, model, [label, *([rules] if rules else [])]))
                continue
            rows.append((label, report))
            told.append({"label": label, **report_dict(report)})
    if kind == "json":
        write(json_text(told))
    elif rows:
        from hfmem.render.compare import compare_grid

        give(kind, compare_grid(rows), [row for row in told if "error" not in row], ", ".join(models))
    return status


def _lengths(text: str) -> list[str]:
    """`8k,32k` is two lengths, `131,072` one: groups of three digits are one number, as everywhere.

    Raises:
        UsageError: no length.
    """
    if re.fullmatch(r"\d{1,3}(,\d{3})+[km]?", text.strip(), re.IGNORECASE | re.ASCII):
        return [text]
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise UsageError("--ctx names no length (example: 8k,32k,128k)")
    return words
