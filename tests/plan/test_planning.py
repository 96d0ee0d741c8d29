"""The smallest layouts: against every layout of every smaller number, one by one, and what the command takes."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfmem.api.configuring import configure
from hfmem.api.estimates import Model, estimate, read_model
from hfmem.api.planning import plan
from hfmem.cli import main
from hfmem.hub import FetchOptions
from hfmem.memory.drafts import weights_with
from hfmem.memory.serving import Serving
from hfmem.memory.weights import RankWeights
from hfmem.plan.devices import plain_memory
from hfmem.plan.solver import crossing, largest
from hfmem.plan.target import Target

GIB = 1 << 30
LLAMA = "meta-llama/Meta-Llama-3-8B"


@pytest.fixture(scope="module")
def llama() -> Model:
    return read_model(LLAMA, fetch=FetchOptions(offline=True, no_cache=True))


@settings(max_examples=12, deadline=None)
@given(
    memory=st.lists(st.integers(3 * GIB, 60 * GIB), min_size=1, max_size=3, unique=True),
    users=st.integers(1, 32),
    context=st.integers(1, 65536),
    most=st.integers(1, 8),
    engine=st.sampled_from(["vllm", "sglang", "ideal"]),
)
def test_no_smaller_layout_fits(
    llama: Model, memory: list[int], users: int, context: int, most: int, engine: str
) -> None:
    devices = [plain_memory(size) for size in memory]
    found = plan(llama, users=users, context=context, devices=devices, max_devices=most, engine=engine)
    fewest: dict[int, list[int]] = {}
    for layout in found.layouts:
        fewest.setdefault(layout.memory_bytes // layout.num_devices, []).append(layout.num_devices)
        assert len(fewest[layout.memory_bytes // layout.num_devices]) == 1 or layout.pp == 1
    order = [(layout.num_devices, layout.memory_bytes) for layout in found.layouts]
    assert order == sorted(order)
    for device in devices:
        base = configure(llama, context=context, num_seqs=users, engine=engine, device=device)
        counts = fewest.get(device.memory_bytes, [most + 1])
        for count in range(1, counts[-1]):
            scale = base.scale(replace(base.target, num_devices=count) if base.target else Target(device, count))
            for tp in range(1, count + 1):
                # beyond the fewest: the fewest without pipeline stages, if there are any (the last of two)
                if count % tp == 0 and (count < counts[0] or tp == count > counts[0]):
                    tried = replace(base.serving, tp=tp, pp=count // tp)
                    assert not scale.fits(tried), (device.name, tp, count // tp)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([*words, "--offline"])
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def test_a_search_over_many_devices_cuts_few_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    # 4,000 sequences of 32,768 tokens × 96 KiB (48 layers × 4 heads × 128 × 2 × 2 bytes) are 12.9 TB, 256 devices of 48 GB 12.3 TB:
    # that is told from the sums, and no layout (there are some hundred) has its weights cut
    cut: list[tuple[int, int]] = []

    def counted(arch: Any, groups: Any, drafter: Any, serving: Serving) -> RankWeights:
        cut.append((serving.tp, serving.pp))
        return weights_with(arch, groups, drafter, serving)

    monkeypatch.setattr("hfmem.plan.fit.weights_with", counted)
    model = read_model("Qwen/Qwen3-30B-A3B", fetch=FetchOptions(offline=True, no_cache=True))
    found = plan(model, users=4000, context=32_768, devices="l40s", max_devices=256)
    assert not found.layouts
    assert set(cut) == {(1, 1)}


def test_a_number_before_a_device_is_the_most_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Two sequences of 64k take 16 GiB of cache and 15 of weights: a 4090 of 23.5 GiB is too small, two are enough."""
    words = ("plan", LLAMA, "--ctx", "64k", "--users", "2", "--json")
    status, out, _ = run(capsys, *words, "--gpu", "2x4090,h100")
    assert status == 0
    assert {item["device"]: item["num_devices"] for item in json.loads(out)["layouts"]} == {
        "H100 SXM 80GB": 1,
        "RTX 4090": 2,
    }
    status, _, err = run(capsys, *words, "--gpu", "1x4090")
    assert status == 1 and err.startswith("error: ") and err.count("\n") == 1
    status, _, err = run(capsys, *words, "--gpu", "4090", "--max-gpus", "1")
    assert status == 1


def test_plan_and_fit_agree(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(
        capsys, "plan", LLAMA, "--ctx", "32k", "--users", "16", "--gpu", "l4,a10,4090,l40s", "--format", "csv"
    )
    rows = list(csv.DictReader(io.StringIO(out)))
    # 14.96 GiB of weights, 64 of cache and the runtime on each: five L4 of 20.3 GiB in stages, or eight that share every layer
    assert [row["device"] for row in rows].count("L4") == 2 and len({row["device"] for row in rows}) == 4
    for row in rows:
        if any(
            int(row["num_devices"]) > int(other["num_devices"]) for other in rows if other["device"] == row["device"]
        ):
            assert (row["tp"], row["pp"]) == (row["num_devices"], "1")  # tensors cut over all of them
            continue
        words = ("fit", LLAMA, "--ctx", "32k", "--batch", "16", "--json", "--gpu", row["device"], "--num-gpus", "min")
        status, out, _ = run(capsys, *words)
        fit = json.loads(out)["fit"]
        assert status == 0
        assert (fit["num_devices"], fit["headroom_bytes"]) == (int(row["num_devices"]), int(row["headroom_bytes"]))


@given(edge=st.integers(1, 1 << 30), step=st.sampled_from([1, 16, 256, 4096]), first=st.integers(1, 1 << 20))
def test_a_search_that_begins_near_ends_soon(edge: int, step: int, first: int) -> None:
    """Room that falls in pages: the search takes few questions, although the last guesses lie on one page."""
    calls = 0

    def room(tokens: int) -> int:
        return 3 * (edge - -(-tokens // step) * step)

    def fits(tokens: int) -> bool:
        nonlocal calls
        calls += 1
        return room(tokens) >= 0

    found = largest(fits, 1 << 40, crossing(room, first, 1 << 40))
    assert found == edge // step * step
    assert calls <= 2 * step.bit_length() + 8


@pytest.mark.parametrize(("engine", "runs"), [("vllm", False), ("sglang", False), ("llama.cpp", True)])
def test_volta_is_not_proposed_to_engines_without_kernels_for_it(llama: Model, engine: str, runs: bool) -> None:
    found = plan(llama, users=1, context=2048, max_devices=2, engine=engine)
    assert any("V100" in layout.device for layout in found.layouts) == runs
    named = plan(llama, users=1, context=2048, devices="v100-32g", max_devices=2, engine=engine)
    assert named.layouts  # who names one gets it


def test_each_device_of_a_search_has_the_weights_that_its_own_kernels_pad() -> None:
    # gpt-oss's experts are padded otherwise on Ampere, Hopper and Blackwell: what one search keeps must not mix them
    gpt_oss = read_model("openai/gpt-oss-20b", fetch=FetchOptions(offline=True, no_cache=True))
    names = ["h100", "a100-80g", "b200"]  # by memory, as a search has them
    alone = [estimate(gpt_oss, num_seqs=4, context=8192, device=name).fit for name in names]
    together = plan(gpt_oss, users=4, context=8192, devices=",".join(names)).layouts
    assert [layout.headroom_bytes for layout in together] == [fit and fit.headroom_bytes for fit in alone]
