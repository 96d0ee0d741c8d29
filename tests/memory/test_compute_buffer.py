"""llama.cpp's compute buffer by the build: logits of every token or of the slots, a mask in 48 or in 16 bits a cell."""

from __future__ import annotations

import pytest
from example_architectures import build, one

from hfmem.memory.compute_buffer import compute_buffer
from hfmem.memory.serving import LlamaCpp, Serving
from hfmem.model.architecture import Architecture
from hfmem.model.families.registry import read_architecture
from hfmem.model.layers import FullAttention
from hfmem.units import MIB


def _qwen_27b() -> Architecture:
    """Qwen3.8-27B's widths: 248320 words, hidden 5120, 24 heads of 256, feed-forward 17408."""
    return build(
        "qwen3_5",
        one(FullAttention(24, 4, 256, 256), 64),
        hidden_size=5120,
        vocab_size=248_320,
        intermediate_size=17408,
    )


def test_todays_server_keeps_one_row_of_logits_a_slot() -> None:
    """A server with 32,768 cells and micro-batches of 512 logged 154.02 MiB: 512 × (32768 × 2 + 4 × (2 × 5120 + 3 × 17408))."""
    item = compute_buffer(_qwen_27b(), Serving(32_768, engine="llama.cpp"))
    assert item.bytes == 512 * (32_768 * 2 + 4 * (2 * 5120 + 3 * 17_408))
    assert abs(item.bytes - 154.02 * MIB) < 0.05 * MIB


@pytest.mark.parametrize(("build_number", "rows"), [(8193, 512), (9849, 4)])
def test_rows_of_logits_by_build(build_number: int, rows: int) -> None:
    """With few cells logits of a whole micro-batch are the widest: those of four slots are not."""
    arch = _qwen_27b()
    serving = Serving(1024, 4, engine="llama.cpp", llama_cpp=LlamaCpp(unified=True))
    item = compute_buffer(arch, serving, build_number)
    logits = rows * (248_320 + 5120) * 4
    assert (item.bytes == logits) is (rows == 512)
    assert item.bytes >= logits


def test_what_a_log_says_of_its_rows_is_taken() -> None:
    arch = _qwen_27b()
    told = compute_buffer(arch, Serving(4096, engine="llama.cpp"), None, 512)
    assert told.bytes == 512 * (248_320 + 5120) * 4


def test_the_mask_was_wider_before() -> None:
    """Qwen3.5-9B, four slots in 8,192 cells, micro-batches of 2048 (build 9849): 447.38 MiB."""
    arch = build(
        "qwen3_5",
        one(FullAttention(16, 4, 256, 256), 32),
        hidden_size=4096,
        vocab_size=248_320,
        intermediate_size=12288,
    )
    serving = Serving(2048, 4, engine="llama.cpp", llama_cpp=LlamaCpp(unified=True, ubatch=2048))
    before, today = (compute_buffer(arch, serving, number).bytes for number in (9849, 11_342))
    assert abs(before - 447.38 * MIB) < 0.005 * 447.38 * MIB
    assert before - today == 2048 * 8192 * 4


@pytest.mark.parametrize(
    ("hidden", "experts", "chosen", "inner", "heads", "size", "measured"),
    [
        # (hidden + chosen × hidden) × 2 × fp32 for 512 tokens, and 8 MiB of mask; what llama.cpp's graph takes on a CPU
        (2048, 128, 8, 768, 32, 80, 96.0),
        (4096, 128, 8, 1536, 32, 152, 176.0),
        (2048, 64, 10, 512, 32, 96, 98.0),
        # chosen × 3 × inner is more
        (3072, 16, 4, 3072, 32, 92, 106.0),
    ],
)
def test_experts_outputs_before_and_after_they_are_weighted(
    hidden: int, experts: int, chosen: int, inner: int, heads: int, size: int, measured: float
) -> None:
    arch = read_architecture(
        {"model_type": "qwen3_moe", "hidden_size": hidden, "num_experts": experts, "num_experts_per_tok": chosen,
         "moe_intermediate_size": inner, "intermediate_size": 6144, "num_attention_heads": heads, "num_key_value_heads": 4,
         "head_dim": 128, "num_hidden_layers": 8, "vocab_size": 151_936, "max_position_embeddings": 40_960,
         "dtype": "bfloat16"}
    )  # fmt: skip
    item = compute_buffer(arch, Serving(8192, engine="llama.cpp"))
    assert item.bytes == size * MIB
    assert item.low * item.bytes <= measured * MIB <= item.high * item.bytes
