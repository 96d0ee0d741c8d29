"""Options of the engine itself: its step, pages and pools, and where llama.cpp puts layers. Words and flags, as in `options`."""

from __future__ import annotations

from typing import Annotated

from hfmem.cli.params import ENGINE, LLAMA_CPP, Option

BatchedTokens = Annotated[
    str | None,
    Option(
        "--max-num-batched-tokens",
        "--chunked-prefill-size",
        metavar="TOKENS",
        help="Tokens of one engine step [default: the engine's].",
        section=ENGINE,
    ),
]
PageSize = Annotated[
    str | None,
    Option(
        "--page-size",
        "--block-size",
        metavar="TOKENS",
        help="Tokens of a cache page [default: the engine's].",
        section=ENGINE,
    ),
]
PrefixCaching = Annotated[
    bool, Option("--enable-prefix-caching", help="vLLM: cache prefixes of pure state-space models too.", section=ENGINE)
]
NoPrefixCaching = Annotated[
    bool,
    Option(
        "--no-prefix-caching",
        "--disable-prefix-caching",
        "--no-enable-prefix-caching",
        "--disable-radix-cache",
        help="vLLM, SGLang: no prefixes are cached: recurrent layers keep one state a sequence.",
        section=ENGINE,
    ),
]
StateDtype = Annotated[
    str | None,
    Option(
        "--state-dtype",
        "--mamba-ssm-cache-dtype",
        "--mamba-ssm-dtype",
        metavar="DTYPE",
        help="vLLM, SGLang: recurrent states in bf16, fp16 or fp32 [default: the engine's].",
        section=ENGINE,
    ),
]
SwaRatio = Annotated[
    str | None,
    Option(
        "--swa-full-tokens-ratio",
        metavar="RATIO",
        help="SGLang: tokens of the windowed pool to those of the full one [default: 0.8].",
        section=ENGINE,
    ),
]
MambaRatio = Annotated[
    str | None,
    Option(
        "--mamba-full-memory-ratio",
        metavar="RATIO",
        help="SGLang: memory of recurrent states to the cache's [default: 0.9].",
        section=ENGINE,
    ),
]
TotalTokens = Annotated[
    str | None,
    Option(
        "--max-total-tokens",
        metavar="N",
        help="SGLang: the most tokens of its pool [default: what the memory holds].",
        section=ENGINE,
    ),
]
CacheImplementation = Annotated[
    str | None,
    Option(
        "--cache-implementation",
        metavar="NAME",
        help="transformers: dynamic, static, offloaded or offloaded_static [default: dynamic].",
        section=ENGINE,
    ),
]
OneKind = Annotated[
    bool,
    Option(
        "--disable-hybrid-kv-cache-manager",
        help="vLLM: windowed layers keep every token.",
        section=ENGINE,
    ),
]
Synchronous = Annotated[
    bool,
    Option("--no-async-scheduling", help="vLLM: no step is scheduled before the last one is done.", section=ENGINE),
]
CpuOffload = Annotated[
    str | None,
    Option(
        "--cpu-offload-gb",
        metavar="GIB",
        help="vLLM: GiB of weights that each rank may leave in the host's memory [default: 0].",
        section=ENGINE,
    ),
]
KvMemory = Annotated[
    str | None,
    Option(
        "--kv-memory",
        "--kv-cache-memory-bytes",
        metavar="BYTES",
        help="One rank's cache pool: 24GiB, 24GB, 80g or bytes [default: none].",
        section=ENGINE,
    ),
]
GpuBlocks = Annotated[
    str | None, Option("--num-gpu-blocks-override", metavar="N", help="vLLM: blocks of the pool.", section=ENGINE)
]
SourceTokens = Annotated[
    str | None,
    Option(
        "--source-tokens",
        metavar="TOKENS",
        help="Encoder tokens a sequence [default: the encoder's maximum].",
        section=ENGINE,
    ),
]
Overhead = Annotated[
    str | None,
    Option(
        "--overhead",
        metavar="PERCENT",
        help="Flat share of weights and cache instead of estimates, e.g. 10%.",
        section=ENGINE,
    ),
]
Ngl = Annotated[
    str | None,
    Option(
        "--ngl",
        "-ngl",
        "--n-gpu-layers",
        "--gpu-layers",
        metavar="N",
        help="Layers on the devices, the output counted as one; max: as many as fit [default: all].",
        section=LLAMA_CPP,
    ),
]
NCpuMoe = Annotated[
    str | None,
    Option(
        "--n-cpu-moe",
        "-ncmoe",
        metavar="N",
        help="Routed experts of the first N layers on the host; min: of the fewest with which it fits.",
        section=LLAMA_CPP,
    ),
]
CacheTypeV = Annotated[
    str | None,
    Option(
        "--cache-type-v",
        "-ctv",
        metavar="DTYPE",
        help="The values' type [default: the keys', --kv-dtype].",
        section=LLAMA_CPP,
    ),
]
FlashAttn = Annotated[
    str | None,
    Option(
        "--flash-attn",
        "-fa",
        metavar="auto|on|off",
        help="Flash attention; off: the scores are in the compute buffer [default: auto].",
        section=LLAMA_CPP,
    ),
]
Ubatch = Annotated[
    str | None,
    Option("--ubatch-size", "-ub", metavar="TOKENS", help="Tokens of a micro-batch [default: 512].", section=LLAMA_CPP),
]
NoKvOffload = Annotated[
    bool, Option("--no-kv-offload", "-nkvo", help="The cache stays on the host.", section=LLAMA_CPP)
]
SwaFull = Annotated[bool, Option("--swa-full", help="Windowed layers keep every token.", section=LLAMA_CPP)]
KvUnified = Annotated[
    bool,
    Option("--kv-unified", "-kvu", help="One context for all sequences, not one each.", section=LLAMA_CPP),
]
