"""Decode kernels in machine code, side by side: the shapes of a comparison, this project's kernel, a table. Nothing is timed.

Needs a process in which Triton compiles, as `hfmem_kernels.compile_only` does; `scripts/compare_static.py` is one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hfmem_kernels import _kernels, _launch
from hfmem_kernels._heuristics import DecodeShape, select_config
from hfmem_kernels.compile_only import CudaReport, pretend, read_cuda


@dataclass(frozen=True, slots=True)
class Shape:
    """One layer's decode call. `latent`: an MLA cache of head_dim columns whose first v_head_dim are the values."""

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
    batch: int = 8
    context: int = 32768


SHAPES = (
    Shape("Llama-3.1-8B", 32, 8, 128, 128),
    Shape("Llama-3.1-8B, page 64", 32, 8, 128, 128, page=64),
    Shape("Llama-3.1-8B, e4m3", 32, 8, 128, 128, dtype="float8_e4m3fn"),
    Shape("Llama-3.1-70B, TP 8", 8, 1, 128, 128),
    Shape("Qwen3-30B-A3B", 32, 4, 128, 128),
    Shape("Llama-2-7B", 32, 32, 128, 128),
    Shape("Gemma 3, window 1024", 16, 8, 256, 256, window=1024),
    Shape("gpt-oss, window 128", 64, 8, 64, 64, window=128, sinks=True),
    Shape("hybrid, page 528", 16, 2, 256, 256, page=528),
    Shape("MLA, 16 heads", 16, 1, 576, 512, page=64, latent=True),
    Shape("MLA, 128 heads", 128, 1, 576, 512, page=64, latent=True),
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
        columns = self.shape.head_dim + (0 if self.shape.latent else self.shape.v_head_dim)
        return self.compiled.tile * columns * int(getattr(torch, self.shape.dtype).itemsize)

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


def caches(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V [pages, page, kv_heads, dim]; few pages, as only strides count."""
    dtype = getattr(torch, shape.dtype)
    k = torch.empty(4, shape.page, shape.kv_heads, shape.head_dim, dtype=dtype)
    if shape.latent:
        return k, k[..., : shape.v_head_dim]
    return k, torch.empty(4, shape.page, shape.kv_heads, shape.v_head_dim, dtype=dtype)


def query(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    q = torch.empty(shape.batch, shape.heads, shape.head_dim, dtype=torch.bfloat16)
    return q, torch.empty(shape.batch, shape.heads, shape.v_head_dim, dtype=torch.bfloat16)


def page_table(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    pages = -(-shape.context // shape.page)
    return torch.zeros(shape.batch, pages, dtype=torch.int32), torch.zeros(shape.batch, dtype=torch.int32)


def ours(shape: Shape, family: str) -> Compiled:
    """`paged_decode_attention` or `mla_decode_attention` as their table configures them."""
    group = shape.heads // shape.kv_heads
    k, v = caches(shape)
    decode = DecodeShape(group, 1, shape.head_dim, shape.v_head_dim, k.element_size(), shape.latent)
    config = select_config(decode, family, triton=_launch.triton_version())
    q, out = query(shape)
    pages, lengths = page_table(shape)
    pretend(family, _kernels.decode_kernel)
    kernel = _launch.launch_decode(
        q[:, None], k, v, pages, lengths, cu_q=None, max_q_len=1, out=out[:, None], lse=None,
        workspace=_launch.Workspace(torch.zeros(1 << 16, dtype=torch.int32), torch.empty(1 << 25)), scale=0.1,
        window=shape.window, softcap=0.0, sinks=torch.ones(shape.heads) if shape.sinks else None, alibi_slopes=None,
        k_scale=None, v_scale=None, v_factor=1.0, kv_lora_rank=shape.v_head_dim if shape.latent else 0, config=config,
        num_sms=132, warmup=True,
    )  # fmt: skip
    return Compiled(read_cuda(kernel), config.block_n, config.block_m)
