"""Published configs of multimodal, encoder-decoder and encoder models, with what is published of each."""

from __future__ import annotations

from typing import Any

Facts = dict[str, Any]


def saved(model_type: str, class_name: str, **keys: Any) -> Facts:
    return {"model_type": model_type, "architectures": [class_name], **keys}


QWEN3_VL_2B = saved(
    "qwen3_vl",
    "Qwen3VLForConditionalGeneration",
    tie_word_embeddings=True,
    text_config={
        "model_type": "qwen3_vl_text",
        "head_dim": 128,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "vocab_size": 151936,
    },
    vision_config={
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "in_channels": 3,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [5, 11, 17],
    },
)
QWEN25_VL_3B = saved(  # published flat: the text model's keys at the top
    "qwen2_5_vl",
    "Qwen2_5_VLForConditionalGeneration",
    hidden_size=2048,
    intermediate_size=11008,
    num_attention_heads=16,
    num_hidden_layers=36,
    num_key_value_heads=2,
    tie_word_embeddings=True,
    use_sliding_window=False,
    vocab_size=151936,
    vision_config={
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "in_chans": 3,
        "out_hidden_size": 2048,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
)
LLAMA_VISION_11B = saved(
    "mllama",
    "MllamaForConditionalGeneration",
    text_config={
        "model_type": "mllama_text_model",
        "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_hidden_layers": 40,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    vision_config={"image_size": 560, "max_num_tiles": 4},
)
SCOUT = saved(
    "llama4",
    "Llama4ForConditionalGeneration",
    text_config={"no_rope_layers": []},
    vision_config={
        "hidden_size": 1408,
        "image_size": 336,
        "intermediate_size": 5632,
        "num_hidden_layers": 34,
        "projector_input_dim": 4096,
        "projector_output_dim": 4096,
        "vision_output_dim": 4096,
    },
)
GEMMA4_VISION = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 72,
    "standardize": True,
}
GEMMA4_26B = saved(
    "gemma4",
    "Gemma4ForConditionalGeneration",
    audio_config=None,
    vision_config=GEMMA4_VISION,
    text_config={
        "model_type": "gemma4_text",
        "attention_k_eq_v": True,
        "enable_moe_block": True,
        "head_dim": 256,
        "global_head_dim": 512,
        "hidden_size": 2816,
        "hidden_size_per_layer_input": 0,
        "intermediate_size": 2112,
        "moe_intermediate_size": 704,
        "num_attention_heads": 16,
        "num_experts": 128,
        "num_global_key_value_heads": 2,
        "num_hidden_layers": 30,
        "num_key_value_heads": 8,
        "sliding_window": 1024,
        "top_k_experts": 8,
        "vocab_size": 262144,
    },
)
QWEN2_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}
SIGLIP_980 = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "image_size": 980,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
}
FLAN_LARGE = saved(
    "t5",
    "T5ForConditionalGeneration",
    d_ff=2816,
    d_kv=64,
    d_model=1024,
    feed_forward_proj="gated-gelu",
    num_heads=16,
    num_layers=24,
    vocab_size=32128,
    tie_word_embeddings=False,
)

#: name → config, parameters, parameters of one token, bytes a token adds (BF16)
MODELS: dict[str, tuple[Facts, int, int, int]] = {
    "Qwen3-VL-2B": (QWEN3_VL_2B, 2127532032, 2127532032, 114688),
    "Qwen2.5-VL-3B": (QWEN25_VL_3B, 3754622976, 3754622976, 36864),
    "qwen2_vl": (saved("qwen2_vl", "Qwen2VLForConditionalGeneration"), 73381962752, 73381962752, 327680),
    "glm4v_moe": (saved("glm4v_moe", "Glm4vMoeForConditionalGeneration"), 104372866880, 10944745280, 61824),
    "llava": (saved("llava", "LlavaForConditionalGeneration"), 7062902784, 7062902784, 524288),
    "llava_onevision": (
        saved("llava_onevision", "LlavaOnevisionForConditionalGeneration"),
        12469102112,
        12469102112,
        524288,
    ),
    # no flag anywhere, as in Mistral-Small-3.1-24B's config: its checkpoint stores a head, 131,072 × 5,120 above a tied model
    "mistral3": (saved("mistral3", "Mistral3ForConditionalGeneration"), 24011361280, 24011361280, 163840),
    "mistral3 tied": (
        saved("mistral3", "Mistral3ForConditionalGeneration", tie_word_embeddings=True),
        23340272640,
        23340272640,
        163840,
    ),
    "internvl": (saved("internvl", "InternVLForConditionalGeneration"), 11765025792, 11765025792, 524288),
    "idefics2": (
        saved("idefics2", "Idefics2ForConditionalGeneration"),
        8061394944,
        8061394944,
        0,
    ),  # every layer of Mistral 7B v0.1 slides
    "smolvlm": (saved("smolvlm", "SmolVLMForConditionalGeneration"), 6909685760, 6909685760, 524288),
    "phi4_multimodal": (saved("phi4_multimodal", "Phi4MultimodalForCausalLM"), 5308268992, 5308268992, 98304),
    "florence2": (saved("florence2", "Florence2ForConditionalGeneration"), 497761280, 497761280, 49152),
    "qwen2_audio": (saved("qwen2_audio", "Qwen2AudioForConditionalGeneration"), 12692062208, 12692062208, 524288),
    "voxtral": (saved("voxtral", "VoxtralForConditionalGeneration"), 4676271104, 4676271104, 122880),
    "moonshine": (saved("moonshine", "MoonshineForConditionalGeneration"), 27092736, 27092736, 6912),
    "Llama-4-Scout": (SCOUT, 108641793536, 18044827136, 49152),
    "Llama-3.2-11B-Vision": (LLAMA_VISION_11B, 10670220835, 10670220835, 131072),
    "gemma-4-26B-A4B": (GEMMA4_26B, 25805933872, 4395322672, 20480),
    # published: 31,461,120 more than transformers counts, the unused k and v of the 15 layers that share a cache
    "gemma-3n-E4B": (saved("gemma3n", "Gemma3nForConditionalGeneration"), 7849978192, 7818517072, 8192),
    "umt5": (saved("umt5", "UMT5ForConditionalGeneration"), 172122112, 172122112, 12288),
    "longt5": (saved("longt5", "LongT5ForConditionalGeneration"), 60506624, 60506624, 12288),
    # header of google/flan-t5-large: 750,251,008 and a head of its own, 32,128 × 1,024
    "flan-t5-large": (FLAN_LARGE, 783150080, 783150080, 98304),
    "bart": (saved("bart", "BartForConditionalGeneration"), 406291456, 406291456, 49152),
    "mbart": (saved("mbart", "MBartForConditionalGeneration"), 406295552, 406295552, 49152),
    "pegasus": (saved("pegasus", "PegasusForConditionalGeneration"), 406287360, 406287360, 49152),
    "m2m_100": (saved("m2m_100", "M2M100ForConditionalGeneration"), 483905536, 483905536, 49152),
    "marian": (saved("marian", "MarianMTModel"), 414307328, 414307328, 49152),
    "blenderbot": (saved("blenderbot", "BlenderbotForConditionalGeneration"), 2696268800, 2696268800, 245760),
    "whisper-tiny": (saved("whisper", "WhisperForConditionalGeneration"), 37760640, 37760640, 6144),
    "bert": (saved("bert", "BertForMaskedLM"), 109514298, 109514298, 0),
    "bert classifier": (saved("bert", "BertForSequenceClassification"), 109483778, 109483778, 0),
    "bert base": (saved("bert", "BertModel"), 109482240, 109482240, 0),
    "roberta": (saved("roberta", "RobertaForMaskedLM"), 124696665, 124696665, 0),
    "mra": (saved("mra", "MraForMaskedLM"), 124697433, 124697433, 0),
    "electra": (saved("electra", "ElectraForPreTraining"), 13549057, 13549057, 0),
    "mpnet": (saved("mpnet", "MPNetForMaskedLM"), 109516991, 109516991, 0),
    "deberta": (saved("deberta-v2", "DebertaV2ForSequenceClassification"), 879871490, 879871490, 0),
    "distilbert": (saved("distilbert", "DistilBertForMaskedLM"), 66985530, 66985530, 0),
    "albert": (saved("albert", "AlbertForMaskedLM"), 206368944, 206368944, 0),
    "modernbert": (saved("modernbert", "ModernBertForSequenceClassification"), 149606402, 149606402, 0),
    "nomic": (saved("nomic_bert", "NomicBertForMaskedLM"), 137354304, 137354304, 0),
    "clip vision": (saved("clip_vision_model", "CLIPVisionModel"), 87456000, 87456000, 0),
    # header of openbmb/MiniCPM-V-2_6 (rkllm copy)
    "MiniCPM-V-2.6": (
        saved(
            "minicpmv", "MiniCPMV", version=2.6, query_num=64, vocab_size=151666, vision_config=SIGLIP_980, **QWEN2_7B
        ),
        8099175152,
        8099175152,
        57344,
    ),
    # header of a VideoLLaMA3-7B checkpoint
    "VideoLLaMA3-7B": (
        saved(
            "videollama3_qwen2",
            "Videollama3Qwen2ForCausalLM",
            vocab_size=152064,
            mm_projector_type="mlp2x_gelu",
            vision_encoder_config={k: v for k, v in SIGLIP_980.items() if k not in ("model_type", "image_size")},
            **QWEN2_7B,
        ),
        8044744944,
        8044744944,
        57344,
    ),
}
