"""DeepSeek V4 in SGLang: what its own code answers for V4-Flash, and its buffers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from example_architectures import build, deepseek_v4_flash

from hfmem.errors import UnsupportedError
from hfmem.memory.engines.sglang import cache, pool
from hfmem.memory.serving import Serving
from hfmem.model.layers import CompressedAttention, Layer
from hfmem.units import GIB


def served(context: int = 1000, seqs: int = 1, **settings: Any) -> Serving:
    return Serving(context, seqs, engine="sglang", **settings)


@pytest.mark.parametrize(
    ("gib", "settings", "tokens"),
    [
        (10.0, {}, 1_131_776),
        (10.0, {"tp": 4}, 1_131_776),
        (10.0, {"tp": 8, "attn_dp": 4, "max_num_seqs": 64}, 1_486_848),
        (10.0, {"tp": 2, "pp": 3}, 3_742_720),
        (10.0, {"tp": 4, "swa_full_tokens_ratio": 0.5, "enable_prefix_caching": False}, 404_224),
        (10.0, {"tp": 4, "speculative_tokens": 4}, 669_440),
        (10.0, {"tp": 4, "max_num_seqs": 16, "speculative_tokens": 4}, 1_303_552),
        (40.0, {}, 5_677_312),
        (40.0, {"tp": 4}, 5_677_312),
        (40.0, {"tp": 8, "attn_dp": 4, "max_num_seqs": 64}, 6_032_384),
        (40.0, {"tp": 2, "pp": 3}, 16_062_208),
        (40.0, {"tp": 4, "swa_full_tokens_ratio": 0.5, "enable_prefix_caching": False}, 2_028_032),
        (40.0, {"tp": 4, "speculative_tokens": 4}, 4_726_784),
        (40.0, {"tp": 4, "max_num_seqs": 16, "speculative_tokens": 4}, 5_360_896),
    ],
)
def test_as_sglangs_own_code_answers(gib: float, settings: dict[str, Any], tokens: int) -> None:
    """`DSV4PoolConfigurator(…).calculate_pool_sizes` of SGLang 0.5.23 for the model's own config, its arguments resolved for an
    H100, an H200 and a B200 alike."""
    assert pool(deepseek_v4_flash(), served(**settings), int(gib * GIB)).capacity_tokens == tokens


def test_a_request_by_hand() -> None:
    """One layer of each kind, rows of 512 and index keys of 128, 4096 tokens: 16 pages of 256 in full, and a windowed pool of
    128 + 128 + 2 × 256 + 2 × 4096 + 256 tokens, which is more than the 4096."""
    kinds = [
        CompressedAttention(64, 512, 128, 0),
        CompressedAttention(64, 512, 128, 4, 128, True),
        CompressedAttention(64, 512, 128, 128),
    ]
    arch = build("deepseek_v4", [Layer((kind,)) for kind in kinds], heads=64)

    def page(rows: int) -> int:
        return -(-rows * 584 // 576) * 576

    windows = 16 * (3 * page(256) + 8 * 4 * (512 + 128) * 4)
    compressed = 16 * (page(64) + 64 * (128 + 4) + page(2))
    states = 512 * 2 * 512 * 4  # a ring of 128 for the request, one more and one of padding: 385 rows, up to 512
    assert cache(arch, served(4096)).bytes == windows + compressed + states
    # latents are on every rank whole
    assert cache(arch, served(4096, tp=4)).bytes_per_rank == windows + compressed + states


def test_windows_of_a_long_context_are_evicted() -> None:
    arch = build("deepseek_v4", [Layer((CompressedAttention(64, 512, 128, 0),))], heads=64)
    held = 128 + 128 + 2 * 256 + 2 * 8192 + 256
    assert cache(arch, served(1 << 20)).bytes == -(-held // 256) * (-(-256 * 584 // 576) * 576)


def test_refusals() -> None:
    arch = deepseek_v4_flash()
    with pytest.raises(UnsupportedError, match="cannot hold even one request"):
        pool(arch, served(), 2 * GIB)
    with pytest.raises(UnsupportedError, match="no fp8_e5m2 cache"):
        cache(arch, served(kv_dtype="fp8_e5m2"))
    later = replace(arch, layers=(Layer((CompressedAttention(64, 512, 128, 4, 128, keys_from_rows=True),)),))
    with pytest.raises(UnsupportedError, match="not known here"):
        cache(later, served())
