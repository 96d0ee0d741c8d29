"""Which rule reads which model_type. One line an entry: `model_type: "module:function"`; modules load when asked for."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Final, Protocol, cast

from hfmem.errors import UnknownArchitectureError
from hfmem.model.architecture import Architecture
from hfmem.model.config import Config


class Family(Protocol):
    """A family's rule: the whole config in, the architecture out."""

    def __call__(self, cfg: Config, /) -> Architecture: ...


#: model_type as config.json spells it → the rule, in `hfmem.model.families`
FAMILIES: Final[dict[str, str]] = {
    "llama": "llama:llama",
    "mistral": "llama:mistral",
    "qwen2": "llama:qwen2",
    "qwen3": "llama:qwen3",
    "deepseek_v2": "deepseek:deepseek_v2",
    "deepseek_v3": "deepseek:deepseek_v3",
    "deepseek_v32": "deepseek:deepseek_v32",
    "kimi_k2": "deepseek:kimi_k2",
    "glm_moe_dsa": "deepseek:glm_moe_dsa",
    "glm4_moe_lite": "deepseek:glm4_moe_lite",
    "axk1": "deepseek:axk1",
    "mistral4": "deepseek:mistral4",
    "minicpm3": "deepseek:minicpm3",
    "qwen2_vl": "qwen_vl:qwen2_vl",
    "qwen2_vl_text": "llama:qwen2",
    "qwen2_5_vl": "qwen_vl:qwen2_5_vl",
    "qwen2_5_vl_text": "llama:qwen2",
    "qwen3_vl": "qwen_vl:qwen3_vl",
    "qwen3_vl_text": "llama:qwen3",
    "qwen3_vl_moe": "qwen_vl:qwen3_vl",
    "qwen3_vl_moe_text": "qwen_vl:qwen3_vl_moe_text",
    "glm4v": "qwen_vl:glm4v",
    "glm4v_text": "qwen_vl:glm4v_text",
    "glm4v_moe": "qwen_vl:glm4v",
    "glm4v_moe_text": "qwen_vl:glm4v_moe_text",
    "mamba": "mamba:mamba",
    "falcon_mamba": "mamba:falcon_mamba",
    "mamba2": "mamba:mamba2_model",
    "jamba": "hybrid:jamba",
    "bamba": "hybrid:bamba",
    "granitemoehybrid": "hybrid:granitemoehybrid",
    "falcon_h1": "hybrid:falcon_h1",
    "lfm2": "hybrid:lfm2",
    "lfm2_moe": "hybrid:lfm2_moe",
    "llava": "llava:llava",
    "llava_next": "llava:llava",
    "llava_next_video": "llava:llava",
    "llava_onevision": "llava:llava",
    "vipllava": "llava:vipllava",
    "video_llava": "llava:video_llava",
    "paligemma": "llava:paligemma",
    "mistral3": "llava:mistral3",
    "lighton_ocr": "llava:lighton_ocr",
    "pixtral": "llava:pixtral",
    "internvl": "llava:internvl",
    "aya_vision": "llava:aya_vision",
    "cohere2_vision": "llava:cohere2_vision",
    "idefics3": "llava:idefics3",
    "smolvlm": "llava:idefics3",
    "idefics2": "llava:idefics2",
    "ministral": "dense:ministral",
    "ministral3": "dense:ministral3",
    "phi3": "dense:phi3",
    "phi4": "dense:phi4",
    "glm": "dense:glm",
    "glm4": "dense:glm4",
    "cohere": "dense:cohere",
    "cohere2": "dense:cohere2",
    "olmo": "dense:olmo",
    "olmo2": "dense:olmo2",
    "olmo3": "dense:olmo3",
    "smollm3": "dense:smollm3",
    "exaone4": "dense:exaone4",
    "granite": "dense:granite",
    "granite_swa": "dense:granite_swa",
    "hyperclovax": "dense:hyperclovax",
    "seed_oss": "dense:seed_oss",
    "internlm3": "dense:internlm3",
    "iquestcoder": "dense:iquestcoder",
    "cwm": "dense:cwm",
    "nemotron": "dense:nemotron",
    "arcee": "dense:arcee",
    "jais2": "dense:jais2",
    "apertus": "dense:apertus",
    "helium": "dense:helium",
    "ernie4_5": "dense:ernie4_5",
    "hunyuan_v1_dense": "dense:hunyuan_dense",
    "bitnet": "dense:bitnet",
    "nanochat": "dense:nanochat",
    "diffllama": "dense:diffllama",
    "doge": "dense:doge",
    "modernbert-decoder": "dense:modernbert_decoder",
}

#: model_type absent from config.json: the first entry of `architectures` decides
BY_CLASS: Final[dict[str, str]] = {
    "LlamaForCausalLM": "llama",
}


def rule(model_type: str) -> Family:
    """The rule registered under `model_type`. Raises KeyError."""
    module, _, function = FAMILIES[model_type].partition(":")
    return cast(Family, getattr(import_module(f"hfmem.model.families.{module}"), function))


def nearest(model_type: str) -> str | None:
    """The registered model_type spelled most like this one, for messages."""
    found = difflib.get_close_matches(model_type, FAMILIES, n=1, cutoff=0.5)
    return found[0] if found else None


def read_architecture(data: dict[str, object], file: str = "config.json", assume: str | None = None) -> Architecture:
    """Derive a model's architecture from its parsed config.json.

    Args:
        data: the config's JSON object.
        file: what messages call it.
        assume: read the config as this model_type whatever it says (`--assume`); the result says so.

    Raises:
        UnknownArchitectureError: no rule for this model_type.
        MissingKeyError, ContradictionError: the family's rule found a key absent or impossible.
    """
    published = data.get("model_type")
    model_type = published if isinstance(published, str) else ""
    if not model_type:
        classes = data.get("architectures")
        first = classes[0] if isinstance(classes, list) and classes else None
        model_type = BY_CLASS.get(first, "") if isinstance(first, str) else ""
    wanted = assume or model_type
    if wanted not in FAMILIES:
        if not wanted:
            raise UnknownArchitectureError(f"{file}: neither 'model_type' nor 'architectures' says what this model is")
        near = nearest(wanted)
        hint = f"; nearest: {near} (--assume {near} to go on as that)" if near else ""
        raise UnknownArchitectureError(f'{file}: model_type "{wanted[:80]}" is not known{hint}')
    return rule(wanted)(Config(data, file, model_type=wanted))
