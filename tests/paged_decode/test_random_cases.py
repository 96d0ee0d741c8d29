"""Shapes, layouts and features that nobody chose, against definitions written anew (`random_cases`, `random_latents`).

HFMEM_SEEDS=100:300 draws those instead of the few of every test run.
"""

from __future__ import annotations

import os

import pytest
from random_cases import draw_decode
from random_index import draw_index
from random_latents import draw_latent

from hfmem_kernels import index_logits, mla_decode_attention, paged_decode_attention, sparse_mla_decode_attention

FIRST, LAST = (int(n) for n in os.environ.get("HFMEM_SEEDS", "0:20").split(":"))
SEEDS = range(FIRST, LAST)


@pytest.mark.parametrize("seed", SEEDS)
def test_decode(seed: int, device: str) -> None:
    call = draw_decode(seed, device)
    out, lse = paged_decode_attention(*call.positional, **call.keywords, return_lse=True, check_indices=True)
    call.check(out, lse)


@pytest.mark.parametrize("seed", SEEDS)
def test_latent(seed: int, device: str) -> None:
    call = draw_latent(seed, device, listed=False)
    out, lse = mla_decode_attention(*call.positional, **call.keywords, return_lse=True, check_indices=True)
    call.check(out, lse)


@pytest.mark.parametrize("seed", SEEDS)
def test_listed(seed: int, device: str) -> None:
    call = draw_latent(seed, device, listed=True)
    out, lse = sparse_mla_decode_attention(*call.positional, **call.keywords, return_lse=True, check_indices=True)
    call.check(out, lse)


@pytest.mark.parametrize("seed", SEEDS)
def test_index(seed: int, device: str) -> None:
    call = draw_index(seed, device)
    scores = index_logits(*call.positional, **call.keywords, check_indices=True)
    error = abs(scores.double().cpu().numpy() - call.out)
    assert (error <= call.out_bound).all(), call.what
