"""The settings an engine ran with, as its log or the command line in it tells them.

Later kinds win over earlier ones: words of a command line, then vLLM's "non-default args" and SGLang's `ServerArgs`, then the
configuration that vLLM prints once it has resolved it.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from hfmem.errors import UsageError
from hfmem.memory.formats import canonical_kv_dtype
from hfmem.records import dataclass, replace
from hfmem.server_logs.gguf_settings import put_gguf
from hfmem.server_logs.names import named_elsewhere
from hfmem.server_logs.ranks import ranks_seen
from hfmem.server_logs.speculation import without_speculation
from hfmem.units import parse_count, parse_memory

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
_ABSENT: Final = frozenset({"", "none", "null", "auto", "{}", "false"})

_FLAG: Final = re.compile(r"(?<![\w-])--?([A-Za-z][\w-]{0,60})(?:[ =]{1,4}(?!-)([^\s\\`|]{1,300}))?")
_PAIR: Final = re.compile(r"\b([a-z][a-z_]{1,50})=('[^']{0,300}'|\"[^\"]{0,300}\"|(?!['\"])[^,\s)]{1,200})")
_ENTRY: Final = re.compile(r"'([a-z][a-z_]{1,50})': ('[^']{0,300}'|(?!')[^,}\s]{1,200})")
_SERVE: Final = re.compile(
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
_POOLING: Final = re.compile(
    r"pooler_config=PoolerConfig\(|(?:--task|--runner)[ =](?:embed|pooling|score|reward|classify)"
)
_ARGS: Final = re.compile(
    r"non-default args: |ServerArgs\(|server_args=\{|Namespace\(|\bLLM\((?=[^)]{0,40}model)|vllm model, with arguments: "
)
#: what vLLM makes of it, or of its default
_STEP: Final = re.compile(r"Chunked prefill is enabled with max_num_batched_tokens=(\d{1,9})")
_LENGTH: Final = re.compile(r"Using max model len (\d{1,9})")
_RANGE: Final = re.compile(r"\bcompile range \(1, (\d{1,9})\)")
#: `--limit-mm-per-prompt` with no picture, and what vLLM says where nothing but text is left
_LIMITS: Final = re.compile(r"limit[-_]mm[-_]per[-_]prompt['\"]?[\s=:]{1,4}([^}\n]{1,120})")
_TEXT_ONLY: Final = "running in text-only mode"
#: how many ranks of one replica there are, whatever is split among them (`distributed/parallel_state.py`)
_WORLD: Final = re.compile(r"\bworld_size=(\d{1,4}) rank=\d")
_NO_ENCODER: Final = re.compile(r"Skipping memory profiling for multimodal encoder|--skip-mm-profiling\b")
_FLASHINFER: Final = "Using FlashInfer for top-p & top-k sampling"
_MOVED: Final = re.compile(r"buffer type overrid|--n-cpu-moe|-ncmoe|--cpu-moe|-cmoe|--override-tensor|(?<![\w-])-ot ")
#: the head of a line as vLLM's logger writes it
_LOGGED: Final = re.compile(r"\b(?:DEBUG|INFO|WARNING) \d\d-\d\d \d\d:\d\d")
#: SGLang says what "auto" became
_STORED: Final = re.compile(r"Using KV cache dtype: torch\.(\w{1,30})")
_CAPABILITY: Final = re.compile(r"Device capability (\d{1,2})\.(\d)\b")
_ARCH: Final = re.compile(r"\barch=sm_?(\d{2,3})\b")
#: kernels that are for one generation of devices: of NVFP4's experts and matrices, and Machete
_KERNELS: Final = (
    (re.compile(r"'FLASHINFER_TRTLLM' NvFp4 MoE"), 100),
    (
        re.compile(
            r"'(?:FLASHINFER|VLLM)_CUTLASS' NvFp4 MoE|flashinfer-cutlass for NVFP4|CUTLASS kernels for ModelOptNvFp4"
        ),
        120,
    ),
    (re.compile(r"\bMacheteLinearKernel\b"), 90),
)
#: FlashInfer's sparse latent attention with a plain fp8 cache is that of devices 10.x alone (`platforms/cuda.py`)
_PLAIN_FP8, _BLACKWELL = "Using standard fp8 KV cache format", 100
_ROCM: Final = re.compile(r"\[rocm\.py:|\bHIP[_ ]|\bgfx\d{3,4}\b|(?<![/\w])ROCm\b|-ROCm\b")
#: vLLM says so where a connector for the cache forbids it, or once it has the layers
_HYBRID_OFF: Final = re.compile(
    r"Turning off hybrid kv cache manager|Hybrid KV cache manager is disabled for this hybrid model"
)
#: llama.cpp's `--swa-full`
_FULL_WINDOWS: Final = "using full-size SWA cache"
_KERNEL: Final = re.compile(r"Using Flash ?Attention version (\d)")
_SGLANG_END: Final = re.compile(r"max_total_num_tokens=\d{1,15}, [^\n]{0,300}")
_ADVICE: Final = re.compile(r"(?:Replace gpu_memory_utilization config|Try (?:increasing|decreasing))[^\n]{0,400}")

#: vLLM's and SGLang's names of types
_STATE_DTYPES: Final = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
#: vLLM tells what Nemotron's config made of "auto"
_STATES_IN: Final = re.compile(r"Updating mamba_ssm_cache_dtype to '(\w{1,12})'")
#: more ranks than this are a slip or a forged log
_MOST_RANKS: Final = 4096
#: a dump of settings is one line; of a paste without line ends this much is read
_DUMP: Final = 6000


@dataclass(frozen=True, slots=True)
class Settings:
    """What the engine was told, None where the log does not say. `latent`: how llama.cpp's forks keep a latent cache
    (`c^KV`, or with its transposed copy), None where they keep full keys and values. `other` names settings that change
    sizes and are not computed here. `complete`: the whole command is in the log, so that what it does not name has its
    default. `offline`: vLLM's `LLM` class ran, not a server; `pooling`: it embeds or ranks; `flashinfer`: its sampler is
    FlashInfer's. `kernel_version`: FlashAttention's; `moved_tensors`: llama.cpp was told where to keep some. `slots`
    sequences share llama.cpp's context, in one stream if `unified`; `file_type` is the GGUF's. `swa_ratio` and
    `mamba_ratio` are SGLang's `--swa-full-tokens-ratio` and `--mamba-full-memory-ratio`. `max_total_tokens`
    is its, too. `also`: what else may name the model.
    `draft_method` and `draft_model` are of speculative decoding, the latter None where the model drafts for itself. `hidden_ranks`:
    there are several tensor-parallel ranks, and the log does not tell how many. `capability` is the NVIDIA device's, `rocm`: it
    is AMD's. `full_windows`: llama.cpp keeps every token in windowed layers. `skips_encoder`: vLLM does not profile the encoder.
    `state_dtype` is that of recurrent states, as safetensors call it. `hybrid_off`: vLLM keeps every token in windowed layers too.
    `override_blocks`: of a pool, whatever the memory. `cpu_offload_gb`: GiB of weights that a rank may leave on the host."""

    model: str | None = None
    revision: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    kv_dtype: str | None = None
    key_type: str | None = None
    value_type: str | None = None
    latent: str | None = None
    context: int | None = None
    tp: int = 1
    pp: int = 1
    dp: int = 1
    dcp: int = 1
    ep: bool = False
    utilization: Fraction | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    page_size: int | None = None
    prefix_caching: bool | None = None
    speculative: bool = False
    eager: bool = False
    kv_memory_bytes: int | None = None
    ubatch: int | None = None
    flash_attention: bool | None = None
    other: tuple[str, ...] = ()
    complete: bool = False
    language_model_only: bool = False
    offline: bool = False
    pooling: bool = False
    flashinfer: bool = False
    kernel_version: int | None = None
    moved_tensors: bool = False
    slots: int = 1
    unified: bool = False
    file_type: str | None = None
    swa_ratio: float | None = None
    mamba_ratio: float | None = None
    max_total_tokens: int | None = None
    also: tuple[str, ...] = ()
    draft_method: str | None = None
    draft_model: str | None = None
    draft_tokens: int = 0
    hidden_ranks: bool = False
    rocm: bool = False
    capability: int | None = None
    full_windows: bool = False
    skips_encoder: bool = False
    state_dtype: str | None = None
    hybrid_off: bool = False
    override_blocks: int | None = None
    cpu_offload_gb: float = 0.0


def read_settings(text: str, engine: str, since: int = 0) -> Settings:
    """The settings that `text` tells of; the start that they are for begins at `since`."""
    said: dict[str, str] = {}
    run = text[since:]
    elsewhere = named_elsewhere(run) or named_elsewhere(text)
    text, draft = without_speculation(_ADVICE.sub("", text))  # advice names flags that were not given
    if served := _SERVE.search(text) or _SERVE_LATER.search(text):
        _put(said, "model", served[1])
    for match in _FLAG.finditer(text):
        _put(said, match[1].replace("-", "_"), (match[2] or "true"))
    for start in _ARGS.finditer(text):
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
    if engine == "llama.cpp":
        said.pop("context", None)  # `-c` is rounded, shared by slots, and may be another program's
        put_gguf(said, text[:since], run)
    if draft is not None:
        said["speculative"] = draft.method or "on"
    if engine == "sglang" and (stored := _STORED.findall(run)):
        said["kv_dtype"] = stored[-1]
    seen = ranks_seen(run, engine)
    for name, count in (("tp", seen.tp), ("pp", seen.pp), ("dp", seen.dp)):
        if count > 1 and name not in said and (name != "dp" or engine == "vllm"):
            said[name] = str(count)
    if "state_dtype" not in said and (states := _STATES_IN.search(run)):
        said["state_dtype"] = states[1]
    if not {"tp", "pp", "dp"} & said.keys() and engine == "vllm" and (world := _WORLD.search(run)):
        said["tp"] = world[1]
    if _TEXT_ONLY in run or _no_pictures(text):
        said["language_model_only"] = "true"
    if seen.ep and "ep" not in said:
        said["ep"] = "true"
    whole = _SERVE.search(text) or _ARGS.search(text) or "api_server --" in text
    told = engine == "vllm" and _LOGGED.search(text)  # a few figures quoted without their lines say nothing of who ran
    offline = bool(told) and not re.search(r"APIServer|api_server|vllm serve|launcher\.py", text)
    found = _settings(said)
    own = draft.model if draft else None
    return replace(
        found,
        model=found.model or (elsewhere[0] if elsewhere else None),
        also=tuple(name for name in elsewhere if name != found.model),
        draft_method=draft.method if draft else None,
        draft_tokens=(draft.tokens or 0) if draft else 0,
        draft_model=own if own not in (None, found.model) else None,
        hidden_ranks=seen.hidden and found.tp == 1,
        rocm=bool(_ROCM.search(run)),
        capability=_capability(run),
        skips_encoder=bool(_NO_ENCODER.search(text)),
        full_windows=engine == "llama.cpp" and _FULL_WINDOWS in run,
        hybrid_off=found.hybrid_off or bool(_HYBRID_OFF.search(run)),
        complete=whole is not None and whole is not False,
        offline=offline,
        pooling=bool(_POOLING.search(text)),
        flashinfer=_FLASHINFER in text,
        moved_tensors=bool(_MOVED.search(text)),
        kernel_version=int(kernel[1]) if (kernel := _KERNEL.search(run)) else None,
    )


def _no_pictures(text: str) -> bool:
    """Whether every kind of input beside text is limited to none of it."""
    told = _LIMITS.search(text)
    if told is None or "image" not in told[1]:
        return False
    counts = re.findall(r"(?:image|video|audio)\W{1,6}(\d{1,6})", told[1])
    return bool(counts) and not any(map(int, counts))


def _capability(run: str) -> int | None:
    """The NVIDIA device's compute capability by what vLLM says of kernels: 89 for 8.9; None where nothing tells it."""
    if told := _CAPABILITY.search(run):
        return int(told[1]) * 10 + int(told[2])
    if told := _ARCH.search(run):
        return int(told[1])
    if named := next((number for pattern, number in _KERNELS if pattern.search(run)), None):
        return named
    return _BLACKWELL if _PLAIN_FP8 in run else None


def _line(text: str, begin: int) -> str:
    end = text.find("\n", begin)
    return text[begin : min(end if end >= 0 else len(text), begin + _DUMP)]


def _put(said: dict[str, str], name: str, value: str) -> None:
    setting = _KEYS.get(name)
    if setting is None:
        return
    value = value.strip("'\"`,;)}]")
    if setting in ("model", "context") and (value.startswith("-") or value.lower() in _ABSENT):
        return
    if value.lower() in _ABSENT and setting not in ("prefix_caching", "speculative", "eager", "ep"):
        said.pop(setting, None) if value.lower() == "none" and setting != "quantization" else None
        return
    said[setting] = value


def _settings(said: dict[str, str]) -> Settings:
    def number(name: str) -> int | None:
        text = re.sub(r"(?i)[^\dkm].*", "", re.sub(r"(?<=\d)_(?=\d)", "", said.get(name, "")))  # Python's 30_000 too
        try:
            return parse_count(text) if text else None
        except UsageError:
            return None

    def ranks(name: str) -> int:
        count = number(name) or 1
        return count if count <= _MOST_RANKS else 1

    def flag(name: str) -> bool:
        return name in said and said[name].lower() not in (*_ABSENT, "0", "1" if name == "ep" else "0")

    prefix: bool | None = None
    if said.get("no_prefix_caching", "").lower() == "true":
        prefix = False
    elif "prefix_caching" in said and said["prefix_caching"].lower() in ("true", "false"):
        prefix = said["prefix_caching"].lower() == "true"
    return Settings(
        model=said.get("model"),
        revision=said.get("revision"),
        dtype=said.get("dtype", "").removeprefix("torch.") or None,
        quantization=said.get("quantization"),
        kv_dtype=_kv_dtype(said.get("kv_dtype")),
        key_type=said.get("key_type"),
        value_type=said.get("value_type"),
        latent=said.get("latent"),
        context=number("context"),
        tp=ranks("tp"),
        pp=ranks("pp"),
        dp=ranks("dp"),
        dcp=ranks("dcp"),
        ep=flag("ep"),
        utilization=_share(said.get("utilization")),
        max_num_seqs=number("max_num_seqs"),
        max_num_batched_tokens=number("max_num_batched_tokens"),
        page_size=number("page_size"),
        prefix_caching=prefix,
        speculative=flag("speculative"),
        eager=flag("eager"),
        kv_memory_bytes=_memory(said.get("kv_memory_bytes")),
        ubatch=number("ubatch"),
        flash_attention=said["flash"] not in ("0", "disabled") if "flash" in said else None,
        slots=number("slots") or 1,
        unified=said.get("unified") == "true",
        file_type=said.get("file_type"),
        swa_ratio=_ratio(said.get("swa_ratio")),
        mamba_ratio=_ratio(said.get("mamba_ratio")),
        max_total_tokens=number("max_total_tokens"),
        other=tuple(name for name in ("offload", "lora", "ktransformers") if flag(name)),
        hybrid_off=flag("hybrid_off"),
        override_blocks=number("override_blocks"),
        cpu_offload_gb=_ratio(said.get("cpu_offload_gb")) or 0.0,
        state_dtype=_STATE_DTYPES.get(said.get("state_dtype", "").removeprefix("torch.")),
        language_model_only=flag("language_model_only"),
    )


def _kv_dtype(text: str | None) -> str | None:
    try:
        return None if text is None else canonical_kv_dtype(text.removeprefix("torch."))
    except UsageError:
        return text if text == "fp8_ds_mla" else None


def _share(text: str | None) -> Fraction | None:
    match = re.match(r"\d?\.?\d{1,8}", text or "")
    share = Fraction(match[0]) if match else Fraction(0)
    return share if 0 < share <= 1 else None


def _ratio(text: str | None) -> float | None:
    match = re.fullmatch(r"\d{0,3}\.?\d{1,8}", text or "")
    return float(match[0]) if match and float(match[0]) > 0 else None


def _memory(text: str | None) -> int | None:
    try:
        return parse_memory(text) if text else None
    except UsageError:
        return None
