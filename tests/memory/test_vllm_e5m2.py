"""Which checkpoints vLLM serves with an fp8_e5m2 cache: each row was built by vLLM 0.33's own class, which took or refused it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hfmem.api.configuring import configure
from hfmem.errors import UnsupportedError

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 1024, "intermediate_size": 2048,
    "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 1024,
    "max_position_embeddings": 8192, "torch_dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
EIGHT = {"num_bits": 8, "type": "float", "symmetric": True}
DYNAMIC = {
    "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": EIGHT | {"strategy": "channel", "dynamic": False},
                                  "input_activations": EIGHT | {"strategy": "token", "dynamic": True}}},
}  # fmt: skip
SCHEME = {"kv_cache_scheme": EIGHT | {"strategy": "tensor", "dynamic": False}}


@pytest.mark.parametrize(
    ("section", "served"),
    [
        ({}, True),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}, True),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}, True),
        (DYNAMIC, True),
        (DYNAMIC | SCHEME, False),
        ({"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}, False),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}, False),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "ignore": ["lm_head"]}, False),
    ],
)
def test_checkpoints(tmp_path: Path, section: dict[str, Any], served: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | ({"quantization_config": section} if section else {})))
    asked: dict[str, Any] = {"engine": "vllm", "context": 4096, "kv_dtype": "fp8_e5m2"}
    if served:
        assert configure(str(tmp_path), **asked).report().kv_cache.dtype == "fp8_e5m2"
    else:
        with pytest.raises(UnsupportedError, match="no fp8_e5m2 cache for"):
            configure(str(tmp_path), **asked)
