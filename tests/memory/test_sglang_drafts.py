"""Prediction layers beside their model in SGLang's pool, against what SGLang's own code answered.

Run through SGLang 0.5.23 without a GPU: `create_memory_pool_configurator` and `_handle_max_mamba_cache` for an fp8 cache of 40 GiB
with pages of one token, four draft tokens and SGLang's 48 requests.
"""

from __future__ import annotations

import pytest
from drafting_models import EXAONE, MIMO, architecture

from hfmem.memory.drafts import Drafter, served_with
from hfmem.memory.engines.sglang import cache, pool
from hfmem.memory.serving import Serving
from hfmem.model.families.registry import read_architecture


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
        (MIMO | {"architectures": ["MiMoV2FlashForCausalLM"]}, 2, 11_773_484),
    ],
)
def test_tokens_of_a_pool(model: str | dict[str, object], tp: int, tokens: int) -> None:
    arch = architecture(model)
    serving = Serving(1, engine="sglang", tp=tp, page_size=1, kv_dtype="fp8", speculative_tokens=4)
    planned = served_with(arch, Drafter(arch, (), own=True), serving)
    assert pool(planned, serving, 40 << 30).capacity_tokens == tokens


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
