"""What a caller may ask of a source."""

from __future__ import annotations

from collections.abc import Callable

from hfmem.hub.facts import Progress
from hfmem.records import dataclass


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """How to fetch. `no_cache` neither reads nor writes stored facts; `refresh` does not read them; `offline` opens no socket.

    `no_headers`: where nothing is stored, config.json and the list of the files tell the weights; no file of them is opened.
    `token` replaces the one of the environment (`False`: send none). `deadline` is in seconds, for one model. `meanwhile` is called
    once while the first answers are waited for, with what tells whether they still are.
    """

    no_cache: bool = False
    refresh: bool = False
    offline: bool = False
    no_headers: bool = False
    token: str | bool | None = None
    deadline: float | None = None
    progress: Progress | None = None
    meanwhile: Callable[[Callable[[], bool]], None] | None = None
