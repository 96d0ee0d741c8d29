"""`hfmem layers MODEL`: what each layer keeps."""

from __future__ import annotations

from typing import Annotated

from hfmem.cli import options as o
from hfmem.cli.output import formatted, give, json_text, say, write
from hfmem.cli.reading import draft_for, read_for


def layers(
    model: o.Model,
    ctx: o.Length = None,
    batch: o.Batch = "1",
    kv_dtype: o.KvDtype = "auto",
    engine: o.Engine = None,
    draft: o.Draft = None,
    draft_tokens: o.DraftTokens = None,
    runs: Annotated[bool, o.Option("--runs", help="Rows in layer order, not merged over the model.")] = False,
    revision: o.Revision = None,
    json: o.Json = False,
    format: o.Format = None,
    assume: o.Assume = None,
    no_cache: o.NoCache = False,
    refresh: o.Refresh = False,
    offline: o.Offline = False,
    verbose: o.Verbose = False,
) -> None:
    """A table by layer: kind, shape, window, bytes per token and at a context."""
    from hfmem.units import parse_count

    kind = formatted(format, json)
    context = None if ctx is None else parse_count(ctx, "--ctx")
    num_seqs = parse_count(batch, "--batch")
    ahead = None if draft_tokens is None else parse_count(draft_tokens, "--draft-tokens")
    from hfmem.api.estimates import layer_table
    from hfmem.render.json import to_dict, versioned

    read = read_for(model, revision, assume, no_cache, refresh, offline, verbose)
    small = draft_for(draft, no_cache, refresh, offline, verbose)
    table = layer_table(
        read,
        context=context,
        num_seqs=num_seqs,
        kv_dtype=kv_dtype,
        engine=engine,
        draft=small,
        draft_tokens=ahead,
        merge=not runs,
    )
    for note in table.notes:
        say(f"warning: {note.message}")
    if kind == "json":
        rows = [to_dict(run) for run in table.runs]
        found = {
            "model": {"id": read.facts.repo_id},
            "context": table.serving.context,
            "num_seqs": num_seqs,
            "layers": rows,
            "draft": to_dict(table.draft),
        }
        write(json_text(versioned(found)))
        return
    from hfmem.render.layers import layers_grid

    give(
        kind, layers_grid(table.runs, table.serving, table.engine, table.draft), table.runs, read.facts.repo_id or model
    )
