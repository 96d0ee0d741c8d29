"""Where vLLM's and SGLang's model classes hold weights otherwise than the tensors on file say.

Facts of classes, by model type: which pipeline stages build the embedding, the head and the last norm; whether the head shares the
embedding's storage; which matrices every rank holds whole. Read from vLLM 0.33.0 `model_executor/models/*.py` and `models/*`, each
class built for three stages and for two ranks and its parameters compared.
"""

from __future__ import annotations

from typing import Final

from hfmem.model.architecture import Architecture
from hfmem.records import dataclass

#: models whose vLLM class keeps the vocabulary as it is (`whisper.py`)
UNPADDED_VOCAB: Final = frozenset({"whisper"})
#: models whose fused projection has a bias for q, k and v together: Whisper, and what hears with its encoder
FUSED_BIAS: Final = frozenset({"whisper", "glmasr", "ultravox", "voxtral"})
#: parts that vLLM and SGLang do not build: they serve the thinker, not the voice
NOT_SERVED: Final = ("talker.", "token2wav.", "code2wav.")
#: FlashMLA's least number of query heads, which DeepSeek V4's sinks are padded to (`get_padded_num_q_heads`)
SINK_HEADS: Final = 64
#: persistent buffers that serving engines register as parameters
BUFFER_PARAMETERS: Final = ("e_score_correction_bias", "gate.bias", "gate.bias_vl", "expert_bias", "tid2eid")

#: n-gram tables, which vLLM keeps in pinned host memory unless told otherwise (`config/engram.py`: `cpu_offload`)
HOSTED: Final = (".engram.embed.", ".ple.ple_embedding.ngram_embedding.")

#: model type → parts of the names of tensors that vLLM's class keeps whole on every rank: towers that run as transformers' modules,
#: and what the Transformers backend finds no plan for (it merges and splits q, k and v by itself)
_WHOLE: Final[dict[str, tuple[str, ...]]] = {
    "gemma3n": ("model.vision_tower.", "model.audio_tower."),
    "gemma4": ("model.vision_tower.", "model.audio_tower."),
    **dict.fromkeys(("inkling_text", "inkling_mm_model"), ("embed_tokens.weight", "llm.embed.weight")),
    "minicpmv4_6": ("model.vision_tower.vit_merger.linear_", "model.merger."),
    "muse_glimmer": ("model.vision_tower.layers.{}.mlp.",),
    "qwen2_5_omni": ("thinker.audio_tower.",),
    "whisper": ("embed_tokens.weight", "proj_out.weight"),
    "biogpt": ("embed_positions.", ".fc1.", ".fc2.", ".out_proj.", ".q_proj."),
    "bitnet": (".mlp.down_proj.",),
    "ctrl": (".multi_head_attention.", ".ffn."),
    "gpt_bigcode": (".mlp.", ".wpe."),
    "jetmoe": (".mlp.", ".self_attention."),
    "minimax_m3_vl_text": (".shared_experts.", ".index_"),
    "modernbert-decoder": (".mlp.",),
    "persimmon": (".mlp.", ".self_attn."),
}

#: the same of vLLM's class alone, where SGLang's is split
_WHOLE_IN_VLLM: Final[dict[str, tuple[str, ...]]] = {"lfm2_vl": ("model.multi_modal_projector.",)}

#: parts outside the layers that stand after the last of them
LAST_PARTS: Final = ("output_attn_res_proj.",)
#: parts outside the layers that every stage of a vLLM class builds (DeepSeek V4's mixing of streams before the head)
_PARTS_EVERYWHERE: Final = ("hc_head_", "hc_head.")
#: types whose vLLM class holds the embedding twice on the first stage: its own, and its text model's (`phi3v.py`)
_TWO_TABLES: Final = frozenset({"phi3_v"})

#: types of which every stage builds the embedding, the head and the last norm
_ALL_EVERYWHERE: Final = frozenset(
    (
        *(
            "bloom",
            "chatglm",
            "cohere",
            "cohere2",
            "cohere2_moe",
            "dbrx",
            "falcon",
            "falcon_mamba",
            "gemma",
            "gemma2",
            "gemma3",
        ),
        *("gemma3_text", "gemma4", "gemma4_text", "gpt-sw3", "gpt2", "gpt_oss", "gptj", "granitemoe", "granitemoe_swa"),
        *("granitemoehybrid", "granitemoeshared", "jamba", "mamba", "minicpm3", "mixtral", "olmo_hybrid", "olmoe"),
        *(
            "muse_glimmer",
            "muse_glimmer_text",
            "nemotron_h",
            "nemotron_h_puzzle",
            "opt",
            "paligemma",
            "phimoe",
            "qwen2_moe",
        ),
        "qwen3_moe",
        *("qwen3_vl_moe", "qwen3_omni_moe", "stablelm", "k2_horizon", "plamo3"),
        *("colpali", "cosmos3_edge", "gemma4_unified", "inkling_text", "internlm2", "molmo"),
    )
)
#: types of which every stage builds the embedding only
_EMBEDDING_EVERYWHERE: Final = frozenset(
    (
        *("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"),
        *("minicpmv4_6", "minicpmv4_7", "minicpm_ocr"),
    )
)
#: types of which every stage builds embedding and head, the last the norm
_EMBEDDING_AND_HEAD_EVERYWHERE: Final = frozenset({"qwen3_next"})

#: types whose vLLM class never shares the embedding with the head, whatever the config says
_NEVER_TIED: Final = frozenset(
    (
        *("axk1", "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4", "deepseek_v41", "glm4_moe"),
        *(
            "glm_moe_dsa",
            "gpt_oss",
            "jamba",
            "kimi_linear",
            "mimo_v2",
            "mimo_v2_flash",
            "nemotron_h",
            "nemotron_h_puzzle",
            "olmoe",
            "qwen3_next",
        ),
    )
)
#: types whose vLLM class computes the head with the embedding, whatever the config says
_ALWAYS_TIED: Final = frozenset({"cohere", "cohere2", "cohere2_moe", "gemma2", "lfm2", "lfm2_moe"})

#: types that vLLM serves through its Transformers backend: correction biases stay buffers, and the head has no bias
_BACKEND: Final = frozenset(
    (
        *("arcee", "axk2", "biogpt", "bitnet", "ctrl", "cwm", "doge", "dots1", "flex_olmo", "glm", "gpt_bigcode"),
        *("gpt_neox", "helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "jais2", "jetmoe", "kolibri1", "mellum"),
        *("minimax_m3_vl_text", "ministral", "modernbert-decoder", "nanochat", "olmo", "olmo2", "olmo3", "persimmon"),
        *("phi", "seed_oss", "smollm3", "solar_open", "starcoder2", "vaultgemma", "youtu", "zaya"),
    )
)
#: class names of the backend where the same model type has a native class under another name
_BACKEND_CLASSES: Final = frozenset({"PhimoeForCausalLM"})


@dataclass(frozen=True, slots=True)
class Everywhere:
    """Whether every pipeline stage builds a part; else the first builds the embedding, the last the norm and the head.

    `parts` are in the names of other tensors outside the layers that every stage builds, `tables` how many embeddings the first
    stage holds.
    """

    embedding: bool = False
    head: bool = False
    norm: bool = False
    parts: tuple[str, ...] = ()
    tables: int = 1


_FIRST_AND_LAST: Final = Everywhere()


def built_everywhere(arch: Architecture, engine: str) -> Everywhere:
    """Which of embedding, head and last norm every stage builds."""
    kinds = {arch.model_type, arch.text_type}  # a wrapper holds the text model's own class
    if engine != "vllm":
        return _FIRST_AND_LAST
    if kinds & _ALL_EVERYWHERE and not through_transformers(arch):
        return Everywhere(embedding=True, head=True, norm=True, parts=_PARTS_EVERYWHERE)
    if kinds & _EMBEDDING_AND_HEAD_EVERYWHERE:
        return Everywhere(embedding=True, head=True, parts=_PARTS_EVERYWHERE)
    tables = 2 if arch.model_type in _TWO_TABLES else 1
    return Everywhere(embedding=bool(kinds & _EMBEDDING_EVERYWHERE), parts=_PARTS_EVERYWHERE, tables=tables)


def ties_head(arch: Architecture, engine: str) -> bool | None:
    """Whether the engine's class computes the head with the embedding whatever the config says (True), never does (False), or
    does as the config says (None)."""
    if engine != "vllm":
        return None
    kinds = {arch.model_type, arch.text_type}
    return False if kinds & _NEVER_TIED else True if kinds & _ALWAYS_TIED else None


def through_transformers(arch: Architecture) -> bool:
    """Whether vLLM serves the model through its Transformers backend."""
    named = arch.architectures[:1]
    return arch.model_type in _BACKEND or bool(named and named[0] in _BACKEND_CLASSES)


def kept_whole(arch: Architecture, engine: str) -> tuple[str, ...]:
    """Parts of the names of tensors that no rank splits."""
    alone = _WHOLE_IN_VLLM.get(arch.model_type, ()) if engine == "vllm" else ()
    return _WHOLE.get(arch.model_type, ()) + alone
