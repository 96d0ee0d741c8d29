"""vLLM's cache of models with towers: what its own planning asks for one request on a rank, bytes at TP 1 and 2.

Expected bytes: vLLM 0.33.0's `get_kv_cache_spec` and `_max_memory_usage_bytes_from_groups`, run for its own classes on the meta
device from these configs, 8,192 batched tokens.
"""

from __future__ import annotations

from typing import Any

import pytest
from multimodal_configs import GEMMA4_26B

from hfmem.checkpoint.tensors import TensorGroup
from hfmem.errors import UnsupportedError
from hfmem.memory.engines import engine
from hfmem.memory.engines.vllm import layout
from hfmem.memory.serving import Serving
from hfmem.memory.weights import held_tensors
from hfmem.model.architecture import Architecture
from hfmem.model.expected import synthesise
from hfmem.model.families.registry import read_architecture

Facts = dict[str, Any]
CONTEXTS = (512, 8192, 32768)

HYBRID: Facts = {
    "model_type": "interns2_preview",
    "vision_config": {"depth": 1, "hidden_size": 128, "intermediate_size": 256, "num_heads": 4, "out_hidden_size": 512},
    "text_config": {
        "hidden_size": 512,
        "num_attention_heads": 8,
        "num_hidden_layers": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_key_head_dim": 32,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 8,
        "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 96,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "vocab_size": 9024,
    },
}
WINDOWS: Facts = {
    "model_type": "gemma3",
    "text_config": {"num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4, "sliding_window": 4096},
}
#: Inkling with six layers, the last of them full
CONVOLUTIONS: Facts = {"model_type": "inkling_text", "num_hidden_layers": 6}


def requests(facts: Facts, tp: int, contexts: tuple[int, ...] = CONTEXTS) -> tuple[int, ...]:
    arch = read_architecture({"dtype": "bfloat16", **facts})
    return tuple(engine("vllm").cache(arch, Serving(context, tp=tp)).bytes_per_rank for context in contexts)


@pytest.mark.parametrize(
    ("facts", "tp", "expected"),
    [
        (HYBRID, 1, (4_456_448, 35_913_728, 136_577_024)),
        (HYBRID, 2, (2_228_224, 17_956_864, 68_288_512)),
        (WINDOWS, 1, (12_910_592, 201_654_272, 553_975_808)),
        (WINDOWS, 2, (6_455_296, 100_827_136, 276_987_904)),
        (CONVOLUTIONS, 2, (62_586_880, 990_576_640, 2_024_865_792)),
    ],
)
def test_one_request(facts: Facts, tp: int, expected: tuple[int, ...]) -> None:
    assert requests(facts, tp) == expected


def test_whisper_keeps_its_encoders_output_beside() -> None:
    facts = {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"]}
    assert [requests(facts, tp, (400,)) for tp in (1, 2)] == [(52_789_248,), (26_394_624,)]


def test_inklings_convolutions_are_pages_of_four_tokens() -> None:
    """Packed rows on a rank of two: (2 · 128 + 2 · 6144 / 16) · 8 heads, and (2 · 128 + 2 · 6144 / 8) padded to 2048 · 4 heads."""
    found = layout(read_architecture({"dtype": "bfloat16", **CONVOLUTIONS}), Serving(512, tp=2))
    pages = {spec.page_bytes // 2 // 4 for g in found.groups for m in g.members if (spec := m.spec).block_size == 4}
    assert pages == {1024 * 8} == {2048 * 4}
    with pytest.raises(UnsupportedError, match="no more ranks than KV heads"):
        layout(read_architecture({"dtype": "bfloat16", **CONVOLUTIONS}), Serving(512, tp=16))


@pytest.mark.parametrize("tp", [1, 2, 8])
def test_inklings_embedding_is_whole_and_its_shared_experts_are_split(tp: int) -> None:
    """`InklingReplicatedEmbedding` has (201,024, 6,144) on a rank of two, `InklingSinkExperts` (2, 3,072, 6,144) for both halves
    and (6,144, 3,072)."""
    arch = read_architecture({**CONVOLUTIONS, "dtype": "bfloat16"})
    held = list(held_tensors(arch, synthesise(arch), Serving(512, engine="vllm", tp=tp)))
    (table,) = [h.bytes for h in held if h.pattern == "model.embed_tokens.weight"]
    assert table == 201_024 * 6144 * 2
    sinks = {h.pattern.split(".")[-1]: h.bytes for h in held if ".shared_experts." in h.pattern}
    assert sum(sinks.values()) == 2 * (2 * 3072 * 6144 + 6144 * 3072) * 2 // tp


def test_gemma4_in_fp8_on_hopper() -> None:
    """FlashAttention 4 reads an fp8 cache of heads of 512 in pages of 64 tokens; vLLM 0.33's planner for gemma-4-26B-A4B."""
    arch = read_architecture(dict(GEMMA4_26B))
    expected = {512: 64_225_280, 8192: 929_300_480, 32_768: 2_124_677_120}
    for context, held in expected.items():
        serving = Serving(context, kv_dtype="fp8", max_num_batched_tokens=8192, compute_capability=90)
        assert engine("vllm").cache(arch, serving).bytes_per_rank == held
        assert max(layout(arch, serving).stage_block_bytes) == 1_310_720


def test_pages_where_images_see_themselves_on_blackwell() -> None:
    """Triton and FlashInfer together take pages of 64 tokens; vLLM 0.33's planner at compute capability 10.0."""
    text = GEMMA4_26B["text_config"] | {"use_bidirectional_attention": "vision"}
    config = dict(GEMMA4_26B) | {"text_config": text}
    for kv_dtype, held in (("auto", (128_450_560, 4_249_354_240)), ("fp8", (64_225_280, 2_124_677_120))):
        assert _one(config, 100, kv_dtype) == held
    assert _one(config, 120, "auto") == (118_620_160, 4_239_523_840)  # no such backend on consumer devices
    # gemma-3-4b: heads of 256; with heads of 128 (27B) FlashInfer serves alone, in pages of 16
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34, "sliding_window": 1024}
    text |= {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "intermediate_size": 10240}
    small = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "dtype": "bfloat16"}
    assert _one(small | {"text_config": text}, 100, "auto") == (81_264_640, 2_818_048_000)
    halved = small | {"text_config": text | {"head_dim": 128}}
    assert _one(halved, 100, "auto") == _one(halved, 90, "auto")


def _one(config: Facts, capability: int, kv_dtype: str) -> tuple[int, int]:
    """Bytes of one request of 512 and of 32,768 tokens."""
    arch = read_architecture(dict(config))
    short, long = (
        engine("vllm")
        .cache(arch, Serving(n, kv_dtype=kv_dtype, max_num_batched_tokens=8192, compute_capability=capability))
        .bytes_per_rank
        for n in (512, 32_768)
    )
    return short, long


def test_the_projector_of_lfm2_vl_is_whole_on_every_rank() -> None:
    # vLLM 0.33's `Lfm2VLMultiModalProjector` is of `ReplicatedLinear`; SGLang's is split
    config: Facts = {
        "model_type": "lfm2_vl",
        "dtype": "bfloat16",
        "projector_hidden_size": 2048,
        "downsample_factor": 2,
    }
    config |= {"vision_config": {"model_type": "siglip2_vision_model", "hidden_size": 1152}}
    arch = read_architecture(config)
    projector = [t for t in synthesise(arch) if t.pattern.startswith("model.multi_modal_projector.")]
    whole = sum(t.total_bytes for t in projector)
    assert _on_ranks(arch, projector, Serving(10, tp=2)) == whole
    assert _on_ranks(arch, projector, Serving(10, tp=2, engine="sglang")) < whole


def _on_ranks(arch: Architecture, groups: list[TensorGroup], serving: Serving) -> int:
    """Bytes of `groups` on one rank."""
    return sum(sum(held.stage_counts) * held.bytes for held in held_tensors(arch, groups, serving))
