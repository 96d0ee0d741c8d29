"""Small random models of decoder classes, run by transformers itself: the bytes of their caches after a prompt and some steps.

Runs where transformers 5 and torch are installed. What a class holds is summed over the tensors of its cache's layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from drawn_models import decoder_types, draw

transformers = pytest.importorskip("transformers", minversion="5.24", exc_type=ImportError)
torch = pytest.importorskip("torch")

from hfmem.memory.engines import engine  # noqa: E402
from hfmem.memory.serving import Serving  # noqa: E402
from hfmem.model.families.registry import read_architecture  # noqa: E402

MODULES = frozenset(
    (
        *("llama", "dense", "dense_ungated", "dense_experimental", "gemma", "gpt", "classic"),
        *("moe", "moe_shared", "moe_stacked", "moe_windowed", "inkling"),
        *("deepseek", "glm_moe", "qwen_hybrid"),
    )
)
#: classes whose drawn configs their own code does not build or run, and why
UNRUN = {
    "cohere_compass_text": "its class defaults to a rope table without full_attention",
    "falcon": "its forward fails where the draw's flags ask for norms that its layers do not build",
    "openai-gpt": "it has no cache",
    "helium": "its output projection is square whatever the heads say; the rule refuses the contradiction",
    "internlm3": "it refuses attention_bias and mlp_bias that differ",
    "dbrx": "its nested attention config lacks the rope theta that the class reads",
}


def tensors(value: Any) -> Iterator[Any]:
    """Tensors of a cache's layer that hold tokens or states: counters and window positions are integers."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("model_type", decoder_types(transformers, MODULES))
def test_a_drawn_models_cache(model_type: str, seed: int) -> None:
    if model_type in UNRUN:
        pytest.skip(UNRUN[model_type])
    keys = draw(transformers, model_type, seed)
    config = transformers.CONFIG_MAPPING[model_type](**keys)
    with torch.device("meta"):
        size = transformers.AutoModelForCausalLM.from_config(config).num_parameters()
    if size > 20_000_000:
        pytest.skip(f"its class's own sizes make {size:,} parameters of the draw")
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    prompt, steps = (9, 2) if seed else (3, 1)  # below and above the windows that are drawn
    torch.set_num_threads(1)
    with torch.no_grad():
        out = model(input_ids=torch.full((1, prompt), 5), use_cache=True)
        for _ in range(steps):
            out = model(input_ids=torch.full((1, 1), 5), use_cache=True, cache=out.cache)
    held = sum(t.numel() * t.element_size() for layer in out.cache.layers for t in tensors(vars(layer)))
    arch = read_architecture({"model_type": model_type, **keys, "dtype": "float32"})
    serving = Serving(context=prompt + steps, engine="transformers")
    assert engine("transformers").cache(arch, serving).bytes == held
