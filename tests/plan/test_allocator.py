"""Contiguous reservation against pages, by hand for Llama 3 8B: 131,072 bytes a token, pages of 16 tokens."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfmem.api.estimates import Model, read_model
from hfmem.cli import main
from hfmem.errors import UsageError
from hfmem.hub import FetchOptions
from hfmem.memory.serving import Serving
from hfmem.plan.allocator import allocations, parse_lengths

LLAMA = "meta-llama/Meta-Llama-3-8B"
TOKEN = 131_072
GIB = 1 << 30


@pytest.fixture(scope="module")
def llama() -> Model:
    """Llama 3 8B from the shipped catalogue."""
    return read_model(LLAMA, fetch=FetchOptions(offline=True, no_cache=True))


def test_a_mix_of_lengths(llama: Model) -> None:
    mix = parse_lengths("500:6,2k:3,8k:1")
    assert mix.mean == Fraction(500 * 6 + 2048 * 3 + 8192, 10)
    assert mix.longest == 8192
    contiguous, paged = allocations(llama.architecture, Serving(8192), mix, 40 * GIB)
    assert contiguous.bytes_per_seq == 8192 * TOKEN
    assert contiguous.num_seqs == 40
    assert contiguous.idle_share == pytest.approx(1 - float(mix.mean) / 8192)
    # 500 tokens take 32 pages: 512
    held = Fraction(512 * 6 + 2048 * 3 + 8192, 10) * TOKEN
    assert paged.bytes_per_seq == -(-held.numerator // held.denominator)
    assert paged.num_seqs == 40 * GIB // held
    assert paged.idle_share == pytest.approx(1 - float(mix.mean * TOKEN / held))


def test_ranks_share_a_sequence(llama: Model) -> None:
    alone = allocations(llama.architecture, Serving(8192), parse_lengths("100,8192"), 8 * GIB)
    four = allocations(llama.architecture, Serving(8192, tp=4), parse_lengths("100,8192"), 2 * GIB)
    assert [a.num_seqs for a in alone] == [a.num_seqs for a in four]
    assert [a.idle_share for a in alone] == pytest.approx([a.idle_share for a in four])


@given(st.lists(st.tuples(st.integers(1, 8192), st.integers(1, 100)), min_size=1, max_size=6))
def test_pages_never_hold_fewer(llama: Model, parts: list[tuple[int, int]]) -> None:
    mix = parse_lengths(",".join(f"{length}:{weight}" for length, weight in parts))
    assert sum(share for _, share in mix.shares) == 1
    contiguous, paged = allocations(llama.architecture, Serving(8192), mix, 64 * GIB)
    assert paged.num_seqs >= contiguous.num_seqs
    assert 0 <= paged.idle_share <= contiguous.idle_share + 1e-12
    assert paged.bytes_per_seq - mix.mean * TOKEN <= 16 * TOKEN


@pytest.mark.parametrize("text", ["", "x", "1k:", "1k:0", "1k:-1", "1k:2:3", "0:1", "1k,,2k"])
def test_what_is_no_mix(text: str) -> None:
    with pytest.raises(UsageError, match="--lengths"):
        parse_lengths(text)


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["fit", LLAMA, "--offline", "--gpu", "h100", "--ctx", "8k", *words])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    status, out, _ = run("--lengths", "1k:3,8k:1", "--allocator", "paged", "--json")
    assert status == 0
    (only,) = json.loads(out)["allocation"]
    assert only["allocator"] == "paged" and only["idle_share"] == 0
    status, out, _ = run("--lengths", "1k:3,8k:1")
    assert "contiguous" in out and "paged" in out
    assert run("--lengths", "16k")[0] == 2
    assert run("--allocator", "paged")[0] == 2
    assert run("--lengths", "1k", "--allocator", "buddy")[0] == 2


def test_replicas_hold_as_many_each(llama: Model) -> None:
    for replicas in (1, 2):
        contiguous, _ = allocations(llama.architecture, Serving(8192, dp=replicas), parse_lengths("8k"), 40 * GIB)
        assert contiguous.num_seqs == 40 * replicas
