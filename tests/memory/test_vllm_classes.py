"""What vLLM's registry says of a class, and what follows: pipeline stages, and prompts that must be computed in one step."""

from __future__ import annotations

from typing import Any

import pytest
from decoder_configs import llama_keys, read

from hfmem.errors import UnsupportedError
from hfmem.memory.engines.vllm import layout
from hfmem.memory.engines.vllm.classes import batched_tokens, pools
from hfmem.memory.engines.vllm.support import check_encoder, check_ranks
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.families.registry import read_architecture


def bert(name: str) -> Architecture:
    keys = llama_keys(64, 2, 4, 4, 128, 100, max_position_embeddings=16_384, type_vocab_size=2)
    return read("bert", architectures=[name], **keys)


def llama(name: str) -> Architecture:
    return read("llama", architectures=[name], **llama_keys(64, 2, 4, 4, 128, 100, max_position_embeddings=16_384))


@pytest.mark.parametrize(
    ("arch", "pooling", "whole"),
    [
        (bert("BertModel"), True, True),  # attends both ways, pools the first token
        (bert("BertForSequenceClassification"), True, True),
        (llama("LlamaForCausalLM"), False, False),
        (llama("LlamaForSequenceClassification"), True, False),  # pools the last token
    ],
)
def test_prompts_that_are_computed_in_one_step(arch: Architecture, pooling: bool, whole: bool) -> None:
    # `is_chunked_prefill_supported`, `_set_default_max_num_seqs_and_batched_tokens_args`, `verify_max_model_len`
    assert pools(arch, Serving(512)) == pooling
    assert batched_tokens(arch, Serving(16_384)) == (16_384 if whole else 8192)
    assert batched_tokens(arch, Serving(16_384, device_batched_tokens=2048)) == (16_384 if whole else 2048)
    assert batched_tokens(arch, Serving(4096, max_num_batched_tokens=4096)) == 4096
    assert batched_tokens(arch, Serving(512, max_num_seqs=4)) == 4 * 512
    short = Serving(4096, max_num_batched_tokens=2048)
    if whole:
        with pytest.raises(UnsupportedError, match=r"\(2048\) is smaller than max_model_len \(4096\)"):
            layout(arch, short)
    else:
        assert batched_tokens(arch, short) == 2048
    with pytest.raises(UnsupportedError, match="max_num_seqs"):
        batched_tokens(arch, Serving(512, max_num_batched_tokens=2048, max_num_seqs=4096))


def test_only_some_classes_have_pipeline_stages() -> None:
    check_ranks(llama("LlamaForCausalLM"), 1, 2)
    with pytest.raises(UnsupportedError, match="pipeline parallelism"):
        check_ranks(bert("BertModel"), 1, 2)


def qwen_vl(heads: int) -> dict[str, Any]:
    text = {"model_type": "qwen2_vl_text", **llama_keys(64, 2, 8, 8, 128, 100)}
    seen = {"embed_dim": 64, "hidden_size": 64, "depth": 2, "num_heads": heads, "mlp_ratio": 2.0, "patch_size": 14}
    return {
        "model_type": "qwen2_vl",
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "text_config": text,
        "vision_config": {**seen, "in_channels": 3, "spatial_merge_size": 2, "temporal_patch_size": 2},
    }


def test_an_encoder_whose_heads_the_ranks_do_not_divide() -> None:
    # `divide(num_heads, tp_size)` of `qwen2_vl.py`; without the encoder nothing stands in the way
    check_encoder(read_architecture(qwen_vl(8)), 8)
    four = read_architecture(qwen_vl(4))
    check_encoder(four, 4)
    with pytest.raises(UnsupportedError, match=r"\(4\) must be divisible by tensor parallel size \(8\)"):
        layout(four, Serving(512, tp=8))
    assert layout(four, Serving(512, tp=8, language_model_only=True)).groups
