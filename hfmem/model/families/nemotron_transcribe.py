"""Nemotron 3.5 Transcribe: a speech encoder, a model that tells speakers apart, a head for the times of words; before Nemotron-H.

Source: transformers 5.24.0 `models/{nemotron3_5_transcribe,nemotron3_diarization}/modeling_*.py`; names as its conversion table
(`conversion_mapping.py`, "nemo_speechlm") has them of NeMo's export.
"""

from __future__ import annotations

from collections.abc import Iterable

from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.families.multimodal import rename, text_part, tower, tower_layers, wrap
from hfmem.model.families.parts import COLUMN, ROW, Part
from hfmem.model.inventory import Component, ExpertSplit, Inventory, Replicated, TensorSpec
from hfmem.records import replace

_TEXT = (
    ("backbone.embeddings.", "llm.model.embed_tokens."),
    ("backbone.norm_f.", "llm.model.norm."),
    ("backbone.", "llm.model."),
    ("lm_head.", "llm.lm_head."),
)
_FP32 = (".A_log", ".D", ".dt_bias")
#: what `Nemotron3DiarizationHeadConfig` assumes
_HEAD = {"hidden_size": 192, "num_speakers": 8, "subsampling_factor": 8}
_EXPERTS = {"up_proj": "gate_and_up_projs", "down_proj": "down_projs"}


def _exported(specs: Iterable[TensorSpec]) -> list[TensorSpec]:
    """Nemotron-H's tensors as NeMo writes them: a layer's experts in one, inputs before outputs; three kinds apart in fp32."""
    found = []
    for spec in specs:
        head, at, leaf = spec.pattern.partition(".mixer.experts.{}.")
        if at and len(spec.boxes[0]) == 2:
            count, (out, width) = len(spec.boxes[0][1]), spec.shape
            inner = spec.split.inner if isinstance(spec.split, ExpertSplit) else Replicated()
            spec = replace(
                spec,
                pattern=f"{head}.mixer.experts.{_EXPERTS[leaf.removesuffix('.weight')]}",
                shape=(count, width, out),
                boxes=tuple((layers,) for layers, _ in spec.boxes),
                split=ExpertSplit(None, inner),
            )
        elif spec.pattern.endswith(_FP32):
            head, _, leaf = spec.pattern.rpartition(".")
            spec = replace(spec, pattern=f"{head}._fp32_params.{leaf}")
        found.append(spec)
    return found


def _encoder(part: Part, cfg: Config, *, qk_norm: bool = True) -> tuple[int, int]:
    """NeMo's transformer encoder: norms before both halves, biases but in q, k, v. Returns its width and number of layers."""
    width, count = cfg.positive("hidden_size"), cfg.positive("num_hidden_layers")
    inner = cfg.positive("intermediate_size")
    heads = cfg.positive("num_attention_heads")
    kv_heads = cfg.opt_int("num_key_value_heads") or heads
    part.norms(("embed_norm", "final_norm"), width)
    block = part.at("layers.{}.", range(count))
    block.norms(("norm1", "norm2"), width)
    block.linear("attn.w_qkv", width + (heads + kv_heads) * (width // heads), width, split=COLUMN, bias=False)
    block.linear("attn.out_proj", width, width, split=ROW)
    if qk_norm:
        block.norms(("attn.q_norm", "attn.k_norm"), width // heads)
    block.linear("ffn.net.0", inner, width, split=COLUMN)
    block.linear("ffn.net.3", width, inner, split=ROW)
    return width, count


def _stem(part: Part, cfg: Config) -> None:
    """Frames of the spectrogram side by side, projected."""
    stacked = cfg.positive("subsampling_factor") * cfg.positive("num_mel_bins")
    part.linear("pre_encode.proj", cfg.positive("hidden_size"), stacked, bias=False)


def _diarization(part: Part, cfg: Config) -> tuple[int, int]:
    """Sortformer: its own encoder and, at the spectrogram's rate again, who speaks. Returns its layers and how many speakers."""
    heard, head = cfg.sub("audio_config"), cfg.opt_sub("head_config")
    given = head.data if head is not None else {}
    own = Config({**_HEAD, **given}, f"{cfg.file}: head_config")
    _stem(part.at("encoder."), heard)
    width, count = _encoder(part.at("encoder."), heard, qk_norm=False)
    hidden, speakers = own.positive("hidden_size"), own.positive("num_speakers")
    at = part.at("sortformer_modules.")
    at.tensor("learnable_sil_emb", (width,))
    at.linear("encoder_proj", hidden, width)
    at.conv("subpixel_upsample", hidden * own.positive("subsampling_factor"), hidden, (3,))
    at.linear("first_hidden_to_hidden", hidden, hidden)
    at.linear("single_hidden_to_spks", speakers, hidden)
    return count, speakers


def nemo_speechlm(cfg: Config) -> Architecture:
    """The whole of Nemotron 3.5 Transcribe. What keeps state between chunks of sound is not counted, only Nemotron-H's cache."""
    text, inner = text_part(cfg)
    heard, times = cfg.sub("audio_config"), cfg.sub("word_timestamp_config")
    inv = Inventory()
    part = tower(inv, "perception.")
    speech = heard.sub("asr_config")
    _stem(part.at("encoder.asr_encoder."), speech)
    width, count = _encoder(part.at("encoder.asr_encoder."), speech)
    others, speakers = _diarization(part.at("encoder.diarization_model."), heard.sub("diarization_config"))
    part.norm("encoder.asr_norm", width)
    part.norm("encoder.diar_norm", speakers)
    part.linear("proj", inner.hidden_size, width)
    aligner = tower(inv, "ctc_timestamp.decoder.")
    step = times.positive("upsampling_factor")
    aligned, blocks = _encoder(aligner.at("transformer."), times)
    aligner.conv("upsample", aligned, aligned, (step,))
    Part(inv, component=Component.OTHER).conv(
        "ctc_timestamp.decoder.decoder_layers.0", times.positive("vocab_size"), aligned, (1,)
    )
    inner = replace(inner, tensors=tuple(_exported(rename(inner.tensors, _TEXT))))
    return wrap(cfg, text, inner, "nemotron_transcribe", (), inv, tower_layers(count + others + blocks, "audio"))
