"""`hfmem explain MODEL`: the arithmetic, step by step."""

from __future__ import annotations

from typing import Annotated, Any

from hfmem.cli import options as o
from hfmem.cli.output import fetching, formatted, json_text, say, say_stats, show, write
from hfmem.cli.params import OUTPUT
from hfmem.cli.settings import DEVICES, FETCHING, READING, SERVING, takes
from hfmem.errors import UsageError


@takes(SERVING, DEVICES, READING, gpu=(o.OnGpu, None))
def explain(
    model: o.Model,
    device: Annotated[
        str | None,
        o.Option("--device-memory", metavar="BYTES", help="Count devices of this size: 40GB, 80g [default: none]."),
    ] = None,
    markdown: Annotated[bool, o.Option("--markdown", help="As --format markdown.", section=OUTPUT)] = False,
    json: o.Json = False,
    format: o.Format = None,
    *,
    settings: dict[str, Any],
    reading: dict[str, Any],
) -> None:
    """The arithmetic with the model's numbers put in: parameters, weights, cache, sum; over several ranks the most loaded one's."""
    from hfmem.units import parse_memory

    if markdown and format not in (None, "markdown"):
        raise UsageError(f"--markdown and --format {format} are two formats: choose one")
    kind = formatted("markdown" if markdown else format, json)
    device_bytes = None if device is None else parse_memory(device, "--device-memory")
    from hfmem.api.estimates import explain as run
    from hfmem.api.estimates import read_model
    from hfmem.render.explain import explanation_text, text_lines
    from hfmem.render.json import to_dict, versioned

    fetching_as = {name: reading.pop(name) for name in FETCHING}
    verbose = reading.pop("verbose")
    with fetching(**fetching_as) as fetch:
        read = read_model(model, **reading, fetch=fetch)
        if verbose:
            say_stats(model, read.facts.stats)
        told = run(read, device_bytes=device_bytes, **settings, fetch=fetch)
    for note in told.notes:
        say(f"warning: {note.message}")
    if kind == "json":
        write(json_text(versioned(to_dict(told))))
    elif kind == "table":
        show(text_lines(told))
    else:
        write(explanation_text(kind, told))
