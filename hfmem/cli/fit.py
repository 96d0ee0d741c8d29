"""`hfmem fit MODEL --gpu …`: the verdict, and what would make it fit."""

from __future__ import annotations

from typing import Annotated, Any

from hfmem.cli import options as o
from hfmem.cli.estimate import DOES_NOT_FIT
from hfmem.cli.output import fetching, has_room_for_bars, json_text, say_stats, show, write
from hfmem.errors import UsageError


def device_settings(gpu: str | None, num_gpus: str | None, utilization: str | None) -> dict[str, Any]:
    """The api's words for --gpu, --num-gpus and --utilization."""
    from hfmem.units import parse_count

    if gpu is None and (num_gpus is not None or utilization is not None):
        raise UsageError(f"{'--num-gpus' if num_gpus is not None else '--utilization'} needs --gpu")
    share: Any = utilization
    if utilization is not None and utilization != "min":
        share = _share(utilization)
    count: Any = num_gpus
    if num_gpus is not None and num_gpus != "min":
        count = parse_count(num_gpus, "--num-gpus")
    return {"device": gpu, "num_devices": count, "utilization": share}


def _share(text: str) -> Any:
    from fractions import Fraction

    try:
        value = Fraction(text[:-1]) / 100 if text.endswith("%") else Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"--utilization {text!r} is not a share (examples: 0.9, 90%, min)") from None
    if not 0 < value <= 1:
        raise UsageError(f"--utilization {text!r} must be above 0 and at most 1")
    return value


def count_or_max(text: str, flag: str) -> Any:
    """A count, or `max`: solve for it."""
    from hfmem.units import parse_count

    return text if text == "max" else parse_count(text, flag)


def fit(
    model: o.Model,
    gpu: Annotated[
        str, o.Option("--gpu", metavar="NAME", help="h100, 8xh100, 4090, 80GiB, local (hfmem devices lists).")
    ],
    num_gpus: o.NumGpus = None,
    utilization: o.Utilization = None,
    ctx: o.Ctx = None,
    batch: o.Batch = "1",
    kv_dtype: o.KvDtype = "auto",
    engine: o.Engine = None,
    tp: o.Tp = "1",
    pp: o.Pp = "1",
    dp: o.Dp = "1",
    ep: o.Ep = False,
    max_num_batched_tokens: o.BatchedTokens = None,
    page_size: o.PageSize = None,
    overhead: o.Overhead = None,
    quant: o.Quant = None,
    dtype: o.Dtype = None,
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
    revision: o.Revision = None,
    json: o.Json = False,
    assume: o.Assume = None,
    no_cache: o.NoCache = False,
    refresh: o.Refresh = False,
    offline: o.Offline = False,
    verbose: o.Verbose = False,
) -> int:
    """Does it fit, and what would make it fit. --ctx max, --batch max, --num-gpus min or --utilization min solve for one.

    --emit prints the launch command or manifest with these settings instead.
    """
    from hfmem.units import parse_count, parse_percent

    settings: dict[str, Any] = {
        **device_settings(gpu, num_gpus, utilization),
        "context": None if ctx is None else count_or_max(ctx, "--ctx"),
        "num_seqs": count_or_max(batch, "--batch"),
        "kv_dtype": kv_dtype,
        "engine": engine,
        "tp": parse_count(tp, "--tp"),
        "pp": parse_count(pp, "--pp"),
        "dp": parse_count(dp, "--dp"),
        "ep": ep,
        "max_num_batched_tokens": (
            None if max_num_batched_tokens is None else parse_count(max_num_batched_tokens, "--max-num-batched-tokens")
        ),
        "page_size": None if page_size is None else parse_count(page_size, "--page-size"),
        "overhead": None if overhead is None else parse_percent(overhead, "--overhead"),
        "quant": quant,
        "dtype": dtype,
    }
    if emit is not None and json:
        raise UsageError("--emit prints a command and --json a report: choose one")
    from hfmem.answers import fit as answer
    from hfmem.api import read_model

    with fetching(no_cache, refresh, offline) as fetch:
        read = read_model(model, revision=revision, assume=assume, fetch=fetch)
    if verbose:
        say_stats(model, read.facts.stats)
    found = answer(read, **settings)
    fits = found.report.fit is not None and found.report.fit.verdict != "does-not-fit"
    if emit is not None and fits:
        from hfmem.planning import launch_text

        write(launch_text(emit, read, found.report, {**settings, "revision": revision}, model))
        return 0
    from hfmem.planning import mixed, speed

    best = speed(read, found.report, gpu)
    mix = mixed(read, found.report, settings, lengths, allocator)
    if json:
        from hfmem.render.json import report_dict, to_dict

        extra = {"remedies": to_dict(found.remedies), "speed_of_light": to_dict(best), "allocation": to_dict(mix)}
        write(json_text({**report_dict(found.report), **extra}))
    else:
        from hfmem.render.fit import allocation_lines, render_remedies
        from hfmem.render.plan import speed_lines
        from hfmem.render.table import legend, render_report

        lines = render_report(found.report, bars=has_room_for_bars())
        if not fits:
            lines += render_remedies(found.remedies)
        elif best is not None:
            lines += speed_lines(best)
        show([*lines, *allocation_lines(mix), *legend()])
    return 0 if fits else DOES_NOT_FIT
