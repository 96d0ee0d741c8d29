"""Configs drawn at random, for tests that build the same small model with transformers (not needed to import this)."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Collection
from typing import Any

from hfmem.model.families.registry import FAMILIES

#: what is drawn, where a class has the field
CHOICES: dict[str, list[Any]] = {
    "hidden_size": [64, 128],
    "num_hidden_layers": [3, 6, 9],
    "num_attention_heads": [4, 8],
    "num_key_value_heads": [2, 4],
    "intermediate_size": [48, 96],
    "vocab_size": [100, 200],
    "head_dim": [16, 24],
    "sliding_window": [5, 7],
    "tie_word_embeddings": [True, False],
    "attention_bias": [True, False],
    "mlp_bias": [True, False],
    "use_bias": [True, False],
    "use_qkv_bias": [True, False],
    "qkv_bias": [True, False],
    "lm_head_bias": [True, False],
    "use_qk_norm": [True, False],
    "qk_layernorm": [True, False],
    "use_parallel_residual": [True, False],
    "num_experts": [8, 10],
    "num_local_experts": [8, 10],
    "n_routed_experts": [8, 10],
    "moe_num_experts": [8, 10],
    "num_experts_per_tok": [1, 2],
    "moe_intermediate_size": [16, 32],
    "shared_expert_intermediate_size": [16, 24],
    "shared_intermediate_size": [0, 24],
    "n_shared_experts": [1, 2],
    "num_shared_experts": [1, 2],
    "first_k_dense_replace": [0, 1, 2],
    "decoder_sparse_step": [1, 2],
    "mlp_only_layers": [[], [1]],
    "use_sliding_window": [True, False],
    "max_window_layers": [1, 2],
    "multi_query": [True, False],
    "new_decoder_architecture": [True, False],
    "parallel_attn": [True, False],
    "bias": [True, False],
    "num_kv_heads": [2, 4],
    "num_ln_in_parallel_attn": [None, 1, 2],
    "do_layer_norm_before": [True, False],
    "word_embed_proj_dim": [32, 64],
    "enable_bias": [True, False],
    "num_dense_layers": [0, 2],
    "global_attn_every_n_layers": [2, 3],
    "moe_layer_start_index": [0, 1],
    "moe_layer_interval": [1, 2],
    "is_moe": [True, False],
    "norm_bias": [True, False],
    "sliding_window_pattern": [2, 3],
    "prefix_dense_intermediate_size": [40],
    "pad_token_id": [0],
    "kv_lora_rank": [16, 32],
    "q_lora_rank": [24],
    "qk_nope_head_dim": [16, 24],
    "qk_rope_head_dim": [8, 16],
    "v_head_dim": [16, 24],
    "index_topk": [4],
    "index_head_dim": [16, 32],
    "linear_num_key_heads": [2, 4],
    "linear_num_value_heads": [4, 8],
    "linear_key_head_dim": [8, 16],
    "linear_value_head_dim": [8, 16],
    "linear_conv_kernel_dim": [3, 4],
    "state_size": [8, 16],
    "ssm_state_size": [8, 16],
    "mamba_d_state": [8, 16],
    "conv_kernel": [3, 4],
    "attn_layer_indices": [[1]],
    "n_group": [1],
    "topk_group": [1],
    "rotary_dim": [8],
}
#: the first of these fields that a class has stands for the common name
SPELLINGS = {
    "hidden_size": ("n_embd", "d_model"),
    "num_attention_heads": ("n_head", "n_heads", "attention_heads", "num_heads"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
}


def decoder_types(transformers: Any, modules: Collection[str]) -> list[str]:
    """The model types with a causal language model whose rule lies in one of `modules`."""
    known = transformers.CONFIG_MAPPING
    causal = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return sorted(t for t, rule in FAMILIES.items() if rule.split(":")[0] in modules and t in known and t in causal)


def draw(transformers: Any, model_type: str, seed: int) -> dict[str, Any]:
    """The keys of a small model of the type, the same for the same seed."""
    rng = random.Random(f"{model_type} {seed}")
    fields = {field.name for field in dataclasses.fields(transformers.CONFIG_MAPPING[model_type])}
    keys: dict[str, Any] = {}
    for name, values in CHOICES.items():
        spelled = name if name in fields else next((s for s in SPELLINGS.get(name, ()) if s in fields), None)
        if spelled is not None:
            keys[spelled] = rng.choice(values)
    if "kv_lora_rank" in keys:
        keys["num_key_value_heads"] = keys["num_attention_heads"]
    if "linear_num_key_heads" in keys:
        keys["num_hidden_layers"] = 6  # every fourth layer is attention, without which its cache has no length
    if model_type == "gpt_neo":
        keys |= {"num_layers": 6, "attention_types": [[["global", "local"], 3]]}
    return keys
