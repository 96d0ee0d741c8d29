"""What a weight is for, by its name and shape: all that deciding whether and how a quantizer touches it needs.

Names of transformers, of the original repositories they came from, and of GGUF. Nothing here reads a config.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import Final

from hfmem.checkpoint.tensors import TensorGroup


class Role(Enum):
    """The part a weight plays. `VECTOR` is anything of one axis; `OTHER` what is neither a matrix nor named."""

    VECTOR = "vector"
    EMBEDDING = "embedding"
    HEAD = "head"
    ROUTER = "router"
    CONVOLUTION = "convolution"
    VISION = "vision"
    Q = "q"
    K = "k"
    V = "v"
    QKV = "qkv"
    ATTENTION_OUT = "attention_out"
    GATE = "gate"
    UP = "up"
    DOWN = "down"
    MATRIX = "matrix"
    OTHER = "other"


#: matrices that a quantizer of linear layers takes
MATRICES: Final = frozenset(
    {Role.Q, Role.K, Role.V, Role.QKV, Role.ATTENTION_OUT, Role.GATE, Role.UP, Role.DOWN, Role.MATRIX}
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VISION: Final = re.compile(
    r"(^|\.)(vision|visual|image|img|vit|siglip|audio|speech|whisper|multi_modal_projector|mm_projector"
    r"|vpm|resampler|connector|aligner|patch_embed|embed_vision|embed_audio|modality_projection|mlp1"
    r")(_?(tower|model|backbone|encoder|embed_tokens|projection|projector|merger|pooling_2d|vit|newline|proj))*(\.|_|$)"
)
_EMBEDDING: Final = _words(
    "embed_tokens wte word_embeddings embed_in tok_embeddings token_embd embeddings embedding embed wpe "
    "embed_positions position_embeddings token_type_embeddings shared embed_tokens_per_layer emb new_embedding "
    "per_layer_token_embd position_embd token_types"
)
_HEAD: Final = _words("lm_head output embed_out output_layer head score classifier cls qa_outputs predictions")
_ROUTER: Final = _words(
    "gate router wg gate_inp ffn_gate_inp ffn_gate_inp_shexp shared_expert_gate classifier gate_network"
)
#: what scores or pools tokens beside attention (DeepSeek V3.2's indexer, V4's compressors): vLLM's classes give it no quantization;
#: what files keep in BF16 unnamed: Kimi K3's way into and out of its experts and its residual scores (57,179,884,544 elements),
#: the outputs of attention in MiMo-V2's prediction layers
_SCORES: Final = re.compile(
    r"\bindexer\.weights_proj\b|\bcompressor\.(?:wkv|wgate)\b|\brouted_expert_(?:down|up)_proj\b|_res_proj\b"
    r"|^model\.mtp\.layers\.\{\}\.self_attn\.o_proj\b"
)
_NAMES: Final = {
    Role.Q: "q_proj query wq attn_q to_q q_lin query_proj",
    Role.K: "k_proj key wk attn_k to_k k_lin key_proj",
    Role.V: "v_proj value wv attn_v to_v v_lin value_proj",
    Role.QKV: "qkv_proj query_key_value c_attn Wqkv qkv attn_qkv in_proj W_pack att_proj wqkv",
    Role.ATTENTION_OUT: "o_proj out_proj wo attn_output attn_out dense out_lin to_out",
    Role.GATE: "gate_proj w1 ffn_gate ffn_gate_exps ffn_gate_shexp gate_up_proj w13 ff_proj",
    Role.UP: "up_proj w3 ffn_up ffn_up_exps ffn_up_shexp fc1 fc_in c_fc dense_h_to_4h wi wi_0 wi_1",
    Role.DOWN: "down_proj w2 ffn_down ffn_down_exps ffn_down_shexp fc2 fc_out dense_4h_to_h ff_out",
}
_BY_NAME: Final = {name: role for role, names in _NAMES.items() for name in names.split()}
_EXPERTS: Final = re.compile(r"(^|\.)(experts|switch_mlp|local_experts)(\.|$)|_exps(\.|$)")
_LAYERS: Final = _words("layers h blocks block blk layer decoder_layers resblocks")


def is_expert(pattern: str) -> bool:
    """Whether the weight belongs to a routed expert (a shared expert does not count)."""
    return _EXPERTS.search(pattern) is not None


def is_prediction(pattern: str) -> bool:
    """Whether the weight belongs to prediction layers of their own name (DeepSeek's are its last decoder layers)."""
    return "mtp" in pattern.split(".")


def layer_axis(pattern: str) -> int | None:
    """Which `{}` of the pattern counts decoder layers, None where none does."""
    parts = pattern.split(".")
    fields = [i for i, part in enumerate(parts) if part == "{}"]
    for axis, at in enumerate(fields):
        if at and parts[at - 1] in _LAYERS:
            return axis
    return 0 if fields else None


def vocabulary(groups: Iterable[TensorGroup]) -> int | None:
    """Rows of the token embedding: the largest matrix that is named like one."""
    rows = [
        max(group.shape)
        for group in groups
        if len(group.shape) == 2 and _name(group.pattern) in _EMBEDDING and "{}" not in group.pattern
    ]
    return max(rows, default=None)


def role_of(group: TensorGroup, vocab: int | None) -> Role:
    """The role of a group of (logical) weights; `vocab` is `vocabulary` of all of them."""
    pattern, shape = group.pattern, group.shape
    name = _name(pattern)
    if pattern.startswith(("v.", "mm.", "a.")) or _VISION.search(pattern):
        return Role.VISION
    expert = is_expert(pattern)
    if name in _EMBEDDING:
        return Role.EMBEDDING if len(shape) >= 2 else Role.VECTOR
    if name.endswith("bias") or (len(shape) < 2 and getattr(group, "shape_known", True)):
        return Role.VECTOR
    inside = layer_axis(pattern) is not None
    if not expert and ((vocab and len(shape) == 2 and shape[0] == vocab) or (name in _HEAD and not inside)):
        return Role.HEAD
    if not inside and name == "ff_out":  # Molmo and OLMo name the head as they name an MLP's last matrix
        return Role.HEAD
    if name in _ROUTER or _SCORES.search(pattern):
        return Role.ROUTER
    if "conv" in name or (len(shape) > 2 and not expert and min(shape[-2:]) < 32):  # a kernel's width is small
        return Role.CONVOLUTION
    if not pattern.endswith(".weight") and not expert:
        return Role.OTHER
    if name == "c_proj":  # GPT-2's and Qwen 1's attention and MLP use one name
        return Role.ATTENTION_OUT if ".attn." in pattern else Role.DOWN
    if name == "dense" and ".output." in pattern and ".attention." not in pattern:  # BERT
        return Role.DOWN
    if name == "wo" and "DenseReluDense" in pattern:  # T5
        return Role.DOWN
    if name == "in_proj" and ("mamba" in pattern or "mixer" in pattern):
        return Role.MATRIX
    return _BY_NAME.get(name, Role.MATRIX)


def _name(pattern: str) -> str:
    """The module's own name: `q_proj` of `model.layers.{}.self_attn.q_proj.weight`, also without the `.weight`."""
    parts = pattern.removesuffix(".weight").split(".")
    while len(parts) > 1 and parts[-1] == "{}":
        parts.pop()
    return parts[-1]
