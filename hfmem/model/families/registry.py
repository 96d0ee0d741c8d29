"""Which rule reads which model_type. One line an entry: `model_type: "module:function"`; modules load when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final, Literal, Protocol, cast

from hfmem.errors import UnknownArchitectureError, UsageError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.config import Config, in_transformers
from hfmem.model.families.file_types import BY_FILES
from hfmem.model.families.multimodal_types import MULTIMODAL
from hfmem.model.families.text_types import TEXT
from hfmem.records import replace


class Family(Protocol):
    """A family's rule: the whole config in, the architecture out."""

    def __call__(self, cfg: Config, /) -> Architecture: ...


#: model_type as config.json spells it → the rule, in `hfmem.model.families`
FAMILIES: Final[dict[str, str]] = {
    **BY_FILES,
    **MULTIMODAL,
    **TEXT,
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
    "youtu": "deepseek:youtu",
    "qwen2_vl": "qwen_vl:qwen2_vl",
    "qwen2_vl_text": "llama:qwen2",
    "qwen2_5_vl": "qwen_vl:qwen2_5_vl",
    "qwen2_5_vl_text": "llama:qwen2",
    "qwen3_vl": "qwen_vl:qwen3_vl",
    "qwen3_vl_text": "llama:qwen3",
    "qwen3_vl_moe": "qwen_vl:qwen3_vl",
    "qwen3_vl_moe_text": "qwen_vl:qwen3_vl_moe_text",
    "glm4v": "glm_vl:glm4v",
    "glm4v_text": "glm_vl:glm4v_text",
    "glm4v_moe": "glm_vl:glm4v",
    "glm4v_moe_text": "glm_vl:glm4v_moe_text",
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
    "nemotron": "dense_ungated:nemotron",
    "arcee": "dense_ungated:arcee",
    "jais2": "dense_ungated:jais2",
    "apertus": "dense_ungated:apertus",
    "helium": "dense:helium",
    "ernie4_5": "dense:ernie4_5",
    "hunyuan_v1_dense": "dense:hunyuan_dense",
    "bitnet": "dense_experimental:bitnet",
    "nanochat": "dense_ungated:nanochat",
    "diffllama": "dense_experimental:diffllama",
    "doge": "dense_experimental:doge",
    "modernbert-decoder": "dense_experimental:modernbert_decoder",
    "qwen3_next": "qwen_hybrid:qwen3_next",
    "qwen3_5": "qwen_hybrid:qwen3_5",
    "qwen3_5_moe": "qwen_hybrid:qwen3_5",
    "qwen3_5_text": "qwen_hybrid:qwen3_5_text",
    "qwen3_5_moe_text": "qwen_hybrid:qwen3_5_text",
    "nemotron_h": "nemotron_h:nemotron_h",
    "zamba": "zamba:zamba",
    "zamba2": "zamba:zamba2",
    "gemma": "gemma:gemma",
    "gemma2": "gemma:gemma2",
    "gemma3_text": "gemma:gemma3_text",
    "vaultgemma": "gemma:vaultgemma",
    "gpt2": "gpt:gpt2",
    "openai-gpt": "gpt:openai_gpt",
    "ctrl": "gpt:ctrl",
    "gptj": "gpt:gptj",
    "codegen": "gpt:codegen",
    "gpt_neo": "gpt:gpt_neo",
    "gpt_neox": "gpt:gpt_neox",
    "gpt_neox_japanese": "gpt:gpt_neox_japanese",
    "gpt_bigcode": "gpt:gpt_bigcode",
    "opt": "classic:opt",
    "bloom": "classic:bloom",
    "mpt": "classic:mpt",
    "falcon": "classic:falcon",
    "RefinedWeb": "classic:refined_web",
    "RefinedWebModel": "classic:refined_web_model",
    "phi": "classic:phi",
    "phi-msft": "classic:phi_msft",
    "mixformer-sequential": "classic:mixformer",
    "stablelm": "classic:stablelm",
    "stablelm_epoch": "classic:stablelm_epoch",
    "persimmon": "classic:persimmon",
    "starcoder2": "classic:starcoder2",
    "xglm": "classic:xglm",
    "biogpt": "classic:biogpt",
    "t5": "t5:t5",
    "mt5": "t5:t5",
    "umt5": "t5:t5",
    "longt5": "t5:t5",
    "switch_transformers": "t5:t5",
    "mixtral": "moe:mixtral",
    "phimoe": "moe:phimoe",
    "qwen2_moe": "moe:qwen2_moe",
    "qwen3_moe": "moe:qwen3_moe",
    "olmoe": "moe:olmoe",
    "flex_olmo": "moe:flex_olmo",
    "dots1": "moe_shared:dots1",
    "solar_open": "moe_shared:solar_open",
    "exaone_moe": "moe_shared:exaone_moe",
    "hy_v3": "moe_shared:hy_v3",
    "ernie4_5_moe": "moe:ernie_moe",
    "hunyuan_v1_moe": "moe:hunyuan_moe",
    "afmoe": "moe_shared:afmoe",
    "laguna": "moe_shared:laguna",
    "cohere2_moe": "moe_shared:cohere2_moe",
    "mellum": "moe_shared:mellum",
    "gpt_oss": "moe_stacked:gpt_oss",
    "granitemoe": "moe_stacked:granitemoe",
    "granitemoeshared": "moe_stacked:granitemoeshared",
    "granitemoe_swa": "moe_stacked:granitemoe_swa",
    "dbrx": "moe_stacked:dbrx",
    "jetmoe": "moe_stacked:jetmoe",
    "deepseek_v4": "deepseek_v4:deepseek_v4",
    "deepseek_ref": "deepseek_v4:deepseek_v4",
    "deepseek_v41": "deepseek_v41:deepseek_v41",
    "deepseek_v41_text": "deepseek_v41:deepseek_v41_text",
    "bart": "bart:bart",
    "mbart": "bart:bart",
    "plbart": "bart:bart",
    "pegasus": "bart:bart",
    "m2m_100": "bart:bart",
    "marian": "bart:bart",
    "blenderbot": "bart:bart",
    "blenderbot-small": "bart:bart",
    "whisper": "bart:whisper",
    "kimi_k25": "kimi:kimi_k25",
    "kimi_k3": "kimi:kimi_k3",
    "kimi_linear": "kimi:kimi_linear",
    "minimax": "minimax:minimax",
    "minimax_m1": "minimax:minimax",
    "minimax_text_01": "minimax:minimax",
    "minimax_m2": "minimax:minimax_m2",
    "minimax_m3": "minimax:minimax_m3",
    "minimax_m3_vl": "minimax:minimax_m3",
    "minimax_m3_vl_text": "minimax:minimax_m3_text",
    "qwen": "remote:qwen",
    "chatglm": "remote:chatglm",
    "baichuan": "remote:baichuan",
    "internlm": "remote:internlm",
    "internlm2": "remote:internlm2",
    "minicpm": "remote:minicpm",
    "exaone": "remote:exaone",
    "orion": "remote:orion",
    "Yi": "remote:yi",
    "PanguEmbedded": "remote:pangu",
    "phi3small": "remote:phi3small",
    "aquila": "remote:plain_llama",
    "xverse": "remote:plain_llama",
    "skywork": "remote:plain_llama",
    "nemotron-nas": "nas:nemotron_nas",
    "deci": "nas:deci",
    "mimo": "mimo:mimo",
    "mimo_v2_flash": "mimo:mimo_v2",
    "longcat_flash": "longcat:longcat_flash",
    "glm4_moe": "glm_moe:glm4_moe",
    "bert": "encoders:bert",
    "roberta": "encoders:bert",
    "xlm-roberta": "encoders:bert",
    "camembert": "encoders:bert",
    "electra": "encoders:bert",
    "mpnet": "encoders:bert",
    "mra": "encoders:bert",
    "deberta-v2": "encoders:bert",
    "axk2": "latent_gated:axk2",
    "mistral_large4": "mistral_large4:mistral_large4",
    "mistral_large4_text": "mistral_large4:mistral_large4_text",
    "gemma3": "gemma_mm:gemma3",
    "gemma3n": "gemma_mm:gemma3n",
    "gemma3n_text": "gemma4:gemma3n_text",
    "gemma4": "gemma_mm:gemma4",
    "gemma4_text": "gemma4:gemma4_text",
    "muse_glimmer": "muse:muse_glimmer",
    "muse_glimmer_text": "muse:muse_glimmer_text",
    "muse_spark": "muse:muse_spark",
    "muse_spark_text": "muse:muse_spark_text",
    "step3p5": "step:step3p5",
    "step3p7": "step:step3p7",
    "step3_text": "step:step3_text",
    "step3_vl": "step:step3_vl",
    "llama4": "llama4:llama4",
    "llama4_text": "llama4:llama4_text",
    "mllama": "llama4:mllama",
    "mllama_text_model": "llama4:mllama_text",
    "zaya": "zaya:zaya",
    "recurrent_gemma": "recurrent:recurrent_gemma",
    "rwkv": "recurrent:rwkv",
    "olmo_hybrid": "recurrent:olmo_hybrid",
    "inkling_text": "inkling:inkling_text",
    "kolibri1": "moe_windowed:kolibri1",
    "flint": "moe_windowed:flint",
    "beam": "moe_windowed:beam",
    "hy_v4": "latent_gated:hy_v4",
    "bailing_hybrid": "bailing:bailing_hybrid",
    "qwen2_audio": "audio:qwen2_audio",
    "voxtral": "audio:voxtral",
    "qwen3_asr": "audio:qwen3_asr",
    "qwen3_asr_text": "llama:qwen3",
    "moonshine": "audio:moonshine",
    "fuyu": "patches:fuyu",
    "minicpmv4_6": "patches:minicpmv4_6",
    "phi4_multimodal": "patches:phi4_multimodal",
    "florence2": "patches:florence2",
    "gpt-sw3": "gpt:gpt_sw3",
    "cohere_compass_text": "dense:cohere_compass",
    "distilbert": "encoders_small:distilbert",
    "albert": "encoders_small:albert",
    "modernbert": "encoders_rotary:modernbert",
    "nomic_bert": "encoders_rotary:nomic_bert",
    "clip": "clip:clip",
    "siglip": "clip:siglip",
    "clip_vision_model": "clip:vision_model",
    "siglip_vision_model": "clip:vision_model",
    "deepseek": "remote_moe:deepseek",
    "bailing_moe": "bailing_moe:bailing_moe",
    "bailing_moe_v2": "bailing_moe:bailing_moe",
    "openelm": "remote_gpt:openelm",
    "arctic": "remote_moe:arctic",
    "jais": "remote_gpt:jais",
    "telechat": "remote_gpt:telechat",
    "minicpmv": "minicpmv:minicpmv",
    "llama3v": "minicpmv:llama3v",
    "internvl_chat": "internvl_chat:internvl_chat",
    "locateanything": "internvl_chat:locateanything",
    "videollama3_qwen2": "vila:videollama3_qwen2",
    "llava_llama": "vila:llava_llama",
    "phi3_v": "phi3_vision:phi3_v",
    "nvembed": "nvembed:nvembed",
    "molmo": "molmo:molmo",
    "fish_qwen3_omni": "fish_audio:fish_qwen3_omni",
    "deepseek_vl_v2": "deepseek_ocr:deepseek_vl2",
    "hunyuan": "remote_moe:hunyuan",
    "hf_olmo": "remote_gpt:hf_olmo",
    "solar": "remote:plain_llama",
    "qwen4_exp": "qwen4:qwen4_exp",
    "qwen4_exp_text": "qwen4:qwen4_exp_text",
    "plamo2": "plamo:plamo2",
    "rwkv5": "rwkv:rwkv5",
    "rwkv6": "rwkv:rwkv6",
    "glm5_next": "glm5_next:glm5_next",
    "glm5_next_text": "glm5_next:glm5_next_text",
    "qwen2_5_omni": "omni:qwen2_5_omni",
    "qwen2_5_omni_thinker": "omni:qwen2_5_omni_thinker",
    "qwen2_5_omni_text": "llama:qwen2",
    "lfm3": "lfm3:lfm3",
    "falcon_perception": "falcon_perception:falcon_perception",
    "seamless_m4t_v2": "seamless:seamless_m4t",
    "qwen3_omni_moe": "omni3:qwen3_omni_moe",
    "qwen3_omni_moe_text": "moe:qwen3_moe",
    "kimi_vl": "kimi:kimi_vl",
    "lfm2_vl": "lfm2_vl:lfm2_vl",
    "rwkv7": "rwkv:rwkv7",
    "rwkv7_fla": "rwkv:rwkv7",
    "csm": "csm:csm",
    "mamba_ssm": "mamba:mamba_ssm",
    "glm46v": "glm_vl:glm4v",
    "ovis2": "ovis:ovis2",
    "got_ocr2": "got_ocr:got_ocr2",
    "vit": "image_encoders:vit",
    "dinov2": "image_encoders:vit",
    "llava_mistral": "llava:llava_flat",
    "llava_qwen": "llava:llava_flat",
}


def rule(model_type: str) -> Family:
    """The rule registered under `model_type`. Raises KeyError."""
    module, _, function = FAMILIES[model_type].partition(":")
    return cast(Family, getattr(import_module(f"hfmem.model.families.{module}"), function))


def read_architecture(data: Mapping[str, Any], file: str = "config.json", assume: str | None = None) -> Architecture:
    """Derive a model's architecture from its parsed config.json.

    Args:
        data: the config's JSON object.
        file: what messages call it.
        assume: read the config as this model_type whatever it says (`--assume`); the result says so.

    Raises:
        UsageError: `assume` is no type that has a rule. UnknownArchitectureError: no rule for this model_type.
        MissingKeyError, ContradictionError: the family's rule found a key absent or impossible.
    """
    published = data.get("model_type")
    model_type = published if isinstance(published, str) else ""
    if not model_type:
        from hfmem.model.nearest import class_family  # a config that says nothing is rare

        model_type = class_family(data, FAMILIES) or ""
    if assume is not None and assume not in FAMILIES:
        import difflib

        near = difflib.get_close_matches(assume, FAMILIES, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(f"--assume {assume[:80]}: no such architecture{hint}")
    wanted = assume or model_type
    if wanted not in FAMILIES:
        raise UnknownArchitectureError(_refusal(data, file, wanted))
    architecture = rule(wanted)(Config(data, file, model_type=wanted))
    notes = architecture.notes
    if assume is not None and assume != model_type:
        notes = (*notes, _assumption(data, file, model_type, assume))
    return replace(
        architecture,
        assumed=assume if assume != model_type else None,
        dtype_given=names_dtype(data),
        notes=notes,
        code=_code(data, wanted),
    )


def _code(data: Mapping[str, Any], model_type: str) -> Literal["transformers", "remote", "elsewhere"]:
    if in_transformers(model_type):
        return "transformers"
    from hfmem.model.nearest import class_family  # types of a repository's own are few

    by_class = class_family(data, FAMILIES)  # Kimi K2 has a type of its own and DeepSeek-V3's class
    if by_class is not None and in_transformers(by_class):
        return "transformers"
    return "remote" if isinstance(data.get("auto_map"), Mapping) else "elsewhere"


def _refusal(data: Mapping[str, Any], file: str, model_type: str) -> str:
    """`config.json: model_type "foo9" is not known; nearest: llama (differs in: attn_mix). --assume llama to go on`."""
    from hfmem.model.nearest import nearest_family  # for refusals only

    near = nearest_family(data, model_type, [name for name in FAMILIES if name not in BY_FILES])
    hint = ""
    if near is not None:
        differs = f" (differs in: {near.differences})" if near.differences else " (same keys)"
        hint = f"; nearest: {near.model_type}{differs}. --assume {near.model_type} to go on"
    if not model_type:
        return f"{file}: neither 'model_type' nor 'architectures' says what this model is{hint}"
    return f'{file}: model_type "{model_type[:80]}" is not known{hint}'


def _assumption(data: Mapping[str, Any], file: str, model_type: str, assumed: str) -> Note:
    from hfmem.model.nearest import family_keys, relevant_keys

    known = family_keys(assumed)
    unknown = sorted(relevant_keys(data) - known) if known else []
    ignored = f"; keys without a meaning there: {', '.join(unknown[:8])}" if unknown else ""
    what = f'model_type "{model_type[:80]}"' if model_type else "a config without model_type"
    return Note("assumed_architecture", f"{file}: {what} is read as {assumed}, as told (--assume){ignored}")


def names_dtype(data: Mapping[str, Any]) -> bool:
    """Whether the config, or the part of it that describes the text model, names the dtype it was saved in."""
    if any(isinstance(data.get(key), str) and data[key] != "auto" for key in ("dtype", "torch_dtype")):
        return True
    texts = (
        data.get(key)
        for key in ("text_config", "llm_config", "language_config", "thinker_config", "llm_cfg", "decoder")
    )
    return any(names_dtype(part) for part in texts if isinstance(part, Mapping))
