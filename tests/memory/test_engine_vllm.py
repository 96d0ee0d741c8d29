"""vLLM's arithmetic against what vLLM 0.33.0's own functions return for published configs (8192 batched tokens)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from example_architectures import (
    build,
    deepseek_v3,
    deepseek_v4_flash,
    deepseek_v32,
    gemma_3_27b,
    gpt_oss_120b,
    lfm2,
    llama_3_8b,
    llama_4_scout,
    minimax_m3,
    nemotron_3_nano,
    one,
    qwen3_5_27b,
    qwen3_next,
    whisper_large_v3,
)
from vllm_requests import request, vllm

from hfmem.errors import UnsupportedError
from hfmem.memory.engines.vllm import layout
from hfmem.memory.engines.vllm.groups import Member, group_layers
from hfmem.memory.engines.vllm.specs import Kind, Limits, PagedSpec
from hfmem.memory.engines.vllm.support import kv_heads_per_rank, pipeline_stages
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    CrossAttention,
    DeltaNetState,
    FullAttention,
    Layer,
    Mamba1State,
    Mamba2State,
    RwkvState,
    SharedCache,
)


@pytest.mark.parametrize(
    ("arch", "tp", "kv_dtype", "block", "requests"),
    [
        (gemma_3_27b(), 1, "auto", 1_310_720, (301_465_600, 4_705_484_800, 11_248_599_040, 19_301_662_720)),
        (gemma_3_27b(), 8, "auto", 163_840, (37_683_200, 588_185_600, 1_406_074_880, 2_412_707_840)),
        (qwen3_next(), 1, "auto", 14_155_776, (141_557_760, 339_738_624, 934_281_216, 3_354_918_912)),
        (qwen3_next(), 8, "auto", 2_359_296, (28_311_552, 122_683_392, 424_673_280, 1_632_632_832)),
        (qwen3_5_27b(), 1, "auto", 54_525_952, (545_259_520, 1_035_993_088, 2_671_771_648, 9_105_833_984)),
        (qwen3_5_27b(), 8, "auto", 7_340_032, (80_740_352, 205_520_896, 609_222_656, 2_216_689_664)),
        (nemotron_3_nano(), 1, "auto", 12_877_824, (167_411_712, 206_045_184, 360_579_072, 965_836_800)),
        (nemotron_3_nano(), 8, "auto", 1_622_016, (21_086_208, 45_416_448, 121_651_200, 423_346_176)),
        (lfm2(), 1, "auto", 196_608, (7_077_888, 101_449_728, 403_439_616, 1_611_399_168)),
        (lfm2(), 8, "auto", 24_576, (884_736, 12_681_216, 50_429_952, 201_424_896)),
        (deepseek_v4_flash(), 1, "auto", 1_002_240, (214_479_360, 3_371_535_360, 6_825_254_400, 7_210_114_560)),
        (deepseek_v4_flash(), 1, "fp8", 1_002_240, (214_479_360, 3_371_535_360, 6_825_254_400, 7_210_114_560)),
        (deepseek_v3(), 1, "fp8", 2_248_704, (17_989_632, 287_834_112, 1_151_336_448, 4_605_345_792)),
        (minimax_m3(), 1, "auto", 17_596_416, tuple(n * 17_596_416 for n in (4, 64, 256, 1024))),
        (llama_3_8b(), 1, "fp8", 1_048_576, (33_554_432, 536_870_912, 2_147_483_648, 8_589_934_592)),
    ],
    ids=lambda value: value.family if isinstance(value, Architecture) else str(value) if isinstance(value, str) else "",
)
def test_one_request(arch: Architecture, tp: int, kv_dtype: str, block: int, requests: tuple[int, ...]) -> None:
    contexts = (512, 8192, 32768, 131072)
    assert [request(arch, n, tp, kv_dtype) for n in contexts] == [(size, block) for size in requests]


def test_page_sizes_of_sparse_latents() -> None:
    # 61 layers of 64 tokens: keys of 132 B with rows of 1152 B, or of 656 B in fp8
    assert request(deepseek_v32(), 64) == (61 * 64 * (132 + 1152),) * 2
    assert request(deepseek_v32(), 65, kv_dtype="fp8") == (2 * 61 * 64 * (132 + 656), 61 * 64 * (132 + 656))
    # FlashInfer's rows on devices 10.x are plain, FlashMLA's format is packed, and the only one on devices 12.x
    for capability, kv_dtype, row in (
        (100, "fp8", 576),
        (103, "fp8", 576),
        (120, "fp8", 656),
        (120, "auto", 656),
        (100, "auto", 1152),
    ):
        found = vllm.cache(deepseek_v32(), Serving(65, kv_dtype=kv_dtype, compute_capability=capability))
        assert found.bytes == 2 * 61 * 64 * (132 + row)


def test_a_sparse_row_in_fp8_is_plain_on_hopper_where_the_checkpoint_declares_it() -> None:
    """vLLM 0.33's planning code, run on the published config of GLM-5.3-NVFP4: 21 index keys and 78 rows of 576 B, of a page of 64
    tokens, are 3,052,800 B; with `--kv-cache-dtype fp8` the rows are FlashMLA's 656 B."""
    for kv_dtype, capability, row in (("auto", 90, 576), ("fp8", 90, 656), ("auto", 120, 656)):
        serving = Serving(64, kv_dtype=kv_dtype, declared_kv_dtype="fp8", compute_capability=capability)
        assert vllm.cache(deepseek_v32(), serving).bytes_per_rank == 61 * 64 * (132 + row)
    assert 64 * (21 * 132 + 78 * 576) == 3_052_800


def test_glm_has_an_fp8_cache_on_data_centre_blackwell() -> None:
    """A GLM-5.2's log of B200s: kv_cache_dtype=fp8_e4m3, rows as they are. 576 B and keys of 132 B; DeepSeek V3.2 stays in bf16."""
    glm = replace(deepseek_v32(), model_type="glm_moe_dsa")
    for arch, capability, row in ((glm, 100, 576), (glm, 90, 1152), (deepseek_v32(), 100, 1152)):
        found = vllm.cache(arch, Serving(64, compute_capability=capability))
        assert found.bytes_per_rank == 61 * 64 * (132 + row)
    assert vllm.cache(glm, Serving(64, kv_dtype="bf16", compute_capability=100)).bytes_per_rank == 61 * 64 * (
        132 + 1152
    )


def test_latents_are_replicated_and_heads_are_shared_out() -> None:
    assert request(deepseek_v3(), 4096, tp=8) == request(deepseek_v3(), 4096)
    total = vllm.cache(deepseek_v3(), Serving(4096, tp=8))
    assert total.bytes == 8 * total.bytes_per_rank
    assert vllm.cache(llama_3_8b(), Serving(4096, tp=8)).bytes == 131_072 * 4096
    # 8 heads over 16 ranks: each head twice
    assert vllm.cache(llama_3_8b(), Serving(4096, tp=16)).bytes == 2 * 131_072 * 4096
    assert kv_heads_per_rank(2, 8) == 1


def test_cross_attention_holds_the_encoder_budget() -> None:
    # 32 layers × 81,920 B a page; 32 self pages and 8192 / 16 pages of encoder output
    page = 16 * 20 * 2 * 64 * 2
    assert request(whisper_large_v3(), 512) == ((32 + 512) * 32 * page, 32 * page)
    assert vllm.cache(whisper_large_v3(), Serving(512)).state_bytes_per_seq == 245_760_000


def test_chunks_hold_themselves_and_what_is_in_flight() -> None:
    # three groups of 12 chunked layers, one of 12 full ones; 65,536 B a page of 16 tokens
    pages = 3 * (8192 + 2 * 8192) // 16 + 131072 // 16
    assert request(llama_4_scout(), 131072) == (pages * 12 * 65536, 12 * 65536)


def test_in_flight_tokens_follow_the_flag_and_the_pipeline() -> None:
    def pages(**flags: int) -> int:
        serving = Serving(131072, **flags)  # type: ignore[arg-type]
        return layout(gpt_oss_120b(), serving).request_blocks

    full = 131072 // 16
    assert pages() == full + -(-(127 + 2 * 8192) // 16) + 1
    assert pages(max_num_batched_tokens=2048) == full + -(-(127 + 2 * 2048) // 16) + 1
    assert pages(max_num_batched_tokens=2048, pp=2) == full + -(-(127 + 3 * 2048) // 16) + 1


def test_shared_layers_have_no_cache() -> None:
    dense = one(FullAttention(8, 8, 64, 64), 4)
    assert request(build("a", dense + [Layer((SharedCache(3),))] * 4), 4096) == request(build("a", dense), 4096)


def test_states_without_attention() -> None:
    # Mamba-130m: one state a sequence, whatever its length
    arch = build("mamba", one(Mamba1State(1536, 16, 4), 24))
    assert [request(arch, n)[0] for n in (512, 131072)] == [1_400_832] * 2
    assert request(arch, 512, tp=8)[0] == 175_104


def test_states_without_attention_under_prefix_caching() -> None:
    """vLLM 0.33 on Falcon-Mamba-7B at tp 2: 9,961,472 bytes a block; only `--enable-prefix-caching` makes it two states. Hybrid
    classes cache prefixes by default, with attention or without: three states of Mamba 2 (GraniteMoeHybrid, all layers Mamba)."""
    falcon = build("falcon_mamba", one(Mamba1State(8192, 16, 4), 64))
    found = [vllm.cache(falcon, Serving(512, tp=2, enable_prefix_caching=flag)) for flag in (None, False, True)]
    assert [cache.bytes_per_rank for cache in found] == [9_961_472, 9_961_472, 19_922_944]
    granite = build("granitemoehybrid", one(Mamba2State(128, 64, 256, 1, 4), 32))
    blocks = [layout(granite, Serving(512, enable_prefix_caching=flag)).request_blocks for flag in (None, False, True)]
    assert blocks == [3, 1, 3]


def test_hybrids_without_prefix_caching_hold_one_state() -> None:
    arch = qwen3_next()
    cached, plain = (layout(arch, Serving(4096, enable_prefix_caching=flag)) for flag in (None, False))
    assert cached.plan.block_size == 576
    assert plain.plan.block_size == 544  # 1,097,728 B of state over 2048 B a token, in pages of 16
    assert cached.request_blocks == 3 * 3 + -(-4096 // 576)
    assert plain.request_blocks == 3 * 1 + -(-4096 // 544)


def test_nemotron_keeps_fp32_states_unless_told() -> None:
    arch = build("nemotron_h", one(Mamba2State(64, 64, 128, 8, 4), 1) + one(FullAttention(32, 2, 128, 128), 1))
    other = build("granite", one(Mamba2State(64, 64, 128, 8, 4), 1) + one(FullAttention(32, 2, 128, 128), 1))
    conv, state = 6144 * 3 * 2, 64 * 64 * 128
    assert vllm.cache(arch, Serving(10)).state_bytes_per_seq == conv + state * 4
    assert vllm.cache(other, Serving(10)).state_bytes_per_seq == conv + state * 2


def test_only_some_classes_read_the_state_dtype() -> None:
    # MiniCPM-V 4.6 has Qwen3.5's decoder and its config names fp32; its class keeps bf16, Qwen3.5's own does not
    layers = [
        Layer((FullAttention(8, 2, 256, 256) if i % 4 == 3 else DeltaNetState(16, 16, 128, 128, 4, "F32"),))
        for i in range(24)
    ]
    assert request(build("minicpmv4_6", layers), 512) == (43_253_760, 3_932_160)
    assert request(build("qwen3_5", layers), 512) != request(build("minicpmv4_6", layers), 512)


def test_nvfp4_takes_keys_and_values_of_one_size() -> None:
    arch = build("x", one(FullAttention(8, 8, 192, 128), 1))
    assert vllm.cache(arch, Serving(16, kv_dtype="fp8")).bytes == 8 * (192 + 128) * 16
    with pytest.raises(UnsupportedError, match="keys and values of one size"):
        vllm.cache(arch, Serving(16, kv_dtype="nvfp4"))


def test_quantized_pages() -> None:
    per_head = {"bf16": 512, "fp8": 256, "int8": 256 + 8, "int4": 128 + 8, "nvfp4": 2 * (64 + 8)}
    for fmt, size in per_head.items():
        assert request(llama_3_8b(), 16, kv_dtype=fmt)[0] == 32 * 8 * 16 * size, fmt


def test_declared_cache_format_is_what_auto_means() -> None:
    assert vllm.cache(llama_3_8b(), Serving(16, declared_kv_dtype="fp8")).bytes == 65536 * 16
    assert vllm.cache(llama_3_8b(), Serving(16, kv_dtype="bf16", declared_kv_dtype="fp8")).bytes == 131072 * 16


def test_fp32_models_run_in_bf16() -> None:
    arch = build("any", one(FullAttention(8, 8, 64, 64), 4), dtype="F32")
    assert vllm.cache(arch, Serving(16)).kv_dtype == "bf16"


def test_pipeline_stages() -> None:
    assert [len(stage) for stage in pipeline_stages(61, 8)] == [7, 7, 8, 8, 8, 8, 8, 7]
    assert [len(stage) for stage in pipeline_stages(32, 3)] == [11, 11, 10]
    assert [len(stage) for stage in pipeline_stages(80, 4)] == [20] * 4
    staged = vllm.cache(llama_3_8b(), Serving(4096, pp=3))
    assert staged.bytes_per_rank == 11 * 4096 * 4096
    assert staged.bytes == 131_072 * 4096


def test_sequences_and_replicas() -> None:
    result = vllm.cache(llama_3_8b(), Serving(4096, 5, dp=2))
    assert result.bytes == 5 * 131_072 * 4096
    assert result.bytes_per_rank == 3 * 131_072 * 4096


def test_page_size_flag() -> None:
    assert vllm.cache(llama_3_8b(), Serving(100, page_size=128)).bytes == 131_072 * 128
    with pytest.raises(UnsupportedError, match="multiples of 16"):
        vllm.cache(llama_3_8b(), Serving(100, page_size=24))
    with pytest.raises(UnsupportedError, match="multiples of 64"):
        vllm.cache(deepseek_v32(), Serving(100, page_size=16))
    # FlashMLA reads an fp8 cache in pages of 64; a smaller page that the user names is Triton's (vLLM 0.33 on DeepSeek-V3 at tp 4)
    assert vllm.cache(deepseek_v3(), Serving(16, kv_dtype="fp8")).bytes == 61 * 576 * 64
    assert vllm.cache(deepseek_v3(), Serving(16, kv_dtype="fp8", page_size=16)).bytes == 61 * 576 * 16


@pytest.mark.parametrize(
    ("arch", "tp", "reason"),
    [
        (
            build("qwen2", one(FullAttention(28, 4, 128, 128), 2), heads=28),
            8,
            r"attention heads \(28\) must be divisible",
        ),
        (build("any", one(FullAttention(80, 10, 128, 128), 2), heads=80), 8, "10 KV heads"),
        (build("any", one(FullAttention(24, 3, 128, 128), 2), heads=24), 8, "replicate 3 KV heads"),
        (build("rwkv", one(RwkvState(768, 5), 2)), 1, "no state cache"),
        (
            build("t5", [Layer((FullAttention(8, 8, 64, 64), CrossAttention(8, 8, 64, None)))]),
            1,
            "no encoder-decoder model of the type t5",
        ),
        (build("bamba", one(Mamba2State(128, 64, 128, 1, 4), 2)), 1, "does not serve bamba"),
        (build("mpt", one(FullAttention(32, 32, 128, 128), 2), architectures=("MPTForCausalLM",)), 1, "v0.28.0"),
        (
            build("bart", one(FullAttention(32, 32, 128, 128), 2), architectures=("BartForConditionalGeneration",)),
            1,
            "plugin",
        ),
        (build("x", one(FullAttention(8, 8, 64, 64), 2)), 1, None),
    ],
)
def test_refusals(arch: Architecture, tp: int, reason: str | None) -> None:
    if reason is None:
        assert vllm.cache(arch, Serving(16, tp=tp)).bytes > 0
        return
    with pytest.raises(UnsupportedError, match=reason):
        vllm.cache(arch, Serving(16, tp=tp))


def test_layer_groups_account_for_the_request() -> None:
    result = vllm.cache(gpt_oss_120b(), Serving(8192))
    assert [(group.count, group.bytes_per_token) for group in result.layer_groups] == [(18, 2048), (18, 2048)]
    assert sum(group.bytes for group in result.layer_groups) == result.bytes


def test_windows_beside_latents_of_another_page_are_held_whole() -> None:
    """vLLM 0.33's `get_kv_cache_groups` on 3 MLA layers of 576 and 3 windows of 8 × 128, bf16, blocks of 16 (65,536 is no multiple
    of 18,432): one group of six, every layer keeps all tokens (`_try_get_full_allocation_fallback_groups`)."""
    latent = PagedSpec(Kind.MLA, 16, 1, 576 * 2, ("latent", 576))
    window = PagedSpec(Kind.SLIDING, 16, 8, 256 * 2, (8, 128), window=512)
    (group,) = group_layers([Member(i, i, latent if i % 2 else window) for i in range(6)], block_outermost=False)
    assert (group.block_bytes, group.pages(Limits(4096, 4096, 2048))) == (3 * (18432 + 65536), 256)
    chunk = replace(window, kind=Kind.CHUNKED)
    with pytest.raises(UnsupportedError, match="latent pages"):
        group_layers([Member(i, i, latent if i % 2 else chunk) for i in range(6)], block_outermost=False)


@pytest.mark.parametrize("kv_dtype", ["int8", "int4", "fp8_per_token_head", "fp8_e5m2", "nvfp4"])
def test_dense_latent_attention_is_cached_in_16_bits_or_fp8(kv_dtype: str) -> None:
    """vLLM 0.33 finds no attention backend for MLA on NVIDIA GPUs in other formats."""
    with pytest.raises(UnsupportedError, match=f"no {kv_dtype} cache for dense latent attention"):
        vllm.cache(deepseek_v3(), Serving(512, kv_dtype=kv_dtype))


@pytest.mark.parametrize(
    ("model_type", "name", "cache", "layers", "tp", "block", "request_512"),
    [  # vLLM 0.33 through its Transformers backend on the class defaults, blocks of 128 (32 for Phi-4)
        ("biogpt", "BioGptForCausalLM", FullAttention(16, 16, 64, 64), 24, 8, 1_572_864, 6_291_456),
        ("ctrl", "CTRLLMHeadModel", FullAttention(16, 16, 80, 80), 48, 4, 7_864_320, 31_457_280),
        ("phi4_multimodal", "Phi4MultimodalForCausalLM", FullAttention(32, 8, 96, 96), 32, 8, 393_216, 6_291_456),
    ],
)
def test_classes_that_only_the_transformers_backend_serves(
    model_type: str, name: str, cache: FullAttention, layers: int, tp: int, block: int, request_512: int
) -> None:
    arch = replace(build(model_type, one(cache, layers)), architectures=(name,))
    serving = Serving(512, tp=tp, page_size=32 if tp == 8 and layers == 32 else 128)
    assert (max(layout(arch, serving).stage_block_bytes), vllm.cache(arch, serving).bytes_per_rank) == (
        block,
        request_512,
    )
