"""`hfmem layers MODEL`: what each layer keeps."""

from __future__ import annotations

from typing import Annotated

from hfmem.cli import options as o
from hfmem.cli.output import fetching, json_text, say_stats, show, write


def layers(
    model: o.Model,
    ctx: o.Ctx = None,
    batch: o.Batch = "1",
    kv_dtype: o.KvDtype = "auto",
    engine: o.Engine = None,
    runs: Annotated[bool, o.Option("--runs", help="Rows in layer order, not merged over the model.")] = False,
    revision: o.Revision = None,
    json: o.Json = False,
    assume: o.Assume = None,
    no_cache: o.NoCache = False,
    refresh: o.Refresh = False,
    offline: o.Offline = False,
    verbose: o.Verbose = False,
) -> None:
    """A table by layer: kind, shape, window, bytes per token and at a context."""
    from hfmem.units import parse_count

    context = None if ctx is None else parse_count(ctx, "--ctx")
    num_seqs = parse_count(batch, "--batch")
    from hfmem.api.estimates import layer_table, read_model
    from hfmem.render.json import to_dict
    from hfmem.render.layers import render_layers

    with fetching(no_cache, refresh, offline) as fetch:
        read = read_model(model, revision=revision, assume=assume, fetch=fetch)
    if verbose:
        say_stats(model, read.facts.stats)
    table = layer_table(read, context=context, num_seqs=num_seqs, kv_dtype=kv_dtype, engine=engine, merge=not runs)
    if json:
        rows = [to_dict(run) for run in table.runs]
        found = {
            "model": {"id": read.facts.repo_id},
            "context": table.serving.context,
            "num_seqs": num_seqs,
            "layers": rows,
        }
        write(json_text(found))
        return
    show(render_layers(table.runs, table.serving, table.engine))
