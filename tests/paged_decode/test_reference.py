"""The oracle itself, against torch's own attention and against arithmetic that fits in the head."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from hfmem_kernels import _reference, testing
from hfmem_kernels.layout import Layout
from hfmem_kernels.testing import Case


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("order", [Layout.NHD, Layout.PACKED_HND])
def test_against_torch_sdpa(window: int | None, order: Layout) -> None:
    """Dense keys and values gathered by hand, masks built from positions, fp64."""
    case = Case(
        (37, 5, 20), num_heads=6, num_kv_heads=2, head_dim=8, v_head_dim=12, page_size=4, q_len=3, window=window
    )
    inputs = testing.build(
        Case(**{f: getattr(case, f) for f in case.__slots__} | {"cache_layout": order, "dtype": "float32"})
    )
    out, _ = testing.oracle(inputs)
    for b, length in enumerate(case.seq_lens):
        keys, values = [], []
        for t in range(length):
            page, place = int(inputs.page_table[b, t // 4]), t % 4
            keys.append(inputs.cache.k[page, place])
            values.append(inputs.cache.v[page, place])
        k, v = torch.stack(keys, 1).double(), torch.stack(values, 1).double()
        positions = torch.arange(length)
        queries = torch.arange(length - 3, length)[:, None]
        mask = positions <= queries
        if window:
            mask &= positions > queries - window
        k, v = k.nan_to_num(), v.nan_to_num()  # what a window has left behind is NaN
        expected = scaled_dot_product_attention(
            inputs.q[b].transpose(0, 1).double(), k, v, attn_mask=mask, scale=8**-0.5, enable_gqa=True
        )
        torch.testing.assert_close(out[b], expected.transpose(0, 1), rtol=1e-12, atol=1e-12)


def attend(logits: list[float], values: list[float], **changes: object) -> tuple[float, float]:
    """One query with one head of one column: logits are the keys, scale and query are 1."""
    keywords: dict[str, object] = {"scale": 1.0, "window": 0, "softcap": 0.0, "sinks": None, "alibi_slopes": None}
    column = torch.tensor(logits, dtype=torch.float64)[:, None, None]
    out, lse = _reference.attend(
        torch.ones(1, 1, 1, dtype=torch.float64), column, torch.tensor(values, dtype=torch.float64)[:, None, None],
        seq_len=len(logits), start=0, **(keywords | changes),  # type: ignore[arg-type]
    )  # fmt: skip
    return out.item(), lse.item()


def test_softmax_by_hand() -> None:
    out, lse = attend([0.0, math.log(3.0)], [4.0, 8.0])
    assert out == pytest.approx((1 * 4 + 3 * 8) / 4) and lse == pytest.approx(math.log(4))


def test_sink_by_hand() -> None:
    """A sink of log 4 joins 1 + 3: the output halves, and the lse counts it."""
    out, lse = attend([0.0, math.log(3.0)], [4.0, 8.0], sinks=torch.tensor([math.log(4.0)], dtype=torch.float64))
    assert out == pytest.approx((1 * 4 + 3 * 8) / 8) and lse == pytest.approx(math.log(8))


def test_softcap_by_hand() -> None:
    out, _ = attend([100.0, -100.0], [1.0, 0.0], softcap=2.0)
    assert out == pytest.approx(math.exp(2) / (math.exp(2) + math.exp(-2)))


def test_alibi_by_hand() -> None:
    """The newest key is 0 away, the one before 1: weights 1 and e^-slope."""
    out, lse = attend([0.0, 0.0], [0.0, 1.0], alibi_slopes=torch.tensor([math.log(3.0)], dtype=torch.float64))
    assert out == pytest.approx(3 / 4) and lse == pytest.approx(math.log(4 / 3))


def test_merging_halves_is_the_whole() -> None:
    halves = [attend([0.3, -1.0], [1.0, 2.0]), attend([2.0], [5.0])]
    whole = attend([0.3, -1.0, 2.0], [1.0, 2.0, 5.0])
    outs = torch.tensor([[h[0]] for h in halves], dtype=torch.float64)[..., None]
    out, lse = _reference.merge(outs, torch.tensor([[h[1]] for h in halves], dtype=torch.float64))
    assert (out.item(), lse.item()) == pytest.approx(whole)


def test_inputs_are_poisoned_where_nobody_may_look() -> None:
    """The factory's promise that the kernel tests rest on."""
    inputs = testing.build(Case((20, 33), window=8, page_size=8))
    assert inputs.page_table.tolist()[0][:1] == [-1] and inputs.page_table.tolist()[1][:3] == [-1, -1, -1]
    finite = torch.isfinite(inputs.cache.k.float()).all(-1).all(-1)
    assert int(finite.sum()) == 8 + 8
    assert torch.isfinite(testing.oracle(inputs)[0]).all()


def test_bounds_catch_a_wrong_key() -> None:
    """A bound that a single misplaced token does not break would be worth nothing."""
    inputs = testing.build(Case((70,), dtype="bfloat16"))
    out, _ = testing.oracle(inputs)
    bound, _ = testing.error_budget(inputs)
    shorter = testing.replace(inputs, seq_lens=inputs.seq_lens - 1)
    assert bool(((testing.oracle(shorter)[0] - out).abs() > bound).any())
