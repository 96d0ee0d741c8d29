"""Words that a shell completes after an option, each list loaded when the shell asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hfmem.cli.params import Words


def completer(words: Words | None) -> Callable[[str], list[str]] | None:
    """What Typer asks for the words that begin as typed; of a list with commas, its last word does."""
    if words is None:
        return None

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{word}" for word in words() if word.startswith(last)]

    return complete


def models() -> Iterable[str]:
    """The shipped catalogue's."""
    from hfmem.hub.catalog import catalog_names

    return catalog_names()


def devices() -> Iterable[str]:
    """Their names as they are typed, and `local`."""
    from hfmem.plan.devices import catalogue

    return ("local", *(device.name.lower().replace(" ", "-") for device in catalogue()))


def engines() -> Iterable[str]:
    """Those with rules."""
    from hfmem.memory.serving import ENGINES

    return ENGINES


def kinds_of_launch() -> Iterable[str]:
    """What `--emit` prints."""
    from hfmem.plan.launch import KINDS

    return KINDS


def one_of(*words: str) -> Any:
    """A list that needs no loading."""
    return lambda: words
