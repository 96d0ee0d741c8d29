"""SGLang's pages and cache formats by model class and device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from example_architectures import build, deepseek_v3, deepseek_v32, llama_3_8b, one

from hfmem.errors import UnsupportedError
from hfmem.memory.engines import engine
from hfmem.memory.serving import Serving
from hfmem.model.layers import FullAttention, Layer, SlidingAttention

sglang = engine("sglang")


def test_latent_attention_of_classes_it_has_not() -> None:
    """Its Transformers backend would cache the keys and values of every head (`attention_arch` stays MHA)."""
    with pytest.raises(UnsupportedError, match="no latent attention for AXK1ForCausalLM"):
        sglang.cache(replace(deepseek_v3(), architectures=("AXK1ForCausalLM",)), Serving(10))
    assert sglang.cache(replace(deepseek_v3(), architectures=("DeepseekV3ForCausalLM",)), Serving(10)).bytes > 0


@pytest.mark.parametrize(
    ("model_type", "name", "settings", "page"),
    [
        # what `ServerArgs(…).resolve_once()` of 0.5.23 answers for a B200
        ("llama", "LlamaForCausalLM", {}, 64),
        ("llama", "LlamaForCausalLM", {"speculative_tokens": 4}, 1),
        ("llama", "LlamaForCausalLM", {"page_size": 16}, 16),
        ("llama", "LlamaForCausalLM", {"page_size": 1}, 64),
        ("llama", "LlamaForCausalLM", {"page_size": 256}, 64),
        ("llama", "LlamaForCausalLM", {"page_size": 256, "speculative_tokens": 4}, 256),
        ("whisper", "WhisperForConditionalGeneration", {}, 1),
        ("step3p7", "Step3p7ForConditionalGeneration", {"page_size": 16, "speculative_tokens": 4}, 128),
        ("gpt_oss", "GptOssForCausalLM", {"speculative_tokens": 4}, 64),
        ("gemma4", "Gemma4ForConditionalGeneration", {"speculative_tokens": 4}, 64),
        ("olmo3", "Olmo3ForCausalLM", {"speculative_tokens": 4}, 64),
        ("lfm2", "Lfm2ForCausalLM", {}, 1),
        ("qwen3_5", "Qwen3_5ForConditionalGeneration", {}, 1),
        ("qwen3_5", "Qwen3_5ForConditionalGeneration", {"page_size": 16}, 1),
        ("qwen3_5_moe", "Qwen3_5MoeForCausalLM", {}, 64),
        ("qwen3_5", "Qwen3_5ForConditionalGeneration", {"enable_prefix_caching": False}, 64),
    ],
)
def test_pages_of_model_classes_on_a_b200(model_type: str, name: str, settings: dict[str, int], page: int) -> None:
    arch = build(model_type, one(FullAttention(32, 8, 128, 128), 2), heads=32, architectures=(name,))
    served = Serving(100, engine="sglang", compute_capability=100, **settings)  # type: ignore[arg-type]
    assert sglang.cache(arch, served).page_size == page


def test_pages_of_latents_on_a_b200() -> None:
    """`trtllm_mla` takes 32 and 64; classes that run on FlashInfer's kernels take any."""
    for name, pages in (("DeepseekV3ForCausalLM", (64, 64, 32, 64)), ("DeepseekV2ForCausalLM", (1, 16, 32, 128))):
        arch = replace(deepseek_v3(), architectures=(name,))
        asked = (None, 16, 32, 128)
        served = [Serving(100, engine="sglang", compute_capability=100, page_size=page) for page in asked]
        assert tuple(sglang.cache(arch, each).page_size for each in served) == pages


def test_fp8_latents_of_glm_are_packed_on_small_blackwell() -> None:
    """`_dsa_split_backend_resolution`: FlashInfer's kernels there, 512 + 16 of scales + 128 and an indexer's 132; DeepSeek's on
    TensorRT-LLM's take 576 and 132."""
    arch = build("glm_moe_dsa", deepseek_v32().layers, heads=128, architectures=("GlmMoeDsaForCausalLM",))
    for found, row in ((arch, 656), (deepseek_v32(), 576)):
        served = Serving(64, engine="sglang", compute_capability=120, kv_dtype="fp8")
        assert sglang.cache(found, served).bytes == 64 * len(found.layers) * (row + 132)


def test_sparse_latents_keep_their_pages_whatever_is_asked() -> None:
    assert sglang.cache(deepseek_v32(), Serving(65, page_size=16)).page_size == 64


def test_muse_spark_caches_fp8_unless_told() -> None:
    arch = build(
        "muse_spark", one(FullAttention(8, 8, 64, 64), 2), architectures=("MuseSparkForConditionalGeneration",)
    )
    assert sglang.cache(arch, Serving(10)).bytes == 10 * 2 * 8 * 128
    assert sglang.cache(arch, Serving(10, kv_dtype="bf16")).bytes == 10 * 2 * 8 * 128 * 2


def test_mxfp8_is_a_byte_and_a_scale_for_32() -> None:
    """`MHATokenToKVPoolMXFP8`: 32 layers of keys and values of 8 heads, 128 bytes and 4 scales each; Blackwell alone has it."""
    asked: dict[str, Any] = {"engine": "sglang", "kv_dtype": "mxfp8"}
    rules = engine("sglang")
    assert rules.cache(llama_3_8b(), Serving(1024, compute_capability=100, **asked)).bytes == 1024 * 32 * 2 * 8 * 132
    for name, settings in (("sglang", {}), ("vllm", {"engine": "vllm"})):
        with pytest.raises(UnsupportedError, match="mxfp8"):
            engine(name).cache(llama_3_8b(), Serving(1000, **asked | settings))


@pytest.mark.parametrize("fmt", ["nvfp4", "fp4_mx_block16"])
def test_fp4_is_packed_in_one_pool_alone(fmt: str) -> None:
    """`_build_hybrid_swa_kv_pool` gets no quantization method, `_build_mha_kv_pool` does: half a byte, a scale for 16."""
    asked: dict[str, Any] = {"engine": "sglang", "kv_dtype": fmt, "compute_capability": 100}
    assert sglang.cache(llama_3_8b(), Serving(1024, **asked)).bytes == 1024 * 32 * 2 * 8 * (64 + 8)
    layers = [Layer((SlidingAttention(64, 8, 64, 64, 128),)), Layer((FullAttention(64, 8, 64, 64),))] * 12
    windowed = build("gpt_oss", layers, heads=64, architectures=("GptOssForCausalLM",))
    with pytest.raises(UnsupportedError, match=f"packs no {fmt} where windowed layers have a pool of their own"):
        sglang.cache(windowed, Serving(1000, **asked))
