"""Prediction layers beside their model in SGLang's pool, against what SGLang's own code answered.

Run through SGLang 0.5.23 without a GPU: `create_memory_pool_configurator` and `_handle_max_mamba_cache` for an fp8 cache of 40 GiB
with pages of one token, four draft tokens and SGLang's 48 requests.
"""

from __future__ import annotations

from typing import Any

import pytest
from drafting_models import EXAONE, MIMO, STEP, architecture

from hfmem.memory.drafts import Drafter, served_with
from hfmem.memory.engines.sglang import cache, pool
from hfmem.memory.serving import Serving
from hfmem.model.families.registry import read_architecture


def without(config: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != key}


@pytest.mark.parametrize(
    ("model", "tp", "tokens"),
    [
        # hybrids, whose states of four tokens are reserved for 48 requests, and whose draft's rows are not reckoned with
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", 2, 3_934_538),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", 4, 4_541_330),
        ("Qwen/Qwen3.5-27B", 2, 1_395_262),
        ("Qwen/Qwen3.6-35B-A3B", 4, 5_571_584),
        ("deepseek-ai/DeepSeek-V3", 2, 1_202_667),
        ("deepseek-ai/DeepSeek-V3.2", 4, 879_107 // 64 * 64),  # its kernels force pages of 64
        ("zai-org/GLM-4.5", 2, 451_000),
        ("zai-org/GLM-5", 2, 689_932 // 64 * 64),
        (EXAONE, 2, 18_641_351),
        # as published, without a count of its prediction layers
        (without(MIMO, "num_nextn_predict_layers") | {"architectures": ["MiMoV2FlashForCausalLM"]}, 2, 15_978_300),
    ],
)
def test_tokens_of_a_pool(model: str | dict[str, object], tp: int, tokens: int) -> None:
    arch = architecture(model)
    serving = Serving(1, engine="sglang", tp=tp, page_size=1, kv_dtype="fp8", speculative_tokens=4)
    planned = served_with(arch, Drafter(arch, (), own=True), serving)
    assert pool(planned, serving, 40 << 30).capacity_tokens == tokens


#: five layers of Qwen3's attention that draft blocks of 16, narrower than any target's here
BLOCKS = {
    "architectures": ["DFlashDraftModel"], "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288,
    "num_hidden_layers": 6, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 151936,
    "max_position_embeddings": 40960, "tie_word_embeddings": False, "dtype": "bfloat16", "rms_norm_eps": 1e-6, "block_size": 16,
    "dflash_config": {"target_layer_ids": [1, 9, 17, 25, 33], "mask_token_id": 151669},
}  # fmt: skip


@pytest.mark.parametrize(
    ("target", "draft", "settings", "tokens"),
    [
        # `dflash_draft_cell_size_per_token`: a block drafter's own rows, here beside latents, windows and states
        ("Qwen/Qwen3-8B", BLOCKS, {}, 279_620),
        ("deepseek-ai/DeepSeek-R1", BLOCKS, {"tp": 2, "kv_dtype": "fp8"}, 1_171_184),
        ("openai/gpt-oss-120b", BLOCKS, {}, 592_415),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", BLOCKS, {"tp": 8}, 2_211_201),
        # a model's rows are the target's, windowed where its layers are
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B", {"tp": 8}, 1_310_720),
        ("openai/gpt-oss-120b", "openai/gpt-oss-20b", {}, 388_361),
        ("openai/gpt-oss-120b", "openai/gpt-oss-20b", {"enable_prefix_caching": False, "max_num_seqs": 16}, 672_297),
        # prediction layers take windowed rows as far as the target has such: here three, all of them
        (STEP | {"architectures": ["Step3p5ForCausalLM"]}, None, {}, 6_168_094),
    ],
)
def test_rows_reckoned_for_a_draft(
    target: str | dict[str, object], draft: str | dict[str, object] | None, settings: dict[str, Any], tokens: int
) -> None:
    arch = architecture(target)
    beside = Drafter(arch, (), own=True) if draft is None else Drafter(architecture(draft), ())
    serving = Serving(4096, engine="sglang", speculative_tokens=16 if draft is BLOCKS else 4, **settings)
    assert pool(served_with(arch, beside, serving), serving, 40 << 30).capacity_tokens == tokens


def test_a_draft_has_rows_of_its_own_on_the_last_stage() -> None:
    """Two models of Llama's kind, 2 × 4 heads × 64 × 2 bytes a token and layer: four layers on two stages, and one that drafts."""
    shape = {"hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 4,
             "vocab_size": 2048, "max_position_embeddings": 8192, "dtype": "bfloat16", "model_type": "llama"}  # fmt: skip
    target = read_architecture({**shape, "num_hidden_layers": 4})
    draft = read_architecture({**shape, "num_hidden_layers": 1})
    serving = Serving(1000, engine="sglang", pp=2, speculative_tokens=4)
    found = cache(served_with(target, Drafter(draft, ()), serving), serving)
    row = 2 * 4 * 64 * 2
    assert found.stage_bytes == (2 * 1000 * row, 3 * 1000 * row)


def test_requests_that_a_draft_is_served_for_size_the_pools_with_the_radix_cache_off() -> None:
    """48 of them where nobody says, as SGLang 0.5.23's own code answers: states of Qwen3-Next, windows of gpt-oss-20b."""
    off = {"engine": "sglang", "page_size": 1, "enable_prefix_caching": False, "speculative_tokens": 4}
    memory = int(23.7 * 2**30)
    serving = Serving(1, **off)  # type: ignore[arg-type]
    arch = architecture("Qwen/Qwen3-Next-80B-A3B-Instruct")
    assert pool(served_with(arch, Drafter(arch, (), own=True), serving), serving, memory).capacity_tokens == 265_188
    # 47,489 tokens: 48 × (window 127 + 4 × 128 until eviction + 1 page + 2 × 4 drafted) + 2 chunks of 8192 + a page
    assert 48 * (127 + 4 * 128 + 1 + 8) + 2 * 8192 + 1 == 47_489
    assert pool(architecture("openai/gpt-oss-20b"), serving, memory).capacity_tokens == 987_979


def test_pipeline_stages_keep_one_chunk_of_prefill() -> None:
    """What SGLang 0.5.23's own code answers for Gemma 4 31B, an fp8 cache of 17.3 GiB, pages of 16, 128 requests, the radix cache
    off and chunks of 4096: its windowed pool holds 159,632 tokens on one stage, 155,536 on each of three."""
    arch = architecture("nvidia/Gemma-4-31B-IT-NVFP4")
    for pp, tokens in ((1, 217_712), (3, 3_290_800)):
        serving = Serving(
            4096, engine="sglang", tp=4, pp=pp, page_size=16, kv_dtype="fp8", enable_prefix_caching=False, max_num_seqs=128,
            max_num_batched_tokens=4096, compute_capability=80,
        )  # fmt: skip
        assert pool(arch, serving, int(17.3 * 2**30)).capacity_tokens == tokens
