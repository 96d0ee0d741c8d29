"""What stays on a rank beside the weights, against what vLLM logged of DeepSeek V4 Flash."""

from __future__ import annotations

import pytest

from hfmem.api.reading import Model, read_model
from hfmem.hub import FetchOptions
from hfmem.memory.beside import kept_beside
from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.rotary import rotary_table_bytes
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.units import GIB


@pytest.fixture(scope="module")
def flash() -> Model:
    return read_model("deepseek-ai/DeepSeek-V4-Flash", fetch=FetchOptions(offline=True, no_cache=True))


def test_bytes_of_the_published_files(flash: Model) -> None:
    """The index names 159,609,485,896 bytes. Compressors and the indexer's weights are not in fp8, what mixes streams is in fp32.

    A scale takes a byte there, 4 are assumed; what hashes tokens to experts and routers' corrections are buffers.
    """
    total = sum(group.total_bytes for group in flash.parameters.groups)
    scales = flash.parameters.weights_by_dtype["F8_E4M3"] // 128**2
    hashes, corrections = 3 * 129_280 * 6 * 8, 41 * 256 * 4
    assert total - 3 * scales + hashes + corrections == 159_609_485_896


@pytest.mark.parametrize(
    ("minor", "tp", "ep", "tokens", "draft", "logged"),
    [
        (23, 2, False, 16384, 0, 74.35),  # 2 × H200, the LLM class
        (25, 2, False, 8192, 0, 74.08),  # 2 × H200, a server
        (31, 8, True, 8192, 0, 19.79),  # 8 × H100: no streams are kept where nothing drafts
    ],
)
def test_loaded_weights_of_deepseek_v4(
    flash: Model, minor: int, tp: int, ep: bool, tokens: int, draft: int, logged: float
) -> None:
    serving = Serving(4096, tp=tp, ep=ep, kv_dtype="fp8", max_num_batched_tokens=tokens, speculative_tokens=draft)
    arch, groups, release = flash.architecture, flash.parameters.groups, Release(minor)
    found = rank_weights(arch, groups, serving, release)
    loaded = found.bytes + found.rounding.block_bytes
    loaded += kept_beside(arch, groups, serving, release)
    assert loaded / GIB == pytest.approx(logged, rel=1e-3)


def test_streams_for_a_draft(flash: Model) -> None:
    """8192 tokens × (512 picks × 4 B + 4 streams × 4096 × 2 B); without a draft the picks alone, from 0.26 on."""
    arch, groups = flash.architecture, flash.parameters.groups

    def size(minor: int, draft: int) -> int:
        serving = Serving(4096, kv_dtype="fp8", max_num_batched_tokens=8192, speculative_tokens=draft)
        return kept_beside(arch, groups, serving, Release(minor))

    assert size(25, 0) - size(31, 0) == 8192 * 4 * 4096 * 2
    assert size(31, 2) == size(25, 0)


def test_inputs_of_each_layer_and_tables_of_the_backend() -> None:
    """Gemma 4 E2B keeps a step's 8,192 inputs of 35 layers × 256; SmolLM3 runs as transformers' module, which has no table."""
    fetch = FetchOptions(offline=True, no_cache=True)
    serving = Serving(4096)
    gemma = read_model("google/gemma-4-E2B", fetch=fetch)
    tables = rotary_table_bytes(gemma.architecture)
    assert kept_beside(gemma.architecture, gemma.parameters.groups, serving) == tables + 8192 * 35 * 256 * 2
    smol = read_model("HuggingFaceTB/SmolLM3-3B-Base", fetch=fetch)
    assert kept_beside(smol.architecture, smol.parameters.groups, serving) == 0
    assert rotary_table_bytes(smol.architecture, "sglang") > 0


def test_picks_and_padded_mixers_of_qwen4() -> None:
    """12 indexed layers of 48 keep 8192 tokens' 2048 + 3 picks and a count, 48 × 2 mixers are padded from 320 + 4 rows to 336; vLLM
    0.31.1rc1 logged 17.36 GiB on each of 8 H100 (`--language-model-only`)."""
    model = read_model("Qwen/Qwen3.8-Flash-Next-FP8", fetch=FetchOptions(offline=True, no_cache=True))
    serving = Serving(262_144, tp=8, ep=True, max_num_batched_tokens=8192, language_model_only=True)
    arch, groups, release = model.architecture, model.parameters.groups, Release(31)
    beside = kept_beside(arch, groups, serving, release)
    assert beside - rotary_table_bytes(arch, "vllm", release) == 12 * 8192 * 2052 * 4 + 96 * 12 * 4 * 2560 * 2
    found = rank_weights(arch, groups, serving, release)
    assert (found.bytes + found.rounding.block_bytes + beside) / GIB == pytest.approx(17.36, rel=1e-3)
