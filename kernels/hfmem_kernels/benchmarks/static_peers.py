"""Other projects' Triton decode kernels, compiled without their dependencies and without a GPU.

Their own launch functions choose their configurations; what they import beside the kernels is replaced by stand-ins. The files
come from a folder that the caller names and nothing of them is kept.
"""

from __future__ import annotations

import ast
import enum
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
import triton.language as tl

from hfmem_kernels.benchmarks.static import Compiled, Shape, caches, page_table, query
from hfmem_kernels.compile_only import pretend, read_cuda


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
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []  # a package, so that its modules are asked for too

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


def _first(collected: list[tuple[str, Any, dict[str, Any]]], tile: str, rows: str) -> Compiled:
    """The first kernel of a call, which reads the cache; the second, if there is one, only adds the parts up."""
    _, kernel, named = collected[0]
    return Compiled(read_cuda(kernel), named[tile], named.get(rows, 1))


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
        k, v, k_scale, v_scale = caches(shape)
        q, out = query(shape)
        pages, lengths = page_table(shape)
        segments = 16
        mode = {"bfloat16": "NONE", "float8_e4m3fn": "FP8_PER_TENSOR", "int8": "INT8_PER_TENSOR"}[shape.dtype]
        if shape.token_scales:
            mode = mode.replace("TENSOR", "TOKEN_HEAD")
        one = torch.ones(1) if mode == "FP8_PER_TENSOR" else None
        pretend(family)
        with _recording() as collected:
            module.unified_attention(
                q, k, v, out, torch.arange(shape.batch + 1, dtype=torch.int32), 1, lengths, shape.context, 0.1, True,
                (shape.window - 1, 0) if shape.window else (-1, -1), pages, 0.0, None, one, one,
                seq_threshold_3D=128 // shape.kv_heads,
                num_par_softmax_segments=segments,
                softmax_segm_output=torch.empty(shape.batch, shape.heads, segments, shape.head_dim),
                softmax_segm_max=torch.empty(shape.batch, shape.heads, segments),
                softmax_segm_expsum=torch.empty(shape.batch, shape.heads, segments),
                sinks=torch.ones(shape.heads) if shape.sinks else None,
                kv_quant_mode=modes[mode], k_scale_cache=k_scale, v_scale_cache=v_scale,
            )  # fmt: skip
        return _first(collected, "TILE_SIZE", "BLOCK_M")

    return compile_shape


def vllm_decode(root: Path) -> Callable[[Shape, str], Compiled | None]:
    """vLLM's `decode_attention_fwd` (MLA, and what its other backends fall back to). After `vllm_unified`."""
    module = importlib.import_module("vllm.v1.attention.ops.triton_decode_attention")

    def compile_shape(shape: Shape, family: str) -> Compiled | None:
        if shape.window or shape.sinks or shape.token_scales or shape.packed_latent:
            return None
        k, v, _, _ = caches(shape)
        q, out = query(shape)
        pages, lengths = page_table(shape)
        logits = torch.empty(shape.batch, shape.heads, 4, shape.v_head_dim + 1)
        pretend(family)
        with _recording() as collected:
            module.decode_attention_fwd(
                q, k, v, out, torch.empty(shape.batch, shape.heads), pages, lengths, logits, 4, 0.1, shape.page,
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
        if shape.token_scales or shape.packed_latent:
            return None
        k, v = (cache.flatten(0, 1) for cache in caches(shape)[:2])
        q, out = query(shape)
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
        if shape.page & (shape.page - 1) or shape.packed_latent or (shape.token_scales and shape.dtype != "int8"):
            return None
        capability = int(family.removeprefix("sm"))
        facts["compute_capability"] = (capability // 10, capability % 10)
        shape = shape if shape.latent else replace(shape, page=64)  # the size its engine takes by default
        k, v, _, _ = caches(replace(shape, token_scales=False))
        scale = None
        kind = policy.NONE
        if (
            shape.token_scales
        ):  # its codes are unsigned, and scale and zero lie in a tensor of their own, of the model's type
            k, v = k.view(torch.uint8), v.view(torch.uint8)
            scale, kind = torch.ones(*k.shape[:3], 2, dtype=torch.bfloat16), policy.INT8
        elif shape.dtype != "bfloat16":
            scale, kind = torch.ones(1), policy.FP8
        q, _ = query(shape)
        pages, lengths = page_table(shape)
        pretend(family)
        with _recording() as collected:
            module.flash_attn_with_kvcache(
                q, k, v, lengths, pages, softmax_scale=0.1, window_size=shape.window or None,
                sinks=torch.ones(shape.heads) if shape.sinks else None,
                k_scales_zeros=scale, v_scales_zeros=scale, quant_policy=kind,
            )  # fmt: skip
        return _first(collected, "BLOCK_N", "BLOCK_H")

    return compile_shape


def version_of(root: Path, package: str) -> str:
    """From the package's dist-info beside it or its version file, else "?"."""
    for folder in root.glob(f"{package}-*.dist-info"):
        return folder.name.removeprefix(f"{package}-").removesuffix(".dist-info")
    file = root / package / "version.py"
    found = re.search(r"__version__ = ['\"]([^'\"]+)", file.read_text()) if file.exists() else None
    return found[1] if found else "?"


#: package → its kernels' names in the table and what makes their compilers; where it is not given, the names stand alone
PEERS: dict[str, dict[str, Callable[[Path], Callable[[Shape, str], Compiled | None]]]] = {
    "vllm": {"vLLM unified": vllm_unified, "vLLM decode": vllm_decode},
    "sglang": {"SGLang": sglang_decode},
    "lmdeploy": {"LMDeploy": lmdeploy_paged},
}
