"""Where our numbers and the reference data disagree, which side is right, and why.

`NOTES[model id][check]` is the explanation; checks are the names of the tests in `test_conformance.py`: `params_total`,
`params_active`, `groups`, `kv`, `slope`, `state` (oracle rows), `headers`, `index`. A note whose check agrees is an error there, so
that none outlives its reason.
"""

from __future__ import annotations

from typing import Final

#: remote-code rows were counted by formula, in other groups than embedding and lm_head
_BY_FORMULA: Final = (
    "The row was reasoned, not measured, and does not split off embedding and head under these names; totals agree."
)
_UNNAMED: Final = (
    "The oracle's grouping goes by name and does not know this class's name for its embedding; totals agree."
)
_FALCON: Final = (
    "transformers' Falcon repeats each KV head for its group before it caches them; the model itself needs its 8 KV heads, as vLLM "
    "holds (the transformers column has the repeated heads: test_kv agrees)."
)

_STEP: Final = (
    "The file holds the text model's keys at the top level and no text_config. transformers ignores them there and fills in its "
    "class defaults (128,815 words); the file says 128,896: 2 · 81 · 4,096 = 663,552 more."
)

NOTES: Final[dict[str, dict[str, str]]] = {
    "Qwen__Qwen-1_8B-Chat": {"groups": _BY_FORMULA},
    "stvlynn__Qwen-7B-Chat-Cantonese": {"groups": _BY_FORMULA},
    "THUDM__chatglm2-6b": {"groups": _BY_FORMULA},
    "THUDM__chatglm3-6b": {"groups": _BY_FORMULA},
    "THUDM__chatglm3-6b-32k": {"groups": _BY_FORMULA},
    "THUDM__codegeex2-6b": {"groups": _BY_FORMULA},
    "THUDM__glm-4-9b-chat": {"groups": _BY_FORMULA},
    "github__LeoWang0086__qxs-chatglm3-6b": {"groups": _BY_FORMULA},
    "default__ctrl": {"groups": _UNNAMED},
    "default__openai-gpt": {"groups": _UNNAMED},
    "tiiuae__falcon-40b": {"slope": _FALCON},
    "tiiuae__falcon-180B": {"slope": _FALCON},
    "tiiuae__falcon-180B-chat": {"slope": _FALCON},
    "emotibot-inc__Zhuzhi-6B": {
        "groups": _BY_FORMULA,
        "index": "The fine-tune's file holds an lm_head.weight beside the class's own output_layer; nothing reads it.",
    },
    "EleutherAI__gpt-neo-1.3B": {
        "slope": "transformers masks the local layers but caches them whole; by attention_types they see 256 tokens, so "
        "only the global layers grow for ever (the transformers column keeps all: test_kv agrees)."
    },
    "THUDM__chatglm-6b": {
        "index": "Stale total_size, from the vocabulary of 150,528 before image tokens were taken out: the weight files "
        "themselves (LFS pointers, 13,416,906,785 bytes) hold the 13,415,858,176 bytes counted here and their zip overhead."
    },
    "togethercomputer__RedPajama-INCITE-7B-Base": {
        "index": "total_size counts the boolean mask buffers at an eighth of a byte an element, as old transformers "
        "did: 13,714,604,032 bytes of parameters + 32 · (2048² / 8 + 2 + 128)."
    },
    "stepfun-ai__Step-3.7-Flash": dict.fromkeys(("params_total", "params_active", "groups"), _STEP),
    "default__muse_spark": {
        "params_active": "The oracle scales everything named experts by top_k / num_experts, post_expert_norm too: one norm a "
        "layer that every expert's output passes, used whole: 62 · 4,096 · (1 − 8 / 256) = 246,016 more here."
    },
    "MiniMaxAI__MiniMax-M1": {
        "index": "The router gates are stored in float32 in a bfloat16 model: 80 · 32 · 6,144 · 2 = 31,457,280 bytes more."
    },
    "github__jianzhnie__Kimi2-PCL-1T": {
        "index": "total_size is the sum of the file sizes: the 2,059,316,667,904 bytes of tensors counted here and the headers "
        "of 34 files."
    },
    "mlx-community__Mistral-Small-4-119B-4bit": {
        "headers": "MLX's conversion leaves out the vision tower and projector, which the config still describes."
    },
}
