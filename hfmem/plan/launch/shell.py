"""Launch commands for a shell, on one machine or several."""

from __future__ import annotations

from hfmem.errors import UsageError
from hfmem.plan.launch.flags import arguments
from hfmem.plan.launch.settings import Launch
from hfmem.plan.launch.words import command_text, environment, on_ray, program


def shell(launch: Launch) -> str:
    """The commands that start the engine.

    Raises:
        UsageError: the engine does not run over several machines.
    """
    words = [*program(launch), *arguments(launch)]
    before = "".join(f"{name}={value} " for name, value in environment(launch))
    if launch.num_nodes == 1:
        return before + command_text(words)
    match launch.engine:
        case "vllm":
            return "\n".join(
                (
                    "# on the first machine (HEAD is its address):",
                    "ray start --head --port=6379",
                    "# on the other one:"
                    if launch.num_nodes == 2
                    else f"# on each of the other {launch.num_nodes - 1}:",
                    'ray start --address="$HEAD:6379" --block',
                    "# then, on the first:",
                    before + command_text([*words, *on_ray(launch)]),
                )
            )
        case "sglang":
            ranks = ["--nnodes", str(launch.num_nodes)]
            return "\n".join(
                (
                    f"# on each of the {launch.num_nodes} machines, RANK from 0 to {launch.num_nodes - 1}, HEAD the first one's "
                    "address:",
                    before
                    + command_text([*words, *ranks])
                    + ' \\\n  --node-rank "$RANK" \\\n  --dist-init-addr "$HEAD:5000"',
                )
            )
        case _:
            raise UsageError(f"{launch.engine} does not run over {launch.num_nodes} machines")
