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
from hfmem.server_logs.ranks import Ranks, ranks_seen
from hfmem.server_logs.setting_words import ABSENT, ARGS, SERVE, words_said
from hfmem.server_logs.speculation import without_speculation
from hfmem.units import parse_count, parse_memory

_POOLING: Final = re.compile(
    r"pooler_config=PoolerConfig\(|(?:--task|--runner)[ =](?:embed|pooling|score|reward|classify)"
)
#: `--limit-mm-per-prompt` with no picture, and what vLLM says where nothing but text is left
_LIMITS: Final = re.compile(r"limit[-_]mm[-_]per[-_]prompt['\"]?[\s=:]{1,4}([^}\n]{1,120})")
_TEXT_ONLY: Final = "running in text-only mode"
#: how many ranks of one replica there are, whatever is split among them (`distributed/parallel_state.py`)
_WORLD: Final = re.compile(r"\bworld_size=(\d{1,4}) rank=\d")
_NO_ENCODER: Final = re.compile(r"Skipping memory profiling for multimodal encoder|--skip-mm-profiling\b")
_FLASHINFER: Final = "Using FlashInfer for top-p & top-k sampling"
_MOVED: Final = re.compile(r"buffer type overrid|--n-cpu-moe|-ncmoe|--cpu-moe|-cmoe|--override-tensor|(?<![\w-])-ot ")
#: a server, not vLLM's `LLM` class
_SERVER: Final = re.compile(r"APIServer|api_server|vllm serve|launcher\.py")
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
_ADVICE: Final = re.compile(r"(?:Replace gpu_memory_utilization config|Try (?:increasing|decreasing))[^\n]{0,400}")

#: vLLM's and SGLang's names of types
_STATE_DTYPES: Final = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
#: vLLM tells what Nemotron's config made of "auto"
_STATES_IN: Final = re.compile(r"Updating mamba_ssm_cache_dtype to '(\w{1,12})'")
#: more ranks than this are a slip or a forged log
_MOST_RANKS: Final = 4096


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
    run = text[since:]
    elsewhere = named_elsewhere(run) or named_elsewhere(text)
    text, draft = without_speculation(_ADVICE.sub("", text))  # advice names flags that were not given
    said = words_said(text, run)
    if engine == "llama.cpp":
        said.pop("context", None)  # `-c` is rounded, shared by slots, and may be another program's
        put_gguf(said, text[:since], run)
    if draft is not None:
        said["speculative"] = draft.method or "on"
    seen = ranks_seen(run, engine)
    _put_ranks(said, seen, run, engine)
    _put_reported(said, text, run, engine)
    found = _settings(said)
    own = draft.model if draft else None
    whole = SERVE.search(text) or ARGS.search(text) or "api_server --" in text
    told = engine == "vllm" and _LOGGED.search(text)  # a few figures quoted without their lines say nothing of who ran
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
        complete=bool(whole),
        offline=bool(told) and not _SERVER.search(text),
        pooling=bool(_POOLING.search(text)),
        flashinfer=_FLASHINFER in text,
        moved_tensors=bool(_MOVED.search(text)),
        kernel_version=int(kernel[1]) if (kernel := _KERNEL.search(run)) else None,
    )


def _put_ranks(said: dict[str, str], seen: Ranks, run: str, engine: str) -> None:
    """What the run's lines tell of ranks, where no word does."""
    for name, count in (("tp", seen.tp), ("pp", seen.pp), ("dp", seen.dp)):
        if count > 1 and name not in said and (name != "dp" or engine == "vllm"):
            said[name] = str(count)
    if not {"tp", "pp", "dp"} & said.keys() and engine == "vllm" and (world := _WORLD.search(run)):
        said["tp"] = world[1]
    if seen.ep:
        said.setdefault("ep", "true")


def _put_reported(said: dict[str, str], text: str, run: str, engine: str) -> None:
    """What the engine reports of itself: the formats that "auto" became, and that it takes no pictures."""
    if engine == "sglang" and (stored := _STORED.findall(run)):
        said["kv_dtype"] = stored[-1]
    if states := _STATES_IN.search(run):
        said.setdefault("state_dtype", states[1])
    if _TEXT_ONLY in run or _no_pictures(text):
        said["language_model_only"] = "true"


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
        return name in said and said[name].lower() not in (*ABSENT, "0", "1" if name == "ep" else "0")

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
