"""`hfmem explain MODEL`: the arithmetic, step by step."""

from __future__ import annotations

from typing import Annotated

from hfmem.cli import engine_options as e
from hfmem.cli import options as o
from hfmem.cli.output import json_text, say, show, write
from hfmem.cli.params import OUTPUT
from hfmem.cli.reading import draft_for, read_for


def explain(
    model: o.Model,
    ctx: o.Length = None,
    batch: o.Batch = "1",
    kv_dtype: o.KvDtype = "auto",
    engine: o.Engine = None,
    draft: o.Draft = None,
    draft_tokens: o.DraftTokens = None,
    overhead: e.Overhead = None,
    device: Annotated[
        str | None,
        o.Option("--device-memory", metavar="BYTES", help="Count devices of this size: 40GB, 80g [default: none]."),
    ] = None,
    markdown: Annotated[bool, o.Option("--markdown", help="Print Markdown tables.", section=OUTPUT)] = False,
    revision: o.Revision = None,
    json: o.Json = False,
    assume: o.Assume = None,
    no_cache: o.NoCache = False,
    refresh: o.Refresh = False,
    offline: o.Offline = False,
    verbose: o.Verbose = False,
) -> None:
    """The arithmetic with the model's numbers put in: parameters, weights, cache, sum."""
    from hfmem.units import parse_count, parse_memory, parse_percent

    context = None if ctx is None else parse_count(ctx, "--ctx")
    num_seqs = parse_count(batch, "--batch")
    ahead = None if draft_tokens is None else parse_count(draft_tokens, "--draft-tokens")
    share = None if overhead is None else parse_percent(overhead, "--overhead")
    device_bytes = None if device is None else parse_memory(device, "--device-memory")
    from hfmem.api.estimates import explain as run
    from hfmem.render.explain import markdown_lines, text_lines
    from hfmem.render.json import to_dict, versioned
    from hfmem.render.lines import safe

    read = read_for(model, revision, assume, no_cache, refresh, offline, verbose)
    small = draft_for(draft, no_cache, refresh, offline, verbose)
    told = run(
        read,
        context=context,
        num_seqs=num_seqs,
        kv_dtype=kv_dtype,
        engine=engine,
        draft=small,
        draft_tokens=ahead,
        overhead=share,
        device_bytes=device_bytes,
    )
    for note in told.notes:
        say(f"warning: {note.message}")
    if json:
        write(json_text(versioned(to_dict(told))))
    elif markdown:
        write("".join(f"{safe(text)}\n" for text in markdown_lines(told)))
    else:
        show(text_lines(told))
