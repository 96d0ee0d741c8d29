"""Reading a model for a command that takes it apart: with progress, and `-v` telling what it took."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfmem.cli.output import fetching, say_stats

if TYPE_CHECKING:
    from hfmem.api.reading import Model


def read_for(
    model: str, revision: str | None, assume: str | None, no_cache: bool, refresh: bool, offline: bool, verbose: bool
) -> Model:
    """The model with its facts, by the options that every such command has."""
    from hfmem.api.reading import read_model

    with fetching(no_cache, refresh, offline) as fetch:
        found = read_model(model, revision=revision, assume=assume, fetch=fetch)
    if verbose:
        say_stats(model, found.facts.stats)
    return found


def draft_for(draft: str | None, no_cache: bool, refresh: bool, offline: bool, verbose: bool) -> str | Model | None:
    """What `--draft` names: a model, read in its own main branch, or the word for the model's own prediction layers."""
    from hfmem.api.extras import OWN_DRAFT

    if draft is None or draft == OWN_DRAFT:
        return draft
    return read_for(draft, None, None, no_cache, refresh, offline, verbose)
