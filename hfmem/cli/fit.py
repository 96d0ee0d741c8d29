"""`hfmem fit MODEL --gpu …`: the verdict, and what would make it fit."""

from __future__ import annotations

from typing import Annotated, Any

from hfmem.cli import options as o
from hfmem.cli.estimate import DOES_NOT_FIT
from hfmem.cli.output import fetching, formatted, give, has_room_for_bars, json_text, say_stats, show, warn, write
from hfmem.cli.settings import DEVICES, FETCHING, READING, SERVING, engine_of, takes
from hfmem.errors import UsageError
from hfmem.records import replace


@takes(SERVING, DEVICES, READING, gpu=(o.FitGpu, None))
def fit(
    model: o.Model,
    lengths: Annotated[
        str | None,
        o.Option(
            "--lengths", metavar="MIX", help="Lengths and weights, 1k:6,4k:3,32k:1: how many fit, and what lies idle."
        ),
    ] = None,
    allocator: Annotated[
        str | None,
        o.Option("--allocator", metavar="KIND", help="With --lengths: contiguous or paged [default: both]."),
    ] = None,
    emit: o.Emit = None,
    json: o.Json = False,
    format: o.Format = None,
    *,
    settings: dict[str, Any],
    reading: dict[str, Any],
) -> int:
    """Does it fit, and what would make it fit. --ctx max, --batch max, --num-gpus min, --utilization min (llama.cpp:
    --ngl max, --n-cpu-moe min) solve for one.

    --emit prints the launch command or manifest with these settings instead.
    """
    kind = formatted(format, json)
    if settings["device"] is None:
        raise UsageError(
            "fit needs a device: --gpu h100, 8xh100, 4090, 80GiB, local (hfmem devices lists); hfmem plan tries all of them"
        )
    if emit is not None and kind != "table":
        raise UsageError(f"--emit prints a command and --{'json' if kind == 'json' else 'format'} a report: choose one")
    settings["engine"] = settings["engine"] or engine_of(emit)
    from hfmem.api.answers import answer
    from hfmem.api.configuring import configure

    fetching_as = {name: reading.pop(name) for name in FETCHING}
    verbose = reading.pop("verbose")
    with fetching(**fetching_as) as fetch:
        found = configure(model, **settings, **reading, fetch=fetch)
    if verbose:
        say_stats(model, found.read.facts.stats)
    if emit is not None:
        from hfmem.api.launching import as_launched

        found = as_launched(found)
    told = answer(found)
    fits = told.report.fit is not None and told.report.fit.verdict != "does-not-fit"
    if emit is not None and fits:
        from hfmem.api.launching import launch_text

        write(launch_text(emit, found, told.report, model, reading["revision"]))
        warn(told.report)
        return 0
    from hfmem.api.mixing import mixed
    from hfmem.api.planning import speed

    best = speed(found)
    mix = mixed(found, lengths, allocator)
    from hfmem.render.fit import allocation_lines, render_remedies
    from hfmem.render.json import report_dict, to_dict
    from hfmem.render.plan import speed_lines

    lines = [*(speed_lines(best) if fits and best is not None else ()), *allocation_lines(mix)]
    if not fits:
        lines = [*render_remedies(told.remedies), *lines]
    extra = {"remedies": to_dict(told.remedies), "speed_of_light": to_dict(best), "allocation": to_dict(mix)}
    if kind == "json":
        write(json_text({**report_dict(told.report), **extra}))
    elif kind == "table":
        from hfmem.render.table import legend, render_report

        show([*render_report(told.report, bars=has_room_for_bars()), *lines, *legend()])
    else:
        from hfmem.render.table import report_grid

        grid = report_grid(told.report)
        grid = replace(grid, notes=(*grid.notes, *(item.text.strip() for item in lines)))
        give(kind, grid, [{**report_dict(told.report), **extra}])
    return 0 if fits else DOES_NOT_FIT
