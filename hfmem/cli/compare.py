"""`hfmem compare MODEL…`: models, formats, lengths or engines side by side."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, Final

from hfmem.cli import options as o
from hfmem.cli.estimate import DOES_NOT_FIT
from hfmem.cli.output import complain, formatted, give, json_text, write
from hfmem.cli.reading import draft_for, read_for
from hfmem.cli.settings import DEVICES, READING, SERVING, takes
from hfmem.errors import HfmemError, UsageError

if TYPE_CHECKING:
    from hfmem.render.compare import Row

#: of the options that a report takes, those that are one for all rows
_SHARED: Final = {
    name: option for name, option in (SERVING | DEVICES).items() if name not in ("ctx", "quant", "engine")
}
_READING: Final = {name: option for name, option in READING.items() if name not in ("strict", "no_headers")}


@takes(_SHARED, _READING)
def compare(
    models: o.Models,
    quant: Annotated[
        str | None,
        o.Option(
            "--quant", metavar="FORMATS", help="Formats to compare, e.g. bf16,fp8,int4,q4_k_m [default: as published]."
        ),
    ] = None,
    ctx: o.Lengths = None,
    engine: o.Engines = None,
    require: Annotated[
        str | None,
        o.Option(
            "--require", metavar="ROWS", help="Exit 1 unless any or all of the rows fit --gpu [default: neither]."
        ),
    ] = None,
    json: o.Json = False,
    format: o.Format = None,
    *,
    settings: dict[str, Any],
    reading: dict[str, Any],
) -> int:
    """Models, weight formats, lengths and engines side by side; with --gpu, which of them fit.

    A name with a * stands for all models of the shipped catalogue that are called so: 'Qwen/*', or '*' (in quotes).

    Rows that do not fit leave the status 0, as they are what was asked for; --require any (or all) makes it 1 where none (not
    every one) fits.
    """
    kind = formatted(format, json)
    if require is not None:
        _check_required(require, settings)
    asked = _asked(quant, ctx, engine)
    fetching_as = {name: reading[name] for name in ("no_cache", "refresh", "offline", "verbose")}
    settings["draft"] = draft_for(settings["draft"], **fetching_as)  # read once for all rows
    shipped = {word: _shipped(word) for word in models if "*" in word}
    named = [name for word in models for name in shipped.get(word, [word])]
    rows, told, status = _rows(named, asked, settings, reading, {name for names in shipped.values() for name in names})
    if kind == "json":
        write(json_text(told))
    elif any("error" not in row for row in told):
        from hfmem.render.compare import compare_grid

        grid = compare_grid(rows, reasons=kind != "table")
        give(kind, grid, [row for row in told if "error" not in row], ", ".join(models))
    if require is not None:
        verdicts = [row["fit"]["verdict"] != "does-not-fit" for row in told if "error" not in row]
        if not (any if require == "any" else all)(verdicts):
            status = max(status, DOES_NOT_FIT)
    return status


#: what one row is asked for: a weight format, a length and an engine, each None for the model's or the default
_Asked = tuple[str | None, int | None, str | None]


def _asked(quant: str | None, ctx: str | None, engine: str | None) -> list[_Asked]:
    """The rows that each model gets, in order.

    Raises:
        UsageError: a list of nothing, or a length that is no number.
    """
    from hfmem.units import parse_count

    contexts = [None] if ctx is None else [parse_count(word, "--ctx") for word in _lengths(ctx)]
    formats = [None] if quant is None else _words(quant, "--quant names no format (example: bf16,fp8,int4)")
    engines = [None] if engine is None else _words(engine, "--engine names no engine (example: vllm,sglang)")
    return list(product(formats, contexts, engines))


def _words(text: str, missing: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise UsageError(missing)
    return words


def _check_required(require: str, settings: dict[str, Any]) -> None:
    if require not in ("any", "all"):
        raise UsageError(f"--require {require!r} is not one of any, all")
    if settings["device"] is None:
        raise UsageError("--require needs --gpu")


def _rows(
    models: Sequence[str],
    asked: Sequence[_Asked],
    settings: dict[str, Any],
    reading: dict[str, Any],
    shipped: Container[str],
) -> tuple[list[Row], list[dict[str, Any]], int]:
    """Rows to print, the same as JSON, and the worst status of those that cannot be told, each of which says why on stderr. Nobody
    is asked about `shipped` models.

    Raises:
        HfmemError: of the only row, or for usage.
    """
    from hfmem.api.estimates import estimate
    from hfmem.hub import FetchOptions
    from hfmem.render.json import error_dict, report_dict

    fetch = FetchOptions(**{name: reading[name] for name in ("no_cache", "refresh", "offline")})
    rows: list[Row] = []
    told: list[dict[str, Any]] = []
    status = 0

    def failed(error: HfmemError, model: str, words: Sequence[str]) -> int:
        """What one row leaves that cannot be given, where there are others."""
        if isinstance(error, UsageError) or len(models) * len(asked) == 1:
            raise error
        where = " ".join(words)
        complain(error if where in error.message else f"{where}: {error.message}")
        rows.append((where, error))
        told.append({"label": where, **error_dict(model, error)})
        return error.exit_code

    for model in models:
        try:
            read = read_for(model, **{**reading, "offline": reading["offline"] or model in shipped})
        except HfmemError as error:
            status = max(status, failed(error, model, [model]))
            continue
        for name, context, rules in asked:
            words = [model] if len(models) > 1 or name is None else []
            label = " ".join([*words, *([name] if name else [])])
            try:
                report = estimate(read, **{**settings, "context": context, "engine": rules, "quant": name}, fetch=fetch)
            except HfmemError as error:
                status = max(status, failed(error, model, [label, *([rules] if rules else [])]))
                continue
            rows.append((label, report))
            told.append({"label": label, **report_dict(report)})
    return rows, told, status


def _shipped(pattern: str) -> Sequence[str]:
    """The shipped catalogue's models that `pattern` describes.

    Raises:
        UsageError: none.
    """
    from hfmem.hub.catalog import names_like

    found = names_like(pattern)
    if not found:
        raise UsageError(f"no model of the shipped catalogue is called {pattern!r} (example: 'Qwen/Qwen3-*')")
    return found


def _lengths(text: str) -> list[str]:
    """`8k,32k` is two lengths, `131,072` one: groups of three digits are one number, as everywhere.

    Raises:
        UsageError: no length.
    """
    if re.fullmatch(r"\d{1,3}(,\d{3})+[km]?", text.strip(), re.IGNORECASE | re.ASCII):
        return [text]
    return _words(text, "--ctx names no length (example: 8k,32k,128k)")
