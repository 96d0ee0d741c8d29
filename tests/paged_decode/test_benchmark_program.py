"""What a run is made of before it begins: its items in order, the peers that it tries, what is compiled ahead."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hfmem_kernels.benchmarks import item, program, warm
from hfmem_kernels.benchmarks.experiments import Experiment, experiments
from hfmem_kernels.benchmarks.inputs import Inputs
from hfmem_kernels.benchmarks.ours import Launch
from hfmem_kernels.benchmarks.peers import Peer
from hfmem_kernels.benchmarks.rows import Row, uniform
from hfmem_kernels.benchmarks.shapes import shape

CPU = torch.device("cpu")
LLAMA = shape("llama-3.1-70b-tp8")
ROWS = tuple(Row(LLAMA, uniform(1, length)) for length in (16, 32, 48))


def peer(
    name: str, prepare: Callable[[Inputs, Path | None], Launch], refuses: Callable[[Row], str | None] = lambda row: None
) -> Peer:
    return Peer(name, name, "triton", refuses, prepare)


def works(inputs: Inputs, folder: Path | None) -> Launch:
    return lambda index: torch.zeros(1)


def test_the_order_of_a_core_run() -> None:
    names = [each.name for each in program.items_of("core")]
    assert len(set(names)) == len(names)
    kinds = [isinstance(each, Experiment) for each in program.items_of("core")]
    assert kinds[:10] == [False] * 10 and kinds[10:24] == [True] * 14 and not any(kinds[24:-6]) and all(kinds[-6:])
    assert names[:24] == [each.name for each in program.items_of("quick")]
    assert len(experiments(quick=True)) == 14 and len(experiments()) == 20


def test_compiling_ahead_does_every_job_once_and_survives_what_fails() -> None:
    def breaks(inputs: Inputs, folder: Path | None) -> Launch:
        raise RuntimeError("does not compile")

    asked = Experiment(
        "which", ROWS[0], (("as it is", lambda made: works(made, None)), ("other", lambda made: works(made, None)))
    )
    peers = (peer("good", works), peer("bad", breaks), peer("shy", works, lambda row: "no such row"))
    work = warm.jobs([*ROWS, asked], peers, {})
    assert [row.name for row, _ in work] == [ROWS[n].name for n in (0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0)]
    work = [(row, prepare) for row, prepare in work if prepare is not item.ours.prepare]  # what is left needs no kernel
    assert [warm.warm(work, CPU, part, 3, 60.0) for part in range(3)] == [2, 2, 1]  # three of the eight do not compile
    assert warm.warm(work, CPU, 0, 1, -1.0) == 0


def test_a_few_pages_stand_for_many() -> None:
    row = Row(LLAMA, uniform(3, 5000))
    made = item.inputs.build(row, CPU, most_pages=8)
    assert made.sets[0].k.shape == (8, 16, 1, 128) and made.page_table.shape == (3, 313)
    assert int(made.page_table.max()) == 7 and made.seq_lens.tolist() == [5000] * 3


def test_the_questions_that_the_first_run_answers() -> None:
    asked = {each.question for each in experiments(quick=True)}
    assert asked == {
        "page ids: carried or loaded in the loop",
        "fp8: pairs as int16 or single bytes",
        "fp8: conversions or integer arithmetic",
        "heads of a sequence: side by side or in turn",
        "scores: in parts or one product, or 64 rows by wgmma",
        "scores: in parts or one product",
        "what it costs to turn to another item",
        "programs a multiprocessor",
        "most pieces of an item",
        "t0: what a call costs before it reads",
    }


def test_words_of_the_command_line(tmp_path: Path) -> None:
    assert {each.name for each in program.peers_of("quick", "")}.isdisjoint({"flashinfer_fa2", "torch_flex_dense"})
    assert [each.name for each in program.peers_of("core", "sglang, fa3")] == ["sglang", "fa3"]
    assert program.peers_of("core", "none") == ()
    with pytest.raises(SystemExit, match="no peer nosuch"):
        program.peers_of("core", "nosuch")
    assert program.folders_of([f"vllm={tmp_path}"]) == {"vllm": tmp_path}
    for word in ("vllm", "nosuch=/", f"vllm={tmp_path}/missing"):
        with pytest.raises(SystemExit, match="--peer-path"):
            program.folders_of([word])


def test_a_changed_configuration_keeps_its_programs_resident() -> None:
    config = item.ours.default_config(replace(ROWS[0]), CPU)
    four = item.ours.override(replace(config, num_warps=4), ctas_per_sm=4)
    assert four.register_cap == 128  # 65,536 registers for 4 programs of 128 threads
    assert item.ours.override(config, register_cap=0).register_cap == 0


def test_a_bare_image_is_enough(tmp_path: Path) -> None:
    """PyTorch and Triton alone, as images for GPUs have them: no numpy, no matplotlib, none of hfmem's own dependencies."""
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {{"numpy", "matplotlib", "huggingface_hub", "safetensors", "typer", "rich"}}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
from pathlib import Path
from hfmem_kernels.benchmarks import _experiment_kernels, _stream_kernel, program, session
from hfmem_kernels import _kernels, _ops
made = program.plan("core", wanted="none", folders=[], folder=Path({str(tmp_path)!r}), command="c", minutes=0.0)
program.main(made, None, "core")
"""
    folders = os.pathsep.join(each for each in sys.path if each and "site-packages" not in each)
    quiet = {"PYTHONPATH": folders, "PYTHONWARNINGS": "ignore"}
    words = [sys.executable, "-c", code]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(words, env=environment | quiet, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "nothing was timed" in done.stdout and (tmp_path / "report.md").is_file() and "items left" in done.stderr
