"""Logs of real servers, numbers from public threads, and how tests compare them."""

from __future__ import annotations

from hfmem.hub import FetchOptions
from hfmem.server_logs.checks import Check, Verification
from hfmem.server_logs.verify import verify_log

GIB = 2**30
OFFLINE = FetchOptions(offline=True, no_cache=True)

LLAMA_8B = (
    "INFO non-default args: {{'model': 'meta-llama/Llama-3.1-8B-Instruct', 'max_model_len': {context}, 'block_size': 128}}\n"
    "INFO Initializing a V1 LLM engine (v0.11.0) with config: model='meta-llama/Llama-3.1-8B-Instruct',"
    " max_seq_len={context}, tensor_parallel_size=1, kv_cache_dtype={kv}\n"
    "INFO Model loading took 14.9889 GiB and 2.689499 seconds\n"
    "INFO Available KV cache memory: {available} GiB\n"
    "INFO GPU KV cache size: {tokens:,} tokens\n"
)


def by_name(found: Verification) -> dict[str, Check]:
    return {item.what: item for item in found.checks}


def compare(text: str, model: str | None = None, **given: object) -> dict[str, Check]:
    return by_name(verify_log(text, model, given=given, fetch=OFFLINE).result)
