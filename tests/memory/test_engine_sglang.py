"""SGLang's pools: sizes that its logs print, its own split worked out by hand, and what its code answers for real configs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from example_architectures import (
    build,
    deepseek_v3,
    deepseek_v32,
    gemma_3_27b,
    lfm2,
    llama_3_8b,
    one,
    qwen3_next,
    whisper_large_v3,
)

from hfmem.errors import UnsupportedError, UsageError
from hfmem.memory.engines import engine, pooling_engine
from hfmem.memory.engines.sglang.support import pipeline_stages
from hfmem.memory.result import Pool
from hfmem.memory.serving import Serving
from hfmem.memory.weights import rank_weights
from hfmem.model.architecture import Architecture
from hfmem.model.expected import synthesise
from hfmem.model.families.registry import read_architecture
from hfmem.model.inventory import Column, Component, TensorSpec
from hfmem.model.layers import CrossAttention, FullAttention, Layer, NoCache, SharedCache, SlidingAttention
from hfmem.units import GIB

sglang = engine("sglang")
#: 40 GiB, as SGLang's code was asked
MEMORY = 40 * GIB


def pool(arch: Architecture, memory: int, context: int = 4096, tp: int = 1, **settings: float) -> Pool:
    rules = pooling_engine("sglang")
    assert rules is not None
    return rules.pool(arch, Serving(context, tp=tp, engine="sglang", **settings), memory)  # type: ignore[arg-type]


def gpt_oss_20b() -> Architecture:
    """12 pairs of a layer with a window of 128 and a full one, 8 KV heads of 64."""
    windowed, full = SlidingAttention(64, 8, 64, 64, 128), FullAttention(64, 8, 64, 64)
    return build("gpt_oss", [Layer((windowed,)), Layer((full,))] * 12, heads=64, architectures=("GptOssForCausalLM",))


def test_logged_pools() -> None:
    # "KV Cache is allocated. #tokens: 367404, K size: 8.23 GB, V size: 8.23 GB": Qwen3-235B-A22B on four GPUs
    qwen = build("qwen3_moe", one(FullAttention(64, 4, 128, 128), 94), heads=64)
    cell = 94 * 2 * 128 * 2
    found = pool(qwen, 367_404 * cell + 1000, tp=4)
    assert found.log_lines[0] == "KV Cache is allocated. #tokens: 367404, K size: 8.23 GB, V size: 8.23 GB"
    # "KV Cache is allocated. #tokens: 46611, K size: 1.42 GB, V size: 1.42 GB": a 32B Qwen2 on four GPUs
    dense = build("qwen2", one(FullAttention(40, 8, 128, 128), 64), heads=40)
    assert pool(dense, 46_611 * 64 * 2 * 2 * 128 * 2, tp=4).log_lines[0].endswith("K size: 1.42 GB, V size: 1.42 GB")


@pytest.mark.parametrize(
    ("arch", "tp", "tokens"),
    [
        (gpt_oss_20b(), 1, 970_903),
        (gpt_oss_20b(), 8, 7_767_229),
        (gemma_3_27b(), 1, 84_562),
        (gemma_3_27b(), 8, 676_500),
        (qwen3_next(), 1, 920_754),
        (qwen3_next(), 8, 1_839_937),
        (deepseek_v32(), 1, 548_359 // 64 * 64),
        (deepseek_v32(), 8, 548_359 // 64 * 64),
    ],
)
def test_as_sglangs_own_code_answers(arch: Architecture, tp: int, tokens: int) -> None:
    """`create_memory_pool_configurator(…).calculate_pool_sizes` of SGLang 0.5.23, run on the models' own configs for 40 GiB."""
    assert pool(arch, MEMORY, tp=tp).capacity_tokens == tokens


def test_dense_and_latent_tokens() -> None:
    assert sglang.cache(llama_3_8b(), Serving(1001, 3)).bytes == 3 * 1001 * 131_072
    assert sglang.cache(deepseek_v3(), Serving(1001)).bytes == 1001 * 70_272
    assert sglang.cache(deepseek_v3(), Serving(1001, tp=8)).bytes_per_rank == 1001 * 70_272
    assert sglang.cache(llama_3_8b(), Serving(1001, tp=8)).bytes_per_rank == 1001 * 131_072 // 8
    assert sglang.cache(llama_3_8b(), Serving(1001, kv_dtype="fp8")).bytes == 1001 * 65_536
    assert sglang.cache(llama_3_8b(), Serving(1001, page_size=64)).bytes == 1024 * 131_072


def test_sparse_latents_are_paged_and_packed() -> None:
    assert sglang.cache(deepseek_v32(), Serving(65)).bytes == 128 * 61 * (1152 + 132)
    assert sglang.cache(deepseek_v32(), Serving(64, kv_dtype="fp8")).bytes == 64 * 61 * (656 + 132)
    # Blackwell takes fp8 by itself, and its kernels read rows without scales
    assert sglang.cache(deepseek_v32(), Serving(64, compute_capability=100)).bytes == 64 * 61 * (576 + 132)
    with pytest.raises(UnsupportedError, match="only supports bf16"):
        sglang.cache(deepseek_v32(), Serving(64, kv_dtype="fp8_e5m2"))


def test_layers_that_share_a_choice_have_no_index_keys() -> None:
    arch = deepseek_v32()
    shared = [replace(layer.caches[0], has_indexer=index % 4 == 0) for index, layer in enumerate(arch.layers)]  # type: ignore[arg-type]
    assert sglang.cache(build("deepseek_v32", [Layer((cache,)) for cache in shared]), Serving(64)).bytes == 64 * (
        61 * 1152 + 16 * 132
    )


def test_pages_on_data_centre_blackwell() -> None:
    b200 = Serving(65, compute_capability=100, engine="sglang")
    assert sglang.cache(llama_3_8b(), b200).page_size == 64
    assert sglang.cache(deepseek_v3(), b200).page_size == 1  # no class named: FlashInfer's kernels
    named = replace(deepseek_v3(), architectures=("DeepseekV3ForCausalLM",))
    assert sglang.cache(named, b200).page_size == 64
    assert sglang.cache(llama_3_8b(), replace(b200, compute_capability=120)).page_size == 1
    uneven = build("mimo_v2", one(FullAttention(32, 4, 192, 128), 4), heads=32)
    assert sglang.cache(uneven, b200).page_size == 128


def test_windowed_pool_at_worst() -> None:
    # a window without the token itself, 128 steps until eviction and two pages of one token a request; two chunks of 8192 and a
    # page for all
    token = 8 * 128 * 2
    tokens = 127 + 128 + 2 + 2 * 8192 + 1
    assert sglang.cache(gpt_oss_20b(), Serving(131072)).bytes == token * 12 * (131072 + tokens)
    four = 4 * (127 + 128 + 2) + 2 * 8192 + 1
    assert sglang.cache(gpt_oss_20b(), Serving(131072, 4)).bytes == token * 12 * (4 * 131072 + four)
    assert sglang.cache(gpt_oss_20b(), Serving(1000)).bytes == token * 24 * 1000


def test_windows_save_nothing_elsewhere() -> None:
    assert sglang.cache(gemma_3_27b(), Serving(131072)).bytes == 8192 * 62 * 131072


def test_every_layer_has_rows() -> None:
    """Also one that looks at another's cache, and one without attention, in models without states and windowed pools."""
    own = FullAttention(8, 4, 64, 64)
    layers = [Layer((own,)), Layer((SharedCache(0),)), Layer((NoCache("no_op"),))]
    assert sglang.cache(build("nemotron-nas", layers, heads=8), Serving(10)).bytes == 10 * 3 * 4 * 128 * 2


def test_states_have_spare_slots_and_fp32() -> None:
    state = 36 * (8192 * 3 * 2 + 32 * 128 * 128 * 4)
    result = sglang.cache(qwen3_next(), Serving(1000, 2))
    # three slots a request and two that track where prefixes end, one for padding
    assert result.bytes == 2 * 1000 * 24_576 + (5 * 2 + 1) * state
    assert result.state_bytes_per_seq == state
    assert {group.tokens for group in result.layer_groups} == {1000, 0}  # a state holds no rows


def test_states_of_models_that_track_no_prefixes() -> None:
    """Three slots a request and no more (`MAMBA_CACHE_SIZE_MAX_RUNNING_REQUESTS_RATIO`; LFM2 has no `mamba_track` slots)."""
    result = sglang.cache(lfm2(), Serving(100, 2))
    rows = sum(len(group.layers) * group.bytes_per_token for group in result.layer_groups)
    assert result.bytes == 2 * 100 * rows + (3 * 2 + 1) * result.state_bytes_per_seq


def test_a_sequence_on_all_ranks() -> None:
    assert sglang.cache(llama_3_8b(), Serving(1001, tp=8)).bytes_per_seq == 1001 * 131_072


def test_pool_divides_states_from_tokens() -> None:
    memory = 20 * GIB
    state = 36 * (8192 * 3 * 2 + 32 * 128 * 128 * 4)
    slots = int(memory * 0.9 / 1.9 - state) // state
    found = pool(qwen3_next(), memory, 8192)
    assert found.capacity_tokens == (memory - (slots + 1) * state) // 24_576
    assert found.max_concurrency == min(slots // 5, found.capacity_tokens / 8192)


def test_pool_divides_windowed_from_full() -> None:
    found = pool(gpt_oss_20b(), MEMORY, 131072)
    held = int(found.capacity_tokens * 0.8)
    assert found.max_concurrency == min(found.capacity_tokens / 131072, (held - 2 * 8192 - 1) / 257)
    with pytest.raises(UnsupportedError, match="cannot hold even one request"):
        pool(gpt_oss_20b(), 140 * 2048 * 24, 100)


def test_a_pool_too_small_for_one_sequence_starts_all_the_same() -> None:
    # 128 KiB a token: 8,192 of them, and a sixteenth of a sequence
    found = pool(llama_3_8b(), GIB, 131072)
    assert (found.capacity_tokens, found.max_concurrency) == (8192, 8192 / 131072)
    with pytest.raises(UnsupportedError, match="hold no pool"):
        pool(llama_3_8b(), 131_071, 131072)


@pytest.mark.parametrize("fmt", ["int8", "int4", "q8_0"])
def test_formats_it_has_not(fmt: str) -> None:
    with pytest.raises(UnsupportedError, match=fmt):
        sglang.cache(llama_3_8b(), Serving(10, kv_dtype=fmt))


def test_models_not_known() -> None:
    translator = build("t5", [Layer((FullAttention(8, 8, 64, 64), CrossAttention(8, 8, 64, None)))], heads=8)
    with pytest.raises(UnsupportedError, match="does not serve t5"):
        sglang.cache(translator, Serving(10))
    with pytest.raises(UnsupportedError, match="no state pool for jamba"):
        sglang.cache(replace(qwen3_next(), model_type="jamba"), Serving(10))


def text_encoder(layers: int, heads: int, model_type: str = "xlm-roberta") -> Architecture:
    return read_architecture(
        {
            "model_type": model_type,
            "architectures": ["XLMRobertaModel"],
            "dtype": "float32",
            "hidden_size": 64 * heads,
            "intermediate_size": 256 * heads,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "vocab_size": 1000,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
        }
    )


def test_a_text_encoder_has_a_pool_too() -> None:
    """What `pool_configurator.py` of 0.5.23 answers for XLM-RoBERTa of 24 layers of 16 heads and of 12 of 12: keys and values of
    every layer, though attention does not read them again."""
    for layers, heads, asked, tp, page, fmt, tokens in (
        (24, 16, 17.3, 8, 16, "bf16", 1_511_696),
        (24, 16, 17.3, 4, 64, "fp8", 1_511_680),
        (24, 16, 17.3, 4, 64, "bf16", 755_840),
        (12, 12, 17.3, 2, 1, "fp8", 2_015_596),
        (12, 12, 40.0, 2, 64, "fp8", 4_660_288),
    ):
        rules = pooling_engine("sglang")
        assert rules is not None
        serving = Serving(512, tp=tp, engine="sglang", page_size=page, kv_dtype=fmt)
        assert rules.pool(text_encoder(layers, heads), serving, int(asked * GIB)).capacity_tokens == tokens
    # a request holds a row a token: 512 × 24 layers × keys and values of 16 × 64 halves
    assert sglang.cache(text_encoder(24, 16), Serving(512)).bytes == 512 * 24 * 2 * 16 * 64 * 2
    with pytest.raises(UnsupportedError, match="12 heads, tp 8"):  # as `bert.py` asserts before there is a pool
        sglang.cache(text_encoder(12, 12), Serving(512, tp=8))


def test_an_image_encoder_has_no_pool() -> None:
    arch = replace(text_encoder(24, 16), tensors=())  # no table of tokens
    assert sglang.cache(arch, Serving(512)).bytes == 0


def test_encoders_that_its_transformers_backend_refuses() -> None:
    with pytest.raises(UnsupportedError, match="does not serve mpnet"):
        sglang.cache(replace(text_encoder(12, 12), model_type="mpnet"), Serving(512))


def test_whisper_numbers_its_encoder_too() -> None:
    # 32 layers of the encoder, 32 of self and 32 of cross attention, 20 heads of 64; its output is not cached
    assert sglang.cache(whisper_large_v3(), Serving(448)).bytes == 448 * 96 * 20 * 64 * 2 * 2


def test_heads_it_does_not_divide() -> None:
    with pytest.raises(UnsupportedError, match="32 heads, tp 3"):
        sglang.cache(llama_3_8b(), Serving(10, tp=3))
    with pytest.raises(UnsupportedError, match="10 KV heads, tp 8"):
        sglang.cache(build("llama", one(FullAttention(40, 10, 64, 64), 2), heads=40), Serving(10, tp=8))


def test_pipeline_stages_and_replicas() -> None:
    assert sglang.cache(llama_3_8b(), Serving(1000, pp=3)).bytes_per_rank == 11 * 4096 * 1000
    result = sglang.cache(llama_3_8b(), Serving(1000, 4, dp=2))
    assert (result.bytes, result.bytes_per_rank) == (4 * 131_072_000, 2 * 131_072_000)


def test_what_does_not_divide_goes_to_the_last_stages() -> None:
    """As `get_pp_indices`: "the last N partitions will have one extra layer, where N = remainder"."""
    assert [len(stage) for stage in pipeline_stages(61, 8)] == [7, 7, 7, 8, 8, 8, 8, 8]
    assert pipeline_stages(32, 3) == (range(10), range(10, 21), range(21, 32))
    # 40 GiB hold as many tokens as the stages with 11 layers can
    assert pool(llama_3_8b(), MEMORY, pp=3).capacity_tokens == MEMORY // (11 * 4096)


def test_ratios_that_are_set() -> None:
    """gpt-oss-20b has 12 layers of either kind, 2048 bytes a token in each: the windowed pool takes a tenth, or four fifths."""
    for ratio in (0.1, 0.8):
        found = pool(gpt_oss_20b(), MEMORY, 131072, swa_full_tokens_ratio=ratio)
        assert abs(found.capacity_tokens - MEMORY / (12 * 2048 * (1 + ratio))) <= 1
    more, less = (pool(qwen3_next(), 20 * GIB, 8192, mamba_full_memory_ratio=ratio) for ratio in (0.5, 2.0))
    assert more.capacity_tokens > less.capacity_tokens


def test_without_the_radix_cache_a_request_keeps_one_state() -> None:
    """`_calculate_mamba_ratio`: three slots and two for tracking with the radix cache on, one with it off."""
    rules = engine("sglang")
    on, off = (
        rules.cache(qwen3_next(), Serving(512, engine="sglang", enable_prefix_caching=flag)) for flag in (None, False)
    )
    assert on.bytes - off.bytes == (5 - 1) * on.state_bytes_per_seq


def test_told_requests_size_the_pools_where_the_radix_cache_is_off() -> None:
    """What SGLang 0.5.23's own code answers with `--disable-radix-cache --max-running-requests`: Qwen3-Next with a slot for
    each of 60 requests, whatever the ratio; gpt-oss-20b with a windowed pool of 300 requests' worst case, the ratio unread."""
    off = {"enable_prefix_caching": False, "page_size": 1}
    states = pool(qwen3_next(), 3 * GIB, 512, tp=2, max_num_seqs=60, mamba_full_memory_ratio=2.0, **off)
    assert states.capacity_tokens == 70_360
    # 93,485 tokens: 300 × (window 127 + 128 until eviction + 2 pages) + 2 chunks of 8192 + a page; fp8: 12 layers × 128 bytes each
    windowed = 300 * (127 + 128 + 2) + 2 * 8192 + 1
    assert windowed == 93_485
    found = pool(gpt_oss_20b(), int(17.3 * GIB), 512, tp=8, max_num_seqs=300, kv_dtype="fp8", **off)  # type: ignore[arg-type]
    assert found.capacity_tokens == 12_000_091 == (int(17.3 * GIB) - windowed * 12 * 128) // (12 * 128)
    # two groups of data-parallel attention run 150 each in chunks of 4096, on four ranks with two heads
    halved = pool(gpt_oss_20b(), GIB, 512, tp=8, attn_dp=2, max_num_seqs=300, **off)
    assert halved.capacity_tokens == 128_019 == GIB // (12 * 512) - (150 * 257 + 2 * 4096 + 1)


def test_ratios_are_sglangs() -> None:
    for name, bad in (("swa_full_tokens_ratio", 1.5), ("mamba_full_memory_ratio", 0.0)):
        with pytest.raises(UsageError, match="must be above 0"):
            Serving(512, engine="sglang", **{name: bad})  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="only SGLang has"):
            Serving(512, **{name: 0.5})  # type: ignore[arg-type]


def test_an_image_encoders_attention_is_shared_within_a_group_of_data_parallel_attention() -> None:
    # `VisionAttention` asks for the attention group's ranks, the feed-forward between them for all (0.5.23 `models/qwen2_vl.py`)
    width, text = 64, {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 8}
    arch = read_architecture(
        {
            "model_type": "qwen2_vl",
            "dtype": "bfloat16",
            "text_config": {"model_type": "qwen2_vl_text", "intermediate_size": 128, "vocab_size": 128, **text},
            "vision_config": {
                "embed_dim": width,
                "hidden_size": 64,
                "depth": 3,
                "num_heads": 8,
                "mlp_ratio": 2.0,
                "patch_size": 14,
                "in_channels": 3,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
            },
        }
    )

    def parameters(groups: int, part: str) -> int:
        only = replace(arch, tensors=tuple(s for s in arch.tensors if part in s.pattern))
        return rank_weights(only, synthesise(only), Serving(512, engine="sglang", tp=4, attn_dp=groups)).parameters

    attention, bias = 4 * width * width + 3 * width, width
    for groups in (1, 2, 4):
        assert parameters(groups, "visual.blocks.{}.attn.") == 3 * (attention * groups // 4 + bias)
        assert parameters(groups, "visual.blocks.{}.mlp.") == 3 * ((4 * width * width + 2 * width) // 4 + width)


def test_the_most_tokens_of_a_pool() -> None:
    """`--max-total-tokens` (`_apply_token_constraints`): the smaller of what is asked and what fits, in whole pages; the windowed
    pool follows by its ratio, states keep their slots."""
    fits = MEMORY // (32 * 4096)
    for asked, pages_of, tokens in ((1000, 1, 1000), (1000, 64, 960), (fits + 1, 1, fits)):
        found = pool(llama_3_8b(), MEMORY, max_total_tokens=asked, page_size=pages_of)
        assert found.capacity_tokens == tokens
    assert pool(llama_3_8b(), MEMORY, pp=2, max_total_tokens=1000, page_size=1).capacity_tokens == 1000
    whole, less = (
        pool(qwen3_next(), 20 * GIB, 8192, page_size=1, **more) for more in ({}, {"max_total_tokens": 10**5})
    )
    assert less.capacity_tokens == 10**5 < whole.capacity_tokens and less.max_concurrency == 10**5 / 8192
    assert pool(gpt_oss_20b(), MEMORY, page_size=1, max_total_tokens=1000).capacity_tokens == 1000
    # 160 × 0.8 = 128 tokens, the window of 127 and a page
    with pytest.raises(UnsupportedError, match=r"SWA pool \(128 tokens\) cannot hold even one request"):
        pool(gpt_oss_20b(), MEMORY, page_size=1, max_total_tokens=160)
    with pytest.raises(UsageError, match="only SGLang has that setting"):
        Serving(1000, engine="vllm", max_total_tokens=1000)


def test_mimo_v2s_fused_matrices_are_cut_for_so_many_ranks() -> None:
    """`model_hook.py`: pieces of queries, keys and values were written for a rank each; 4 KV heads in full layers, 8 in others."""
    fused = replace(
        build("mimo_v2", one(FullAttention(64, 4, 192, 128), 2), heads=64),
        num_kv_heads=4,
        architectures=("MiMoV2ForCausalLM",),
        tensors=(
            TensorSpec(
                "model.layers.{}.self_attn.qkv_proj.weight",
                (13_568, 4096),
                ((range(2),),),
                Component.ATTENTION,
                Column(),
            ),
        ),
    )
    with pytest.raises(UnsupportedError, match="4 KV heads, attention tp 8"):
        sglang.cache(fused, Serving(10, tp=8))
    assert sglang.cache(fused, Serving(10, tp=4)).bytes == 4 * 10 * 2 * (192 + 128) * 2
    apart = replace(fused, tensors=())
    assert sglang.cache(apart, Serving(10, tp=8)).bytes == 8 * 10 * 2 * (192 + 128) * 2  # a head on each rank
