"""Small random models of every decoder class, built by transformers itself: the same parameters, the same names, the same windows.

Runs where transformers 5 and torch are installed (they are not needed to use the package). Each class is built on the meta device
from a config drawn at random; its parameters, tensor names and dynamic cache layers are compared with the family's rule.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
from typing import Any

import pytest

transformers = pytest.importorskip("transformers", minversion="5.23", exc_type=ImportError)
torch = pytest.importorskip("torch")

from hfmem.model.architecture import Architecture  # noqa: E402
from hfmem.model.families.registry import FAMILIES, read_architecture  # noqa: E402
from hfmem.model.layers import SlidingAttention  # noqa: E402

MODULES = frozenset(
    (
        *("llama", "dense", "dense_ungated", "dense_experimental", "gemma", "gpt", "classic"),
        *("moe", "moe_shared", "moe_stacked", "moe_windowed", "inkling"),
    )
)  # the rules of text decoders with ordinary attention

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
}
#: the first of these fields that a class has stands for the common name
SPELLINGS = {
    "hidden_size": ("n_embd", "d_model"),
    "num_attention_heads": ("n_head", "n_heads", "attention_heads", "num_heads"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
}
#: classes whose own code cannot be built from a drawn config, and why
UNBUILDABLE = {
    "dbrx": "its nested attention config lacks the rope theta that the class reads",
    "cohere_compass_text": "its class defaults to a rope table without full_attention",
    "helium": "its output projection is square whatever the heads say; the rule refuses the contradiction",
    "internlm3": "it refuses attention_bias and mlp_bias that differ",
}


def decoder_types() -> list[str]:
    known = transformers.CONFIG_MAPPING
    causal = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return sorted(t for t, rule in FAMILIES.items() if rule.split(":")[0] in MODULES and t in known and t in causal)


def draw(model_type: str, seed: int) -> dict[str, Any]:
    rng = random.Random(f"{model_type} {seed}")
    fields = {field.name for field in dataclasses.fields(transformers.CONFIG_MAPPING[model_type])}
    keys: dict[str, Any] = {}
    for name, values in CHOICES.items():
        spelled = name if name in fields else next((s for s in SPELLINGS.get(name, ()) if s in fields), None)
        if spelled is not None:
            keys[spelled] = rng.choice(values)
    if model_type == "gpt_neo":
        keys |= {"num_layers": 6, "attention_types": [[["global", "local"], 3]]}
    return keys


def built(model_type: str, keys: dict[str, Any]) -> tuple[int, set[str], list[int | None] | None]:
    """Parameters with shared storage once, tensor names, and each layer's window in the dynamic cache."""
    config = transformers.CONFIG_MAPPING[model_type](**keys)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    once = {id(p): p.numel() for p in model.parameters()}
    cache = transformers.DynamicCache(config=config)
    windows = [getattr(layer, "sliding_window", None) for layer in cache.layers]
    return sum(once.values()), set(model.state_dict()), windows


#: published names → the names of transformers' own modules, as its conversion table has them
RENAMED = {
    "embed_out": "lm_head",
    "softmax_offset": "sinks",
    "post_attn_norm": "post_self_attn_layernorm",
    "post_ffn_norm": "post_mlp_layernorm",
}


def comparable(name: str) -> str:
    """A name without what differs by design between published files and transformers' modules: roots, names, experts' layout."""
    name = re.sub(r"^(model|transformer|gpt_neox|biogpt)\.", "", name)
    name = re.sub(r"(block_sparse_moe|mlp|moe)\..*", "mlp", name)
    for published, own in RENAMED.items():
        name = name.replace(published, own)
    return name


def expected_names(arch: Architecture) -> tuple[set[str], set[str]]:
    """Names that must be there, and all names that may be."""
    needed: set[str] = set()
    allowed: set[str] = set()
    for spec in arch.tensors:
        for box in spec.boxes:
            for indices in itertools.product(*box):
                name = comparable(spec.pattern.format(*indices))
                allowed.add(name)
                if not spec.optional:
                    needed.add(name)
    return needed, allowed


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("model_type", decoder_types())
def test_a_drawn_model(model_type: str, seed: int) -> None:
    if model_type in UNBUILDABLE:
        pytest.skip(UNBUILDABLE[model_type])
    keys = draw(model_type, seed)
    parameters, names, windows = built(model_type, keys)
    arch = read_architecture({"model_type": model_type, **keys})
    mtp = sum(s.count * s.elements for s in arch.tensors if s.component == "mtp")
    assert arch.expected_parameters() - mtp == parameters
    needed, allowed = expected_names(arch)
    held = {comparable(name) for name in names}
    assert needed <= held <= allowed
    if model_type != "gpt_neo":  # whose class masks local layers and caches them whole
        kinds = [layer.caches[0] for layer in arch.layers]
        assert [k.window if isinstance(k, SlidingAttention) else None for k in kinds] == windows
