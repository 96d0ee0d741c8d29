"""Recurrent states in vLLM: how many a request holds, and what drafted tokens add to each."""

from __future__ import annotations

from typing import Any

import pytest
from drafting_models import architecture
from example_architectures import build, one

from hfmem.memory.engines.vllm import layout
from hfmem.memory.engines.vllm import pool as vllm_pool
from hfmem.memory.engines.vllm.states import request_states, state_bytes
from hfmem.memory.serving import Serving
from hfmem.model.layers import DeltaNetState, KimiDeltaState, Mamba2State, RecurrentCache, ShortConvState


@pytest.mark.parametrize(
    ("state", "capability", "states"),
    [
        (KimiDeltaState(32, 128, 128, 4, bounded_gate=True), 90, 3),
        (KimiDeltaState(32, 128, 128, 4, bounded_gate=True), 80, 2),
        (KimiDeltaState(32, 128, 128, 4), 90, 2),
        (KimiDeltaState(32, 64, 64, 4, bounded_gate=True), 90, 2),
    ],
)
def test_checkpoints_of_kimis_prefill(state: KimiDeltaState, capability: int, states: int) -> None:
    """FlashKDA, on Hopper and later, exports one beside the last two where gates are bounded and heads are 128 wide."""
    assert request_states(state, build("kimi_linear", one(state, 1)), capability) == states


@pytest.mark.parametrize(
    ("state", "channels"),
    [
        (Mamba2State(64, 64, 128, 8, 4), 64 * 64 + 2 * 8 * 128),
        (DeltaNetState(16, 32, 128, 128, 4), 2 * 16 * 128 + 32 * 128),
        (KimiDeltaState(32, 128, 128, 4), 3 * 32 * 128),
        (ShortConvState(2048, 3), 2048),
    ],
)
def test_convolutions_keep_the_columns_of_drafted_tokens(state: RecurrentCache, channels: int) -> None:
    """`mamba_utils.py`: `conv_kernel - 1 + num_spec` columns, in 16 bits here."""
    arch = build("qwen3_next", one(state, 1))
    plain, drafting = (state_bytes(state, arch, "BF16", 1, None, ahead=ahead) for ahead in (0, 3))
    assert drafting - plain == 3 * channels * 2


@pytest.mark.parametrize(
    ("settings", "block", "block_bytes", "pool"),
    [
        ({}, 4352, 50_620_416, (848, 1_323_203)),
        ({"kv_dtype": "fp8"}, 8576, 51_414_528, (835, 1_609_487)),
        ({"tp": 4}, 1152, 13_415_424, (3201, 2_497_389)),
        ({"tp": 2, "kv_dtype": "fp8"}, 4352, 26_104_320, (1645, 2_566_826)),
    ],
)
def test_glm_5_next(settings: dict[str, Any], block: int, block_bytes: int, pool: tuple[int, int]) -> None:
    """GLM-5.3-Flash at 32,768 tokens and 40 GiB, as vLLM 0.33's own planner answered on a machine without a GPU."""
    arch = architecture("zai-org/GLM-5.3-Flash")
    serving = Serving(32_768, **settings)
    found = layout(arch, serving)
    assert (found.plan.block_size, found.stage_block_bytes) == (block, (block_bytes,))
    held = vllm_pool(arch, serving, 40 << 30)
    assert (held.num_pages, held.capacity_tokens) == pool
