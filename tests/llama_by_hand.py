"""A Llama of two layers by its shapes: the tensors of its files and the products that count them."""

from __future__ import annotations

from hfmem.checkpoint.grouping import group_tensors
from hfmem.checkpoint.tensors import Checkpoint
from hfmem.model.architecture import Architecture
from hfmem.model.families.registry import read_architecture
from hfmem.model.parameters import (
    ParameterReport,
)

LAYERS, HIDDEN, HEADS, KV, DIM, FF, VOCAB = 2, 64, 4, 2, 16, 96, 320
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "intermediate_size": FF,
    "vocab_size": VOCAB,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
ATTENTION = LAYERS * (2 * HEADS * DIM * HIDDEN + 2 * KV * DIM * HIDDEN)
MLP = LAYERS * 3 * HIDDEN * FF
NORM = (2 * LAYERS + 1) * HIDDEN
EMBEDDING = VOCAB * HIDDEN
TOTAL = ATTENTION + MLP + NORM + 2 * EMBEDDING


def files(prefix: str = "model.", dtype: str = "BF16", head: bool = True) -> list[tuple[str, str, tuple[int, ...]]]:
    """The tensors of a Llama checkpoint, as its files list them."""
    out: list[tuple[str, str, tuple[int, ...]]] = [(f"{prefix}embed_tokens.weight", dtype, (VOCAB, HIDDEN))]
    for i in range(LAYERS):
        at = f"{prefix}layers.{i}"
        out += [
            (f"{at}.self_attn.q_proj.weight", dtype, (HEADS * DIM, HIDDEN)),
            (f"{at}.self_attn.k_proj.weight", dtype, (KV * DIM, HIDDEN)),
            (f"{at}.self_attn.v_proj.weight", dtype, (KV * DIM, HIDDEN)),
            (f"{at}.self_attn.o_proj.weight", dtype, (HIDDEN, HEADS * DIM)),
            (f"{at}.mlp.gate_proj.weight", dtype, (FF, HIDDEN)),
            (f"{at}.mlp.up_proj.weight", dtype, (FF, HIDDEN)),
            (f"{at}.mlp.down_proj.weight", dtype, (HIDDEN, FF)),
            (f"{at}.input_layernorm.weight", dtype, (HIDDEN,)),
            (f"{at}.post_attention_layernorm.weight", dtype, (HIDDEN,)),
        ]
    out.append((f"{prefix}norm.weight", dtype, (HIDDEN,)))
    if head:
        out.append(("lm_head.weight", dtype, (VOCAB, HIDDEN)))
    return out


def checkpoint(tensors: list[tuple[str, str, tuple[int, ...]]]) -> Checkpoint:
    return Checkpoint(group_tensors(tensors), "safetensors", 1, None)


def arch(**changes: object) -> Architecture:
    return read_architecture(CONFIG | changes)


def counted(report: ParameterReport) -> dict[str, int]:
    return {name: count for name, count in report.by_component.items() if count}
