"""Time the command line as whole processes: start-up against `import typer`, and reading models against other tools.

    python scripts/bench_cli.py [--runs 7] [--peers PYTHON] [--json FILE]

Start-up rows need no network. The other rows run against a local Hub (tests/hub_server.py, in a process of its own) at 0 and 50 ms
a request, with a Llama of 291 tensors in one file and in 4 shards and a 161-shard DeepSeek-V3 of 92,000, with and without the Hub's
metadata route ("mirror"); every tool reads the same server in the same run, in turn, each run a fresh process with nothing stored
between runs.
`--peers` names a Python that has hf-mem and kvfit installed (their dependencies may clash with ours); a tool that is not there, or
cannot read the server, is a row that says so. Both ignore HF_ENDPOINT: for the measurement their base address is set from outside.
kvfit reads the config and the files' sizes alone, as `hfmem --no-headers` does; the other tools read headers.
Run it with an installed hfmem (`pip install .`): a checkout may be compiled anew at every start.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SINGLE = "bench/one-file"
SMALL = "bench/four-shards"
LARGE = "bench/many-shards"

HUB = """
import sys
from huggingface_hub import get_safetensors_metadata
found = get_safetensors_metadata(sys.argv[1])
print(sum(found.parameter_count.values()))
"""
HF_MEM = """
import sys
import httpx2 as httpx
endpoint, build = sys.argv.pop(1), httpx.AsyncClient.build_request
def rewritten(self, method, url, **options):
    return build(self, method, str(url).replace("https://huggingface.co", endpoint), **options)
httpx.AsyncClient.build_request = rewritten
from hf_mem.cli import main
sys.exit(main())
"""
KVFIT = """
import sys
import kvfit.hf as hf
hf.HF_BASE = sys.argv.pop(1)
import kvfit.cli as cli
for module in list(sys.modules.values()):
    if getattr(module, "HF_BASE", None) == "https://huggingface.co":
        module.HF_BASE = hf.HF_BASE
sys.exit(cli.main())
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured command: median, fastest and slowest wall seconds; requests and bytes as the server counted them."""

    group: str
    name: str
    seconds: float | None
    low: float | None
    high: float | None
    requests: int | None = None
    bytes_read: int | None = None
    note: str = ""


def llama_tensors() -> list[tuple[str, str, tuple[int, ...]]]:
    """Names and shapes of an 8 B Llama: 291 tensors."""
    found: list[tuple[str, str, tuple[int, ...]]] = [("model.embed_tokens.weight", "BF16", (128256, 4096))]
    for layer in range(32):
        base = f"model.layers.{layer}"
        for name, shape in (
            ("self_attn.q_proj", (4096, 4096)),
            ("self_attn.k_proj", (1024, 4096)),
            ("self_attn.v_proj", (1024, 4096)),
            ("self_attn.o_proj", (4096, 4096)),
            ("mlp.gate_proj", (14336, 4096)),
            ("mlp.up_proj", (14336, 4096)),
            ("mlp.down_proj", (4096, 14336)),
            ("input_layernorm", (4096,)),
            ("post_attention_layernorm", (4096,)),
        ):
            found.append((f"{base}.{name}.weight", "BF16", shape))
    return [*found, ("model.norm.weight", "BF16", (4096,)), ("lm_head.weight", "BF16", (128256, 4096))]


DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "torch_dtype": "bfloat16",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "num_nextn_predict_layers": 1,
    "topk_method": "noaux_tc",
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "tie_word_embeddings": False,
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
}


def moe_tensors() -> list[tuple[str, str, tuple[int, ...]]]:
    """The tensors of DeepSeek-V3 by its family's inventory, the matrices in FP8 with a scale for each 128 × 128 block."""
    from hfmem.model.families.registry import read_architecture

    found: list[tuple[str, str, tuple[int, ...]]] = []
    for spec in read_architecture(DEEPSEEK).tensors:
        packed = "_proj" in spec.pattern and len(spec.shape) == 2 and "eh_proj" not in spec.pattern
        for box in spec.boxes:
            for values in itertools.product(*box):
                name = spec.pattern.format(*values)
                found.append((name, "F8_E4M3" if packed else "BF16", spec.shape))
                if packed:
                    rows, columns = spec.shape
                    found.append((f"{name}_scale_inv", "F32", (-(-rows // 128), -(-columns // 128))))
    return found


def split(tensors: list[tuple[str, str, tuple[int, ...]]], shards: int) -> dict[str, list[Any]]:
    """Consecutive tensors dealt over `shards` files."""
    size = -(-len(tensors) // shards)
    return {f"model-{i + 1:05d}-of-{shards:05d}.safetensors": tensors[i * size : (i + 1) * size] for i in range(shards)}


def serve(pipe: Connection) -> None:
    """The server's process: answers commands of the benchmark until it is closed."""
    sys.path.insert(0, str(ROOT / "tests"))
    from hub_server import HubServer, shard, sharded  # type: ignore[import-not-found, unused-ignore]

    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    }
    with HubServer() as hub:
        hub.add(SINGLE, {"config.json": config, "model.safetensors": shard(llama_tensors())})
        hub.add(SMALL, {"config.json": config, **sharded(split(llama_tensors(), 4))})
        hub.add(LARGE, {"config.json": DEEPSEEK, **sharded(split(moe_tensors(), 161))})
        pipe.send(hub.url)
        while True:
            command, value = pipe.recv()
            if command == "latency":
                hub.latency = value
            elif command == "metadata_route":
                hub.metadata_route = value
            elif command == "clear":
                hub.clear()
            elif command == "counts":
                log = hub.requests()
                pipe.send((len(log), sum(entry.sent for entry in log)))
                continue
            else:
                return
            pipe.send(None)


class Hub:
    """The server process, from the benchmark's side."""

    def __init__(self) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        self.url: str = self._pipe.recv()

    def ask(self, command: str, value: Any = None) -> Any:
        """Send one command and return the answer."""
        self._pipe.send((command, value))
        return self._pipe.recv()

    def close(self) -> None:
        """Stop the process."""
        self._pipe.send(("stop", None))
        self._process.join(5)


def run(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """Wall seconds of one process, and why it failed ("" when it did not)."""
    home = environment["HF_HOME"]  # not the checkout, which `-m` would prefer to what is installed
    started = time.perf_counter()
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        return seconds, f"exit {done.returncode}: {last[0][:90]}"
    return seconds, ""


def measure(
    group: str, commands: dict[str, list[str]], runs: int, environment: dict[str, str], hub: Hub | None = None
) -> list[Row]:
    """Run the commands in turn, `runs` rounds after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    counts: dict[str, tuple[int, int]] = {}
    failed: dict[str, str] = {}
    for number in range(runs + 1):
        for name, command in commands.items():
            if name in failed:
                continue
            if hub is not None:
                hub.ask("clear")
            seconds, trouble = run(command, environment)
            if trouble:
                failed[name] = trouble
            elif number:
                times[name].append(seconds)
            if hub is not None:
                counts[name] = hub.ask("counts")
    rows = []
    for name, values in times.items():
        if name in failed:
            rows.append(Row(group, name, None, None, None, note=failed[name]))
        else:
            rows.append(
                Row(group, name, statistics.median(values), min(values), max(values), *counts.get(name, (None, None)))
            )
    return rows


def main() -> None:
    """Measure everything and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="counted runs of each command [default: 7]")
    parser.add_argument("--peers", metavar="PYTHON", default=sys.executable, help="a Python that has hf-mem and kvfit")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows here too")
    options = parser.parse_args()
    python = sys.executable
    hfmem = [python, "-m", "hfmem"]
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "HF_HOME": home, "HFMEM_CACHE": f"{home}/facts"}
        environment.pop("HF_TOKEN", None)
        environment.pop("HF_HUB_OFFLINE", None)
        rows = measure(
            "start-up",
            {
                "python -c 'import typer'": [python, "-c", "import typer"],
                "hfmem --help": [*hfmem, "--help"],
                "hfmem MODEL --offline (catalogue)": [
                    *hfmem,
                    "meta-llama/Meta-Llama-3-8B",
                    "--ctx",
                    "128k",
                    "--offline",
                ],
                "hf-mem --help": [options.peers, "-c", HF_MEM, "-", "--help"],
                "kvfit --help": [options.peers, "-c", KVFIT, "-", "--help"],
            },
            options.runs,
            environment,
        )
        hub = Hub()
        try:
            environment["HF_ENDPOINT"] = hub.url
            for latency in (0.0, 0.05):
                hub.ask("latency", latency)
                for title, model in (
                    ("1 file, 291 tensors", SINGLE),
                    ("4 shards, 291 tensors", SMALL),
                    ("161 shards, 92,000 tensors", LARGE),
                ):
                    for route in (True, False):
                        hub.ask("metadata_route", route)
                        group = f"{title}, {latency * 1000:.0f} ms a request" + ("" if route else ", mirror")
                        commands = {
                            "hfmem": [*hfmem, model, "--no-cache"],
                            "hfmem --no-headers": [*hfmem, model, "--no-cache", "--no-headers"],
                            "huggingface_hub get_safetensors_metadata": [python, "-c", HUB, model],
                            "hf-mem": [options.peers, "-c", HF_MEM, hub.url, "--model-id", model],
                            "kvfit": [
                                options.peers,
                                "-c",
                                KVFIT,
                                hub.url,
                                model,
                                "--hardware",
                                "custom:80",
                                "--context",
                                "8192",
                            ],
                        }
                        rows += measure(group, commands, options.runs, environment, hub)
        finally:
            hub.close()
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            print(f"\n**{group}**\n\n| command | median | range | requests | bytes |\n|---|---|---|---|---|")
        if row.seconds is None or row.low is None or row.high is None:
            print(f"| {row.name} | – | {row.note} | | |")
            continue
        asked = "" if row.requests is None else str(row.requests)
        read = "" if row.bytes_read is None else f"{row.bytes_read:,}"
        print(
            f"| {row.name} | {row.seconds * 1000:,.0f} ms | {row.low * 1000:,.0f}–{row.high * 1000:,.0f} | {asked} | {read} |"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
