"""`hfmem layers MODEL`: what each layer keeps."""

from __future__ import annotations

from typing import Annotated, Any, Final

from hfmem.cli import options as o
from hfmem.cli.output import fetching, formatted, give, json_text, say_stats, warn, write
from hfmem.cli.settings import DEVICES, FETCHING, READING, SERVING, takes

#: settings that change nothing in a cache
_BESIDE: Final = frozenset({"overhead", "lora", "max_loras", "max_lora_rank"})


@takes({name: option for name, option in SERVING.items() if name not in _BESIDE}, DEVICES, READING, gpu=(o.OnGpu, None))
def layers(
    model: o.Model,
    runs: Annotated[bool, o.Option("--runs", help="Rows in layer order, not merged over the model.")] = False,
    json: o.Json = False,
    format: o.Format = None,
    *,
    settings: dict[str, Any],
    reading: dict[str, Any],
) -> None:
    """A table by layer: kind, shape, window, bytes per token and at a context; over several ranks what one of them holds."""
    kind = formatted(format, json)
    from hfmem.api.estimates import layer_table, read_model

    fetching_as = {name: reading.pop(name) for name in FETCHING}
    verbose = reading.pop("verbose")
    with fetching(**fetching_as) as fetch:
        read = read_model(model, **reading, fetch=fetch)
        if verbose:
            say_stats(model, read.facts.stats)
        table = layer_table(read, merge=not runs, **settings, fetch=fetch)
    warn(table.report)
    if kind == "json":
        from hfmem.render.layers import layers_dict

        write(json_text(layers_dict(table)))
        return
    from hfmem.render.layers import layers_grid

    give(kind, layers_grid(table), table.runs, read.facts.repo_id or model)
