"""The words of a command, quoted for a shell."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from hfmem.plan.launch.settings import Launch


def environment(launch: Launch) -> tuple[tuple[str, str], ...]:
    """Variables that the engine wants set for these settings."""
    name = {"vllm": "VLLM_ALLOW_LONG_MAX_MODEL_LEN", "sglang": "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"}
    return ((name[launch.engine], "1"),) if launch.beyond_positions and launch.engine in name else ()


def program(launch: Launch) -> list[str]:
    """The words that start the engine."""
    return {
        "vllm": ["vllm", "serve"],
        "sglang": ["python3", "-m", "sglang.launch_server"],
        "llama.cpp": ["llama-server"],
    }[launch.engine]


def reference(model: str) -> str:
    """The model as an argument: a path that begins like a flag is written so that it cannot be one."""
    return f"./{model}" if model.startswith("-") else model


def on_ray(launch: Launch) -> list[str]:
    """vLLM's flags for ranks on several machines."""
    return [
        "--distributed-executor-backend",
        "ray",
        *(("--data-parallel-backend", "ray") if launch.dp > 1 else ()),
    ]


def command_text(words: Sequence[str]) -> str:
    """One flag a line, its values beside it."""
    lines: list[str] = []
    for word in words:
        if not lines or (word.startswith("-") and word != "-m"):
            lines.append(shlex.quote(word))
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n  ".join(lines)
