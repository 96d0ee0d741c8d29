"""The results' form, its validator, and what is made of results: report, plots, the README's table, hfmem's efficiency."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_up_results
import pytest

from hfmem_kernels.benchmarks import grid, publish, report, results
from hfmem_kernels.benchmarks.results import ResultsError

ROWS = grid.quick_grid()


@pytest.fixture
def found() -> dict[str, Any]:
    """Made-up results of the quick grid."""
    made = made_up_results.results(ROWS, vllm_unified=1.5)
    contenders = {"as it is": {"status": "ok", **made_up_results.timing(280.0)},
                  "pairs": {"status": "failed", "reason": "OutOfResources: shared memory"}}  # fmt: skip
    made["experiments"] = [
        {"question": "why", "row": ROWS[0].name, "status": "ok", "session": 0, "facts": {"kv_bytes": 2**30},
         "contenders": contenders}
    ]  # fmt: skip
    return made


def test_a_file_comes_back_as_it_was(found: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.json"
    results.write(path, found)
    assert results.read(path) == found
    assert [each.name for each in path.parent.iterdir()] == ["results.json"]


def _drop(*keys: Any) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        for key in keys[:-1]:
            found = found[key]
        del found[keys[-1]]

    return change


def _put(value: Any, *keys: Any) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        for key in keys[:-1]:
            found = found[key]
        found[keys[-1]] = value

    return change


BROKEN = {
    "schema: expected 1": _put(2, "schema"),
    "method: expected one of": _put("guess", "method"),
    "'command' is missing": _drop("command"),
    "device.l2_bytes: expected a count": _put(-1, "device", "l2_bytes"),
    "source.fingerprint: expected text": _put("", "source", "fingerprint"),
    r"ceiling.bytes_per_second: expected a number above 0": _put(0, "sessions", 0, "ceiling", "bytes_per_second"),
    r"rows\[1\].session: expected a number below 1": _put(1, "rows", 1, "session"),
    r"rows\[0\].ours: the median": _put(1.0, "rows", 0, "ours", "median_us"),
    r"rows\[0\].ours.high_us: expected a number": _put(float("inf"), "rows", 0, "ours", "high_us"),
    r"rows\[0\].peers.vllm_unified: 'reason' is missing": _put(
        {"status": "skipped"}, "rows", 0, "peers", "vllm_unified"
    ),
    r"rows\[0\].status: expected one of": _put("fast", "rows", 0, "status"),
    r"rows\[2\]: .* is there twice": _put(ROWS[0].name, "rows", 2, "name"),
    r"experiments\[0\].question: expected text": _put(None, "experiments", 0, "question"),
    r"rows\[0\]: 'reason' is missing": _put("failed", "rows", 0, "status"),
    "a timing where none can be": lambda found: found["rows"][0].update(status="wrong", reason="off"),
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_breaks_the_form_is_named(message: str, found: dict[str, Any], tmp_path: Path) -> None:
    results.validate(found)
    BROKEN[message](found)
    with pytest.raises(ResultsError, match=message):
        results.validate(found)


def test_the_interpreter_times_nothing(found: dict[str, Any]) -> None:
    found["method"] = "interpreter"
    found["sessions"][0]["ceiling"] = None
    with pytest.raises(ResultsError, match="a timing where none can be"):
        results.validate(found)


def test_not_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{")
    with pytest.raises(ResultsError, match="not JSON"):
        results.read(path)


def test_what_is_done(found: dict[str, Any]) -> None:
    found["rows"][1] |= {"status": "failed", "reason": "x", "ours": None}
    found["rows"][2] |= {"status": "skipped", "reason": "x", "ours": None, "peers": {}}
    done = results.finished(found, ["vllm_unified"])
    assert ROWS[1].name not in done and done >= {ROWS[0].name, ROWS[2].name, f"why · {ROWS[0].name}"}
    again = results.finished(found, ["vllm_unified", "flashinfer_fa2"])  # a peer that the rows were not tried with
    assert again == {ROWS[2].name, f"why · {ROWS[0].name}"}


def test_the_report_says_what_was_measured_and_that_it_was_made_up(found: dict[str, Any]) -> None:
    found["rows"][3] |= {"status": "wrong", "reason": "1.20 of the bound", "ours": None, "peers": {}}
    found["rows"][4]["peers"]["fa3"] = {"status": "skipped", "reason": "fa3 is not installed"}
    text = report.report(found, ROWS, planned=60)
    assert text.startswith("# Made-up numbers")
    # 2^30 B at 0.95 of 4 TB/s and 6 µs: 288.6 µs, 3,721 GB/s, 93.0 %
    assert "| llama-3.1-8b 8x32k bf16 p16 | 288.6 ± 1.0% | 1,073.7 | 3,721 | 93.0% | 1.50 |" in text
    assert "| llama-3.1-8b 8x32k e4m3-tensor p16 | wrong: 1.20 of the bound |" in text
    assert "| fa3 | no row | fa3 is not installed (1) |" in text
    assert "| pairs | failed: OutOfResources: shared memory |" in text
    assert "| ≥ 512 MB bf16, page ≥ 16 | ≤ 1.02 × FA3 | not measured |" in text
    assert "t = 6.0 µs + bytes / 3.80 TB/s" in text
    assert "11 of 60 items have a record." in text


def test_a_spread_that_is_not_known_is_not_shown(found: dict[str, Any]) -> None:
    """A median that was read from a run's progress line."""
    found["rows"][0]["ours"] |= {"low_us": 288.6, "median_us": 288.6, "high_us": 288.6, "samples": 0}
    results.validate(found)
    assert "| llama-3.1-8b 8x32k bf16 p16 | 288.6 | 1,073.7 |" in report.report(found, ROWS)


def test_the_report_of_the_interpreter_shows_no_time() -> None:
    made = made_up_results.results(grid.smoke_grid(), method="interpreter")
    made["sessions"][0] |= {"ceiling": None, "launch_us": None, "readings": []}
    for row in made["rows"]:
        row |= {"ours": None, "peers": {"fa3": {"status": "skipped", "reason": "fa3 is not installed"}}}
    results.validate(made)
    text = report.report(made, grid.smoke_grid())
    assert text.startswith("# No GPU: the smoke grid, checked in Triton's interpreter; nothing was timed")
    assert " µs" not in text and "TB/s" not in text and "GB/s" not in text


def test_plots_are_drawn(found: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from hfmem_kernels.benchmarks.plots import draw

    paths = draw(results.measured(found, ROWS), found, tmp_path)
    assert sorted(path.name for path in paths) == ["latency.png", "latency.svg", "roofline.png", "roofline.svg"]
    assert all(path.stat().st_size > 10_000 for path in paths)
    assert "made-up numbers" in report.report(found, ROWS).lower()
    assert draw({}, found, tmp_path / "none") == [] and not (tmp_path / "none").exists()


def _on_a_device(found: dict[str, Any], day: str, share: float) -> dict[str, Any]:
    made = copy.deepcopy(made_up_results.results(ROWS, lambda row: share, method="device"))
    made["sessions"][0]["started"] = f"{day}T00:00:00+00:00"
    return made


def test_publishing_takes_the_newest_of_a_device(found: dict[str, Any], tmp_path: Path) -> None:
    for day, share in (("2001-01-01", 0.5), ("2001-02-01", 0.9)):
        made = _on_a_device(found, day, share)
        results.write(tmp_path / publish.file_name(made), made)
    assert publish.file_name(made) == "h200-sxm-141gb/2001-02-01-01234567.json"
    devices = publish.newest(tmp_path)
    path, newest = devices["H200 SXM 141GB"]
    entry = publish.efficiency(newest, ROWS, "here")
    assert path.name.startswith("2001-02") and entry is not None
    assert entry["read_bytes_per_second"] == 4_000_000_000_000 and entry["source"] == "here"
    assert entry["launch_us"] == pytest.approx(6.0)
    # two of the region's rows have 2^30 B and one 2^31: the median is 2^30 B over 6 µs and 2^30 / (0.9 · 4 TB/s)
    ideal = 2**30 / 4e12
    assert entry["attention"]["bf16"] == pytest.approx(ideal / (6e-6 + ideal / 0.9), abs=1e-4)
    assert set(entry["attention"]) == {"bf16", "fp8", "latent"}
    block = publish.readme_block(devices, ROWS)
    # latent rows of 64 · 8192 · 1152 B: 151.0 µs at R, 173.8 µs at nine tenths of it and 6 µs
    assert block.startswith("H200 SXM 141GB, 2001-02-01") and "| ≥ 80 % of R | met | 0.869 | 1 |" in block


def test_made_up_results_are_not_published(found: dict[str, Any], tmp_path: Path) -> None:
    results.write(tmp_path / "device" / "x.json", found)
    with pytest.raises(ResultsError, match="fixture, not measured on a device"):
        publish.newest(tmp_path)


def test_the_block_goes_between_its_marks() -> None:
    text = f"before\n{publish.BEGIN}\nold\n{publish.END}\nafter\n"
    assert publish.with_block(text, "new\n| \\1 |") == f"before\n{publish.BEGIN}\nnew\n| \\1 |\n{publish.END}\nafter\n"
    assert publish.readme_block({}, ROWS).startswith("Not measured yet")
    with pytest.raises(ValueError, match="marks"):
        publish.with_block("nothing", "new")


def test_a_results_file_is_json_without_surprises(found: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    results.write(path, found)
    assert json.loads(path.read_text())["schema"] == 1
