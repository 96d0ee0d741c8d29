"""Launch commands and manifests for the settings of a report. Every word that came from outside is quoted for where it stands.

Layouts over several machines are text for the engines that run them: vLLM on Ray, SGLang's own nodes, Kubernetes' LeaderWorkerSet.
Secrets (HF_TOKEN) are named, never printed.
"""

from __future__ import annotations

import re
from typing import Final

from hfmem.dtypes import dtype_word
from hfmem.errors import UsageError
from hfmem.plan.launch.flags import ON_THE_FLY
from hfmem.plan.launch.settings import Launch

__all__ = ["KINDS", "Launch", "emit"]

KINDS: Final = ("vllm", "sglang", "llama.cpp", "transformers", "docker", "k8s")


def emit(kind: str, launch: Launch) -> str:
    """The command, script or manifest of that kind, with a final newline.

    Raises:
        UsageError: no such kind, or one that does not run the engine or the layout.
    """
    if kind not in KINDS:
        raise UsageError(f"--emit {kind!r} is not one of {', '.join(KINDS)}")
    if kind in ("docker", "k8s"):
        from hfmem.plan.launch import containers

        text = containers.docker(launch) if kind == "docker" else containers.k8s(launch)
    elif kind != launch.engine:
        raise UsageError(f"--emit {kind} goes with --engine {kind}, not {launch.engine}")
    elif kind == "transformers":
        from hfmem.plan.launch.script import script

        text = script(launch)
    else:
        from hfmem.plan.launch.shell import shell

        text = shell(launch)
    return _remarks(launch, kind) + text + "\n"


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
