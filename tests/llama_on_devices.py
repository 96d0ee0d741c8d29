"""Llama 3 8B of the shipped catalogue, in bytes worked out by hand."""

from __future__ import annotations

GIB = 1 << 30
LLAMA = "meta-llama/Meta-Llama-3-8B"
#: 8,030,261,248 parameters of 2 bytes; K and V of 8 heads × 128 in 32 layers, 2 bytes each
WEIGHTS = 2 * 8_030_261_248
TOKEN = 2 * 8 * 128 * 32 * 2
#: a page of 16 tokens
PAGE = 16 * TOKEN
