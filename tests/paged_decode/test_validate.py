"""Bad input: a ValueError that names the argument, what was expected and what was given, before anything runs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from hfmem_kernels import mla_decode_attention, paged_decode_attention, sparse_mla_decode_attention
from hfmem_kernels._validate import check_indices, check_page


def good() -> dict[str, Any]:
    return {
        "q": torch.zeros(2, 4, 16, dtype=torch.bfloat16),
        "k_cache": torch.zeros(3, 8, 2, 16, dtype=torch.bfloat16),
        "v_cache": torch.zeros(3, 8, 2, 16, dtype=torch.bfloat16),
        "page_table": torch.zeros(2, 2, dtype=torch.int32),
        "seq_lens": torch.ones(2, dtype=torch.int32),
    }


BF16 = torch.bfloat16
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "q dtype": (
        {"q": torch.zeros(2, 4, 16, dtype=torch.float64)},
        r"q: expected dtype bfloat16 or .*, given dtype float64",
    ),
    "q dims": (
        {"q": torch.zeros(2, 4, dtype=BF16)},
        r"q: expected shape \[batch, heads, dim\] or .*, given shape \[2, 4\]",
    ),
    "q batch": ({"q": torch.zeros(3, 4, 16, dtype=BF16)}, r"q: expected batch 2 \(seq_lens'\), given batch 3"),
    "q heads": (
        {"q": torch.zeros(2, 5, 16, dtype=BF16)},
        "q: expected a multiple of the cache's 2 KV heads, given 5 heads",
    ),
    "k dim": (
        {"k_cache": torch.zeros(3, 8, 2, 24, dtype=BF16)},
        r"k_cache: expected shape \[pages, page size, kv heads, 16\], given shape \[3, 8, 2, 24\]",
    ),
    "k dtype": ({"k_cache": torch.zeros(3, 8, 2, 16)}, "k_cache: expected dtype bfloat16 or .*, given dtype float32"),
    "v heads": (
        {"v_cache": torch.zeros(3, 8, 1, 16, dtype=BF16)},
        r"v_cache: expected shape \[3, 8, 2, dim\], given shape \[3, 8, 1, 16\]",
    ),
    "v dtype": (
        {"v_cache": torch.zeros(3, 8, 2, 16, dtype=torch.int8)},
        r"v_cache: expected dtype bfloat16 \(k_cache's\), given dtype int8",
    ),
    "table dtype": (
        {"page_table": torch.zeros(2, 2, dtype=torch.int64)},
        "page_table: expected dtype int32, given dtype int64",
    ),
    "table rows": (
        {"page_table": torch.zeros(3, 2, dtype=torch.int32)},
        r"page_table: expected shape \[2, pages\], given shape \[3, 2\]",
    ),
    "table columns": (
        {"page_table": torch.zeros(2, 4, dtype=torch.int32)[:, ::2]},
        r"page_table: expected adjacent columns \(stride 1\), given stride 2",
    ),
    "lengths dtype": ({"seq_lens": torch.ones(2)}, "seq_lens: expected dtype int32, given dtype float32"),
    "lengths device": (
        {"seq_lens": torch.ones(2, dtype=torch.int32, device="meta")},
        r"seq_lens: expected device cpu \(q's\), given device meta",
    ),
    "window": ({"window": 0}, "window: expected an integer of at least 1, or None for no window, given 0"),
    "window type": ({"window": 8.0}, "window: expected an integer of at least 1, or None for no window, given 8.0"),
    "softcap": ({"softcap": -1.0}, "softcap: expected a positive number, or None, given -1.0"),
    "sinks": ({"sinks": torch.zeros(3)}, r"sinks: expected shape \[4\], given shape \[3\]"),
    "alibi": (
        {"alibi_slopes": torch.zeros(4, dtype=torch.int32)},
        "alibi_slopes: expected dtype .*, given dtype int32",
    ),
    "scale of bf16": (
        {"k_scale": 0.5},
        "k_scale: expected None for a cache that is not quantized, given a scale for .*bfloat16",
    ),
    "max_q_len": ({"max_q_len": 2}, r"max_q_len: expected None without cu_q \(q's shape says it\), given 2"),
    "cu_q alone": (
        {"cu_q": torch.zeros(3, dtype=torch.int32)},
        "max_q_len: expected the most queries of a sequence, at least 1, with cu_q, given None",
    ),
    "out dtype": ({"out": torch.zeros(2, 4, 16)}, "out: expected dtype bfloat16, given dtype float32"),
    "out shape": (
        {"out": torch.zeros(2, 4, 8, dtype=BF16)},
        r"out: expected shape \[2, 4, 16\], given shape \[2, 4, 8\]",
    ),
    "lse alone": ({"lse": torch.zeros(2, 4)}, "lse: expected None without out, given a tensor"),
    "q list": ({"q": [1.0]}, "q: expected a tensor, given list"),
    "lengths list": ({"seq_lens": [1, 1]}, "seq_lens: expected a tensor, given list"),
    "table list": ({"page_table": [[0], [0]]}, "page_table: expected a tensor, given list"),
    "sinks list": ({"sinks": [0.0] * 4}, "sinks: expected a tensor, given list"),
    "softcap NaN": ({"softcap": float("nan")}, "softcap: expected a positive number, or None, given nan"),
    "empty pages": (
        {name: torch.zeros(3, 0, 2, 16, dtype=BF16) for name in ("k_cache", "v_cache")},
        "k_cache: expected a page size of at least 1, given 0",
    ),
    "impl": ({"impl": "cuda"}, 'impl: expected "triton" or "reference", given \'cuda\''),
}


@pytest.mark.parametrize("name", BAD)
def test_message(name: str) -> None:
    changes, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        paged_decode_attention(**(good() | changes))


def test_columns_beyond_32_bits() -> None:
    """16 columns 2^27 elements apart: offsets of columns are counted in 32 bits."""
    far = torch.empty_strided((3, 8, 2, 16), (16, 2, 1, 2**27), device="meta")
    with pytest.raises(
        ValueError, match=r"k_cache: expected columns within 2\^31 elements of each other, given strides"
    ):
        check_page("k_cache", far)


def test_scales_of_quantized_caches() -> None:
    caches = {k: torch.zeros(3, 8, 2, 16, dtype=torch.int8) for k in ("k_cache", "v_cache")}
    with pytest.raises(
        ValueError, match=r"k_scale: expected a number, one element, \[2\] or \[3, 8, 2\], given shape \[4\]"
    ):
        paged_decode_attention(**(good() | caches), k_scale=torch.ones(4))
    with pytest.raises(ValueError, match="k_scale: expected dtype float32, given dtype float16"):
        paged_decode_attention(**(good() | caches), k_scale=torch.ones(1, dtype=torch.float16))
    with pytest.raises(ValueError, match=r"k_scale: expected a number, one element, .*, given shape \[1, 1, 1\]"):
        paged_decode_attention(**(good() | caches), k_scale=torch.ones(1, 1, 1), v_scale=torch.ones(1, 1, 1))
    with pytest.raises(ValueError, match=r"v_scale: expected a number, one element, .*, given '0\.5'"):
        paged_decode_attention(**(good() | caches), v_scale="0.5")
    with pytest.raises(ValueError, match="v_scale: expected scales of tokens for both"):
        paged_decode_attention(**(good() | caches), k_scale=torch.ones(3, 8, 2), v_scale=1.0)


def test_latent_caches() -> None:
    tensors = good()
    q = torch.zeros(2, 4, 576, dtype=BF16)
    page = (tensors["page_table"], tensors["seq_lens"])
    with pytest.raises(ValueError, match=r"cache: expected shape \[pages, page size, 576\], given shape \[3, 8, 512\]"):
        mla_decode_attention(q, torch.zeros(3, 8, 512, dtype=BF16), *page, scale=1.0)
    with pytest.raises(ValueError, match=r"cache: expected shape .*656 or 584 or 352\], given shape \[3, 8, 576\]"):
        mla_decode_attention(q, torch.zeros(3, 8, 576, dtype=torch.uint8), *page, scale=1.0)
    with pytest.raises(ValueError, match=r"kv_lora_rank: expected a power of two, .* q's 576 columns .*, given 500"):
        mla_decode_attention(q, torch.zeros(3, 8, 576, dtype=BF16), *page, scale=1.0, kv_lora_rank=500)
    with pytest.raises(ValueError, match="cache_scale: expected None for rows that carry their scales"):
        mla_decode_attention(q, torch.zeros(3, 8, 656, dtype=torch.uint8), *page, scale=1.0, cache_scale=1.0)


@pytest.mark.parametrize(
    ("table", "lengths", "message"),
    [
        ([[0, 1], [2, -1]], [9, 9], r"page_table: expected ids 0 … 2 in the 9 tokens of sequence 1, given \[2, -1\]"),
        ([[0, 3], [2, -1]], [9, 8], r"page_table: expected ids 0 … 2 in the 9 tokens of sequence 0, given \[0, 3\]"),
        ([[0, 1], [2, -1]], [17, 1], r"seq_lens: expected values 0 … 16 .*, given \[17, 1\]"),
    ],
)
def test_values_are_checked_on_request(table: list[list[int]], lengths: list[int], message: str) -> None:
    changes = {
        "page_table": torch.tensor(table, dtype=torch.int32), "seq_lens": torch.tensor(lengths, dtype=torch.int32),
        "check_indices": True, "impl": "reference",
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        paged_decode_attention(**(good() | changes))


def test_pages_before_a_window_may_be_missing() -> None:
    """Of 12 tokens in pages of 8 the newest query sees 4; the older of two sees the one before those, in the first page."""
    table, lengths, cache = (
        torch.tensor([[-1, 1]], dtype=torch.int32),
        torch.tensor([12], dtype=torch.int32),
        torch.zeros(3, 8),
    )
    check_indices(table, lengths, cache, window=4)
    with pytest.raises(
        ValueError, match=r"page_table: expected ids 0 … 2 in the 12 tokens of sequence 0, given \[-1, 1\]"
    ):
        check_indices(table, lengths, cache, window=4, counts=[2])


@pytest.mark.parametrize(
    "starts", [[0, 1, 3], [-1, 0, 1], [0, 2, 1], [0, 3, 3]], ids=["past", "before", "back", "many"]
)
def test_first_rows_are_checked_on_request(starts: list[int]) -> None:
    """Two rows of queries, two of a sequence at most."""
    changes = {
        "cu_q": torch.tensor(starts, dtype=torch.int32),
        "max_q_len": 2,
        "check_indices": True,
        "impl": "reference",
    }
    with pytest.raises(
        ValueError, match=r"cu_q: expected rows from 0 to 2 in order, 2 \(max_q_len\) at most of a sequence"
    ):
        paged_decode_attention(**(good() | changes))


def test_slots_are_checked_on_request() -> None:
    """Three pages of 8: slot 23 is the last; negative ones are of nothing."""
    q, cache, lengths = torch.zeros(1, 2, 48), torch.zeros(3, 8, 48), torch.ones(1, dtype=torch.int32)
    for slot in (-(2**31), 23):
        slots = torch.tensor([[slot, 99]], dtype=torch.int32)
        sparse_mla_decode_attention(
            q, cache, slots, lengths, scale=1.0, kv_lora_rank=32, check_indices=True, impl="reference"
        )
    with pytest.raises(ValueError, match=r"slots: expected slots below 24 \(pages × page size\), given 24"):
        sparse_mla_decode_attention(q, cache, slots + 1, lengths, scale=1.0, kv_lora_rank=32, check_indices=True)


def _in_a_process_of_its_own(code: str, interpret: str) -> str:
    environment = {
        "PYTHONPATH": ":".join(p for p in sys.path if p),
        "TRITON_INTERPRET": interpret,
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return done.stdout


CALL = """
import importlib.util, sys, torch
{before}
from hfmem_kernels import paged_decode_attention
q, c = torch.zeros(1, 2, 16), torch.zeros(1, 8, 1, 16)
t, s = torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
print(paged_decode_attention(q, c, c, t, s, impl="reference").shape)
try:
    paged_decode_attention(q, c, c, t, s)
except RuntimeError as error:
    print(error)
"""


def test_no_silent_fallback_without_a_gpu() -> None:
    said = _in_a_process_of_its_own(CALL.format(before=""), interpret="0").splitlines()
    assert said == [
        "torch.Size([1, 2, 16])",
        'impl="triton" needs a GPU, the tensors are on cpu; impl="reference" runs anywhere',
    ]


def test_no_silent_fallback_without_triton() -> None:
    hide = "find = importlib.util.find_spec; importlib.util.find_spec = lambda n, *a: None if n == 'triton' else find(n, *a)"
    said = _in_a_process_of_its_own(CALL.format(before=hide), interpret="0").splitlines()
    assert said == [
        "torch.Size([1, 2, 16])",
        'impl="triton" needs the triton package; impl="reference" runs without it',
    ]
