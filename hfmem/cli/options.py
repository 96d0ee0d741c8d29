"""Arguments and options that several commands share, each with its unit and default in its help line.

All are words or flags: `units` and the api turn words into numbers, with messages that name the flag. A command's signature says it
all: `plain` reads a command line by it, `help` prints it, and `typed` makes the Typer command of it.
"""

from __future__ import annotations

from typing import Annotated

from hfmem.cli import completion as of
from hfmem.cli.params import BESIDE, DEVICES, ENGINE, OUTPUT, READING, Argument, Option

_MODEL_HELP = "org/name[@revision], a Hub URL, a local folder or file."

Models = Annotated[list[str], Argument(metavar="MODEL", help=_MODEL_HELP, words=of.models)]
Model = Annotated[str, Argument(metavar="MODEL", help=_MODEL_HELP, words=of.models)]
_CTX = ("--ctx", "--max-model-len", "--context-length", "--ctx-size")
_POSITIONS = "[default: the model's positions]"
Ctx = Annotated[
    str | None,
    Option(*_CTX, metavar="TOKENS", help=f"Tokens a sequence: 8192, 32k, 1m; max: the most that fits {_POSITIONS}."),
]
#: of commands that know no devices
Length = Annotated[str | None, Option(*_CTX, metavar="TOKENS", help=f"Tokens a sequence: 8192, 32k, 1m {_POSITIONS}.")]
Lengths = Annotated[
    str | None,
    Option(*_CTX, metavar="TOKENS", help=f"Tokens a sequence, one length or several: 8k,32k,128k {_POSITIONS}."),
]
_AT_ONCE = "Sequences at once, in the cache"
#: of commands that say nothing of the engine's own memory
Batch = Annotated[
    str,
    Option("--batch", "--max-num-seqs", "--max-running-requests", "--parallel", metavar="N", help=f"{_AT_ONCE}."),
]
Load = Annotated[
    str | None,
    Option(
        "--batch",
        "--max-running-requests",
        "--parallel",
        metavar="N",
        help=f"{_AT_ONCE}; max: the most that fit [default: 1, or --max-num-seqs].",
    ),
]
Users = Annotated[str | None, Option("--users", "--batch", metavar="N", help="Sequences at once [default: 1].")]
MaxNumSeqs = Annotated[
    str | None,
    Option(
        "--max-num-seqs",
        metavar="N",
        help="The engine's limit: what vLLM's profiling run samples and captures [default: vLLM's, 256 or 1024 by device].",
        section=ENGINE,
    ),
]
Eager = Annotated[
    bool, Option("--enforce-eager", "--disable-cuda-graph", help="No CUDA graphs: nothing is captured.", section=ENGINE)
]
LanguageModelOnly = Annotated[
    bool, Option("--language-model-only", help="vLLM: towers for images and sound are not loaded.", section=ENGINE)
]
KvDtype = Annotated[
    str,
    Option(
        "--kv-dtype",
        "--kv-cache-dtype",
        "--cache-type-k",
        "-ctk",
        metavar="DTYPE",
        help="Cache: auto, bf16, fp16, fp8, fp8_e5m2, int8, int4, nvfp4; llama.cpp: q8_0, q4_0 …",
    ),
]
Engine = Annotated[
    str | None,
    Option(
        "--engine",
        metavar="NAME",
        help="Rules of vllm, sglang, transformers, llama.cpp or ideal [default: vllm; GGUF, Apple: llama.cpp].",
        words=of.engines,
    ),
]
Engines = Annotated[
    str | None,
    Option(
        "--engine",
        metavar="NAMES",
        help="Rules of vllm, sglang, transformers, llama.cpp, ideal, one or several [default: vllm; GGUF, Apple: llama.cpp].",
        words=of.engines,
    ),
]
Tp = Annotated[
    str,
    Option("--tp", "--tensor-parallel-size", "--tp-size", metavar="N", help="Tensor-parallel ranks.", section=DEVICES),
]
Pp = Annotated[
    str, Option("--pp", "--pipeline-parallel-size", "--pp-size", metavar="N", help="Pipeline stages.", section=DEVICES)
]
Dp = Annotated[
    str,
    Option("--dp", "--data-parallel-size", "--dp-size", metavar="N", help="Data-parallel replicas.", section=DEVICES),
]
Ep = Annotated[
    bool, Option("--ep", "--enable-expert-parallel", help="Deal experts out whole over the ranks.", section=DEVICES)
]
AttnDp = Annotated[
    str,
    Option(
        "--attn-dp",
        "--attn-dp-size",
        "--attention-data-parallel-size",
        metavar="N",
        help="SGLang's data-parallel attention: groups among the --tp ranks.",
        section=DEVICES,
    ),
]
Dcp = Annotated[
    str,
    Option(
        "--dcp",
        "--decode-context-parallel-size",
        "-dcp",
        metavar="N",
        help="vLLM's decode context parallelism: ranks among --tp that share out tokens.",
        section=DEVICES,
    ),
]
Gpu = Annotated[
    str | None,
    Option(
        "--gpu",
        metavar="NAME",
        help="Does it fit: h100, 8xh100, 4090, 80GiB, local (hfmem devices) [default: none].",
        words=of.devices,
    ),
]
FitGpu = Annotated[
    str | None,
    Option(
        "--gpu",
        metavar="NAME",
        help="Always needed: h100, 8xh100, 4090, 80GiB, local (hfmem devices lists).",
        words=of.devices,
    ),
]
#: of commands that say nothing of what fits
OnGpu = Annotated[
    str | None,
    Option(
        "--gpu",
        metavar="NAME",
        help="What it is served on: h100, 8xh100, 4090, 80GiB, local (hfmem devices) [default: none].",
        words=of.devices,
    ),
]
PlanGpu = Annotated[
    str | None,
    Option(
        "--gpu",
        metavar="NAMES",
        help="Only these: h100,4090 or words: nvidia, sm_90 [default: all the engine runs on].",
        words=of.devices,
    ),
]
NumGpus = Annotated[
    str | None, Option("--num-gpus", "--gpus", metavar="N", help="How many of them; min: the fewest [default: 1].")
]
Utilization = Annotated[
    str | None,
    Option(
        "--utilization",
        "--gpu-memory-utilization",
        "--mem-fraction-static",
        metavar="SHARE",
        help="Share of each the engine may take, e.g. 0.9; min: the least [default: the engine's].",
    ),
]
Quant = Annotated[
    str | None,
    Option(
        "--quant", metavar="FORMAT", help="What if: fp8, int8, int4, awq, gptq, nf4, nvfp4, mxfp4, q4_k_m … or a dtype."
    ),
]
Dtype = Annotated[
    str | None, Option("--dtype", metavar="DTYPE", help="What if unquantized weights were bf16, fp16 or fp32.")
]
Emit = Annotated[
    str | None,
    Option(
        "--emit",
        metavar="KIND",
        help="Print how to launch it: vllm, sglang, llama.cpp, transformers, docker, k8s [default: none].",
        section=OUTPUT,
        words=of.kinds_of_launch,
    ),
]
Lora = Annotated[
    str | None,
    Option(
        "--lora", metavar="ADAPTER", help="A LoRA adapter (PEFT repo or folder) to serve beside it.", section=BESIDE
    ),
]
MaxLoras = Annotated[
    str | None,
    Option(
        "--max-loras", metavar="N", help="Adapters at once that the engine keeps room for [default: 1].", section=BESIDE
    ),
]
MaxLoraRank = Annotated[
    str | None,
    Option(
        "--max-lora-rank", metavar="N", help="vLLM's rank of that room [default: 16, or the adapter's].", section=BESIDE
    ),
]
Draft = Annotated[
    str | None,
    Option(
        "--draft", metavar="MODEL", help="A draft model, or mtp: the model's own prediction layers.", section=BESIDE
    ),
]
DraftTokens = Annotated[
    str | None,
    Option(
        "--draft-tokens",
        "--num-speculative-tokens",
        metavar="N",
        help="Tokens it proposes at once [default: 1 of mtp, 5 of a model; SGLang's own].",
    ),
]
Revision = Annotated[
    str | None, Option("--revision", metavar="REV", help="Branch, tag or commit [default: main].", section=READING)
]
Json = Annotated[bool, Option("--json", help="Print JSON on stdout and nothing else there.", section=OUTPUT)]
Format = Annotated[
    str | None,
    Option(
        "--format",
        metavar="KIND",
        help="table, json, markdown, csv or html [default: table].",
        section=OUTPUT,
        words=of.one_of("table", "json", "markdown", "csv", "html"),
    ),
]
Exact = Annotated[bool, Option("--bytes", help="Print exact bytes instead of GiB.", section=OUTPUT)]
Strict = Annotated[bool, Option("--strict", help="Exit 4 when config and headers disagree.", section=READING)]
Assume = Annotated[
    str | None,
    Option(
        "--assume", metavar="MODEL_TYPE", help="Read the config as this model_type, whatever it says.", section=READING
    ),
]
NoHeaders = Annotated[
    bool,
    Option("--no-headers", help="Two requests: the config and the files' sizes; weights derived.", section=READING),
]
NoCache = Annotated[bool, Option("--no-cache", help="Neither read nor write stored facts.", section=READING)]
Refresh = Annotated[bool, Option("--refresh", help="Fetch again and replace stored facts.", section=READING)]
Offline = Annotated[
    bool, Option("--offline", help="No network: stored facts, local cache, catalogue.", section=READING)
]
Verbose = Annotated[bool, Option("-v", "--verbose", help="Say on stderr what was fetched.", section=READING)]
