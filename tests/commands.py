"""The type of the fixture `run`: words of a command line in; exit status, stdout and stderr out."""

from __future__ import annotations

from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]
