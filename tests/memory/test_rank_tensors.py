"""What ranks hold of stored tensors, by hand from published shapes: padded experts, what a decode step reads, parts not loaded."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from drafting_models import architecture
from recurrent_configs import NANO

from hfmem.checkpoint.quantization_config import parse_quantization
from hfmem.checkpoint.tensors import TensorGroup
from hfmem.errors import UnsupportedError
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.architecture import Architecture
from hfmem.model.families.registry import read_architecture
from hfmem.model.inventory import ExpertSplit
from hfmem.model.quantized import stored_as_said

#: NVFP4: half a byte a weight, and a scale of one byte for each 16
NVFP4_BYTES = Fraction(1, 2) + Fraction(1, 16)
#: 23 layers of 128 experts, each an `up_proj` and a `down_proj` of 1856 × 2688
NANO_MATRICES = 23 * 128 * 2


def stored(arch: Architecture) -> list[TensorGroup]:
    return [TensorGroup(s.pattern, "BF16", s.shape, s.boxes) for s in arch.tensors if not s.buffer]


@pytest.mark.parametrize(
    ("engine", "capability", "rows", "columns"),
    [
        ("vllm", 89, 1856, 2688),  # Marlin takes them as they are
        ("vllm", 120, 1920, 2688),  # rows to 128: the experts have no gate
        ("vllm", 100, 1920, 2816),  # TensorRT-LLM's kernel: columns to 256
        ("ideal", 120, 1856, 2688),
    ],
)
def test_experts_of_nemotron_nano_in_nvfp4(engine: str, capability: int, rows: int, columns: int) -> None:
    """The matrices of attention, Mamba, shared experts and the router are not padded, nor is anything of 16 bits."""
    arch = read_architecture(dict(NANO))
    section = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}
    said = parse_quantization({"config.json": {"quantization_config": section}})
    assert said is not None
    packed = stored_as_said(stored(arch), said)
    assert packed is not None
    serving = Serving(100, engine=engine, compute_capability=capability)
    more = NANO_MATRICES * NVFP4_BYTES * (rows * columns - 1856 * 2688)
    assert rank_weights(arch, packed, serving).bytes == sum(g.total_bytes for g in packed) + more
    plain = stored(arch)
    assert rank_weights(arch, plain, serving).bytes == sum(g.total_bytes for g in plain)


MIXTURE: dict[str, Any] = {
    "model_type": "qwen3_moe", "hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "vocab_size": 128, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.mark.parametrize(("tied", "idle"), [(False, 128 * 64 * 2), (True, 0)])
def test_a_step_reads_no_embedding_but_one_that_is_the_head(tied: bool, idle: int) -> None:
    arch = read_architecture({**MIXTURE, "tie_word_embeddings": tied})
    found = rank_weights(arch, stored(arch), Serving(100, engine="vllm"))
    assert found.idle_bytes == idle
    assert found.routed_bytes == 3 * 4 * 3 * 64 * 32 * 2


def test_a_step_reads_no_table_of_inputs_for_each_layer() -> None:
    """Gemma 3n: the head is the embedding, `embed_tokens_per_layer` (vocabulary × layers × 256) is looked up."""
    config = {
        "model_type": "gemma3n_text", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 5, "vocab_size": 512,
        "vocab_size_per_layer_input": 384, "hidden_size_per_layer_input": 16, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 32, "num_kv_shared_layers": 0, "laurel_rank": 8, "activation_sparsity_pattern": 0.0,
        "layer_types": ["full_attention"] * 5, "torch_dtype": "bfloat16",
    }  # fmt: skip
    arch = read_architecture(config)
    assert rank_weights(arch, stored(arch), Serving(100, engine="vllm")).idle_bytes == 384 * 5 * 16 * 2


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_transformers_holds_the_voice_that_serving_engines_do_not_build(engine: str) -> None:
    arch = read_architecture({"model_type": "qwen2_5_omni", "torch_dtype": "bfloat16"})
    voice = [group for group in stored(arch) if group.pattern.startswith(("talker.", "token2wav."))]
    assert len(voice) > 100
    held, without = (
        rank_weights(arch, groups, Serving(100, engine=engine)).bytes
        for groups in (stored(arch), [group for group in stored(arch) if group not in voice])
    )
    assert held - without == (sum(group.total_bytes for group in voice) if engine == "transformers" else 0)


def test_a_vector_stored_with_an_axis_more_is_whole_on_every_rank() -> None:
    arch = read_architecture({**MIXTURE, "tie_word_embeddings": False})
    serving = Serving(100, engine="vllm", tp=2)
    groups = stored(arch)
    flat = [g if len(g.shape) > 1 else TensorGroup(g.pattern, g.dtype, (1, *g.shape), g.boxes) for g in groups]
    assert flat != groups
    assert rank_weights(arch, flat, serving) == rank_weights(arch, groups, serving)


def test_scales_of_experts_dealt_out_whole_go_with_their_experts() -> None:
    """FP8 with a scale for each output row: two of four experts on each of two ranks, with all their scales."""
    arch = read_architecture({**MIXTURE, "tie_word_embeddings": False})
    groups = []
    for group in stored(arch):
        if ".experts." in group.pattern:
            groups.append(TensorGroup(group.pattern, "F8_E4M3", group.shape, group.boxes))
            groups.append(TensorGroup(f"{group.pattern}_scale", "F32", (group.shape[0], 1), group.boxes))
        else:
            groups.append(group)

    def routed(**flags: Any) -> int:
        return rank_weights(arch, groups, Serving(100, engine="vllm", tp=2, **flags)).routed_bytes

    codes, scales = 3 * 4 * 3 * 64 * 32, 3 * 4 * (32 + 32 + 64) * 4  # gate, up: 32 rows each; down: 64
    assert routed(ep=True) == (codes + scales) // 2
    assert routed() == codes // 2 + 3 * 4 * (16 + 16 + 64) * 4  # down is cut along its inputs: every row on both ranks


def test_a_tensor_that_no_rule_knows_is_whole_on_the_ranks_of_the_first_stage() -> None:
    arch = read_architecture({**MIXTURE, "tie_word_embeddings": False})
    serving = Serving(100, engine="vllm", tp=2, pp=3)
    known = rank_weights(arch, stored(arch), serving)
    table = TensorGroup("lookup.table", "F32", (10, 30), ((),))
    found = rank_weights(arch, [*stored(arch), table], serving)
    first, *others = (a - b for a, b in zip(found.stage_bytes, known.stage_bytes, strict=True))
    assert (first, others) == (10 * 30 * 4, [0, 0])


def test_whispers_fused_projections_have_a_bias_for_keys() -> None:
    """whisper-tiny: 4 encoder and 4 decoder layers of 384, the latter with cross attention; `k_proj` is stored without a bias and
    `QKVParallelLinear` has one. Its table of words is not padded (`whisper.py`: `nn.Embedding`)."""
    config = {
        "model_type": "whisper", "d_model": 384, "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 6,
        "decoder_attention_heads": 6, "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536, "vocab_size": 51865,
        "num_mel_bins": 80, "max_source_positions": 1500, "max_target_positions": 448, "torch_dtype": "float16",
    }  # fmt: skip
    arch = read_architecture(config)
    groups = [TensorGroup(s.pattern, "F16", s.shape, s.boxes) for s in arch.tensors if s.tied_to is None]
    plain = sum(group.total_bytes for group in groups)
    found = rank_weights(arch, groups, Serving(100, engine="vllm")).bytes
    assert found - plain == 12 * 384 * 2


def test_blocks_of_experts_are_cut_by_replicas_too() -> None:
    """vLLM shares experts among the ranks of all replicas: 256 rows over four are 64 each, blocks of 128 become blocks of 64."""
    arch = read_architecture(
        {**MIXTURE, "tie_word_embeddings": False, "hidden_size": 256, "moe_intermediate_size": 256}
    )
    groups = []
    for spec in arch.tensors:
        if isinstance(spec.split, ExpertSplit):
            groups.append(TensorGroup(spec.pattern, "F8_E4M3", spec.shape, spec.boxes))
            groups.append(TensorGroup(f"{spec.pattern}_scale_inv", "F32", (2, 2), spec.boxes))
    matrices = 3 * 4 * 3
    held = [rank_weights(arch, groups, Serving(100, engine="vllm", dp=dp)).bytes for dp in (1, 2, 4)]
    scales = (2 * 2, 1 * 2, 1 * 4)
    assert held == [matrices * (256 * 256 // dp + 4 * count) for dp, count in zip((1, 2, 4), scales, strict=True)]


def test_packed_experts_of_prediction_layers_are_left_out() -> None:
    """GLM-4.5 Air: of 47 layers of experts 45 are the model's, one predicts; their codes have one name."""
    arch = architecture("zai-org/GLM-4.5-Air")
    spec = next(spec for spec in arch.tensors if spec.pattern.endswith("experts.{}.up_proj.weight"))
    boxes = ((range(1, 47), range(128)),)
    codes = TensorGroup(spec.pattern.replace("weight", "weight_packed"), "U8", (1408, 2048), boxes)
    assert rank_weights(arch, [codes], Serving(100, compute_capability=80)).bytes == 45 * 128 * 1408 * 2048


def test_scales_of_fp8_blocks() -> None:
    """Of 1024 × 4096 in blocks of 128, 8 × 32 in fp32; Marlin has 1024 × 32 of 16 bits, DeepGEMM on Blackwell as many of 8."""
    arch = architecture("meta-llama/Meta-Llama-3-8B")
    at, boxes = "model.layers.{}.self_attn.k_proj.weight", ((range(32),),)
    groups = [TensorGroup(at, "F8_E4M3", (1024, 4096), boxes), TensorGroup(f"{at}_scale_inv", "F32", (8, 32), boxes)]
    for capability, scales in ((80, 1024 * 32 * 2), (89, 8 * 32 * 4), (100, 1024 * 32), (120, 8 * 32 * 4)):
        for tp in (1, 2):
            held = rank_weights(arch, groups, Serving(100, tp=tp, compute_capability=capability)).bytes
            assert held == 32 * (1024 * 4096 + scales) // tp


def test_scales_of_stacked_experts_are_shared_out_though_as_many_as_rows() -> None:
    """32 experts of 1024 × 512, blocks of 128: 32 × 8 × 4 scales are as many as a matrix has rows."""
    arch = architecture("ibm-granite/granite-3.1-1b-a400m-instruct")
    at, boxes = "model.layers.{}.block_sparse_moe.output_linear.weight", ((range(24),),)
    groups = [TensorGroup(at, "F8_E4M3", (32, 1024, 512), boxes), TensorGroup(f"{at}_scale", "F32", (32, 8, 4), boxes)]
    held = rank_weights(arch, groups, Serving(100, tp=4)).bytes
    assert held == 24 * 32 * (1024 * 512 + 8 * 4 * 4) // 4


def test_experts_that_do_not_divide_are_dealt_out_by_vllm_and_refused_by_sglang() -> None:
    """Six over four ranks: vLLM's fullest holds two, SGLang wants as many on each."""
    arch = read_architecture({**MIXTURE, "tie_word_embeddings": False, "num_experts": 6, "hidden_size": 96})
    found = rank_weights(arch, stored(arch), Serving(100, engine="vllm", tp=4, ep=True))
    assert found.routed_bytes == 3 * 2 * 3 * 96 * 32 * 2
    with pytest.raises(UnsupportedError, match="SGLang deals 6 experts out evenly: not over 4 ranks"):
        rank_weights(arch, stored(arch), Serving(100, engine="sglang", tp=4, ep=True))
    cut = rank_weights(arch, stored(arch), Serving(100, engine="sglang", tp=4))
    assert cut.routed_bytes == 3 * 6 * 3 * 96 * 32 * 2 // 4


@pytest.mark.parametrize(("engine", "biases"), [("vllm", 8), ("sglang", 8), ("transformers", 0)])
def test_load_balancing_biases_are_parameters_where_engines_register_them(engine: str, biases: int) -> None:
    """DeepSeek V3's `e_score_correction_bias`, a buffer of transformers: two layers of four experts."""
    config = {
        "model_type": "deepseek_v3", "hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 32, "vocab_size": 128,
        "num_hidden_layers": 3, "first_k_dense_replace": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 32,
        "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4,
        "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "num_nextn_predict_layers": 0,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip
    attention = 32 * 64 + 32 + 4 * 16 * 32 + (16 + 8) * 64 + 16 + 4 * (8 + 8) * 16 + 64 * 4 * 8
    dense, experts = 3 * 64 * 128, 4 * 64 + 5 * 3 * 64 * 32  # the router; four routed experts and a shared one
    total = 2 * 128 * 64 + 64 + 3 * (attention + 2 * 64) + dense + 2 * experts
    arch = read_architecture(config)
    assert rank_weights(arch, stored(arch), Serving(100, engine=engine)).parameters == total + biases
