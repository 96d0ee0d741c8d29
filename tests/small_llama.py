"""A Llama of two small layers: its config, its tensors, its parameters and the bytes of a token, by hand."""

from __future__ import annotations

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}


def llama_tensors(dtype: str = "BF16") -> list[tuple[str, str, tuple[int, ...]]]:
    """The tensors of `LLAMA`, by hand: head_dim is 64 / 4 = 16, so k and v have 2 × 16 = 32 rows."""
    found: list[tuple[str, str, tuple[int, ...]]] = [("model.embed_tokens.weight", dtype, (100, 64))]
    for layer in range(2):
        base = f"model.layers.{layer}"
        found += [
            (f"{base}.self_attn.q_proj.weight", dtype, (64, 64)),
            (f"{base}.self_attn.k_proj.weight", dtype, (32, 64)),
            (f"{base}.self_attn.v_proj.weight", dtype, (32, 64)),
            (f"{base}.self_attn.o_proj.weight", dtype, (64, 64)),
            (f"{base}.mlp.gate_proj.weight", dtype, (128, 64)),
            (f"{base}.mlp.up_proj.weight", dtype, (128, 64)),
            (f"{base}.mlp.down_proj.weight", dtype, (64, 128)),
            (f"{base}.input_layernorm.weight", dtype, (64,)),
            (f"{base}.post_attention_layernorm.weight", dtype, (64,)),
        ]
    return [*found, ("model.norm.weight", dtype, (64,)), ("lm_head.weight", dtype, (100, 64))]


#: embedding and head 100 × 64 each; a layer 64 × (64 + 32 + 32 + 64) + 3 × 128 × 64 + 2 × 64; the final norm 64
PARAMETERS = 2 * 6400 + 2 * (64 * 192 + 3 * 8192 + 128) + 64
#: K and V, 2 heads × 16, 2 bytes, 2 layers
TOKEN_BYTES = 2 * 2 * 16 * 2 * 2
