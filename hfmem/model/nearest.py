"""Which known family an unknown config.json looks like, by its keys: for the message that refuses it, and for `--assume`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from hfmem.model.config import class_keys
from hfmem.records import dataclass

#: keys that cannot change a byte of weights or cache, or that every config may have
_IRRELEVANT: Final = re.compile(
    r"dropout|dropout_prob$|_token_id$|_eps$|epsilon|initializer|activation|_act$|^hidden_act|loss|use_cache|return_|problem_type"
    r"|id2label|label2id|transformers_version|^is_|chunk_size_feed|jitter|_theta$|rope_|rotary_base|_coef$|torchscript|name_or_path"
    r"|layerdrop|pruned_heads|finetuning|^task_|gradient|scaling$|^auto_map$|^architectures$|^model_type$|dtype$|^_|attn_implementation"
    r"|attention_dropout|flash_attn|^use_flash|pretraining_tp|^bos|^eos|^pad_token|quantization_config|tokenizer|_config$|max_length$"
    r"|^unsloth|^seq_aux$|scoring_func|topk_method|norm_topk|aux_loss|init_|embd_pdrop|attn_pdrop|resid_pdrop|summary_"
)

#: what older transformers wrote into every config.json: generation settings and fields of the base class
_BASE: Final = frozenset(
    (
        *(
            "add_cross_attention",
            "architecture",
            "bad_words_ids",
            "begin_suppress_tokens",
            "bf16",
            "cross_attention_hidden_size",
        ),
        *(
            "diversity_penalty",
            "do_sample",
            "early_stopping",
            "encoder_no_repeat_ngram_size",
            "exponential_decay_length_penalty",
        ),
        *(
            "forced_bos_token_id",
            "forced_eos_token_id",
            "fp16",
            "fp32",
            "length_penalty",
            "min_length",
            "no_repeat_ngram_size",
        ),
        *(
            "num_beam_groups",
            "num_beams",
            "num_return_sequences",
            "output_attentions",
            "output_hidden_states",
            "output_scores",
        ),
        *(
            "output_past",
            "output_router_logits",
            "prefix",
            "remove_invalid_values",
            "repetition_penalty",
            "suppress_tokens",
        ),
        *(
            "temperature",
            "template",
            "tie_encoder_decoder",
            "top_k",
            "top_p",
            "typical_p",
            "use_bfloat16",
            "use_ipex",
            "version",
        ),
    )
)

_LLAMA_KEYS: Final = frozenset(
    (
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        *("vocab_size", "max_position_embeddings", "tie_word_embeddings"),
    )
)
#: keys of classes that live in their repos and not in transformers, as their published configs have them
_REMOTE: Final[dict[str, frozenset[str]]] = {
    "chatglm": frozenset(
        (
            *(
                "num_layers",
                "hidden_size",
                "ffn_hidden_size",
                "kv_channels",
                "num_attention_heads",
                "multi_query_attention",
            ),
            *(
                "multi_query_group_num",
                "padded_vocab_size",
                "vocab_size",
                "seq_length",
                "add_bias_linear",
                "add_qkv_bias",
            ),
            *("rmsnorm", "post_layer_norm", "apply_residual_connection_post_layernorm", "pre_seq_len", "original_rope"),
            *("fp32_residual_connection", "prefix_projection", "quantization_bit", "tie_word_embeddings"),
        )
    ),
    "qwen": _LLAMA_KEYS
    | {"kv_channels", "no_bias", "seq_length", "rotary_pct", "use_logn_attn", "use_dynamic_ntk", "onnx_safe", "visual"},
    "RefinedWeb": frozenset(
        ("n_head", "n_head_kv", "n_layer", "hidden_size", "vocab_size", "alibi", "bias", "parallel_attn", "multi_query")
    ),
    "minicpm": _LLAMA_KEYS | {"scale_emb", "scale_depth", "dim_model_base"},
    "minimax_m1": _LLAMA_KEYS
    | {"attn_type_list", "postnorm", "head_dim", "rotary_dim", "num_local_experts", "num_experts_per_tok"}
    | {f"layernorm_{part}_{ab}" for part in ("full_attention", "linear_attention", "mlp") for ab in ("alpha", "beta")},
    "nemotron-nas": _LLAMA_KEYS | {"block_configs"},
    "mixformer-sequential": frozenset(
        (
            "n_embd",
            "n_head",
            "n_head_kv",
            "n_inner",
            "n_layer",
            "n_positions",
            "rotary_dim",
            "vocab_size",
            "tie_word_embeddings",
        )
    ),
}

#: what tells that a config describes a transformer at all, under the names of `blocks`
_ESSENTIAL: Final = (
    ("hidden_size", "n_embd", "d_model", "n_embed", "dim"),
    ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers"),
    ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"),
    ("vocab_size", "padded_vocab_size", "n_vocab"),
)
#: among classes that explain a config equally well, those that others are usually derived from
_COMMON: Final = (
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "qwen2_moe",
    "qwen3_moe",
    "deepseek_v3",
    "gemma2",
    "gpt_neox",
    "gpt2",
    "t5",
    "bert",
)
_NESTED: Final = ("text_config", "llm_config", "language_config")
_CLASS_SUFFIX: Final = re.compile(r"(LMHeadModel|PreTrainedModel|Model|For[A-Z]\w*)$")


@dataclass(frozen=True, slots=True)
class Nearest:
    """A known model_type and how the config's keys differ from its own: those that it has no meaning for, and those it needs."""

    model_type: str
    unknown_keys: tuple[str, ...]
    missing_keys: tuple[str, ...]

    @property
    def differences(self) -> str:
        """The differing keys as a message lists them; "" where the keys are the same."""
        keys = [*self.unknown_keys, *(f"no {key}" for key in self.missing_keys)]
        return ", ".join(keys[:6]) + (", …" if len(keys) > 6 else "")


def relevant_keys(data: Mapping[str, Any]) -> frozenset[str]:
    """Keys of a config, and of its text part, that may say something about tensors or cache."""
    keys = {key for key in data if isinstance(key, str)}
    for name in _NESTED:
        nested = data.get(name)
        if isinstance(nested, Mapping):
            keys |= {key for key in nested if isinstance(key, str)}
    return frozenset(key[:80] for key in keys if key not in _BASE and not _IRRELEVANT.search(key))


def family_keys(model_type: str) -> frozenset[str]:
    """Keys that have a meaning for a known model_type; empty where no list of them is at hand."""
    return class_keys(model_type) or _REMOTE.get(model_type, frozenset())


def nearest_family(data: Mapping[str, Any], model_type: str, candidates: Iterable[str]) -> Nearest | None:
    """The candidate whose class leaves fewest of the config's keys without a meaning; None where the config is no transformer's.

    Among equals: a like name, then the common base of others, then the fewest keys that the config leaves out, then the
    order given.
    """
    keys = relevant_keys(data)
    if sum(any(name in keys for name in names) for names in _ESSENTIAL) < 3:
        return None
    known = tuple(candidates)
    like = set(difflib.get_close_matches(model_type, known, n=3, cutoff=0.75)) if model_type else set()
    like |= {name for name in known if len(name) > 2 and model_type.startswith((f"{name}_", f"{name}-"))}
    by_class = class_family(data, known)
    common = {name: place for place, name in enumerate(_COMMON)}
    best: tuple[tuple[bool, int, bool, int, int, int], str] | None = None
    for order, name in enumerate(known):
        own = family_keys(name)
        if not keys & own:
            continue
        score = (
            name != by_class,
            len(keys - own),
            name not in like,
            common.get(name, len(common)),
            len(_relevant(own) - keys),
            order,
        )
        if best is None or score < best[0]:
            best = (score, name)
    if best is None:
        return None
    own = family_keys(best[1])
    missing = [
        next(name for name in names if name in own)
        for names in _ESSENTIAL
        if any(name in own for name in names) and not any(name in keys for name in names)
    ]
    return Nearest(best[1], tuple(sorted(keys - own)), tuple(missing))


def _relevant(keys: Iterable[str]) -> set[str]:
    return {key for key in keys if not _IRRELEVANT.search(key)}


def class_family(data: Mapping[str, Any], candidates: Iterable[str]) -> str | None:
    """The model_type that the first class in `architectures` belongs to: `GPTNeoXForCausalLM` is `gpt_neox`'s.

    Configs of the `mamba_ssm` package name neither; their `ssm_cfg` is its own. VoxCPM's say `architecture`.
    """
    if "ssm_cfg" in data:
        return "mamba_ssm"
    if (said := data.get("architecture")) in ("voxcpm", "voxcpm2"):
        return str(said)
    classes = data.get("architectures")
    first = classes[0] if isinstance(classes, list) and classes else None
    if not isinstance(first, str):
        return None
    stem = _plain(_CLASS_SUFFIX.sub("", first))
    return next((name for name in candidates if _plain(name) == stem), None) if stem else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
