"""Text decoders that are none of the usual builds: sizes and caches by hand, from the published configs' own numbers.

Parameters at class defaults are in `test_families_class_defaults.py`; drawn models in `test_families_against_transformers.py`.
"""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.errors import ContradictionError, UnsupportedError
from hfmem.memory.cache import bytes_per_token, layer_bytes
from hfmem.memory.engines import engine
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.families.registry import read_architecture
from hfmem.model.layers import FullAttention, MatrixMemoryState, NoCache, SlidingAttention, SparseLatentAttention


def cached(arch: Architecture, context: int, name: str = "transformers") -> int:
    return engine(name).cache(arch, Serving(context=context, num_seqs=1, engine=name)).bytes


HRM: dict[str, Any] = {
    "model_type": "hrm_text",
    "architectures": ["HrmTextForCausalLM"],
    "dtype": "bfloat16",
    "hidden_size": 1536,
    "num_attention_heads": 12,
    "head_dim": 128,
    "intermediate_size": 4096,
    "vocab_size": 65536,
    "H_cycles": 2,
    "L_cycles": 3,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize("spelled", [{"num_hidden_layers": 16}, {"num_hidden_layers": 128, "num_layers_per_stack": 16}])
def test_hrm_keeps_keys_of_every_pass(spelled: dict[str, int]) -> None:
    # two stacks of 16 blocks of 4·1536² (gate, q, k, v) + 1536² + 3·1536·4096; 2 · (3 + 1) passes of 16 blocks, 2·12·128 · 2 B each
    arch = read_architecture(HRM | spelled)
    block = 5 * 1536 * 1536 + 3 * 1536 * 4096
    assert arch.expected_parameters() == 2 * 65536 * 1536 + 1536 + 2 * 16 * block
    assert bytes_per_token(arch) == 2 * 4 * 16 * 2 * 12 * 128 * 2 == 786_432
    assert cached(arch, 100) == 100 * 786_432
    with pytest.raises(UnsupportedError, match="pipeline"):
        engine("vllm").cache(arch, Serving(context=100, num_seqs=1, engine="vllm", pp=2))


def test_xlstm_keeps_a_matrix() -> None:
    # NX-AI/xLSTM-7b: 32 layers of 8 heads, keys of 256, values of 512: matrix, normaliser and maximum in the model's dtype
    arch = read_architecture({"model_type": "xlstm", "dtype": "float32", "hidden_size": 4096, "num_heads": 8})
    assert arch.layers[0].caches == (MatrixMemoryState(8, 256, 512),)
    state = 32 * (8 * 256 * 512 + 8 * 256 + 8) * 4
    assert cached(arch, 10) == cached(arch, 10_000) == state
    assert bytes_per_token(arch) == 0
    with pytest.raises(UnsupportedError, match="no state cache"):
        cached(arch, 10, "vllm")
    with pytest.raises(ContradictionError, match="heads do not share"):
        read_architecture({"model_type": "xlstm", "hidden_size": 4096, "num_heads": 3})


DOTS: dict[str, Any] = {
    "model_type": "dots3_note_text",
    "dtype": "bfloat16",
    "num_hidden_layers": 6,
    "sliding_window_size": 512,
    "swa_kv_lora_rank": 1024,
    "swa_qk_rope_head_dim": 64,
}


def test_dots3_note_windows_hold_latents() -> None:
    # layers 0, 1 and 5 read what an indexer picks (512 + 64 and a key of 128); 2, 3 and 4 slide over latents of 1024 + 64
    arch = read_architecture(DOTS)
    kinds = [type(layer.caches[0]) for layer in arch.layers]
    assert kinds == [SparseLatentAttention] * 2 + [SlidingAttention] * 3 + [SparseLatentAttention]
    assert bytes_per_token(arch) == 3 * (512 + 64 + 128) * 2
    assert layer_bytes(arch.layers[2].caches[0], 10_000, "bf16", "BF16") == 512 * (1024 + 64) * 2
    plain = read_architecture(DOTS | {"use_dsa": False})
    assert bytes_per_token(plain) == 3 * (512 + 64) * 2
    index = 3 * (64 * 128 * 1024 + 128 * 5120 + 64 * 5120 + 2 * 128)
    assert arch.expected_parameters() - plain.expected_parameters() == index


def test_dots3_note_as_transformers_saves_it() -> None:
    own = {
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "q_lora_rank": 512,
        "kv_lora_rank": 768,
        "qk_nope_head_dim": 192,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
    }
    kinds = ["indexed_attention", "full_attention", "sliding_attention"]
    saved = DOTS | {"num_hidden_layers": 3, "layer_types": kinds, "per_layer_config": {"2": own}, "sliding_window": 256}
    arch = read_architecture(saved)
    assert arch.layers[2].caches == (SlidingAttention(32, 1, 768, 64, 256),)
    assert bytes_per_token(arch) == (512 + 64 + 128 + 512 + 64) * 2


ASSISTANT: dict[str, Any] = {
    "model_type": "gemma4_assistant",
    "architectures": ["Gemma4AssistantForCausalLM"],
    "dtype": "bfloat16",
    "backbone_hidden_size": 1536,
    "use_ordered_embeddings": True,
    "num_centroids": 2048,
    "text_config": {
        "model_type": "gemma4_text",
        "hidden_size": 256,
        "intermediate_size": 2048,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "global_head_dim": 512,
        "vocab_size": 262144,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 0,
        "num_kv_shared_layers": 4,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    },
}


def test_gemma4_assistant_has_no_keys_of_its_own() -> None:
    # three layers of 4 · 256 queries and one of 4 · 512, gated feed-forwards of 2048, four norms a layer; no k, no v
    arch = read_architecture(ASSISTANT)
    attention = 2 * 256 * (3 * 4 * 256 + 4 * 512) + 3 * 256 + 512
    rest = 4 * (3 * 256 * 2048 + 4 * 256) + 256
    ends = 262_144 * 256 + 2 * 1536 * 256 + 256 * 1536 + 2048 * 256
    assert arch.expected_parameters() == attention + rest + ends
    assert {type(cache) for cache in arch.caches()} == {NoCache}
    assert not [s for s in arch.tensors if "k_proj" in s.pattern or "v_proj" in s.pattern]


def test_blt_keeps_every_byte_twice_over() -> None:
    # one local encoder layer and nine local decoder layers of 16 heads of 64; the global stack keeps nothing
    arch = read_architecture({"model_type": "blt", "dtype": "bfloat16"})
    assert bytes_per_token(arch) == (1 + 9) * 2 * 16 * 64 * 2
    assert sum(isinstance(cache, FullAttention) for cache in arch.caches()) == 10
    assert "patches_anew" in {note.code for note in arch.notes}


def test_inkling2_windows_and_convolutions() -> None:
    # every sixth of 48 layers sees everything: 8 · 2 · 8 heads · 128 · 2 B a token; four convolutions of 4 columns a layer, in fp32
    arch = read_architecture({"model_type": "inkling2_text", "dtype": "bfloat16"})
    assert bytes_per_token(arch) == 8 * 2 * 8 * 128 * 2
    states = 48 * (2 * 8 * 128 + 2 * 4608) * 4 * 4
    windows = 40 * 1023 * 2 * 8 * 128 * 2
    assert cached(arch, 5000) == 5000 * 8 * 4096 + windows + states
