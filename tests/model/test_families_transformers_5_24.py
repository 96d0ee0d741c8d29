"""Classes new in transformers 5.24: parameters worked out by hand from the modules, caches as its classes held them after a step.

The caches were measured with 5.24.0 on small random models in fp32 and, for Inkling 2, bf16: a prompt of 22 tokens, one more.
"""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.errors import ContradictionError
from hfmem.memory.engines import engine
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.families.registry import read_architecture


def cached(arch: Architecture, context: int = 23) -> int:
    return engine("transformers").cache(arch, Serving(context=context, num_seqs=1, engine="transformers")).bytes


DORY: dict[str, Any] = {
    "model_type": "dory",
    "dtype": "float32",
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 7,
    "n_input_layers": 2,
    "n_output_layers": 2,
    "n_recurrent_loops": 3,
}


def test_dory_4b_is_the_class_itself() -> None:
    # nvidia/NVIDIA-Nemotron-Labs-Dory1.0-4B: 36 layers; q, gate and o of 16 × 256, k and v of 4 × 256, two vectors of 4,096 and
    # two of 7,168, two learning rates of the residuals; a head with a scale a word
    layer = 3 * 4096 * 2560 + 2 * 1024 * 2560 + 2 * 4096 + 3 * 7168 * 2560 + 2 * 7168 + 2 * 2560
    arch = read_architecture({"model_type": "dory", "dtype": "bfloat16"})
    assert arch.expected_parameters() == 2 * 131_072 * 2560 + 131_072 + 36 * layer == 3_975_229_440


@pytest.mark.parametrize(("mode", "kept"), [("per_loop", 14_208), ("last_loop", 6784)])
def test_dory_counts_layers_or_blocks(mode: str, kept: int) -> None:
    layers = read_architecture(DORY | {"recurrent_kv_cache_mode": mode})
    kinds = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"] * 2
    blocks = {
        "layer_types": [block for kind in kinds[:6] for block in (kind, "mlp")],
        "num_hidden_layers": 12,
        "n_input_layers": 4,
        "n_output_layers": 4,
    }
    written = read_architecture(DORY | blocks | {"recurrent_kv_cache_mode": mode})  # as the class saves the same model
    assert cached(layers) == cached(written) == kept
    assert layers.expected_parameters() == written.expected_parameters() == 56_818
    assert layers.tensors == written.tensors


def test_dory_with_biases_and_one_table() -> None:
    arch = read_architecture(DORY | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True})
    # q and k, v and o; gate, up and down; the head is the embedding
    assert arch.expected_parameters() == 56_818 + 6 * (32 + 2 * 16 + 32) + 6 * (2 * 48 + 32) - 50 * 32


def test_dory_layers_must_add_up() -> None:
    with pytest.raises(ContradictionError, match="are not 12"):
        read_architecture(DORY | {"n_recurrent_layers": 3})


LARA: dict[str, Any] = {
    "model_type": "lara_mini",
    "dtype": "float32",
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 7,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 24,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}


def test_lara_4_mini() -> None:
    # translated/Lara-4-Mini-Base: layers of a delta net (0 and 2 of every five: 14 of 34) or attention (20), 128 experts of 512
    hidden = 1024
    net = (2 * 1024 + 2 * 2048 + 2 * 16) * hidden + 4 * 4096 + 2 * 16 + 128 + 2048 * hidden
    attention = 2 * 2048 * hidden + 2 * 512 * hidden + 2 * 128
    rest = 128 * 3 * 512 * hidden + 3 * 512 * hidden + 128 * hidden + 2 * hidden
    arch = read_architecture({"model_type": "lara_mini", "dtype": "bfloat16"})
    assert (
        arch.expected_parameters() == 151_936 * hidden + 14 * net + 20 * attention + 34 * rest + hidden == 7_281_684_672
    )
    # of 128 experts a token uses 4
    idle = 34 * 124 * 3 * 512 * hidden
    assert arch.active_parameters() == 7_281_684_672 - idle


def test_lara_keeps_states_windows_and_all_tokens() -> None:
    arch = read_architecture(LARA)
    assert cached(arch) == 16_000
    assert arch.expected_parameters() == 141_864


INKLING: dict[str, Any] = {
    "vocab_size": 60,
    "unpadded_vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 1,
    "swa_head_dim": 8,
    "sliding_window_size": 7,
    "d_rel": 4,
    "rel_extent": 8,
    "moe_intermediate_size": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
}
LOOP = {"loop_layer_index_start": 2, "loop_layer_index_end": 6, "loop_num_passes": 3, "loop_gate_rank": 4}
SEEN = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "projection_hidden_dim": 24,
    "text_hidden_size": 32,
}


def test_inkling_2_mini_passes_layers_again() -> None:
    text = INKLING | LOOP | {"model_type": "inkling2_loop_text", "dtype": "float32"}
    arch = read_architecture(text)
    assert arch.expected_parameters() == 152_164
    assert cached(arch) == 35_072
    # as first published: the loop in a part of its own
    core = {"core_start": 2, "core_end": 6, "num_passes": 3, "gate_rank": 4}
    first = read_architecture(INKLING | {"model_type": "inkling2_loop_text", "dtype": "float32", "loop_config": core})
    assert (first.tensors, first.layers) == (arch.tensors, arch.layers)
    # four gates in each of four layers, and four queries
    once = read_architecture(INKLING | {"model_type": "inkling2_text", "dtype": "float32"})
    more = 4 * 4 * (4 * 64 + 2 * 32 * 4) + 4 * 4 * 32
    assert arch.expected_parameters() == once.expected_parameters() + more


@pytest.mark.parametrize(("model_type", "text", "kept"), [("inkling2", {}, 13_312), ("inkling2_loop", LOOP, 28_160)])
def test_inkling_2_with_its_tower_keeps_convolutions_in_fp32(model_type: str, text: dict[str, int], kept: int) -> None:
    config = {"model_type": model_type, "dtype": "bfloat16", "text_config": INKLING | text, "vision_config": SEEN}
    assert cached(read_architecture(config)) == kept


def test_inkling_loop_outside_the_layers() -> None:
    with pytest.raises(ContradictionError, match="layers 2 to 9 are not a run of 8"):
        read_architecture(INKLING | LOOP | {"model_type": "inkling2_loop_text", "loop_layer_index_end": 9})


def test_hunyuan_v4_with_its_tower() -> None:
    # HYV4VLForConditionalGeneration's own defaults (tencent/Hy4): the text model's total, and a tower of 40 blocks of 1,536
    text = read_architecture({"model_type": "hy_v4_vl_text", "dtype": "bfloat16"}).expected_parameters()
    width, patch = 1536, 3 * 16 * 16
    block = 4 * (width * width + width) + 2 * width * 6144 + 6144 + width + 4 * width
    tower = width * patch + width + (128 * 128 + 1) * width + 40 * block
    merger = width + (4 * width * width * 4 + 4 * width) + (4 * width * 6144 + 6144) + 6144
    arch = read_architecture({"model_type": "hy_v4_vl", "dtype": "bfloat16"})
    assert arch.expected_parameters() == text + tower + merger == 771_142_515_869


def test_apertus_1_5() -> None:
    # Apertus-v1.5-8B's class: 8,091,086,912 in the decoder (measured on the meta device), 225 million in both encoders
    text = {"model_type": "apertus1p5_text", "dtype": "bfloat16"}
    layer = 4 * 4096 * 4096 + 2 * 128 + 2 * 14_336 * 4096 + 2 + 2 * 4096
    assert read_architecture(text).expected_parameters() == 2 * 266_752 * 4096 + 32 * layer + 4096 == 8_091_086_912
    assert read_architecture({"model_type": "apertus1p5", "dtype": "bfloat16"}).expected_parameters() == 8_317_544_000
    pruned = read_architecture(text | {"output_vocab_size": 131_072})  # a head for words alone
    assert pruned.expected_parameters() == 8_091_086_912 - (266_752 - 131_072) * 4096


def test_omniasr() -> None:
    # omniasr-ctc-300m-v2: seven convolutions, 24 layers of 1,024, a convolution of 128 positions in 16 groups
    stem = 512 * 10 + 4 * 512 * 512 * 3 + 2 * 512 * 512 * 2 + 7 * 3 * 512 + 2 * 512 + 512 * 1024 + 1024
    layer = 4 * (1024 * 1024 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024
    tower = stem + 1024 * 64 * 128 + 1024 + 24 * layer + 2 * 1024
    ctc = read_architecture({"model_type": "omniasr_ctc", "dtype": "float32"})
    assert ctc.expected_parameters() == tower + 10_288 * 1025 == 325_982_768
    assert cached(ctc) == 0
    # omniasr-llm-300m-v2: a Llama of 12 layers, 4,096 wide and 2,816 inside
    llama = 2 * 11_984 * 4096 + 12 * (4 * 4096 * 4096 + 3 * 2816 * 4096 + 2 * 4096) + 4096
    llm = read_architecture({"model_type": "omniasr", "dtype": "bfloat16"})
    assert llm.expected_parameters() == tower + 1024 * 4096 + 4096 + llama == 1_638_453_760
    assert cached(llm, 100) == 12 * 2 * 4096 * 2 * 100


def test_exaone_with_biases() -> None:
    # LlamaForCausalLM under EXAONE's names: q and o of 4,096, k and v of 1,024; gate and up of 14,336
    plain = read_architecture({"model_type": "exaone", "dtype": "bfloat16"}).expected_parameters()
    assert plain == 7_818_448_896
    biased = read_architecture({"model_type": "exaone", "attention_bias": True, "mlp_bias": True}).expected_parameters()
    assert biased == plain + 32 * (2 * 4096 + 2 * 1024 + 2 * 14_336 + 4096)


@pytest.mark.parametrize(("heads", "width", "kept"), [(4, 32, 17_664), (2, 48, 26_496)])
def test_imagegpt_keeps_its_pixels(heads: int, width: int, kept: int) -> None:
    # measured: keys and values of three layers; what the model weighs its files tell
    config = {
        "model_type": "imagegpt",
        "vocab_size": 50,
        "n_embd": width,
        "n_layer": 3,
        "n_head": heads,
        "dtype": "float32",
    }
    arch = read_architecture(config)
    assert cached(arch) == kept
    assert arch.partial


def test_glm_image_writes_image_tokens_only() -> None:
    # counted with transformers 5.24.0 on the meta device; its head has a row for each of 16,512 image tokens: 16,512 · 4,096
    arch = read_architecture({"model_type": "glm_image", "architectures": ["GlmImageForConditionalGeneration"]})
    assert arch.expected_parameters() == 10_046_612_480 + 16_512 * 4096
    head = next(s for s in arch.tensors if s.pattern == "lm_head.weight")
    assert head.shape == (16_512, 4096)
    text = {"model_type": "glm_image_text", "dtype": "float32", "num_hidden_layers": 2, "tie_word_embeddings": True}
    assert next(s for s in read_architecture(text).tensors if s.pattern == "lm_head.weight").tied_to is None
    assert cached(read_architecture(text)) == 2 * 23 * 2 * 2 * 128 * 4  # 2 layers, K and V, 2 heads of 128, fp32


def test_nemotron_transcribe() -> None:
    # counted with transformers 5.24.0 on the meta device: NVIDIA-Nemotron-3.5-Transcribe-30B-A4B is its class's default
    pattern = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
    text = {
        "model_type": "nemotron_h",
        "hidden_size": 2688,
        "hybrid_override_pattern": pattern,
        "intermediate_size": 1856,
        "mamba_num_heads": 64,
        "moe_intermediate_size": 1856,
        "moe_shared_expert_intermediate_size": 3712,
        "n_routed_experts": 128,
        "num_experts_per_tok": 6,
        "num_key_value_heads": 2,
    }
    arch = read_architecture({"model_type": "nemo_speechlm", "text_config": text, "dtype": "bfloat16"})
    assert arch.expected_parameters() == read_architecture({"model_type": "nemo_speechlm"}).expected_parameters()
    assert arch.expected_parameters() == 32_361_750_159
    experts = [s for s in arch.tensors if s.pattern.endswith("experts.gate_and_up_projs")]
    assert [(s.shape, s.count) for s in experts] == [((128, 2688, 1856), 23)]


@pytest.mark.parametrize(
    ("config", "parameters"),
    [  # counted with transformers 5.24.0 on the meta device
        ({"model_type": "glm4v_text", "architectures": ["Glm4vTextModel"]}, 8_779_522_048),
        ({"model_type": "glm_ocr_text", "architectures": ["GlmOcrTextModel"]}, 312_542_208),
        ({"model_type": "molmo2_text", "architectures": ["Molmo2TextModel"]}, 7_568_929_792),
    ],
)
def test_a_wrappers_text_model_alone_has_no_head(config: dict[str, Any], parameters: int) -> None:
    arch = read_architecture(config)
    assert arch.expected_parameters() == parameters
    assert not [s for s in arch.tensors if s.pattern.startswith(("lm_head", "model."))]


def test_biases_of_feed_forwards_are_v2s() -> None:
    """`mlp_bias` means something to DeepSeek V2's class, in shared experts too, and nothing to V3.2's."""
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "first_k_dense_replace": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "kv_lora_rank": 16,
        "q_lora_rank": 24,
        "v_head_dim": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "moe_intermediate_size": 16,
        "n_routed_experts": 4,
        "n_shared_experts": 2,
        "num_experts_per_tok": 2,
        "num_nextn_predict_layers": 0,
    }
    grown = []
    for model_type in ("deepseek_v2", "deepseek_v32"):
        plain, biased = (
            read_architecture({"model_type": model_type, **sizes, "mlp_bias": bias}).expected_parameters()
            for bias in (False, True)
        )
        grown.append(biased - plain)
    assert grown == [(2 * 48 + 32) + 2 * (2 * 2 * 16 + 32), 0]
