"""The gate and the bare kernels on the CPU: what is right passes, what is wrong is told, by the reference's own arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hfmem_kernels import paged_decode_attention
from hfmem_kernels._launch import device_facts
from hfmem_kernels.benchmarks import ceiling, experiments, gate, grid, inputs, ours
from hfmem_kernels.benchmarks.rows import Mix, Row, uniform
from hfmem_kernels.benchmarks.shapes import shape
from hfmem_kernels.layout import LatentFormat, Layout

LLAMA = shape("llama-3.1-70b-tp8")
TINY = Mix("tiny", (40, 0, 17))


@pytest.mark.parametrize("row", grid.smoke_grid(), ids=lambda row: row.name.replace(" ", "_"))
def test_the_smoke_grid_passes(row: Row, device: str) -> None:
    found = gate.check(inputs.build(row, device), repeats=1)
    assert found.passed and 0 < found.worst <= 1, found


VARIANTS = [
    Row(LLAMA, TINY),
    Row(LLAMA, TINY, dtype="int8", scales="token", layout=Layout.PACKED),
    Row(LLAMA, TINY, dtype="float8_e5m2", scales="head", page_size=7),
    Row(LLAMA, TINY, layout=Layout.HND, q_len=2),
    Row(replace(shape("gpt-oss-20b-window"), window=8), TINY, page_size=4),
    Row(shape("deepseek-v3-tp8"), TINY, page_size=64, latent_format=LatentFormat.FP8_DS),
]


@pytest.mark.parametrize("row", VARIANTS, ids=lambda row: row.name.replace(" ", "_"))
def test_the_oracle_is_the_reference(row: Row) -> None:
    """Sequence by sequence and head by head it says what the op's reference says of the whole batch."""
    made = inputs.build(row, "cpu")
    each, q, s = made.sets[0], made.queries[0], row.shape
    if each.latent is not None:
        from hfmem_kernels import mla_decode_attention

        out = mla_decode_attention(
            q, each.latent, made.page_table, made.seq_lens, scale=s.scale, cache_scale=each.k_scale, impl="reference"
        )
    else:
        out = paged_decode_attention(
            q, each.k, each.v, made.page_table, made.seq_lens, scale=s.scale, window=s.window, sinks=made.sinks,
            k_scale=each.k_scale, v_scale=each.v_scale, impl="reference",
        )  # fmt: skip
    assert isinstance(out, torch.Tensor)
    places = [(b, head) for b in range(3) for head in range(s.num_kv_heads)]
    found = gate.compare(made, out, list(row.mix.lengths), places)
    assert found.passed and found.relative < 0.01


def test_wrong_results_are_told() -> None:
    row = Row(LLAMA, Mix("one", (40,)))
    made = inputs.build(row, "cpu")
    right = paged_decode_attention(
        made.queries[0], made.sets[0].k, made.sets[0].v, made.page_table, made.seq_lens, impl="reference"
    )
    assert isinstance(right, torch.Tensor)
    assert gate.compare(made, right, [40], [(0, 0)]).passed
    off = gate.compare(made, right * 1.02, [40], [(0, 0)])
    assert not off.passed and off.worst > 1 and "sequence 0 of 40 tokens" in off.reason
    for value in (float("nan"), float("inf")):
        broken = right.clone()
        broken[0, 0, 3, 5] = value
        assert not gate.compare(made, broken, [40], [(0, 0)]).passed
        assert not gate.same_function(made, broken).passed
    assert not gate.same_function(made, right * 1.03).passed and gate.same_function(made, right * 1.01).passed


def test_a_race_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row(LLAMA, Mix("one", (20,)))
    made = inputs.build(row, "cpu")
    noise = iter(range(100))

    def unsteady(inputs: inputs.Inputs, seq_lens: torch.Tensor | None = None) -> ours.Launch:
        lengths = made.seq_lens if seq_lens is None else seq_lens
        out = paged_decode_attention(
            made.queries[0], made.sets[0].k, made.sets[0].v, made.page_table, lengths, impl="reference"
        )
        assert isinstance(out, torch.Tensor)
        return lambda index: out * (1 + (2.0**-8 if next(noise) % 7 == 3 else 0))

    monkeypatch.setattr(ours, "prepare", unsteady)
    found = gate.check(made, repeats=8)
    assert not found.passed and found.reason == "two runs differ: a race"


def test_short_lengths_stay_within_the_row() -> None:
    row = Row(LLAMA, Mix("m", (4000, 10, 0, 2000, 9, 600)), q_len=4)
    assert gate.short_lengths(row) == [3000, 10, 0, 1073, 4, 528]
    assert gate.sample([5, 0, 9, 7], 8) == [(0, 0), (0, 7), (2, 0), (2, 7), (3, 0), (3, 7)]
    assert gate.sample([0, 0], 8) == []


def test_inputs_are_random_shuffled_and_the_same_again() -> None:
    row = Row(LLAMA, Mix("m", (40, 17)), dtype="float8_e4m3fn", scales="tensor")
    one, two = inputs.build(row, "cpu", 2), inputs.build(row, "cpu", 2)
    assert torch.equal(one.sets[1].k.view(torch.uint8), two.sets[1].k.view(torch.uint8))
    assert not torch.equal(one.sets[0].k.view(torch.uint8), one.sets[1].k.view(torch.uint8))
    used = torch.cat([one.page_table[0, :3], one.page_table[1, :2]])
    assert sorted(used.tolist()) == list(range(5))
    values = one.sets[0].k.float() * float(one.sets[0].k_scale or 0)
    assert 0.9 < values.std() < 1.1


def test_windows_hold_the_pages_that_are_seen() -> None:
    row = Row(replace(LLAMA, window=20), Mix("m", (100, 5)))
    made = inputs.build(row, "cpu")
    assert made.sets[0].k.shape[0] == row.pages == 2 + 1  # tokens 80 … 99 lie in pages 5 and 6
    assert made.page_table[0, :5].tolist() == [0] * 5


def test_dense_copies_are_the_pages_in_order() -> None:
    made = inputs.build(Row(LLAMA, uniform(2, 40)), "cpu")
    k, v = made.dense[0]
    assert k.shape == (2, 1, 40, 128)
    page = made.page_table[1, 2]
    assert torch.equal(k[1, 0, 32:40], made.sets[0].k[page, :8, 0]) and torch.equal(
        v[1, 0, 32:40], made.sets[0].v[page, :8, 0]
    )


def test_the_bare_stream_computes_attention_and_carrying_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """4 sequences of 3 tiles over 4 programs: each program holds one whole item."""
    if device != "cpu":
        pytest.skip("the shares are worked out for the interpreter's four multiprocessors")
    monkeypatch.setattr(experiments, "STREAM_PER_SM", 1)
    assert device_facts(torch.device("cpu")).num_sms == 4
    made = inputs.build(Row(LLAMA, uniform(4, 150)), device)
    carried, loaded = (experiments.stream(carry)(made)(0) for carry in (True, False))
    assert torch.equal(carried, loaded)
    for b in range(4):
        answer = gate.oracle(made, 0, b, 0, 150)
        # weights are rounded to bf16 against a running maximum, as in the op, and the result is not rounded at all
        assert bool(((carried[b, 0, :8].double() - answer.out[0]).abs() <= answer.bound[0]).all())


def test_the_read_stream_reads_everything(device: str) -> None:
    data = torch.randint(-(2**31), 2**31 - 1, (16384 * 5,), dtype=torch.int32, device=device)
    sums = torch.zeros(64, dtype=torch.int32, device=device)
    for launch in ceiling.SHAPES:
        programs = ceiling.read_all(data, sums, launch, 3)
        assert ceiling.check_sum(data, sums, programs)
        assert not ceiling.check_sum(data + 1, sums, programs)  # 81,920 more
    assert ceiling.stream_words(ceiling.STREAM_BYTES) * 4 >= 2 << 30
    assert all(ceiling.stream_words(1000) % tile == 0 for tile, _, _ in ceiling.SHAPES)
