"""What kernels hold beyond a rank's share of the file, by hand from published shapes and vLLM's sources."""

from __future__ import annotations

import pytest

from hfmem.checkpoint.quantization_config import parse_quantization
from hfmem.checkpoint.tensors import TensorGroup
from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.padding import copies_beside_codes
from hfmem.memory.serving import Serving
from hfmem.memory.shares import Sharding
from hfmem.memory.weights import rank_weights
from hfmem.model.families.registry import read_architecture
from hfmem.model.inventory import Column, Component, ExpertSplit, Row, TensorSpec
from hfmem.model.quantized import stored_as_said


@pytest.mark.parametrize(
    ("split", "shape", "codes", "engine", "capability", "minor", "copies"),
    [
        (
            Column(),
            (18944, 3584),
            (3584, 2368),
            "vllm",
            90,
            31,
            4,
        ),  # Qwen2.5 7B AWQ on an H100: half a byte becomes two
        (Column(), (18944, 3584), (3584, 2368), "vllm", 90, 17, 1),
        (Column(), (18944, 3584), (3584, 2368), "vllm", 89, 31, 1),
        (Column(), (18944, 3584), (3584, 2368), "sglang", 90, 31, 1),
        (Row(), (3584, 18944), (18944, 448), "vllm", 90, 31, 4),
        (Row(), (3584, 18960), (18960, 448), "vllm", 90, 31, 1),  # no whole tiles of 64 columns
        # GPTQ's order of codes: Machete leaves the zero points, Marlin (any other device, SGLang, odd tiles) drops them
        (Column(), (18944, 3584), (448, 18944), "vllm", 90, 31, 1),
        (Column(), (18944, 3584), (448, 18944), "vllm", 89, 31, 0),
        (Column(), (18944, 3584), (448, 18944), "vllm", 120, 33, 0),
        (Column(), (18944, 3584), (448, 18944), "sglang", 90, 31, 0),
        (Row(), (3584, 18960), (2370, 3584), "vllm", 90, 33, 0),
        # those of stacked experts stay registered
        (ExpertSplit(1, Column()), (768, 2048), (256, 768), "vllm", 89, 33, 1),
    ],
)
def test_zero_points_of_awq_and_gptq(
    split: Column | Row | ExpertSplit,
    shape: tuple[int, int],
    codes: tuple[int, int],
    engine: str,
    capability: int,
    minor: int,
    copies: int,
) -> None:
    spec = TensorSpec("layers.{}.mlp.up_proj.weight", shape, (), Component.MLP, split)
    ranks = Sharding(tp=1)
    assert copies_beside_codes(spec, "qzeros", codes, ranks, capability, Release(minor), engine) == copies
    assert copies_beside_codes(spec, "bias", codes, ranks, capability, Release(minor), engine) == 0


@pytest.mark.parametrize(
    ("engine", "capability", "minor", "copies"),
    [
        # n53 of the logged figures: an 8 B model on an H100 under 0.19 takes 5.38 GiB, which 5 MB less would miss
        ("vllm", 90, 19, 1),
        ("vllm", 90, 33, 0),
        ("vllm", 89, 19, 0),
        ("sglang", 90, 19, 0),
    ],
)
def test_the_order_of_inputs(engine: str, capability: int, minor: int, copies: int) -> None:
    spec = TensorSpec("layers.{}.mlp.up_proj.weight", (14336, 4096), (), Component.MLP, Column())
    found = copies_beside_codes(spec, "g_idx", (512, 14336), Sharding(tp=1), capability, Release(minor), engine)
    assert found == copies


def test_a_gptq_model_on_a_device_of_marlin_holds_codes_and_scales_alone() -> None:
    """Llama 3.1 8B, 4 bit, groups of 128: vLLM on Hopper keeps the zero points, on others codes and scales alone."""
    config = {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256,
        "num_attention_heads": 32, "num_key_value_heads": 8, "torch_dtype": "float16", "tie_word_embeddings": False,
    }  # fmt: skip
    section = {"quant_method": "gptq", "bits": 4, "group_size": 128, "model_file_base_name": "model"}
    said = parse_quantization({"config.json": {"quantization_config": section}})
    assert said is not None
    arch = read_architecture(config)
    plain = [TensorGroup(s.pattern, "F16", s.shape, s.boxes) for s in arch.tensors if not s.buffer]
    stored = stored_as_said(plain, said)
    assert stored is not None
    matrices = [(4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096), (14336, 4096), (14336, 4096), (4096, 14336)]
    codes = sum(out * inputs // 2 + 2 * out * inputs // 128 for out, inputs in matrices)
    zeros = sum(out * inputs // 128 // 2 for out, inputs in matrices)
    rest = 2 * (2 * 128256 * 4096 + 65 * 4096)
    for engine, capability, held in (("vllm", 89, 0), ("vllm", 90, zeros), ("sglang", 90, 0)):
        serving = Serving(engine=engine, compute_capability=capability, context=1024)
        assert rank_weights(arch, stored, serving).bytes == 32 * (codes + held) + rest
    # as stored: the order of inputs and AutoGPTQ's biases, too
    extra = sum(4 * inputs + 2 * out for out, inputs in matrices)
    assert (
        rank_weights(arch, stored, Serving(engine="transformers", context=1024)).bytes
        == 32 * (codes + zeros + extra) + rest
    )
