"""What a server's own log says: engine, version, model, settings, and the sizes it printed. Text in, frozen facts out.

The lines are those of vLLM (V0 and V1, 0.1 to 0.33: `worker.py`, `gpu_worker.py`, `gpu_model_runner.py`, `kv_cache_utils.py`),
SGLang (`model_runner.py`, `memory_pool.py`, `scheduler.py`) and llama.cpp with its forks (`llama-model.cpp`, `llama-context.cpp`,
`llama-kv-cache*.cpp`). All three print powers of two, whatever unit they name: vLLM's and SGLang's "GB" and llama.cpp's "MB" are
GiB and MiB. Logs reach us pasted, truncated and with their line ends lost, so no pattern is anchored to a line.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from itertools import islice
from typing import Final

from hfmem.errors import UsageError
from hfmem.memory.engines.vllm.releases import GraphSizes
from hfmem.records import dataclass
from hfmem.server_logs.forms import line_of_its_own, release_told
from hfmem.server_logs.gguf_settings import build_told
from hfmem.server_logs.lines import clean, one_stream, relevant
from hfmem.server_logs.patterns import (
    COMPILED,
    DECISIVE,
    DEVICE_MEMORY,
    ENGINES,
    FOREIGN,
    GRAPHS,
    IS_SIZE,
    LOADED,
    SIZE_WORDS,
    STARTS,
    VERSIONS,
    Engine,
)
from hfmem.server_logs.settings import Settings, read_settings
from hfmem.units import GIB, KIB, MIB

_UNITS: Final = {"g": GIB, "m": MIB, "k": KIB}
#: ranks repeat a line, not more often than this
_MOST: Final = 4096

#: a buffer of llama.cpp's holds its tensors' padding too
_ALIGNED: Final = 64 * KIB
#: a comma before three digits divides thousands, as people write them
_THOUSANDS: Final = re.compile(r"-?\d{1,3},\d{3}")
#: what llama.cpp says before the second of two caches
_WINDOWED: Final = re.compile(r"creating +SWA KV cache")
#: llama.cpp's server (`server-context.cpp`) begins with a draft: a context of the model's own prediction layers, or a smaller model
_DRAFT: Final = re.compile(r"creating (?:\w{1,10} )?draft context|loading draft model")


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
    `graphs_counted`: vLLM says that it takes its estimate of CUDA graphs from its share. `form`: the N of a vLLM 0.N that prints
    such lines, where they tell; of llama.cpp its build, about. `until_27`: vLLM prints the pool as until 0.27. `graphs`: what it
    says that it captures. `others`: engines and containers whose lines are left out."""

    engine: Engine
    version: str | None
    settings: Settings
    readings: Mapping[str, tuple[Reading, ...]]
    starts: int = 1
    graphs_counted: bool = False
    form: int | None = None
    graphs: GraphSizes | None = None
    others: tuple[str, ...] = ()
    until_27: bool = False

    def first(self, name: str) -> Reading | None:
        """The first value of that name."""
        found = self.readings.get(name)
        return found[0] if found else None

    def smallest(self, name: str) -> Reading | None:
        """Of all ranks the least: what decides for the pool."""
        return min(self.readings.get(name, ()), key=lambda reading: reading.value, default=None)

    def largest(self, name: str) -> Reading | None:
        """Of all ranks the most; where two lines say the same, the one with more digits."""
        found = self.readings.get(name, ())
        most = max(found, key=lambda reading: reading.value, default=None)
        if most is None:
            return None
        same = (reading for reading in found if most.value - reading.value <= most.slack)
        return min(same, key=lambda reading: reading.slack)


def parse_log(text: str, model: str | None = None) -> LogFacts:
    """The facts of the last start in `text` that printed any size; of those that name `model`, where some do.

    Raises:
        UsageError: no line of an engine's is in it, or it is of one that has no rules and prints nothing to compare.
    """
    text, numbers = relevant(clean(text))
    about = (model or "").strip("/").rpartition("/")[2].lower()
    text, numbers, others = one_stream(text, numbers, about)
    engine, rivals = _engine(text)
    begins, counts = STARTS[engine]
    if engine == "llama.cpp":
        text = _before_draft(text, begins)
    cuts = [match.start() for match in begins.finditer(text)]
    if engine != "llama.cpp" or not cuts:
        cuts = [0, *cuts[1:]]  # what stands before the first is of the same start
    spans = list(zip(cuts, [*cuts[1:], len(text)], strict=True))
    named = [(begin, end) for begin, end in spans if about in text[_opens(text, begin, engine) : end].lower()]
    start, readings = 0, dict[str, tuple[Reading, ...]]()
    for begin, end in (*reversed(named), *reversed(spans)):
        found = _readings(text, begin, end, numbers)
        whole = engine != "llama.cpp" or "cache_bytes" in found
        if found and (whole or not readings):
            start, readings = begin, found
            if whole:
                break
    if not readings and engine == "llama.cpp":  # only what was loaded
        readings = _readings(text, 0, len(text), numbers)
    until = next((cut for cut in cuts if cut > start), len(text))
    # what it says while it loads stands before the context, but for Ollama's own runner
    if engine == "llama.cpp" and start and not text.startswith("msg=load", start):
        loaded = _readings(text, _opens(text, start, engine), start, numbers)
        readings = {name: loaded[name] for name in LOADED if name in loaded} | {
            name: found for name, found in readings.items() if name not in LOADED
        }
    version = next((m[1] for pattern in VERSIONS if (m := re.search(pattern, text[:until]))), None)
    settings = read_settings(text[:until], engine, since=start)
    counted = "CUDA graph memory profiling is enabled" in text[start:until]
    starts = len(counts.findall(text))
    form = None
    if engine in FOREIGN and not any(name.endswith("bytes") for name in readings):
        room = readings.get("batch_tokens")
        said = f"it says room for {room[0].value:,} tokens" if room else "there is no size in it"
        raise UsageError(f"a log of {FOREIGN[engine]}, which hfmem has no rules for: {said}, and no bytes to compare")
    if engine in ("vllm", "llama.cpp"):
        told_by = release_told if engine == "vllm" else build_told
        form = told_by(text[start:until]) or told_by(text[:until])
    graphs = _graphs(text[start:until])
    old = engine == "vllm" and line_of_its_own(text[start:until])
    return LogFacts(engine, version, settings, readings, max(starts, 1), counted, form, graphs, (*rivals, *others), old)


def _opens(text: str, start: int, engine: Engine) -> int:
    """Where the start whose sizes begin at `start` says what it loads: llama.cpp does so before its context."""
    return max(text.rfind("loaded meta data", 0, start), 0) if engine == "llama.cpp" else start


def _before_draft(text: str, begins: re.Pattern[str]) -> str:
    """`text` up to the draft of its last start, whose context is printed like the model's own and comes after it."""
    drafts = list(_DRAFT.finditer(text))
    if (
        not drafts
        or len(begins.findall(text, drafts[-1].start())) > 1
        or not begins.search(text, 0, drafts[-1].start())
    ):
        return text
    return text[: drafts[-1].start()]


def _engine(text: str) -> tuple[Engine, tuple[str, ...]]:
    """The engine of the log's last decisive line, and the others that have one.

    Raises:
        UsageError: no engine's line is there.
    """
    last: dict[Engine, int] = {}
    for name, pattern in ENGINES[:DECISIVE]:
        for match in re.finditer(pattern, text):
            last[name] = max(last.get(name, -1), match.start())
    if last:
        found = max(last, key=lambda name: last[name])
        return found, tuple(name for name in last if name != found)
    named = next((name for name, pattern in ENGINES if re.search(pattern, text)), None)
    if named is None:
        raise UsageError("no line of vLLM, SGLang, llama.cpp, TensorRT-LLM, LMDeploy or TGI is in this log")
    return named, ()


def _graphs(text: str) -> GraphSizes | None:
    """What vLLM says that it captures, before any draft model's."""
    match = GRAPHS.search(text)
    if match is None or not (match[1] or match[3]):
        return None
    return GraphSizes(*(int(part or 0) for part in match.groups()))


def _readings(text: str, begin: int, end: int, numbers: list[int]) -> dict[str, tuple[Reading, ...]]:
    first = text.count("\n", 0, begin)
    rows = [
        (row, numbers[first + index])
        for index, row in enumerate(text[begin:end].split("\n"))
        if any(word in row for word in SIZE_WORDS)
    ]
    text = "\n".join(row for row, _ in rows)
    found: dict[str, list[tuple[int, int | float, int | float]]] = {}
    for name, pattern, needle in COMPILED:
        if needle not in text:
            continue
        for match in islice(pattern.finditer(text), _MOST):
            value: int | float
            slack: int | float
            if name in IS_SIZE:
                value, slack = _bytes(match[1], match[2])
            elif name == "max_concurrency":
                value, slack = float(match[2]), _last_digit(match[2]) / 2
            else:
                value, slack = int(match[1].replace(",", "")), 0
            found.setdefault(name, []).append((match.start(), value, slack))
    for match in DEVICE_MEMORY.finditer(text):
        value, slack = _bytes(match[2], "G")
        found.setdefault("device_bytes", []).append((match.start(), value, slack))
    buffers = found.pop("cache_buffer_bytes", [])
    if "cache_part_bytes" not in found and "cache_bytes" not in found and any(size for _, size, _ in buffers):
        # of less talkative servers the buffers on each device, which are aligned
        sums = [sum(part[column] for part in buffers) for column in (1, 2)]
        found["cache_bytes"] = [(buffers[0][0], sums[0], sums[1] + len(buffers) * _ALIGNED)]
    if "cache_part_bytes" in found:  # llama.cpp's windowed layers have a cache of their own
        told = max(text.count("KV cache, size ="), 2 if _WINDOWED.search(text) else 1)
        parts = sorted(found.pop("cache_part_bytes"))[:told]
        found["cache_bytes"] = [(parts[0][0], sum(part[1] for part in parts), sum(part[2] for part in parts))]
        if len(parts) == 1:
            found["lone_caches"] = [(parts[0][0], 1, 0)]
    if "weights_bytes" not in found and found.get("before_bytes") and found.get("after_bytes"):
        (place, before, slack), (_, after, more) = min(found["before_bytes"]), min(found["after_bytes"])
        if before > after:  # SGLang of 2024, and pastes: how free memory fell
            found["weights_bytes"] = [(place, before - after, slack + more)]
    ends = [match.start() for match in re.finditer("\n", text)]
    return {
        name: tuple(Reading(value, slack, rows[bisect_left(ends, place)][1]) for place, value, slack in sorted(items))
        for name, items in found.items()
    }


def _bytes(number: str, unit: str) -> tuple[int, int]:
    """Bytes of a printed size, and half a unit of its last digit. A comma is a decimal one: locales of forks, which print two
    digits after it."""
    number = number.replace(",", "" if _THOUSANDS.fullmatch(number) else ".")
    scale = _UNITS[unit.lower()]
    return round(float(number) * scale), round(_last_digit(number) * scale / 2)


def _last_digit(number: str) -> float:
    return float(10 ** -len(number.partition(".")[2]))
