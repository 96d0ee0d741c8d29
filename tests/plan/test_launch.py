"""Launch commands: what a shell, YAML and Python read in them is what was meant, whatever the names hold."""

from __future__ import annotations

import ast
import json
import shlex
import subprocess
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from launches import launch, words

from hfmem.cli import main
from hfmem.errors import UsageError
from hfmem.memory.serving import LlamaCpp
from hfmem.plan.launch import KINDS, emit
from hfmem.plan.launch.flags import arguments

LLAMA = "meta-llama/Meta-Llama-3-8B"


def test_vllm_flags() -> None:
    found = words(
        emit(
            "vllm",
            launch(
                revision="abc", tp=4, pp=2, dp=2, ep=True, kv_dtype="fp8", utilization=0.92, page_size=32, quant="fp8"
            ),
        )
    )
    assert found == [
        "vllm", "serve", "org/name", "--revision", "abc", "--max-model-len", "8192", "--max-num-seqs", "8",
        "--tensor-parallel-size", "4", "--pipeline-parallel-size", "2", "--data-parallel-size", "2",
        "--enable-expert-parallel", "--kv-cache-dtype", "fp8", "--quantization", "fp8",
        "--gpu-memory-utilization", "0.92", "--block-size", "32",
    ]  # fmt: skip


def test_sglang_and_llama_cpp_flags() -> None:
    found = words(emit("sglang", launch(engine="sglang", tp=2, kv_dtype="fp8", utilization=0.836)))
    assert found == [
        "python3", "-m", "sglang.launch_server", "--model-path", "org/name", "--context-length", "8192",
        "--max-running-requests", "16", "--tp-size", "2", "--kv-cache-dtype", "fp8_e4m3", "--mem-fraction-static", "0.836",
    ]  # fmt: skip
    found = words(emit("llama.cpp", launch(engine="llama.cpp", num_seqs=2, kv_dtype="int8", quant="q4_k_m")))
    assert found[:3] == ["llama-server", "-hf", "org/name:Q4_K_M"]
    assert found[found.index("--ctx-size") + 1] == "16384"  # shared by two slots
    assert found[found.index("--cache-type-k") + 1] == found[found.index("--cache-type-v") + 1] == "q8_0"
    assert "--model" in words(emit("llama.cpp", launch(engine="llama.cpp", model="/m/x.gguf")))


def test_limits_and_what_is_left_out() -> None:
    found = words(emit("vllm", launch(num_seqs=1, max_num_seqs=64, eager=True, language_model_only=True)))
    assert found[found.index("--max-num-seqs") + 1] == "64"
    assert {"--enforce-eager", "--language-model-only"} <= set(found)
    assert "--disable-cuda-graph" in words(emit("sglang", launch(engine="sglang", eager=True)))


def test_transformers_is_python() -> None:
    for quant in (None, "nf4", "int8"):
        text = emit("transformers", launch(engine="transformers", model='a"b\\c', quant=quant))
        tree = ast.parse(text)
        name = next(n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "name")  # type: ignore[attr-defined]
        assert ast.literal_eval(name) == 'a"b\\c'
        assert ("BitsAndBytesConfig" in text) is (quant is not None)


#: what the engines' own parsers take: vLLM 0.33.0 (`AsyncEngineArgs.add_cli_args`, `entrypoints/common/cli_args.py`), SGLang 0.5.23
#: (`srt/arg_groups/fields`, `srt/server_args.py`), llama.cpp (`common/arg.cpp`)
KNOWN = {
    "vllm": """--revision --max-model-len --max-num-seqs --dtype --tensor-parallel-size --pipeline-parallel-size
        --data-parallel-size --enable-expert-parallel --kv-cache-dtype --quantization --gpu-memory-utilization
        --kv-cache-memory-bytes --max-num-batched-tokens --block-size --enable-prefix-caching --disable-prefix-caching
        --enable-lora --lora-modules --max-loras --max-lora-rank --speculative-config --distributed-executor-backend
        --data-parallel-backend --enforce-eager --language-model-only --host --port""",
    "sglang": """--model-path --revision --context-length --max-running-requests --dtype --tp-size --pp-size --dp-size
        --attn-dp-size --ep-size --kv-cache-dtype --quantization --mem-fraction-static --chunked-prefill-size --page-size
        --max-total-tokens --disable-radix-cache --disable-cuda-graph --enable-lora --lora-paths --max-loras-per-batch
        --max-lora-rank --speculative-algorithm --speculative-draft-model-path --speculative-num-steps --speculative-eagle-topk
        --speculative-num-draft-tokens --speculative-dspark-block-size --enable-dp-lm-head --nnodes --node-rank --dist-init-addr
        --host --port""",
    "llama.cpp": """--model -hf --hf-file --ctx-size --parallel --n-gpu-layers --n-cpu-moe --flash-attn --split-mode --cache-type-k
        --cache-type-v --swa-full --kv-unified --ubatch-size --batch-size --no-kv-offload --lora
        --spec-draft-model --spec-draft-hf --spec-type --spec-draft-n-max --host --port""",
}
#: and the words that they take for a cache's format
CACHES = {
    "vllm": {"fp8", "fp8_e5m2", "fp8_per_token_head", "int8_per_token_head", "int4_per_token_head", "nvfp4", "bfloat16",
             "float16"},
    "sglang": {"fp8_e5m2", "fp8_e4m3", "bf16", "nvfp4", "mxfp8", "fp4_mx_block16"},
    "llama.cpp": {"f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"},
}  # fmt: skip
EVERYTHING: dict[str, Any] = {
    "revision": "abc", "tp": 4, "pp": 4, "dp": 2, "ep": True, "utilization": 0.9, "max_num_batched_tokens": 4096,
    "page_size": 64, "dtype": "half", "lora": "a/b", "max_loras": 2, "max_lora_rank": 32, "gpus_per_node": 8,
    "beyond_positions": True,
}  # fmt: skip


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama.cpp"])
def test_every_flag_is_the_engines_own(engine: str) -> None:
    known = frozenset(KNOWN[engine].split())
    own = {"sglang": {"attn_dp": 2}, "vllm": {}}.get(engine, {"gpus_per_node": None})
    told = LlamaCpp(20, 4, "q8_0", True, True) if engine == "llama.cpp" else LlamaCpp()
    seen: set[str] = set()
    for more in (
        {},
        EVERYTHING | own,
        {
            "quant": "fp8",
            "kv_memory_bytes": 1 << 30,
            "draft": "mtp",
            "draft_method": "mtp",
            "enable_prefix_caching": False,
        },
        {"draft": "x/y", "draft_tokens": 3, "enable_prefix_caching": True, "llama_cpp": told},
        {"model": "/m/x.gguf", "draft": "/m/y.gguf"},
    ):
        for kind in (engine, "docker", "k8s"):
            try:
                text = emit(kind, launch(engine=engine, **more))
            except UsageError:  # several machines in one container, or an engine that does not run over them
                continue
            if kind == "k8s":
                pods = [pod for document in yaml.safe_load_all(text) for pod in containers(document)]
                lines = [pod["args"][0] if "/bin/sh" in pod["command"] else shlex.join(pod["args"]) for pod in pods]
            else:
                lines = [text[text.index(program_of(engine, kind)) :]]
            for line in lines:
                found = line[line.index("vllm serve") :] if "vllm serve" in line else line
                found = found if "ray start" not in found else ""
                seen |= {word for word in words(found) if word.startswith("-") and word != "-m"}
    assert seen <= known, seen - known
    assert len(seen) > len(known) // 2


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama.cpp"])
def test_every_cache_format_is_the_engines_own(engine: str) -> None:
    flag, found = "--cache-type-k" if engine == "llama.cpp" else "--kv-cache-dtype", set()
    for name in ("fp8", "fp8_e5m2", "fp8_per_token_head", "bf16", "fp16", "fp32", "int8", "int4", "nvfp4", "q5_1"):
        try:
            args = words(emit(engine, launch(engine=engine, kv_dtype=name)))
        except UsageError:  # the engine has no such cache
            continue
        found.add(args[args.index(flag) + 1])
    assert found <= CACHES[engine] and len(found) >= 4


def program_of(engine: str, kind: str) -> str:
    """Where the engine's own arguments begin in a command."""
    if kind == "docker":
        return {"vllm": "vllm-openai", "sglang": "lmsysorg", "llama.cpp": "ghcr.io"}[engine]
    return {"vllm": "vllm serve", "sglang": "python3 -m", "llama.cpp": "llama-server"}[engine]


def containers(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every container of a manifest."""
    spec = document["spec"]
    if document["kind"] == "Deployment":
        return list(spec["template"]["spec"]["containers"])
    if document["kind"] == "LeaderWorkerSet":
        group = spec["leaderWorkerTemplate"]
        return [pod for part in ("leaderTemplate", "workerTemplate") for pod in group[part]["spec"]["containers"]]
    return []


def test_llama_cpp_wants_gguf() -> None:
    assert emit("llama.cpp", launch(engine="llama.cpp", is_gguf=False)).startswith("# llama.cpp reads GGUF")
    assert emit("llama.cpp", launch(engine="llama.cpp", is_gguf=True)).startswith("llama-server")


NASTY = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=40)


@given(model=NASTY, revision=NASTY)
def test_names_are_quoted(model: str, revision: str) -> None:
    named = launch(model=model, revision=revision)
    reference = f"./{model}" if model.startswith("-") else model
    found = words(emit("vllm", named))
    assert found[2] == reference
    assert found[found.index("--revision") + 1] == revision
    docker = words(emit("docker", named).replace('"$HOME/', '"/home/'))
    assert reference in docker and revision in docker
    pod = next(iter(yaml.safe_load_all(emit("k8s", named))))
    args = pod["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[:4] == ["serve", reference, "--revision", revision]


def test_a_shell_runs_nothing_of_a_name(tmp_path: Any) -> None:
    """Bash itself splits the command: no part of the name is run."""
    evil = 'x\'; touch "$(pwd)/owned"; `touch owned`; $(touch owned) #'
    for kind, engine in (("vllm", "vllm"), ("sglang", "sglang"), ("docker", "vllm")):
        text = emit(kind, launch(engine=engine, model=evil))
        program = words(text)[0]
        script = f"{program}() {{ printf '%s\\0' \"$@\"; }}\n{text}"
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert evil in done.stdout.split("\0")
    assert list(tmp_path.iterdir()) == []


def test_manifests_are_kubernetes_objects() -> None:
    deployment, service = yaml.safe_load_all(emit("k8s", launch(model="Org/7B_Chat.v1", tp=4, gpus_per_node=8)))
    assert deployment["kind"] == "Deployment" and service["kind"] == "Service"
    name = deployment["metadata"]["name"]
    assert name == service["metadata"]["name"] == "model-7b-chat-v1"
    pod = deployment["spec"]["template"]
    assert pod["metadata"]["labels"] == deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 4}
    amd = next(iter(yaml.safe_load_all(emit("k8s", launch(vendor="amd")))))
    assert amd["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] == {"amd.com/gpu": 1}


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_several_machines(engine: str) -> None:
    wide = launch(engine=engine, tp=8, pp=2, gpus_per_node=8)
    (group,) = yaml.safe_load_all(emit("k8s", wide))
    template = group["spec"]["leaderWorkerTemplate"]
    assert (group["kind"], template["size"]) == ("LeaderWorkerSet", 2)
    for part in ("leaderTemplate", "workerTemplate"):
        container = template[part]["spec"]["containers"][0]
        assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
        assert container["command"] == ["/bin/sh", "-c"]
        subprocess.run(["bash", "-n", "-c", container["args"][0]], check=True)
    text = emit(engine, wide)
    assert "ray start --head" in text if engine == "vllm" else "--nnodes 2" in text
    three = emit(engine, launch(engine=engine, tp=8, pp=3, gpus_per_node=8))
    assert (
        "# on each of the other 2:" if engine == "vllm" else "# on each of the 3 machines, RANK from 0 to 2"
    ) in three
    subprocess.run(["bash", "-n", "-c", text], check=True)
    with pytest.raises(UsageError, match="one machine"):
        emit("docker", wide)
    with pytest.raises(UsageError, match="does not run over 2 machines"):
        emit("llama.cpp", launch(engine="llama.cpp", pp=16, gpus_per_node=8))


def test_what_cannot_be_emitted() -> None:
    with pytest.raises(UsageError, match="is not one of"):
        emit("podman", launch())
    with pytest.raises(UsageError, match="goes with --engine sglang"):
        emit("sglang", launch())
    with pytest.raises(UsageError, match="not transformers"):
        emit("docker", launch(engine="transformers"))
    with pytest.raises(UsageError, match="has no int4 cache"):
        arguments(launch(engine="sglang", kv_dtype="int4"))
    with pytest.raises(UsageError, match="no container image"):
        emit("docker", launch(vendor="intel"))


def test_a_format_that_needs_its_own_checkpoint_is_said() -> None:
    assert emit("vllm", launch(quant="int4")).startswith("# needs a checkpoint")
    assert not emit("vllm", launch(quant="fp8")).startswith("#")


def test_a_given_pool_is_said_to_the_engine(capsys: pytest.CaptureFixture[str]) -> None:
    """4 GiB hold 32,768 tokens of 128 KiB (Llama 3 8B): SGLang is told the tokens, vLLM the bytes, which replace its share."""
    asked = ("fit", LLAMA, "--offline", "--gpu", "h100", "--ctx", "8k", "--kv-memory", "4GiB")
    _, out, _ = run(capsys, *asked, "--engine", "sglang", "--emit", "sglang")
    found = words(out)
    assert found[found.index("--max-total-tokens") + 1] == "32768"
    _, out, _ = run(capsys, *asked[:-2], "--max-total-tokens", "20k", "--engine", "sglang", "--emit", "sglang")
    found = words(out)
    assert found[found.index("--max-total-tokens") + 1] == "20480" and "--mem-fraction-static" in found
    _, out, _ = run(capsys, *asked, "--emit", "vllm")
    found = words(out)
    assert found[found.index("--kv-cache-memory-bytes") + 1] == str(4 << 30) and "--gpu-memory-utilization" not in found
    assert "--max-total-tokens" not in found


def test_dtypes_are_words_that_the_engines_take() -> None:
    """vLLM takes auto, half, float16, bfloat16, float and float32; fp32 weights are counted in the 16 bits that it loads them in,
    so that the command must not ask for float32."""
    for word, flags in (("half", ["float16"]), ("torch.bfloat16", ["bfloat16"]), ("float32", []), ("fp8", [])):
        found = words(emit("vllm", launch(dtype=word)))
        assert found[found.index("--dtype") + 1 :][:1] == flags if flags else "--dtype" not in found
    assert emit("vllm", launch(dtype="fp8")).startswith("# needs a checkpoint")


def run(capsys: pytest.CaptureFixture[str], *line: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(list(line))
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def test_emit_prints_the_settings_that_fit(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(
        capsys, "fit", LLAMA, "--offline", "--gpu", "2x4090", "--ctx", "max", "--batch", "4", "--emit", "vllm"
    )
    assert status == 0
    found = words(out)
    context = int(found[found.index("--max-model-len") + 1])
    assert found[found.index("--tensor-parallel-size") + 1] == "2"
    status, out, _ = run(
        capsys, "fit", LLAMA, "--offline", "--gpu", "2x4090", "--batch", "4", "--ctx", str(context), "--json"
    )
    assert status == 0 and json.loads(out)["fit"]["max_context"] == context
    for kind in KINDS:
        engine = kind if kind in ("sglang", "llama.cpp", "transformers") else "vllm"
        status, out, _ = run(
            capsys, "fit", LLAMA, "--offline", "--gpu", "h100", "--engine", engine, "--emit", kind, "--ctx", "8k"
        )
        assert status == 0 and LLAMA in out, kind
    status, out, _ = run(capsys, "fit", LLAMA, "--offline", "--gpu", "8GiB", "--ctx", "8k", "--emit", "vllm")
    assert status == 1 and "vllm serve" not in out
