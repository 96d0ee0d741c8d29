"""A draft beside its target, against what vLLM's own code answered.

Each row was run through vLLM 0.33.0 on a machine without a GPU, as on Hopper unless said: target and draft built without memory as
the speculators build them, their specs, `get_kv_cache_configs`, `get_kv_cache_capacity`, for a pool of 20 GiB on each rank.
"""

from __future__ import annotations

from typing import Any

import pytest
from drafting_models import BASE, EXAONE, MIMO, STEP, architecture

from hfmem.memory.drafts import Drafter, served_with, weights_with
from hfmem.memory.engines.vllm import layout, pool
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.architecture import Architecture
from hfmem.model.expected import synthesise
from hfmem.model.families.registry import read_architecture

POOL = 20 << 30
#: model, tokens proposed, settings; then vLLM's: tokens of a block, bytes of one on each stage, (blocks, tokens, concurrency)
PREDICTING: list[tuple[str | dict[str, Any], int, dict[str, Any], int, tuple[int, ...], tuple[int, int, float]]] = [
    ("Qwen/Qwen3-Next-80B-A3B-Instruct", 3, {"pp": 2}, 576, (7_077_888, 8_257_536), (2600, 1_135_957, 34.666666667)),
    ("Qwen/Qwen3-Next-80B-A3B-Instruct", 1, {"tp": 2, "kv_dtype": "fp8", "enable_prefix_caching": False},
     1088, (7_241_728,), (2965, 2_625_868, 80.135135135)),
    ("Qwen/Qwen3.5-27B", 2, {"tp": 2}, 832, (28_966_912,), (741, 441_474, 13.472727273)),
    ("Qwen/Qwen3.6-35B-A3B", 1, {"kv_dtype": "fp8"}, 2112, (23_789_568,), (902, 1_055_597, 32.214285714)),
    ("deepseek-ai/DeepSeek-V3", 1, {"pp": 2}, 16, (571_392, 571_392), (37_583, 601_328, 18.351074219)),
    ("deepseek-ai/DeepSeek-V3.2", 1, {}, 64, (5_094_912,), (4214, 269_696, 8.23046875)),
    ("zai-org/GLM-4.5", 1, {"pp": 2}, 16, (3_014_656, 3_080_192), (6971, 111_536, 3.403808594)),
    ("zai-org/GLM-5", 1, {}, 64, (6_491_904,), (3307, 211_648, 6.458984375)),
    ("deepseek-ai/DeepSeek-V4-Flash", 2, {"tp": 2, "kv_dtype": "fp8"}, 256, (1_002_240,), (21_426, 103_096, 3.146255507)),
    (STEP, 3, {"pp": 2}, 16, (16_384, 32_768), (655_360, 3_177_691, 96.97543652)),
    (EXAONE, 2, {"tp": 2, "kv_dtype": "fp8"}, 16, (8192,), (2_621_440, 13_892_826, 423.975416464)),
    (MIMO, 1, {"pp": 2}, 16, (40_960, 40_960), (524_288, 3_035_848, 92.646757378)),
]  # fmt: skip

#: target, shape of an EAGLE-3 head (query heads, KV heads, head_dim) or a smaller model, and as above, at 8,192 tokens
DRAFTED: list[tuple[str, tuple[int, int, int] | str, int, dict[str, Any], int, tuple[int, ...], tuple[int, int, float]]] = [
    ("meta-llama/Llama-3.1-8B-Instruct", (32, 8, 128), 3, {"tp": 2, "pp": 2},
     16, (524_288, 557_056), (38_550, 616_800, 75.29296875)),
    ("openai/gpt-oss-20b", (64, 8, 64), 3, {}, 16, (425_984,), (50_412, 402_902, 49.182439024)),
    ("Qwen/Qwen3-Next-80B-A3B-Instruct", (16, 4, 128), 2, {}, 576, (1_179_648,), (18_204, 397_672, 48.544)),
    ("deepseek-ai/DeepSeek-V3", (64, 8, 128), 2, {"tp": 4, "kv_dtype": "fp8"},
     64, (2_281_472,), (9412, 602_368, 73.53125)),
    ("meta-llama/Llama-3.1-70B-Instruct", "meta-llama/Llama-3.2-1B-Instruct", 4, {"tp": 4, "kv_dtype": "fp8"},
     16, (720_896,), (29_789, 476_624, 58.181640625)),
]  # fmt: skip

#: model → parameters of vLLM's class for its prediction layers, with an embedding and a head of its own until the target's replace
#: them
LOADED = {
    "Qwen/Qwen3-Next-80B-A3B-Instruct": 2_272_801_280,
    "Qwen/Qwen3.5-27B": 2_967_496_192,
    "Qwen/Qwen3.6-35B-A3B": 1_861_759_488,
    "deepseek-ai/DeepSeek-V3": 13_463_426_304,
    "deepseek-ai/DeepSeek-V3.2": 13_477_385_728,
    "zai-org/GLM-4.5": 5_539_962_272,
    "deepseek-ai/DeepSeek-V4-Flash": 7_669_110_651,
}


def check(
    arch: Architecture,
    drafter: Drafter,
    serving: Serving,
    block: int,
    stages: tuple[int, ...],
    held: tuple[int, int, float],
) -> None:
    planned = served_with(arch, drafter, serving)
    found = layout(planned, serving)
    assert (found.plan.block_size, found.stage_block_bytes) == (block, stages)
    answer = pool(planned, serving, POOL)
    assert (answer.num_pages, answer.capacity_tokens, round(answer.max_concurrency, 9)) == held


@pytest.mark.parametrize("model, ahead, settings, block, stages, held", PREDICTING)
def test_prediction_layers(
    model: str | dict[str, Any],
    ahead: int,
    settings: dict[str, Any],
    block: int,
    stages: tuple[int, ...],
    held: tuple[int, int, float],
) -> None:
    arch = architecture(model)
    serving = Serving(32_768, max_num_batched_tokens=8192, speculative_tokens=ahead, **settings)
    check(arch, Drafter(arch, (), own=True), serving, block, stages, held)


@pytest.mark.parametrize("target, draft, ahead, settings, block, stages, held", DRAFTED)
def test_another_model_drafts(
    target: str,
    draft: tuple[int, int, int] | str,
    ahead: int,
    settings: dict[str, Any],
    block: int,
    stages: tuple[int, ...],
    held: tuple[int, int, float],
) -> None:
    arch = architecture(target)
    if isinstance(draft, str):
        other = architecture(draft)
    else:
        heads, kv_heads, width = draft
        own = {"hidden_size": arch.hidden_size, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
        head = {"architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", "draft_vocab_size": 32_000, **own}
        other = read_architecture({**BASE, **head, "head_dim": width, "num_hidden_layers": 1})
    serving = Serving(8192, max_num_batched_tokens=8192, speculative_tokens=ahead, **settings)
    check(arch, Drafter(other, ()), serving, block, stages, held)


@pytest.mark.parametrize("model", LOADED)
def test_what_is_loaded_of_prediction_layers(model: str) -> None:
    arch, serving = architecture(model), Serving(512, pp=2)
    groups = tuple(synthesise(arch))
    with_them = weights_with(arch, groups, Drafter(arch, groups, own=True), serving)
    without = rank_weights(arch, groups, serving)
    assert with_them.stage_parameters[0] == without.stage_parameters[0]
    tables = 2 * arch.vocab_size * arch.hidden_size
    assert with_them.stage_parameters[1] - without.stage_parameters[1] == LOADED[model] - tables


def test_a_draft_counts_on_the_last_stage_of_every_replica() -> None:
    arch = read_architecture({**BASE, "model_type": "llama", "num_hidden_layers": 4, "num_key_value_heads": 4})
    small = read_architecture({**BASE, "model_type": "llama", "num_hidden_layers": 1, "num_key_value_heads": 4})
    groups = tuple(synthesise(arch))
    serving = Serving(512, tp=2, pp=2, dp=3)
    with_it = weights_with(arch, groups, Drafter(small, tuple(synthesise(small))), serving)
    without = rank_weights(arch, groups, serving)
    # of one layer on one of two ranks in 16 bits: q, o, half the k and v of 4 heads × 64, three matrices, two norms and the last
    layer = (2 * 512 * 512 + 2 * 512 * 256 + 3 * 512 * 1024) // 2 + 3 * 512
    added = 2 * (layer + 2 * 2048 * 512 // 2)
    assert with_it.stage_bytes == (without.stage_bytes[0], without.stage_bytes[1] + added)
    assert with_it.all_ranks_bytes - without.all_ranks_bytes == 2 * 3 * added
