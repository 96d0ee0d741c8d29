"""`hfmem files MODEL`: what a download takes."""

from __future__ import annotations

from typing import Annotated

from hfmem.cli import options as o
from hfmem.cli.output import fetching, json_text, show, write


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
    offline: o.Offline = False,
) -> None:
    """The files of a model by use: what is redundant, and what transformers, vLLM and llama.cpp would fetch."""
    from hfmem.api.download import files_report
    from hfmem.render.files import render_files
    from hfmem.render.json import to_dict, versioned

    with fetching(True, False, offline) as fetch:
        report = files_report(model, revision=revision, include=include or (), exclude=exclude or (), fetch=fetch)
    if json:
        write(json_text(versioned(to_dict(report))))
    else:
        show(render_files(report, names=names))
