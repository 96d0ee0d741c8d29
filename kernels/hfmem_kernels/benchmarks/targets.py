"""What is to be reached, as data, and what a set of results says of it: met, missed, or not measured.

Regions are predicates over a row's own numbers, so that no row can be in the wrong one. MB are 10^6 bytes of KV cache that the step
reads; R is the read ceiling measured in the same run; the 4 MB region ends at 4 MiB, so that 1,024 tokens of an 8B model are in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hfmem_kernels.benchmarks.rows import Row
from hfmem_kernels.layout import LatentFormat, Layout

MB = 10**6

Status = Literal["met", "missed", "reported", "not measured"]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a target asks of a row's result. `ceiling`: R in bytes per second; `peers`: microseconds by the peers' names."""

    row: Row
    microseconds: float
    ceiling: float
    peers: Mapping[str, float]

    @property
    def share(self) -> float:
        """KV bytes over time over R."""
        return self.row.traffic.kv_bytes / (self.microseconds * 1e-6) / self.ceiling


#: what a criterion measures, given a row's result and that of its baseline
Value = Callable[[Measured, Measured | None], float | None]


@dataclass(frozen=True, slots=True)
class Criterion:
    """One number with a bound. `least`: the value has to be at least `bound`, else at most; `stretch`: the bound to hope for."""

    text: str
    value: Value
    bound: float
    least: bool = False
    stretch: float | None = None

    def holds(self, value: float, bound: float | None = None) -> bool:
        """Whether `value` is within the bound."""
        limit = self.bound if bound is None else bound
        return value >= limit if self.least else value <= limit


@dataclass(frozen=True, slots=True)
class Target:
    """A region of rows and what every one of them has to fulfil; no criterion: it is reported only.

    static: shapes of `kernels/results/static.md`, whose machine code is all that is known of the region without a device.
    """

    region: str
    holds: Callable[[Row], bool]
    criteria: tuple[Criterion, ...]
    static: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the results say of one criterion; `row` and `value` are the worst, `stretch` whether even the stretch bound is met.

    `static`: shapes whose machine code is known, of a region where no row was measured.
    """

    region: str
    text: str
    status: Status
    rows: int
    row: str | None = None
    value: float | None = None
    bound: float | None = None
    stretch: bool | None = None
    static: tuple[str, ...] = ()


def _share(measured: Measured, _: Measured | None) -> float:
    return measured.share


def _overhead(measured: Measured, _: Measured | None) -> float:
    return measured.microseconds - measured.row.traffic.kv_bytes / measured.ceiling * 1e6


def _time(measured: Measured, _: Measured | None) -> float:
    return measured.microseconds


def _to_baseline(measured: Measured, baseline: Measured | None) -> float | None:
    return None if baseline is None else measured.microseconds / baseline.microseconds


def _per_byte_to_baseline(measured: Measured, baseline: Measured | None) -> float | None:
    if baseline is None:
        return None
    mine = measured.microseconds / measured.row.traffic.kv_bytes
    return mine / (baseline.microseconds / baseline.row.traffic.kv_bytes)


def _over(*names: str) -> Value:
    """Our time over that of the fastest of these peers; no names: over the fastest of all."""

    def value(measured: Measured, _: Measured | None) -> float | None:
        times = [time for name, time in measured.peers.items() if not names or name in names]
        return measured.microseconds / min(times) if times else None

    return value


#: peers whose kernels are Triton's
TRITON_PEERS = ("vllm_unified", "vllm_decode", "sglang", "lmdeploy")


def _plain(row: Row) -> bool:
    """Uniform lengths, one query, no window, K and V."""
    return not row.ragged and row.q_len == 1 and row.shape.window is None and not row.shape.latent


def _bf16(row: Row) -> bool:
    return row.dtype == "bfloat16"


def _mb(row: Row) -> float:
    return row.traffic.kv_bytes / MB


def _ordinary(row: Row) -> bool:
    return _plain(row) and _bf16(row) and row.layout is Layout.NHD


def _odd_layout(row: Row) -> bool:
    odd = row.page_size in (528, 672, 1072) or row.layout is not Layout.NHD
    return _plain(row) and _bf16(row) and odd and row.page_size > 1 and row.baseline is not None


TARGETS = (
    Target(
        "≥ 512 MB bf16, page ≥ 16",
        lambda row: _ordinary(row) and _mb(row) >= 512 and row.page_size >= 16,
        (
            Criterion("≥ 93 % of R (stretch 95)", _share, 0.93, least=True, stretch=0.95),
            Criterion("≤ 1.02 × FA3", _over("fa3", "fa3_planned", "fa3_dense"), 1.02),
            Criterion("≥ 1.15 × faster than the best Triton peer", _over(*TRITON_PEERS), 1 / 1.15),
        ),
        static=("Llama-3.1-8B", "Llama-3.1-70B, TP 8", "Qwen3-30B-A3B", "Llama-2-7B"),
    ),
    Target(
        "64–512 MB bf16",
        lambda row: _ordinary(row) and 64 <= _mb(row) < 512 and row.page_size >= 16,
        (Criterion("time − bytes / R ≤ 7 µs", _overhead, 7.0),),
    ),
    Target(
        "≤ 4 MB",
        lambda row: _plain(row) and row.traffic.kv_bytes <= 4 << 20,
        (Criterion("≤ 7 µs", _time, 7.0), Criterion("no slower than the best peer", _over(), 1.0)),
    ),
    Target(
        "batch × KV heads 128–256, context ≥ 8k",
        lambda row: (
            _ordinary(row)
            and 128 <= len(row.mix.lengths) * row.shape.num_kv_heads <= 256
            and min(row.mix.lengths) >= 8192
        ),
        (
            Criterion("≥ 2 × as fast as vLLM's Triton kernel", _over("vllm_unified"), 0.5),
            Criterion("≥ 90 % of R", _share, 0.90, least=True),
        ),
        static=("Llama-3.1-8B", "Llama-3.1-70B, TP 8", "Qwen3-30B-A3B", "Llama-2-7B"),
    ),
    Target(
        "fp8, ≥ 256 MB",
        lambda row: _plain(row) and row.dtype.startswith("float8") and row.scales != "token" and _mb(row) >= 256,
        (
            Criterion("≥ 80 % of R (stretch 88)", _share, 0.80, least=True, stretch=0.88),
            Criterion("≤ 0.62 × our own bf16 time", _to_baseline, 0.62),
        ),
        static=("Llama-3.1-8B, e4m3",),
    ),
    Target(
        "ragged lengths",
        lambda row: row.ragged and row.q_len == 1 and row.shape.window is None and _bf16(row),
        (
            Criterion("≥ 85 % of R", _share, 0.85, least=True),
            Criterion("within 5 % of uniform lengths at equal bytes", _per_byte_to_baseline, 1.05),
        ),
    ),
    Target(
        "pages of 528, 672, 1072; HND, packed",
        _odd_layout,
        (Criterion("within 3 % of 16-token NHD pages", _to_baseline, 1.03),),
        static=("hybrid, page 528",),
    ),
    Target(
        "page 1",
        lambda row: _plain(row) and _bf16(row) and row.page_size == 1,
        (Criterion("≥ 80 % of R", _share, 0.80, least=True),),
    ),
    Target(
        "several queries, group × queries ≤ 16",
        lambda row: row.q_len > 1 and row.shape.group * row.q_len <= 16 and not row.shape.latent,
        (Criterion("≤ 1.05 × one query", _to_baseline, 1.05),),
    ),
    Target(
        "MLA, 16 heads",
        lambda row: row.shape.latent and row.shape.num_heads == 16 and _mb(row) >= 64,
        (Criterion("≥ 80 % of R", _share, 0.80, least=True),),
        static=("MLA, 16 heads",),
    ),
    Target(
        "MLA, 128 heads: compute-bound, reported beside FlashMLA",
        lambda row: (
            row.shape.latent and row.shape.num_heads == 128 and row.latent_format is LatentFormat.PLAIN and _bf16(row)
        ),
        (),
        static=("MLA, 128 heads",),
    ),
)


def regions_of(row: Row) -> list[str]:
    """The regions that a row belongs to."""
    return [target.region for target in TARGETS if target.holds(row)]


def evaluate(rows: Sequence[Row], results: Mapping[str, Measured]) -> list[Verdict]:
    """A verdict for each criterion. `met` needs every row of the region that was measured to fulfil it, and at least one.

    Args:
        rows: the grid, also rows without a result. results: by the row's name.
    """
    verdicts = []
    for target in TARGETS:
        names = [row.name for row in rows if target.holds(row)]
        static = () if any(name in results for name in names) else target.static
        for criterion in target.criteria:
            found: list[tuple[float, str]] = []
            for name in names:
                if (measured := results.get(name)) is None:
                    continue
                baseline = results.get(measured.row.baseline or "")
                if (value := criterion.value(measured, baseline)) is not None:
                    found.append((value, name))
            verdicts.append(_verdict(target.region, criterion, found, static))
        if not target.criteria:
            measured_rows = sum(name in results for name in names)
            status: Status = "reported" if measured_rows else "not measured"
            verdicts.append(Verdict(target.region, "no bound", status, measured_rows, static=static))
    return verdicts


def _verdict(region: str, criterion: Criterion, found: list[tuple[float, str]], static: tuple[str, ...]) -> Verdict:
    if not found:
        return Verdict(region, criterion.text, "not measured", 0, bound=criterion.bound, static=static)
    value, row = min(found) if criterion.least else max(found)
    return Verdict(
        region,
        criterion.text,
        "met" if criterion.holds(value) else "missed",
        len(found),
        row,
        value,
        criterion.bound,
        None if criterion.stretch is None else criterion.holds(value, criterion.stretch),
    )
