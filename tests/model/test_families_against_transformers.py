"""Small random models of every decoder class, built by transformers itself: the same parameters, the same names, the same windows.

Runs where transformers 5 and torch are installed (they are not needed to use the package). Each class is built on the meta device
from a config drawn at random; its parameters, tensor names and dynamic cache layers are compared with the family's rule.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from drawn_models import decoder_types, draw

transformers = pytest.importorskip("transformers", minversion="5.24", exc_type=ImportError)
torch = pytest.importorskip("torch")

from hfmem.model.architecture import Architecture  # noqa: E402
from hfmem.model.families.registry import read_architecture  # noqa: E402
from hfmem.model.layers import SlidingAttention  # noqa: E402

MODULES = frozenset(
    (
        *("llama", "dense", "dense_ungated", "dense_experimental", "gemma", "gpt", "classic"),
        *("moe", "moe_shared", "moe_stacked", "moe_windowed", "inkling"),
    )
)  # the rules of text decoders with ordinary attention

#: classes whose own code cannot be built from a drawn config, and why
UNBUILDABLE = {
    "dbrx": "its nested attention config lacks the rope theta that the class reads",
    "cohere_compass_text": "its class defaults to a rope table without full_attention",
    "helium": "its output projection is square whatever the heads say; the rule refuses the contradiction",
    "internlm3": "it refuses attention_bias and mlp_bias that differ",
}


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
@pytest.mark.parametrize("model_type", decoder_types(transformers, MODULES))
def test_a_drawn_model(model_type: str, seed: int) -> None:
    if model_type in UNBUILDABLE:
        pytest.skip(UNBUILDABLE[model_type])
    keys = draw(transformers, model_type, seed)
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
