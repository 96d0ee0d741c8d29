"""The speed of light against arithmetic by hand, and the planner's order and truth."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import pytest

from hfmem.api import Model, estimate, read_model
from hfmem.cli import main
from hfmem.configuration import configure
from hfmem.errors import UsageError
from hfmem.hub import FetchOptions
from hfmem.plan.devices import find_device, plain_memory
from hfmem.plan.roofline import roofline
from hfmem.planning import plan, speed

LLAMA = "meta-llama/Meta-Llama-3-8B"
H100 = find_device("h100").device
OFFLINE = FetchOptions(offline=True, no_cache=True)
#: all matrices but the input embedding (128,256 × 4,096); the norms are 65 × 4,096
MATRICES = 8_030_261_248 - 128_256 * 4096
#: K and V of 8 heads × 128 in 32 layers, 2 bytes each
TOKEN = 2 * 8 * 128 * 32 * 2


@pytest.fixture(scope="module")
def llama() -> Model:
    """Llama 3 8B from the shipped catalogue."""
    return read_model(LLAMA, fetch=OFFLINE)


def test_decoding_is_bytes_over_bandwidth(llama: Model) -> None:
    report = estimate(llama, context=8192, num_seqs=4, device="h100")
    found = roofline(llama.architecture, report, H100)
    assert found is not None
    assert abs(found.weights_bytes_read - 2 * MATRICES) <= 1
    assert found.cache_bytes_read == 4 * 8192 * TOKEN
    seconds = (2 * MATRICES + 4 * 8192 * TOKEN) / 3350e9
    assert found.decode_bound == "memory"
    assert found.decode_seconds == pytest.approx(seconds)
    assert found.tokens_per_second_per_sequence == pytest.approx(1 / seconds)
    assert found.tokens_per_second == pytest.approx(4 / seconds)
    # q·k and scores·v: 2 operations × 32 heads × (128 + 128), 32 layers
    attention = 32 * 2 * 32 * 256
    assert found.decode_operations == 4 * (2 * MATRICES + 8192 * attention)
    prefill = 8192 * 2 * MATRICES + attention * 8192 * 8193 // 2
    assert found.prefill_operations == prefill
    assert found.prefill_bound == "compute"
    assert found.prefill_seconds == pytest.approx(prefill / 989.4e12)


def test_tensor_parallelism_shares_bytes_and_adds_all_reduces(llama: Model) -> None:
    report = estimate(llama, context=8192, num_seqs=64, device="4xh100")
    found = roofline(llama.architecture, report, H100)
    alone = roofline(llama.architecture, estimate(llama, context=8192, num_seqs=64, device="h100"), H100)
    assert found is not None and alone is not None
    assert found.cache_bytes_read * 4 == alone.cache_bytes_read
    assert found.weights_bytes_read < alone.weights_bytes_read / 3.9
    # two all-reduces a layer of 64 × 4,096 half-precision numbers, each rank sends 2 × 3/4 of them
    assert found.decode_link_bytes == 32 * 2 * 64 * 4096 * 2 * 2 * 3 // 4
    slow = replace(H100, interconnect=replace(H100.interconnect, bytes_per_second=10**9))  # type: ignore[type-var]
    linked = roofline(llama.architecture, report, slow)
    assert linked is not None and linked.decode_bound == "link"
    assert linked.decode_seconds == pytest.approx(found.decode_link_bytes / 1e9)


def test_more_sequences_turn_to_compute_and_a_batch_reads_weights_once(llama: Model) -> None:
    one = roofline(llama.architecture, estimate(llama, context=16, num_seqs=1), H100)
    many = roofline(llama.architecture, estimate(llama, context=16, num_seqs=2000), H100)
    assert one is not None and many is not None
    assert many.weights_bytes_read == one.weights_bytes_read
    assert (one.decode_bound, many.decode_bound) == ("memory", "compute")


def test_experts_that_a_batch_uses() -> None:
    model = read_model("Qwen/Qwen3-30B-A3B", fetch=OFFLINE)
    experts = estimate(model, context=16).weights.by_component["experts"]
    rest = estimate(model, context=16).weights.bytes - experts
    embedding = 151_936 * 2048 * 2
    for tokens in (1, 8, 64):
        found = roofline(model.architecture, estimate(model, context=16, num_seqs=tokens), H100)
        assert found is not None
        share = 1 - (Fraction(120, 128)) ** tokens  # 8 of 128 experts a token
        assert found.weights_bytes_read == pytest.approx(rest - embedding + float(share) * experts, rel=1e-9)


def test_unknown_bandwidth_or_rate(llama: Model) -> None:
    report = estimate(llama, context=8192)
    assert roofline(llama.architecture, report, plain_memory(80 << 30)) is None
    assert speed(configure(llama, context=8192, device="24GiB"), report) is None
    assert speed(configure(llama, context=8192), report) is None
    found = speed(configure(llama, context=8192, device="3060"), report)  # bandwidth alone is known
    assert found is not None and found.prefill_seconds is None and found.decode_bound == "memory"


def test_plan_names_the_fewest_of_each(llama: Model) -> None:
    answer = plan(llama, users=16, context=8192, devices="h100,4090,l4")
    counts = {layout.device: layout.num_devices for layout in answer.layouts}
    assert list(counts.values()) == sorted(counts.values())
    assert set(counts) == {"H100 SXM 80GB", "RTX 4090", "L4"}
    for layout in answer.layouts:
        device = find_device(layout.device).device
        found = estimate(
            llama, context=8192, num_seqs=16, device=device, num_devices=layout.num_devices, tp=layout.tp, pp=layout.pp
        ).fit
        assert found is not None and found.verdict == layout.verdict != "does-not-fit"
        assert found.max_num_seqs == layout.max_num_seqs and found.headroom_bytes == layout.headroom_bytes
        if layout.num_devices > 1:
            fewer = estimate(llama, context=8192, num_seqs=16, device=device, num_devices=layout.num_devices // 2).fit
            assert fewer is not None and fewer.verdict == "does-not-fit"
    assert answer.report.fit is not None and answer.report.fit.device == answer.layouts[0].device


def test_plan_over_the_catalogue_is_sorted_and_bounded(llama: Model) -> None:
    answer = plan(llama, users=4, context=8192, max_devices=4)
    order = [(layout.num_devices, layout.memory_bytes) for layout in answer.layouts]
    assert len(order) > 20 and order == sorted(order)
    assert max(layout.num_devices for layout in answer.layouts) <= 4
    assert plan(llama, users=4000, context=131072, devices="l4", max_devices=8).layouts == ()
    with pytest.raises(UsageError, match="names no device"):
        plan(llama, devices=" , ")


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["plan", LLAMA, "--offline", *words])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    status, out, _ = run("--users", "8", "--ctx", "8k", "--gpu", "h100,4090", "--json")
    assert status == 0
    assert [row["device"] for row in json.loads(out)["layouts"]] == ["H100 SXM 80GB", "RTX 4090"]
    status, out, _ = run("--users", "8", "--ctx", "8k", "--gpu", "4090", "--emit", "vllm")
    assert status == 0 and "--tensor-parallel-size 2" in out and "--max-num-seqs 8" in out
    status, out, err = run("--users", "4000", "--ctx", "128k", "--gpu", "4090")
    assert (status, out) == (1, "") and "fits no layout" in err
    status, _, err = run("--gpu", "nosuch")
    assert status == 2 and "not a known device" in err
