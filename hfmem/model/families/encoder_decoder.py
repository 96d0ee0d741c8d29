"""An encoder and a decoder of other families in one model: Donut, Nougat, TrOCR, ViT-GPT2, BERT2BERT, Wav2Vec2 with mBART.

Each half is described by its own family's rule, under `encoder.` and `decoder.`; the decoder attends over the encoder's output too.

Source: transformers 5.23.0 `models/{vision_encoder_decoder,encoder_decoder,trocr}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.blocks import Dims, assemble, read_dtype
from hfmem.model.config import Config
from hfmem.model.families import registry, vision
from hfmem.model.families.bart import attention, block, decoder_layers, read_heads
from hfmem.model.families.multimodal import Renames, rename, text_architecture
from hfmem.model.families.parts import Part
from hfmem.model.inventory import Component, Inventory, TensorSpec, Vocab
from hfmem.model.layers import CrossAttention, FullAttention, Layer
from hfmem.records import replace

#: the class that `AutoModelForCausalLM` makes of each decoder, and how its names stand under `decoder.`
_DECODERS: dict[str, tuple[str, Renames]] = {
    "mbart": ("MBartForCausalLM", (("", "decoder."),)),
    "bart": ("BartForCausalLM", (("", "decoder."),)),
    "trocr": ("TrOCRForCausalLM", (("", "decoder."),)),
    "gpt2": ("GPT2LMHeadModel", (("lm_head.", "decoder.lm_head."), ("", "decoder.transformer."))),
    "bert": ("BertLMHeadModel", (("", "decoder."),)),
    "roberta": ("RobertaForCausalLM", (("", "decoder."),)),
    "xlm-roberta": ("XLMRobertaForCausalLM", (("", "decoder."),)),
    "camembert": ("CamembertForCausalLM", (("", "decoder."),)),
    "electra": ("ElectraForCausalLM", (("", "decoder."),)),
    "bert-generation": ("BertGenerationDecoder", (("", "decoder."),)),
    "ernie": ("ErnieForCausalLM", (("", "decoder."),)),
    "rembert": ("RemBertForCausalLM", (("", "decoder."),)),
    "xlm-roberta-xl": ("XLMRobertaXLForCausalLM", (("", "decoder."),)),
}


def _source_tokens(encoder: Config) -> int | None:
    """Positions of an image encoder's output; None where the input's length decides."""
    match encoder.model_type:
        case "vit" | "beit" | "dinov2":
            return vision.patches(encoder) + 1
        case "deit":
            return vision.patches(encoder) + 2
        case "swin" | "swinv2" | "donut-swin":
            (height, width), (ph, pw) = vision.side(encoder, "image_size"), vision.side(encoder, "patch_size")
            halvings = len(encoder.need_numbers("depths")) - 1
            return -(-height // (ph << halvings)) * -(-width // (pw << halvings))
    return None


def _halves(encoder: Architecture) -> tuple[TensorSpec, ...]:
    """The encoder's tensors; published files often leave out its pooler, which the decoder does not read."""
    named = rename(encoder.tensors, (("", "encoder."),))
    return tuple(replace(s, optional=True) if s.pattern.startswith("encoder.pooler.dense.") else s for s in named)


def encoder_decoder(cfg: Config) -> Architecture:
    """Both halves by their own rules, a projection between them where their widths differ, no tie across."""
    enc, dec = cfg.sub("encoder"), cfg.sub("decoder")
    encoder = text_architecture(enc)
    name, renames = _DECODERS[cfg.choice("decoder.model_type", dec.model_type, tuple(_DECODERS))]
    crossed = {"is_decoder": True, "add_cross_attention": True, "architectures": [name]}
    data = {**dec.data, **crossed}
    decoder = registry.rule(dec.model_type)(Config(data, dec.file, dec.model_type, cfg.used_defaults))
    inv = Inventory()
    wide = dec.opt_int("cross_attention_hidden_size")
    if wide is None and encoder.hidden_size != decoder.hidden_size:
        Part(inv, component=Component.OTHER).linear("enc_to_dec_proj", decoder.hidden_size, encoder.hidden_size)
    source = _source_tokens(enc)
    kept = [cache for cache in decoder.caches() if isinstance(cache, FullAttention)]
    layers = [Layer((own, CrossAttention(own.num_heads, own.num_kv_heads, own.head_dim, source))) for own in kept]
    published = cfg.published("architectures")
    return replace(
        decoder,
        family="encoder_decoder",
        model_type=cfg.model_type,
        architectures=tuple(a for a in published if isinstance(a, str)) if isinstance(published, list) else (),
        dtype=read_dtype(cfg, dec, enc),
        layers=(*layers, *encoder.layers),
        tensors=(*rename(decoder.tensors, renames), *_halves(encoder), *inv.specs),
        class_defaults=tuple(cfg.used_defaults),
        notes=(*decoder.notes, *encoder.notes),
    )


def trocr(cfg: Config) -> Architecture:
    """TrOCR's decoder alone: BART's decoder over features of `cross_attention_hidden_size`, its head under another name."""
    hidden, vocab = cfg.positive("d_model", "hidden_size"), cfg.positive("vocab_size")
    heads = read_heads(cfg, hidden, "decoder_attention_heads", "num_attention_heads")
    count, width = cfg.positive("decoder_layers", "num_hidden_layers"), cfg.positive("decoder_ffn_dim")
    features = cfg.opt_int("cross_attention_hidden_size") or hidden
    tied = cfg.flag("tie_word_embeddings")
    inv = Inventory()
    part = Part(inv, "model.decoder.")
    embedded = "model.decoder.embed_tokens.weight"
    part.tensor("embed_tokens.weight", (vocab, hidden), Component.EMBEDDING, Vocab())
    if cfg.flag("use_learned_position_embeddings"):
        rows = cfg.positive("max_position_embeddings") + 2
        part.tensor("embed_positions.weight", (rows, hidden), Component.EMBEDDING)
    if cfg.flag("layernorm_embedding"):
        part.norm("layernorm_embedding", hidden)
    inner = part.at("layers.{}.", range(count))
    block(inner, hidden, width, heads, cross=False)
    attention(inner, "encoder_attn", hidden, heads=heads, features=features)
    inner.norm("encoder_attn_layer_norm", hidden)
    to = embedded if tied else None
    Part(inv).tensor("output_projection.weight", (vocab, hidden), Component.LM_HEAD, Vocab(), tied_to=to, optional=tied)
    d = Dims(hidden, count, heads, heads, hidden // heads)
    layers = decoder_layers(count, heads, d.head_dim, None, cross=False)
    return assemble(cfg, cfg, "trocr", d, layers, inv, vocab=vocab, tied=tied, intermediate=width)
