"""What a server's own log says: engine, version, model, settings, and the sizes it printed. Text in, frozen facts out.

The lines are those of vLLM (V0 and V1, 0.1 to 0.33: `worker.py`, `gpu_worker.py`, `gpu_model_runner.py`, `kv_cache_utils.py`),
SGLang (`model_runner.py`, `memory_pool.py`, `scheduler.py`) and llama.cpp with its forks (`llama-model.cpp`, `llama-context.cpp`,
`llama-kv-cache*.cpp`). All three print powers of two, whatever unit they name: vLLM's and SGLang's "GB" and llama.cpp's "MB" are
GiB and MiB. Logs reach us pasted, truncated and with their line ends lost, so no pattern is anchored to a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import Final, Literal

from hfmem.errors import UsageError
from hfmem.plan.log_settings import Settings, read_settings
from hfmem.records import dataclass
from hfmem.units import GIB, KIB, MIB

#: a start-up log is a few hundred kilobytes; what follows this much is traffic
MAX_CHARACTERS: Final = 16 << 20

Engine = Literal["vllm", "sglang", "llama.cpp"]

_ANSI: Final = re.compile(r"\x1b\[[0-9;?]{0,20}[A-Za-z]|\[[0-9;]{1,8}m")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_UNITS: Final = {"g": GIB, "m": MIB, "k": KIB}

_SIZE: Final = r"(-?\d{1,9}(?:[.,]\d{1,6})?)\s?([GMK])i?B"
_COUNT: Final = r"(\d{1,3}(?:,\d{3}){1,5}|\d{1,18})"

#: what is printed → the name of the reading; the first group is the number, the second its unit
_SIZES: Final[tuple[tuple[str, str], ...]] = (
    ("weights_bytes", rf"(?:Loading model weights|[Mm]odel loading) took\s{{1,20}}{_SIZE}"),
    ("weights_bytes", rf"model weights take {_SIZE}"),
    ("weights_bytes", rf"Actual usage is {_SIZE} for weight\b"),
    ("weights_bytes", rf"Load weight end\.[^\n]{{0,200}}?mem usage={_SIZE}"),
    ("before_bytes", rf"Load weight begin\. avail mem={_SIZE}"),
    ("after_bytes", rf"Load weight end\.[^\n]{{0,300}}?avail mem={_SIZE}"),
    ("consumed_bytes", rf"Actual usage is {_SIZE} for consumed memory"),
    ("available_bytes", rf"Available KV cache memory: {_SIZE}"),
    ("available_bytes", rf"reserved for KV Cache is {_SIZE}"),
    ("available_bytes", rf"than the available KV cache memory \({_SIZE}\)"),
    ("available_bytes", rf"KV cache is needed, but only {_SIZE} is available"),
    ("available_bytes", rf"reserved {_SIZE} memory for KV Cache"),
    ("available_bytes", rf"Current kv cache memory in use is {_SIZE}"),
    ("needed_bytes", rf"\(?{_SIZE} KV cache is needed"),
    ("activations_bytes", rf"activation peak memory takes {_SIZE}"),
    ("activations_bytes", rf"{_SIZE} for peak activation"),
    ("engine_bytes", rf"non_torch_memory takes {_SIZE}"),
    ("engine_bytes", rf"{_SIZE} for non-torch memory"),
    ("graph_estimate_bytes", rf"Estimated CUDA graph memory: {_SIZE}"),
    ("cuda_graph_bytes", rf"Graph capturing finished in \d{{1,6}}(?:\.\d{{1,6}})? secs?, took {_SIZE}"),
    ("cuda_graph_bytes", rf"{_SIZE} for CUDAGraph memory"),
    ("cuda_graph_bytes", rf"Capture (?:cuda|target \w+|decode) graph end\.[^\n]{{0,80}}?mem usage={_SIZE}"),
    ("device_bytes", rf"total_gpu_memory \({_SIZE}\)"),
    ("budget_bytes", rf"gpu_memory_utilization \(\d(?:\.\d{{1,6}})?\) = {_SIZE}"),
    ("budget_bytes", rf"Desired GPU memory utilization is \(\d(?:\.\d{{1,6}})?, {_SIZE}\)"),
    ("key_bytes", rf"K size: {_SIZE}"),
    ("value_bytes", rf"V size: {_SIZE}"),
    ("cache_bytes", rf"(?:#tokens: \d{{1,15}}, )KV size: {_SIZE}"),
    ("cache_bytes", rf"(?:KV self size|kv self size)\s{{0,4}}=\s{{0,8}}{_SIZE}"),
    ("cache_bytes", rf"llama_kv_cache(?:_unified)?: +size = +{_SIZE}"),
    ("compute_buffer_bytes", rf"(?:CUDA|Metal|Vulkan|ROCm|SYCL)\d{{0,2}} compute buffer size = +{_SIZE}"),
    ("host_weights_bytes", rf"(?:CPU|CPU_Mapped|CUDA_Host) (?:model )?buffer size = +{_SIZE}"),
    ("file_bytes", rf"(?:model size|file size) +=\s{{1,8}}{_SIZE}"),
)
_COUNTS: Final[tuple[tuple[str, str], ...]] = (
    ("num_blocks", rf"# (?:GPU|cuda) blocks: {_COUNT}"),
    ("capacity_tokens", rf"GPU KV cache size: {_COUNT} tokens"),
    ("capacity_tokens", rf"stored in KV cache \({_COUNT}\)"),
    ("pool_tokens", rf"KV Cache is allocated\.[^\n]{{0,40}}?#tokens: {_COUNT}"),
    ("pool_tokens", rf"max_total_num_tokens={_COUNT}"),
    ("concurrency_context", rf"Maximum concurrency for {_COUNT} tokens per request"),
    ("needed_context", rf"max seq(?:uence)? len(?:gth)? \({_COUNT}\)"),
    ("max_context", rf"estimated maximum model length is {_COUNT}"),
    ("attention_page", rf"Setting attention block size to {_COUNT} tokens"),
    ("override_blocks", rf"num_gpu_blocks_override={_COUNT}"),
)
_FACTORS: Final[tuple[tuple[str, str], ...]] = (
    ("max_concurrency", rf"Maximum concurrency for {_COUNT} tokens per request: (\d{{1,9}}(?:\.\d{{1,6}})?)x"),
)
_DEVICE_MEMORY: Final = re.compile(r"Free memory on device \((?:cuda:\d{1,3}, )?([\d.]{1,12})/([\d.]{1,12}) GiB\)")
_COMPILED: Final = tuple((name, re.compile(text)) for name, text in (*_SIZES, *_COUNTS, *_FACTORS))
_IS_SIZE: Final = frozenset(name for name, _ in _SIZES)

_ENGINES: Final[tuple[tuple[Engine, str], ...]] = (
    ("sglang", r"sglang|KV Cache is allocated|max_total_num_tokens=|Load weight end"),
    ("llama.cpp", r"llama_model_loader|llama_new_context|llama_kv_cache|llama_init_from|llm_load_|llama_context:"),
    ("vllm", r"vllm|vLLM|GPU KV cache size|# GPU blocks|Available KV cache memory|gpu_model_runner|model weights take"),
    ("vllm", r"Loading model weights took|Model loading took|tokens that can be stored in KV cache|KV cache is needed"),
    ("vllm", r"kv cache memory in use"),
)
#: one of these is in every line that is read; a long-lived server's log is mostly other lines
_WORDS: Final = (
    *(" -", "--", "vllm", "vLLM", "sglang", "llama_", "llm_", "LLM", "config", "args", "Args", "version", "build"),
    *("GPU", "cuda", "CUDA", "KV", "kv", "took", "take", "weight", "memory", "graph", "buffer", "size", "seq len"),
    *("model length", "blocks", "concurrency", "tokens=", "general.name", "n_ctx", "n_ubatch", "flash_attn"),
)
#: … and one of these in a line of traffic
_TRAFFIC: Final = ("throughput:", "HTTP/1.1", "#running-req", "Received request", "print_timing", "update_slots")
#: the lines of a start take far less
_RELEVANT: Final = 2 << 20
#: a line this long is a paste that lost its line ends
_PASTE: Final = 1000
#: ranks repeat a line, not more often than this
_MOST: Final = 4096
_LONGEST_LINE: Final = 1 << 20
_VERSIONS: Final = (
    r"Initializing an? (?:V1 )?LLM engine \(v([\w.+]{1,60})\)",
    r"vLLM (?:API server )?version v?(\d[\w.+]{1,60})",
    r"sglang[=: v]{1,4}(\d[\w.+]{1,40})",
    r"\bversion: (\d{3,6} \([0-9a-f]{6,12}\))",
    r"\bbuild[:=] ?(\d{3,6}(?: \([0-9a-f]{6,12}\))?)",
)
_START: Final = re.compile(
    r"Initializing an? (?:V1 )?LLM (?:engine|server)|server_args=ServerArgs\(|llama_model_loader: loaded meta data"
)


@dataclass(frozen=True, slots=True)
class Reading:
    """A number the engine printed: bytes, a count, or a factor. `slack` is half a unit of its last digit, in the same measure;
    `line` counts from 1."""

    value: int | float
    slack: int | float
    line: int


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What one start of an engine told. `readings` holds every value of a name, in order: ranks repeat their lines.
    `graphs_counted`: vLLM says that it takes its estimate of CUDA graphs from its share."""

    engine: Engine
    version: str | None
    settings: Settings
    readings: Mapping[str, tuple[Reading, ...]]
    starts: int = 1
    graphs_counted: bool = False

    def first(self, name: str) -> Reading | None:
        """The first value of that name."""
        found = self.readings.get(name)
        return found[0] if found else None

    def smallest(self, name: str) -> Reading | None:
        """Of all ranks the least: what decides for the pool."""
        return min(self.readings.get(name, ()), key=lambda reading: reading.value, default=None)

    def largest(self, name: str) -> Reading | None:
        """Of all ranks the most."""
        return max(self.readings.get(name, ()), key=lambda reading: reading.value, default=None)


def clean(text: str) -> str:
    """`text` without colours and control characters, cut to what a start-up log can be."""
    return _CONTROL.sub("", _ANSI.sub("", text[:MAX_CHARACTERS])).replace("\r", "")


def parse_log(text: str) -> LogFacts:
    """The facts of the last start in `text` that printed any size.

    Raises:
        UsageError: no line of vLLM, SGLang or llama.cpp is in it.
    """
    text, numbers = _relevant(clean(text))
    engine = next((name for name, pattern in _ENGINES if re.search(pattern, text)), None)
    if engine is None:
        raise UsageError("no line of vLLM, SGLang or llama.cpp is in this log")
    cuts = [match.start() for match in _START.finditer(text)]
    start, readings = 0, dict[str, tuple[Reading, ...]]()
    if cuts and engine != "llama.cpp":
        cuts[0] = 0  # what stands before the first is of the same start
    for begin, end in reversed(list(zip(cuts or [0], [*cuts[1:], len(text)], strict=True))):
        start, readings = begin, _readings(text, begin, end, numbers)
        if readings:
            break
    until = next((cut for cut in cuts if cut > start), len(text))
    version = next((m[1] for pattern in _VERSIONS if (m := re.search(pattern, text[:until]))), None)
    settings = read_settings(text[:until], engine, since=start)
    counted = "CUDA graph memory profiling is enabled" in text[start:until]
    return LogFacts(engine, version, settings, readings, max(len(cuts), 1), counted)


def _relevant(text: str) -> tuple[str, list[int]]:
    """The lines that may be read, and the number of each."""
    kept, numbers = [], []
    for number, row in enumerate(text.split("\n"), 1):
        if any(word in row for word in _WORDS) and (len(row) > _PASTE or not any(word in row for word in _TRAFFIC)):
            kept.append(row[:_LONGEST_LINE])
            numbers.append(number)
    return "\n".join(kept)[:_RELEVANT], numbers


def _readings(text: str, begin: int, end: int, numbers: list[int]) -> dict[str, tuple[Reading, ...]]:
    found: dict[str, list[tuple[int, int | float, int | float]]] = {}
    for name, pattern in _COMPILED:
        for match in islice(pattern.finditer(text, begin, end), _MOST):
            value: int | float
            slack: int | float
            if name in _IS_SIZE:
                value, slack = _bytes(match[1], match[2])
            elif name == "max_concurrency":
                value, slack = float(match[2]), _last_digit(match[2]) / 2
            else:
                value, slack = int(match[1].replace(",", "")), 0
            found.setdefault(name, []).append((match.start(), value, slack))
    for match in _DEVICE_MEMORY.finditer(text, begin, end):
        value, slack = _bytes(match[2], "G")
        found.setdefault("device_bytes", []).append((match.start(), value, slack))
    lines = _Lines(text, numbers)
    return {
        name: tuple(Reading(value, slack, lines.at(place)) for place, value, slack in sorted(rows))
        for name, rows in found.items()
    }


def _bytes(number: str, unit: str) -> tuple[int, int]:
    """Bytes of a printed size, and half a unit of its last digit. A comma is a decimal one: locales of forks."""
    number = number.replace(",", ".")
    scale = _UNITS[unit.lower()]
    return round(float(number) * scale), round(_last_digit(number) * scale / 2)


def _last_digit(number: str) -> float:
    return float(10 ** -len(number.partition(".")[2]))


class _Lines:
    """Line numbers by position."""

    def __init__(self, text: str, numbers: list[int]) -> None:
        self._ends = [match.start() for match in re.finditer("\n", text)]
        self._numbers = numbers

    def at(self, place: int) -> int:
        from bisect import bisect_left

        return self._numbers[bisect_left(self._ends, place)]


def model_names(text: str) -> tuple[str, ...]:
    """What a model that a log names may be called: as it stands, then what its path tells.

    `/data/org/name/` → `org/name`; a Hub cache's `models--org--name/snapshots/…` → `org/name`; `Qwen2___5-7B` (ModelScope) →
    `Qwen2.5-7B`.
    """
    plain = text.strip().rstrip("/").replace("___", ".")
    found = [text.strip(), plain]
    if cached := re.search(r"models--([\w.-]+?)--([\w.-]+)", plain):
        found.append(f"{cached[1]}/{cached[2]}")
    parts = [part for part in re.split(r"[/\\]", plain) if part]
    if len(parts) > 1:
        found.append("/".join(parts[-2:]))
    if parts:
        found.append(parts[-1])
    return tuple(dict.fromkeys(name for name in found if name))


#: end of a repo's name → the format its weights are in, as `--quant` takes it
_FORMAT_WORDS: Final = (
    (r"[-.](?:nvfp4)", "nvfp4"),
    (r"[-.](?:fp8)(?:-(?:dynamic|block|static\w*))?", "fp8"),
    (r"[-.](?:quantized\.)?w8a8", "int8"),
    (r"[-.](?:quantized\.)?w4a16", "gptq"),
    (r"[-.]awq(?:-int4|-4bit)?", "awq"),
    (r"[-.]gptq(?:-int4)?", "gptq"),
    (r"[-.](?:unsloth-)?bnb-4bit", "nf4"),
)


def base_of(name: str) -> tuple[str, str | None]:
    """The model of which `name` is a quantized copy, and the format: `org/Name-FP8-dynamic` → `org/Name`, `fp8`. None: it is none
    by its name."""
    for pattern, fmt in _FORMAT_WORDS:
        if match := re.fullmatch(rf"(.+?){pattern}/?", name, re.IGNORECASE):
            return match[1], fmt
    return name, None
