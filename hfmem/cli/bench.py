"""`hfmem bench MODEL`: one decode step's attention on this machine's device, or the plan of it."""

from __future__ import annotations

from typing import Annotated

from hfmem.cli import engine_options as e
from hfmem.cli import options as o
from hfmem.cli.output import json_text, show, terminal_columns, write
from hfmem.cli.params import Option
from hfmem.cli.reading import read_for


def bench(
    model: o.Model,
    ctx: o.Length = None,
    batch: o.Batch = "1",
    gpu: Annotated[
        str | None,
        Option(
            "--gpu", metavar="NAME", help="With --dry-run: whose bandwidth bounds the step [default: this machine's]."
        ),
    ] = None,
    tp: o.Tp = "1",
    kv_dtype: o.KvDtype = "auto",
    page_size: Annotated[
        str | None,
        Option(
            "--page-size",
            "--block-size",
            metavar="TOKENS",
            help="Tokens of a cache page [default: 16; 64 where an indexer picks latent rows].",
        ),
    ] = None,
    source_tokens: e.SourceTokens = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Print what would be allocated and run; needs no GPU.")] = False,
    revision: o.Revision = None,
    json: o.Json = False,
    assume: o.Assume = None,
    no_cache: o.NoCache = False,
    refresh: o.Refresh = False,
    offline: o.Offline = False,
    verbose: o.Verbose = False,
) -> None:
    """Allocate the model's cache on this machine's GPU, run one decode step's attention over it, and time it.

    Needs the extra `kernels`. With --tp it runs the share of one rank.
    """
    from hfmem.units import parse_count

    context = None if ctx is None else parse_count(ctx, "--ctx")
    num_seqs, ranks = parse_count(batch, "--batch"), parse_count(tp, "--tp")
    source = None if source_tokens is None else parse_count(source_tokens, "--source-tokens")
    page = None if page_size is None else parse_count(page_size, "--page-size")
    from hfmem.api.bench import bench as answer

    read = read_for(model, revision, assume, no_cache, refresh, offline, verbose)
    found = answer(
        read,
        context=context,
        num_seqs=num_seqs,
        device=gpu,
        tp=ranks,
        kv_dtype=kv_dtype,
        page_size=page,
        source_tokens=source,
        dry_run=dry_run,
    )
    if json:
        from hfmem.render.json import to_dict, versioned

        write(json_text(versioned(to_dict(found))))
        return
    from hfmem.render.bench import render_bench

    show(render_bench(found, terminal_columns()))
