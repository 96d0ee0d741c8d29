"""`hfmem cache`: the facts stored on this machine."""

from __future__ import annotations

from typing import Annotated

from hfmem.cli import options as o
from hfmem.cli.output import json_text, show, write


def cache(
    clear: Annotated[bool, o.Option("--clear", help="Remove all stored facts.")] = False,
    json: o.Json = False,
) -> None:
    """Facts stored by earlier runs: where, which, how large."""
    from hfmem.hub.settings import read_settings
    from hfmem.hub.store import FactStore
    from hfmem.render.lines import line
    from hfmem.units import format_bytes

    store = FactStore(read_settings().facts_dir)
    entries = store.entries()
    if clear:
        store.clear()
    if json:
        from hfmem.render.json import versioned

        rows = [{"id": name, "revision": commit, "bytes": size} for name, commit, size in entries]
        write(json_text(versioned({"folder": str(store.root), "cleared": clear, "entries": rows})))
        return
    size = format_bytes(sum(entry[2] for entry in entries))
    count = f"{len(entries):,} {'model' if len(entries) == 1 else 'models'}"
    if clear:
        show([line(f"{store.root}: {count} removed, {size}")])
        return
    show(
        [line(f"{store.root}: {count}, {size}"), *(line(f"  {n}  {c[:12]}  {format_bytes(b)}") for n, c, b in entries)]
    )
