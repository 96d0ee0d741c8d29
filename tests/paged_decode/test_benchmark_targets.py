"""Targets over made-up results, at values on either side of each bound; and the summaries that they rest on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hfmem_kernels.benchmarks import grid
from hfmem_kernels.benchmarks.peers import PEERS
from hfmem_kernels.benchmarks.report import targets_table
from hfmem_kernels.benchmarks.rows import Row, uniform
from hfmem_kernels.benchmarks.shapes import shape
from hfmem_kernels.benchmarks.summary import Timing, bytes_per_second, fit_line, summarize
from hfmem_kernels.benchmarks.targets import TARGETS, Measured, Verdict, evaluate

R = 4.0e12
HEAD = Row(shape("llama-3.1-8b"), uniform(8, 32768))  # 2^30 B: 268.4 µs at R


def at(row: Row, share: float, **peers: float) -> Measured:
    """A row read at a share of R; peers by their time over ours."""
    time = row.traffic.kv_bytes / (R * share) * 1e6
    return Measured(row, time, R, {name: time * ratio for name, ratio in peers.items()})


def verdicts(*found: Measured) -> dict[tuple[str, str], Verdict]:
    rows = [each.row for each in found]
    return {(v.region, v.text): v for v in evaluate(rows, {each.row.name: each for each in found})}


def one(text: str, *found: Measured) -> Verdict:
    return next(v for (_, t), v in verdicts(*found).items() if text in t and v.status != "not measured")


def test_nothing_measured_meets_nothing() -> None:
    found = evaluate(grid.core_grid(), {})
    assert {v.status for v in found} == {"not measured"}
    assert len(found) == sum(max(1, len(target.criteria)) for target in TARGETS)


def test_share_of_the_ceiling() -> None:
    assert one("93 %", at(HEAD, 0.94)).status == "met"
    assert one("93 %", at(HEAD, 0.94)).stretch is False
    assert one("93 %", at(HEAD, 0.96)).stretch is True
    missed = one("93 %", at(HEAD, 0.96), at(replace(HEAD, mix=uniform(16, 32768)), 0.92))
    assert (missed.status, missed.row, missed.rows) == ("missed", "llama-3.1-8b 16x32k bf16 p16", 2)
    assert missed.value == pytest.approx(0.92)


def test_against_peers() -> None:
    assert one("FA3", at(HEAD, 0.9, fa3=0.99)).status == "met"  # we are 1 / 0.99 = 1.01 of it
    assert one("FA3", at(HEAD, 0.9, fa3=0.97)).status == "missed"
    best = one("best Triton peer", at(HEAD, 0.9, vllm_unified=1.5, sglang=1.2, fa3=0.9))
    assert best.status == "met" and best.value == pytest.approx(1 / 1.2)
    assert one("best Triton peer", at(HEAD, 0.9, sglang=1.1)).status == "missed"
    without = verdicts(at(HEAD, 0.9, torch_varlen=2.0))
    assert without["≥ 512 MB bf16, page ≥ 16", "≤ 1.02 × FA3"].status == "not measured"
    many = replace(HEAD, mix=uniform(16, 32768))
    assert one("2 × as fast", at(many, 0.9, vllm_unified=2.1)).status == "met"
    assert one("2 × as fast", at(many, 0.9, vllm_unified=1.9)).status == "missed"


def test_small_and_middle() -> None:
    small = Row(shape("llama-3.1-8b"), uniform(1, 1024))
    assert one("≤ 7 µs", Measured(small, 6.9, R, {"fa3": 7.0})).status == "met"
    assert one("no slower", Measured(small, 6.9, R, {"fa3": 6.8, "sglang": 9.0})).status == "missed"
    middle = Row(shape("llama-3.1-8b"), uniform(1, 32768))  # 134.2 MB: 33.55 µs at R
    assert one("bytes / R", Measured(middle, 40.4, R, {})).status == "met"
    assert one("bytes / R", Measured(middle, 40.7, R, {})).status == "missed"


def test_against_baselines() -> None:
    base = at(HEAD, 0.94)
    fp8 = HEAD.in_fp8(HEAD.name)
    assert one("0.62", base, Measured(fp8, base.microseconds * 0.61, R, {})).status == "met"
    assert one("0.62", base, Measured(fp8, base.microseconds * 0.63, R, {})).status == "missed"
    assert ("fp8, ≥ 256 MB", "≤ 0.62 × our own bf16 time") in verdicts(at(fp8, 0.8))
    assert verdicts(at(fp8, 0.8))["fp8, ≥ 256 MB", "≤ 0.62 × our own bf16 time"].status == "not measured"
    odd = replace(HEAD, page_size=528, baseline=HEAD.name)
    assert one("16-token NHD", base, Measured(odd, base.microseconds * 1.02, R, {})).status == "met"
    assert one("16-token NHD", base, Measured(odd, base.microseconds * 1.04, R, {})).status == "missed"
    several = replace(HEAD, q_len=4, baseline=HEAD.name)
    assert one("one query", base, Measured(several, base.microseconds * 1.06, R, {})).status == "missed"


def test_ragged_is_compared_by_the_byte() -> None:
    uniform_row = Row(HEAD.shape, uniform(64, 4096))
    ragged = Row(HEAD.shape, grid.ZIPF, baseline=uniform_row.name)
    assert ragged.traffic.kv_bytes == uniform_row.traffic.kv_bytes
    assert one("within 5 %", at(uniform_row, 0.92), at(ragged, 0.88)).status == "met"
    assert one("within 5 %", at(uniform_row, 0.92), at(ragged, 0.87)).status == "missed"


def test_a_region_without_bounds_is_reported() -> None:
    row = Row(shape("deepseek-v3"), uniform(64, 8192), page_size=64)
    assert one("no bound", at(row, 0.3, flash_mla=0.8)).status == "reported"


def test_summaries() -> None:
    found = summarize([10.0, 11.0, 12.0, 13.0, 100.0])
    assert (found.median_us, found.samples) == (12.0, 5)
    assert found.low_us == pytest.approx(10.4) and 13 < found.high_us < 100
    assert summarize([3.0]) == Timing(3.0, 3.0, 3.0, 1)
    assert Timing(100.0, 98.0, 104.0, 9).spread == pytest.approx(0.03)
    assert bytes_per_second(4_000_000, 1.0) == pytest.approx(4e12)
    with pytest.raises(ValueError, match="at least one"):
        summarize([])


def test_the_line_through_exact_points_is_the_line() -> None:
    line = fit_line([(size, 6.0 + size / 4.0e12 * 1e6) for size in (4 << 20, 1 << 27, 1 << 30)])
    assert line is not None
    assert line.launch_us == pytest.approx(6.0) and line.bytes_per_second == pytest.approx(4.0e12)
    assert fit_line([(1, 1.0), (2, 2.0)]) is None
    assert fit_line([(1, 3.0), (2, 2.0), (3, 1.0)]) is None


def test_the_core_grid_decides_every_target() -> None:
    """Each criterion has a row of its region, a baseline that is measured too, and a peer that can do the row."""
    rows = grid.core_grid()
    found = {}
    for row in rows:
        names = [peer.name for peer in PEERS if peer.refuses(row) is None]
        found[row.name] = at(row, 0.9, **dict.fromkeys(names, 1.5))
    assert all(verdict.status != "not measured" and verdict.rows for verdict in evaluate(rows, found))


def test_what_is_known_without_a_device_is_named() -> None:
    """The shapes that targets name are rows of the compared machine code, and the report says which rows are only static."""
    static = Path(__file__).resolve().parents[2] / "kernels" / "results" / "static.md"
    shapes = {
        line.split("|")[1].strip() for line in static.read_text(encoding="utf-8").splitlines() if line.startswith("| ")
    }
    assert {name for target in TARGETS for name in target.static} <= shapes
    lines = {line.split(" | ")[0].strip("| "): line for line in targets_table(evaluate(grid.core_grid(), {}))}
    assert "not measured, only static (Llama-3.1-8B, e4m3)" in lines["fp8, ≥ 256 MB"]
    assert "| not measured |" in lines["ragged lengths"]
    measured = targets_table(evaluate([HEAD], {HEAD.name: at(HEAD, 0.96)}))
    assert "static" not in next(line for line in measured if "93 %" in line)
