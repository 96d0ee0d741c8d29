"""What the compilers make of every launch configuration: spills, registers, shared memory, how memory is read. No GPU needed.

`compile_worker.py` compiles (about two seconds a kernel, cached on disk by Triton); two of them share the jobs.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import hfmem_kernels
from hfmem_kernels import _launch
from hfmem_kernels._heuristics import (
    SHARED_BYTES,
    DecodeShape,
    LaunchConfig,
    config_of,
    index_config,
    select_config,
    table_entries,
)

WORKER = Path(__file__).with_name("compile_worker.py")
#: one tensor-core row block is 16; every program also needs about 1 KiB of shared memory for the system
SYSTEM_SHARED = 1024
#: the rows for this Triton are held to the promises; others were compiled by hand (kernels/results/NOTES.md)
TRITON = _launch.triton_version()


def table_jobs() -> dict[str, dict[str, Any]]:
    """Rows of every family's table, with the widest head a row is for and as many query rows as it is for.

    sm90's rows for 16 query rows or heads of 128 and the commonest of the others; with HFMEM_COMPILE_ALL every row there is,
    which takes four times as long. Devices of one family that decode 8-bit elements in two ways, sm86 and sm89, are two targets.
    """
    everything = bool(os.environ.get("HFMEM_COMPILE_ALL"))
    jobs = {}
    for target in ("sm80", "sm89", "sm90", "sm100", "sm120", "gfx942") + ("sm86",) * everything:
        family = "sm86" if target == "sm89" else target
        for dtype, size in (("bfloat16", 2), ("float8_e4m3fn", 1)):
            for entry in table_entries(family, size, latent=False, triton=TRITON):
                usual = entry.rows == 16 and entry.columns == 256
                if everything or usual or (family == "sm90" and (entry.rows == 16 or entry.columns == 256)):
                    shape = {"dim": entry.columns // 2, "kv_heads": 2, "heads": 2 * entry.rows}
                    name = f"{target}-{dtype}-{entry.rows}x{entry.columns}"
                    jobs[name] = {
                        "target": target,
                        "family": family,
                        "dtype": dtype,
                        "config": asdict(config_of(entry, TRITON)),
                        "shape": shape,
                    }
        for dtype, size in (("bfloat16", 2), ("float8_e4m3fn", 1), ("uint8", 656), ("uint8", 584), ("uint8", 352)):
            packed = size if dtype == "uint8" else 0
            for entry in table_entries(family, size, latent=True, packed=packed, triton=TRITON):
                usual = entry.rows == 16 and dtype != "float8_e4m3fn" and target != "sm89"  # whose rows are sm120's
                if everything or usual or family == "sm90":
                    columns = 512 if packed == 584 else 576
                    shape = {"dim": columns, "lora": 512, "heads": entry.rows, "page": 64, "row": packed}
                    name = f"{target}-latent_{dtype}{packed or ''}-{entry.rows}"
                    jobs[name] = {
                        "target": target,
                        "family": family,
                        "dtype": dtype,
                        "config": asdict(config_of(entry, TRITON)),
                        "shape": shape,
                    }
    return jobs


EVERYTHING = {"window": 128, "softcap": 30.0, "sinks": True, "alibi": True, "varlen": True}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("bfloat16", {}),
    "page_1": ("bfloat16", {"page": 1}),
    "page_528": ("bfloat16", {"page": 528}),
    "page_672": ("bfloat16", {"page": 672}),
    "hnd": ("bfloat16", {"layout": "hnd"}),
    "packed": ("bfloat16", {"layout": "packed"}),
    "q_len_4": ("bfloat16", {"q_len": 4}),
    "group_7": ("bfloat16", {"heads": 28, "kv_heads": 4}),
    "everything": ("bfloat16", EVERYTHING),
    "more_than_32_bits": ("bfloat16", {"pages": 1 << 17, "page": 528}),  # · 8 · 128 elements: 2^33 units of 16 bytes
    "fp8": ("float8_e4m3fn", {}),
    "fp8_everything": ("float8_e4m3fn", EVERYTHING | {"scale": "head"}),
    "e5m2": ("float8_e5m2", {"scale": "head"}),
    "int8_token": ("int8", {"scale": "token"}),
    "int8_token_packed": ("int8", {"layout": "packed", "scale": "token"}),
    "fp8_token_packed": ("float8_e4m3fn", {"layout": "packed", "scale": "token"}),
}
#: lists of slots in pages of 64; rows by their bytes, as far as they carry their scales
LISTED: dict[str, tuple[str, int]] = {
    "bf16": ("bfloat16", 0),
    "656": ("uint8", 656),
    "584": ("uint8", 584),
    "352": ("uint8", 352),
}
#: DeepSeek V4's rows that stand for 128 tokens, two to a page
LISTED_PAGES = {"584_page_2": ("uint8", 584, 2), "bf16_page_2": ("bfloat16", 0, 2)}


def variant_jobs() -> dict[str, dict[str, Any]]:
    """The configuration of 16 rows and heads of 128, with layouts, page sizes and features that the tables do not name."""
    jobs = {}
    for name, (dtype, shape) in VARIANTS.items():
        decode = DecodeShape(
            shape.get("heads", 32) // shape.get("kv_heads", 8), 1, 128, 128, getattr(torch, dtype).itemsize,
            token_scales=shape.get("scale") == "token",
        )  # fmt: skip
        config = asdict(select_config(decode, "sm90", triton=TRITON))
        jobs[name] = {"target": "sm90", "dtype": dtype, "config": config, "shape": shape}
    listed = {name: (dtype, row, 64) for name, (dtype, row) in LISTED.items()} | LISTED_PAGES
    for name, (dtype, row, page) in listed.items():
        columns = 512 if row == 584 or page == 2 else 576
        decode = DecodeShape(16, 1, columns, 512, getattr(torch, dtype).itemsize, True, row, listed=True)
        config = asdict(select_config(decode, "sm90", triton=TRITON))
        shape = {
            "dim": columns,
            "lora": 512,
            "heads": 16,
            "kv_heads": 1,
            "page": page,
            "row": row,
            "slots": True,
            "sinks": True,
        }
        jobs[f"slots_{name}"] = {"target": "sm90", "dtype": dtype, "config": config, "shape": shape}
    return jobs


def index_jobs() -> dict[str, dict[str, Any]]:
    """An indexer's scores: DeepSeek's 64 heads in e4m3 on every target; of sm80 and sm90 the other types, too."""
    jobs = {}
    for target in ("sm80", "sm89", "sm90", "sm100", "sm120", "gfx942"):
        family = "sm86" if target == "sm89" else target
        kinds: list[tuple[str, str, dict[str, Any]]] = [("e4m3", "float8_e4m3fn", {})]
        if target in ("sm80", "sm90"):
            kinds += [("bf16_over_e4m3", "bfloat16", {}), ("bf16", "bfloat16", {"packed": False})]
            kinds += [("two_queries_page_2", "float8_e4m3fn", {"queries": 2, "page": 2, "heads": 32})]
        for kind, dtype, shape in kinds:
            config = asdict(index_config(family, narrow=dtype == "float8_e4m3fn"))
            jobs[f"{target}-index_{kind}"] = {
                "target": target, "family": family, "dtype": dtype, "config": config, "shape": shape, "index": True,
            }  # fmt: skip
    return jobs


TABLE, OTHERS, INDEX = table_jobs(), variant_jobs(), index_jobs()


def _run(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    package = str(Path(hfmem_kernels.__file__).parents[1])
    paths = os.pathsep.join(p for p in (package, os.environ.get("PYTHONPATH")) if p)
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, str(WORKER)],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    reports: list[dict[str, Any]] = json.loads(done.stdout)
    return reports


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every job's report, by name. Under pytest-xdist one worker compiles and the others wait for its file."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    result, claim = shared / "compiled.json", shared / "compiling"
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        deadline = time.monotonic() + 1800
        while not result.exists():
            assert time.monotonic() < deadline, "the worker that compiles has not finished"
            time.sleep(0.5)
    else:
        partial = shared / "compiled.partial"
        reports: dict[str, dict[str, Any]] = {}
        try:
            reports = _compile_all()
        finally:  # an empty file lets the others fail at once instead of waiting
            partial.write_text(json.dumps(reports))
            partial.rename(result)
    loaded: dict[str, dict[str, Any]] = json.loads(result.read_text())
    return loaded


def _compile_all() -> dict[str, dict[str, Any]]:
    jobs = TABLE | OTHERS | INDEX
    names = sorted(jobs, key=lambda n: (n[::-1], n))  # mixed, so that both halves take about as long
    halves = [names[::2], names[1::2]]
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda half: _run([jobs[n] for n in half]), halves)
        return {n: r for half, result in zip(halves, results, strict=True) for n, r in zip(half, result, strict=True)}


@pytest.mark.parametrize("name", TABLE | INDEX)
def test_table_row_fits_the_device(name: str, reports: dict[str, dict[str, Any]]) -> None:
    """No spills; the register cap holds; the programs that the row wants on a multiprocessor share its memory."""
    report, job = reports[name], (TABLE | INDEX)[name]
    assert "error" not in report, report
    config = LaunchConfig(**job["config"])
    assert report["spills"] == 0 and report.get("stack_bytes", 0) == 0, report
    shared = config.ctas_per_sm * (report["shared_bytes"] + SYSTEM_SHARED)
    assert shared <= SHARED_BYTES[job["family"]] + (SYSTEM_SHARED if job["target"].startswith("gfx") else 0), report
    if not job["target"].startswith("gfx"):
        assert report["registers"] <= config.max_registers, report


@pytest.mark.parametrize("name", TABLE | INDEX)
def test_table_row_reads_16_bytes_at_once(name: str, reports: dict[str, dict[str, Any]]) -> None:
    """K and V arrive by 16-byte copies, never byte by byte; the scales of `fp8_ds_mla` rows are the only narrow ones."""
    report = reports[name]
    assert report["wide_copies"] > 0, report
    assert report["byte_loads"] == 0, report
    if "latent_uint8" not in name:
        assert report.get("narrow_copies", 0) == 0, report


@pytest.mark.parametrize("name", OTHERS)
def test_variant(name: str, reports: dict[str, dict[str, Any]]) -> None:
    """Other pages, layouts and features neither spill nor narrow the copies. Rows with their scale behind them, of 132 or 264
    bytes, are 4- or 8-byte aligned: narrower copies, but copies, and what the loop waits for is five loads of page ids and scales.
    """
    report = reports[name]
    assert "error" not in report, report
    assert report["spills"] == 0 and report["stack_bytes"] == 0, report
    config = LaunchConfig(**OTHERS[name]["config"])
    assert report["registers"] <= config.max_registers
    assert config.ctas_per_sm * (report["shared_bytes"] + SYSTEM_SHARED) <= SHARED_BYTES["sm90"]
    assert report["byte_loads"] == 0, report
    if name in ("slots_656", "slots_584", "slots_352", "slots_584_page_2"):
        assert report["wide_copies"] > report["narrow_copies"], report
    elif "token" in name:
        assert report["narrow_copies"] > 0 and report["loop_loads"] <= 5, report
    else:
        assert report["wide_copies"] > 0 and report["narrow_copies"] == 0, report


#: cycles that a tile of 64 tokens in bf16, 32 KiB, takes an SM of an H200: 4,450 GB/s / 132 / 1.755 GHz = 19.2 bytes a cycle
TILE_CYCLES = 64 * 2 * 128 * 2 / (4450 / 132 / 1.755)


def test_instructions_of_the_loop(reports: dict[str, dict[str, Any]]) -> None:
    """Four warps on four schedulers issue one instruction a cycle each, so a loop of n instructions keeps up while n < cycles:
    1,700 for bf16 and 850 for fp8. A third of that is left as a margin.
    """
    assert 0 < reports["plain"]["loop_instructions"] < TILE_CYCLES * 2 / 3
    assert 0 < reports["fp8"]["loop_instructions"] < TILE_CYCLES / 2 * 2 / 3


def test_instructions_of_the_scores(reports: dict[str, dict[str, Any]]) -> None:
    """A key of 132 bytes takes an SM of an H200 6.9 cycles, in which it issues 27 instructions; two thirds of that."""
    report, config = reports["sm90-index_e4m3"], INDEX["sm90-index_e4m3"]["config"]
    a_key = report["loop_instructions"] * config["num_warps"] / config["block_n"]
    assert 0 < a_key < TILE_CYCLES / (64 * 512) * 132 * 4 * 2 / 3


@pytest.mark.parametrize("name", ["page_528", "page_672", "hnd", "packed"])
def test_layouts_cost_no_instructions(name: str, reports: dict[str, dict[str, Any]]) -> None:
    """Beyond the loop of page 16, NHD, by less than 3 % of a tile's time: the target of these layouts, were nothing hidden."""
    assert reports[name]["loop_instructions"] - reports["plain"]["loop_instructions"] < 0.03 * TILE_CYCLES


def test_no_chained_booleans() -> None:
    """`a or b or c` does not compile before Triton 3.4, which takes two operands at a time: parentheses, in every kernel."""
    chains, kernels = [], 0
    for path in sorted(Path(hfmem_kernels.__file__).parent.rglob("*kernel*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(d) for d in node.decorator_list):
                kernels += 1
                found = (each for each in ast.walk(node) if isinstance(each, ast.BoolOp) and len(each.values) > 2)
                chains += [f"{path.name}:{each.lineno}" for each in found]
    assert kernels > 50 and chains == []
