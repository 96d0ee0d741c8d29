"""`hfmem files MODEL`: what a download takes."""

from __future__ import annotations

from typing import Annotated

from hfmem.cli import options as o
from hfmem.cli.output import fetching, json_text, say_stats, show, write
from hfmem.cli.params import READING


def files(
    model: o.Model,
    include: Annotated[
        list[str] | None, o.Option("--include", metavar="GLOB", help="Only these, as in hf download; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, o.Option("--exclude", metavar="GLOB", help="Not these, as in hf download; repeatable.")
    ] = None,
    names: Annotated[bool, o.Option("--names", help="List every file.")] = False,
    revision: o.Revision = None,
    json: o.Json = False,
    offline: Annotated[
        bool, o.Option("--offline", help="No network: local folders and files only.", section=READING)
    ] = False,
    verbose: o.Verbose = False,
) -> None:
    """The files of a model by use: what is redundant, and what transformers, vLLM and llama.cpp would fetch."""
    from hfmem.api.download import described
    from hfmem.hub.listing import list_files
    from hfmem.render.files import render_files
    from hfmem.render.json import to_dict, versioned

    with fetching(True, False, offline) as fetch:
        found = list_files(model, revision=revision, options=fetch)
    report = described(found, include or (), exclude or ())
    if verbose:
        say_stats(model, found.stats)
    if json:
        write(json_text(versioned(to_dict(report))))
    else:
        show(render_files(report, names=names))
