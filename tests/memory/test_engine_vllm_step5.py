"""Step 5: parameters and pages of a small model as vLLM 0.33's own class and planner gave them."""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.errors import UnsupportedError
from hfmem.memory.cache import bytes_per_token
from hfmem.memory.engines import engine
from hfmem.memory.engines.vllm import layout
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.expected import synthesise
from hfmem.model.families.registry import read_architecture

CONFIG: dict[str, Any] = {
    "model_type": "step5",
    "architectures": ["Step5ForCausalLM"],
    "dtype": "bfloat16",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 16,
    "swa_num_attention_heads": 24,
    "num_attention_groups": 4,
    "head_dim": 192,
    "num_hidden_layers": 8,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "sliding_attention"] * 2,
    "sliding_window": 512,
    "max_position_embeddings": 131072,
    "vocab_size": 9024,
    "use_moe": True,
    "moe_intermediate_size": 64,
    "moe_num_experts": 8,
    "moe_top_k": 2,
    "moe_layers_enum": "1,2,3,4,5,6,7",
    "share_expert_dim": 128,
    "use_moe_router_bias": True,
    "need_fp32_gate": True,
    "use_head_wise_attn_gate": True,
    "sparse_config": {"enabled": True},
    "num_nextn_predict_layers": 0,
}
#: eight router biases in each of seven layers, which vLLM counts as parameters
BIASES = 7 * 8


@pytest.mark.parametrize(
    ("tp", "kv_dtype", "block", "requests"),
    [
        (1, "auto", 122_880, {512: 16_220_160, 8192: 252_149_760, 32768: 641_433_600}),
        (2, "auto", 61_440, {512: 8_110_080, 8192: 126_074_880, 32768: 320_716_800}),
        (4, "auto", 30_720, {512: 4_055_040, 8192: 63_037_440, 32768: 160_358_400}),
        (1, "fp8", 61_440, {512: 8_110_080, 8192: 126_074_880, 32768: 320_716_800}),
    ],
)
def test_pages(tp: int, kv_dtype: str, block: int, requests: dict[int, int]) -> None:
    arch = read_architecture(CONFIG)
    for context, expected in requests.items():
        serving = Serving(
            context=context, num_seqs=1, engine="vllm", tp=tp, kv_dtype=kv_dtype, max_num_batched_tokens=8192
        )
        assert layout(arch, serving).stage_block_bytes == (block,)
        assert engine("vllm").cache(arch, serving).bytes_per_rank == expected


@pytest.mark.parametrize(("tp", "parameters"), [(1, 63_456_344), (2, 32_011_352), (4, 16_288_856)])
def test_parameters_of_a_rank(tp: int, parameters: int) -> None:
    arch = read_architecture(CONFIG)
    serving = Serving(context=512, num_seqs=1, engine="vllm", tp=tp)
    assert rank_weights(arch, synthesise(arch), serving).parameters == parameters - BIASES


def test_what_a_config_may_leave_out() -> None:
    short = {key: value for key, value in CONFIG.items() if key not in ("moe_layers_enum", "share_expert_dim")}
    arch = read_architecture(short)  # experts from the second layer on; shared ones as wide as those that a token picks
    assert arch.expected_parameters() == 63_456_344 - BIASES
    # the model itself: two full layers of 4 heads, a byte-wide summary of 256 for every eight tokens in each
    assert bytes_per_token(arch) == 2 * (4 * 2 * 192 * 2 + 256 // 8)


@pytest.mark.parametrize("name", ["sglang", "llama.cpp"])
def test_engines_without_it(name: str) -> None:
    with pytest.raises(UnsupportedError, match="step5"):
        engine(name).cache(read_architecture(CONFIG), Serving(context=512, num_seqs=1, engine=name))


def test_devices_and_pages_that_its_kernels_take() -> None:
    arch = read_architecture(CONFIG)
    with pytest.raises(UnsupportedError, match=r"9\.0, 10\.0 and 10\.3"):
        layout(arch, Serving(context=512, num_seqs=1, engine="vllm", compute_capability=80))
    with pytest.raises(UnsupportedError, match="multiples of 16"):
        layout(arch, Serving(context=512, num_seqs=1, engine="vllm", page_size=24))


def test_the_tower_of_step_3_7() -> None:
    tower = {
        "width": 64,
        "layers": 2,
        "heads": 4,
        "mlp_ratio": 2.0,
        "image_size": 56,
        "patch_size": 14,
        "num_channels": 3,
    }
    config = {"model_type": "step5_vl", "dtype": "bfloat16", "text_config": CONFIG, "vision_config": tower}
    arch = read_architecture(config)
    block = 4 * 64 * 64 + 4 * 64 + 2 * 64 * 128 + 128 + 64 + 4 * 64 + 2 * 64
    seen = 64 * 3 * 14 * 14 + 16 * 64 + 2 * 64 + 2 * block + 9 * (64 * 128 + 128 * 256) + 128 + 256 + 256 * 512
    assert arch.expected_parameters() == 63_456_344 - BIASES + seen
