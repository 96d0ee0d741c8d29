"""Launches that differ from a plain one in a word or two, and what a shell makes of a command."""

from __future__ import annotations

import shlex
from typing import Any

from hfmem.plan.launch import Launch

BASE = Launch(model="org/name", revision=None, engine="vllm", context=8192, num_seqs=16)


def launch(**changes: Any) -> Launch:
    return Launch(**{**{name: getattr(BASE, name) for name in BASE.__match_args__}, **changes})


def words(text: str) -> list[str]:
    """What a POSIX shell makes of the command, comments left out."""
    return shlex.split(text.replace(" \\\n  ", " "), comments=True)
