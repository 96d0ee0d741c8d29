"""`hfmem plan MODEL`: the smallest layouts over the catalogue of devices that serve it."""

from __future__ import annotations

from typing import Annotated, Any

from hfmem.cli import options as o
from hfmem.cli.estimate import DOES_NOT_FIT
from hfmem.cli.output import complain, fetching, formatted, give, json_text, say, say_stats, warn, write
from hfmem.cli.settings import FETCHING, READING, SERVING, engine_of, takes
from hfmem.errors import UsageError


@takes(SERVING, READING, batch=(o.Users, None), ctx=(o.Length, None))
def plan(
    model: o.Model,
    gpu: o.PlanGpu = None,
    max_gpus: Annotated[str, o.Option("--max-gpus", metavar="N", help="The most devices of a layout.")] = "8",
    every: Annotated[bool, o.Option("--all", help="Print every layout, not the first 15.")] = False,
    emit: o.Emit = None,
    json: o.Json = False,
    format: o.Format = None,
    *,
    settings: dict[str, Any],
    reading: dict[str, Any],
) -> int:
    """The fewest of each device that serve the load, smallest first; where those are pipeline stages, also the fewest that
    share every layer. --emit prints the first one's launch command."""
    from hfmem.units import parse_count

    kind = formatted(format, json)
    if emit is not None and kind != "table":
        raise UsageError(f"--emit prints a command and --{'json' if kind == 'json' else 'format'} a table: choose one")
    settings["engine"] = settings["engine"] or engine_of(emit)
    users, most = settings.pop("num_seqs"), parse_count(max_gpus, "--max-gpus")
    if {"max", "min"} & {users, settings["context"], settings["gpu_layers"], settings["cpu_moe_layers"]}:
        raise UsageError("max and min need devices: hfmem fit MODEL --gpu NAME")
    for name in ("device", "num_devices"):
        settings.pop(name)
    from hfmem.api.planning import plan as search
    from hfmem.api.reading import read_model

    fetching_as = {name: reading.pop(name) for name in FETCHING}
    verbose = reading.pop("verbose")
    with fetching(**fetching_as) as fetch:
        read = read_model(model, **reading, fetch=fetch)
        if verbose:
            say_stats(model, read.facts.stats)
        found = search(read, users=users, devices=gpu, max_devices=most, **settings, fetch=fetch)
    if kind == "json":
        from hfmem.render.json import report_dict, to_dict

        write(json_text({**report_dict(found.report), "layouts": to_dict(found.layouts)}))
    elif emit is not None and found.layouts:
        from hfmem.api.launching import as_launched, launch_text

        first = as_launched(found.first)
        report = first.report()
        write(launch_text(emit, first, report, model, reading["revision"]))
        warn(report)
        least = found.layouts[0]
        say(f"for {least.num_devices} × {least.device}, the first of {len(found.layouts)} ({least.verdict})")
    elif found.layouts:
        from hfmem.render.plan import plan_grid

        grid = plan_grid(found.report, found.layouts, None if every or kind != "table" else 15)
        give(kind, grid, found.layouts)
    if not found.layouts:
        complain(f"{read.facts.repo_id} fits no layout of up to {most} devices: --max-gpus, --quant or a shorter --ctx")
        return DOES_NOT_FIT
    return 0
