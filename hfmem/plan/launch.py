"""Launch commands and manifests for the settings of a report. Every word that came from outside is quoted for where it stands.

Layouts over several machines are text for the engines that run them: vLLM on Ray, SGLang's own nodes, Kubernetes' LeaderWorkerSet.
Secrets (HF_TOKEN) are named, never printed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Final

from hfmem.dtypes import dtype_word
from hfmem.errors import UsageError
from hfmem.memory.serving import LLAMA_CPP, LlamaCpp
from hfmem.plan.launch_flags import ON_THE_FLY, arguments
from hfmem.records import dataclass

KINDS: Final = ("vllm", "sglang", "llama.cpp", "transformers", "docker", "k8s")


@dataclass(frozen=True, slots=True)
class Launch:
    """What to launch under which engine; sizes None are left to its defaults.

    `model` is a Hub id or a path, `is_gguf` whether llama.cpp can read it as it is. `num_seqs` 1 leaves the limit to the engine,
    unless `max_num_seqs` says it. `gpus_per_node` None: all devices are in one machine. `beyond_positions`: the context is longer
    than what the model was trained for, which engines want said.
    """

    model: str
    revision: str | None
    engine: str
    context: int
    num_seqs: int
    max_num_seqs: int | None = None
    eager: bool = False
    language_model_only: bool = False
    kv_dtype: str = "auto"
    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: bool = False
    utilization: float | None = None
    max_num_batched_tokens: int | None = None
    page_size: int | None = None
    enable_prefix_caching: bool | None = None
    quant: str | None = None
    dtype: str | None = None
    attn_dp: int = 1
    kv_memory_bytes: int | None = None
    lora: str | None = None
    max_loras: int | None = None
    max_lora_rank: int | None = None
    draft: str | None = None
    llama_cpp: LlamaCpp = LLAMA_CPP
    beyond_positions: bool = False
    is_gguf: bool = True
    vendor: str = "nvidia"
    gpus_per_node: int | None = None

    @property
    def num_devices(self) -> int:
        """Devices in all."""
        return self.tp * self.pp * self.dp

    @property
    def num_nodes(self) -> int:
        """Machines."""
        return -(-self.num_devices // self.gpus_per_node) if self.gpus_per_node else 1


def emit(kind: str, launch: Launch) -> str:
    """The command, script or manifest of that kind, with a final newline.

    Raises:
        UsageError: no such kind, or one that does not run the engine or the layout.
    """
    if kind not in KINDS:
        raise UsageError(f"--emit {kind!r} is not one of {', '.join(KINDS)}")
    if kind in ("docker", "k8s"):
        from hfmem.plan import containers

        text = containers.docker(launch) if kind == "docker" else containers.k8s(launch)
    elif kind != launch.engine:
        raise UsageError(f"--emit {kind} goes with --engine {kind}, not {launch.engine}")
    elif kind == "transformers":
        from hfmem.plan.launch_script import script

        text = script(launch)
    else:
        text = _shell(launch)
    return _remarks(launch, kind) + text + "\n"


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


def _shell(launch: Launch) -> str:
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
                    f"# on each of the other {launch.num_nodes - 1}:",
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


def _remarks(launch: Launch, kind: str) -> str:
    """Comment lines for what the command itself cannot say."""
    remarks = []
    if launch.engine == "llama.cpp" and not launch.is_gguf:
        remarks.append("# llama.cpp reads GGUF: name a repository or file that holds this model as GGUF instead")
    known = launch.quant in ON_THE_FLY or launch.engine == "llama.cpp"
    if launch.quant and not known and not (kind == "transformers" and launch.quant in ("int8", "nf4")):
        remarks.append(f"# needs a checkpoint of this model whose weights are stored in {_plain(launch.quant)}")
    if launch.dtype and not launch.quant and dtype_word(launch.dtype) not in ("bf16", "fp16", "fp32"):
        remarks.append(f"# needs a checkpoint of this model whose weights are stored in {_plain(launch.dtype)}")
    return "".join(f"{remark}\n" for remark in remarks)


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+-]", "?", text)
