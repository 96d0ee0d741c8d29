"""Recurrent states in vLLM: how many a request holds, and what drafted tokens add to each."""

from __future__ import annotations

import pytest
from example_architectures import build, one

from hfmem.memory.engines.vllm.states import request_states, state_bytes
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
