"""Runtime memory against numbers that real servers logged (inside the stated band), and against arithmetic by hand."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from example_architectures import build, deepseek_v3, llama_3_8b, one

from hfmem.api.reading import Model, read_model
from hfmem.hub import FetchOptions
from hfmem.memory.activations import Sampler, forward_bytes, peak
from hfmem.memory.engines.vllm.releases import Release, release_of
from hfmem.memory.runtime import Estimate, Host, LoadedExtra, estimate_runtime, flat_overhead, together
from hfmem.memory.serving import LlamaCpp, Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import DeltaNetState, FullAttention, KimiDeltaState, Mamba2State
from hfmem.units import GIB, MIB

B200, H100, A100 = (
    Host(178 * GIB, "NVIDIA B200", True),
    Host(79 * GIB, "NVIDIA H100", True),
    Host(79 * GIB, "NVIDIA A100"),
)


def catalogue(name: str) -> Model:
    return read_model(name, fetch=FetchOptions(offline=True, no_cache=True))


def dense(layers: int, hidden: int, inner: int, vocabulary: int) -> Architecture:
    arch = build("qwen2", one(FullAttention(32, 8, 128, 128), layers), hidden_size=hidden, vocab_size=vocabulary)
    return replace(arch, intermediate_size=inner)


def runtime(arch: Architecture, serving: Serving, **more: Any) -> dict[str, Estimate]:
    return estimate_runtime(arch, serving, **more)


@pytest.mark.parametrize(
    ("name", "seqs", "minor", "logged"),
    [
        ("Qwen/Qwen3-0.6B", 1024, 11, 5.56),  # H100s, all logits sorted
        ("Qwen/Qwen3-32B", 1024, 11, 5.64),
        ("Qwen/Qwen3-8B", 256, 15, 1.40),  # RTX A6000
        ("Qwen/Qwen3-30B-A3B", 1024, 10, 5.58),
        ("google/gemma-2-9b-it", 1024, 19, 3.65),  # H100s again, masked in place
        ("Qwen/Qwen3-8B", 1024, 19, 2.21),
        ("Qwen/Qwen3-30B-A3B", 1024, 19, 2.68),  # the experts' workspaces stay
        ("ibm-granite/granite-3.3-8b-instruct", 1024, 19, 0.85),  # a forward pass
    ],
)
def test_logged_sampling_peaks(name: str, seqs: int, minor: int, logged: float) -> None:
    tokens = 8192 if seqs == 1024 else 2048
    serving = Serving(16_000, max_num_batched_tokens=tokens, max_num_seqs=seqs)
    item = runtime(catalogue(name).architecture, serving, release=Release(minor))["activations_bytes"]
    assert abs(item.bytes - logged * GIB) < 0.03 * logged * GIB
    assert item.low <= logged * GIB <= item.high


def test_forward_pass_by_hand() -> None:
    """Llama 3 70B, 8192 tokens: four hidden states of 8192 (two where ranks add up), gate, up and product of 28672 each, 2 bytes
    an element."""
    arch = dense(80, 8192, 28_672, 128_256)
    assert forward_bytes(arch, 8192, 1) == 8192 * (4 * 8192 + 3 * 28_672) * 2
    assert forward_bytes(arch, 8192, 8) == 8192 * (2 * 8192 + 3 * 28_672 // 8) * 2


def test_a_logged_forward_pass() -> None:
    """Qwen2.5-32B at TP 4 on H100s: 1.61 GiB less cache with steps of 32,768 tokens (64 sequences) than of 4,096 (128), where
    sampling decides: the step's hidden states, those of 128 last tokens twice, 14 bytes a logit (2 in half precision, 4 each of the
    copy, the probabilities and the noise), 128 rows of 4-byte logits of the multiprocessors, and cuBLAS's 32 MiB."""
    arch = dense(64, 5120, 27_648, 152_064)
    sampler = Sampler(Release(23).bytes_per_logit(False), Release(23).masks(False))
    large = peak(arch, tokens=32_768, seqs=64, tp=4, sampler=sampler)
    small = peak(arch, tokens=4096, seqs=128, tp=4, sampler=sampler)
    assert small.bytes == 4096 * 5120 * 2 + 2 * 128 * 5120 * 2 + 128 * 152_064 * 14 + 128 * 152_064 * 4 + 32 * MIB
    assert abs(large.bytes - small.bytes - 1.61 * GIB) < 0.1 * GIB


def test_what_lives_while_a_batch_is_sampled() -> None:
    """Llama 3.1 8B, 1,024 sequences, 8,192 tokens on H100s of 132 multiprocessors. 0.19: "1.89GiB"; 0.11: 4.76."""
    arch = dense(32, 4096, 14_336, 128_256)
    states, last = 8192 * 4096 * 2, 2 * 1024 * 4096 * 2
    masked = peak(arch, tokens=8192, seqs=1024, tp=1, sampler=Sampler(14, masks=True))
    assert masked.bytes == states + last + 1024 * 128_256 * 14 + 132 * 128_256 * 4 + 32 * MIB
    assert abs(masked.bytes - 1.89 * GIB) < 0.01 * GIB
    in_order = peak(arch, tokens=8192, seqs=1024, tp=1, sampler=Sampler(38))
    assert in_order.bytes == states + last + 1024 * 128_256 * 38 + 32 * MIB
    assert abs(in_order.bytes - 4.76 * GIB) < 0.01 * GIB
    # before Hopper PyTorch gives cuBLAS 4096 KiB twice and 16 KiB eight times
    before = peak(arch, tokens=8192, seqs=1024, tp=1, sampler=Sampler(38), compute_capability=80)
    assert in_order.bytes - before.bytes == 32 * MIB - (2 * 4096 + 8 * 16) * 1024
    assert [Release(n).bytes_per_logit(False) for n in (9, 16, 17, 24)] == [38, 38, 14, 14]
    assert [Release(n).bytes_per_logit(True) for n in (25, 27, 31, 33)] == [6, 2, 2, 6]
    assert Release(12, flashinfer=True).bytes_per_logit(False) == 14


def test_images_of_the_profiling_run_stay() -> None:
    """Gemma 3 12B on an H100 under 0.19, "3.94GiB": beside sampling 32 images of 896 × 896 × 3 values and 256 outputs each."""
    read = catalogue("google/gemma-3-12b-it")
    serving = Serving(8192, max_num_batched_tokens=8192, max_num_seqs=1024)
    items = [
        runtime(
            read.architecture,
            replace(serving, language_model_only=alone),
            release=Release(19),
        )
        for alone in (False, True)
    ]
    seeing, blind = (item["activations_bytes"].bytes for item in items)
    assert seeing - blind == 32 * (896 * 896 * 3 + 256 * 3840) * 2
    assert abs(seeing - 3.94 * GIB) < 0.02 * GIB


def test_workspaces_of_experts() -> None:
    """GLM-5.2 in 4 bits at TP 4, 8,192 tokens: "1.13 GiB for peak activation". Hidden 6144, 8 experts of 2048, 512 on a rank."""
    experts = catalogue("zai-org/GLM-5").architecture
    packed = forward_bytes(experts, 8192, 4, experts="int4")
    assert packed == 8192 * (3 * 6144 + 8 * (6144 + 512)) * 2
    assert abs(packed - 1.13 * GIB) < 0.05 * GIB


def test_no_encoder() -> None:
    arch = catalogue("Qwen/Qwen3-VL-4B-Instruct").architecture
    items = [runtime(arch, Serving(8192, language_model_only=alone))["activations_bytes"] for alone in (False, True)]
    assert "encoder" in items[0].source and "encoder" not in items[1].source
    assert items[0].bytes > items[1].bytes


@pytest.mark.parametrize(
    ("layers", "seqs", "minor", "logged"),
    [
        (64, 256, 20, 0.94),  # Qwen3-32B: PIECEWISE=51, FULL=35
        (28, 32, 23, 0.13),  # Qwen2.5-Coder-7B
        (36, 512, 19, 0.96),  # Qwen3-8B on an H100
        (32, 512, 19, 0.91),  # Llama 3.1 8B, likewise
    ],
)
def test_logged_graph_estimates(layers: int, seqs: int, minor: int, logged: float) -> None:
    arch = dense(layers, 4096, 14_336, 128_256)
    item = runtime(arch, Serving(4096, max_num_seqs=seqs), release=Release(minor))["cuda_graph_bytes"]
    assert abs(item.bytes - logged * GIB) < 0.45 * logged * GIB
    assert item.low <= logged * GIB <= item.high


def test_captured_sizes() -> None:
    """vLLM's own lines: "PIECEWISE=51 (largest=512), FULL=35 (largest=256)" at 256 sequences, "PIECEWISE=3, FULL=2" at 2."""
    assert Release(26).graph_sizes(256) == (51, 512, 35, 256)
    assert Release(19).graph_sizes(512) == (51, 512, 51, 512)
    assert Release(22).graph_sizes(2) == (3, 4, 2, 2)
    assert Release(10).graph_sizes(256) == (67, 512, 0, 0)
    assert Release(9).graph_sizes(8) == (67, 512, 0, 0)  # 0.9 does not look at the sequences
    assert Release(11).graph_sizes(64) == (19, 128, 11, 64)
    assert Release(19).graph_sizes(1024, own=1024) == (83, 1024, 83, 1024)  # an H100's log of gpt-oss-20b
    assert Release(33).graph_sizes(8, own=1024) == (83, 1024, 4, 8)
    assert "cuda_graph_bytes" not in runtime(llama_3_8b(), Serving(4096, eager=True))


@pytest.mark.parametrize(
    ("tp", "host", "capability", "minor", "logged"),
    [
        (1, H100, 90, 11, 0.13),
        (1, None, 86, 15, 0.03),
        (2, H100, 90, 11, 0.54),
        (2, Host(139 * GIB, "NVIDIA H200", True), 90, 11, 1.38),
        (4, Host(95 * GIB, "NVIDIA GH200", True), 90, 23, 0.07),
        (8, H100, 90, 10, 2.38),
        (4, B200, 100, 15, 1.25),
        (4, Host(44 * GIB, "NVIDIA L40S", False), 89, 10, 0.21),
        (2, Host(14 * GIB, "Tesla T4", False), 75, 22, 0.15),
    ],
)
def test_logged_memory_outside_pytorch(tp: int, host: Host | None, capability: int, minor: int, logged: float) -> None:
    serving = Serving(16_000, tp=tp, compute_capability=capability)
    item = runtime(llama_3_8b(), serving, host=host, release=Release(minor))["engine_bytes"]
    assert item.low <= logged * GIB <= item.high


def test_counts_of_the_v2_runner() -> None:
    """4 bytes and a bit for each of 1024 sequences and 128,256 words; a row of bits ends at a word of 32."""
    arch = dense(32, 4096, 14_336, 128_256)
    new, old = (runtime(arch, Serving(4096), release=Release(n))["engine_bytes"].bytes for n in (33, 26))
    assert new - old == 1024 * (4 * 128_256 + 4 * 4008)


def test_what_each_release_takes_from_its_share() -> None:
    def inside(minor: int, tp: int = 1) -> set[str]:
        items = runtime(llama_3_8b(), Serving(4096, tp=tp), release=Release(minor))
        return {name for name, item in items.items() if item.in_budget}

    assert inside(8) == {"activations_bytes", "engine_bytes", "context_bytes"}
    assert inside(11) == {"activations_bytes", "engine_bytes"}
    assert inside(19) == {"activations_bytes", "engine_bytes"}
    assert inside(20) == {"activations_bytes", "cuda_graph_bytes", "engine_bytes"}
    assert inside(26) == {
        "activations_bytes",
        "engine_bytes",
    }  # a dense model on the V2 runner, which estimates no graphs
    assert inside(33) == {"activations_bytes", "cuda_graph_bytes", "engine_bytes"}


def test_defaults_by_device() -> None:
    old, new = Release(14), Release()
    assert (old.utilization, new.utilization) == (Fraction(9, 10), Fraction(92, 100))
    assert old.max_num_batched_tokens(79 * GIB, "NVIDIA H100") == 8192
    assert old.max_num_batched_tokens(79 * GIB, "NVIDIA H100", offline=True) == 16_384
    assert old.max_num_batched_tokens(79 * GIB, "NVIDIA A100-SXM4-80GB") == 2048
    assert old.max_num_batched_tokens(178 * GIB, "NVIDIA B200") == 8192
    assert new.max_num_batched_tokens(178 * GIB, "NVIDIA B200") == 16_384
    assert new.max_num_batched_tokens(23 * GIB, "RTX 4090", offline=True) == 8192
    assert [new.max_num_seqs(m, n) for m, n in ((79 * GIB, "H100"), (79 * GIB, "A100"), (24 * GIB, ""))] == [
        1024,
        256,
        256,
    ]


@pytest.mark.parametrize(
    ("text", "minor"),
    [
        ("0.11.0", 11),
        ("v0.8.5.post1", 8),
        ("0.23.1rc1.dev1201+gd08eebad1", 23),
        ("0.1.dev8475+g78fa48cb8", 10),
        ("0.1.dev15917+g0a6396b45", 19),
    ],
)
def test_versions(text: str, minor: int) -> None:
    found = release_of(text)
    assert found is not None and found.minor == minor


def test_no_version() -> None:
    assert release_of(None) is None
    assert release_of("5.1") is None


def test_pooling_models_sample_nothing() -> None:
    """Qwen3-Embedding-8B on an H100 leaves all but 0.3 GiB of its share to weights and cache."""
    arch = catalogue("Qwen/Qwen3-8B").architecture
    item = runtime(arch, Serving(8192, max_num_batched_tokens=2048, pooling=True))["activations_bytes"]
    assert "forward pass" in item.source and item.low < 0.3 * GIB


def test_more_tokens_and_sequences_need_no_less() -> None:
    def activation(tokens: int, seqs: int) -> int:
        serving = Serving(4096, max_num_batched_tokens=tokens, max_num_seqs=seqs)
        return runtime(dense(36, 2560, 9728, 151_936), serving)["activations_bytes"].bytes

    assert activation(2048, 8) <= activation(8192, 8) <= activation(16_384, 8)
    assert activation(8192, 8) <= activation(8192, 1024)


def test_more_sequences_than_the_default_raise_it() -> None:
    few, many = (
        runtime(dense(32, 4096, 14_336, 128_256), Serving(4096, num_seqs=n, max_num_batched_tokens=2048), host=A100)[
            "activations_bytes"
        ].bytes
        for n in (1, 512)
    )
    # 6 bytes a logit under the V2 runner, and two hidden states of 4096 a sequence
    assert many - few == (512 - 256) * (128_256 * 6 + 2 * 4096 * 2)


def test_items_and_bands() -> None:
    for engine in ("vllm", "sglang", "transformers", "llama.cpp"):
        items = runtime(deepseek_v3(), Serving(4096, engine=engine), extra=LoadedExtra(MIB, MIB, 2 * MIB))
        assert items
        for name, item in items.items():
            assert 0 < item.low <= item.bytes <= item.high
            assert item.grade == ("derived" if name == "loading_bytes" else "estimated")
            assert item.source
    assert runtime(deepseek_v3(), Serving(4096, engine="ideal")) == {}


def test_independent_estimates_together() -> None:
    """3-4-5: distances from the middle add as squares."""
    assert together([(7, 10, 13), (6, 10, 14)]) == (15, 20, 25)
    assert together([]) == (0, 0, 0)


def test_micro_batch() -> None:
    """llama.cpp on Qwen3 235B with `-ub 4096`: 2.443 GiB = 8 × the 0.305 of 512."""
    arch = catalogue("Qwen/Qwen3-235B-A22B").architecture
    for ubatch, logged in ((512, 0.305), (4096, 2.443)):
        serving = Serving(32_768, engine="llama.cpp", llama_cpp=LlamaCpp(ubatch=ubatch))
        item = runtime(arch, serving, build=5000)["activations_bytes"]
        assert item.low <= logged * GIB <= item.high


def test_a_logged_compute_buffer() -> None:
    # llama.cpp: "CUDA0 compute buffer size = 300.75 MiB", Qwen2.5-3B
    arch = build("qwen2", one(FullAttention(16, 2, 128, 128), 36), hidden_size=2048, vocab_size=151_936)
    assert runtime(arch, Serving(4096, engine="llama.cpp"), build=8179)["activations_bytes"].bytes == 300.75 * MIB


def test_flat_rule_of_the_articles() -> None:
    # LLaMA-2-13B: 26 GB of weights, 66 GB of cache, 10 % of both
    assert flat_overhead(26 * 10**9, 66 * 10**9, Fraction(1, 10)).bytes == 9_200_000_000
    assert flat_overhead(1, 0, Fraction(1, 10)).bytes == 1


def test_steps_and_states_by_release() -> None:
    """Windows beside the tokens of two steps from 0.26; states' checkpoints where the sources of 0.28 to 0.33 have them."""
    assert [Release(minor).steps_in_flight for minor in (15, 25, 26, 28)] == [1, 1, None, None]
    delta, mamba = DeltaNetState(16, 48, 128, 128, 4), Mamba2State(128, 64, 128, 8, 4)
    kimi = KimiDeltaState(32, 128, 128, 4)
    found = [
        tuple(Release(minor).exports_states(kind) for kind in (kimi, mamba, delta)) for minor in (28, 29, 31, 32, 33)
    ]
    assert found == [(False,) * 3, (True, False, False), (True, False, False), (True, True, False), (True,) * 3]


def test_a_sampler_that_does_not_sort() -> None:
    """FlashInfer's, in a log of vLLM 0.10.1 on A100s with Qwen2-7B: 0.57 GiB for 256 sequences of 152064 logits."""
    serving = Serving(16384, max_num_batched_tokens=2048, max_num_seqs=256)
    arch = dense(28, 3584, 18944, 152_064)
    sorted_, masked = (
        runtime(arch, serving, release=Release(10, flashinfer=on))["activations_bytes"] for on in (False, True)
    )
    assert sorted_.bytes > 2 * masked.bytes
    assert masked.low <= 0.57 * GIB <= masked.high


@pytest.mark.parametrize(("context", "logged"), [(16_384, 495.00), (262_144, 824.02)])
def test_logged_compute_buffers_of_a_long_context(context: int, logged: float) -> None:
    """Qwen3.5-27B in llama.cpp: 248320 words, hidden size 5120, 24 heads of 256; the mask outgrows the logits."""
    arch = build("qwen3_5", one(FullAttention(24, 4, 256, 256), 64), hidden_size=5120, vocab_size=248_320)
    item = runtime(arch, Serving(context, engine="llama.cpp"), build=8193)["activations_bytes"]
    assert abs(item.bytes - logged * MIB) < 0.01 * logged * MIB
    assert item.low <= logged * MIB <= item.high
    split = runtime(arch, Serving(context, engine="llama.cpp", tp=2), build=8193)["activations_bytes"]
    assert split.high > item.high  # devices pass copies on
