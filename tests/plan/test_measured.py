"""The roofline with what was measured on a device, from a made-up table; and that what is published is up to date."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT

from hfmem.api.configuring import configure
from hfmem.api.estimates import Model, read_model
from hfmem.api.planning import speed
from hfmem.hub import FetchOptions
from hfmem.plan import measured as module
from hfmem.plan.devices import catalogue, find_device, nearest_device
from hfmem.plan.measured import kind_of_cache, measured
from hfmem.render.plan import speed_lines

LLAMA, V3 = "meta-llama/Meta-Llama-3-8B", "deepseek-ai/DeepSeek-V3"
H200 = find_device("h200").device
#: made up: nothing here was measured
TABLE = {
    "H200 SXM 141GB": {
        "read_bytes_per_second": 4_000_000_000_000,
        "attention": {"bf16": 0.9, "latent": 0.5},
        "launch_us": 6.0,
        "source": "made up",
    }
}


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The made-up table instead of the package's."""
    monkeypatch.setattr(module, "_packaged", lambda: TABLE)


def model(name: str) -> Model:
    return read_model(name, fetch=FetchOptions(offline=True, no_cache=True))


def test_a_device_that_was_not_measured_has_no_second_number() -> None:
    llama = model(LLAMA)
    found = speed(configure(llama, context=8192, device="l4"))
    assert found is not None and measured("L4") is None
    assert found.measured_decode_seconds is found.measured_tokens_per_second is found.measured_source is None
    assert not any("reach" in line.text for line in speed_lines(found))


def test_weights_at_the_read_rate_and_cache_at_attentions_share(table: None) -> None:
    llama = model(LLAMA)
    found = speed(configure(llama, context=8192, num_seqs=4, device=H200))
    assert found is not None
    weights, cache = 2 * (8_030_261_248 - 128_256 * 4096), 4 * 8192 * 2 * 8 * 128 * 32 * 2
    assert found.decode_seconds == pytest.approx((weights + cache) / 4.8e12)  # the bound stays the data sheet's
    assert found.measured_decode_seconds == pytest.approx((weights + cache / 0.9) / 4e12)
    assert found.measured_tokens_per_second == pytest.approx(4 * 4e12 / (weights + cache / 0.9))
    assert found.measured_source == "made up"
    shown = [line.text for line in speed_lines(found)]
    assert shown[-1].endswith("tokens/s in all with what decode kernels reach on this device (made up)")


def test_each_kind_of_cache_has_its_own_share(table: None) -> None:
    deepseek, llama = model(V3), model(LLAMA)
    latent = speed(configure(deepseek, context=8192, kv_dtype="bf16", device=H200, num_devices=8))
    assert latent is not None and latent.measured_decode_seconds is not None
    reading = (latent.weights_bytes_read + latent.cache_bytes_read / 0.5) / 4e12
    assert latent.measured_decode_seconds == pytest.approx(reading)
    fp8 = speed(configure(llama, context=8192, kv_dtype="fp8", device=H200))
    assert fp8 is not None and fp8.measured_decode_seconds is None  # not in the table, and not guessed
    assert kind_of_cache("fp8_e5m2", latent=False) == "fp8" and kind_of_cache("int4", latent=False) is None
    assert kind_of_cache("fp8", latent=True) is None


def test_what_a_driver_calls_a_device() -> None:
    def name(said: str, memory: int) -> str | None:
        found = nearest_device(said, memory)
        return found.name if found else None

    assert name("NVIDIA H200", 150_109_945_856) == "H200 SXM 141GB"
    assert name("NVIDIA H100 80GB HBM3", 85_019_590_656) == "H100 SXM 80GB"
    assert name("NVIDIA GeForce RTX 4090", 25_250_000_000) == "RTX 4090"
    assert name("Voodoo 2", 12 << 20) is None


def test_what_is_published_is_up_to_date() -> None:
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "publish_results.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_every_published_device_is_one_of_the_catalogue() -> None:
    found: dict[str, Any] = json.loads((ROOT / "hfmem/plan/data/measured.json").read_text())
    names = {device.name for device in catalogue()}
    for name, entry in found["devices"].items():
        assert name in names and (ROOT / entry["source"]).is_file()
        assert measured(name, {name: entry}) is not None
        assert all(0 < share <= 1 for share in entry["attention"].values())


def test_made_up_results_do_not_get_in(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import made_up_results

    from hfmem_kernels.benchmarks.grid import quick_grid

    path = tmp_path / "results.json"
    path.write_text(json.dumps(made_up_results.results(quick_grid())))
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "publish_results.py"), "--check", str(path)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2 and "made by fixture, not measured on a device" in done.stderr


def test_the_bound_itself_knows_no_table(table: None) -> None:
    llama = model(LLAMA)
    other = replace(H200, name="another")
    with_table, without = (speed(configure(llama, context=8192, device=device)) for device in (H200, other))
    assert with_table is not None and without is not None
    assert with_table.decode_seconds == without.decode_seconds
