"""llama.cpp with and without flash attention: when it runs, what the compute buffer then has, and a cache on the host."""

from __future__ import annotations

from typing import Any

import pytest
from example_architectures import build, deepseek_v3, deepseek_v32, gpt_oss_120b, llama_3_8b, one

from hfmem.api.estimates import layer_table
from hfmem.errors import UnsupportedError, UsageError
from hfmem.hub import FetchOptions
from hfmem.memory.compute_buffer import compute_buffer
from hfmem.memory.engines import engine
from hfmem.memory.engines.llama_cpp.flash import runs_flash
from hfmem.memory.serving import LlamaCpp, Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import FullAttention, IndexedAttention, LatentAttention, Layer, NoCache, SlidingAttention
from hfmem.units import MIB

llama_cpp = engine("llama.cpp")


def served(context: int, seqs: int = 1, kv_dtype: str = "auto", **told: object) -> Serving:
    return Serving(context, seqs, engine="llama.cpp", kv_dtype=kv_dtype, llama_cpp=LlamaCpp(**told))  # type: ignore[arg-type]


def plain(hidden: int, heads: int, kv_heads: int, width: int, vocab: int = 128_256, inner: int = 0) -> Architecture:
    shape = one(FullAttention(heads, kv_heads, width, width), 2)
    return build("llama", shape, hidden_size=hidden, vocab_size=vocab, intermediate_size=inner or 4 * hidden)


@pytest.mark.parametrize(
    ("arch", "context", "seqs", "ubatch", "measured"),
    [
        # Llama 3 8B, 70B, Llama 3.2 1B and Qwen2 7B in llama.cpp's own graph on a CPU, MiB (`llama_get_memory_breakdown`)
        (plain(4096, 32, 8, 128, inner=14_336), 2048, 1, 512, 176.01),
        (plain(4096, 32, 8, 128, inner=14_336), 32_768, 1, 512, 2156.01),
        (plain(4096, 32, 8, 128, inner=14_336), 2048, 4, 512, 176.01),
        (plain(4096, 32, 8, 128, inner=14_336), 8192, 1, 2048, 2288.03),
        (plain(8192, 64, 8, 128, inner=28_672), 8192, 1, 512, 1124.01),
        (plain(2048, 32, 8, 64, inner=8192), 8192, 1, 512, 550.01),
        (plain(3584, 28, 4, 128, inner=18_944), 32_768, 1, 512, 1893.01),
    ],
)
def test_scores_without_flash_attention(
    arch: Architecture, context: int, seqs: int, ubatch: int, measured: float
) -> None:
    """A CPU's buffer has two more rows of the hidden size a token, which lie in the host's elsewhere."""
    item = compute_buffer(arch, served(context, seqs, flash_attention="off", ubatch=ubatch))
    host = 2 * arch.hidden_size * 4 * ubatch
    assert item.bytes + host == pytest.approx(measured * MIB, abs=0.04 * MIB)
    assert item.low * item.bytes <= measured * MIB <= item.high * item.bytes


def test_a_server_without_flash_attention() -> None:
    """Qwen3-30B-A3B, 16,384 cells (build 5622, `flash_attn = 0`): "compute buffer size = 1080.00 MiB"."""
    arch = plain(2048, 32, 4, 128, 151_936, 6144)
    assert compute_buffer(arch, served(16_384, flash_attention="off"), 5622).bytes == pytest.approx(
        1080 * MIB, rel=0.005
    )


def test_masks_of_windows_are_their_own() -> None:
    """Layers of 1,024 tokens beside full ones: a mask of 1,024 + 512 cells more, and the full layers' scores."""
    kinds = (*one(FullAttention(16, 8, 256, 256), 1), *one(SlidingAttention(16, 8, 256, 256, 1024), 5))
    arch = build("gemma3_text", kinds, hidden_size=3840, vocab_size=1000, intermediate_size=15_360)
    item = compute_buffer(arch, served(8192, flash_attention="off"))
    width = 3840 + 2 * 16 * 256 + 2 * 8 * 256
    assert item.bytes == 512 * (4 * (8192 + 1536) + 16 * 8192 * 4 + 4 * width)


def test_quantized_caches_are_copied_in_16_bits() -> None:
    """Keys and values of one layer in the whole context: of 4 heads × 256 in 245,760 cells 960 MiB, on CUDA since build 9489."""
    arch = build(
        "qwen3_5", one(FullAttention(24, 4, 256, 256), 64), hidden_size=5120, vocab_size=1000, intermediate_size=17_408
    )
    serving = served(245_760, kv_dtype="q8_0")
    width = 5120 + 2 * 24 * 256 + 2 * 4 * 256
    copied = 512 * (245_760 * 2 + 4 * width) + 960 * MIB
    assert compute_buffer(arch, serving).bytes == copied
    assert compute_buffer(arch, served(245_760 // 2, 2, kv_dtype="q8_0")).bytes == copied - 512 * 245_760  # half a mask
    keys_alone = served(245_760, kv_dtype="q8_0", value_dtype="fp16", flash_attention="on")
    assert compute_buffer(arch, keys_alone).bytes == copied - 480 * MIB
    narrower = 512 * 4 * (2 * 5120 + 3 * 17_408)  # without copies the feed-forward is the widest
    assert compute_buffer(arch, serving, cuda=False).bytes == 512 * 245_760 * 2 + narrower
    after, before = (compute_buffer(arch, serving, build).bytes for build in (9489, 9488))
    assert after - before == 960 * MIB + 512 * 4 * width - narrower
    # latents are copied once
    latents = compute_buffer(deepseek_v3(), served(65_536, kv_dtype="q8_0")).bytes
    assert latents - compute_buffer(deepseek_v3(), served(65_536)).bytes < 65_536 * 576 * 2


def test_sparse_latents_are_scored_first() -> None:
    """8 bytes a cell and token: masks of attention and of the indexer in 16 bits, and its scores (llama.cpp's graph on a CPU)."""
    few, many = (compute_buffer(deepseek_v32(), served(count)).bytes for count in (131_072, 262_144))
    assert many - few == 131_072 * 512 * 8


def test_blocks_that_an_indexer_chose_are_masked_by_head() -> None:
    """MiniMax M3 of two KV heads: 18 bytes a cell and token with flash attention, 12 without (llama.cpp's graph on a CPU)."""
    small = build("minimax_m3", one(IndexedAttention(2, 2, 128, 128, 128, 2048, 128), 2))
    for asked, slope in (("on", 18), ("off", 12)):
        few, many = (compute_buffer(small, served(n, flash_attention=asked)).bytes for n in (131_072, 262_144))
        assert many - few == 131_072 * 512 * slope


@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "value_width", "runs"),
    [
        # `ggml_cuda_get_best_fattn_kernel`
        (32, 8, 128, 128, True),
        (32, 32, 100, 100, False),  # OpenLLaMA 3B
        (32, 8, 120, 120, False),
        (12, 12, 32, 32, False),
        (32, 8, 80, 80, True),
        (64, 4, 192, 128, True),
        (64, 16, 192, 128, False),  # four queries a key, eight are wanted
        (8, 4, 512, 512, True),
        (4, 4, 512, 512, False),
        (32, 8, 128, 64, False),
    ],
)
def test_widths_that_have_a_kernel(heads: int, kv_heads: int, width: int, value_width: int, runs: bool) -> None:
    arch = build("llama", one(FullAttention(heads, kv_heads, width, value_width), 2))
    assert runs_flash(arch, "auto", "fp16", "fp16") is runs
    assert runs_flash(arch, "auto", "q8_0", "q8_0")  # a quantized V cache wants it
    assert runs_flash(arch, "on", "fp16", "fp16") and not runs_flash(arch, "off", "fp16", "fp16")


def test_latents_and_types_that_have_a_kernel() -> None:
    assert runs_flash(deepseek_v3(), "auto", "fp16", "fp16")
    narrow = build("minicpm3", one(LatentAttention(40, 256, 32, 64, 64), 2))
    assert not runs_flash(narrow, "auto", "fp16", "fp16")
    assert not runs_flash(llama_3_8b(), "auto", "iq4_nl", "fp16")
    assert not runs_flash(build("grok-1", one(FullAttention(48, 8, 128, 128), 2)), "on", "fp16", "fp16")


def test_a_quantized_v_cache_wants_flash_attention() -> None:
    with pytest.raises(UnsupportedError, match="quantized V cache requires flash_attn"):
        llama_cpp.cache(llama_3_8b(), served(4096, kv_dtype="q8_0", flash_attention="off"))
    keys = llama_cpp.cache(llama_3_8b(), served(4096, kv_dtype="q8_0", value_dtype="fp16", flash_attention="off"))
    assert keys.bytes == 4096 * 32 * 8 * 128 * (34 + 64) // 32
    with pytest.raises(UsageError, match="flash_attention is auto, on or off, not 'maybe'"):
        LlamaCpp(flash_attention="maybe")


def test_micro_batches_beside_windows() -> None:
    """18 layers of 128 tokens: (128 + 2048) cells each, and of 512 tokens 640 rounded up to 768."""
    full, windowed = 18 * 8192 * 2 * 8 * 64 * 2, 18 * 2 * 8 * 64 * 2
    for ubatch, cells in ((None, 768), (2048, 2304), (64, 256)):
        assert llama_cpp.cache(gpt_oss_120b(), served(8192, ubatch=ubatch)).bytes == full + windowed * cells


def test_a_cache_on_the_host() -> None:
    """`-nkvo`: no cell on the device, and no mask of them."""
    found = llama_cpp.cache(llama_3_8b(), served(8192, kv_offload=False))
    assert (found.bytes_per_rank, found.host_bytes) == (0, 8192 * 131_072)
    near, far = (compute_buffer(llama_3_8b(), served(count, kv_offload=False)).bytes for count in (8192, 65_536))
    assert near == far


def test_several_devices_hold_inputs_of_four_micro_batches() -> None:
    """Masks, and rows of the hidden size from the device before; not where layers, experts or the cache stay on the host."""
    one_device = compute_buffer(llama_3_8b(), served(32_768)).bytes
    for told, copies in (({}, 4), ({"gpu_layers": 20}, 1), ({"cpu_moe_layers": 2}, 1)):
        serving = Serving(32_768, engine="llama.cpp", pp=2, llama_cpp=LlamaCpp(**told))  # type: ignore[arg-type]
        more = 3 * 512 * 32_768 * 2 + 4 * 512 * 4096 * 4 if copies == 4 else 0
        assert compute_buffer(llama_3_8b(), serving).bytes == one_device + more


def test_towers_are_no_layers_to_deal_out() -> None:
    """Two of four layers, and the output, on the device (`-ngl 3`), whatever layers an image's encoder has after them."""
    decoder = one(FullAttention(8, 8, 64, 64), 4)
    arch = build("gemma3", [*decoder, *[Layer((NoCache("encoder"),), "vision")] * 6])
    for found in (arch, build("gemma3_text", decoder)):
        held = llama_cpp.cache(found, served(256, gpu_layers=3))
        assert (held.stage_bytes, held.host_bytes) == ((2 * 256 * 2048,), 2 * 256 * 2048)
        over_two = engine("transformers").cache(found, Serving(256, engine="transformers", pp=2))
        assert over_two.stage_bytes == (2 * 256 * 2048,) * 2


@pytest.mark.parametrize(
    "settings",
    [
        {"engine": "llama.cpp", "kv_offload": False},
        {"engine": "llama.cpp", "kv_offload": False, "pp": 2},
        {"engine": "transformers", "cache_implementation": "offloaded", "tp": 2},
        {"engine": "transformers", "cache_implementation": "offloaded_static", "pp": 2},
    ],
)
def test_rows_of_layers_add_up_to_the_cache(settings: dict[str, Any]) -> None:
    offline = FetchOptions(offline=True, no_cache=True)
    told = settings | {"context": 5000, "num_seqs": 3, "fetch": offline}
    table = layer_table("google/gemma-3-12b-it", **told)
    report = table.report
    assert sum(run.engine_bytes or 0 for run in table.runs) == report.kv_cache.bytes
    on_host = sum(run.engine_bytes or 0 for run in table.runs if run.stage is None)
    assert report.host is not None and on_host == report.host.kv_cache_bytes > 0
