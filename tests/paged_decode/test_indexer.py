"""An indexer's scores against the oracle, the oracle against the definition in plain Python, and what a call refuses.

Source of the layout: vLLM 0.33's writer and its reference for the CPU: all keys of a page, then their scales.
"""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
import torch
from far_pages import spread
from index_cases import FORMATS, NARROW, case, check

from hfmem_kernels import _reference_index, index_logits, layout, sparse_mla_decode_attention
from hfmem_kernels._calls import Impl
from hfmem_kernels._launch import device_facts
from hfmem_kernels._reference_index import pack_index_keys
from hfmem_kernels.traffic import index_traffic


def e4m3(byte: int) -> float:
    """OCP 8-bit floating point: sign, four bits of exponent with bias 7, three of mantissa."""
    sign, exponent, mantissa = -1.0 if byte & 0x80 else 1.0, byte >> 3 & 15, byte & 7
    return sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def test_the_oracle_is_the_definition() -> None:
    """Two heads of 32 over three tokens in pages of two, the second page first; every byte decoded here."""
    draw = random.Random(0)
    dim, page = 32, 2
    keys = layout.allocate_index(3, page, dim, "cpu", unit=1)
    assert keys.shape == (3, 2, 36) and keys.stride() == (80, 36, 1)  # 72 bytes in whole 16
    storage = keys.as_strided((3, 80), (80, 1))
    codes = [[draw.choice([b for b in range(256) if b & 0x7F < 0x7F]) for _ in range(dim)] for _ in range(3)]
    scales = [0.5, 3.0, 0.1]
    for token, place in enumerate((2 * page, 2 * page + 1, 0)):  # pages 2, 2 and 0
        start, at = place // page, place % page
        storage[start, at * dim : (at + 1) * dim] = torch.tensor(codes[token], dtype=torch.uint8)
        raw = torch.tensor(list(struct.pack("<f", scales[token])), dtype=torch.uint8)
        storage[start, page * dim + 4 * at :][:4] = raw
    q = torch.tensor([[draw.uniform(-1, 1) for _ in range(dim)] for _ in range(2)])[None, None]
    weights = torch.tensor([[[0.7, -1.3]]])
    out = torch.zeros(1, 1, 3, dtype=torch.float64)
    table, lengths = torch.tensor([[2, 0]], dtype=torch.int32), torch.tensor([3], dtype=torch.int32)
    _reference_index.index_logits(q.double(), keys, weights.double(), table, lengths, out, torch.float64)
    for token in range(3):
        scale = struct.unpack("<f", struct.pack("<f", scales[token]))[0]
        key = [e4m3(byte) * scale for byte in codes[token]]
        expected = sum(
            float(weights[0, 0, h]) * max(0.0, sum(float(q[0, 0, h, i]) * key[i] for i in range(dim))) for h in (0, 1)
        )
        assert out[0, 0, token].item() == pytest.approx(expected, rel=1e-12)


def test_keys_are_packed_as_engines_pack_them() -> None:
    """The largest element becomes 448, or the scale the next power of two; a key of zeros has the scale of 1e-4."""
    values = torch.tensor([[1.0, -7.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]])
    codes, scale = pack_index_keys(values, power_of_two=False)
    assert scale.tolist() == pytest.approx([7 / 448, 1e-4 / 448]) and codes.float()[0].tolist() == [64, -448, 32, 0]
    codes, scale = pack_index_keys(values, power_of_two=True)
    assert scale[0].item() == 2.0**-6 and codes.float()[0].tolist() == [64, -448, 32, 0] and not codes[1].float().any()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("page", [1, 12, 16, 64])
def test_scores(name: str, page: int, device: str) -> None:
    """Lengths about the edges of tiles and pages, and none; more programs than some have tiles."""
    check(case((33, 0, 1, 70, 32), page=page, device=device, **FORMATS[name]))


@pytest.mark.parametrize("queries", [2, 3])
@pytest.mark.parametrize("name", ["e4m3", "bf16"])
def test_queries_of_a_sequence_see_less_the_older_they_are(name: str, queries: int, device: str) -> None:
    check(case((37, 0, 1, 65), queries=queries, device=device, **FORMATS[name]))


@pytest.mark.parametrize(("heads", "dim"), [(1, 32), (64, 64), (17, 128)])
def test_heads_and_columns(heads: int, dim: int, device: str) -> None:
    check(case((40, 7), heads=heads, dim=dim, device=device))
    check(case((40, 7), heads=heads, dim=dim, device=device, q_dtype=torch.bfloat16))


@pytest.mark.parametrize("magnitude", [1e-30, 1e30])
def test_queries_of_any_size(magnitude: float, device: str) -> None:
    """Those of bf16 are scaled into fp16 and back."""
    q, *rest = case((40,), device=device, q_dtype=torch.bfloat16)
    check((q * magnitude, *rest))


def test_a_buffer_is_written_where_a_query_sees_something(device: str) -> None:
    """A buffer narrower than the page table, and wider: the rest is as it was. No dimension for one query."""
    inputs = case((20, 5), page=16, device=device)
    q, keys, weights, table, lengths = inputs
    out = torch.full((2, 40), 7.0, device=device)
    given = index_logits(q[:, 0], keys, weights[:, 0], table, lengths, out=out)
    assert given is out and bool((out[0, 20:] == 7.0).all()) and bool((out[1, 5:] == 7.0).all())
    whole = index_logits(*inputs)
    assert torch.equal(out[0, :20], whole[0, 0, :20]) and torch.equal(out[1, :5], whole[1, 0, :5])
    narrow = torch.full((2, 1, 9), 7.0, device=device)
    index_logits(*inputs, out=narrow)
    assert torch.equal(narrow[0, 0], whole[0, 0, :9]) and bool((narrow[1, 0, 5:] == 7.0).all())


@pytest.mark.parametrize("impl", ["triton", "reference"])
def test_a_narrow_buffer_cuts_scores_not_what_a_query_sees(impl: Impl, device: str) -> None:
    """Of 20 tokens the older of two queries sees 19, so all of the first 9."""
    inputs = case((20, 5), page=16, queries=2, device=device)
    narrow = torch.full((2, 2, 9), 7.0, device=device)
    index_logits(*inputs, out=narrow, impl=impl)
    whole = index_logits(*inputs, impl=impl)
    assert torch.equal(narrow[0], whole[0, :, :9]) and torch.equal(narrow[1, 1, :5], whole[1, 1, :5])
    assert torch.equal(narrow[1, 0, :4], whole[1, 0, :4]) and bool((narrow[1, 0, 4:] == 7.0).all())


def test_scores_choose_what_is_attended_to(device: str) -> None:
    """As the docstring has it: scores, torch's choice, lists of slots, attention; against the same from dense rows."""
    q, keys, weights, table, lengths = case((40, 3), page=16, device=device, q_dtype=torch.bfloat16)
    rows = torch.randn(keys.shape[0], 16, 80, generator=torch.Generator().manual_seed(1)).to(device, torch.bfloat16)
    best, at = index_logits(q[:, 0], keys, weights[:, 0], table, lengths).topk(8)
    slots = table.gather(1, at // 16) * 16 + at % 16
    slots = torch.where(best > float("-inf"), slots, -1).to(torch.int32)
    counts = torch.full((2,), 8, dtype=torch.int32, device=device)
    mine = rows[:2, 0, None, :].expand(2, 6, 80)
    out = sparse_mla_decode_attention(mine, rows, slots, counts, scale=0.1, kv_lora_rank=64, check_indices=True)
    assert isinstance(out, torch.Tensor)
    for b, length in enumerate((40, 3)):
        position = torch.arange(length, device=device)
        mapped = table[b, position // 16].long() * 16 + position % 16
        key = _reference_index.index_keys(keys, mapped, torch.float64)
        scores = (torch.relu(key @ q[b, 0].double().T) * weights[b, 0]).sum(1)
        k = rows.view(-1, 80)[mapped[scores.argsort(descending=True)[:8]]].double()
        expected = torch.softmax(mine[b].double() @ k.T * 0.1, 1) @ k[:, :64]
        torch.testing.assert_close(out[b].double(), expected, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("start", [1, 4, 8])
def test_keys_of_16_bits_begin_anywhere(start: int, device: str) -> None:
    """Within rows of something else, at no multiple of 16 bytes; queries of e4m3 at odd addresses."""
    q, keys, weights, table, lengths = case((20, 37), device=device, **FORMATS["bf16"])
    wide = torch.full((*keys.shape[:2], keys.shape[2] + 11), float("nan"), dtype=keys.dtype, device=device)
    within = wide[..., start : start + keys.shape[2]]
    within.copy_(keys)
    assert torch.equal(index_logits(q, within, weights, table, lengths), index_logits(q, keys, weights, table, lengths))
    q, *rest = case((20, 37), device=device)
    odd = torch.zeros(*q.shape[:-1], q.shape[-1] + 9, dtype=torch.uint8, device=device).view(q.dtype)[..., start:][
        ..., : q.shape[-1]
    ]
    odd.copy_(q)
    assert torch.equal(index_logits(odd, *rest), index_logits(q, *rest))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("gib", [2, 8])
def test_pages_far_apart(name: str, gib: int, device: str, tmp_path: Path) -> None:
    if device != "cpu":
        pytest.skip("on a GPU it would take the memory")
    q, keys, *rest = case((33, 7), page=16, device=device, **FORMATS[name])
    far = spread(keys, (gib * 2**30 + 576 * 16) // keys.element_size(), tmp_path / "far")
    assert torch.equal(index_logits(q, far, *rest), index_logits(q, keys, *rest))


def test_the_reference_on_request() -> None:
    inputs = case((20, 5))
    torch.testing.assert_close(index_logits(*inputs, impl="reference"), index_logits(*inputs), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(1, 1, 6, 96, dtype=torch.bfloat16)}, "q: expected a dim of 32, 64 or 128, given 96"),
        ({"q": torch.zeros(1, 1, 65, 128).to(NARROW), "weights": torch.zeros(1, 1, 65)}, "q: expected 1 … 64 heads"),
        ({"q": torch.zeros(1, 1, 6, 128)}, "q: expected dtype bfloat16 or float16 or float8_e4m3fn"),
        ({"keys": torch.zeros(3, 16, 128, dtype=torch.bfloat16)}, "keys: expected dtype uint8, given dtype bfloat16"),
        ({"keys": torch.zeros(3, 16, 128, dtype=torch.uint8)}, r"keys: expected shape \[pages, page size, 132\]"),
        ({"keys": torch.zeros(3, 3, 132, dtype=torch.uint8)}, "keys: expected whole pages at multiples of 16 bytes"),
        ({"weights": torch.zeros(1, 1, 5)}, r"weights: expected shape \[1, 1, 6\]"),
        ({"out": torch.zeros(1, 1, 20, dtype=torch.float64)}, "out: expected dtype float32"),
        ({"page_table": torch.zeros(1, 2)}, "page_table: expected dtype int32"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, torch.Tensor], message: str) -> None:
    names = ("q", "keys", "weights", "page_table", "seq_lens")
    arguments = dict(zip(names, case((20,)), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        index_logits(**arguments)


def test_bytes_and_operations() -> None:
    """DeepSeek V3.2: 64 heads of 128; two sequences of 1,000 and 10 tokens with two queries each. A query sees all keys but those
    behind it: 999 + 1,000 and 9 + 10 pairs."""
    found = index_traffic(64, 128, [1000, 10], page_size=64, packed=True, queries=2)
    assert found.kv_bytes == 1010 * 132 and found.query_bytes == 4 * 64 * (128 + 4)
    assert found.output_bytes == 4 * 2018 and found.flops == 2 * 2018 * 64 * 129
    assert found.table_bytes == 4 * (16 + 1 + 2)
    assert index_traffic(64, 128, [1000], page_size=64, packed=False).kv_bytes == 1000 * 256


def test_shares_cover_every_tile(device: str) -> None:
    """More sequences than one scan takes at once, and than there are programs."""
    lengths = tuple((7 * i) % 45 for i in range(140))
    assert device_facts(torch.device(device)).num_sms < 140 or device != "cpu"
    check(case(lengths, heads=2, dim=32, page=64, device=device))
