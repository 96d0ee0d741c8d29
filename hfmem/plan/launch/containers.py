"""Docker commands and Kubernetes manifests around an engine's arguments; strings are quoted for the shell or for YAML."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Final

from hfmem.checkpoint.gguf_names import parse_name
from hfmem.errors import UsageError
from hfmem.plan.launch.flags import arguments
from hfmem.plan.launch.settings import Launch
from hfmem.plan.launch.words import command_text, environment, on_ray, program

_IMAGES: Final[dict[tuple[str, str], str]] = {
    ("vllm", "nvidia"): "vllm/vllm-openai:v0.33.0",
    ("vllm", "amd"): "vllm/vllm-openai-rocm:v0.33.0",
    ("sglang", "nvidia"): "lmsysorg/sglang:v0.5.23",
    ("llama.cpp", "nvidia"): "ghcr.io/ggml-org/llama.cpp:server-cuda",
    ("llama.cpp", "amd"): "ghcr.io/ggml-org/llama.cpp:server-rocm",
}
#: what a container runs, whatever the image's entry point is
_PROGRAMS: Final[dict[str, tuple[str, ...]]] = {
    "vllm": ("vllm", "serve"),
    "sglang": ("python3", "-m", "sglang.launch_server"),
    "llama.cpp": ("/app/llama-server",),
}
_PORTS: Final[dict[str, int]] = {"vllm": 8000, "sglang": 30000, "llama.cpp": 8080}


def _port(launch: Launch) -> int:
    if launch.engine not in _PORTS:
        raise UsageError(f"containers run vllm, sglang or llama.cpp here, not {launch.engine} (--engine)")
    return _PORTS[launch.engine]


def _image(launch: Launch) -> str:
    try:
        return _IMAGES[launch.engine, "nvidia" if launch.vendor == "any" else launch.vendor]
    except KeyError:
        raise UsageError(f"no container image of {launch.engine} for {launch.vendor} devices is known") from None


def _container_arguments(launch: Launch) -> list[str]:
    """Arguments of the program, its subcommand first."""
    serve = ["--host", "0.0.0.0", "--port", str(_PORTS[launch.engine])]
    return [*_PROGRAMS[launch.engine][1:], *arguments(launch), *serve]


def docker(launch: Launch) -> str:
    """One `docker run`.

    Raises:
        UsageError: an engine that does not run so, or several machines.
    """
    if launch.num_nodes > 1:
        raise UsageError(
            f"--emit docker starts one machine, not {launch.num_nodes}: --emit k8s or --emit {launch.engine}"
        )
    port = _port(launch)
    words = ["docker", "run", "--rm"]
    if launch.vendor == "amd":
        words += ["--device", "/dev/kfd", "--device", "/dev/dri", "--group-add", "video"]
    else:
        words += ["--gpus", '"device=' + ",".join(str(index) for index in range(launch.num_devices)) + '"']
    words += ["--ipc", "host", "--publish", f"{port}:{port}", "--env", "HF_TOKEN"]
    words += [word for name, value in environment(launch) for word in ("--env", f"{name}={value}")]
    words += ["--entrypoint", _PROGRAMS[launch.engine][0]]
    local = launch.model.startswith(("/", "."))
    if local:  # all parts of a model that is split into files
        split = parse_name(launch.model).parts > 1
        mounted = launch.model.rpartition("/")[0] if split else launch.model
        words += ["--volume", f"{mounted}:{mounted}:ro"]
    command = command_text(words)
    if not local:
        command += ' \\\n  --volume "$HOME/.cache/huggingface:/root/.cache/huggingface"'
    tail = command_text(["--image", *_container_arguments(launch)])
    return command + " \\\n  " + shlex.quote(_image(launch)) + tail.removeprefix("--image")


def k8s(launch: Launch) -> str:
    """A Deployment with its Service, or a LeaderWorkerSet where several machines serve.

    Raises:
        UsageError: an engine that does not run so.
    """
    port = _port(launch)
    name = re.sub(r"[^a-z0-9]+", "-", launch.model.rsplit("/", 1)[-1].lower()).strip("-")[:40].strip("-")
    name = name if name[:1].isalpha() else f"model-{name}".strip("-")  # a service's name begins with a letter
    resource = "amd.com/gpu" if launch.vendor == "amd" else "nvidia.com/gpu"
    if launch.num_nodes > 1:
        return _leader_worker_set(launch, name, resource, port)
    container = _pod(
        launch, name, resource, launch.num_devices, port, _container_arguments(launch), _PROGRAMS[launch.engine][:1]
    )
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
        *(line for key, value in environment(launch) for line in (f"  - name: {key}", f"    value: {_string(value)}")),
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
    words = [*program(launch), *arguments(launch)]
    match launch.engine:
        case "vllm":
            serve = shlex.join([*words, *on_ray(launch), "--host", "0.0.0.0", "--port", str(port)])
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
