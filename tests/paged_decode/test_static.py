"""The static comparison's arithmetic, by hand, and what it says of peers that are not there."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from hfmem_kernels.benchmarks.static import SHAPES, Compiled, Row, Shape, caches
from hfmem_kernels.benchmarks.static_peers import version_of
from hfmem_kernels.compile_only import CudaReport

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare_static.py"
LLAMA = SHAPES[0]
REPORT = CudaReport(
    registers=168, stack_bytes=0, spills=0, shared_bytes=50 * 1024, num_warps=4, wide_copies=16, narrow_copies=0, byte_loads=0,
    tensor_instructions=8, loop_instructions=320, loop_loads=1, loop_barriers=2, loop_narrow_copies=0, copy_depth=2.0,
)  # fmt: skip


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; the compiling mode that it asks Triton for ends with the test."""
    monkeypatch.setenv("TRITON_INTERPRET", os.environ.get("TRITON_INTERPRET", "0"))
    spec = importlib.util.spec_from_file_location("compare_static", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "compare_static", module)
    spec.loader.exec_module(module)
    return module


def test_occupancy_by_registers_and_by_shared_memory() -> None:
    """168 · 32 = 5,376 registers a warp, 12 warps of the 65,536; 51 KiB four times in 228; 100 KiB hold one program of 51 KiB."""
    assert REPORT.occupancy("sm90") == 3
    assert replace(REPORT, registers=128).occupancy("sm90") == 4
    assert REPORT.occupancy("sm120") == 1
    assert replace(REPORT, registers=32, shared_bytes=0).occupancy("sm80") == 16  # 64 warps


def test_bytes_in_flight() -> None:
    """Two tiles behind the one at work and the one asked for: (2 + 1) · 64 · 256 · 2 bytes, three programs."""
    row = Row("hfmem", Compiled(REPORT, 64, 16), LLAMA, "sm90")
    assert row.bytes_in_flight == 3 * 64 * 256 * 2 * 3
    assert replace(row, compiled=Compiled(replace(REPORT, wide_copies=0), 64, 16)).bytes_in_flight == 0


def test_bytes_of_a_token() -> None:
    """K and V of 128 bytes with an fp32 scale each; 512 codes, four fp32 scales and 64 bf16 columns; 576 bf16 columns."""
    sizes = {shape.name: shape.token_bytes for shape in SHAPES}
    assert sizes["Llama-3.1-8B, int8, a scale a token"] == sizes["Llama-3.1-8B, e4m3, a scale a token"] == 264
    assert sizes["MLA, 16 heads, 656 bytes"] == sizes["MLA, 128 heads, 656 bytes"] == 656
    assert sizes["MLA, 16 heads"] == 1152 and sizes["MLA, 16 heads, e4m3"] == 576


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_caches_are_of_the_bytes_that_are_counted(shape: Shape) -> None:
    """Four pages, each byte of them in one row."""
    made = caches(shape)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in made if t is not None}
    # DeepSeek V4's pages of 64 tokens are 65 times 576 bytes, 64 · 584 and what is missing to a multiple
    page = 65 * 576 if shape.token_bytes == 584 else shape.page * shape.kv_heads * shape.token_bytes
    assert sum(storages.values()) == 4 * page


def test_instructions_count_every_pass() -> None:
    """320 · 4 warps for 64 tokens are 20; a block of 2 rows needs two passes for a group of 4."""
    assert Row("hfmem", Compiled(REPORT, 64, 16), LLAMA, "sm90").instructions_a_token == 20
    assert Row("peer", Compiled(REPORT, 64, 2), LLAMA, "sm90").instructions_a_token == 40


def test_missing_peers_are_rows_that_say_so(script: ModuleType, tmp_path: Path) -> None:
    kernels = script.found({"vllm": None, "sglang": tmp_path, "lmdeploy": None})
    lines = {name: script.line_of(LLAMA, name, kernel, "sm90") for name, kernel in kernels.items() if name != "hfmem"}
    assert set(lines) == {"vLLM unified", "vLLM decode", "SGLang", "LMDeploy"}
    assert lines["vLLM decode"].startswith("| Llama-3.1-8B | vLLM decode | not given (--vllm) |")
    assert "no folder sglang/ where --sglang says" in lines["SGLang"]
    assert {line.count("|") for line in lines.values()} == {script.HEADER.splitlines()[0].count("|")}


def test_what_does_not_compile_is_a_row_with_the_reason(script: ModuleType) -> None:
    def broken(shape: object, family: str) -> None:
        raise RuntimeError("first line\nno such instruction | on this device")

    line = script.line_of(LLAMA, "peer", broken, "sm80")
    assert line.startswith("| Llama-3.1-8B | peer | RuntimeError: no such instruction / on this device |")
    assert script.line_of(LLAMA, "peer", lambda shape, family: None, "sm80") is None


def test_versions(tmp_path: Path) -> None:
    (tmp_path / "vllm-0.33.0.dist-info").mkdir()
    (tmp_path / "lmdeploy").mkdir()
    (tmp_path / "lmdeploy" / "version.py").write_text("__version__ = '0.18.0'\n")
    assert (version_of(tmp_path, "vllm"), version_of(tmp_path, "lmdeploy")) == ("0.33.0", "0.18.0")
    assert version_of(tmp_path, "sglang") == "?"
