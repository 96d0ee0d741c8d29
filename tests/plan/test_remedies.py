"""What would make it fit: every suggestion is true when its own flags are added to the command, and none contradicts it."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from hfmem.api.answers import fit
from hfmem.api.estimates import Model, estimate, read_model
from hfmem.api.remedies import Remedy
from hfmem.cli import main
from hfmem.hub import FetchOptions

LLAMA_8B = "meta-llama/Meta-Llama-3-8B"
LLAMA_70B = "meta-llama/Llama-3.1-70B-Instruct"
QWEN_MOE = "Qwen/Qwen3-30B-A3B"
GLM = "zai-org/GLM-4.5-Air"
GEMMA = "google/gemma-3-27b-it"
ORDER = (
    "kv_memory",
    "utilization",
    "context",
    "num_seqs",
    "kv_dtype",
    "quant",
    "cpu_moe_layers",
    "gpu_layers",
    "combined",
    "engine",
    "devices",
)

COMMANDS = (
    f"{LLAMA_8B} --gpu 4090 --ctx 48k --batch 2",
    f"{LLAMA_8B} --gpu 2x8GiB --ctx 8k",
    f"{LLAMA_8B} --gpu 4090 --ctx 16k --utilization 0.5",
    f"{LLAMA_8B} --gpu 4090 --ctx 16k --utilization 0.5 --engine sglang",
    f"{LLAMA_8B} --gpu 8GiB --ctx 128k",
    f"{LLAMA_8B} --gpu h100 --kv-memory 2GiB --ctx 32k",
    f"{LLAMA_8B} --gpu h100 --num-gpu-blocks-override 600 --ctx 16k",
    f"{LLAMA_8B} --gpu h100 --num-gpu-blocks-override 60000 --ctx 16k",
    f"{LLAMA_8B} --gpu 24GiB --cpu-offload-gb 4 --ctx 128k",
    f"{LLAMA_8B} --gpu t4 --ctx 8k",
    f"{LLAMA_8B} --gpu 4090 --ctx 32k --batch 64 --engine sglang",
    f"{LLAMA_8B} --gpu 12GiB --ctx 16k --engine transformers",
    f"{LLAMA_8B} --gpu 2x4090 --tp 2 --ctx 128k --batch 4 --quant fp8",
    f"{LLAMA_70B} --gpu h100 --ctx 32k",
    f"{LLAMA_70B} --gpu 4090",
    f"{LLAMA_70B} --gpu 4090 --ctx 8k --engine sglang --tp 1",
    f"{QWEN_MOE} --gpu 8GiB --ctx 8k",
    f"{LLAMA_70B} --gpu 24GiB --ctx 8k --pp 2 --num-gpus 2",
    f"{QWEN_MOE} --gpu 4090 --ctx 32k --engine llama.cpp",
    f"{QWEN_MOE} --gpu 16GiB --ctx 64k --batch 4",
    f"{GEMMA} --gpu 24GiB --ctx 128k",
    # experts of 1408 columns cannot be cut in two where they are stored in int4 by groups of 128: that format is no remedy
    f"{GLM} --gpu 4xh100 --ctx 64k --tp 2 --pp 2 --batch 16",
    f"{GLM} --gpu 2xmi300x --ctx 128k --draft mtp --batch 16",
)  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(SystemExit) as left:
        main(["fit", *shlex.split(line), "--offline", "--json"])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert out, err
    return int(left.value.code or 0), json.loads(out)


@pytest.mark.parametrize("line", COMMANDS)
def test_each_suggestion_fits_when_its_flags_are_added(capsys: pytest.CaptureFixture[str], line: str) -> None:
    status, found = run(capsys, line)
    assert status == 1 and found["fit"]["verdict"] == "does-not-fit"
    assert found["remedies"], "nothing would make it fit"
    if "--utilization" in line:
        assert found["remedies"][0]["kind"] == "utilization"
    kinds = [remedy["kind"] for remedy in found["remedies"] if remedy["kind"] != "combined"]
    assert kinds == sorted(kinds, key=ORDER.index)
    flags = [remedy["flags"] for remedy in found["remedies"]]
    assert len(set(flags)) == len(flags)
    for remedy in found["remedies"]:
        status, then = run(capsys, f"{line} {remedy['flags']}")
        assert status == 0, remedy
        assert then["fit"]["verdict"] == remedy["verdict"] != "does-not-fit", remedy
        assert then["fit"]["headroom_bytes"] == remedy["headroom_bytes"], remedy


@pytest.fixture(scope="module")
def llama() -> Model:
    return read_model(LLAMA_8B, fetch=FetchOptions(offline=True, no_cache=True))


def by_kind(found: tuple[Remedy, ...]) -> dict[str, Remedy]:
    return {remedy.kind: remedy for remedy in found}


def test_settings_are_those_of_the_call(llama: Model) -> None:
    asked: dict[str, Any] = {"device": "4090", "context": 49152, "num_seqs": 2}
    for remedy in fit(llama, **asked).remedies:
        found = estimate(llama, **{**asked, **remedy.settings}).fit
        assert found is not None and found.headroom_bytes == remedy.headroom_bytes


def test_no_less_is_enough(llama: Model) -> None:
    asked: dict[str, Any] = {"device": "4090", "context": 49152, "num_seqs": 2}
    found = by_kind(fit(llama, **asked).remedies)
    tokens = found["context"].settings["context"]
    longer = estimate(llama, **{**asked, "context": tokens + 1}).fit
    assert longer is not None and longer.verdict == "does-not-fit"
    fewer = estimate(llama, **{**asked, "num_devices": found["devices"].settings["num_devices"] - 1}).fit
    assert fewer is not None and fewer.verdict == "does-not-fit"


def test_a_small_device_gets_both_narrower_and_shorter(llama: Model) -> None:
    """8 GiB hold neither the weights in 16 bits nor 128k of cache: a format and a context together, before other devices."""
    found = fit(llama, device="8GiB", context=131072).remedies
    assert found[0].kind == "combined" and set(found[0].settings) == {"quant", "context"}


def test_old_devices_are_not_told_to_compute_in_8_bits(llama: Model) -> None:
    found = fit(llama, device="t4", context=8192, dtype="half").remedies
    assert not {"kv_dtype", "quant"} & {remedy.kind for remedy in found}


def test_one_small_device_and_a_large_model() -> None:
    """70.6 billion numbers and one 4090: a part on the host, or more devices, of which fewer with narrower weights."""
    model = read_model(LLAMA_70B, fetch=FetchOptions(offline=True, no_cache=True))
    found = fit(model, device="4090", context=8192).remedies
    assert [remedy.kind for remedy in found] == ["engine", "devices", "devices", "combined", "combined"]
    assert {**found[0].settings, "gpu_layers": 0} == {"engine": "llama.cpp", "quant": "q4_k_m", "gpu_layers": 0}
    assert 0 < found[0].settings["gpu_layers"] < 81
    fewest, _, *fewer = (remedy.settings["num_devices"] for remedy in found[1:])
    # 16 bits and 8 take 141.1 and 70.6 GB, of the 23.2 · 10⁹ that are usable on each: 6.1 and 3.04 devices for weights alone
    assert (fewest, fewer[0]) == (7, 4) and fewer[1] < fewer[0]


def test_experts_stay_on_the_host(capsys: pytest.CaptureFixture[str]) -> None:
    _, found = run(capsys, f"{QWEN_MOE} --gpu 4090 --ctx 8k --engine llama.cpp")
    kinds = {remedy["kind"]: remedy for remedy in found["remedies"]}
    count = kinds["cpu_moe_layers"]["settings"]["cpu_moe_layers"]
    status, _ = run(capsys, f"{QWEN_MOE} --gpu 4090 --ctx 8k --engine llama.cpp --n-cpu-moe {count - 1}")
    assert status == 1
