"""Cases of the GPU grid through the whole launcher, with a stand-in for the driver: what a device would be asked to run.

`launch_worker.py` does it, for any part of the grid; here are as few as meet every kernel and every way through the launcher.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hfmem_kernels
from hfmem_kernels._heuristics import SHARED_BYTES

WORKER = Path(__file__).with_name("launch_worker.py")
SYSTEM_SHARED = 1024
#: test of the GPU grid → kernels it launches and programs of each, on an H200's 132 multiprocessors
CASES = {
    # two blocks of 1,024 sequences; 3 programs a multiprocessor for heads of 64
    "test_gpu_grid.py::test_batches_that_are_scanned_in_blocks[1500]": [("decode_kernel", [396])],
    # -1 in the table; q_len 4 times a group of 4 are 16 rows: 2 programs a multiprocessor
    "test_gpu_grid.py::test_windows_at_page_edges[4-17]": [("decode_kernel", [264])],
    # 4,097 + 63 + 900 written rows, a program each; 128 heads, one program a multiprocessor
    "test_gpu_latents.py::test_latent[fp8_ds_mla-1-128]": [
        ("write_packed_latent_kernel", [5060]),
        ("decode_kernel", [132]),
    ],
    # queries and keys in e4m3: 3 programs a multiprocessor
    "test_gpu_latents.py::test_an_indexers_scores[2-64-e4m3]": [("index_kernel", [396])],
    # fp32, one kernel for all three calls, and the merge of 2 · 32 rows, 16 rows of 128 columns a program
    "test_gpu_calls.py::test_a_cascade_is_the_whole": [("decode_kernel", [132]), ("merge_kernel", [4])],
    # a fixed split: 2 sequences · 1 head · ceil(17,000 tokens / 512) pieces
    # (the 50 repeats end at the first comparison)
    "test_gpu_calls.py::test_repeats_are_bitwise_equal[True-llama_70b_tp8]": [("decode_kernel", [68])],
    # programs for tokens and 8 heads; rows of 132 bytes leave room for two programs a multiprocessor
    "test_gpu_calls.py::test_a_cache_that_the_writer_filled[int8-token]": [
        ("write_kernel", [999, 8]),
        ("write_kernel", [1, 8]),
        ("write_kernel", [199, 8]),
        ("decode_kernel", [264]),
    ],
    # more than 2^31 units between the first row and the last
    "test_gpu_calls.py::test_cache_beyond_32_bits[odd_rows]": [("decode_kernel", [264]), ("decode_kernel", [264])],
}


@pytest.fixture(scope="module")
def reports() -> dict[str, Any]:
    """What each case launched."""
    package = str(Path(hfmem_kernels.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    done = subprocess.run(
        [sys.executable, str(WORKER), "sm90", *CASES],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("case", CASES)
def test_what_is_launched(case: str, reports: dict[str, Any]) -> None:
    """The kernels and their grids; none spills, and as many programs as the grid counts on fit a multiprocessor."""
    report = reports[case.split("::")[1]]
    assert "error" not in report, report
    assert [(each["kernel"], each["grid"]) for each in report["launches"]] == CASES[case]
    for each in report["launches"]:
        if (
            each["wide_copies"] or each["narrow_copies"]
        ):  # rows at odd addresses take no copies, and more registers than there are
            assert each["spills"] == 0 and each["stack_bytes"] == 0, each
        assert each["ctas_per_sm"] * (each["shared_bytes"] + SYSTEM_SHARED) <= SHARED_BYTES["sm90"], each
        if each["register_cap"]:
            assert each["registers"] <= each["register_cap"], each
