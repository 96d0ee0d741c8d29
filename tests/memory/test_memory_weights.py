"""Weights by rank: each split worked out by hand on small matrices, and whole models against their published shapes."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from example_architectures import build, one

from hfmem.api.reading import read_model
from hfmem.checkpoint.tensors import TensorGroup
from hfmem.errors import UnsupportedError
from hfmem.memory.serving import Serving
from hfmem.memory.shares import Sharding, share
from hfmem.memory.weights import rank_weights
from hfmem.model.architecture import Architecture
from hfmem.model.families.registry import read_architecture
from hfmem.model.inventory import Column, Component, ExpertSplit, Inventory, Replicated, Row, Split, TensorSpec, Vocab
from hfmem.model.layers import FullAttention

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def spec(split: Split, shape: tuple[int, ...], boxes: tuple[tuple[range, ...], ...] = ((),)) -> TensorSpec:
    return TensorSpec("x.weight", shape, boxes, Component.ATTENTION, split)


def groups(arch: Architecture, dtype: str = "BF16") -> list[TensorGroup]:
    """What a checkpoint of this architecture stores."""
    return [TensorGroup(s.pattern, dtype, s.shape, s.boxes) for s in arch.tensors if not s.tied_to]


@pytest.mark.parametrize(
    ("split", "shape", "ranks", "expected"),
    [
        (Replicated(), (64, 32), 8, 1),
        (Column(), (64, 32), 8, Fraction(1, 8)),
        (Row(), (64, 32), 8, Fraction(1, 8)),
        (Column(kv_heads=(4,)), (64, 32), 2, Fraction(1, 2)),
        (Column(kv_heads=(4,)), (64, 32), 8, Fraction(1, 4)),  # one head a rank, each head twice
        # q, k and v in one matrix: 128 rows of 8 heads, 32 of 2 heads twice: a rank of 4 holds 32 + 16 + 16
        (Column((128, 32, 32), (None, 2, 2)), (192, 8), 4, Fraction(64, 192)),
        (Vocab(), (1000, 8), 1, Fraction(1024, 1000)),
        (Vocab(), (1000, 8), 8, Fraction(128, 1000)),
        (ExpertSplit(None, Column((16, 16))), (4, 32, 8), 4, Fraction(1, 4)),
        (ExpertSplit(None, Replicated()), (4, 8), 4, 1),
    ],
)
def test_share(split: Split, shape: tuple[int, ...], ranks: int, expected: Fraction) -> None:
    assert share(spec(split, shape), Sharding(ranks, ranks, vocab_padding=64)) == expected


def test_an_empty_tensor_has_no_share_to_lose() -> None:
    for split in (Vocab(), Column(), Row()):
        assert share(spec(split, (0, 64)), Sharding(2)) == 1


def test_vocabulary_without_padding() -> None:
    assert share(spec(Vocab(), (1001, 8)), Sharding(2)) == Fraction(501, 1001)


def test_whole_experts() -> None:
    boxes = ((range(3), range(10)),)
    sharding = Sharding(2, 4, expert_parallel=True, num_experts=10)
    # ten experts over four ranks: one holds three
    assert share(spec(ExpertSplit(1, Column()), (64, 8), boxes), sharding) == Fraction(3, 10)
    assert share(spec(ExpertSplit(None, Column()), (10, 64, 8)), sharding) == Fraction(3, 10)


@pytest.mark.parametrize(
    ("split", "shape", "ranks"),
    [
        (Column(), (3420, 8), 8),
        (Row(), (8, 3420), 8),
        (Column(kv_heads=(3,)), (96, 8), 8),
        (Column(kv_heads=(12,)), (96, 8), 8),
        (ExpertSplit(None, Column()), (3, 5), 2),
    ],
)
def test_what_does_not_divide_is_refused(split: Split, shape: tuple[int, ...], ranks: int) -> None:
    with pytest.raises(UnsupportedError, match=r"x\.weight"):
        share(spec(split, shape), Sharding(ranks, ranks))


def test_llama_on_one_rank_and_on_eight() -> None:
    arch = read_architecture(dict(LLAMA))
    whole = rank_weights(arch, groups(arch), Serving(10))
    assert (whole.parameters, whole.bytes) == (8_030_261_248, 16_060_522_496)
    eighth = rank_weights(arch, groups(arch), Serving(10, tp=8))
    norms = 65 * 4096
    assert eighth.parameters == (8_030_261_248 - norms) // 8 + norms == 1_004_015_616
    assert eighth.bytes == 2 * eighth.parameters
    assert eighth.all_ranks_bytes == 8 * eighth.bytes
    # sixteen ranks: each of the eight KV heads twice
    sixteenth = rank_weights(arch, groups(arch), Serving(10, tp=16))
    kv = 32 * 2 * 1024 * 4096
    assert sixteenth.parameters == (8_030_261_248 - norms - kv) // 16 + kv // 8 + norms


def test_pipeline_stages_hold_their_own() -> None:
    arch = read_architecture(dict(LLAMA))
    layer = 2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096 + 2 * 4096
    table = 128256 * 4096
    result = rank_weights(arch, groups(arch), Serving(10, pp=3))
    assert result.stage_bytes == (
        2 * (11 * layer + table),
        2 * 11 * layer,
        2 * (10 * layer + table + 4096),
    )
    assert result.stage == 0
    assert result.parameters == 11 * layer + table
    assert result.all_ranks_bytes == 16_060_522_496


def test_a_tied_head_is_one_table_on_one_stage_and_two_on_two() -> None:
    arch = read_architecture(dict(LLAMA, tie_word_embeddings=True, num_hidden_layers=4))
    table = 128256 * 4096
    one_stage = rank_weights(arch, groups(arch), Serving(10))
    two_stages = rank_weights(arch, groups(arch), Serving(10, pp=2))
    assert two_stages.all_ranks_bytes == one_stage.bytes + 2 * table


def test_a_stored_copy_of_a_tied_head_is_not_loaded() -> None:
    arch = read_architecture(dict(LLAMA, tie_word_embeddings=True))
    stored = [*groups(arch), TensorGroup("lm_head.weight", "BF16", (128256, 4096), ((),))]
    assert rank_weights(arch, stored, Serving(10)).bytes == 16_060_522_496 - 2 * 128256 * 4096


def test_fp32_checkpoints_are_served_in_bf16() -> None:
    arch = replace(read_architecture(dict(LLAMA, torch_dtype="float32")), dtype="F32")
    stored = groups(arch, "F32")
    assert rank_weights(arch, stored, Serving(10)).bytes == 16_060_522_496
    assert rank_weights(arch, stored, Serving(10, engine="transformers")).bytes == 2 * 16_060_522_496


def test_a_bf16_tensor_among_fp32_ones_changes_nothing() -> None:
    arch = replace(read_architecture(dict(LLAMA, torch_dtype="float32")), dtype="F32")
    stored = [replace(g, dtype="BF16") if g.pattern == "model.norm.weight" else g for g in groups(arch, "F32")]
    assert rank_weights(arch, stored, Serving(10)).bytes == 16_060_522_496


def test_padded_vocabulary() -> None:
    arch = read_architecture(dict(LLAMA, vocab_size=65000))
    own = rank_weights(arch, groups(arch), Serving(10)).parameters
    plain = rank_weights(arch, groups(arch), Serving(10, engine="transformers")).parameters
    assert own - plain == 2 * 24 * 4096  # 65000 → 65024, embedding and head


def test_quantization_companions() -> None:
    """Scales go with their matrix; what has no extent in the split dimension is whole on every rank."""
    inv = Inventory()
    inv.each("model.layers.{}.self_attn.q_proj.weight", range(2), (256, 128), Component.ATTENTION, Column())
    inv.each("model.layers.{}.self_attn.o_proj.weight", range(2), (128, 256), Component.ATTENTION, Row())
    arch = replace(build("llama", one(FullAttention(8, 8, 32, 32), 2)), tensors=tuple(inv.specs))

    def held(name: str, shape: tuple[int, ...], dtype: str) -> int:
        stored = [TensorGroup(f"model.layers.{{}}.self_attn.{name}", dtype, shape, ((range(2),),))]
        return rank_weights(arch, stored, Serving(10, tp=4)).bytes

    assert held("q_proj.weight", (256, 128), "F8_E4M3") == 2 * 256 * 128 // 4
    assert held("q_proj.weight_scale", (256, 1), "F32") == 2 * 256 * 4 // 4
    assert held("o_proj.weight_scale", (128, 1), "F32") == 2 * 128 * 4  # a scale for each output row, all of them
    assert held("q_proj.qweight", (16, 256), "I32") == 2 * 16 * 256 * 4 // 4
    assert held("q_proj.g_idx", (128,), "I32") == 2 * 128 * 4
    assert held("o_proj.g_idx", (256,), "I32") == 2 * 256 * 4 // 4
    assert held("o_proj.input_scale", (), "F32") == 2 * 4
    assert held("rotary_emb.inv_freq", (16,), "F32") == 2 * 16 * 4  # nobody's: whole on the first stage


def test_quantization_blocks_are_not_cut() -> None:
    inv = Inventory()
    boxes = range(2)
    inv.each("model.layers.{}.mlp.up_proj.weight", boxes, (1536, 512), Component.MLP, Column())
    inv.each("model.layers.{}.mlp.down_proj.weight", boxes, (512, 1536), Component.MLP, Row())
    inv.each(
        "model.layers.{}.mlp.experts.{}.up_proj.weight",
        boxes,
        (1536, 512),
        Component.EXPERTS,
        ExpertSplit(1, Column()),
        inner=8,
    )
    arch = replace(build("any", one(FullAttention(8, 8, 64, 64), 2), heads=8), tensors=tuple(inv.specs))

    def held(name: str, shape: tuple[int, ...], tp: int, *, ep: bool = False, engine: str = "vllm") -> int:
        axes = (range(2), range(8)) if "experts" in name else (range(2),)
        stored = [TensorGroup(f"model.layers.{{}}.mlp.{name}", "F32", shape, (axes,))]
        return rank_weights(arch, stored, Serving(10, tp=tp, ep=ep, engine=engine)).bytes

    # blocks of 128 × 128: 12 of them over 4 ranks, not over 8 (192 rows each)
    assert held("up_proj.weight_scale_inv", (12, 4), 4) == 2 * 12 * 4 * 4 // 4
    with pytest.raises(UnsupportedError, match=r"output_partition_size = 192 is not divisible by .* block_n = 128"):
        held("up_proj.weight_scale_inv", (12, 4), 8)
    with pytest.raises(UnsupportedError, match=r"input_size_per_partition = 192 is not divisible by .* block_k = 128"):
        held("down_proj.weight_scale_inv", (4, 12), 8)
    # groups of 128 inputs in GPTQ's and in compressed-tensors' order
    assert held("down_proj.scales", (12, 512), 4) == 2 * 12 * 512 * 4 // 4
    with pytest.raises(UnsupportedError, match="not aligned with groups of 128"):
        held("down_proj.scales", (12, 512), 8)
    with pytest.raises(UnsupportedError, match="not aligned with groups of 128"):
        held("down_proj.weight_scale", (512, 12), 8)
    # of routed experts vLLM cuts the blocks (here to 64 × 64: 3 × 8 on a rank), SGLang refuses; whole experts are never cut
    assert held("experts.{}.up_proj.weight_scale_inv", (12, 4), 8) == 2 * 8 * 3 * 8 * 4
    with pytest.raises(UnsupportedError, match="block_n"):
        held("experts.{}.up_proj.weight_scale_inv", (12, 4), 8, engine="sglang")
    assert held("experts.{}.up_proj.weight_scale_inv", (12, 4), 8, ep=True) == 2 * 12 * 4 * 4
    assert held("up_proj.weight_scale_inv", (12, 4), 8, engine="transformers") == 2 * 12 * 4 * 4 // 8


def test_queries_keys_and_values_quantized_in_pieces() -> None:
    """MiMo-V2.5-Pro's headers: 27,136 rows with 216 rows of scales, 27 for each of 8 pieces. vLLM cuts them, SGLang MiMo's only."""
    inv, split = Inventory(), Column((24_576, 1536, 1024), (None, 8, 8))
    inv.each("model.layers.{}.self_attn.qkv_proj.weight", range(2), (27_136, 6144), Component.ATTENTION, split)
    arch = replace(build("any", one(FullAttention(128, 8, 192, 128), 2), heads=128), tensors=tuple(inv.specs))
    stored = [TensorGroup("model.layers.{}.self_attn.qkv_proj.weight_scale_inv", "F32", (216, 48), ((range(2),),))]

    def held(tp: int, engine: str, kind: str = "any") -> int:
        return rank_weights(replace(arch, model_type=kind), stored, Serving(10, tp=tp, engine=engine)).bytes

    assert [held(tp, "vllm") for tp in (4, 8)] == [2 * 216 * 48 * 4 // tp for tp in (4, 8)]
    assert held(8, "sglang", "mimo_v2") == 2 * 216 * 48 * 4 // 8
    assert held(4, "sglang") == 2 * 216 * 48 * 4 // 4  # 6144, 384 and 256 rows: whole blocks
    with pytest.raises(UnsupportedError, match="output_partition_size = 192 is not divisible"):
        held(8, "sglang")


def test_expert_parallelism_and_data_parallelism() -> None:
    config = {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "moe_intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": 8,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "vocab_size": 128,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    arch = read_architecture(config)
    experts = 2 * 6 * 3 * 64 * 32
    whole = rank_weights(arch, groups(arch), Serving(10)).parameters

    def held(**flags: int | bool) -> int:
        return rank_weights(arch, groups(arch), Serving(10, **flags)).parameters  # type: ignore[arg-type]

    # data parallelism shares the experts' matrices too and repeats everything else
    assert held(dp=2) == whole - experts + experts // 2
    assert held(dp=4, ep=True) == whole - experts + experts * 2 // 6  # six experts over four ranks: two on the fullest
    assert held(tp=2, ep=True) == held(tp=2)


def test_more_stages_than_layers() -> None:
    arch = read_architecture(dict(LLAMA, num_hidden_layers=2))
    with pytest.raises(UnsupportedError, match="2 layers do not fill 4"):
        rank_weights(arch, groups(arch), Serving(10, pp=4))


def test_llama_cpp_deals_out_layers() -> None:
    arch = read_architecture(dict(LLAMA))
    split = rank_weights(arch, groups(arch), Serving(10, engine="llama.cpp", tp=2))
    staged = rank_weights(arch, groups(arch), Serving(10, engine="llama.cpp", pp=2))
    assert split.stage_bytes == staged.stage_bytes
    assert split.all_ranks_bytes == 16_060_522_496


def test_promised_quantization_is_counted_as_stored(tmp_path: Path) -> None:
    """A config alone with a GPTQ section: a rank holds packed codes, scales, zeros and indices, not 32-bit weights.

    Each q, k, v, o and MLP matrix of i × o at 4 bits in groups of 128: i × o / 2 codes, i / 128 × o × (2 scales + 1/2 zeros),
    4 i for `g_idx`.
    """
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float16",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 1024,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = read_model(str(tmp_path))

    def packed(inputs: int, outputs: int) -> int:
        groups = inputs // 128 * outputs
        return inputs * outputs // 2 + groups * 2 + groups // 2 + inputs * 4

    layer = 4 * packed(256, 256) + 2 * packed(256, 512) + packed(512, 256) + 2 * 256 * 2
    whole = 2 * layer + 2 * 1024 * 256 * 2 + 256 * 2
    groups = read.parameters.groups
    assert rank_weights(read.architecture, groups, Serving(1024, engine="ideal")).bytes == whole
    assert read.parameters.weights_bytes == whole
    # vLLM's class for GPTQ has no order of inputs (`g_idx`, four bytes for each)
    order = 2 * 4 * (4 * 256 + 2 * 256 + 512)
    assert rank_weights(read.architecture, groups, Serving(1024)).bytes == whole - order
