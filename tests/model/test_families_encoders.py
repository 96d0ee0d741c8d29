"""Encoders and encoder-decoders: parameters of their classes, and what a decoder keeps.

`COUNTED` was counted with transformers 5.23.0: each class built from its own defaults on the meta device, parameters summed, shared
storage once. The rest is arithmetic.
"""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.errors import ContradictionError, HfmemError, UnknownArchitectureError
from hfmem.memory.cache import bytes_per_token
from hfmem.memory.engines import engine
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.families.registry import read_architecture
from hfmem.model.layers import CrossAttention, FullAttention, NoCache, SlidingAttention

COUNTED = [
    ("bert", "BertLMHeadModel", 109_514_298),
    ("ernie", "ErnieForMaskedLM", 109_514_298),
    ("megatron-bert", "MegatronBertForPreTraining", 334_723_458),
    ("big_bird", "BigBirdForMaskedLM", 128_111_286),
    ("layoutlm", "LayoutLMForTokenClassification", 112_629_506),
    ("rembert", "RemBertForMaskedLM", 993_263_548),
    ("roc_bert", "RoCBertModel", 124_482_048),
    ("roformer", "RoFormerForMaskedLM", 124_197_968),
    ("bert-generation", "BertGenerationDecoder", 354_452_662),
    ("xmod", "XmodForMaskedLM", 116_606_010),
    ("data2vec-text", "Data2VecTextForMaskedLM", 109_514_298),
    ("ibert", "IBertForMaskedLM", 109_514_298),
    ("longformer", "LongformerForQuestionAnswering", 130_154_498),
    ("roberta-prelayernorm", "RobertaPreLayerNormForMaskedLM", 124_698_201),
    ("xlm-roberta-xl", "XLMRobertaXLForMaskedLM", 3_482_741_760),
    ("convbert", "ConvBertForMaskedLM", 106_303_170),
    ("nystromformer", "NystromformerForMaskedLM", 109_122_240),
    ("yoso", "YosoForSequenceClassification", 127_399_682),
    ("deberta", "DebertaForSequenceClassification", 124_635_650),
    ("deberta", "DebertaForMaskedLM", 124_685_913),
    ("gte", "GteModel", 305_368_320),
    ("jina_embeddings_v3", "JinaEmbeddingsV3Model", 559_364_096),
    ("eurobert", "EuroBertForMaskedLM", 310_266_624),
    ("ultrabert", "UltrabertForMaskedLM", 6_744_707_072),
    ("ultrabert", "UltrabertForSequenceClassification", 6_607_351_810),
    ("mobilebert", "MobileBertForPreTraining", 36_860_220),
    ("squeezebert", "SqueezeBertForMaskedLM", 51_712_314),
    ("fnet", "FNetForMaskedLM", 83_485_184),
    ("xlm", "XLMWithLMHeadModel", 667_119_041),
    ("flaubert", "FlaubertForSequenceClassification", 667_092_994),
    ("led", "LEDForConditionalGeneration", 459_801_600),
    ("bigbird_pegasus", "BigBirdPegasusForConditionalGeneration", 576_891_904),
    ("pegasus_x", "PegasusXForConditionalGeneration", 568_568_832),
    ("mvp", "MvpForConditionalGeneration", 406_293_504),
    ("fsmt", "FSMTForConditionalGeneration", 483_913_728),
    ("nllb-moe", "NllbMoeForConditionalGeneration", 6_880_712_704),
    ("t5gemma", "T5GemmaForConditionalGeneration", 5_596_853_760),
    ("prophetnet", "ProphetNetForConditionalGeneration", 391_321_600),
    ("trocr", "TrOCRForCausalLM", 253_559_808),
    ("moonshine_streaming", "MoonshineStreamingForConditionalGeneration", 44_054_721),
    ("pix2struct", "Pix2StructForConditionalGeneration", 282_285_696),
    ("pop2piano", "Pop2PianoForConditionalGeneration", 59_108_352),
]


@pytest.mark.parametrize(("model_type", "name", "parameters"), COUNTED, ids=[name for _, name, _ in COUNTED])
def test_class_defaults(model_type: str, name: str, parameters: int) -> None:
    arch = read_architecture({"model_type": model_type, "architectures": [name]})
    assert arch.expected_parameters() == parameters


def cached(arch: Architecture, context: int, source: int) -> int:
    serving = Serving(context=context, num_seqs=1, engine="transformers", source_tokens=source)
    return engine("transformers").cache(arch, serving).bytes


def test_pix2struct_attends_over_its_patches() -> None:
    # Pix2StructForConditionalGeneration's cache after 12 tokens over 9 patches: 16,128 B, 3 layers of 4 heads × 8
    text = {"hidden_size": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4, "vocab_size": 50}
    seen = {"hidden_size": 32, "patch_embed_hidden_size": 20, "d_ff": 48, "d_kv": 8, "num_hidden_layers": 2}
    seen |= {"num_attention_heads": 4, "seq_len": 64}
    config = {"model_type": "pix2struct", "dtype": "float32", "text_config": text, "vision_config": seen}
    arch = read_architecture(config)
    assert arch.expected_parameters() == 64_384  # of the same model in transformers 5.23.0
    assert cached(arch, 12, 9) == 3 * (12 + 9) * 2 * 32 * 4 == 16_128


BERT: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 100,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
}
#: embeddings with their norm; a block: q, k, v and out, feed-forward, two norms
EMBEDDED = (100 + 32 + 2) * 64 + 2 * 64
ATTENTION = 4 * (64 * 64 + 64)
BLOCK = ATTENTION + 2 * 64 * 96 + 96 + 64 + 2 * 2 * 64
HEAD = 64 * 64 + 64 + 2 * 64 + 100  # dense, norm, bias; the output matrix is the embedding


def test_an_encoder_keeps_nothing_and_a_decoder_keeps_keys() -> None:
    encoder = read_architecture(BERT | {"architectures": ["BertForMaskedLM"]})
    decoder = read_architecture(BERT | {"architectures": ["BertLMHeadModel"], "is_decoder": True, "dtype": "bfloat16"})
    assert encoder.expected_parameters() == decoder.expected_parameters() == EMBEDDED + 3 * BLOCK + HEAD
    assert bytes_per_token(encoder) == 0
    assert bytes_per_token(decoder) == 3 * 2 * 64 * 2


def test_an_untied_head_has_weight_and_bias_of_its_own() -> None:
    tied = read_architecture(BERT | {"architectures": ["BertForMaskedLM"]})
    apart = read_architecture(BERT | {"architectures": ["BertForMaskedLM"], "tie_word_embeddings": False})
    assert apart.expected_parameters() - tied.expected_parameters() == 100 * 64 + 100


def test_bert_to_bert() -> None:
    # the encoder with its pooler; the decoder's blocks have cross attention with a norm, the widths differ by a projection
    wide = BERT | {"hidden_size": 32, "num_hidden_layers": 2}
    pair = {"model_type": "encoder-decoder", "architectures": ["EncoderDecoderModel"], "dtype": "float32"}
    arch = read_architecture(pair | {"encoder": BERT, "decoder": BERT | {"architectures": ["BertForMaskedLM"]}})
    cross = ATTENTION + 2 * 64
    assert arch.expected_parameters() == (EMBEDDED + 3 * BLOCK + 64 * 64 + 64) + (EMBEDDED + 3 * (BLOCK + cross) + HEAD)
    assert "decoder.bert.encoder.layer.{}.crossattention.self.key.weight" in {s.pattern for s in arch.tensors}
    # three layers of keys and values of 64, own and the encoder's, fp32
    assert cached(arch, 50, 20) == 3 * 2 * 64 * 4 * (50 + 20)
    assert len(arch.layers) == 6
    projected = read_architecture(pair | {"encoder": wide, "decoder": BERT})
    assert [s.shape for s in projected.tensors if s.pattern == "enc_to_dec_proj.weight"] == [(64, 32)]


def test_vit_to_gpt2() -> None:
    vit = {"model_type": "vit", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vit |= {"intermediate_size": 96, "image_size": 32, "patch_size": 8}
    gpt2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 32}
    arch = read_architecture({"model_type": "vision-encoder-decoder", "encoder": vit, "decoder": gpt2})
    alone = read_architecture(gpt2).expected_parameters() + read_architecture(vit).expected_parameters()
    assert arch.expected_parameters() == alone + 2 * (ATTENTION + 2 * 64)
    assert "decoder.transformer.h.{}.crossattention.q_attn.weight" in {s.pattern for s in arch.tensors}
    assert arch.layers[0].caches == (FullAttention(4, 4, 16, 16), CrossAttention(4, 4, 16, 4 * 4 + 1))


def test_parts_that_do_not_go_together_are_refused() -> None:
    pair: dict[str, Any] = {"model_type": "encoder-decoder", "encoder": BERT}
    with pytest.raises(UnknownArchitectureError, match="llama"):
        read_architecture(pair | {"decoder": {"model_type": "llama"}})
    with pytest.raises(UnknownArchitectureError, match="no-such"):
        read_architecture(pair | {"decoder": {"model_type": "no-such"}})


def test_t5gemma_slides_and_looks_at_the_encoder() -> None:
    # google/t5gemma-2b-2b: 26 layers of 8 heads and 4 KV heads of 256, every second one full, windows of 4096
    arch = read_architecture({"model_type": "t5gemma", "dtype": "bfloat16"})
    assert arch.layers[0].caches[0] == SlidingAttention(8, 4, 256, 256, 4096)
    assert arch.layers[1].caches == (FullAttention(8, 4, 256, 256), CrossAttention(8, 4, 256, None))
    row = 2 * 4 * 256 * 2
    assert cached(arch, 5000, 300) == 13 * row * 5000 + 13 * row * 4095 + 26 * row * 300
    assert isinstance(arch.layers[-1].caches[0], NoCache)


def test_nllb_moe_picks_two_experts() -> None:
    # facebook/nllb-moe-54b: every fourth of 24 + 24 layers has 128 experts of 2 · 2048 · 8192
    moe = {"model_type": "nllb-moe", "d_model": 2048, "encoder_layers": 24, "decoder_layers": 24, "num_experts": 128}
    moe |= {"encoder_ffn_dim": 8192, "decoder_ffn_dim": 8192, "encoder_sparse_step": 4, "decoder_sparse_step": 4}
    moe |= {"encoder_attention_heads": 16, "decoder_attention_heads": 16, "vocab_size": 256_206}
    arch = read_architecture(moe)
    expert = 2 * 2048 * 8192 + 8192 + 2048
    norms, attention = 2 * 2048, 4 * (2048 * 2048 + 2048)
    shared = 24 * (attention + 2 * norms) + 24 * (2 * attention + 3 * norms) + 36 * expert + 2 * norms
    total = 256_206 * 2048 + shared + 12 * (128 * expert + 128 * 2048)
    assert arch.expected_parameters() == total
    assert arch.active_parameters() == total - 12 * 126 * expert


@pytest.mark.parametrize(
    ("model_type", "broken", "key"),
    [
        ("ernie", {"hidden_size": "768"}, "hidden_size"),
        ("longformer", {"num_attention_heads": 7}, "hidden_size"),
        ("esm", {}, "vocab_size"),
        ("xmod", {"languages": "en_XX"}, "languages"),
        ("led", {"decoder_attention_heads": 7}, "decoder_attention_heads"),
        ("nllb-moe", {"encoder_sparse_step": "4"}, "encoder_sparse_step"),
        ("fsmt", {"tgt_vocab_size": None}, "tgt_vocab_size"),
        ("t5gemma", {"decoder": {"hidden_size": "big"}}, "hidden_size"),
        ("prophetnet", {"num_buckets": 0}, "num_buckets"),
        ("gte", {"type_vocab_size": [1]}, "type_vocab_size"),
        ("convbert", {"head_ratio": 0}, "head_ratio"),
        ("nemotron_h", {"layers_block_type": 7}, "layers_block_type"),
        ("squeezebert", {"embedding_size": 96}, "embedding_size"),
    ],
)
def test_a_broken_value_is_an_error_that_names_its_key(model_type: str, broken: dict[str, Any], key: str) -> None:
    with pytest.raises(HfmemError, match=key):
        read_architecture({"model_type": model_type, **broken})


def test_widths_that_heads_do_not_share() -> None:
    with pytest.raises(ContradictionError, match="do not share"):
        read_architecture({"model_type": "convbert", "hidden_size": 90, "num_attention_heads": 8, "head_dim": 8})
