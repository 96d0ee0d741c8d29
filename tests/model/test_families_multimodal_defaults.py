"""A multimodal, speech or encoder config that names its class and nothing else is the class's default model.

Expected parameters were counted with transformers 5.23.0: each class built from its own defaults on the meta device, parameters
summed, shared storage once. They test the rules and the table of class defaults together.
"""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.model.families.registry import read_architecture
from hfmem.model.layers import CrossAttention, FullAttention

COUNTED = [
    ("albert", "AlbertForPreTraining", 223_158_450),
    ("aria", "AriaForConditionalGeneration", 18_701_885_824),
    ("aria_text", "AriaTextForCausalLM", 18_517_069_824),
    ("audioflamingo3", "AudioFlamingo3ForConditionalGeneration", 12_708_843_520),
    ("beit", "BeitModel", 85_656_576),
    ("bert", "BertLMHeadModel", 109_514_298),
    ("blip", "BlipForConditionalGeneration", 223_971_644),
    ("blip", "BlipForImageTextRetrieval", 223_744_258),
    ("blip", "BlipForQuestionAnswering", 361_230_140),
    ("blip-2", "Blip2ForConditionalGeneration", 1_216_944_384),
    ("canary", "CanaryForConditionalGeneration", 962_155_520),
    ("clip", "CLIPModel", 151_277_313),
    ("clip_vision_model", "CLIPVisionModel", 87_456_000),
    ("cohere2_vision", "Cohere2VisionForConditionalGeneration", 35_651_000_064),
    ("cohere_asr", "CohereAsrForConditionalGeneration", 2_065_647_872),
    ("colmodernvbert", "ColModernVBertForRetrieval", 251_434_112),
    ("colpali", "ColPaliForRetrieval", 2_910_652_800),
    ("colqwen2", "ColQwen2ForRetrieval", 72_137_303_168),
    ("cosmos3_edge", "Cosmos3EdgeForConditionalGeneration", 2_435_616_496),
    ("cosmos3_edge_text", "Cosmos3EdgeTextModel", 1_677_838_336),
    ("cosmos3_omni", "Cosmos3OmniForConditionalGeneration", 12_616_410_352),
    ("csm", "CsmForConditionalGeneration", 1_632_100_161),
    ("deberta-v2", "DebertaV2ForMaskedLM", 879_999_588),
    ("deepseek_vl", "DeepseekVLForConditionalGeneration", 6_720_158_976),
    ("deepseek_vl_hybrid", "DeepseekVLHybridForConditionalGeneration", 6_817_039_873),
    ("deit", "DeiTModel", 86_390_784),
    ("dia", "DiaForConditionalGeneration", 1_611_160_576),
    ("dinov2", "Dinov2Model", 85_725_696),
    ("dinov2_with_registers", "Dinov2WithRegistersModel", 85_820_928),
    ("dinov3_vit", "DINOv3ViTModel", 21_595_008),
    ("distilbert", "DistilBertForMaskedLM", 66_985_530),
    ("donut-swin", "DonutSwinModel", 27_517_818),
    ("dots3_note", "Dots3NoteForConditionalGeneration", 287_309_195_008),
    ("electra", "ElectraForCausalLM", 13_546_682),
    ("embedding_gemma2", "EmbeddingGemma2Model", 271_002_624),
    ("ernie4_5_vl_moe", "Ernie4_5_VLMoeForConditionalGeneration", 29_399_294_336),
    ("exaone4_5", "Exaone4_5_ForConditionalGeneration", 12_100_938_496),
    ("florence2", "Florence2ForConditionalGeneration", 497_761_280),
    ("fun_asr_nano", "FunAsrNanoForConditionalGeneration", 829_791_840),
    ("fuyu", "FuyuForCausalLM", 9_408_238_592),
    ("gemma3", "Gemma3ForConditionalGeneration", 2_723_312_896),
    ("gemma4", "Gemma4ForConditionalGeneration", 5_077_177_856),
    ("gemma4_unified_text", "Gemma4UnifiedForCausalLM", 3_010_758_400),
    ("glm46v", "Glm46VForConditionalGeneration", 10_292_777_472),
    ("glm4v", "Glm4vForConditionalGeneration", 10_292_777_472),
    ("glm4v_moe", "Glm4vMoeForConditionalGeneration", 104_372_866_880),
    ("glm5_next", "Glm5NextForConditionalGeneration", 313_786_889_214),
    ("glm_ocr", "GlmOcrForConditionalGeneration", 807_479_808),
    ("glmasr", "GlmAsrForConditionalGeneration", 2_136_470_528),
    ("glmga", "Glm46VForConditionalGeneration", 10_292_777_472),
    ("got_ocr2", "GotOcr2ForConditionalGeneration", 560_528_640),
    ("granite_docling", "GraniteDoclingForConditionalGeneration", 543_428_352),
    ("granite_docling_text", "GraniteDoclingTextModel", 386_630_656),
    ("granite_speech", "GraniteSpeechForConditionalGeneration", 6_990_441_514),
    ("granite_speech_plus", "GraniteSpeechPlusForConditionalGeneration", 6_990_441_514),
    ("hyperclovax_vision_v2", "HyperCLOVAXVisionV2ForConditionalGeneration", 9_705_315_072),
    ("idefics2", "Idefics2ForConditionalGeneration", 8_061_394_944),
    ("idefics3", "Idefics3ForConditionalGeneration", 6_909_685_760),
    ("inkling2", "Inkling2ForConditionalGeneration", 594_050_623_488),
    ("instructblip", "InstructBlipForConditionalGeneration", 1_297_466_112),
    ("instructblipvideo", "InstructBlipVideoForConditionalGeneration", 1_297_466_112),
    ("internvl", "InternVLForConditionalGeneration", 11_765_025_792),
    ("janus", "JanusForConditionalGeneration", 7_031_324_299),
    ("kimi_k25", "Kimi_K25ForConditionalGeneration", 670_570_869_232),
    ("kyutai_speech_to_text", "KyutaiSpeechToTextForConditionalGeneration", 2_696_431_425),
    ("lfm2_vl", "Lfm2VlForConditionalGeneration", 2_812_857_088),
    ("lfm3_vl", "Lfm3VlForConditionalGeneration", 1_918_181_888),
    ("lighton_ocr", "LightOnOcrForConditionalGeneration", 1_005_647_872),
    ("llama4", "Llama4ForConditionalGeneration", 108_225_039_360),
    ("llava", "LlavaForConditionalGeneration", 7_062_902_784),
    ("llava_next", "LlavaNextForConditionalGeneration", 7_062_906_880),
    ("llava_next_video", "LlavaNextVideoForConditionalGeneration", 7_062_906_880),
    ("llava_onevision", "LlavaOnevisionForConditionalGeneration", 12_469_102_112),
    ("metaclip_2", "MetaClip2Model", 151_277_313),
    ("minicpm_ocr", "MiniCPMOcrForConditionalGeneration", 8_094_084_096),
    ("minicpmv4_6", "MiniCPMV4_6ForConditionalGeneration", 9_111_202_816),
    ("minicpmv4_7", "MiniCPMV4_7ForConditionalGeneration", 9_111_202_816),
    ("minimax_m3_vl", "MiniMaxM3SparseForConditionalGeneration", 448_052_008_448),
    ("mistral4", "Mistral4ForCausalLM", 118_972_826_624),
    ("mistral_large4", "MistralLarge4ForConditionalGeneration", 1_051_822_421_536),
    ("mllama", "MllamaForConditionalGeneration", 10_642_941_475),
    ("modernvbert", "ModernVBertModel", 251_335_680),
    ("molmo2", "Molmo2ForConditionalGeneration", 8_694_602_192),
    ("moonshine", "MoonshineForConditionalGeneration", 27_092_736),
    ("moss_transcribe_diarize", "MossTranscribeDiarizeForConditionalGeneration", 908_513_280),
    ("mt5", "MT5ForConditionalGeneration", 172_119_424),
    ("muse_glimmer", "MuseGlimmerForConditionalGeneration", 29_776_626_688),
    ("muse_spark", "MuseSparkForConditionalGeneration", 822_036_513_792),
    ("musicflamingo", "MusicFlamingoForConditionalGeneration", 12_708_843_520),
    ("nemotron_asr_streaming", "NemotronAsrStreamingForRNNT", 616_954_369),
    ("ovis2", "Ovis2ForConditionalGeneration", 11_778_684_918),
    ("paligemma", "PaliGemmaForConditionalGeneration", 2_910_390_528),
    ("parakeet_ctc", "ParakeetForCTC", 608_799_745),
    ("parakeet_rnnt", "ParakeetForRNNT", 625_874_433),
    ("parakeet_tdt", "ParakeetForTDT", 625_877_638),
    ("phi4_multimodal", "Phi4MultimodalForCausalLM", 5_308_268_992),
    ("pixtral", "PixtralVisionModel", 403_489_792),
    ("qianfan_ocr", "QianfanOCRForConditionalGeneration", 12_387_044_352),
    ("qwen2_5_omni", "Qwen2_5OmniForConditionalGeneration", 18_386_365_824),
    ("qwen2_5_omni_thinker", "Qwen2_5OmniThinkerForConditionalGeneration", 11_338_288_896),
    ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", 75_789_228_800),
    ("qwen2_audio", "Qwen2AudioForConditionalGeneration", 12_692_062_208),
    ("qwen2_vl", "Qwen2VLForConditionalGeneration", 73_381_962_752),
    ("qwen3_5", "Qwen3_5ForConditionalGeneration", 9_407_453_936),
    ("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", 35_114_261_360),
    ("qwen3_asr", "Qwen3ASRForConditionalGeneration", 2_039_626_880),
    ("qwen3_vl", "Qwen3VLForConditionalGeneration", 12_616_410_352),
    ("qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration", 14_052_070_640),
    ("roberta", "RobertaForCausalLM", 124_696_665),
    ("seamless_m4t", "SeamlessM4TForSpeechToText", 1_526_945_088),
    ("seamless_m4t_v2", "SeamlessM4Tv2ForSpeechToText", 1_501_842_240),
    ("shieldgemma2", "Gemma3ForConditionalGeneration", 2_723_312_896),
    ("siglip", "SiglipModel", 203_155_970),
    ("siglip_vision_model", "SiglipVisionModel", 92_884_224),
    ("smolvlm", "SmolVLMForConditionalGeneration", 6_909_685_760),
    ("speech_to_text", "Speech2TextForConditionalGeneration", 29_536_256),
    ("step3p7", "Step3p7ForConditionalGeneration", 197_824_847_872),
    ("swin", "SwinModel", 27_519_354),
    ("swinv2", "Swinv2Model", 27_578_154),
    ("t5", "T5ForConditionalGeneration", 60_506_624),
    ("t5gemma", "T5GemmaForConditionalGeneration", 5_596_853_760),
    ("t5gemma2", "T5Gemma2ForConditionalGeneration", 4_747_846_400),
    ("umt5", "UMT5ForConditionalGeneration", 172_122_112),
    ("vibevoice", "VibeVoiceForConditionalGeneration", 13_612_734_435),
    ("vibevoice_asr", "VibeVoiceAsrForConditionalGeneration", 12_772_521_344),
    ("video_llama_3", "VideoLlama3ForConditionalGeneration", 12_155_424_000),
    ("video_llava", "VideoLlavaForConditionalGeneration", 7_365_754_880),
    ("vipllava", "VipLlavaForConditionalGeneration", 7_079_690_240),
    ("vit", "ViTModel", 86_389_248),
    ("voxtral", "VoxtralForConditionalGeneration", 4_676_271_104),
    ("voxtral_realtime", "VoxtralRealtimeForConditionalGeneration", 4_429_679_360),
    ("whisper", "WhisperForConditionalGeneration", 37_760_640),
    ("hubert", "HubertForCTC", 94_396_320),
    ("siglip2", "Siglip2Model", 203_202_050),
    ("wav2vec2", "Wav2Vec2ForCTC", 94_396_320),
    ("wavlm", "WavLMForCTC", 94_406_544),
    ("xlm-roberta", "XLMRobertaForCausalLM", 109_514_298),
]


@pytest.mark.parametrize(("model_type", "saved_from", "parameters"), COUNTED)
def test_class_defaults(model_type: str, saved_from: str, parameters: int) -> None:
    facts = {"model_type": model_type, "architectures": [saved_from]}
    assert read_architecture(facts).expected_parameters() == parameters


MBART = {
    "model_type": "mbart",
    "is_decoder": True,
    "add_cross_attention": True,
    "decoder_layers": 4,
    "d_model": 1024,
    "vocab_size": 57525,
}
DONUT_SWIN = {
    "model_type": "donut-swin",
    "depths": [2, 2, 14, 2],
    "num_heads": [4, 8, 16, 32],
    "embed_dim": 128,
    "window_size": 10,
    "image_size": [2560, 1920],
}
VIT_POOLER = 768 * 768 + 768  # transformers builds it, files of this class leave it out
#: facts beside the class → parameters of the meta model, the encoder's pooler among them
COMPOSED: dict[str, tuple[dict[str, Any], int]] = {
    "Donut": ({"encoder": DONUT_SWIN, "decoder": MBART}, 201_327_736),
    "TrOCR-small's build": (
        {
            "encoder": {"model_type": "deit"},
            "decoder": {"model_type": "trocr", "d_model": 256, "decoder_attention_heads": 8},
        },
        131_140_096,
    ),
    "TrOCR-base's build": (
        {
            "encoder": {"model_type": "vit"},
            "decoder": {"model_type": "trocr", "cross_attention_hidden_size": 768, "tie_word_embeddings": False},
        },
        385_128_960,
    ),
    "ViT-GPT2": ({"encoder": {"model_type": "vit"}, "decoder": {"model_type": "gpt2"}}, 239_195_904),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_image_encoder_and_text_decoder(name: str) -> None:
    facts, parameters = COMPOSED[name]
    whole = read_architecture({"model_type": "vision-encoder-decoder", **facts})
    assert whole.expected_parameters() == parameters
    optional = sum(s.count * s.elements for s in whole.tensors if s.optional and s.tied_to is None and not s.buffer)
    assert optional == (0 if name == "Donut" else VIT_POOLER)  # which published files leave out


def test_a_speech_encoder_and_a_text_decoder() -> None:
    decoder = {**MBART, "vocab_size": 50265}
    facts = {"model_type": "speech-encoder-decoder", "encoder": {"model_type": "wav2vec2"}, "decoder": decoder}
    assert read_architecture(facts).expected_parameters() == 214_871_936


def test_two_berts() -> None:
    facts = {"model_type": "encoder-decoder", "encoder": {"model_type": "bert"}, "decoder": {"model_type": "bert"}}
    assert read_architecture(facts).expected_parameters() == 247_363_386


def test_donut_keeps_keys_of_every_patch_it_has_seen() -> None:
    """Patches of 4 × 4 pixels, halved three times along each side: 2560 / 32 × 1920 / 32 positions of the encoder's output."""
    whole = read_architecture({"model_type": "vision-encoder-decoder", "encoder": DONUT_SWIN, "decoder": MBART})
    own, seen = FullAttention(16, 16, 64, 64), CrossAttention(16, 16, 64, 80 * 60)
    assert [layer.caches for layer in whole.layers if layer.stack == "decoder"] == [(own, seen)] * 4


@pytest.mark.parametrize(
    ("saved_from", "model_type", "parameters"),
    [("BertLMHeadModel", "bert", 137_881_146), ("RobertaForCausalLM", "roberta", 153_063_513)],
)
def test_a_bert_that_decodes(saved_from: str, model_type: str, parameters: int) -> None:
    """Counted with transformers as above; with `is_decoder` it keeps keys and values, without it nothing."""
    facts = {"model_type": model_type, "architectures": [saved_from]}
    decoder = read_architecture({**facts, "is_decoder": True, "add_cross_attention": True})
    assert decoder.expected_parameters() == parameters
    assert list(decoder.caches()) == [FullAttention(12, 12, 64, 64)] * 12
    assert not [c for c in read_architecture(facts).caches() if isinstance(c, FullAttention)]


def test_an_untied_masked_head_is_stored() -> None:
    facts = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
    tied, own = (
        read_architecture({**facts, "tie_word_embeddings": tie}).expected_parameters() for tie in (True, False)
    )
    assert own - tied == 30522 * 768 + 30522


def test_dots3_note_in_its_released_spelling() -> None:
    """Counted with transformers as above: a list of experts a block, and the sound encoder's sizes in `whisper_config`."""
    seen = {"num_hidden_layers": 4, "pyramid_num_routed": [-1, -1, 4, 8], "embed_dim": 768, "num_heads": 12}
    eyes = {"vision_config": {**seen, "adapter_in_dim": 768, "use_bias": True}}
    assert read_architecture({"model_type": "dots3_note", **eyes}).expected_parameters() == 280_550_869_248
    whisper = {
        "d_model": 640,
        "encoder_layers": 4,
        "encoder_attention_heads": 10,
        "encoder_ffn_dim": 1280,
        "num_mel_bins": 80,
    }
    ears = {"audio_config": {"whisper_config": whisper, "adapter_input_size": 640}}
    assert read_architecture({"model_type": "dots3_note", **ears}).expected_parameters() == 286_476_133_248
