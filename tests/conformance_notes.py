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

_SHARED_KV: Final = (
    "The layers that share another's cache have k and v weights in every published file; transformers 5.23.0 leaves them out of "
    "the model. They are stored, so they count."
)
_UNTIED_T5: Final = dict.fromkeys(
    ("params_total", "params_active", "groups"),
    "T5 1.1 and Flan-T5 publish an output head of their own (flan-t5-large's headers hold it); transformers 5.23.0 builds these "
    "configs tied and measured one copy.",
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
    "default__mistral_large4": dict.fromkeys(
        ("params_total", "params_active"),
        "Measured with 5.23.0; in 5.24.0 the rotary frequencies have 32 learned scales (`lerope.alpha` of its own files).",
    ),
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
    "default__gemma3n": {"params_total": _SHARED_KV},
    "google__gemma-3n-E2B-it": {"params_total": _SHARED_KV},
    "google__flan-t5-large": _UNTIED_T5,
    "google__t5-v1_1-xxl": _UNTIED_T5,
    "default__switch_transformers": {
        "params_active": "The oracle found no expert count under this class's name and took the model as dense; a token passes "
        "through 1 of 8 experts in 6 + 6 layers: 150,994,944 · 7 / 8 less."
    },
    "default__modernbert-decoder": {
        "groups": "The oracle puts the output bias of 50,368 under other and the head's norm of 768 under lm_head; totals agree."
    },
    "default__phi4_multimodal": {
        "groups": "The oracle's grouping goes by name: embed_tokens_extend holds the vision and audio towers, 804,568,512 "
        "parameters that it takes for embedding; totals agree."
    },
    "default__mra": dict.fromkeys(
        ("params_total", "params_active", "groups"),
        "A config without architectures: read as the bare encoder, as for every BERT; the oracle built MraForMaskedLM, whose "
        "head has 642,393 parameters more.",
    ),
    "Qwen__Qwen3-ASR": dict.fromkeys(
        ("params_total", "params_active", "groups"),
        "The published config nests everything in thinker_config, which transformers 5.23.0 does not look into: it was measured "
        "with class defaults. Read here as published: d_model 896 and the text model it names.",
    ),
    "openbmb__MiniCPM-V-2_6-rkllm-copy": dict.fromkeys(
        ("headers", "index"),
        "The copy's config.json was cut down to its language model (model_type qwen2); the files still hold the vision tower and "
        "resampler: 450 tensors that it rightly does not explain.",
    ),
    "mustafaaljadery__llama3v": {
        "headers": "The config says float16 and the files store float32: a real contradiction, reported as one."
    },
    "Qwen__Qwen2.5-Omni-7B": {
        "groups": "The oracle's grouping goes by name: the talker's codebook embedding (8,448 · 3,584 = 30,277,632) counts as "
        "embedding there and the vocoder's proj_out (80 · 1,024 + 80) as head; here both belong to their own parts. Totals agree."
    },
    "facebook__seamless-m4t-v2-large": {
        "groups": "The oracle counts the unit decoder's embed_tokens (10,082 · 1,024) as the text model's embedding; here the "
        "text-to-unit model is a tower of its own. Totals agree."
    },
    "default__csm": {
        "groups": "The oracle's grouping goes by name and puts embed_text_tokens (128,256 · 2,048) under other; it is the "
        "backbone's embedding of text. Totals agree."
    },
    "openbmb__SciCore-Omics": {
        "headers": "A MiniCPM-V 2.6 with a gene branch of its authors' own (gene_config): 246 tensors whose shapes no key gives "
        "(the header itself was fitted); a note in the report says they are not derived.",
        "index": "As for the header: the gene branch's 246 tensors (92,363,996 parameters by the fitted header) are not derived.",
    },
    "deepseek-ai__DeepSeek-OCR-2": {
        "index": "total_size is 1,010,688 bytes (505,344 BF16 elements) above the sum over the index's own 2,707 names with the "
        "shapes of the modeling code; the rebuilt header stops at the same sum (headers/INDEX.tsv). Which side is stale cannot be "
        "told without a weight file; every name is expected and none is missing."
    },
}
