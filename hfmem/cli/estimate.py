"""`hfmem MODEL…`: the estimate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from hfmem.cli import options as o
from hfmem.cli.output import complain, fetching, has_room_for_bars, json_text, say_stats, show, write
from hfmem.errors import HfmemError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from hfmem.hub.gguf import SeveralModelsError
    from hfmem.hub.pipeline import PipelineError

#: the contract's exit code for a model that does not fit the devices named
DOES_NOT_FIT = 1


def estimate(
    models: o.Models,
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
    kv_memory: o.KvMemory = None,
    source_tokens: o.SourceTokens = None,
    overhead: o.Overhead = None,
    gpu: o.Gpu = None,
    num_gpus: o.NumGpus = None,
    utilization: o.Utilization = None,
    quant: o.Quant = None,
    dtype: o.Dtype = None,
    lora: o.Lora = None,
    max_loras: o.MaxLoras = None,
    max_lora_rank: o.MaxLoraRank = None,
    draft: o.Draft = None,
    emit: o.Emit = None,
    revision: o.Revision = None,
    json: o.Json = False,
    exact: o.Exact = False,
    strict: o.Strict = False,
    assume: o.Assume = None,
    no_cache: o.NoCache = False,
    refresh: o.Refresh = False,
    offline: o.Offline = False,
    verbose: o.Verbose = False,
) -> int:
    """Weights, KV cache and total memory of one or more models."""
    from hfmem.units import parse_count, parse_memory, parse_percent

    count: Callable[[str, str], Any] = parse_count
    devices: dict[str, Any] = {}
    if gpu is not None or num_gpus is not None or utilization is not None:
        from hfmem.cli.fit import count_or_max as count
        from hfmem.cli.fit import device_settings

        devices = device_settings(gpu, num_gpus, utilization)
    settings: dict[str, Any] = {
        **devices,
        "context": None if ctx is None else count(ctx, "--ctx"),
        "num_seqs": count(batch, "--batch"),
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
        "kv_memory_bytes": None if kv_memory is None else parse_memory(kv_memory, "--kv-memory"),
        "lora": lora,
        "max_loras": None if max_loras is None else parse_count(max_loras, "--max-loras"),
        "max_lora_rank": None if max_lora_rank is None else parse_count(max_lora_rank, "--max-lora-rank"),
        "draft": draft,
        "quant": quant,
        "dtype": dtype,
        "source_tokens": None if source_tokens is None else parse_count(source_tokens, "--source-tokens"),
        "overhead": None if overhead is None else parse_percent(overhead, "--overhead"),
    }
    from hfmem.reading import read_model

    if emit is not None and json:
        raise UsageError("--emit prints a command and --json a report: choose one")
    results: list[Any] = []
    status = 0
    shown = 0
    for model in models:
        try:
            with fetching(no_cache, refresh, offline) as fetch:
                read = read_model(model, revision=revision, assume=assume, strict=strict, fetch=fetch)
                from hfmem.api import estimate as run

                if devices:
                    from hfmem.answers import solve

                    report = run(read, **solve(read, settings), fetch=fetch)
                else:
                    report = run(read, **settings, fetch=fetch)
        except UsageError as error:
            if error.code != "several_models":
                raise  # the flags are the same for every model
            from hfmem.cli.gguf import list_choices

            results.append(list_choices(cast("SeveralModelsError", error), settings, json=json))
            continue
        except HfmemError as error:
            if error.code == "pipeline":
                from hfmem.cli.pipeline import pipeline_rows

                results.append(pipeline_rows(cast("PipelineError", error), json=json))
                continue
            complain(error)
            status = max(status, error.exit_code)
            if json:
                from hfmem.render.json import error_dict

                results.append(error_dict(model, error))
            continue
        if report.fit is not None and report.fit.verdict == "does-not-fit":
            status = max(status, DOES_NOT_FIT)
        if emit is not None:
            from hfmem.planning import launch_text

            try:
                write(launch_text(emit, read, report, {**settings, "revision": revision}, model))
            except UnsupportedError as error:
                complain(error)
            continue
        if verbose:
            say_stats(model, read.facts.stats)
        if json:
            from hfmem.render.json import report_dict

            results.append(report_dict(report))
            continue
        from hfmem.render.lines import line
        from hfmem.render.table import legend, render_report

        if shown:
            show([line("")])
        show(render_report(report, bars=has_room_for_bars(), exact=exact))
        shown += 1
    if json:
        write(json_text(results if len(models) > 1 else results[0]))
    elif shown:
        show(legend())
    return status
