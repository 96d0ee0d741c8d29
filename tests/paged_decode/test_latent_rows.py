"""Rows that carry their scales, byte by byte from the engines' description, against the reference that kernels are compared with.

Source: the comments of vLLM 0.33's `flashmla_sparse.py`, and of its and SGLang 0.5.23's writers for DeepSeek V4. Numbers are
decoded here in plain Python, from the definitions of their formats.
"""

from __future__ import annotations

import random
import struct

import pytest
import torch

from hfmem_kernels import _reference_rows, layout
from hfmem_kernels.layout import LatentFormat


def e4m3(byte: int) -> float:
    """OCP 8-bit floating point: sign, four bits of exponent with bias 7, three of mantissa."""
    sign, exponent, mantissa = -1.0 if byte & 0x80 else 1.0, byte >> 3 & 15, byte & 7
    return sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def e2m1(code: int) -> float:
    """OCP microscaling formats: sign, two bits of exponent with bias 1, one of mantissa."""
    sign, exponent, mantissa = -1.0 if code & 8 else 1.0, code >> 1 & 3, code & 1
    return sign * (mantissa / 2 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1))


def bf16(low: int, high: int) -> float:
    value: float = struct.unpack("<f", bytes([0, 0, low, high]))[0]
    return value


def random_bytes(count: int, seed: int) -> list[int]:
    """No NaN of e4m3, and no exponent of bf16 that is one."""
    generator = random.Random(seed)
    return [generator.choice([b for b in range(256) if b & 0x7F < 0x78]) for _ in range(count)]


def test_a_page_of_deepseek_v4() -> None:
    """Three tokens: data rows of 448 + 128 bytes, then scale rows of 7 + 1; 3 · 584 bytes are rounded up to four times 576."""
    storage = torch.zeros(2, 4 * 576, dtype=torch.uint8)
    cache = layout.latent_view(storage, 3, 584)
    assert cache.shape == (2, 3, 584)
    expected = []
    for token in range(3):
        data = random_bytes(576, token)
        exponents = [random.Random(token).randrange(110, 140) for _ in range(7)]
        storage[1, 576 * token :][:576] = torch.tensor(data, dtype=torch.uint8)
        storage[1, 3 * 576 + 8 * token :][:8] = torch.tensor([*exponents, 0xFF], dtype=torch.uint8)
        latent = [e4m3(data[i]) * 2.0 ** (exponents[i // 64] - 127) for i in range(448)]
        expected.append(latent + [bf16(data[448 + 2 * i], data[449 + 2 * i]) for i in range(64)])
    found = _reference_rows.unpack(_reference_rows.rows_at(cache, torch.tensor([3, 4, 5])), torch.float64)
    assert found.tolist() == expected


def test_pages_of_deepseek_v4_are_whole() -> None:
    """vLLM's and SGLang's: 64 · 584 = 37,376 bytes take 65 times 576; the tensor takes as much as its pages."""
    cache = layout.allocate_latent(3, 64, 448, 64, "", LatentFormat.FP8_V4, "cpu")
    assert cache.shape == (3, 64, 584) and cache.stride() == (37440, 584, 1)
    assert cache.untyped_storage().nbytes() == 3 * 37440
    assert layout.latent_row_bytes(512, 64, "", LatentFormat.NVFP4_DS) == 256 + 64 + 32 == 352
    assert layout.latent_page_bytes(64, 656, LatentFormat.FP8_DS) == 64 * 656


def test_a_row_of_nvfp4() -> None:
    """256 bytes of two codes, the even element in the low half; 64 e4m3; the scale of block s at byte 8 · (s & 3) + (s >> 2)."""
    data = random_bytes(352, 9)
    scales = [abs(e4m3(data[320 + 8 * (s & 3) + (s >> 2)] & 0x7F)) for s in range(32)]
    for at in range(320, 352):
        data[at] &= 0x7F  # scales are positive
    codes = [data[i // 2] >> (4 * (i % 2)) & 15 for i in range(512)]
    expected = [e2m1(c) * scales[i // 16] for i, c in enumerate(codes)] + [e4m3(data[256 + i]) for i in range(64)]
    found = _reference_rows.unpack(torch.tensor([data], dtype=torch.uint8), torch.float64)
    assert found[0].tolist() == expected


@pytest.mark.parametrize("latent_format", [LatentFormat.FP8_V4, LatentFormat.NVFP4_DS])
def test_what_is_packed_is_near(latent_format: LatentFormat) -> None:
    """Within half a step of the codes and of a scale that fits: e4m3 has steps of 1/8 of a number's power of two, or 2^-9 of the
    scale; e2m1 of 2 at most beside a largest of 6, and a scale rounded by 1/16 or 2^-10, beyond which codes saturate.
    """
    generator = torch.Generator().manual_seed(0)
    rank, turned = (448, 64) if latent_format is LatentFormat.FP8_V4 else (512, 64)
    latent = torch.randn(5, rank, generator=generator) * torch.logspace(-3, 2, rank)
    latent[1] = 0.0
    rope = torch.randn(5, turned, generator=generator)
    found = _reference_rows.unpack(_reference_rows.pack(latent, rope, latent_format), torch.float32)
    width = 64 if latent_format is LatentFormat.FP8_V4 else 16
    groups = latent.view(5, -1, width)
    largest = groups.abs().amax(2, keepdim=True)
    if latent_format is LatentFormat.FP8_V4:
        bound = groups.abs() / 16 + largest.clamp(min=1e-4) * 2 / 448 * 2.0**-10
    else:
        bound = (largest / 6) * (1 + 1 / 16) + largest / 16 + 7 * 2.0**-10
    assert bool(((found[:, :rank].view(5, -1, width) - groups).abs() <= bound).all())
    assert torch.allclose(
        found[:, rank:], rope, rtol=2**-8 if latent_format is LatentFormat.FP8_V4 else 2**-4, atol=2**-10
    )
    assert not found[1, :rank].any()


def test_scales_of_deepseek_v4_are_the_smallest_powers_of_two() -> None:
    """By the writers' rule 2^ceil(log2(max(amax, 1e-4) / 448)): a largest of 448 has 1, the next number 2, 224 has 1/2."""
    for largest, exponent in ((448.0, 127), (448.001, 128), (224.0, 126), (1e-9, 127 - 22), (7.0, 121)):
        latent = torch.zeros(1, 448)
        latent[0, 70] = largest
        row = _reference_rows.pack(latent, torch.zeros(1, 64), LatentFormat.FP8_V4)[0]
        assert row[577] == exponent and row[583] == 0
