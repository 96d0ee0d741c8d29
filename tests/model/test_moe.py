"""Experts as DeepSeek's keys and those of its successors say them."""

from __future__ import annotations

import pytest

from hfmem.errors import ContradictionError
from hfmem.model.config import Config
from hfmem.model.moe import Experts, read_experts, sparse_layers

BASE = {"n_routed_experts": 64, "num_experts_per_tok": 6, "moe_intermediate_size": 1408, "n_shared_experts": 2}


def config(**keys: object) -> Config:
    return Config({**BASE, **keys}, model_type="")


def test_shared_experts_are_as_wide_as_routed_ones_unless_said() -> None:
    """vLLM 0.33's `bailing_moe_v3.py`: `moe_shared_expert_intermediate_size * num_shared_experts`."""
    assert read_experts(config()) == Experts(64, 6, 1408, 2 * 1408)
    assert read_experts(config(moe_shared_expert_intermediate_size=512)) == Experts(64, 6, 1408, 2 * 512)
    assert read_experts(config(n_shared_experts=None)) == Experts(64, 6, 1408, 0)
    assert read_experts(config(n_routed_experts=None)) is None


@pytest.mark.parametrize(
    ("keys", "sparse"),
    [
        ({"first_k_dense_replace": 1}, [1, 2, 3, 4, 5]),
        ({"first_k_dense_replace": 1, "moe_layer_freq": 2}, [2, 4]),
        ({"moe_layer_freq": [0, 1, 1, 0, 1, 1]}, [1, 2, 4, 5]),
        ({"mlp_layer_types": ["dense", "sparse"] * 3}, [1, 3, 5]),
        ({}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_which_layers_hold_experts(keys: dict[str, object], sparse: list[int]) -> None:
    assert sparse_layers(config(**keys), 6) == sparse


def test_a_list_of_another_length_is_a_contradiction() -> None:
    with pytest.raises(ContradictionError, match="'moe_layer_freq' has 2 entries for 6 layers"):
        sparse_layers(config(moe_layer_freq=[0, 1]), 6)
