"""`hfmem plan MODEL`: the smallest layouts over the catalogue of devices that serve it."""

from __future__ import annotations

from typing import Annotated, Any

from hfmem.cli import options as o
from hfmem.cli.estimate import DOES_NOT_FIT
from hfmem.cli.output import complain, fetching, json_text, say_stats, show, write


def plan(
    model: o.Model,
    users: Annotated[
        str, o.Option("--users", "--batch", "--max-num-seqs", metavar="N", help="Sequences at once.")
    ] = "1",
    ctx: o.Ctx = None,
    gpu: Annotated[
        str | None,
        o.Option(
            "--gpu",
            metavar="NAMES",
            help="Only these: h100,4090 or words: nvidia, sm_90 [default: all the engine runs on].",
        ),
    ] = None,
    max_gpus: Annotated[str, o.Option("--max-gpus", metavar="N", help="The most devices of a layout.")] = "8",
    kv_dtype: o.KvDtype = "auto",
    engine: o.Engine = None,
    quant: o.Quant = None,
    dtype: o.Dtype = None,
    overhead: o.Overhead = None,
    every: Annotated[bool, o.Option("--all", help="Print every layout, not the first 15.")] = False,
    emit: o.Emit = None,
    revision: o.Revision = None,
    json: o.Json = False,
    assume: o.Assume = None,
    no_cache: o.NoCache = False,
    refresh: o.Refresh = False,
    offline: o.Offline = False,
    verbose: o.Verbose = False,
) -> int:
    """The fewest of each device that serve the load, smallest first. --emit prints the first one's launch command."""
    from hfmem.units import parse_count, parse_percent

    settings: dict[str, Any] = {
        "context": None if ctx is None else parse_count(ctx, "--ctx"),
        "kv_dtype": kv_dtype,
        "engine": engine,
        "quant": quant,
        "dtype": dtype,
        "overhead": None if overhead is None else parse_percent(overhead, "--overhead"),
    }
    num_users, most = parse_count(users, "--users"), parse_count(max_gpus, "--max-gpus")
    from hfmem.api import read_model
    from hfmem.planning import launch_text
    from hfmem.planning import plan as search

    with fetching(no_cache, refresh, offline) as fetch:
        read = read_model(model, revision=revision, assume=assume, fetch=fetch)
    if verbose:
        say_stats(model, read.facts.stats)
    found = search(read, users=num_users, devices=gpu, max_devices=most, **settings)
    if json:
        from hfmem.render.json import report_dict, to_dict

        write(json_text({**report_dict(found.report), "layouts": to_dict(found.layouts)}))
    elif emit is not None and found.layouts:
        first = {**settings, "device": found.layouts[0].device, "revision": revision}
        write(launch_text(emit, read, found.report, first, model))
    elif found.layouts:
        from hfmem.render.plan import render_plan

        show(render_plan(found.report, found.layouts, None if every else 15))
    if not found.layouts:
        complain(f"{read.facts.repo_id} fits no layout of up to {most} devices: --max-gpus, --quant or a shorter --ctx")
        return DOES_NOT_FIT
    return 0
