#!/usr/bin/env python3
"""Compile this project's decode kernel and other projects' for the same shapes with the same Triton, and compare the machine code.

    python scripts/compare_static.py --vllm DIR --sglang DIR --lmdeploy DIR [--family sm90] [--markdown FILE]

A DIR holds the installed or unpacked package (the folder that has `vllm/`, `sglang/` or `lmdeploy/` in it). Their own launch
functions choose their configurations; what they import beside the kernels is replaced by stand-ins, so that neither CUDA nor
their dependencies are needed, and nothing of theirs is kept. No GPU: this counts, it does not time.
"""

from __future__ import annotations

import argparse
import ast
import enum
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

os.environ["TRITON_INTERPRET"] = "0"  # read when triton is imported

import torch
import triton
import triton.language as tl

from hfmem_kernels import _kernels, _launch, compile_only
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


class _Anything:
    """Stands for whatever a peer imports and a launch never needs: false, callable, any attribute."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: object, **named: object) -> Any:
        return self

    def __bool__(self) -> bool:
        return False


class _Standin(ModuleType):
    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads the named modules of a package from `root` and makes stand-ins, with the given contents, of all its others."""

    def __init__(self, root: Path, package: str, real: Sequence[str], given: dict[str, dict[str, Any]]) -> None:
        self.root, self.package, self.real, self.given = root, package, real, given

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] != self.package:
            return None
        if fullname in self.real:
            return importlib.util.spec_from_file_location(fullname, self.root / (fullname.replace(".", "/") + ".py"))
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = _Standin(spec.name)
        module.__dict__.update(self.given.get(spec.name, {}))
        return module

    def exec_module(self, module: ModuleType) -> None:
        return None


def _enum_of(file: Path, name: str) -> Any:
    """One IntEnum class of a file, by its assignments alone."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            values = {
                s.targets[0].id: ast.literal_eval(s.value)
                for s in node.body
                if isinstance(s, ast.Assign)
                and isinstance(s.targets[0], ast.Name)
                and isinstance(s.value, ast.Constant)
            }
            return enum.IntEnum(name, values)
    raise SystemExit(f"{file}: expected a class {name}")


@contextmanager
def _recording() -> Iterator[list[tuple[str, Any, dict[str, Any]]]]:
    """While active, launches compile only; their kernels, with names and keyword arguments, are collected."""
    run = triton.runtime.JITFunction.run
    collected: list[tuple[str, Any, dict[str, Any]]] = []

    def compile_instead(self: Any, *args: Any, **named: Any) -> Any:
        self.device_caches.clear()
        kernel = run(self, *args, **(named | {"warmup": True}))
        collected.append((self.fn.__name__, kernel, named))
        return kernel

    triton.runtime.JITFunction.run = compile_instead
    try:
        yield collected
    finally:
        triton.runtime.JITFunction.run = run


def _caches(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V [pages, page, kv_heads, dim]; few pages, as only strides count."""
    dtype = getattr(torch, shape.dtype)
    k = torch.empty(4, shape.page, shape.kv_heads, shape.head_dim, dtype=dtype)
    if shape.latent:
        return k, k[..., : shape.v_head_dim]
    return k, torch.empty(4, shape.page, shape.kv_heads, shape.v_head_dim, dtype=dtype)


def _query(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    q = torch.empty(shape.batch, shape.heads, shape.head_dim, dtype=torch.bfloat16)
    return q, torch.empty(shape.batch, shape.heads, shape.v_head_dim, dtype=torch.bfloat16)


def _table(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    pages = -(-shape.context // shape.page)
    return torch.zeros(shape.batch, pages, dtype=torch.int32), torch.zeros(shape.batch, dtype=torch.int32)


def _first(collected: list[tuple[str, Any, dict[str, Any]]], tile: str, rows: str) -> Compiled:
    """The first kernel of a call, which reads the cache; the second, if there is one, only adds the parts up."""
    _, kernel, named = collected[0]
    return Compiled(read_cuda(kernel), named[tile], named.get(rows, 1))


def ours(shape: Shape, family: str) -> Compiled:
    """`paged_decode_attention` or `mla_decode_attention` as their table configures them."""
    group = shape.heads // shape.kv_heads
    k, v = _caches(shape)
    decode = DecodeShape(group, 1, shape.head_dim, shape.v_head_dim, k.element_size(), shape.latent)
    config = select_config(decode, family)
    q, out = _query(shape)
    table, lengths = _table(shape)
    pretend(family, _kernels.decode_kernel)
    kernel = _launch.launch_decode(
        q[:, None], k, v, table, lengths, cu_q=None, max_q_len=1, out=out[:, None], lse=None,
        workspace=_launch.Workspace(torch.zeros(1 << 16, dtype=torch.int32), torch.empty(1 << 25)), scale=0.1,
        window=shape.window, softcap=0.0, sinks=torch.ones(shape.heads) if shape.sinks else None, alibi_slopes=None,
        k_scale=None, v_scale=None, v_factor=1.0, kv_lora_rank=shape.v_head_dim if shape.latent else 0, config=config,
        num_sms=132, warmup=True,
    )  # fmt: skip
    return Compiled(read_cuda(kernel), config.block_n, config.block_m)


def vllm_unified(root: Path) -> Callable[[Shape, str], Compiled | None]:
    """vLLM's `unified_attention`, on its split path where the backend would take that for the shape's batch."""
    ops = "vllm.v1.attention.ops"
    modes = _enum_of(root / "vllm/v1/kv_cache_interface.py", "KVQuantMode")
    platform = _Anything()
    platform.__dict__["fp8_dtype"] = lambda: torch.float8_e4m3fn
    given = {
        "vllm.triton_utils": {"triton": triton, "tl": tl},
        "vllm.platforms": {"current_platform": platform},
        "vllm.v1.kv_cache_interface": {"KVQuantMode": modes},
    }
    real = [f"{ops}.triton_unified_attention", f"{ops}.triton_attention_helpers", f"{ops}.triton_decode_attention"]
    sys.meta_path.insert(0, _Finder(root, "vllm", real, given))
    module = importlib.import_module(real[0])

    def compile_shape(shape: Shape, family: str) -> Compiled | None:
        if shape.latent:
            return None
        k, v = _caches(shape)
        q, out = _query(shape)
        table, lengths = _table(shape)
        segments = 16
        quantized = shape.dtype != "bfloat16"
        one = torch.ones(1)
        pretend(family)
        with _recording() as collected:
            module.unified_attention(
                q, k, v, out, torch.arange(shape.batch + 1, dtype=torch.int32), 1, lengths, shape.context, 0.1, True,
                (shape.window - 1, 0) if shape.window else (-1, -1), table, 0.0, None, one if quantized else None,
                one if quantized else None, seq_threshold_3D=128 // shape.kv_heads,
                num_par_softmax_segments=segments,
                softmax_segm_output=torch.empty(shape.batch, shape.heads, segments, shape.head_dim),
                softmax_segm_max=torch.empty(shape.batch, shape.heads, segments),
                softmax_segm_expsum=torch.empty(shape.batch, shape.heads, segments),
                sinks=torch.ones(shape.heads) if shape.sinks else None,
                kv_quant_mode=modes.FP8_PER_TENSOR if quantized else modes.NONE,
            )  # fmt: skip
        return _first(collected, "TILE_SIZE", "BLOCK_M")

    return compile_shape


def vllm_decode(root: Path) -> Callable[[Shape, str], Compiled | None]:
    """vLLM's `decode_attention_fwd` (MLA, and what its other backends fall back to). After `vllm_unified`."""
    module = importlib.import_module("vllm.v1.attention.ops.triton_decode_attention")

    def compile_shape(shape: Shape, family: str) -> Compiled | None:
        if shape.window or shape.sinks:
            return None
        k, v = _caches(shape)
        q, out = _query(shape)
        table, lengths = _table(shape)
        logits = torch.empty(shape.batch, shape.heads, 4, shape.v_head_dim + 1)
        pretend(family)
        with _recording() as collected:
            module.decode_attention_fwd(
                q, k, v, out, torch.empty(shape.batch, shape.heads), table, lengths, logits, 4, 0.1, shape.page,
                is_mla=shape.latent,
            )  # fmt: skip
        return _first(collected, "BLOCK_N", "BLOCK_H")

    return compile_shape


def sglang_decode(root: Path) -> Callable[[Shape, str], Compiled | None]:
    """SGLang's `decode_attention_fwd` over its token pool."""
    ops = "sglang.kernels.ops.attention"
    real = [f"{ops}.decode_attention", f"{ops}.score_mod"]
    given = {"sglang.srt.utils": {"is_hip": lambda: False}}
    sys.meta_path.insert(0, _Finder(root, "sglang", real, given))
    module = importlib.import_module(real[0])

    def compile_shape(shape: Shape, family: str) -> Compiled | None:
        k, v = (cache.flatten(0, 1) for cache in _caches(shape))
        q, out = _query(shape)
        splits = 8
        logits = torch.empty(shape.batch, shape.heads, splits, shape.v_head_dim)
        indices = torch.zeros(shape.batch * 64, dtype=torch.int64)
        pretend(family)
        with _recording() as collected:
            module.decode_attention_fwd(
                q, k, v, out, torch.zeros(shape.batch + 1, dtype=torch.int32), indices, logits, logits[..., 0].clone(),
                torch.ones(shape.batch, dtype=torch.int32), splits, 0.1, 1.0, 1.0,
                sinks=torch.ones(shape.heads) if shape.sinks else None,
            )  # fmt: skip
        return _first(collected, "BLOCK_N", "BLOCK_H")

    return compile_shape


def lmdeploy_paged(root: Path) -> Callable[[Shape, str], Compiled | None]:
    """LMDeploy's `flash_attn_with_kvcache`; its tile is the page."""
    ops = "lmdeploy.pytorch.kernels.cuda"
    policy = _enum_of(root / "lmdeploy/messages.py", "QuantPolicy")
    facts: dict[str, Any] = {"multi_processor_count": 132, "warps_per_sm": 64, "blocks_per_sm": 32}
    given = {
        "lmdeploy.messages": {"QuantPolicy": policy},
        f"{ops}.utils": {"get_device_props": lambda device=None: facts, "is_cuda": lambda: True},
    }
    sys.meta_path.insert(0, _Finder(root, "lmdeploy", [f"{ops}.pagedattention"], given))
    module = importlib.import_module(f"{ops}.pagedattention")

    def compile_shape(shape: Shape, family: str) -> Compiled | None:
        if shape.page & (shape.page - 1):
            return None
        capability = int(family.removeprefix("sm"))
        facts["compute_capability"] = (capability // 10, capability % 10)
        shape = shape if shape.latent else replace(shape, page=64)  # the size its engine takes by default
        k, v = _caches(shape)
        q, _ = _query(shape)
        table, lengths = _table(shape)
        one = torch.ones(1)
        quantized = shape.dtype != "bfloat16"
        pretend(family)
        with _recording() as collected:
            module.flash_attn_with_kvcache(
                q, k, v, lengths, table, softmax_scale=0.1, window_size=shape.window or None,
                sinks=torch.ones(shape.heads) if shape.sinks else None,
                k_scales_zeros=one if quantized else None, v_scales_zeros=one if quantized else None,
                quant_policy=policy.FP8 if quantized else policy.NONE,
            )  # fmt: skip
        return _first(collected, "BLOCK_N", "BLOCK_H")

    return compile_shape


def version_of(root: Path, package: str) -> str:
    """From the package's dist-info beside it, or "?"."""
    for folder in root.glob(f"{package}-*.dist-info"):
        return folder.name.removeprefix(f"{package}-").removesuffix(".dist-info")
    return "?"


HEADER = (
    "| shape | kernel | tile | warps | registers | spills | shared KiB | programs an SM | in flight KiB | "
    "instructions a token | loads waited for | barriers | narrow copies |\n|---|---|" + "---:|" * 11
)


def line_of(row: Row) -> str:
    """One row of the Markdown table."""
    r = row.compiled.report
    cells = (
        row.shape.name, row.kernel, row.compiled.tile, r.num_warps, r.registers, r.spills, f"{r.shared_bytes / 1024:.0f}",
        row.programs, f"{row.bytes_in_flight / 1024:.0f}", f"{row.instructions_a_token:.1f}", r.loop_loads,
        r.loop_barriers, r.loop_narrow_copies,
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def main(argv: Sequence[str] | None = None) -> None:
    """Compile, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for package in ("vllm", "sglang", "lmdeploy"):
        parser.add_argument(f"--{package}", type=Path, help=f"folder that holds {package}/")
    parser.add_argument("--family", action="append", choices=sorted(compile_only.MULTIPROCESSORS), help="default: sm90")
    parser.add_argument("--shape", help="a regular expression: only the shapes whose name it finds")
    parser.add_argument("--markdown", type=Path, help="write the tables there too")
    options = parser.parse_args(argv)

    kernels: dict[str, Callable[[Shape, str], Compiled | None]] = {"hfmem": ours}
    if options.vllm:
        version = version_of(options.vllm, "vllm")
        kernels[f"vLLM {version} unified"] = vllm_unified(options.vllm)
        kernels[f"vLLM {version} decode"] = vllm_decode(options.vllm)
    if options.sglang:
        kernels[f"SGLang {version_of(options.sglang, 'sglang')}"] = sglang_decode(options.sglang)
    if options.lmdeploy:
        kernels[f"LMDeploy {version_of(options.lmdeploy, 'lmdeploy')}"] = lmdeploy_paged(options.lmdeploy)

    lines = []
    for family in options.family or ["sm90"]:
        lines += ["", f"{family}, triton {triton.__version__}", "", HEADER]
        for shape in SHAPES:
            if options.shape and not re.search(options.shape, shape.name):
                continue
            for name, compile_shape in kernels.items():
                try:
                    compiled = compile_shape(shape, family)
                except Exception as error:  # a peer that this Triton cannot compile is a row that says so
                    reason = str(error).strip().splitlines() or [""]
                    lines.append(f"| {shape.name} | {name} | {type(error).__name__}: {reason[-1][:80]} |" + " |" * 10)
                    continue
                if compiled is not None:
                    lines.append(line_of(Row(name, compiled, shape, family)))
                    print(lines[-1], file=sys.stderr, flush=True)
    text = "\n".join(lines).strip() + "\n"
    print(text)
    if options.markdown:
        options.markdown.write_text(text)


if __name__ == "__main__":
    main()
