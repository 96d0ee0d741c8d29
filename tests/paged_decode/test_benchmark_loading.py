"""Finding peers' modules: installed, in a folder, or one file of an engine without the engine; what fails is a reason."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hfmem_kernels.benchmarks.peers import Absent, loading


@pytest.fixture(autouse=True)
def clean_modules() -> Iterator[None]:
    """What a test loads is gone after it."""
    path = list(sys.path)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "made_up"]:
        del sys.modules[name]
    sys.path[:] = path


def test_what_breaks_while_loading_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "made_up.py").write_text("raise OSError('libcudart.so.11 is missing\\nand more')")
    with pytest.raises(Absent, match=r"made_up does not load: OSError: libcudart\.so\.11 is missing$"):
        loading.installed("made_up", "made_up", tmp_path)
    with pytest.raises(Absent, match=r"made_up/ops/kernel\.py is not in"):
        loading.alone("made_up.ops.kernel", "made_up", tmp_path, lambda folder: {})


def test_one_file_of_an_engine_loads_without_the_engine(tmp_path: Path) -> None:
    ops = tmp_path / "made_up" / "deep" / "ops"
    ops.mkdir(parents=True)
    for folder in (ops, ops.parent, ops.parent.parent):
        (folder / "__init__.py").write_text("raise ImportError('the whole engine')")
    (ops / "helpers.py").write_text("def twice(x): return 2 * x")
    (ops / "kernel.py").write_text(
        "import made_up.envs as envs\nfrom made_up.deep.ops.helpers import twice\nvalue = twice(envs.NUMBER)"
    )
    module = loading.alone(
        "made_up.deep.ops.kernel", "made_up", tmp_path, lambda folder: {"made_up.envs": {"NUMBER": 21}}
    )
    assert module.value == 42
    (ops / "other.py").write_text("from made_up.envs import MISSING")
    with pytest.raises(Absent, match="does not load alone: ImportError"):
        loading.alone("made_up.deep.ops.other", "made_up", tmp_path, lambda folder: {"made_up.envs": {}})


def test_a_class_of_a_module_that_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text("import nothing_of_that_name\nclass Mode(int):\n    A = 1\n")
    assert loading.class_of(tmp_path, "large.py", "Mode", {}).A == 1
    with pytest.raises(Absent, match=r"large\.py of .* has no class Other"):
        loading.class_of(tmp_path, "large.py", "Other", {})
    with pytest.raises(Absent, match=r"none\.py of .*: FileNotFoundError"):
        loading.class_of(tmp_path, "none.py", "Mode", {})
