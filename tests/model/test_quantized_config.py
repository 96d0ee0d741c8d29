"""Weights where only config.json is at hand: sections whose modules are stored in more than one way, by hand from the layouts."""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.checkpoint.quantization_config import parse_quantization
from hfmem.checkpoint.tensors import TensorGroup
from hfmem.model.quantized import stored_as_said

Q = TensorGroup("model.layers.{}.self_attn.q_proj.weight", "BF16", (256, 512), ((range(4),),))
DOWN = TensorGroup("model.layers.{}.mlp.down_proj.weight", "BF16", (512, 1024), ((range(4),),))
HEAD = TensorGroup("lm_head.weight", "BF16", (1000, 512), ((),))
PLAIN = {"q": 2 * 256 * 512, "down": 2 * 512 * 1024, "head": 2 * 1000 * 512}
#: bytes of one matrix
INT4_Q = 256 * 512 // 2 + 2 * 256 * 4 + 2 * 8  # packed, a bf16 scale for each 128, the shape
FP8_Q, FP8_DOWN = 256 * 512 + 2 * 256, 512 * 1024 + 2 * 512  # a bf16 scale a row


def gptq(out: int, inputs: int, bits: int, group: int) -> int:
    """Codes, packed zeros and half-precision scales of each group, the group of each input."""
    groups = inputs // group
    return out * inputs * bits // 8 + groups * out * bits // 8 + 2 * groups * out + 4 * inputs


def stored(section: dict[str, Any]) -> tuple[int, int, int] | None:
    """Bytes of q, down and the head in all layers."""
    said = parse_quantization({"config.json": {"quantization_config": section}})
    assert said is not None
    found = stored_as_said((Q, DOWN, HEAD), said)
    if found is None:
        return None
    sizes = dict.fromkeys((Q.pattern, DOWN.pattern, HEAD.pattern), 0)
    for group in found:
        sizes[group.pattern] += group.total_bytes
    q, down, head = sizes.values()
    return q, down, head


def scheme(bits: int, kind: str, group: int | None = None) -> dict[str, Any]:
    strategy = "group" if group else "channel"
    return {"num_bits": bits, "type": kind, "symmetric": True, "strategy": strategy, "group_size": group}


def test_groups_of_compressed_tensors() -> None:
    groups = {
        "group_0": {"targets": ["re:.*self_attn.*"], "format": "pack-quantized", "weights": scheme(4, "int", 128)},
        "group_1": {"targets": ["re:.*mlp.*"], "format": "float-quantized", "weights": scheme(8, "float")},
    }
    section = {"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": groups}
    assert stored(section | {"ignore": ["lm_head"]}) == (4 * INT4_Q, 4 * FP8_DOWN, PLAIN["head"])
    # an exception in one layer, and a group that speaks of every other linear layer
    groups["group_1"] = groups["group_1"] | {"targets": ["Linear"]}
    ignored = {"ignore": ["lm_head", "model.layers.2.mlp.down_proj"]}
    assert stored(section | ignored) == (4 * INT4_Q, 3 * FP8_DOWN + PLAIN["down"], PLAIN["head"])


def test_modules_that_no_group_names_stay() -> None:
    groups = {
        "a": {"targets": ["re:.*layers.0.*q_proj"], "format": "float-quantized", "weights": scheme(8, "float")},
        "b": {"targets": ["re:.*layers.1.*q_proj"], "format": "pack-quantized", "weights": scheme(4, "int", 128)},
    }
    section = {"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": groups}
    assert stored(section) == (FP8_Q + INT4_Q + 2 * PLAIN["q"], 4 * PLAIN["down"], PLAIN["head"])


def test_mixed_precision_of_modelopt() -> None:
    layers: dict[str, Any] = {"model.layers.0.mlp.down_proj": {"quant_algo": "FP8"}}
    layers |= {f"model.layers.{i}.self_attn.q_proj": {"quant_algo": "NVFP4", "group_size": 16} for i in range(4)}
    section = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    nvfp4 = 256 * 512 // 2 + 256 * 512 // 16 + 8  # a byte for each 16, two scales of the matrix
    assert stored(section) == (4 * nvfp4, 512 * 1024 + 8 + 3 * PLAIN["down"], PLAIN["head"])


def test_modules_that_gptq_leaves_out_or_packs_otherwise() -> None:
    section = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    dynamic = {r"-:.*down_proj": {}, r"+:.*layers\.3\..*": {"bits": 8, "group_size": 64}}
    q = 3 * gptq(256, 512, 4, 128) + gptq(256, 512, 8, 64)
    assert stored(section | {"dynamic": dynamic}) == (q, 4 * PLAIN["down"], PLAIN["head"])


@pytest.mark.parametrize("method", ["auto-round", "intel/auto-round", "inc"])
def test_auto_round_packs_as_gptq(method: str) -> None:
    section = {"quant_method": method, "bits": 4, "group_size": 128, "packing_format": "auto_round:auto_gptq"}
    q, down = gptq(256, 512, 4, 128) - 4 * 512, gptq(512, 1024, 4, 128) - 4 * 1024  # inputs in their order: no index
    assert stored(section) == (4 * q, 4 * down, PLAIN["head"])
    wide = gptq(512, 1024, 8, 128) - 4 * 1024
    own: dict[str, Any] = {"model.layers.1.mlp.down_proj": {"bits": 8}}
    assert stored(section | {"extra_config": own}) == (4 * q, 3 * down + wide, PLAIN["head"])
    # 16 bits leave a module as it was; a pattern stands for names; a head that is named is packed
    own |= {r".*\.layers\.[01]\..*q_proj": {"bits": 16, "data_type": "float"}, "lm_head": {"bits": 4}}
    head = gptq(1000, 512, 4, 128) - 4 * 512
    assert stored(section | {"extra_config": own}) == (2 * q + 2 * PLAIN["q"], 3 * down + wide, head)
    # blocks outside of which nothing is quantized, and the tool whose layout keeps the index
    outside = section | {"block_name_to_quantize": "model.layers, model.visual.blocks"}
    assert stored(outside) == stored(section)
    assert stored(section | {"packing_format": "auto_round:gptqmodel"}) == (
        *(4 * gptq(256, 512, 4, 128), 4 * gptq(512, 1024, 4, 128)),
        PLAIN["head"],
    )
    assert stored(section | {"data_type": "mx_fp"}) is None


def test_double_quantization_of_bitsandbytes() -> None:
    section = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    half, blocks = 256 * 512 // 2, 256 * 512 // 64
    once = stored(section)
    twice = stored(section | {"bnb_4bit_use_double_quant": True})
    settings = len('{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [256, 512]}')
    assert once is not None and once[0] == 4 * (half + 4 * blocks + 64 + settings)
    # bitsandbytes 0.50 wrote settings of 169 to 171 bytes for matrices of this shape, with a number of 18 to 20 characters
    assert twice is not None
    assert 169 <= twice[0] // 4 - (half + blocks + 64 + 4 * blocks // 256 + 1024) <= 171


def test_formats_of_quark() -> None:
    weight: dict[str, Any] = {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}
    said: dict[str, Any] = {"weight": weight, "input_tensors": {"dtype": "fp8_e4m3", "is_dynamic": False}}
    section: dict[str, Any] = {"quant_method": "quark", "global_quant_config": said, "exclude": ["lm_head"]}
    assert stored(section) == (4 * (256 * 512 + 8), 4 * (512 * 1024 + 8), PLAIN["head"])
    weight["qscheme"], said["input_tensors"]["is_dynamic"] = "per_channel", True
    assert stored(section) == (4 * (256 * 512 + 4 * 256), 4 * (512 * 1024 + 4 * 512), PLAIN["head"])
    own = {"layer_quant_config": {"*q_proj": {"weight": {"dtype": "int8", "qscheme": "per_tensor"}}}}
    assert stored(section | own) == (4 * (256 * 512 + 4), 4 * (512 * 1024 + 4 * 512), PLAIN["head"])
    weight |= {"dtype": "fp4", "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0"}
    assert stored(section) == (4 * (256 * 512 * 17 // 32), 4 * (512 * 1024 * 17 // 32), PLAIN["head"])
    said_of = parse_quantization({"config.json": {"quantization_config": section}})
    assert said_of is not None and said_of.algorithm == "mxfp4"
    assert stored(section | {"exclude": []}) == (
        *(4 * (256 * 512 * 17 // 32), 4 * (512 * 1024 * 17 // 32)),
        PLAIN["head"] // 2 * 17 // 32,
    )
    weight["scale_format"] = "float32"  # another layout, which is not known
    assert stored(section) is None


def test_exceptions_name_what_lies_inside_them() -> None:
    section = {"quant_method": "fp8", "modules_to_not_convert": ["vision_tower", "model.layers.0"]}
    said = parse_quantization({"config.json": {"quantization_config": section}})
    assert said is not None
    assert said.ignores("model.vision_tower.blocks.0.q_proj") and said.ignores("vision_tower.blocks.0.q_proj")
    assert said.ignores("model.layers.0.mlp") and not said.ignores("model.layers.01.mlp")
    assert not said.ignores("model.vision_towers.blocks.0.q_proj")


def test_bits_without_a_known_layout_are_no_size() -> None:
    assert stored({"quant_method": "vptq"}) is None
    section = {"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"+:.*down_proj": {"bits": 5}}}
    assert stored(section) is None


def test_mixed_precision_whose_groups_say_bits_alone() -> None:
    # nvidia/Qwen3.6-27B-NVFP4 names every module twice: by bits in `config_groups`, with its format in `quantized_layers`
    q = [f"model.layers.{i}.self_attn.q_proj" for i in range(4)]
    downs = {f"model.layers.{i}.mlp.down_proj": {"quant_algo": "W4A16_NVFP4", "group_size": 16} for i in range(4)}
    groups = {
        "group_0": {"targets": q, "weights": {"num_bits": 8, "type": "float"}},
        "group_1": {"targets": list(downs), "weights": {"num_bits": 4, "type": "float", "group_size": 16}},
    }
    layers = {name: {"quant_algo": "FP8"} for name in q} | downs
    section = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "config_groups": groups}
    weights_only = 512 * 1024 // 2 + 512 * 1024 // 16 + 4  # inputs are not quantized: no scale of theirs
    assert stored(section | {"quantized_layers": layers}) == (4 * (256 * 512 + 8), 4 * weights_only, PLAIN["head"])


def test_experts_that_modelopt_packs_in_an_fp8_file() -> None:
    # nvidia/DeepSeek-V4-Flash-NVFP4: fp8 blocks, experts of the named layers NVFP4; what `ignore` names stays as it was
    experts = TensorGroup("layers.{}.ffn.experts.{}.w1.weight", "BF16", (256, 512), ((range(2), range(8)),))
    mtp = TensorGroup("mtp.{}.ffn.experts.{}.w1.weight", "BF16", (256, 512), ((range(1), range(8)),))
    query = TensorGroup("layers.{}.attn.wq_b.weight", "BF16", (256, 512), ((range(2),),))
    layers = {f"layers.{i}.ffn.experts": {"group_size": 16, "quant_algo": "NVFP4"} for i in range(2)}
    section = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "weight_block_size": [128, 128],
        "quant_algo": "MIXED_PRECISION",
        "ignore": ["*.attn.*", "head", "mtp.*"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "float"}}},
        "quantized_layers": layers,
    }
    said = parse_quantization({"config.json": {"expert_dtype": "fp4", "quantization_config": section}})
    assert said is not None
    sizes = {group.pattern: group.total_bytes for group in stored_as_said((experts, mtp, query), said) or ()}
    nvfp4, mxfp4 = 256 * 512 // 2 + 256 * 512 // 16 + 8, 256 * 512 // 2 + 256 * 512 // 32
    assert sizes == {
        experts.pattern: 16 * nvfp4,
        mtp.pattern: 8 * mxfp4,
        query.pattern: 2 * (256 * 512 + 4 * 2 * 4),  # fp32 scales of 128 × 128 blocks
    }


def of_compressed(weights: dict[str, Any], word: str, **section: Any) -> tuple[int, int, int] | None:
    group = {"targets": section.pop("targets", ["Linear"]), "weights": weights, **section.pop("group", {})}
    return stored(
        {"quant_method": "compressed-tensors", "format": word, "config_groups": {"a": group}, "ignore": ["lm_head"]}
        | section
    )


def test_codes_of_three_bits_are_packed_as_the_release_does() -> None:
    # 512 inputs: ten codes a word of 32 bits, the last two bits unused, or one code after another; scales of 128 and the shape
    rest = 2 * 256 * 4 + 2 * 8
    for version, words in ((None, 52), ("0.14.1.dev11+gf2ee47b", 52), ("0.17.0", 52), ("0.18.0", 48), ("0.20.0", 48)):
        sizes = of_compressed(scheme(3, "int", 128), "pack-quantized", version=version)
        assert sizes is not None and sizes[0] == 4 * (256 * words * 4 + rest)


def test_mxfp6_and_scales_of_outputs() -> None:
    six = {"num_bits": 6, "type": "float", "strategy": "group", "group_size": 32, "symmetric": True}
    sizes = of_compressed(six, "mxfp6-pack-quantized")
    assert sizes is not None and sizes[0] == 4 * (256 * 512 * 6 // 8 + 256 * 512 // 32)
    # an output's scale of 16 bits beside the weights', where it was calibrated
    outputs = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}
    sizes = of_compressed(scheme(8, "float"), "float-quantized", group={"output_activations": outputs})
    assert sizes is not None and sizes[0] == 4 * (FP8_Q + 2)


def test_a_group_of_embeddings_too() -> None:
    table = TensorGroup("model.embed_tokens.weight", "BF16", (1000, 512), ((),))
    group = {"targets": ["Linear", "Embedding"], "weights": scheme(4, "int", 128)}
    section = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"a": group}}
    said = parse_quantization({"config.json": {"quantization_config": section}})
    assert said is not None
    (found,) = stored_as_said((table,), said) or ()
    assert found.total_bytes == 1000 * 512 // 2 + 2 * 1000 * 4 + 2 * 8


def test_autogptqs_matrices_have_a_bias() -> None:
    # its own settings name a file; GPTQModel's have `meta`, Optimum's neither: these store a bias where the model has one
    section = {"quant_method": "gptq", "bits": 4, "group_size": 128, "model_file_base_name": "model"}
    q, down = gptq(256, 512, 4, 128), gptq(512, 1024, 4, 128)
    assert stored(section) == (4 * (q + 2 * 256), 4 * (down + 2 * 512), PLAIN["head"])
    assert stored(section | {"meta": {"quantizer": ["gptqmodel:1.4"]}}) == (4 * q, 4 * down, PLAIN["head"])
    said = parse_quantization({"config.json": {"quantization_config": section}})
    assert said is not None
    bias = TensorGroup("model.layers.{}.self_attn.q_proj.bias", "BF16", (256,), ((range(4),),))
    found = stored_as_said((Q, bias), said)
    assert found is not None and sum(group.total_bytes for group in found) == 4 * (q + 2 * 256)


def test_bitsandbytes_writes_its_settings_beside_each_matrix() -> None:
    # two codes a byte, a scale for each 64, the table of 16, and a JSON text that spells the dtype and the shape
    section = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    said = parse_quantization({"config.json": {"quantization_config": section}})
    assert said is not None
    for dtype, word in (("BF16", "bfloat16"), ("F16", "float16"), ("F32", "float32")):
        settings = f'{{"quant_type": "nf4", "blocksize": 64, "dtype": "{word}", "shape": [256, 512]}}'
        (found,) = stored_as_said((TensorGroup(Q.pattern, dtype, Q.shape, Q.boxes),), said) or ()
        assert found.total_bytes == 4 * (256 * 512 // 2 + 4 * 256 * 512 // 64 + 4 * 16 + len(settings))
