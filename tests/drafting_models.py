"""Models whose own layers predict further tokens: shapes of published ones, made small, and the catalogue's."""

from __future__ import annotations

from typing import Any

from hfmem.api.estimates import read_model
from hfmem.hub import FetchOptions
from hfmem.model.architecture import Architecture
from hfmem.model.families.registry import read_architecture

BASE: dict[str, Any] = {
    "hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8, "vocab_size": 2048, "dtype": "bfloat16",
    "max_position_embeddings": 65536, "tie_word_embeddings": False,
}  # fmt: skip
WINDOWS = ["full_attention", "sliding_attention", "sliding_attention", "sliding_attention"]
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 128}
#: three prediction layers, all windowed, which keep two more tokens where they run one after the other
STEP = {
    **BASE, **EXPERTS, "model_type": "step3p5", "num_hidden_layers": 5, "num_attention_groups": 2, "head_dim": 128,
    "layer_types": WINDOWS * 2, "sliding_window": 512, "num_nextn_predict_layers": 3, "moe_num_experts": 8, "moe_top_k": 2,
    "attention_other_setting": {"attention_type": "sliding_attention", "num_attention_heads": 12, "num_attention_groups": 2,
                                "head_dim": 128},
    "share_expert_dim": 128, "moe_layers_enum": "1,2,3,4", "use_head_wise_attn_gate": True,
}  # fmt: skip
#: the prediction layer has the first layer's window, and 16 bits whatever the cache's format
EXAONE = {
    **BASE, **EXPERTS, "model_type": "exaone_moe", "num_hidden_layers": 8, "num_key_value_heads": 4, "head_dim": 64,
    "num_nextn_predict_layers": 1, "num_experts": 8, "num_shared_experts": 1, "first_k_dense_replace": 1,
    "sliding_window": 128, "sliding_window_pattern": "LLLG", "layer_types": (WINDOWS[1:] + WINDOWS[:1]) * 2,
}  # fmt: skip
#: of three prediction layers the first is loaded
MIMO = {
    **BASE, **EXPERTS, "model_type": "mimo_v2_flash", "num_hidden_layers": 6, "num_key_value_heads": 2, "head_dim": 192,
    "v_head_dim": 128, "swa_num_attention_heads": 8, "swa_num_key_value_heads": 4, "swa_head_dim": 192,
    "swa_v_head_dim": 128, "sliding_window": 128, "sliding_window_size": 128, "hybrid_layer_pattern": [0, 1, 1, 1, 1, 0],
    "num_nextn_predict_layers": 3, "n_routed_experts": 8, "moe_layer_freq": [0, 1, 1, 1, 1, 1],
}  # fmt: skip


def architecture(model: str | dict[str, Any]) -> Architecture:
    if isinstance(model, dict):
        return read_architecture(model)
    return read_model(model, fetch=FetchOptions(offline=True, no_cache=True)).architecture
