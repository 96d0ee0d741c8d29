"""What vLLM logs of its pool, against what vLLM's own code answered.

Each row was run through vLLM 0.33.0 on a machine without a GPU, as on Hopper: its model classes built without memory for every
pipeline stage, their specs, `get_kv_cache_configs`, `get_kv_cache_capacity`.
"""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.api.estimates import read_model
from hfmem.errors import UnsupportedError
from hfmem.hub import FetchOptions
from hfmem.memory.engines.vllm import layout, pool
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.expected import synthesise
from hfmem.model.families.registry import read_architecture

#: model, max_model_len, max_num_batched_tokens, settings, bytes of the pool on each rank; then vLLM's: tokens of a block, bytes of
#: one on each stage, (blocks, tokens, concurrency), parameters on a rank of each stage
ROWS: list[tuple[str, int, int, dict[str, Any], int, int, tuple[int, ...], tuple[int, int, float], tuple[int, ...]]] = [
    ("Qwen/Qwen3-Next-80B-A3B-Instruct", 32_768, 8192, {"tp": 4, "ep": True},
     20_000_000_000, 320, (3_932_160,), (5086, 1_488_018, 45.410714286), (19_962_868_800,)),
    ("Qwen/Qwen3-Next-80B-A3B-Instruct", 16_384, 2048,
     {"tp": 2, "pp": 2, "kv_dtype": "fp8", "page_size": 64, "enable_prefix_caching": False},
     8_000_000_000, 1088, (3_342_336, 3_342_336), (2393, 2_063_521, 125.947368421), (20_086_839_104, 20_086_841_152)),
    ("google/gemma-3-27b-it", 131_072, 8192, {"tp": 2, "page_size": 32, "enable_prefix_caching": True},
     20_000_000_000, 32, (1_310_720,), (15_258, 271_503, 2.071409177), (13_722_770_744,)),
    ("google/gemma-3-27b-it", 8192, 2048, {"pp": 3, "kv_dtype": "fp8", "enable_prefix_caching": False},
     6_000_000_007, 16, (196_608, 262_144, 196_608), (22_888, 52_227, 6.375487465),
     (10_503_565_680, 10_080_505_344, 9_667_606_784)),
    ("openai/gpt-oss-20b", 131_072, 16_384, {"tp": 2, "ep": True, "page_size": 64},
     10_000_000_000, 64, (786_432,), (12_715, 650_245, 4.960983223), (10_458_590_016,)),
    ("deepseek-ai/DeepSeek-V3", 65_536, 8192, {"tp": 8, "pp": 2, "ep": True, "kv_dtype": "fp8", "page_size": 32},
     12_000_000_000, 32, (571_392, 552_960), (21_001, 672_032, 10.254394531), (41_066_191_872, 43_714_165_248)),
    ("deepseek-ai/DeepSeek-V3.2", 131_072, 8192, {"tp": 8, "ep": True, "page_size": 128},
     30_000_000_000, 128, (10_025_472,), (2992, 382_976, 2.921875), (85_631_881_984,)),
    ("deepseek-ai/DeepSeek-V4-Flash", 131_072, 8192, {"tp": 4, "ep": True},
     20_000_000_000, 256, (1_002_240,), (19_955, 363_572, 2.773839311), (71_713_239_127,)),
    ("ai21labs/AI21-Jamba-1.5-Mini", 65_536, 8192, {"tp": 4, "enable_prefix_caching": True},
     12_000_000_000, 80, (327_680,), (36_621, 2_877_690, 43.910071942), (12_893_572_992,)),
    ("ai21labs/AI21-Jamba-1.5-Mini", 8192, 512,
     {"tp": 2, "pp": 2, "kv_dtype": "fp8", "page_size": 128, "enable_prefix_caching": False},
     5_000_000_000, 256, (524_288, 524_288), (9536, 2_003_049, 244.512820513), (13_027_131_328, 13_027_131_328)),
    ("nvidia/Nemotron-H-56B-Base-8K", 8192, 8192, {"tp": 8},
     9_000_000_001, 4128, (21_135_360,), (425, 174_080, 21.25), (7_041_396_800,)),
    ("ibm-granite/granite-4.0-h-tiny", 131_072, 2048, {"page_size": 32, "enable_prefix_caching": True},
     9_000_000_000, 416, (3_407_872,), (2640, 1_008_834, 7.696793003), (6_939_037_248,)),
    ("LiquidAI/LFM2-1.2B", 32_768, 8192, {"pp": 2, "page_size": 256},
     3_000_000_000, 256, (1_572_864, 2_097_152), (1430, 354_986, 10.833333333), (658_575_616, 645_982_720)),
    ("Qwen/Qwen3.5-35B-A3B", 262_144, 16_384, {"tp": 2, "ep": True, "kv_dtype": "fp8"},
     30_000_000_000, 2112, (10_813_440,), (2774, 5_426_772, 20.701492537), (17_566_513_016,)),
    ("meta-llama/Llama-4-Scout-17B-16E-Instruct", 1_000_000, 8192, {"tp": 8, "ep": True, "page_size": 64},
     40_000_000_000, 64, (393_216,), (101_725, 6_063_360, 6.063360553), (13_585_067_744,)),
    ("mistralai/Mistral-7B-v0.1", 32_768, 512, {"tp": 2, "kv_dtype": "fp8", "page_size": 128},
     2_000_000_000, 128, (4_194_304,), (476, 380_428, 11.609756098), (3_620_999_168,)),
    ("google/gemma-4-31B", 131_072, 8192, {"tp": 4},
     20_000_000_000, 16, (655_360,), (30_517, 419_235, 3.198511686), (8_278_601_264,)),
    ("state-spaces/mamba-2.8b-hf", 8192, 8192, {"tp": 2, "enable_prefix_caching": True},
     1_000_000_000, 16, (6_225_920,), (160, 655_360, 80.0), (1_384_286_720,)),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{'-'.join(map(str, row[3].values()))}")
def test_pool(
    row: tuple[str, int, int, dict[str, Any], int, int, tuple[int, ...], tuple[int, int, float], tuple[int, ...]],
) -> None:
    name, context, batched, settings, memory, block, stages, (blocks, tokens, concurrency), parameters = row
    arch = read_model(name, fetch=FetchOptions(offline=True, no_cache=True)).architecture
    serving = Serving(context, max_num_batched_tokens=batched, **settings)
    found = layout(arch, serving)
    assert (found.plan.block_size, found.stage_block_bytes) == (block, stages)
    held = pool(arch, serving, memory)
    assert (held.num_pages, held.capacity_tokens) == (blocks, tokens)
    assert held.max_concurrency == pytest.approx(concurrency, abs=1e-9)
    ranks = rank_weights(arch, synthesise(arch), serving)
    assert ranks.stage_parameters == parameters
    if name == "google/gemma-4-31B":  # keys that are the values too are held twice; but for a few buffers all is bf16
        assert 0 <= ranks.bytes - 2 * parameters[0] < 10_000


#: EXAONE 4.0's shape, in eight layers
EXAONE = {
    "model_type": "exaone4", "hidden_size": 5120, "intermediate_size": 1024, "num_hidden_layers": 8, "vocab_size": 102_400,
    "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131_072,
    "sliding_window": 4096, "sliding_window_pattern": "LLLG", "dtype": "bfloat16",
    "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kv_dtype", "capability", "held"),
    [("fp8", 89, (873_813, 7_281_775)), ("fp8_e5m2", 89, (873_813, 7_281_775))],
)
def test_windowed_pages_that_flashinfer_takes_no_part_of(kv_dtype: str, capability: int, held: tuple[int, int]) -> None:
    """Pages of 48 tokens, at most 32 of which are a block of FlashInfer's: the windowed layers' pages are padded."""
    serving = Serving(1000, tp=4, pp=2, kv_dtype=kv_dtype, page_size=48, compute_capability=capability,
                      max_num_batched_tokens=2048)  # fmt: skip
    answer = pool(read_architecture(EXAONE), serving, 20 << 30)
    assert (answer.num_pages, answer.capacity_tokens) == held


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_falcon_keeps_its_cache_in_sixteen_bits(capability: int) -> None:
    """`falcon.py` builds its attention without the cache's settings: 71 heads share one of 64, in 32 layers."""
    model = read_model("tiiuae/falcon-7b-instruct", fetch=FetchOptions(offline=True, no_cache=True))
    found = layout(model.architecture, Serving(2048, kv_dtype="fp8", compute_capability=capability))
    assert found.stage_block_bytes == (32 * 16 * 2 * 64 * 2,)


def test_scales_of_each_head_need_fp8_of_the_device() -> None:
    model = read_model("meta-llama/Llama-3.1-8B-Instruct", fetch=FetchOptions(offline=True, no_cache=True))
    with pytest.raises(UnsupportedError, match=r"8\.9 or later"):
        layout(model.architecture, Serving(2048, kv_dtype="fp8_per_token_head", compute_capability=80))
    assert layout(model.architecture, Serving(2048, kv_dtype="fp8_per_token_head", compute_capability=89)).groups


@pytest.mark.parametrize(("pp", "held"), [(1, (10_082, 92_075, 11.239687848)), (2, (18_724, 149_645, 18.267317073))])
def test_models_that_pool_schedule_no_step_ahead(pp: int, held: tuple[int, int, float]) -> None:
    """Gemma 2 as a classifier, from vLLM's own code: scheduling is not asynchronous, and windows are kept beside one step less."""
    config = dict(read_model("google/gemma-2-2b-it", fetch=FetchOptions(offline=True, no_cache=True)).facts.config)
    arch = read_architecture(config | {"architectures": ["Gemma2ForSequenceClassification"]})
    answer = pool(arch, Serving(8192, pp=pp, max_num_batched_tokens=2048), 8 << 30)
    assert (answer.num_pages, answer.capacity_tokens, round(answer.max_concurrency, 9)) == held
