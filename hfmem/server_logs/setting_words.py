"""Settings as words: what a command line or an engine's own dump says, by one name each, whatever the engine calls it."""

from __future__ import annotations

import re
from typing import Final

#: setting → what engines call it, in flags and in their own dumps (with underscores)
_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "model": ("model", "model_path", "model_id", "model_tag", "pretrained"),
    "revision": ("revision",),
    "dtype": ("dtype",),
    "quantization": ("quantization", "q"),
    "kv_dtype": ("kv_cache_dtype",),
    "key_type": ("cache_type_k", "ctk"),
    "value_type": ("cache_type_v", "ctv"),
    "context": ("max_model_len", "max_seq_len", "context_length", "context_len", "ctx_size", "c"),
    "ubatch": ("ubatch_size", "ub"),
    "tp": ("tensor_parallel_size", "tp_size", "tp"),
    "pp": ("pipeline_parallel_size", "pp_size", "pp"),
    "dp": ("data_parallel_size", "dp_size", "dp"),
    "dcp": ("decode_context_parallel_size", "dcp_size", "dcp"),
    "ep": ("enable_expert_parallel", "enable_expert_paralle", "ep_size"),
    "utilization": ("gpu_memory_utilization", "mem_fraction_static"),
    "max_num_seqs": ("max_num_seqs", "max_running_requests"),
    "max_num_batched_tokens": ("max_num_batched_tokens", "max_num_batched_token", "chunked_prefill_size"),
    "page_size": ("block_size", "page_size"),
    "prefix_caching": ("enable_prefix_caching",),
    "no_prefix_caching": ("no_enable_prefix_caching", "disable_radix_cache"),
    "speculative": ("speculative_config", "speculative_model", "speculative_algorithm", "num_speculative_tokens"),
    "eager": ("enforce_eager", "disable_cuda_graph"),
    "kv_memory_bytes": ("kv_cache_memory_bytes", "kv_cache_memory"),
    "cpu_offload_gb": ("cpu_offload_gb",),
    "offload": ("kv_offloading_size", "cpu_offload_params", "offload_group_size"),
    "lora": ("enable_lora",),
    "language_model_only": ("language_model_only",),
    "swa_ratio": ("swa_full_tokens_ratio",),
    "mamba_ratio": ("mamba_full_memory_ratio",),
    "max_total_tokens": ("max_total_tokens",),
    "state_dtype": ("mamba_ssm_cache_dtype", "mamba_ssm_dtype"),
    "hybrid_off": ("disable_hybrid_kv_cache_manager",),
    "override_blocks": ("num_gpu_blocks_override",),
    "ktransformers": ("kt_method", "kt_weight_path"),
}
_KEYS: Final = {name: setting for setting, names in _NAMES.items() for name in names}
ABSENT: Final = frozenset({"", "none", "null", "auto", "{}", "false"})

_FLAG: Final = re.compile(r"(?<![\w-])--?([A-Za-z][\w-]{0,60})(?:[ =]{1,4}(?!-)([^\s\\`|]{1,300}))?")
_PAIR: Final = re.compile(r"\b([a-z][a-z_]{1,50})=('[^']{0,300}'|\"[^\"]{0,300}\"|(?!['\"])[^,\s)]{1,200})")
_ENTRY: Final = re.compile(r"'([a-z][a-z_]{1,50})': ('[^']{0,300}'|(?!')[^,}\s]{1,200})")
SERVE: Final = re.compile(
    r"\b(?:vllm serve|trtllm-serve(?: serve)?|lmdeploy serve api_server)\s{1,8}(?:\\\s{0,8})?([^\s-][^\s\\]{0,300})"
)
#: … after flags, where only a name with its owner or a path is surely not a flag's value
_SERVE_LATER: Final = re.compile(
    r"\bvllm serve(?:\s{1,4}--?[A-Za-z][\w-]{0,40}(?:[ =][^\s/-][^\s/]{0,60})?){1,12}"
    r"\s{1,4}(\.{0,2}/[^\s\\]{1,300}|[\w.-]{1,96}/[\w.-]{1,96})(?=\s|$)"
)
_CONFIG: Final = re.compile(
    r"Initializing an? (?:V[01] )?LLM (?:engine|server)(?:[^\n]{0,80}? with config: |(?: \(v[^)\n]{1,60}\))? ?\.\.\. )"
)
ARGS: Final = re.compile(
    r"non-default args: |ServerArgs\(|server_args=\{|Namespace\(|\bLLM\((?=[^)]{0,40}model)|vllm model, with arguments: "
)
#: what vLLM makes of it, or of its default
_STEP: Final = re.compile(r"Chunked prefill is enabled with max_num_batched_tokens=(\d{1,9})")
_LENGTH: Final = re.compile(r"Using max model len (\d{1,9})")
_RANGE: Final = re.compile(r"\bcompile range \(1, (\d{1,9})\)")
_SGLANG_END: Final = re.compile(r"max_total_num_tokens=\d{1,15}, [^\n]{0,300}")
#: a dump of settings is one line; of a paste without line ends this much is read
_DUMP: Final = 6000


def words_said(text: str, run: str) -> dict[str, str]:
    """Setting → the word for it, of later kinds over earlier ones.

    Args:
        text: the whole log, without its advice; run: the part of it since the start that is asked about.
    """
    said: dict[str, str] = {}
    if served := SERVE.search(text) or _SERVE_LATER.search(text):
        _put(said, "model", served[1])
    for match in _FLAG.finditer(text):
        _put(said, match[1].replace("-", "_"), (match[2] or "true"))
    for start in ARGS.finditer(text):
        part = _line(text, start.end())
        for match in (*_ENTRY.finditer(part), *_PAIR.finditer(part)):
            _put(said, match[1], match[2])
    if end := _SGLANG_END.search(text):
        for match in _PAIR.finditer(end[0]):
            _put(said, match[1], match[2])
    for start in _CONFIG.finditer(text):
        for match in _PAIR.finditer(_line(text, start.end())):
            _put(said, match[1], match[2])
    if "context" not in said and (length := _LENGTH.search(run)):
        said["context"] = length[1]  # the first: a draft model's comes after it
    for pattern in (_RANGE, _STEP):  # the sizes it compiles for end at those of a step
        if steps := pattern.findall(text):
            _put(said, "max_num_batched_tokens", steps[-1])
    return said


def _line(text: str, begin: int) -> str:
    end = text.find("\n", begin)
    return text[begin : min(end if end >= 0 else len(text), begin + _DUMP)]


def _put(said: dict[str, str], name: str, value: str) -> None:
    setting = _KEYS.get(name)
    if setting is None:
        return
    value = value.strip("'\"`,;)}]")
    if setting in ("model", "context") and (value.startswith("-") or value.lower() in ABSENT):
        return
    if value.lower() in ABSENT and setting not in ("prefix_caching", "speculative", "eager", "ep"):
        said.pop(setting, None) if value.lower() == "none" and setting != "quantization" else None
        return
    said[setting] = value
