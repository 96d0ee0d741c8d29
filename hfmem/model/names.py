"""What a tensor is by its name alone, for tensors that no family's inventory explains."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from hfmem.model.inventory import Component


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: names that classes put before a model's own tensors, any number of times; they never tell two tensors of one model apart
WRAPPERS: Final = _words(
    "model transformer language_model text_model base_model module _orig_mod llm thinker bert roberta gpt_neox "
    "embedding_model pretrained_model ultrabert"
)

#: old spellings of a norm's parameters (TensorFlow's BERT), which transformers renames on loading
_RENAMED: Final = {"gamma": "weight", "beta": "bias"}

_VISION: Final = _words(
    "vision_tower visual vision_model vision vision_encoder vision_embed_tokens vision_backbone vit vpm vison resampler aligner "
    "multi_modal_projector mm_projector mlp1 projector connector image_newline embed_vision audio_tower audio_model audio "
    "audio_encoder speech_encoder conformer embed_audio image_encoder image_projection qformer perceiver_resampler "
    "audio_decoder vocoder gene_projector"
)
_MTP: Final = _words("mtp mtp_layers nextn mtp_emb_norm eh_proj enorm hnorm shared_head")
_HEAD: Final = _words("lm_head output_layer embed_out head output")
_EMBEDDING: Final = _words(
    "embed_tokens wte wpe word_embeddings embeddings embed_in embed_positions tok_embeddings shared token_embd embedding "
    "position_embeddings embed_tokens_per_layer word_embeddings_layernorm position_embd token_types"
)
_ATTENTION: Final = _words(
    "self_attn attn attention self_attention linear_attn mixer mamba ssm temporal_block indexer short_conv conv "
    "SelfAttention EncDecAttention encoder_attn cross_attn attention_output time_mix "
    "q_proj k_proj v_proj o_proj qkv_proj c_attn"
)
_MLP: Final = _words(
    "mlp feed_forward ffn fc1 fc2 fc_in fc_out gate_proj up_proj down_proj dense_h_to_4h dense_4h_to_h w1 w2 w3 "
    "DenseReluDense intermediate feed_forward_layer channel_mix shared_expert shared_experts shared_mlp c_fc"
)
_BUFFER_LEAVES: Final = _words(
    "inv_freq position_ids masked_bias e_score_correction_bias final_logits_bias num_batches_tracked running_mean running_var "
    "token_type_ids freqs_cis tid2eid cos_cached sin_cached cluster_size cluster_usage embed_avg embed_sum inited initialized"
)
_ROUTER: Final = _words("gate router wg shared_expert_gate ffn_gate_inp")


def core(pattern: str) -> str:
    """The pattern without what wrappers put in front of it and with today's leaf names."""
    parts = pattern.split(".")
    start = 0
    while start + 1 < len(parts) and parts[start] in WRAPPERS:
        start += 1
    leaf = parts[-1]
    if leaf in _RENAMED and len(parts) > 1 and "norm" in parts[-2].lower():
        parts[-1] = _RENAMED[leaf]
    return ".".join(parts[start:])


def is_buffer_name(pattern: str, shape: Sequence[int]) -> bool:
    """Whether a tensor no inventory explains is a stored buffer: positions, masks, rotary tables, running statistics."""
    parts = pattern.split(".")
    leaf = parts[-1]
    if (
        leaf in _BUFFER_LEAVES or "exp_probs_b" in parts or parts[-2:] == ["codebook", "embed"]
    ):  # EnCodec counts it, too
        return True
    # the causal mask of GPT-2, GPT-Neo and GPT-J: [1, 1, positions, positions] under the name of a bias
    return leaf == "bias" and len(shape) == 4 and shape[0] == shape[1] == 1 and shape[2] == shape[3] > 1


def is_router(pattern: str) -> bool:
    """Whether a tensor under the experts' component chooses experts (used whole by every token) rather than being one."""
    return not any("experts" in part or "_exps" in part or part == "switch_mlp" for part in pattern.split(".")) or any(
        part in _ROUTER for part in pattern.split(".")[-2:]
    )


def classify(pattern: str) -> Component:
    """The component of a tensor by its name alone, for tensors that no inventory explains; `other` where nothing is known."""
    parts = [part for part in core(pattern).split(".") if part != "{}"]
    words = set(parts)
    gguf = " ".join(parts)
    if not parts:  # a name of numbers alone
        return Component.OTHER
    module = parts[-2] if len(parts) > 1 else parts[-1]
    if words & _VISION or gguf.startswith(("v ", "mm ", "a ")):
        return Component.VISION
    if words & _MTP or "nextn" in gguf:
        return Component.MTP
    if words & {"shared_expert", "shared_experts", "shared_mlp"} or "_shexp" in gguf:
        return Component.MLP
    if (
        words & {"experts", "switch_mlp"}
        or "_exps" in gguf
        or module == "ffn_gate_inp"
        or (module in _ROUTER and words & {"mlp", "block_sparse_moe", "moe", "ffn"})
    ):
        return Component.EXPERTS
    if "norm" in module.lower() or re.fullmatch(r"ln_?\w*|\w+_ln", module):
        return Component.NORM
    if words & _EMBEDDING:
        return Component.EMBEDDING
    if module in _HEAD:
        return Component.LM_HEAD
    if words & _ATTENTION or module.startswith(("attn_", "ssm_", "shortconv")):
        return Component.ATTENTION
    if words & _MLP or module.startswith("ffn_"):
        return Component.MLP
    return Component.OTHER
