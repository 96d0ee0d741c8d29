"""The room that vLLM keeps for adapters (`lora/layers` of vLLM 0.33.0): A and B at every linear layer, by hand for the small Llama.

At a linear layer A and B have rank × (inputs + outputs) elements of 2 bytes, at the embedding and the head rank × (words + hidden).
"""

from __future__ import annotations

from typing import Any

from small_llama import LLAMA

from hfmem.memory.lora import reserved_bytes
from hfmem.memory.serving import Serving
from hfmem.model.families.registry import read_architecture

RANK = 16
#: q, k, v, o, gate, up, down of one layer
LAYER = (64 + 64) + 2 * (64 + 32) + (64 + 64) + 3 * (64 + 128)
TABLE = 100 + 64


def room(serving: Serving, max_loras: int = 1, modules: frozenset[str] | None = None, **keys: Any) -> int:
    return reserved_bytes(read_architecture({**LLAMA, **keys}), serving, RANK, max_loras, modules)


def test_embedding_and_head_have_a_table_each_unless_they_are_one() -> None:
    assert room(Serving(64)) == RANK * 2 * (2 * LAYER + 2 * TABLE)
    assert room(Serving(64), tie_word_embeddings=True) == RANK * 2 * (2 * LAYER + TABLE)
    assert room(Serving(64), 3) == 3 * room(Serving(64))


def test_a_stage_has_its_own_layers_and_one_table() -> None:
    """The embedding is on the first stage, the head on the last, tied or not; three layers on two stages are two and one."""
    for tied in (True, False):
        assert room(Serving(64, pp=2), tie_word_embeddings=tied) == RANK * 2 * (LAYER + TABLE)
        three = room(Serving(64, pp=2), tie_word_embeddings=tied, num_hidden_layers=3)
        assert three == RANK * 2 * (2 * LAYER + TABLE)


def test_modules_that_an_adapter_names() -> None:
    assert room(Serving(64), modules=frozenset({"q_proj", "v_proj"})) == RANK * 2 * 2 * ((64 + 64) + (64 + 32))
