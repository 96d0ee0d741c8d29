"""Decode kernels in machine code, side by side: the shapes of a comparison, this project's kernel, a table. Nothing is timed.

Needs a process in which Triton compiles, as `hfmem_kernels.compile_only` does; `scripts/compare_static.py` is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from hfmem_kernels import _kernels, _kernels_index, _launch
from hfmem_kernels._heuristics import DecodeShape, family_of, index_config, select_config
from hfmem_kernels._launch_index import launch_index
from hfmem_kernels.compile_only import TARGETS, CudaReport, pretend, read_cuda
from hfmem_kernels.layout import (
    CacheSpec,
    LatentFormat,
    Layout,
    allocate,
    allocate_index,
    allocate_latent,
    index_row_bytes,
    latent_row_bytes,
    row_bytes,
)


@dataclass(frozen=True, slots=True)
class Shape:
    """One layer's decode call. `latent`: an MLA cache of head_dim columns whose first v_head_dim are the values; of dtype uint8:
    rows that carry their scales, in the format `rows`; `listed`: read by lists of slots. `token_scales`: rows
    [K | scale | V | scale] of each token and head. `index`: an indexer's keys in e4m3 with a scale, no values.
    """

    name: str
    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    page: int = 16
    dtype: str = "bfloat16"
    window: int = 0
    sinks: bool = False
    latent: bool = False
    token_scales: bool = False
    rows: LatentFormat = LatentFormat.FP8_DS
    listed: bool = False
    index: bool = False
    batch: int = 8
    context: int = 32768

    @property
    def packed_latent(self) -> bool:
        """Rows that carry their scales."""
        return self.latent and self.dtype == "uint8"

    @property
    def spec(self) -> CacheSpec:
        """The cache, where it is none of latents."""
        return CacheSpec(
            self.kv_heads, self.head_dim, self.v_head_dim, self.page, self.dtype,
            Layout.PACKED if self.token_scales else Layout.NHD, self.token_scales,
        )  # fmt: skip

    @property
    def token_bytes(self) -> int:
        """What is read for one token of one KV head, scales included."""
        if self.index:
            return index_row_bytes(self.head_dim)
        if not self.latent:
            return row_bytes(self.spec)
        if self.packed_latent:
            return latent_row_bytes(*self.rows.columns, "", self.rows)
        return latent_row_bytes(self.v_head_dim, self.head_dim - self.v_head_dim, self.dtype, LatentFormat.PLAIN)


SHAPES = (
    Shape("Llama-3.1-8B", 32, 8, 128, 128),
    Shape("Llama-3.1-8B, page 64", 32, 8, 128, 128, page=64),
    Shape("Llama-3.1-8B, e4m3", 32, 8, 128, 128, dtype="float8_e4m3fn"),
    Shape("Llama-3.1-8B, e4m3, a scale a token", 32, 8, 128, 128, dtype="float8_e4m3fn", token_scales=True),
    Shape("Llama-3.1-8B, int8, a scale a token", 32, 8, 128, 128, dtype="int8", token_scales=True),
    Shape("Llama-3.1-70B, TP 8", 8, 1, 128, 128),
    Shape("Qwen3-30B-A3B", 32, 4, 128, 128),
    Shape("Llama-2-7B", 32, 32, 128, 128),
    Shape("Gemma 3, window 1024", 16, 8, 256, 256, window=1024),
    Shape("gpt-oss, window 128", 64, 8, 64, 64, window=128, sinks=True),
    Shape("hybrid, page 528", 16, 2, 256, 256, page=528),
    Shape("MLA, 16 heads", 16, 1, 576, 512, page=64, latent=True),
    Shape("MLA, 128 heads", 128, 1, 576, 512, page=64, latent=True),
    Shape("MLA, 16 heads, e4m3", 16, 1, 576, 512, page=64, latent=True, dtype="float8_e4m3fn"),
    Shape("MLA, 16 heads, 656 bytes", 16, 1, 576, 512, page=64, latent=True, dtype="uint8"),
    Shape("MLA, 128 heads, 656 bytes", 128, 1, 576, 512, page=64, latent=True, dtype="uint8"),
    Shape(
        "DeepSeek V4, 16 heads, 584 bytes",
        16,
        1,
        512,
        512,
        page=64,
        latent=True,
        dtype="uint8",
        rows=LatentFormat.FP8_V4,
    ),
    Shape("MLA, 16 heads, 352 bytes", 16, 1, 576, 512, page=64, latent=True, dtype="uint8", rows=LatentFormat.NVFP4_DS),
    Shape("MLA, 16 heads, 656 bytes, listed", 16, 1, 576, 512, page=64, latent=True, dtype="uint8", listed=True),
    Shape(
        "DeepSeek V4, 16 heads, 584 bytes, listed",
        16,
        1,
        512,
        512,
        page=64,
        latent=True,
        dtype="uint8",
        rows=LatentFormat.FP8_V4,
        listed=True,
    ),
    Shape("DeepSeek V3.2, index keys, 64 heads", 64, 1, 128, 0, page=64, dtype="uint8", index=True),
)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A kernel as its launcher would have started it. query_rows: that one pass over the keys serves."""

    report: CudaReport
    tile: int
    query_rows: int


@dataclass(frozen=True, slots=True)
class Row:
    """What the table says of one kernel."""

    kernel: str
    compiled: Compiled
    shape: Shape
    family: str

    @property
    def programs(self) -> int:
        """On one multiprocessor."""
        return self.compiled.report.occupancy(self.family)

    @property
    def tile_bytes(self) -> int:
        return self.compiled.tile * self.shape.token_bytes

    @property
    def bytes_in_flight(self) -> int:
        """Of a multiprocessor while its programs work on a tile each: the tiles waited for, and the one asked for meanwhile."""
        report = self.compiled.report
        if not report.wide_copies + report.narrow_copies:
            return 0
        return int((report.copy_depth + 1) * self.tile_bytes) * self.programs

    @property
    def instructions_a_token(self) -> float:
        """Warp instructions of the loop for a token of a KV head, all passes that its query heads take."""
        group = self.shape.heads // self.shape.kv_heads
        passes = -(-group // self.compiled.query_rows)
        return self.compiled.report.loop_instructions * self.compiled.report.num_warps * passes / self.compiled.tile


class Caches(NamedTuple):
    """K and V [pages, page, kv_heads, dim], and with scales a token those [pages, page, kv_heads]."""

    k: torch.Tensor
    v: torch.Tensor
    k_scale: torch.Tensor | None = None
    v_scale: torch.Tensor | None = None


def caches(shape: Shape) -> Caches:
    """Few pages, as only strides count."""
    if shape.index:
        keys = allocate_index(4, shape.page, shape.head_dim, "cpu", unit=1)
        return Caches(keys, keys)
    if shape.latent:
        kind = shape.rows if shape.packed_latent else LatentFormat.PLAIN
        columns = kind.columns if shape.packed_latent else (shape.v_head_dim, shape.head_dim - shape.v_head_dim)
        k = allocate_latent(4, shape.page, *columns, shape.dtype, kind, "cpu")[:, :, None]
        return Caches(k, k[..., : shape.v_head_dim])
    made = allocate(shape.spec, 4, "cpu")
    return Caches(made.k, made.v, made.k_scale, made.v_scale)


def query(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    q = torch.empty(shape.batch, shape.heads, shape.head_dim, dtype=torch.bfloat16)
    return q, torch.empty(shape.batch, shape.heads, shape.v_head_dim, dtype=torch.bfloat16)


def page_table(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    pages = -(-shape.context // shape.page)
    return torch.zeros(shape.batch, pages, dtype=torch.int32), torch.zeros(shape.batch, dtype=torch.int32)


def ours(shape: Shape, target: str) -> Compiled:
    """The op that reads such a cache, as its table configures it."""
    return _scores(shape, target) if shape.index else _decode(shape, target)


def _scores(shape: Shape, target: str) -> Compiled:
    config = index_config(family_of(divmod(TARGETS[target].arch, 10)), narrow=True)
    q, _ = query(shape)
    pages, lengths = page_table(shape)
    pretend(target, _kernels_index.index_kernel)
    kernel = launch_index(
        q[:, None].to(torch.float8_e4m3fn), caches(shape).k, torch.empty(shape.batch, 1, shape.heads), pages, lengths,
        torch.empty(shape.batch, 1, shape.context), config=config, num_sms=132, warmup=True,
    )  # fmt: skip
    return Compiled(read_cuda(kernel), config.block_n, shape.heads)


def _decode(shape: Shape, target: str) -> Compiled:
    made = caches(shape)
    decode = DecodeShape(
        shape.heads // shape.kv_heads, 1, shape.head_dim, shape.v_head_dim, made.k.element_size(), shape.latent,
        shape.token_bytes if shape.packed_latent else 0, shape.token_scales, shape.listed,
    )  # fmt: skip
    config = select_config(decode, family_of(divmod(TARGETS[target].arch, 10)), triton=_launch.triton_version())
    q, out = query(shape)
    pages, lengths = page_table(shape)
    pretend(target, _kernels.decode_kernel)
    kernel = _launch.launch_decode(
        q[:, None], made.k, made.v, pages, lengths, cu_q=None, max_q_len=1, out=out[:, None], lse=None,
        workspace=_launch.Workspace(torch.zeros(1 << 16, dtype=torch.int32), torch.empty(1 << 25)), scale=0.1,
        window=shape.window, softcap=0.0, sinks=torch.ones(shape.heads) if shape.sinks else None, alibi_slopes=None,
        k_scale=made.k_scale, v_scale=made.v_scale, v_factor=1.0, kv_lora_rank=shape.v_head_dim if shape.latent else 0,
        config=config, num_sms=132, by_slot=shape.listed, warmup=True,
    )  # fmt: skip
    return Compiled(read_cuda(kernel), config.block_n, config.block_m)
