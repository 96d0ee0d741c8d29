"""Launch commands and manifests for the settings of a report. Every word that came from outside is quoted for where it stands.

Flags as read from vLLM 0.33 (`engine/arg_utils.py`), SGLang mid 2026 (`srt/server_args.py`), llama.cpp of November 2026
(`common/arg.cpp`) and transformers 5. Layouts over several machines are text for the engines that run them: vLLM on Ray, SGLang's
own nodes, Kubernetes' LeaderWorkerSet.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Final

from hfmem.errors import UsageError
from hfmem.records import dataclass

KINDS: Final = ("vllm", "sglang", "llama.cpp", "transformers", "docker", "k8s")

_VLLM_CACHE: Final[dict[str, str]] = {
    "fp8": "fp8",
    "fp8_e5m2": "fp8_e5m2",
    "fp8_per_token_head": "fp8_per_token_head",
    "int8": "int8_per_token_head",
    "int4": "int4_per_token_head",
    "nvfp4": "nvfp4",
    "bf16": "bfloat16",
    "fp16": "float16",
}
_SGLANG_CACHE: Final[dict[str, str]] = {"fp8": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2", "bf16": "bf16", "nvfp4": "fp4_e2m1"}
_LLAMA_CACHE: Final[dict[str, str]] = {
    "fp16": "f16", "bf16": "bf16", "fp32": "f32", "int8": "q8_0", "int4": "q4_0",
}  # fmt: skip
#: `quant` words that vLLM and SGLang apply to an unquantized checkpoint while loading it
_ON_THE_FLY: Final = frozenset({"fp8"})


@dataclass(frozen=True, slots=True)
class Launch:
    """What to launch under which engine; sizes None are left to its defaults.

    `model` is a Hub id or a path. `gpus_per_node` None: all devices are in one machine.
    """

    model: str
    revision: str | None
    engine: str
    context: int
    num_seqs: int
    kv_dtype: str = "auto"
    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: bool = False
    utilization: float | None = None
    max_num_batched_tokens: int | None = None
    page_size: int | None = None
    quant: str | None = None
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
        text = _transformers(launch)
    else:
        text = _shell(launch)
    return _remarks(launch, kind) + text + "\n"


def arguments(launch: Launch) -> list[str]:
    """The engine's arguments after the program, unquoted."""
    match launch.engine:
        case "vllm":
            return _vllm(launch)
        case "sglang":
            return _sglang(launch)
        case "llama.cpp":
            return _llama_cpp(launch)
        case _:
            raise UsageError(f"{launch.engine} is not started by a command")


def _vllm(launch: Launch) -> list[str]:
    words = [_reference(launch)]
    if launch.revision:
        words += ["--revision", launch.revision]
    words += ["--max-model-len", str(launch.context), "--max-num-seqs", str(-(-launch.num_seqs // launch.dp))]
    for flag, size in (
        ("--tensor-parallel-size", launch.tp),
        ("--pipeline-parallel-size", launch.pp),
        ("--data-parallel-size", launch.dp),
    ):
        words += [flag, str(size)] if size > 1 else []
    words += ["--enable-expert-parallel"] if launch.ep else []
    words += _cache_words("--kv-cache-dtype", launch.kv_dtype, _VLLM_CACHE, "vLLM")
    words += ["--quantization", launch.quant] if launch.quant in _ON_THE_FLY and launch.quant else []
    words += ["--gpu-memory-utilization", f"{launch.utilization:g}"] if launch.utilization is not None else []
    words += ["--max-num-batched-tokens", str(launch.max_num_batched_tokens)] if launch.max_num_batched_tokens else []
    words += ["--block-size", str(launch.page_size)] if launch.page_size else []
    return words


def _sglang(launch: Launch) -> list[str]:
    words = ["--model-path", _reference(launch)]
    if launch.revision:
        words += ["--revision", launch.revision]
    words += ["--context-length", str(launch.context), "--max-running-requests", str(launch.num_seqs)]
    for flag, size in (("--tp-size", launch.tp), ("--pp-size", launch.pp), ("--dp-size", launch.dp)):
        words += [flag, str(size)] if size > 1 else []
    words += ["--ep-size", str(launch.tp)] if launch.ep else []
    words += _cache_words("--kv-cache-dtype", launch.kv_dtype, _SGLANG_CACHE, "SGLang")
    words += ["--quantization", launch.quant] if launch.quant in _ON_THE_FLY and launch.quant else []
    words += ["--mem-fraction-static", f"{launch.utilization:g}"] if launch.utilization is not None else []
    words += ["--chunked-prefill-size", str(launch.max_num_batched_tokens)] if launch.max_num_batched_tokens else []
    words += ["--page-size", str(launch.page_size)] if launch.page_size else []
    return words


def _llama_cpp(launch: Launch) -> list[str]:
    if re.search(r"\.gguf$", launch.model, re.IGNORECASE):
        words = ["--model", _reference(launch)]
    else:
        words = ["-hf", launch.model + (f":{launch.quant.upper()}" if launch.quant else "")]
    # the context is shared out over the slots
    words += ["--ctx-size", str(launch.context * launch.num_seqs), "--parallel", str(launch.num_seqs)]
    words += ["--n-gpu-layers", "999", "--flash-attn", "on"]
    words += ["--split-mode", "layer"] if launch.num_devices > 1 else []
    words += _cache_words("--cache-type-k", launch.kv_dtype, _LLAMA_CACHE, "llama.cpp")
    words += _cache_words("--cache-type-v", launch.kv_dtype, _LLAMA_CACHE, "llama.cpp")
    return words


def _reference(launch: Launch) -> str:
    """The model as an argument: a path that begins like a flag is written so that it cannot be one."""
    return f"./{launch.model}" if launch.model.startswith("-") else launch.model


def _cache_words(flag: str, kv_dtype: str, names: dict[str, str], engine: str) -> list[str]:
    if kv_dtype == "auto":
        return []
    if kv_dtype not in names:
        raise UsageError(f"{engine} has no {kv_dtype} cache")
    return [flag, names[kv_dtype]]


def program(launch: Launch) -> list[str]:
    """The words that start the engine."""
    return {
        "vllm": ["vllm", "serve"],
        "sglang": ["python3", "-m", "sglang.launch_server"],
        "llama.cpp": ["llama-server"],
    }[launch.engine]


def _shell(launch: Launch) -> str:
    words = [*program(launch), *arguments(launch)]
    if launch.num_nodes == 1:
        return command_text(words)
    match launch.engine:
        case "vllm":
            return "\n".join(
                (
                    "# on the first machine (HEAD is its address):",
                    "ray start --head --port=6379",
                    f"# on each of the other {launch.num_nodes - 1}:",
                    'ray start --address="$HEAD:6379" --block',
                    "# then, on the first:",
                    command_text([*words, "--distributed-executor-backend", "ray"]),
                )
            )
        case "sglang":
            ranks = ["--nnodes", str(launch.num_nodes)]
            return "\n".join(
                (
                    f"# on each of the {launch.num_nodes} machines, RANK from 0 to {launch.num_nodes - 1}, HEAD the first one's "
                    "address:",
                    command_text([*words, *ranks]) + ' \\\n  --node-rank "$RANK" \\\n  --dist-init-addr "$HEAD:5000"',
                )
            )
        case _:
            raise UsageError(f"{launch.engine} does not run over {launch.num_nodes} machines")


def command_text(words: Sequence[str]) -> str:
    """One flag a line, its values beside it."""
    lines: list[str] = []
    for word in words:
        if not lines or word.startswith("-"):
            lines.append(shlex.quote(word))
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n  ".join(lines)


def _transformers(launch: Launch) -> str:
    imports = "AutoModelForCausalLM, AutoTokenizer"
    quantization = {
        "int8": "BitsAndBytesConfig(load_in_8bit=True)",
        "nf4": 'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")',
    }.get(launch.quant or "")
    if quantization:
        imports += ", BitsAndBytesConfig"
    lines = [
        f"from transformers import {imports}",
        "",
        f"name = {launch.model!a}",
        f"revision = {launch.revision!a}",
        "tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)",
        "model = AutoModelForCausalLM.from_pretrained(",
        '    name, revision=revision, dtype="auto", device_map="auto"'
        + (f",\n    quantization_config={quantization}" if quantization else ""),
        ")",
        f'prompts = ["Hello"] * {launch.num_seqs}',
        'inputs = tokenizer(prompts, return_tensors="pt", padding=True).to(model.device)',
        f"output = model.generate(**inputs, max_length={launch.context})",
    ]
    return "\n".join(lines)


def _remarks(launch: Launch, kind: str) -> str:
    """Comment lines for what the command itself cannot say."""
    remarks = []
    known = launch.quant in _ON_THE_FLY or launch.engine == "llama.cpp"
    if launch.quant and not known and not (kind == "transformers" and launch.quant in ("int8", "nf4")):
        remarks.append(f"# needs a checkpoint of this model whose weights are stored in {_plain(launch.quant)}")
    return "".join(f"{remark}\n" for remark in remarks)


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+-]", "?", text)
