"""Does it fit: against arithmetic by hand, and the command with its exit codes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from llama_on_devices import GIB, LLAMA, PAGE, TOKEN, WEIGHTS

from hfmem.api.estimates import Model, estimate, read_model
from hfmem.cli import main
from hfmem.errors import UnsupportedError, UsageError
from hfmem.hub import FetchOptions
from hfmem.memory.serving import Serving
from hfmem.plan.devices import plain_memory
from hfmem.plan.sglang_share import ServedModel, static_fraction


def test_vllm_takes_its_share_and_pages_the_rest(llama: Model) -> None:
    report = estimate(llama, context=8192, device="h100", overhead=0)
    memory = 81081 << 20
    usable = -(-memory * 92 // 100)
    pages = (usable - WEIGHTS) // PAGE
    assert report.fit is not None and report.engine_pool is not None
    assert report.fit.memory_bytes_per_device == memory
    assert report.fit.usable_bytes_per_device == usable
    assert report.fit.verdict == "fits"
    assert report.fit.headroom_bytes == usable - WEIGHTS - 8192 * TOKEN
    assert report.engine_pool.num_pages == pages
    assert report.engine_pool.kv_memory_bytes_per_rank == usable - WEIGHTS
    # one page is the null block
    assert report.fit.max_context == (pages - 1) * 16
    assert report.fit.max_num_seqs == (pages - 1) // (8192 // 16)


def test_transformers_and_llama_cpp_take_all(llama: Model) -> None:
    report = estimate(llama, context=4096, device="24GiB", engine="transformers", overhead=0)
    assert report.fit is not None
    assert report.fit.usable_bytes_per_device == 24 * GIB
    assert report.fit.max_context == (24 * GIB - WEIGHTS) // TOKEN
    assert report.fit.max_num_seqs == (24 * GIB - WEIGHTS) // (4096 * TOKEN)
    assert report.engine_pool is None


def test_overhead_counts(llama: Model) -> None:
    report = estimate(llama, context=4096, device="24GiB", engine="transformers", overhead=Fraction(1, 10))
    assert report.fit is not None
    held = WEIGHTS + 4096 * TOKEN
    assert abs(report.fit.headroom_bytes - (24 * GIB - held - held // 10)) <= 1


def test_sglang_reserves_by_the_size_of_the_device() -> None:
    serving, plain = Serving(context=1, engine="sglang"), ServedModel()

    def share(gib: int, serving: Serving = serving, model: ServedModel = plain, *, cuda: bool = True) -> Fraction:
        return static_fraction(gib * GIB, serving, model, cuda=cuda)

    # 80 GiB: 512 + 8192 × 1.5 + 1/8 × 1024 + 2 × 256 MiB, and 8 for each of the 58 captured prefill sizes up to 8192
    assert share(80) == Fraction(round(1000 * (81920 - 13440 - 464) / 81920), 1000)
    assert share(80, cuda=False) == Fraction(round(1000 * (81920 - 13440) / 81920), 1000)
    assert share(80, model=ServedModel(latent=True)) == Fraction(round(1000 * (81920 - 13440 - 1536) / 81920), 1000)
    # 16 GiB: 512 + 2048 × 1.5 + 128 + 2 × 8, 42 sizes up to 2048
    assert share(16) == Fraction(round(1000 * (16384 - 3728 - 42 * 8) / 16384), 1000)
    # 64 GiB with a small chunk: never less than 10 GiB
    assert share(64, replace(serving, max_num_batched_tokens=2048)) == Fraction(
        round(1000 * (65536 - 10240) / 65536), 1000
    )
    # a vision encoder of ViT-L's size takes 5 %
    large = ServedModel(captures_prefill=False, vision=(24, 1024))
    assert float(share(80, model=large)) == pytest.approx(0.95 * round((81920 - 13440) / 81920, 3))
    # 8 groups of data-parallel attention: 512 sequences × (2 + 8 × 4.5) MiB
    wide = replace(serving, tp=8, attn_dp=8)
    assert share(140, wide, cuda=False) == Fraction(round(1000 * (1 - (12800 + 1024 + 512 * 38) / (140 * 1024))), 1000)


def test_sglang_takes_its_share_of_what_is_free_before_loading(llama: Model) -> None:
    report = estimate(llama, context=4096, device="h100", engine="sglang")
    assert report.fit is not None and report.fit.utilization is not None
    before = 81081 * (1 << 20) - report.runtime["context_bytes"].bytes - report.runtime["engine_bytes"].bytes
    assert report.fit.usable_bytes_per_device == math.ceil(before * Fraction(str(report.fit.utilization)))


def test_tensor_parallelism_over_all_devices(llama: Model) -> None:
    report = estimate(llama, context=8192, device="4x24GiB", overhead=0)
    assert (report.parallelism.tp, report.parallelism.pp) == (4, 1)
    assert report.fit is not None and report.fit.num_devices == 4
    assert estimate(llama, device="h100", num_devices=2, engine="llama.cpp").parallelism.pp == 2
    assert estimate(llama, device="h100", tp=2).fit.num_devices == 2  # type: ignore[union-attr]
    with pytest.raises(UnsupportedError, match=r"attention heads \(32\) must be divisible"):
        estimate(llama, device="3xh100", tp=3)
    with pytest.raises(UsageError, match="are 2 ranks, not 3 devices"):
        estimate(llama, device="h100", num_devices=3, tp=2)
    with pytest.raises(UsageError, match="names 8"):
        estimate(llama, device="8xh100", num_devices=4)
    with pytest.raises(UsageError, match="without a device"):
        estimate(llama, num_devices=4)


def test_a_layout_that_the_engine_refuses_gives_way_to_one_it_takes(llama: Model) -> None:
    """32 heads divide by neither 3 nor 6, by 2 they do: stages take the rest. Sizes that were asked for stay."""
    for count, sizes in ((3, (1, 3)), (6, (2, 3))):
        report = estimate(llama, device="h100", num_devices=count)
        assert (report.parallelism.tp, report.parallelism.pp) == sizes
        assert any(w.code == "layout_fallback" and "(32)" in w.message for w in report.warnings)
    assert not [w for w in estimate(llama, device="4xh100").warnings if w.code == "layout_fallback"]
    with pytest.raises(UnsupportedError, match="divisible by tensor parallel size"):
        estimate(llama, device="h100", num_devices=6, tp=6)


def test_verdicts_at_the_edges(llama: Model) -> None:
    """With transformers' rules and no runtime: exactly full is tight, one byte less does not fit, 5 % left fits."""
    need = WEIGHTS + 4096 * TOKEN

    def verdict(memory: int) -> str:
        report = estimate(llama, context=4096, device=plain_memory(memory), engine="transformers", overhead=0)
        assert report.fit is not None
        return report.fit.verdict

    assert verdict(need) == "tight"
    assert verdict(need - 1) == "does-not-fit"
    edge = -(-need * 20 // 19)  # need = 95 %
    assert verdict(edge) == "fits"
    assert verdict(edge - 40) == "tight"


def test_a_band_that_reaches_over_the_edge_is_tight(llama: Model) -> None:
    """Where the high end of the estimates would not fit, the verdict is tight even with memory left."""
    plain = estimate(llama, context=8192, device="80GiB", engine="transformers")
    item = plain.runtime["activations_bytes"]
    assert item.high > item.bytes
    total = plain.per_rank.total_bytes
    room = total + (item.high - item.bytes) // 2
    held = estimate(llama, context=8192, device=plain_memory(room), engine="transformers").fit
    assert held is not None and held.verdict == "tight" and held.headroom_bytes >= 0


def test_memory_in_use_is_not_usable(llama: Model) -> None:
    busy = replace(plain_memory(24 * GIB), memory_used_bytes=6 * GIB)
    report = estimate(llama, context=1024, device=busy, overhead=0)
    assert report.fit is not None
    assert report.fit.usable_bytes_per_device == 18 * GIB
    assert "device_in_use" in {warning.code for warning in report.warnings}


def test_a_given_pool_replaces_vllms_share(llama: Model) -> None:
    """`--kv-cache-memory-bytes` "does not respect the gpu_memory_utilization config" (`gpu_worker.py`): what weights leave of the
    whole device is room for the pool, and what a request takes of the pool is a page less."""
    memory = 81081 << 20
    room = memory - WEIGHTS

    def held(pool: int, **changes: Any) -> tuple[str, int]:
        found = estimate(llama, context=8192, device="h100", overhead=0, kv_memory_bytes=pool, **changes).fit
        assert found is not None and found.usable_bytes_per_device == memory
        return found.verdict, found.headroom_bytes

    assert held(room) == held(room, utilization=0.5) == ("fits", room - 8192 * TOKEN)
    assert held(room + 5) == ("does-not-fit", -5)
    assert held(8192 * TOKEN + PAGE) == ("tight", PAGE)
    assert held(8192 * TOKEN + PAGE - 1) == ("does-not-fit", PAGE - 1)
    assert held(8192 * TOKEN - 7) == ("does-not-fit", -7)
    # SGLang has no such flag: its share bounds every pool
    own = estimate(llama, context=8192, device="h100", overhead=0, engine="sglang", kv_memory_bytes=room).fit
    assert own is not None and own.verdict == "does-not-fit"


def test_a_pool_without_a_device_holds_what_was_asked_for_or_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    # SGLang's pool of N tokens takes N × 128 KiB of this model; vLLM keeps one page of 16 tokens free
    def status(engine: str, tokens: int, batch: int) -> int:
        words = (LLAMA, "--offline", "--engine", engine, "--ctx", "8192", "--batch", str(batch))
        return run(capsys, *words, "--kv-memory", str(tokens * TOKEN))[0]

    for batch in (1, 3):
        assert [status("sglang", n, batch) for n in (8192 * batch - 1, 8192 * batch)] == [1, 0]
        assert [status("vllm", n, batch) for n in (8192 * batch, 8192 * batch + 16)] == [1, 0]


def test_a_given_pool_is_blamed_where_it_is_at_fault(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("fit", LLAMA, "--offline", "--gpu", "h100", "--ctx", "8k")
    status, out, _ = run(capsys, *words, "--kv-memory", "1MiB")
    assert status == 1 and "fits the pool that was given" in out and "weights and runtime alone" not in out
    status, out, _ = run(capsys, *words, "--kv-memory", "100GiB")
    assert status == 1 and "the pool that was given is too large" in out and "missing" in out
    status, out, _ = run(capsys, *words, "--kv-memory", "100GiB", "--json")
    (smaller,) = [remedy for remedy in json.loads(out)["remedies"] if remedy["kind"] == "kv_memory"]
    status, _, _ = run(capsys, *words, *smaller["flags"].split())
    assert status == 0


def test_a_layout_that_vllm_refuses_is_not_another_engines(llama: Model) -> None:
    """Only a model that vLLM does not serve is weighed by another engine's rules: not a size or a format that it refuses."""
    with pytest.raises(UnsupportedError, match=r"^Total number of attention heads \(32\) must be divisible by tensor"):
        estimate(llama, context=10, tp=3)
    with pytest.raises(UnsupportedError, match=r"must be greater than 0 when expert parallelism is enabled"):
        estimate(llama, context=10, ep=True)
    with pytest.raises(UnsupportedError, match=r"llama\.cpp's"):
        estimate(llama, context=10, kv_dtype="q8_0")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return int(left.value.code or 0), out, err


def test_exit_codes_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, LLAMA, "--offline", "--gpu", "h100", "--ctx", "8k", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["fit"]["verdict"] == "fits"
    assert set(found["fit"]) >= {
        "device", "num_devices", "memory_bytes_per_device", "usable_bytes_per_device", "verdict", "headroom_bytes",
        "max_context", "max_num_seqs",
    }  # fmt: skip
    assert found["engine_pool"]["page_size"] == 16
    status, out, _ = run(capsys, LLAMA, "--offline", "--gpu", "12GiB", "--ctx", "8k")
    assert status == 1 and "does not fit" in out
    status, out, _ = run(capsys, "fit", LLAMA, "--offline", "--gpu", "12GiB", "--ctx", "8k", "--json")
    assert status == 1 and json.loads(out)["remedies"]
    status, _, err = run(capsys, LLAMA, "--offline", "--gpu", "a100")
    assert status == 2 and "say which" in err
    status, _, err = run(capsys, LLAMA, "--offline", "--num-gpus", "2")
    assert status == 2 and "needs --gpu" in err
    status, _, err = run(capsys, LLAMA, "--offline", "--gpu", "h100", "--utilization", "1.2")
    assert status == 2 and "at most 1" in err


def test_the_word_max(capsys: pytest.CaptureFixture[str], llama: Model) -> None:
    status, out, _ = run(capsys, "fit", LLAMA, "--offline", "--gpu", "4090", "--ctx", "max", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["kv_cache"]["context"] == found["fit"]["max_context"] > 8192
    status, out, _ = run(capsys, LLAMA, "--offline", "--gpu", "4090", "--ctx", "8k", "--batch", "max", "--json")
    assert json.loads(out)["kv_cache"]["num_seqs"] == json.loads(out)["fit"]["max_num_seqs"] > 1


@pytest.mark.parametrize(
    ("name", "context", "said"),
    [("meta-llama/Meta-Llama-3-8B", 9000, "is not set"), ("meta-llama/Llama-3.1-8B-Instruct", 140_000, "is set")],
)
def test_a_context_beyond_the_models_says_whether_it_is_stretched(name: str, context: int, said: str) -> None:
    report = estimate(read_model(name, fetch=FetchOptions(offline=True, no_cache=True)), context=context)
    (message,) = [warning.message for warning in report.warnings if warning.code == "context_exceeds_positions"]
    assert message.endswith(f"(rope_scaling {said})")


def test_devices_that_an_engine_does_not_speak_of(llama: Model) -> None:
    def codes(**changes: Any) -> set[str]:
        return {warning.code for warning in estimate(llama, context=1024, **changes).warnings}

    assert "device_engine" in codes(device="m3-max-64gb", engine="vllm")
    assert "device_engine" not in codes(device="m3-max-64gb", engine="llama.cpp")
    assert "device_engine" not in codes(device="48GiB")
    assert "device_dtype" in codes(device="t4", engine="vllm")  # Turing has no bf16
    said = estimate(llama, context=1024, device="t4", engine="vllm").warnings
    assert any("compute capability 7.5" in warning.message for warning in said)
    assert "device_dtype" not in codes(device="l4", engine="vllm")
    # of 119.70 GiB 0.92 are 110.12, which a system that runs vLLM has not left (vllm-project/recipes asks for 0.85)
    said = estimate(llama, context=1024, device="gb10", engine="vllm").warnings
    assert [w.message for w in said if w.code == "device_unified" and "110.12 GiB" in w.message]
    assert "device_unified" not in codes(device="gb10", engine="vllm", utilization=0.85)
    assert "device_unified" not in codes(device="gb10", engine="llama.cpp")
    assert "device_unified" not in codes(device="gh200-96gb", engine="vllm")  # memory of its own


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama.cpp", "transformers"])
def test_pipeline_stages_hold_their_own_layers(llama: Model, engine: str) -> None:
    """32 layers over 4 stages: the stage with least room bounds all. It is the last, which has the head (of llama.cpp, whose head
    counts as a layer: the first, of 9, at the longest context)."""
    report = estimate(llama, context=4096, device="24GiB", num_devices=4, tp=1, pp=4, engine=engine, overhead=0)
    assert report.fit is not None and report.fit.max_context is not None
    usable, head = report.fit.usable_bytes_per_device, 2 * 128256 * 4096
    layer = (WEIGHTS - 2 * head - 2 * 4096) // 32
    if engine == "llama.cpp":
        room, token = usable - 9 * layer, TOKEN * 9 // 32
    else:
        room, token = usable - 8 * layer - head - 2 * 4096, TOKEN // 4
    tokens = room // token
    slack = {"vllm": 32, "llama.cpp": 256}.get(engine, 1)
    assert tokens - slack <= report.fit.max_context <= tokens
    assert report.per_rank.stage == 3
