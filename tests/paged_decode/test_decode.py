"""`paged_decode_attention` against the fp64 oracle, within bounds derived from the number formats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from far_pages import spread

from hfmem_kernels import _addresses, _launch, testing
from hfmem_kernels._heuristics import LaunchConfig
from hfmem_kernels._launch import Workspace, lockstep_of
from hfmem_kernels.layout import Layout
from hfmem_kernels.paged_decode import paged_decode_attention
from hfmem_kernels.testing import Case

# 16 rows × 32 tokens a tile, one program a multiprocessor: four programs in the interpreter, so that shares end inside sequences
SMALL = LaunchConfig(block_m=16, block_n=32, num_warps=4, num_stages=2, ctas_per_sm=1)
MANY = replace(SMALL, block_n=16, ctas_per_sm=5)
RAGGED = (70, 0, 33, 1)


def call(
    inputs: testing.Inputs, config: LaunchConfig = SMALL, **overrides: object
) -> tuple[torch.Tensor, torch.Tensor]:
    """out and lse, from NaN-filled buffers and scratch memory."""
    q, v = inputs.q, inputs.cache.v
    arguments = dict(inputs.arguments)
    if inputs.case.q_lens:
        arguments["max_q_len"] = max(inputs.case.q_lens)
    arguments |= {
        "out": torch.full((*q.shape[:-1], v.shape[-1]), float("nan"), dtype=q.dtype, device=q.device),
        "lse": torch.full(q.shape[:-1], float("nan"), device=q.device),
        "workspace": Workspace.empty(8192, 1 << 22, q.device),
        "config": config,
    }
    arguments |= overrides
    workspace = arguments["workspace"]
    assert isinstance(workspace, Workspace)
    workspace.partials.fill_(float("nan"))
    out, lse = paged_decode_attention(*inputs.positional, **arguments, return_lse=True)  # type: ignore[arg-type]
    assert not workspace.counters.any(), "a launch leaves its counters as it found them"
    return out, lse


def check(case: Case, device: str, config: LaunchConfig = SMALL) -> None:
    inputs = testing.build(case, device)
    out, lse = call(inputs, config)
    expected, expected_lse = testing.oracle(inputs)
    bound, lse_bound = testing.error_budget(inputs)
    error = (out.double() - expected).abs()
    assert bool((error <= bound).all()), f"{(error / bound).max():.2f} times the bound"
    empty = torch.isinf(expected_lse)
    assert torch.equal(torch.isinf(lse), empty)
    assert bool(((lse.double() - expected_lse).abs()[~empty] <= lse_bound[~empty]).all())
    assert not out[empty].any(), "queries without keys give zeros"


FEATURES = {
    "bf16": Case(RAGGED),
    "fp16": Case(RAGGED, dtype="float16"),
    "fp32": Case(RAGGED, dtype="float32"),
    "mha": Case(RAGGED, num_heads=2, num_kv_heads=2),
    "mqa": Case((40, 17), num_heads=8, num_kv_heads=1),
    "group7": Case((40, 17), num_heads=14, num_kv_heads=2),
    "group40_in_blocks": Case((40, 17), num_heads=40, num_kv_heads=1),
    "q4": Case((70, 2, 33), q_len=4),
    "q8_group3": Case((37, 9), num_heads=6, q_len=8),
    "varlen": Case((70, 0, 33, 5), q_lens=(2, 0, 3, 1)),
    "window": Case((70, 19, 33), window=20),
    "window_q3": Case((70, 19, 33), window=20, q_len=3),
    "window_1": Case((70, 19), window=1),
    "window_at_page_edge": Case((48, 64, 65), window=16),
    "softcap": Case(RAGGED, softcap=3.0, magnitude=4.0),
    "sinks": Case(RAGGED, sinks=True),
    "sinks_window_q2": Case((70, 19, 33), sinks=True, window=24, q_len=2),
    "alibi": Case(RAGGED, alibi=True),
    "alibi_softcap_q3": Case((70, 33), alibi=True, softcap=5.0, q_len=3),
    "extreme_logits": Case(RAGGED, magnitude=3e3),
    "tiny_queries": Case(RAGGED, magnitude=1e-6, cache_dtype="float8_e4m3fn", scales="tensor"),
    "huge_queries": Case(RAGGED, magnitude=1e6, cache_dtype="float8_e5m2", scales="tensor"),
}


@pytest.mark.parametrize("name", FEATURES)
def test_feature(name: str, device: str) -> None:
    check(FEATURES[name], device)


@pytest.mark.parametrize(
    "dims", [(16, 16), (80, 80), (96, 96), (112, 112), (128, 128), (192, 128), (13, 5), (256, 256)]
)
def test_head_dims(dims: tuple[int, int], device: str) -> None:
    check(Case((50, 7), num_heads=2, num_kv_heads=1, head_dim=dims[0], v_head_dim=dims[1]), device)


@pytest.mark.parametrize("dims", [(80, 80), (96, 64), (20, 36), (13, 5)])
def test_head_dims_of_8_bit_caches(dims: tuple[int, int], device: str) -> None:
    case = Case((50, 7), num_heads=2, num_kv_heads=1, head_dim=dims[0], v_head_dim=dims[1])
    check(replace(case, cache_dtype="float8_e4m3fn", scales="head"), device)


@pytest.mark.parametrize("page_size", [1, 7, 16, 33, 40, 64, 528])
@pytest.mark.parametrize("config", [SMALL, MANY], ids=["tiles_of_32", "tiles_of_16"])
def test_page_sizes(page_size: int, config: LaunchConfig, device: str) -> None:
    check(
        Case((100, 41), num_heads=2, num_kv_heads=1, head_dim=16, page_size=page_size, dtype="float32"), device, config
    )


def test_page_boundary_inside_a_tile(device: str) -> None:
    """Tiles of 32 tokens over pages of 528: the 17th tile ends one page and begins the next."""
    check(Case((1100,), num_heads=1, num_kv_heads=1, head_dim=16, page_size=528, dtype="float32"), device)


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("kind", ["bf16", "fp8", "int8_token"])
def test_layouts(layout: Layout, kind: str, device: str) -> None:
    case = Case((40, 0, 19), page_size=8, cache_layout=layout, head_dim=32, v_head_dim=16)
    kinds = {
        "bf16": case,
        "fp8": replace(case, cache_dtype="float8_e4m3fn", scales="tensor"),
        "int8_token": replace(case, cache_dtype="int8", scales="token"),
    }
    check(kinds[kind], device)


@pytest.mark.parametrize("cache_dtype", ["float8_e4m3fn", "float8_e5m2", "int8"])
@pytest.mark.parametrize("scales", ["none", "tensor", "head", "token"])
@pytest.mark.parametrize("pairs", [True, False], ids=["pairs", "bytes"])
def test_quantized_caches(cache_dtype: str, scales: str, pairs: bool, device: str) -> None:
    check(Case((40, 0, 19), cache_dtype=cache_dtype, scales=scales, head_dim=32), device, replace(SMALL, pairs=pairs))


def test_e4m3_by_integer_arithmetic(device: str) -> None:
    """What devices before sm_89 do, asked of later ones, too; the interpreter does nothing else."""
    case = Case((40, 0, 19), cache_dtype="float8_e4m3fn", scales="head", head_dim=32)
    check(case, device, replace(SMALL, convert=False))


@pytest.mark.parametrize("page_size", [8, 33, 64])
@pytest.mark.parametrize("features", [{}, {"window": 20, "q_len": 2}], ids=["all", "window"])
def test_int8_rows_behind_the_last_key(page_size: int, features: dict[str, Any], device: str) -> None:
    """They are read, 127 in every byte here, and count for nothing; pages smaller than a tile, between and multiples of it."""
    check(Case((40, 0, 65), page_size=page_size, cache_dtype="int8", scales="token", head_dim=32, **features), device)


def test_scales_beyond_32_bits(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """Offsets in 64 bits, as for scales that span 2^31 elements; such a tensor's extent is counted to its last element."""
    far = torch.empty_strided((3, 2, 2), (2**30, 4, 1), device="meta")
    assert _addresses.scale_extent(far) == 2 * 2**30 + 4 + 1 + 1
    assert _addresses.scale_extent(None) == _addresses.scale_extent(torch.ones(8)) == 1
    monkeypatch.setattr(_launch, "scale_extent", lambda scale: 2**31)
    check(Case((40, 19), cache_dtype="int8", scales="token", head_dim=32), device)


def test_scales_given_as_numbers(device: str) -> None:
    inputs = testing.build(Case((40, 19), cache_dtype="float8_e4m3fn", scales="tensor"), device)
    scales = {name: float(inputs.arguments[name]) for name in ("k_scale", "v_scale")}
    out, lse = call(inputs)
    as_numbers, lse_as_numbers = call(inputs, **scales)
    torch.testing.assert_close(as_numbers, out, rtol=2**-7, atol=1e-6)
    torch.testing.assert_close(lse_as_numbers, lse, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("key", ["none", "number", "one", "head"])
@pytest.mark.parametrize("value", ["none", "number", "one", "head"])
def test_scales_of_keys_and_values_are_given_as_they_come(key: str, value: str, device: str) -> None:
    """Each in a form of its own: what the other is must not matter. All are powers of two, so nothing is rounded anew."""
    inputs = testing.build(Case((40, 19), cache_dtype="float8_e4m3fn"), device)
    plain, plain_lse = call(inputs)
    forms = {"none": None, "number": 0.5, "one": torch.tensor([0.5], device=device)}
    forms["head"] = torch.tensor([0.5, 0.5], device=device)
    out, lse = call(inputs, scale=0.125 * (1.0 if key == "none" else 2.0), k_scale=forms[key], v_scale=forms[value])
    assert torch.equal(out, plain * (1.0 if value == "none" else 0.5)) and torch.equal(lse, plain_lse)


@pytest.mark.parametrize("programs", [1, 3, 17, 40])
@pytest.mark.parametrize("min_tiles", [1, 3])
def test_any_share_of_the_work(programs: int, min_tiles: int, device: str) -> None:
    """Shares that begin and end anywhere; 40 programs on one sequence merge in two levels."""
    config = replace(SMALL, block_n=16, min_tiles=min_tiles, ctas_per_sm=max(1, programs // 4))
    seq_lens = (700,) if programs == 40 else (130, 0, 5, 47)
    check(Case(seq_lens, num_heads=2, num_kv_heads=1, head_dim=16, dtype="float32"), device, config)


@pytest.mark.parametrize("split_tiles", [1, 2, 50])
def test_fixed_split(split_tiles: int, device: str) -> None:
    config = replace(SMALL, block_n=16, split_tiles=split_tiles)
    check(Case((130, 0, 5, 47), num_kv_heads=1, head_dim=16, window=60, dtype="float32", q_len=2), device, config)


@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads"), [(2, 2), (12, 6), (5, 5)], ids=["two", "six_in_twos", "five_in_turn"]
)
def test_heads_side_by_side(num_heads: int, num_kv_heads: int, device: str) -> None:
    """Eight programs: two heads side by side, two of six at a time three times over, five one after the other."""
    config = replace(SMALL, block_n=16, ctas_per_sm=2)
    assert lockstep_of(num_kv_heads, 8) == {2: 2, 6: 2, 5: 1}[num_kv_heads]
    check(
        Case((90, 0, 47), num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=16, dtype="float32"), device, config
    )


def test_heads_in_turn(device: str) -> None:
    config = replace(SMALL, block_n=16, ctas_per_sm=2, lockstep=False)
    check(Case((90, 0, 47), num_heads=2, num_kv_heads=2, head_dim=16, dtype="float32"), device, config)


@pytest.mark.parametrize("head_dim", [80, 128])
@pytest.mark.parametrize("cache_dtype", [None, "float8_e4m3fn", "int8"])
@pytest.mark.parametrize("cut", [True, False], ids=["parts", "one"])
def test_scores_in_parts_or_in_one(head_dim: int, cache_dtype: str | None, cut: bool, device: str) -> None:
    config = replace(SMALL, cut=cut)
    check(Case((70, 33), head_dim=head_dim, cache_dtype=cache_dtype), device, config)


def test_lockstep_divides_the_items_and_leaves_few_programs_idle() -> None:
    """264 programs: 32 heads use 256 of them; 96 would use 192 and 48 would use 240, so 32 at a time; 250 of 500 use 250."""
    assert [lockstep_of(items, 264) for items in (1, 8, 32, 96, 7, 500)] == [1, 8, 32, 32, 7, 250]


@pytest.mark.parametrize("num_heads", [2, 16])
def test_fixed_split_with_merge_in_two_levels(num_heads: int, device: str) -> None:
    """Rows of 1 and 16 heads of 16 and of 128 columns: 69 pieces, more than one level's 64, in groups of 16; 21, more than its 16,
    in groups of 8, the last of 5."""
    config = replace(SMALL, block_n=16, split_tiles=1)
    dim, tokens = (16, 1100) if num_heads == 2 else (128, 330)
    check(Case((tokens,), num_heads=num_heads, num_kv_heads=1, head_dim=dim, dtype="float32"), device, config)


def test_fixed_split_is_batch_invariant(device: str) -> None:
    """A sequence's result is bitwise the same alone and among others; with equal shares it need not be."""
    batch = testing.build(Case((130, 70, 255), num_heads=4, num_kv_heads=2, head_dim=32), device)
    config = replace(SMALL, block_n=16, split_tiles=2)
    together, lse = call(batch, config)
    for b in range(3):
        alone = replace(
            batch, q=batch.q[b : b + 1], page_table=batch.page_table[b : b + 1], seq_lens=batch.seq_lens[b : b + 1]
        )
        out_alone, lse_alone = call(alone, config)
        assert torch.equal(out_alone[0], together[b])
        assert torch.equal(lse_alone[0], lse[b])


def test_batch_invariant_flag_fixes_the_split(device: str) -> None:
    inputs = testing.build(Case((530, 70), num_heads=2, num_kv_heads=1, head_dim=16, page_size=64), device)
    positional = inputs.positional
    both = paged_decode_attention(*positional, batch_invariant=True)
    first = paged_decode_attention(
        *(t[:1] if i in (0, 3, 4) else t for i, t in enumerate(positional)), batch_invariant=True
    )
    assert isinstance(both, torch.Tensor) and isinstance(first, torch.Tensor)
    assert torch.equal(both[:1], first)


def test_deterministic(device: str) -> None:
    inputs = testing.build(Case((300, 20), num_heads=8, num_kv_heads=2), device)
    first, second = call(inputs, MANY), call(inputs, MANY)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_workspace_is_reused_by_different_calls(device: str) -> None:
    """Calls of other shapes, splits and lengths leave nothing behind that the next one could trip over."""
    workspace = Workspace.empty(8192, 1 << 22, device)
    cases = [Case((300,)), Case((20, 0, 90), head_dim=128, q_len=2), Case((300,))]
    results = []
    for case, config in zip(cases, (MANY, replace(MANY, split_tiles=1), MANY), strict=True):
        inputs = testing.build(case, device)
        results.append(call(inputs, config, workspace=workspace)[0])
    assert torch.equal(results[0], results[2])


def test_queries_beyond_the_sequence(device: str) -> None:
    """More queries than tokens: the first ones see nothing."""
    inputs = testing.build(Case((2, 30), q_len=4, dtype="float32"), device)
    out, lse = call(inputs)
    assert torch.isinf(lse[0, :2]).all() and not out[0, :2].any()
    assert torch.isfinite(lse[0, 2:]).all() and torch.isfinite(lse[1]).all()
    check(inputs.case, device)


def test_lengths_beyond_the_page_table_are_cut(device: str) -> None:
    """A length that the table cannot hold reads no foreign memory."""
    inputs = testing.build(Case((48, 32), page_size=16, dtype="float32"), device)
    longer = replace(inputs, seq_lens=torch.tensor([1000, 32], dtype=torch.int32, device=device))
    assert torch.equal(call(longer)[0], call(inputs)[0])


def test_strided_everything(device: str) -> None:
    """Queries, outputs and page tables that are views of larger tensors, columns that are not adjacent."""
    inputs = testing.build(Case((70, 33), head_dim=32, dtype="float32", q_len=2), device)
    plain, lse = call(inputs)
    wide_q = torch.full((2, 4, 2, 64), float("nan"), device=device)
    wide_q[:, :, :, ::2] = inputs.q.transpose(1, 2)
    wide_k = torch.full((*inputs.cache.k.shape[:3], 96), float("nan"), device=device)
    wide_k[..., 1::3] = inputs.cache.k
    table = torch.full((2, 9), 12345, dtype=torch.int32, device=device)
    table[:, 2 : 2 + inputs.page_table.shape[1]] = inputs.page_table
    out = torch.full((2, 4, 2, 64), float("nan"), device=device)[..., 16:48].transpose(1, 2)
    strided = replace(
        inputs,
        q=wide_q.transpose(1, 2)[..., ::2],
        cache=replace(inputs.cache, k=wide_k[..., 1::3]),
        page_table=table[:, 2 : 2 + inputs.page_table.shape[1]],
    )
    result, result_lse = call(strided, out=out, lse=torch.full((2, 4, 2), float("nan"), device=device).transpose(1, 2))
    assert torch.equal(result, plain) and torch.equal(result_lse, lse)


@pytest.mark.parametrize("stride", [2**31 + 1, 2**31 + 16], ids=["64_bit_rows", "32_bit_rows_of_8_elements"])
@pytest.mark.parametrize("config", [SMALL, MANY], ids=["scattered_ids", "scalar_ids"])
def test_offsets_beyond_32_bits(config: LaunchConfig, stride: int, device: str, tmp_path: Path) -> None:
    """Two pages more than 2^31 elements apart, in a sparse file: memory only where the pages lie."""
    if device != "cpu":
        pytest.skip("on a GPU the grid test allocates the memory")
    inputs = testing.build(Case((20,), num_heads=2, num_kv_heads=1, head_dim=16, page_size=16), device, spare_pages=0)
    cache = replace(
        inputs.cache,
        k=spread(inputs.cache.k, stride, tmp_path / "k"),
        v=spread(inputs.cache.v, stride, tmp_path / "v"),
    )
    assert torch.equal(call(replace(inputs, cache=cache), config)[0], call(inputs, config)[0])


def test_empty_batch(device: str) -> None:
    inputs = testing.build(Case((20,)), device)
    out = paged_decode_attention(
        inputs.q[:0], inputs.cache.k, inputs.cache.v, inputs.page_table[:0], inputs.seq_lens[:0]
    )
    assert isinstance(out, torch.Tensor) and out.shape == (0, 1, 4, 64)


def test_three_dimensional_queries(device: str) -> None:
    inputs = testing.build(Case((70, 33)), device)
    out, lse = call(inputs)
    flat = paged_decode_attention(inputs.q[:, 0], *inputs.positional[1:], config=SMALL, return_lse=True)
    assert torch.equal(flat[0], out[:, 0]) and torch.equal(flat[1], lse[:, 0])
