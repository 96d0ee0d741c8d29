"""`hfmem verify LOGFILE [MODEL]`: a server's own log against the prediction."""

from __future__ import annotations

from typing import Annotated

from hfmem.cli import options as o
from hfmem.cli.output import fetching, json_text, say_stats, show, write


def verify(
    log: Annotated[str, o.Argument(metavar="LOGFILE", help="Log of vLLM, SGLang or llama.cpp; - is stdin.")],
    model: Annotated[
        str | None,
        o.Argument(metavar="[MODEL]", help="What it served [default: the log says]."),
    ] = None,
    ctx: Annotated[
        str | None,
        o.Option("--ctx", "--max-model-len", metavar="TOKENS", help="Its context [default: the log says]."),
    ] = None,
    kv_dtype: Annotated[
        str | None,
        o.Option("--kv-dtype", "--kv-cache-dtype", metavar="DTYPE", help="Its cache [default: the log says]."),
    ] = None,
    tp: Annotated[
        str | None,
        o.Option("--tp", "--tensor-parallel-size", metavar="N", help="Its ranks [default: the log says]."),
    ] = None,
    pp: Annotated[
        str | None,
        o.Option("--pp", "--pipeline-parallel-size", metavar="N", help="Its stages [default: the log says]."),
    ] = None,
    utilization: Annotated[
        str | None,
        o.Option(
            "--utilization", "--gpu-memory-utilization", metavar="SHARE", help="Its share [default: the log says]."
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        o.Option("--gpu", metavar="NAME|SIZE", help="Its device: h100, 80GiB [default: the log says]."),
    ] = None,
    quant: o.Quant = None,
    revision: o.Revision = None,
    json: o.Json = False,
    assume: o.Assume = None,
    no_cache: o.NoCache = False,
    refresh: o.Refresh = False,
    offline: o.Offline = False,
    verbose: o.Verbose = False,
) -> None:
    """Compare an engine's log with the prediction, say what explains a difference, and print flags that calibrate."""
    from hfmem.units import parse_count, parse_share

    given = {
        "context": None if ctx is None else parse_count(ctx, "--ctx"),
        "tp": None if tp is None else parse_count(tp, "--tp"),
        "pp": None if pp is None else parse_count(pp, "--pp"),
        "utilization": None if utilization is None else parse_share(utilization, "--utilization"),
        "kv_dtype": kv_dtype,
    }
    from hfmem.hub.logfile import read_log
    from hfmem.render.json import to_dict, versioned
    from hfmem.render.verify import render_verification
    from hfmem.server_logs.verify import verify_log

    text = read_log(log)
    with fetching(no_cache, refresh, offline) as fetch:
        found = verify_log(
            text,
            model,
            given={name: value for name, value in given.items() if value is not None},
            device=gpu,
            quant=quant,
            revision=revision,
            assume=assume,
            fetch=fetch,
        )
    if verbose:
        say_stats(found.model, found.stats)
    if json:
        write(json_text(versioned({**to_dict(found.result), "agrees": found.result.agrees})))
    else:
        show(render_verification(found.result, found.notes))
