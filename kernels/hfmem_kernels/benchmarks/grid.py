"""The rows, the most telling first: a run that is cut short has answered the questions that matter most.

Shapes and regions are those that the targets speak of (`targets`). A row's baseline is the row it is compared with: the same shape
with 16-token pages, the same lengths in bf16, one query a sequence, or uniform lengths of equal bytes.
"""

from __future__ import annotations

from dataclasses import replace

from hfmem_kernels.benchmarks.rows import Mix, Row, mixed, uniform, zipf
from hfmem_kernels.benchmarks.shapes import SOURCES, shape
from hfmem_kernels.layout import LatentFormat, Layout

K = 1024

#: 64 sequences of 262,144 tokens in all, and of one 128k prompt beside 63 of 1k
ZIPF = zipf(64, 256 * K, "zipf-64")
ONE_LONG = mixed("1x128k+63x1k", (1, 128 * K), (63, K))
WITH_ZEROS = Mix("8x32k+8x0", (32 * K, 0) * 8)


def quick_grid() -> list[Row]:
    """One row for each question, in the order of their weight."""
    llama = shape("llama-3.1-8b")
    head = Row(llama, uniform(8, 32 * K))
    equal = Row(llama, uniform(64, 4 * K))
    rows = [
        head,
        Row(llama, uniform(1, 32 * K)),
        Row(llama, uniform(1, K)),
        head.in_fp8(head.name),
        Row(llama, uniform(16, 32 * K)),
        equal,
        Row(llama, ZIPF, baseline=equal.name),
        replace(head, page_size=528, baseline=head.name),
        replace(head, q_len=4, baseline=head.name),
        Row(shape("deepseek-v3-tp8"), uniform(64, 8 * K), page_size=64),
    ]
    return rows


def core_grid() -> list[Row]:
    """Every target and every shape once."""
    llama, mla = shape("llama-3.1-8b"), shape("deepseek-v3-tp8")
    v4 = shape("deepseek-v4-flash-tp4")
    # what the indexers of DeepSeek V3.2 and V4 Flash pick of 32k: 2,048 tokens, and 512 of 8k rows that stand for four tokens each
    listed = Row(mla, uniform(64, 2 * K), page_size=64, kept=32 * K, listed=True)
    rows = quick_grid()
    head = rows[0]
    one_long = Row(llama, uniform(64, 3056))
    small = Row(llama, uniform(1, K))
    qwen2 = Row(shape("qwen2-7b"), uniform(8, 32 * K))
    rows += [
        one_long,
        Row(llama, ONE_LONG, baseline=one_long.name),
        Row(llama, WITH_ZEROS, baseline=head.name),
        Row(llama, uniform(4, 4 * K)),
        Row(shape("llama-3.1-70b-tp8"), uniform(128, 8 * K)),
        Row(shape("llama-3.1-70b-tp8"), uniform(1, 8 * K)),
        Row(shape("qwen3-30b-a3b"), uniform(32, 16 * K)),
        qwen2,
        Row(shape("llama-2-7b"), uniform(4, 8 * K)),
        Row(shape("deepseek-v3"), uniform(64, 8 * K), page_size=64),
        replace(head, page_size=672, baseline=head.name),
        replace(head, page_size=1072, baseline=head.name),
        replace(head, layout=Layout.HND, baseline=head.name),
        replace(head, layout=Layout.PACKED, baseline=head.name),
        replace(head, layout=Layout.PACKED_HND, baseline=head.name),
        replace(head, page_size=1, baseline=head.name),
        replace(head, page_size=64, baseline=head.name),
        replace(head, page_size=256, baseline=head.name),
        replace(head, layout=Layout.FLAT, baseline=head.name),
        replace(head, q_len=2, baseline=head.name),
        replace(head, q_len=8, baseline=head.name),
        replace(qwen2, q_len=2, baseline=qwen2.name),
        Row(mla, uniform(64, 8 * K), page_size=64, latent_format=LatentFormat.FP8_DS),
        replace(listed, latent_format=LatentFormat.FP8_DS),
        Row(v4, uniform(64, 8 * K), page_size=64, latent_format=LatentFormat.FP8_V4),
        Row(v4, uniform(64, 512), page_size=64, latent_format=LatentFormat.FP8_V4, kept=8 * K, listed=True),
        Row(mla, uniform(64, 8 * K), page_size=64, latent_format=LatentFormat.NVFP4_DS),
        listed,
        Row(mla, uniform(1, 8 * K), page_size=64),
        replace(head, dtype="float8_e5m2", scales="tensor", baseline=head.name),
        replace(head, dtype="float8_e4m3fn", scales="head", baseline=head.name),
        replace(head, dtype="int8", scales="token", baseline=head.name),
        replace(head, dtype="float16", baseline=head.name),
        small.in_fp8(),
        Row(shape("gemma-3-12b-window"), uniform(64, 32 * K)),
        Row(shape("gpt-oss-20b"), uniform(8, 32 * K)),
        Row(shape("gpt-oss-20b-window"), uniform(64, 32 * K)),
        Row(shape("qwen3-next"), uniform(32, 32 * K), page_size=528),
        Row(llama, uniform(256, K)),
    ]
    return rows


def full_grid() -> list[Row]:
    """The core, then every shape over batches and contexts in bf16 and e4m3; what does not fit the device is skipped there."""
    rows = core_grid()
    for name in SOURCES:
        each = shape(name)
        page = 528 if name == "qwen3-next" else 64 if each.latent else 16
        for batch in (1, 4, 16, 32, 64, 256):
            for context in (K, 4 * K, 8 * K, 16 * K, 32 * K, 64 * K, 128 * K):
                row = Row(each, uniform(batch, context), page_size=page)
                rows += [row, row.in_fp8(row.name)]
    return unique(rows)


def smoke_grid() -> list[Row]:
    """For the interpreter, which takes a minute for a thousand tokens: every branch of a run, a few dozen tokens each."""
    llama = shape("llama-3.1-70b-tp8")
    tiny = Mix("3 tiny", (40, 1, 17))
    return [
        Row(llama, tiny),
        Row(llama, tiny, page_size=1).in_fp8(),
        Row(llama, tiny, q_len=2, layout=Layout.PACKED),
        Row(shape("deepseek-v3-tp8"), Mix("2 tiny", (33, 5)), page_size=64),
        Row(
            shape("deepseek-v4-flash-tp4"),
            Mix("2 tiny", (33, 5)),
            page_size=16,
            latent_format=LatentFormat.FP8_V4,
            kept=48,
            listed=True,
        ),
    ]


def unique(rows: list[Row]) -> list[Row]:
    """Each row once, where it stands first."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(row.name, row)
    return list(found.values())


GRIDS = {"quick": quick_grid, "core": core_grid, "full": full_grid, "smoke": smoke_grid}
