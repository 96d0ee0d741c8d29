"""The answers of every solver against the numbers next to them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import example_architectures as examples
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_on_devices import GIB, WEIGHTS

from hfmem.api.answers import fit
from hfmem.api.configuring import configure
from hfmem.api.estimates import Model, estimate
from hfmem.errors import UnsupportedError, UsageError
from hfmem.hub import FetchOptions
from hfmem.memory.serving import LlamaCpp, Serving
from hfmem.model.architecture import Architecture
from hfmem.plan.devices import plain_memory
from hfmem.plan.fit import Scale
from hfmem.plan.target import Target
from hfmem.report import Report

ENGINES = st.sampled_from(["vllm", "sglang", "transformers", "llama.cpp", "ideal"])


@settings(max_examples=40, deadline=None)
@given(
    engine=ENGINES,
    memory=st.integers(15 * GIB, 200 * GIB),
    context=st.integers(1, 200_000),
    seqs=st.integers(1, 64),
    devices=st.sampled_from([1, 2, 4]),
    flat=st.booleans(),
)
def test_the_answer_fits_and_the_next_does_not(
    llama: Model, engine: str, memory: int, context: int, seqs: int, devices: int, flat: bool
) -> None:
    configured = configure(
        llama,
        engine=engine,
        device=plain_memory(memory),
        num_devices=devices,
        overhead=Fraction(1, 10) if flat else None,
        context=context,
        num_seqs=seqs,
    )
    found = configured.report().fit
    assert found is not None
    weigher, serving = configured.scale(), configured.serving
    assert (
        weigher.fits(serving)
        == (found.verdict != "does-not-fit")
        == (found.headroom_bytes >= 0 and weigher.fits(serving))
    )
    for name, limit in (("context", found.max_context), ("num_seqs", found.max_num_seqs)):
        assert limit is not None
        if limit:
            assert weigher.fits(replace(serving, **{name: limit}))
        assert not weigher.fits(replace(serving, **{name: limit + 1}))
        now = getattr(serving, name)
        assert (now <= limit) == (found.verdict != "does-not-fit")


ARCHITECTURES = [
    make()
    for make in (
        examples.llama_3_8b, examples.mistral_7b, examples.gemma_3_27b, examples.gpt_oss_120b, examples.llama_4_scout,
        examples.deepseek_v3, examples.deepseek_v32, examples.deepseek_v4_flash, examples.qwen3_next, examples.qwen3_5_27b,
        examples.lfm2, examples.nemotron_3_nano, examples.falcon_40b, examples.whisper_large_v3, examples.minimax_m3,
    )
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    arch=st.sampled_from(ARCHITECTURES),
    engine=ENGINES,
    kv_dtype=st.sampled_from(["auto", "fp8", "q8_0"]),
    memory=st.integers(1 << 20, 300 * GIB),
    context=st.integers(1, 2_000_000),
    seqs=st.integers(1, 300),
    tp=st.sampled_from([1, 2, 8]),
    pp=st.sampled_from([1, 3]),
    chunk=st.sampled_from([None, 2048, 16384]),
)
def test_every_architecture_has_one_edge(
    arch: Architecture,
    engine: str,
    kv_dtype: str,
    memory: int,
    context: int,
    seqs: int,
    tp: int,
    pp: int,
    chunk: int | None,
) -> None:
    """Whatever the kinds of layers: the longest context and the most sequences fit, and one more of either does not; all below
    fits and nothing beyond does."""
    serving = Serving(context, seqs, kv_dtype, engine, tp, pp, max_num_batched_tokens=chunk)
    weigher = Scale(arch, (), lambda *_: {}, Target(plain_memory(memory), tp * pp))
    try:
        weigher.weigh(serving)
    except UnsupportedError:
        assert not weigher.fits(serving)
        return
    for name, limit in (("context", weigher.max_context(serving)), ("num_seqs", weigher.max_num_seqs(serving))):

        def at(value: int, name: str = name) -> bool:
            return weigher.fits(replace(serving, **{name: value}))

        if limit is None:  # nothing grows with it
            assert at(1) and at(1 << 40)
            continue
        assert not at(limit + 1) and not at(2 * limit + 1)
        if limit:
            assert at(limit) and at(max(limit // 2, 1)) and at(max(limit - 1, 1)) and at(1)


@settings(max_examples=15, deadline=None)
@given(memory=st.integers(18 * GIB, 90 * GIB), context=st.integers(1, 60_000))
def test_the_least_utilization(llama: Model, memory: int, context: int) -> None:
    given: dict[str, Any] = {"device": plain_memory(memory), "context": context}
    target = configure(llama, **given, utilization="min").target
    assert target is not None
    if target.utilization is None:
        assert estimate(llama, **given, utilization=1).fit.verdict == "does-not-fit"  # type: ignore[union-attr]
        return
    assert estimate(llama, **given, utilization="min").fit.verdict != "does-not-fit"  # type: ignore[union-attr]
    less = estimate(llama, **given, utilization=target.utilization - Fraction(1, 100)).fit
    assert less is not None and less.verdict == "does-not-fit"


def test_solving_for_devices(llama: Model) -> None:
    found = configure(llama, device="16GiB", context=8192, num_devices="min")
    assert found.target is not None
    assert (found.target.num_devices, found.serving.tp, found.serving.pp) == (2, 2, 1)
    one = estimate(llama, device="16GiB", context=8192).fit
    assert one is not None and one.verdict == "does-not-fit"
    kept = configure(llama, device="10GiB", context=8192, num_devices="min", pp=2)
    assert (kept.serving.pp, kept.report().fit.verdict != "does-not-fit") == (2, True)  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="only one of"):
        configure(llama, device="h100", context="max", num_seqs="max")
    with pytest.raises(UsageError, match="needs a device"):
        configure(llama, context="max")
    with pytest.raises(TypeError, match="no setting is called 'contxt'"):
        configure(llama, contxt=3)


@settings(max_examples=8, deadline=None)
@given(
    memory=st.integers(4 * GIB, 40 * GIB),
    context=st.integers(1, 300_000),
    engine=ENGINES,
    sizes=st.sampled_from([{}, {"tp": 2}, {"pp": 2}, {"dp": 2}]),
)
def test_the_fewest_devices(llama: Model, memory: int, context: int, engine: str, sizes: dict[str, int]) -> None:
    """No layout of fewer devices, or of fewer whole machines of eight, fits: every size tried one by one."""
    by_layer = engine in ("transformers", "llama.cpp")  # whose devices are counted in pp
    if by_layer and sizes:
        return
    asked: dict[str, Any] = {"context": context, "engine": engine, "device": plain_memory(memory), **sizes}
    found = configure(llama, **asked, num_devices="min")
    verdict = found.report().fit
    assert found.target is not None and verdict is not None
    fits = verdict.verdict != "does-not-fit"
    dp = sizes.get("dp", 1)
    for count in range(1, found.target.num_devices if fits else 9):
        if count > 8 and count % 8:  # past one machine, whole machines are asked for
            continue
        for tp in (n for n in range(1, 2 if by_layer else count + 1) if count % (n * dp) == 0):
            pp = count // (tp * dp)
            if (sizes.get("tp", tp), sizes.get("pp", pp)) != (tp, pp):
                continue
            scale = found.scale(Target(plain_memory(memory), count))
            assert not scale.fits(replace(found.serving, tp=tp, pp=pp)), (count, tp, pp)


@settings(max_examples=15, deadline=None)
@given(memory=st.integers(1 << 28, 20 * GIB), context=st.integers(1, 60_000), seqs=st.integers(1, 4))
def test_the_most_layers_on_the_device(llama: Model, memory: int, context: int, seqs: int) -> None:
    found = configure(llama, context=context, num_seqs=seqs, device=plain_memory(memory), gpu_layers="max")
    most = found.serving.llama_cpp.gpu_layers
    assert most is not None and 0 <= most <= 33
    fits = [found.scale().fits(found.serve(llama_cpp=LlamaCpp(gpu_layers=n)).serving) for n in range(34)]
    assert fits == [n <= most for n in range(34)] or (most == 0 and not any(fits))


def test_solving_for_layers_on_the_device(llama: Model) -> None:
    found = estimate(llama, device="12GiB", context=8192, gpu_layers="max", engine="llama.cpp")
    assert found.fit is not None and found.fit.verdict != "does-not-fit" and found.host is not None
    held = configure(llama, device="12GiB", context=8192, gpu_layers="max").serving.llama_cpp.gpu_layers
    assert held is not None and 0 < held < 33 and found.host.gpu_layers == held
    more = estimate(llama, device="12GiB", context=8192, gpu_layers=held + 1)
    assert more.fit is not None and more.fit.verdict == "does-not-fit"
    # what is not on the device is on the host: 16-bit weights, embedding included
    assert found.host.weights_bytes + found.per_rank.weights_bytes == WEIGHTS


@pytest.mark.parametrize("memory", ["6GiB", "12GiB", "16GiB"])
def test_solving_for_layers_whose_experts_stay_on_the_host(memory: str) -> None:
    """The fewest of Qwen3-30B-A3B's 48 layers: one fewer does not fit; the experts of so many layers are on the host."""

    def asked(layers: Any) -> Report:
        offline = FetchOptions(offline=True, no_cache=True)
        words: dict[str, Any] = {"context": 8192, "quant": "q4_k_m", "device": memory, "engine": "llama.cpp"}
        return estimate("Qwen/Qwen3-30B-A3B", cpu_moe_layers=layers, fetch=offline, **words)

    found = asked("min")
    assert found.fit is not None and found.fit.verdict != "does-not-fit" and found.host is not None
    count = found.host.cpu_moe_layers
    assert 0 < count <= 48 and asked(count) == found
    fewer = asked(count - 1)
    assert fewer.fit is not None and fewer.fit.verdict == "does-not-fit"


def test_no_number_of_experts_on_the_host_is_enough() -> None:
    offline = FetchOptions(offline=True, no_cache=True)
    words: dict[str, Any] = {"context": 8192, "quant": "q4_k_m", "device": "1GiB", "fetch": offline}
    found = estimate("Qwen/Qwen3-30B-A3B", cpu_moe_layers="min", **words)
    assert found.fit is not None and found.fit.verdict == "does-not-fit" and found.kv_cache.engine == "llama.cpp"
    assert "no_solution" in {warning.code for warning in found.warnings}


def test_remedies_are_true_and_in_order(llama: Model) -> None:
    answer = fit(llama, device="4090", context=49152, num_seqs=2)
    assert answer.report.fit is not None and answer.report.fit.verdict == "does-not-fit"
    kinds = [remedy.kind for remedy in answer.remedies]
    order = ["utilization", "context", "num_seqs", "kv_dtype", "quant", "devices", "combined"]
    assert kinds == sorted(kinds, key=order.index)
    assert {"context", "quant", "devices"} <= set(kinds)
    by_kind = {remedy.kind: remedy for remedy in answer.remedies}
    tokens = int(by_kind["context"].flags.split()[1])
    for context, verdict in ((tokens, True), (tokens + 1, False)):
        found = estimate(llama, device="4090", context=context, num_seqs=2).fit
        assert found is not None and (found.verdict != "does-not-fit") is verdict


def test_a_model_that_fits_needs_no_remedy(llama: Model) -> None:
    assert fit(llama, device="h100", context=8192).remedies == ()


def test_hopeless_needs_narrower_and_more(llama: Model) -> None:
    answer = fit(llama, device="6GiB", context=8192, tp=1)
    assert answer.report.fit is not None
    assert (answer.report.fit.max_context, answer.report.fit.max_num_seqs) == (0, 0)
    assert any(remedy.kind in ("devices", "combined") for remedy in answer.remedies)
