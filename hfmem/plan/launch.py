"""Launch commands and manifests for the settings of a report. Every word that came from outside is quoted for where it stands.

Flags as read from vLLM 0.33 (`engine/arg_utils.py`), SGLang mid 2026 (`srt/server_args.py`), llama.cpp of November 2026
(`common/arg.cpp`) and transformers 5. Layouts over several machines are text for the engines that run them: vLLM on Ray, SGLang's
own nodes, Kubernetes' LeaderWorkerSet.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from typing import Final

from hfmem.errors import UsageError
from hfmem.records import dataclass

KINDS: Final = ("vllm", "sglang", "llama.cpp", "transformers", "docker", "k8s")

_IMAGES: Final[dict[tuple[str, str], str]] = {
    ("vllm", "nvidia"): "vllm/vllm-openai:v0.33.0",
    ("vllm", "amd"): "vllm/vllm-openai-rocm:v0.33.0",
    ("sglang", "nvidia"): "lmsysorg/sglang:latest",
    ("llama.cpp", "nvidia"): "ghcr.io/ggml-org/llama.cpp:server-cuda",
    ("llama.cpp", "amd"): "ghcr.io/ggml-org/llama.cpp:server-rocm",
}
_PORTS: Final[dict[str, int]] = {"vllm": 8000, "sglang": 30000, "llama.cpp": 8080}
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
        if launch.engine not in _PORTS:
            raise UsageError(f"--emit {kind} runs vllm, sglang or llama.cpp, not {launch.engine} (--engine)")
        text = _docker(launch) if kind == "docker" else _k8s(launch)
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


def _program(launch: Launch) -> list[str]:
    return {
        "vllm": ["vllm", "serve"],
        "sglang": ["python3", "-m", "sglang.launch_server"],
        "llama.cpp": ["llama-server"],
    }[launch.engine]


def _shell(launch: Launch) -> str:
    words = [*_program(launch), *arguments(launch)]
    if launch.num_nodes == 1:
        return _command(words)
    match launch.engine:
        case "vllm":
            return "\n".join(
                (
                    "# on the first machine (HEAD is its address):",
                    "ray start --head --port=6379",
                    f"# on each of the other {launch.num_nodes - 1}:",
                    'ray start --address="$HEAD:6379" --block',
                    "# then, on the first:",
                    _command([*words, "--distributed-executor-backend", "ray"]),
                )
            )
        case "sglang":
            ranks = ["--nnodes", str(launch.num_nodes)]
            return "\n".join(
                (
                    f"# on each of the {launch.num_nodes} machines, RANK from 0 to {launch.num_nodes - 1}, HEAD the first one's "
                    "address:",
                    _command([*words, *ranks]) + ' \\\n  --node-rank "$RANK" \\\n  --dist-init-addr "$HEAD:5000"',
                )
            )
        case _:
            raise UsageError(f"{launch.engine} does not run over {launch.num_nodes} machines")


def _command(words: Sequence[str]) -> str:
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


def _image(launch: Launch) -> str:
    try:
        return _IMAGES[launch.engine, "nvidia" if launch.vendor == "any" else launch.vendor]
    except KeyError:
        raise UsageError(f"no container image of {launch.engine} for {launch.vendor} devices is known") from None


def _container_arguments(launch: Launch) -> list[str]:
    """Arguments of the image's own program."""
    port = _PORTS[launch.engine]
    if launch.engine == "vllm":
        return ["--model", *arguments(launch)]
    return [
        *(_program(launch) if launch.engine == "sglang" else ()),
        *arguments(launch),
        "--host",
        "0.0.0.0",
        "--port",
        str(port),
    ]


def _docker(launch: Launch) -> str:
    if launch.num_nodes > 1:
        raise UsageError(
            f"--emit docker starts one machine, not {launch.num_nodes}: --emit k8s or --emit {launch.engine}"
        )
    port = _PORTS[launch.engine]
    words = ["docker", "run", "--rm"]
    if launch.vendor == "amd":
        words += ["--device", "/dev/kfd", "--device", "/dev/dri", "--group-add", "video"]
    else:
        words += ["--gpus", json.dumps("device=" + ",".join(str(index) for index in range(launch.num_devices)))]
    words += ["--ipc", "host", "--publish", f"{port}:{port}", "--env", "HF_TOKEN"]
    local = launch.model.startswith(("/", "."))
    if local:
        words += ["--volume", f"{launch.model}:{launch.model}:ro"]
    command = _command(words)
    if not local:
        command += ' \\\n  --volume "$HOME/.cache/huggingface:/root/.cache/huggingface"'
    tail = _command(["--image", *_container_arguments(launch)])
    return command + " \\\n  " + shlex.quote(_image(launch)) + tail.removeprefix("--image")


def _k8s(launch: Launch) -> str:
    port = _PORTS[launch.engine]
    name = re.sub(r"[^a-z0-9]+", "-", launch.model.rsplit("/", 1)[-1].lower()).strip("-")[:40].strip("-")
    name = name if name[:1].isalpha() else f"model-{name}".strip("-")  # a service's name begins with a letter
    resource = "amd.com/gpu" if launch.vendor == "amd" else "nvidia.com/gpu"
    if launch.num_nodes > 1:
        return _leader_worker_set(launch, name, resource, port)
    container = _pod(launch, name, resource, launch.num_devices, port, _container_arguments(launch))
    return "\n".join(
        (
            "apiVersion: apps/v1",
            "kind: Deployment",
            "metadata:",
            f"  name: {_string(name)}",
            "spec:",
            "  replicas: 1",
            "  selector:",
            f"    matchLabels: {{app: {_string(name)}}}",
            "  template:",
            "    metadata:",
            f"      labels: {{app: {_string(name)}}}",
            "    spec:",
            *(f"      {line}" for line in container),
            "---",
            "apiVersion: v1",
            "kind: Service",
            "metadata:",
            f"  name: {_string(name)}",
            "spec:",
            f"  selector: {{app: {_string(name)}}}",
            f"  ports: [{{port: {port}, targetPort: {port}}}]",
        )
    )


def _pod(
    launch: Launch, name: str, resource: str, devices: int, port: int, words: Sequence[str], command: Sequence[str] = ()
) -> list[str]:
    """The lines of a pod's spec with one container."""
    return [
        "containers:",
        f"- name: {_string(name)}",
        f"  image: {_string(_image(launch))}",
        *((f"  command: {_list(command)}",) if command else ()),
        f"  args: {_list(words)}",
        f"  ports: [{{containerPort: {port}}}]",
        "  env:",
        "  - name: HF_TOKEN",
        "    valueFrom: {secretKeyRef: {name: hf-token, key: token, optional: true}}",
        "  resources:",
        f"    limits: {{{_string(resource)}: {devices}}}",
        "  volumeMounts:",
        "  - {name: shm, mountPath: /dev/shm}",
        "volumes:",
        "- {name: shm, emptyDir: {medium: Memory}}",
    ]


def _string(text: str) -> str:
    """A YAML string in double quotes, in ASCII: every other character as its escape."""
    return '"' + "".join(_escaped(character) for character in text) + '"'


def _escaped(character: str) -> str:
    code = ord(character)
    if character in '"\\':
        return f"\\{character}"
    if 0x20 <= code < 0x7F:
        return character
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _list(words: Sequence[str]) -> str:
    return f"[{', '.join(_string(word) for word in words)}]"


def _leader_worker_set(launch: Launch, name: str, resource: str, port: int) -> str:
    devices = -(-launch.num_devices // launch.num_nodes)
    words = [*_program(launch), *arguments(launch)]
    match launch.engine:
        case "vllm":
            serve = shlex.join([*words, "--distributed-executor-backend", "ray"])
            wait = f"until [ $(ray list nodes --format json | grep -c ALIVE) -ge {launch.num_nodes} ]; do sleep 5; done"
            leader = f"ray start --head --port=6379 && {wait}; exec {serve}"
            worker = 'exec ray start --address="$LWS_LEADER_ADDRESS:6379" --block'
        case "sglang":
            serve = shlex.join([*words, "--nnodes", str(launch.num_nodes), "--host", "0.0.0.0", "--port", str(port)])
            leader = worker = (
                f'exec {serve} --node-rank "$LWS_WORKER_INDEX" --dist-init-addr "$LWS_LEADER_ADDRESS:5000"'
            )
        case _:
            raise UsageError(f"{launch.engine} does not run over {launch.num_nodes} machines")
    shell = ("/bin/sh", "-c")
    pods = [
        ("leaderTemplate", _pod(launch, f"{name}-leader", resource, devices, port, [leader], shell)),
        ("workerTemplate", _pod(launch, f"{name}-worker", resource, devices, port, [worker], shell)),
    ]
    lines = [
        "apiVersion: leaderworkerset.x-k8s.io/v1",
        "kind: LeaderWorkerSet",
        "metadata:",
        f"  name: {_string(name)}",
        "spec:",
        "  replicas: 1",
        "  leaderWorkerTemplate:",
        f"    size: {launch.num_nodes}",
    ]
    for template, pod in pods:
        lines += [f"    {template}:", "      spec:", *(f"        {line}" for line in pod)]
    return "\n".join(lines)
