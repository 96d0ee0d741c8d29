"""`hfmem MODEL…`: the estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from hfmem.cli import options as o
from hfmem.cli.output import complain, fetching, formatted, has_room_for_bars, json_text, say_stats, show, warn, write
from hfmem.cli.plain import COMMANDS
from hfmem.cli.settings import DEVICES, FETCHING, READING, SERVING, engine_of, takes
from hfmem.errors import HfmemError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from hfmem.hub.gguf import SeveralModelsError
    from hfmem.hub.pipeline import PipelineError
    from hfmem.report import Report

#: the contract's exit code for a model that does not fit the devices named
DOES_NOT_FIT: Final = 1


@takes(SERVING, DEVICES, READING)
def estimate(
    models: o.Models,
    emit: o.Emit = None,
    json: o.Json = False,
    format: o.Format = None,
    exact: o.Exact = False,
    *,
    settings: dict[str, Any],
    reading: dict[str, Any],
) -> int:
    """Weights, KV cache and total memory of one or more models."""
    kind = formatted(format, json)
    if emit is not None and kind != "table":
        raise UsageError(f"--emit prints a command and --{'json' if kind == 'json' else 'format'} a report: choose one")
    settings["engine"] = settings["engine"] or engine_of(emit)
    from hfmem.api.configuring import configure

    results: list[Any] = []
    reports: list[Report] = []
    status = 0
    fetching_as = {name: reading.pop(name) for name in FETCHING}
    verbose = reading.pop("verbose")
    for model in models:
        try:
            with fetching(**fetching_as) as fetch:
                found = configure(model, **settings, **reading, fetch=fetch)
                if emit is not None:
                    from hfmem.api.launching import as_launched

                    found = as_launched(found)
                report = found.report()
        except HfmemError as error:
            status = max(status, _failed(model, error, settings, results, kind))
            continue
        if _does_not_fit(report):
            status = max(status, DOES_NOT_FIT)
        if verbose:
            say_stats(model, found.read.facts.stats)
        if emit is not None:
            from hfmem.api.launching import launch_text

            try:
                write(launch_text(emit, found, report, model, reading["revision"]))
                warn(report)
            except UnsupportedError as error:
                complain(error)
            continue
        reports.append(report)
        results.append(report)
        if kind == "table":
            _show(report, len(reports) > 1, exact)
    if kind == "table":
        if reports:
            from hfmem.render.table import legend

            show(legend())
    else:
        _write(kind, results, many=len(models) > 1)
    return status


def _does_not_fit(report: Report) -> bool:
    """Whether the devices, or the memory given for the cache, are too small."""
    from hfmem.api.assembly import POOL_TOO_SMALL

    if report.fit is not None:
        return report.fit.verdict == "does-not-fit"
    return any(warning.code == POOL_TOO_SMALL for warning in report.warnings)


def _failed(model: str, error: HfmemError, settings: dict[str, Any], results: list[Any], kind: str) -> int:
    """What a model that could not be estimated leaves: choices, parts, or an error; and its exit status."""
    json = kind == "json"
    if error.code == "several_models":
        from hfmem.cli.gguf import list_choices

        told, fits = list_choices(cast("SeveralModelsError", error), settings, json=json)
        results.append(told)
        return 0 if fits else DOES_NOT_FIT
    if error.code == "pipeline":
        from hfmem.cli.pipeline import pipeline_rows

        results.append(pipeline_rows(cast("PipelineError", error), json=json))
        return 0
    if isinstance(error, UsageError):
        raise error  # the flags are the same for every model
    from hfmem.render.json import error_dict

    complain(error.message + _command_meant(model))
    results.append(error_dict(model, error))
    return error.exit_code


def _command_meant(word: str) -> str:
    """A hint for a first word that was to be a command, `hfmem fitt MODEL`, and was read as a model's name."""
    from difflib import get_close_matches

    near = get_close_matches(word.lower(), COMMANDS, 1, 0.6)
    return f" (the command {near[0]}?)" if near else ""


def _show(report: Report, again: bool, exact: bool) -> None:
    from hfmem.render.lines import line
    from hfmem.render.table import render_report

    if again:
        show([line("")])
    show(render_report(report, bars=has_room_for_bars(), exact=exact))


def _write(kind: str, results: list[Any], *, many: bool) -> None:
    """Everything at once, in a format that is not for a terminal. Models that failed are in JSON alone."""
    from hfmem.report import Report

    if kind == "json":
        from hfmem.render.json import report_dict

        rows = [report_dict(found) if isinstance(found, Report) else found for found in results]
        write(json_text(rows if many else rows[0]))
        return
    from hfmem.render.pages import reports_text

    write(reports_text(kind, [found for found in results if isinstance(found, Report)]))
