"""SGLang's share of a device of 80 GiB (81,920 MiB), with what it reserves added up by hand in MiB."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from hfmem.api.estimates import read_model
from hfmem.hub import FetchOptions
from hfmem.memory.serving import Serving
from hfmem.plan.sglang_share import ServedModel, _prefill_sizes, chunk_tokens, served_model, static_fraction
from hfmem.plan.target import on_device, place_on

MEMORY = 80 << 30
#: sizes of captured prefills up to 8192 tokens, and up to 2048: 8 MiB each
GRAPHS, FEW_GRAPHS = (8 + 14 + 8 + 8 + 12 + 8) * 8, (8 + 14 + 8 + 8 + 4) * 8
PREFILL = 512 + 8192 * 3 // 2


@pytest.mark.parametrize(
    ("settings", "reserved"),
    [
        ({}, PREFILL + 128 + 256 * 2 + GRAPHS),
        ({"tp": 3}, PREFILL + 3 * 128 + 256 * 2 + GRAPHS),
        ({"tp": 4}, PREFILL + 4 * 128 + 512 * 2 + GRAPHS),  # from four ranks on, batches of 512 are captured
        ({"tp": 2, "attn_dp": 2}, PREFILL + 2 * 128 + 256 * 2 + 256 * 2 * 3 + GRAPHS),
        (
            {"tp": 8, "attn_dp": 8},
            PREFILL + 8 * 128 + 512 * 2 + 512 * 8 * 9 // 2 + GRAPHS,
        ),  # batches beyond 300 take half more
        ({"pp": 2}, PREFILL + 2 * 128 + 256 * 2),  # prefill is not captured
        ({"max_num_batched_tokens": 2048}, 10 * 1024),  # less than what a large device keeps at least
    ],
)
def test_what_is_reserved(settings: dict[str, Any], reserved: int) -> None:
    share = static_fraction(MEMORY, Serving(4096, engine="sglang", **settings), ServedModel())
    assert share == Fraction(round(1000 * (81_920 - reserved) / 81_920), 1000)


def test_latent_attention_reserves_for_its_graphs_whatever_their_number() -> None:
    """1.5 GiB (`memory_hook.py`) in the place of the captured prefills."""
    share = static_fraction(MEMORY, Serving(4096, engine="sglang"), ServedModel(latent=True))
    assert share == Fraction(round(1000 * (81_920 - (PREFILL + 128 + 256 * 2 + 1536)) / 81_920), 1000)
    reserved = 512 + 2048 * 3 // 2 + 128 + 48 * 2 + 1536
    small = static_fraction(
        32 << 30, Serving(4096, engine="sglang", max_num_batched_tokens=2048), ServedModel(latent=True)
    )
    assert small == Fraction(round(1000 * (32_768 - reserved) / 32_768), 1000)


@pytest.mark.parametrize(
    ("gib", "chunk", "few", "many"),
    [
        (16, 2048, 8, 8),
        (24, 4096, 48, 160),
        (48, 4096, 32, 160),
        (141, 8192, 256, 512),
        (192, 16384, 512, 512),
    ],
)
def test_the_device_decides_chunk_and_batch(gib: int, chunk: int, few: int, many: int) -> None:
    """`_handle_gpu_memory_settings`: the devices that its comments name (4080, 4090, L40, H200), and a B200."""
    assert chunk_tokens(gib << 30) == chunk
    captured = len(_prefill_sizes(chunk)) * 8
    for tp, batch in ((1, few), (4, many)):
        reserved = 512 + chunk * 3 // 2 + tp * 128 + batch * 2 + captured
        share = static_fraction(gib << 30, Serving(4096, engine="sglang", tp=tp), ServedModel())
        floor = 10 * 1024 if gib > 60 else 0
        assert share == Fraction(round(1000 * (gib * 1024 - max(reserved, floor)) / (gib * 1024)), 1000)


def test_a_small_device_keeps_what_it_needs() -> None:
    reserved = 512 + 2048 * 3 // 2 + 128 + 48 * 2 + FEW_GRAPHS
    share = static_fraction(32 << 30, Serving(4096, engine="sglang", max_num_batched_tokens=2048), ServedModel())
    assert share == Fraction(round(1000 * (32_768 - reserved) / 32_768), 1000)


@pytest.mark.parametrize(
    ("tower", "factor"),
    [((24, 1024), 0.95), ((1, 64), 0.95 * 1.05), ((48, 1024), 0.95 * 0.9), ((96, 4096), 0.95 * 0.8)],
)
def test_vision_encoders(tower: tuple[int, int], factor: float) -> None:
    """ViT-L takes a twentieth; one of twice its size a tenth of the rest more, up to a fifth; a tiny one gives back as much."""
    serving = Serving(4096, engine="sglang")
    whole = static_fraction(MEMORY, serving, ServedModel())
    assert float(static_fraction(MEMORY, serving, ServedModel(vision=tower))) == pytest.approx(float(whole) * factor)


def test_what_a_model_changes() -> None:
    """Prefill is captured of text models, and of few multimodal classes; latents and the vision encoder count for themselves."""

    def served(name: str) -> ServedModel:
        model = read_model(name, fetch=FetchOptions(offline=True, no_cache=True))
        return served_model(model.architecture)

    assert served("meta-llama/Llama-3.1-8B-Instruct") == ServedModel()
    assert served("deepseek-ai/DeepSeek-V3") == ServedModel(latent=True)
    # a vision encoder of 32 layers and 1,280 (its config)
    assert served("Qwen/Qwen2.5-VL-3B-Instruct") == ServedModel(
        captures_prefill=False, vision=(32, 1280), multimodal=True
    )
    # Qwen3.5's says `depth`, which is not read: ViT-L's 24 layers, of the width that the checkpoint's encoder has
    for name, width in (("Qwen/Qwen3.5-0.8B", 768), ("Qwen/Qwen3.5-2B", 1024), ("Qwen/Qwen3.5-27B", 1152)):
        assert served(name).vision == (24, width)
    assert served("google/gemma-3n-E2B-it").vision == (24, 2048)
    assert served("google/gemma-4-12B").vision == (16, 768)
    # SigLIP is left out unless told `--enable-multimodal`
    assert served("google/gemma-3-27b-it") == ServedModel()


def test_features_take_memory_from_the_pool() -> None:
    """`mm_runtime_reservation_gb`: 100 MiB, and 1 GiB for Qwen3-VL on Hoppers of 60 GiB and more; nothing for text alone."""
    for name, device, left_out in (
        ("Qwen/Qwen3-VL-8B-Instruct", "h100", 1024),
        ("Qwen/Qwen3-VL-8B-Instruct", "a100-80g", 100),
        ("Qwen/Qwen2.5-VL-3B-Instruct", "h100", 100),
        ("google/gemma-3-27b-it", "h100", 0),
        ("Qwen/Qwen3-8B", "h100", 0),
    ):
        target, _, _ = place_on(device, 1, None, "sglang", 1, 1, 1)
        model = served_model(read_model(name, fetch=FetchOptions(offline=True, no_cache=True)).architecture)
        serving = on_device(Serving(4096, engine="sglang"), target.device)
        whole = math.ceil(target.device.memory_bytes * replace(target, model=model).share(serving))
        assert whole - replace(target, model=model).usable_bytes(serving) == left_out << 20


@pytest.mark.parametrize(
    ("settings", "reserved"),
    [
        # `--max-running-requests` lowers the largest captured batch, `--disable-cuda-graph` leaves out every graph
        ({"max_num_seqs": 37}, PREFILL + 128 + 37 * 2 + GRAPHS),
        ({"max_num_seqs": 4096}, PREFILL + 128 + 256 * 2 + GRAPHS),
        ({"eager": True}, PREFILL + 128),
    ],
)
def test_graphs_that_are_not_captured(settings: dict[str, Any], reserved: int) -> None:
    memory = 48 << 30  # without the 10 GiB that larger devices keep at least
    reserved += {37: 0, 4096: (32 - 256) * 2}.get(settings.get("max_num_seqs", 37), 0)
    share = static_fraction(
        memory, Serving(4096, engine="sglang", max_num_batched_tokens=8192, **settings), ServedModel()
    )
    assert share == Fraction(round(1000 * (49_152 - reserved) / 49_152), 1000)


def test_shares_that_sglang_resolves() -> None:
    """`ServerArgs(…).resolve_once()` of SGLang 0.5.23 with these settings and devices (MiB as nvidia-smi tells them)."""
    plain, muse = ServedModel(), ServedModel(vision=(50, 1536), sized_after_capture=True)
    for mib, settings, model, share in (
        (81_559, {"tp": 1}, plain, 0.83),
        (81_920, {"tp": 8, "max_num_seqs": 37, "eager": True}, plain, 0.831),
        (40_960, {"tp": 8, "max_num_seqs": 4, "max_num_batched_tokens": 1024, "ep": True}, plain, 0.88),
        (81_920, {"tp": 8, "pp": 3, "attn_dp": 2, "max_num_seqs": 37, "max_num_batched_tokens": 8192}, plain, 0.803),
        (81_559, {"tp": 1}, muse, 0.8795573756421732),
        # told how many tokens, it sizes its pool before graphs are captured, as others do
        (143_771, {"tp": 8, "attn_dp": 4, "max_num_seqs": 4, "max_total_tokens": 5000}, muse, 0.68476),
        (81_559, {"tp": 1}, ServedModel(vision=(50, 1536), most_captured=512), 0.63232),
    ):
        served = Serving(4096, engine="sglang", **settings)  # type: ignore[arg-type]
        assert float(static_fraction(mib << 20, served, model)) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize(("tokens", "share"), [(None, "0.83"), (1000, "0.832"), (5000, "0.83")])
def test_fewer_prefills_are_captured_for_a_small_pool(tokens: int | None, share: str) -> None:
    """What SGLang 0.5.23's own resolution answers for a Llama 3 8B on an H100 of 81,559 MiB with `--max-total-tokens`."""
    serving = Serving(4096, engine="sglang", max_total_tokens=tokens)
    assert static_fraction(81_559 << 20, serving, ServedModel()) == Fraction(share)
