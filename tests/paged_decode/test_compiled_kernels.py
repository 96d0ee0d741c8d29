"""Compiled kernels, executed without a GPU: a choice of this folder's tests in processes whose device is the PTX machine.

Triton's interpreter shows that the kernels' logic is right, this that what the compiler makes of it is: layouts of fragments,
conversions, the decoders in PTX, arguments that are specialised on. `HFMEM_PTX=sm90 pytest tests/paged_decode` runs everything so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
#: one case of each way through the kernels, the small ones
CHOSEN = {
    "sm80": [
        "test_decode.py::test_feature[sinks_window_q2]",
        "test_decode.py::test_quantized_caches[pairs-head-float8_e4m3fn]",
        "test_decode.py::test_quantized_caches[bytes-tensor-float8_e4m3fn]",
        "test_cache_ops.py::test_kernel_writes_the_bits_of_the_reference[Layout.NHD-int8-token]",
        "test_indexer.py::test_scores[12-e4m3]",
        "test_indexer.py::test_scores[64-bf16_over_e4m3]",
        "test_indexer.py::test_queries_of_a_sequence_see_less_the_older_they_are[bf16-2]",
    ],
    "sm90": [
        "test_decode.py::test_feature[bf16]",
        "test_decode.py::test_feature[alibi_softcap_q3]",
        "test_decode.py::test_quantized_caches[pairs-token-float8_e4m3fn]",
        "test_decode.py::test_quantized_caches[bytes-none-float8_e4m3fn]",
        "test_decode.py::test_page_sizes[tiles_of_32-33]",
        "test_decode.py::test_any_share_of_the_work[1-17]",
        "test_decode.py::test_fixed_split_with_merge_in_two_levels",
        "test_mla.py::test_formats[h16-LatentFormat.FP8_DS]",
        "test_mla.py::test_whole_row_in_fp8",
        "test_cache_ops.py::test_kernel_writes_the_bits_of_the_reference[Layout.NHD-float8_e4m3fn-head]",
        "test_merge.py",
    ],
    "sm100": ["test_decode.py::test_feature[sinks_window_q2]"],
    "sm120": ["test_mla.py::test_whole_row_in_fp8"],
}


@pytest.mark.skipif("HFMEM_PTX" in os.environ, reason="every test runs in the PTX machine already")
@pytest.mark.parametrize("family", CHOSEN)
def test_what_the_compiler_makes_of_the_kernels(family: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, *(str(HERE / name) for name in CHOSEN[family])],
        capture_output=True,
        text=True,
        cwd=HERE.parent.parent,
        env={**os.environ, "HFMEM_PTX": family},
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert "skipped" not in run.stdout.splitlines()[-1]
