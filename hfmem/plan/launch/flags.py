"""The arguments of each engine for the settings of a launch, unquoted.

Flags as read from vLLM 0.33 (`engine/arg_utils.py`, `config/cache.py`), SGLang 0.5.23 (`srt/arg_groups/fields`) and llama.cpp of
October 2026 (`common/arg.cpp`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from hfmem.dtypes import dtype_word
from hfmem.errors import UsageError
from hfmem.plan.launch import drafting
from hfmem.plan.launch.words import reference
from hfmem.units import GIB

if TYPE_CHECKING:
    from hfmem.plan.launch.settings import Launch

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
_SGLANG_CACHE: Final[dict[str, str]] = {
    "fp8": "fp8_e4m3",
    **{name: name for name in ("fp8_e5m2", "bf16", "nvfp4", "mxfp8", "fp4_mx_block16")},
}
_LLAMA_CACHE: Final[dict[str, str]] = {
    "fp16": "f16",
    "bf16": "bf16",
    "fp32": "f32",
    "int8": "q8_0",
    "int4": "q4_0",
    **{name: name for name in ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")},
}
#: llama.cpp's `--batch-size` default, which a micro-batch is no more than
_BATCH: Final = 2048
#: `quant` words that vLLM and SGLang apply to an unquantized checkpoint while loading it
ON_THE_FLY: Final = frozenset({"fp8"})
#: `dtype` words → vLLM's and SGLang's; fp32 weights they load in 16 bits where nothing is said
_DTYPES: Final[dict[str, str]] = {"bf16": "bfloat16", "fp16": "float16"}

#: the same of recurrent states
_STATES: Final[dict[str, str]] = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def arguments(launch: Launch) -> list[str]:
    """The engine's arguments after the program, unquoted.

    Raises:
        UsageError: an engine that no command starts, or a setting that it does not have.
    """
    match launch.engine:
        case "vllm":
            return _vllm(launch)
        case "sglang":
            return _sglang(launch)
        case "llama.cpp":
            return _llama_cpp(launch)
        case _:
            raise UsageError(f"{launch.engine} is not started by a command (--emit transformers prints a script)")


def _vllm(launch: Launch) -> list[str]:
    words = [reference(launch.model), *_set("--revision", launch.revision), "--max-model-len", str(launch.context)]
    at_once = -(-launch.num_seqs // launch.dp) if launch.num_seqs > 1 else None
    words += _set("--max-num-seqs", launch.max_num_seqs or at_once)
    words += ["--enforce-eager"] if launch.eager else []
    words += ["--language-model-only"] if launch.language_model_only else []
    words += _dtype(launch)
    for flag, size in (
        ("--tensor-parallel-size", launch.tp),
        ("--pipeline-parallel-size", launch.pp),
        ("--data-parallel-size", launch.dp),
        ("--decode-context-parallel-size", launch.dcp),
    ):
        words += _set(flag, size if size > 1 else None)
    words += ["--enable-expert-parallel"] if launch.ep else []
    words += _cache("--kv-cache-dtype", launch.kv_dtype, _VLLM_CACHE, "vLLM")
    words += ["--quantization", launch.quant] if launch.quant in ON_THE_FLY and launch.quant else []
    given = launch.kv_memory_bytes is not None or launch.num_gpu_blocks is not None
    share = None if given else launch.utilization  # a pool that is given replaces the share
    words += _set("--gpu-memory-utilization", None if share is None else f"{share:g}")
    words += _set("--kv-cache-memory-bytes", launch.kv_memory_bytes)
    words += _set("--num-gpu-blocks-override", launch.num_gpu_blocks)
    words += _set("--max-num-batched-tokens", launch.max_num_batched_tokens)
    words += _set("--block-size", launch.page_size)
    words += _set("--mamba-ssm-cache-dtype", _STATES.get(launch.state_dtype or ""))
    words += ["--disable-hybrid-kv-cache-manager"] if launch.one_kind_of_page else []
    words += ["--no-async-scheduling"] if launch.synchronous else []
    words += _set("--cpu-offload-gb", f"{launch.cpu_offload_bytes / GIB:.12g}" if launch.cpu_offload_bytes else None)
    match launch.enable_prefix_caching:
        case True:
            words.append("--enable-prefix-caching")
        case False:
            words.append("--disable-prefix-caching")
    if launch.lora is not None:
        words += ["--enable-lora", "--lora-modules", f"adapter={launch.lora}"]
        words += [*_set("--max-loras", launch.max_loras), *_set("--max-lora-rank", launch.max_lora_rank)]
    return words + drafting.vllm(launch)


def _sglang(launch: Launch) -> list[str]:
    words = ["--model-path", reference(launch.model), *_set("--revision", launch.revision)]
    words += ["--context-length", str(launch.context)]
    words += _set("--max-running-requests", launch.max_num_seqs or (launch.num_seqs if launch.num_seqs > 1 else None))
    words += ["--disable-cuda-graph"] if launch.eager else []
    words += _dtype(launch)
    for flag, size in (
        ("--tp-size", launch.tp),
        ("--pp-size", launch.pp),
        ("--dp-size", launch.dp),
        ("--attn-dp-size", launch.attn_dp),
    ):
        words += _set(flag, size if size > 1 else None)
    words += _set("--ep-size", launch.tp if launch.ep else None)
    words += _cache("--kv-cache-dtype", launch.kv_dtype, _SGLANG_CACHE, "SGLang")
    words += ["--quantization", launch.quant] if launch.quant in ON_THE_FLY and launch.quant else []
    words += _set("--mem-fraction-static", None if launch.utilization is None else f"{launch.utilization:g}")
    words += _set("--max-total-tokens", launch.pool_tokens)
    words += _set("--chunked-prefill-size", launch.max_num_batched_tokens)
    words += _set("--page-size", launch.page_size)
    words += _set("--mamba-ssm-dtype", _STATES.get(launch.state_dtype or ""))
    for flag, ratio in (
        ("--swa-full-tokens-ratio", launch.swa_full_tokens_ratio),
        ("--mamba-full-memory-ratio", launch.mamba_full_memory_ratio),
    ):
        words += _set(flag, None if ratio is None else f"{ratio:g}")
    words += ["--disable-radix-cache"] if launch.enable_prefix_caching is False else []
    if launch.lora is not None:
        words += ["--enable-lora", "--lora-paths", f"adapter={launch.lora}"]
        words += [*_set("--max-loras-per-batch", launch.max_loras), *_set("--max-lora-rank", launch.max_lora_rank)]
    return words + drafting.sglang(launch)


def _llama_cpp(launch: Launch) -> list[str]:
    told = launch.llama_cpp
    words = _gguf("--model", "-hf", launch.model, launch.quant if launch.file is None else None)
    words += _set("--hf-file", launch.file)  # a tag may mean another file, none means Q4_K_M
    # the context is shared out over the slots
    words += ["--ctx-size", str(launch.context * launch.num_seqs), "--parallel", str(launch.num_seqs)]
    words += ["--n-gpu-layers", "999" if told.gpu_layers is None else str(told.gpu_layers)]
    words += _set("--n-cpu-moe", told.cpu_moe_layers or None)
    words += _set("--flash-attn", None if told.flash_attention == "auto" else told.flash_attention)
    words += _set("--ubatch-size", told.ubatch)
    words += _set("--batch-size", told.ubatch if (told.ubatch or 0) > _BATCH else None)
    words += [] if told.kv_offload else ["--no-kv-offload"]
    words += ["--split-mode", "layer"] if launch.num_devices > 1 else []
    words += _cache("--cache-type-k", launch.kv_dtype, _LLAMA_CACHE, "llama.cpp")
    words += _cache("--cache-type-v", told.value_dtype or launch.kv_dtype, _LLAMA_CACHE, "llama.cpp")
    words += ["--swa-full"] if told.swa_full else []
    words += ["--kv-unified"] if told.unified else []
    words += _set("--lora", launch.lora)
    if launch.draft == "mtp":
        words += ["--spec-type", "draft-mtp"]
    elif launch.draft is not None:
        words += _gguf("--spec-draft-model", "--spec-draft-hf", launch.draft, None)
    words += _set("--spec-draft-n-max", launch.draft_tokens)
    return words


def _gguf(file_flag: str, hub_flag: str, model: str, quant: str | None) -> list[str]:
    if re.search(r"\.gguf$", model, re.IGNORECASE):
        return [file_flag, reference(model)]
    named = ":" in model or quant is None
    return [hub_flag, model if named else f"{model}:{(quant or '').upper()}"]


def _set(flag: str, value: object) -> list[str]:
    return [] if value is None else [flag, str(value)]


def _dtype(launch: Launch) -> list[str]:
    word = None if launch.dtype is None else dtype_word(launch.dtype)
    return ["--dtype", _DTYPES[word]] if word in _DTYPES else []


def _cache(flag: str, kv_dtype: str, names: dict[str, str], engine: str) -> list[str]:
    if kv_dtype == "auto":
        return []
    if kv_dtype not in names:
        raise UsageError(f"{engine} has no {kv_dtype} cache")
    return [flag, names[kv_dtype]]
