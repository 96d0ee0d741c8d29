"""`mla_decode_attention` over both row formats, against the oracle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from far_pages import spread

from hfmem_kernels import _reference, layout, merge_attention, testing
from hfmem_kernels._heuristics import LaunchConfig
from hfmem_kernels.cache_ops import write_latent
from hfmem_kernels.latent_decode import mla_decode_attention, sparse_mla_decode_attention
from hfmem_kernels.layout import LatentFormat

SMALL = LaunchConfig(block_m=16, block_n=32, num_warps=4, num_stages=2, ctas_per_sm=1)
SCALE = 192**-0.5


def columns_of(latent_format: LatentFormat) -> tuple[int, int]:
    """Latent and rotary columns: DeepSeek V4's are 448 and 64, all others' 512 and 64."""
    return (448, 64) if latent_format is LatentFormat.FP8_V4 else (512, 64)


def build(
    seq_lens: tuple[int, ...],
    latent_format: LatentFormat,
    dtype: str,
    heads: int,
    q_len: int,
    page_size: int,
    device: str,
) -> tuple[torch.Tensor, ...]:
    """Queries, a cache written by the reference writer with NaN in every slot of nobody, page table and lengths."""
    generator = torch.Generator().manual_seed(1)
    rank, turned = columns_of(latent_format)
    pages = [layout.num_pages(n, page_size) for n in seq_lens]
    order = torch.randperm(sum(pages) + 1, generator=generator).tolist()
    table = layout.page_table(list(seq_lens), page_size, order, "cpu")
    cache = layout.allocate_latent(sum(pages) + 1, page_size, rank, turned, dtype, latent_format, device)
    # NaN in bf16, fp16, fp32 and fp8, and in what lies between pages; no NaN has a place in ue8m0
    cache.view(torch.uint8).fill_(0xFF)
    tokens = sum(seq_lens)
    latent = torch.randn(tokens, rank, generator=generator) * torch.logspace(-2, 1, rank)
    rope = torch.randn(tokens, turned, generator=generator)
    slots = [
        int(table[b, t // page_size]) * page_size + t % page_size for b, n in enumerate(seq_lens) for t in range(n)
    ]
    stored = (t.to(device) for t in (latent, rope))
    write_latent(*stored, cache, torch.tensor(slots, device=device), impl="reference")
    q = (torch.randn(len(seq_lens), q_len, heads, rank + turned, generator=generator) * 0.1).to(torch.bfloat16)
    lengths = torch.tensor(seq_lens, dtype=torch.int32)
    return q.to(device), cache, table.to(device), lengths.to(device)


def compare(
    found: tuple[torch.Tensor, torch.Tensor],
    expected: tuple[torch.Tensor, torch.Tensor],
    q: torch.Tensor,
    keys: list[torch.Tensor],
    operand: str,
) -> None:
    """Within the bounds of fp32 sums. keys: what each sequence's queries see, dequantized [tokens, columns]."""
    (out, lse), (right, right_lse) = found, expected
    # Σ p·|latent|: |out| of the same weights cannot be had from the latent cache, the largest value stands for each column
    largest = torch.stack([k[:, :512].abs().amax(0) if len(k) else k.new_zeros(512) for k in keys])
    logit = SCALE * float(q.double().abs().sum(-1).amax()) * max(float(k.abs().amax()) for k in keys if len(k))
    tokens = max(len(k) for k in keys)
    rounding = testing.Rounding(operand, "bfloat16", 576, tokens, logit, float(largest.max()))
    spread = largest.view(len(keys), *(1,) * (right.dim() - 2), 512).expand_as(right)
    bound, lse_bound = testing.bounds(right, right_lse, spread, rounding)
    assert bool(((out.double() - right).abs() <= bound).all())
    empty = torch.isinf(right_lse)
    assert torch.equal(torch.isinf(lse), empty) and not out[empty].any()
    assert bool(((lse.double() - right_lse).abs()[~empty] <= lse_bound[~empty]).all())
    # the mean error is far below the bound: a column mixed up with another would not be
    assert float((out.double() - right).abs().mean()) < 2**-8 * float(right.abs().mean())


def check(
    tensors: tuple[torch.Tensor, ...],
    config: LaunchConfig,
    operand: str,
    window: int = 0,
    cache_scale: float | None = None,
    sinks: torch.Tensor | None = None,
) -> None:
    q, cache, table, lengths = tensors
    found = mla_decode_attention(
        q, cache, table, lengths, scale=SCALE, window=window or None, sinks=sinks, cache_scale=cache_scale, config=config,
        return_lse=True,
    )  # fmt: skip
    assert isinstance(found, tuple)
    scale = None if cache_scale is None else torch.tensor(cache_scale, dtype=torch.float32, device=q.device)
    keywords = {"scale": SCALE, "window": window, "sinks": sinks, "kv_lora_rank": 512, "dtype": torch.float64}
    expected = _reference.decode(q, cache, None, table, lengths, k_scale=scale, **keywords)  # type: ignore[arg-type]
    slots = [_reference.slots_of(table[b], cache.shape[1], 0, int(n)) for b, n in enumerate(lengths)]
    keys = [_reference.latents(cache, each, scale, torch.float64)[:, 0] for each in slots]
    compare(found, expected, q, keys, operand)


@pytest.mark.parametrize("latent_format", LatentFormat)
@pytest.mark.parametrize("heads_q", [(16, 1), (20, 2), (3, 1)], ids=["h16", "h20_q2_two_blocks", "h3"])
def test_formats(latent_format: LatentFormat, heads_q: tuple[int, int], device: str) -> None:
    tensors = build((45, 0, 33), latent_format, "bfloat16", heads_q[0], heads_q[1], 16, device)
    check(tensors, SMALL, "bfloat16")


@pytest.mark.parametrize("latent_format", LatentFormat)
@pytest.mark.parametrize("cut", [True, False], ids=["parts", "one"])
def test_large_pages_and_window(latent_format: LatentFormat, cut: bool, device: str) -> None:
    tensors = build((75, 33), latent_format, "bfloat16", 16, 1, 64, device)
    check(tensors, replace(SMALL, cut=cut), "bfloat16", window=40)


@pytest.mark.parametrize("latent_format", [LatentFormat.PLAIN, LatentFormat.FP8_V4])
def test_sinks(latent_format: LatentFormat, device: str) -> None:
    """Heads whose sink outweighs every key, and one with none to speak of; an empty sequence sees its sinks alone."""
    tensors = build((45, 0), latent_format, "bfloat16", 16, 1, 16, device)
    check(tensors, SMALL, "bfloat16", sinks=torch.linspace(-20, 20, 16, device=device))


def listed(tensors: tuple[torch.Tensor, ...], picks: list[list[int]], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Slots of the tokens that each sequence's query is to see, -1 of nothing; behind a list stands what must not be read."""
    _, cache, table, _ = tensors
    slots = torch.full((len(picks), max(map(len, picks)) + 3), 1 << 30, dtype=torch.int32)
    for b, chosen in enumerate(picks):
        at = [-1 if t < 0 else int(table[b, t // cache.shape[1]]) * cache.shape[1] + t % cache.shape[1] for t in chosen]
        slots[b, : len(at)] = torch.tensor(at, dtype=torch.int32)
    return slots.to(device), torch.tensor([len(each) for each in picks], dtype=torch.int32, device=device)


@pytest.mark.parametrize("page_size", [16, 24], ids=["page16", "page24"])
@pytest.mark.parametrize("latent_format", LatentFormat)
def test_lists_of_slots(latent_format: LatentFormat, page_size: int, device: str) -> None:
    """Any order, gaps (rows of nobody are NaN), a list of gaps alone, an empty one; 24 is no power of two."""
    tensors = build((75, 40, 33, 20), latent_format, "bfloat16", 16, 1, page_size, device)
    q, cache = tensors[0][:, 0], tensors[1]
    if latent_format is LatentFormat.PLAIN:
        assert bool(cache.isnan().any())
    picks = [[74, 3, -1, 50, 51, 52, -1, 0, *range(10, 49)], [-1, -1], [], [-7, 19, 2]]
    slots, lengths = listed(tensors, picks, device)
    options = {"scale": SCALE, "sinks": torch.zeros(16, device=device), "return_lse": True}
    found = sparse_mla_decode_attention(q, cache, slots, lengths, config=SMALL, **options)  # type: ignore[arg-type]
    assert isinstance(found, tuple)
    keys = [
        _reference.latents(cache, slots[b, : len(p)][slots[b, : len(p)] >= 0], None, torch.float64)[:, 0]
        for b, p in enumerate(picks)
    ]
    expected = [
        _reference.attend(
            q[b : b + 1].double(), k[:, None], k[:, None, :512], seq_len=len(k), start=0, scale=SCALE, window=0, softcap=0.0,
            sinks=torch.zeros(16, device=device), alibi_slopes=None,
        )
        for b, k in enumerate(keys)
    ]  # fmt: skip
    compare(found, (torch.cat([e[0] for e in expected]), torch.cat([e[1] for e in expected])), q, keys, "bfloat16")


def test_a_list_of_all_tokens_is_the_sequence(device: str) -> None:
    """In their order, whatever the page: bit for bit what the page table gives."""
    tensors = build((45, 33), LatentFormat.FP8_V4, "bfloat16", 16, 1, 16, device)
    slots, lengths = listed(tensors, [list(range(45)), list(range(33))], device)
    by_page = mla_decode_attention(*tensors, scale=SCALE, config=SMALL)
    by_slot = sparse_mla_decode_attention(tensors[0][:, 0], tensors[1], slots, lengths, scale=SCALE, config=SMALL)
    assert isinstance(by_page, torch.Tensor) and isinstance(by_slot, torch.Tensor)
    assert torch.equal(by_page[:, 0], by_slot)


def test_a_window_and_a_list_of_another_cache_under_one_softmax(device: str) -> None:
    """DeepSeek V4's layers: the newest tokens in one cache, compressed rows in another, sinks counted once."""
    near = build((45, 33), LatentFormat.FP8_V4, "bfloat16", 16, 1, 16, device)
    far = build((40, 20), LatentFormat.FP8_V4, "bfloat16", 16, 1, 64, device)
    slots, lengths = listed(far, [[39, 0, 7], list(range(20))], device)
    sinks = torch.linspace(-2, 2, 16, device=device)
    options = {"scale": SCALE, "config": SMALL, "return_lse": True}
    first = mla_decode_attention(*near, window=20, sinks=sinks, **options)  # type: ignore[arg-type]
    second = sparse_mla_decode_attention(near[0][:, 0], far[1], slots, lengths, **options)  # type: ignore[arg-type]
    out, lse = merge_attention(torch.stack([first[0][:, 0], second[0]]), torch.stack([first[1][:, 0], second[1]]))
    for b, (n, chosen) in enumerate(((45, [39, 0, 7]), (33, list(range(20))))):
        window = _reference.slots_of(near[2][b], 16, n - 20, n)
        picked = _reference.slots_of(far[2][b], 64, 0, 40)[torch.tensor(chosen, device=device)]
        k = torch.cat([_reference.latents(c, s, None, torch.float64) for c, s in ((near[1], window), (far[1], picked))])
        right, right_lse = _reference.attend(
            near[0][b].double(), k, k, seq_len=len(k), start=0, scale=SCALE, window=0, softcap=0.0, sinks=sinks,
            alibi_slopes=None,
        )  # fmt: skip
        torch.testing.assert_close(out[b].double(), right[0], rtol=2**-6, atol=2**-7 * float(right.abs().max()))
        torch.testing.assert_close(lse[b].double(), right_lse[0], rtol=0, atol=2e-3)


def test_rows_of_656_bytes_in_blocks_of_32(device: str) -> None:
    """Their scales are loaded one by one, those of blocks of 16 together."""
    tensors = build((33,), LatentFormat.FP8_DS, "bfloat16", 20, 1, 16, device)
    check(tensors, replace(SMALL, block_m=32), "bfloat16")


@pytest.mark.parametrize("latent_format", LatentFormat)
def test_fixed_split(latent_format: LatentFormat, device: str) -> None:
    tensors = build((75, 33), latent_format, "bfloat16", 16, 1, 64, device)
    check(tensors, replace(SMALL, block_n=16, split_tiles=1), "bfloat16")


@pytest.mark.parametrize(("rank", "rope"), [(16, 8), (64, 16), (128, 64), (256, 32), (128, 0)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_other_ranks(rank: int, rope: int, dtype: str, device: str) -> None:
    """MiniCPM3's 256 + 32, the few columns of small test models, and rows that are values as a whole, as V4's in bf16."""
    generator = torch.Generator().manual_seed(2)
    cache = torch.randn(4, 16, rank + rope, generator=generator).to(torch.bfloat16).to(getattr(torch, dtype)).to(device)
    q = (torch.randn(2, 8, rank + rope, generator=generator) * 0.3).to(torch.bfloat16).to(device)
    table = torch.tensor([[2, 0, 3], [1, -1, -1]], dtype=torch.int32, device=device)
    lengths = torch.tensor([45, 7], dtype=torch.int32, device=device)
    options = {
        "scale": 0.2,
        "kv_lora_rank": rank,
        "cache_scale": 0.5 if dtype != "bfloat16" else None,
        "return_lse": True,
    }
    out, lse = mla_decode_attention(q, cache, table, lengths, config=SMALL, **options)
    expected, expected_lse = mla_decode_attention(q, cache, table, lengths, impl="reference", **options)
    assert torch.allclose(lse, expected_lse, atol=2e-3, rtol=0)
    assert torch.allclose(out.float(), expected.float(), atol=2e-2 * float(expected.float().abs().max()), rtol=0)


@pytest.mark.parametrize("rank", [16, 64, 128])
@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_lists_with_holes_for_any_rank(rank: int, dtype: str, device: str) -> None:
    """Negative slots are left out, at the front, in the middle and all of them, also of ranks whose rows are read twice."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(4, 16, rank + 16, generator=generator)
    rows[0, 0] = float("nan")  # what a negative slot is nearest to
    cache = rows.to(getattr(torch, dtype)).to(device)
    q = (torch.randn(3, 8, rank + 16, generator=generator) * 0.3).to(torch.bfloat16).to(device)
    listed = [[-1, 9, -7, 63, 17, -1], [-5, -1, 3, -1, -1, -1], [-1, -2, -3, -4, -5, -6]]
    slots = torch.tensor(listed, dtype=torch.int32, device=device)
    lengths = torch.tensor([6, 5, 6], dtype=torch.int32, device=device)
    options = {"scale": 0.2, "kv_lora_rank": rank, "return_lse": True}
    out, lse = sparse_mla_decode_attention(q, cache, slots, lengths, config=SMALL, **options)
    for token, kept in enumerate(([9, 63, 17], [3], [])):
        k = cache.double().view(64, -1)[kept]
        logits = q[token].double() @ k.T * 0.2
        torch.testing.assert_close(lse[token].double(), torch.logsumexp(logits, 1), rtol=0, atol=1e-3)
        expected = torch.softmax(logits, 1) @ k[:, :rank]
        torch.testing.assert_close(out[token].double(), expected, rtol=2**-7, atol=2**-6)


@pytest.mark.parametrize("latent_format", LatentFormat)
@pytest.mark.parametrize("gib", [2, 4, 8])
def test_pages_far_apart(latent_format: LatentFormat, gib: int, device: str, tmp_path: Path) -> None:
    """Written, read by page table and by lists: offsets beyond 32 bits of bytes and of what rows are read in."""
    if device != "cpu":
        pytest.skip("on a GPU it would take the memory")
    q, cache, table, lengths = build((33, 7), latent_format, "bfloat16", 16, 1, 16, device)
    far = spread(cache, (gib * 2**30 + 576 * 16) // cache.element_size(), tmp_path / "far")
    slots = torch.tensor([[47, -1, 9], [9, 47, 0]], dtype=torch.int32)
    counts, rows = torch.tensor([3, 2], dtype=torch.int32), []
    new = torch.randn(2, 576, generator=torch.Generator().manual_seed(5)).to(torch.bfloat16)
    for each in (cache, far):
        write_latent(new[:, : q.shape[3] - 64], new[:, :64], each, torch.tensor([47, 9]))
        rows.append(mla_decode_attention(q, each, table, lengths, scale=SCALE))
        rows.append(sparse_mla_decode_attention(q[:, 0], each, slots, counts, scale=SCALE))
    assert torch.equal(rows[0], rows[2]) and torch.equal(rows[1], rows[3])


def test_whole_row_in_fp8(device: str) -> None:
    """576 e4m3 elements with one scale for all."""
    tensors = build((45, 33), LatentFormat.PLAIN, "float8_e4m3fn", 16, 1, 16, device)
    check(tensors, SMALL, "float16", cache_scale=0.25)


def test_rows_of_656_bytes_are_what_the_writer_says(device: str) -> None:
    """One token, one head: the output is the dequantized latent itself."""
    q, cache, table, lengths = build((1,), LatentFormat.FP8_DS, "bfloat16", 1, 1, 16, device)
    out = mla_decode_attention(q, cache, table, lengths, scale=SCALE, config=SMALL)
    row = cache[int(table[0, 0]), 0]
    codes = row[:512].view(torch.float8_e4m3fn).float().view(4, 128)
    expected = (codes * row[512:528].clone().view(torch.float32)[:, None]).flatten()
    assert isinstance(out, torch.Tensor)
    torch.testing.assert_close(out.flatten().float(), expected, rtol=2**-7, atol=0)
