"""Every model of the shipped catalogue is covered by a rule, agrees with its headers, and gives an estimate."""

from __future__ import annotations

import pytest

from hfmem.api.estimates import estimate, read_model
from hfmem.checkpoint.quantization import logical_groups
from hfmem.hub import FetchOptions
from hfmem.hub.catalog import catalog_names
from hfmem.model.crosscheck import check, contradictions

GATED = (
    "meta-llama/Llama-2-",
    "meta-llama/Meta-Llama-3-",
    "meta-llama/Llama-3.1-",
    "meta-llama/Llama-3.2-",
    "meta-llama/Llama-3.3-",
)


@pytest.mark.parametrize("name", catalog_names())
def test_model(name: str) -> None:
    read = read_model(name, fetch=FetchOptions(offline=True))
    if read.facts.checkpoint is not None:
        logical = logical_groups(read.facts.checkpoint, read.quantization)
        assert contradictions(check(read.architecture, read.facts.checkpoint, logical)) == ()
    report = estimate(read, context=4096)
    assert report.parameters.total > 0 and report.weights.bytes > 0
    assert report.total_bytes >= report.kv_cache.bytes
    assert report.model.notice and "catalogue" in report.model.notice


def test_gated_families_are_there() -> None:
    names = catalog_names()
    assert len(names) >= 60
    for prefix in (*GATED, "meta-llama/Llama-4-", "google/gemma-", "mistralai/Mistral"):
        assert any(name.startswith(prefix) for name in names), prefix


def test_kimi_k2_thinking_is_int4() -> None:
    """Its repository takes 594 GB: routed experts in int4 by groups of 32, all else in bf16."""
    read = read_model("moonshotai/Kimi-K2-Thinking", fetch=FetchOptions(offline=True))
    assert round(read.parameters.weights_bytes / 10**9) == 594


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("THUDM/glm-4-9b-chat", 131_072),
        ("01-ai/Yi-6B-Chat", 4_096),
        ("microsoft/Phi-3.5-mini-instruct", 131_072),
        ("Qwen/Qwen2.5-VL-3B-Instruct", 128_000),
    ],
)
def test_contexts_are_the_publishers(name: str, tokens: int) -> None:
    """Lengths of the model cards: the copies at hand were changed for a compiler with short static shapes."""
    assert read_model(name, fetch=FetchOptions(offline=True)).architecture.max_position_embeddings == tokens


@pytest.mark.parametrize(
    ("name", "published", "beside"),
    [
        # `published`: what the Hub's metadata of the repository counts. `beside`: what it counts that is no weight.
        ("openai/gpt-oss-120b", 116_829_156_672, 0),
        ("openai/whisper-large-v3", 1_543_490_560, 0),
        ("Qwen/Qwen3.8-27B", 27_781_427_952, 0),
        ("Qwen/Qwen3.6-27B", 27_781_427_952, 0),
        ("Qwen/Qwen3.6-35B-A3B", 35_951_822_704, 0),
        ("Qwen/Qwen3.5-0.8B", 873_438_784, 0),
        ("Qwen/Qwen3.5-2B", 2_274_069_824, 0),
        ("Qwen/Qwen3.5-4B", 4_659_865_088, 0),
        ("Qwen/Qwen3.5-9B", 9_653_104_368, 0),
        ("Qwen/Qwen3.5-397B-A17B", 403_397_928_944, 0),
        ("Qwen/Qwen3-Coder-Next", 79_674_391_296, 0),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", 30_532_122_624, 0),
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct", 480_154_875_392, 0),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507", 235_093_634_560, 0),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", 31_070_754_032, 0),
        ("Qwen/Qwen3-Embedding-0.6B", 595_776_512, 0),
        ("Qwen/Qwen3-Embedding-4B", 4_021_774_336, 0),
        ("Qwen/Qwen3-Embedding-8B", 7_567_295_488, 0),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 8_292_166_656, 0),
        ("Qwen/Qwen2.5-VL-32B-Instruct", 33_452_718_336, 0),
        ("BAAI/bge-m3", 567_754_752, 0),
        ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", 24_011_361_280, 0),
        ("mistralai/Ministral-3-3B-Instruct-2512", 3_849_090_048, 0),
        ("mistralai/Ministral-3-8B-Instruct-2512", 8_918_026_716, 34 * 7 * 2),  # scales of weights and inputs
        ("mistralai/Mixtral-8x22B-Instruct-v0.1", 140_630_071_296, 0),
        ("meta-llama/Llama-4-Maverick-17B-128E-Instruct", 401_583_781_376, 0),
        ("microsoft/phi-4", 14_659_507_200, 0),
        ("allenai/Olmo-3-7B-Instruct", 7_298_011_136, 0),
        ("allenai/Olmo-3-32B-Think", 32_233_522_176, 0),
        ("ibm-granite/granite-4.0-h-small", 32_207_337_984, 0),
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1_711_376_384, 0),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 31_577_937_344, 0),
        ("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16", 123_611_012_096, 0),
        ("google/gemma-4-E2B-it", 5_123_178_051, 35),  # a scalar a layer
        ("google/gemma-4-E4B-it", 7_996_156_490, 42),
        ("MiniMaxAI/MiniMax-M2.7", 228_689_764_864, 62 * 256),  # a bias a routed expert, here and below
        ("deepseek-ai/DeepSeek-V3.2", 685_355_329_792, 59 * 256),
        ("zai-org/GLM-4.5-Air", 110_468_824_832, 46 * 128),
        ("zai-org/GLM-4.7", 358_337_791_296, 90 * 160),
        ("zai-org/GLM-5", 753_864_139_008, 76 * 256),  # without an embedding and a head for its prediction layer
        ("zai-org/GLM-5.3", 753_329_940_480, 76 * 256),
    ],
)
def test_derived_parameters_against_published_counts(name: str, published: int, beside: int) -> None:
    assert read_model(name, fetch=FetchOptions(offline=True)).parameters.total + beside == published


@pytest.mark.parametrize(
    ("name", "size"),
    [
        # tensor bytes as published, beside the counts above: of gpt-oss the BF16 tensors and 17 bytes for 32 values
        # of an expert (MXFP4), of GLM 5.2 in FP8 the checkpoint
        # without the FP32 biases of its routers
        ("openai/gpt-oss-120b", 2 * 2_167_371_072 + 36 * 128 * 3 * 2880 * 2880 // 32 * 17),
        ("zai-org/GLM-5.2-FP8", 755_617_140_416 - 4 * 76 * 256),
        ("google/gemma-4-26B-A4B-it", 51_611_872_412),
        ("google/gemma-4-31B-it", 62_546_177_752),
        ("google/gemma-4-E2B-it", 10_246_357_958),
        ("google/gemma-4-E4B-it", 15_992_314_836),
    ],
)
def test_derived_bytes_against_published_sizes(name: str, size: int) -> None:
    assert read_model(name, fetch=FetchOptions(offline=True)).parameters.weights_bytes == size
