"""A new engine is one module and one line in `ENGINES`: every question is answered by an engine that nothing else has heard of."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import pytest

from hfmem.api.answers import fit
from hfmem.api.estimates import Model, estimate, explain, layer_table, read_model
from hfmem.api.planning import plan
from hfmem.cli import main
from hfmem.hub import FetchOptions
from hfmem.memory import engines
from hfmem.memory.engines import ideal
from hfmem.memory.result import CacheBytes
from hfmem.memory.serving import ENGINES, Serving
from hfmem.model.architecture import Architecture
from hfmem.records import replace

LLAMA = "meta-llama/Meta-Llama-3-8B"
#: K and V of 8 heads × 128 in 32 layers, 2 bytes each
TOKEN = 2 * 8 * 128 * 32 * 2
#: facts that every engine states, as `Engine` names them
FACTS = (
    *("NAME", "VERSION", "VENDORS", "RUNTIME", "WEIGHT_FORMATS", "CACHE_FORMATS"),
    *("OWN_CLASSES", "HALVES_FP32", "DRAFTS_IN_POOL", "OLDEST", "cache"),
)


@pytest.fixture
def paged(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An engine whose pages hold 1,000 tokens, registered as the five are."""

    def cache(arch: Architecture, serving: Serving) -> CacheBytes:
        padded = replace(serving, context=-(-serving.context // 1000) * 1000)
        return replace(ideal.cache(arch, padded), engine="paged", page_size=1000)

    module = ModuleType("paged_engine")
    vars(module).update(
        NAME="paged",
        VERSION="0",
        VENDORS=frozenset({"nvidia"}),
        RUNTIME="none",
        WEIGHT_FORMATS=(("bf16", 16), ("fp8", 8)),
        CACHE_FORMATS=("fp8",),
        OWN_CLASSES=False,
        HALVES_FP32=False,
        DRAFTS_IN_POOL=False,
        OLDEST=None,
        cache=cache,
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(ENGINES, "paged", module.__name__)
    yield "paged"


@pytest.fixture(scope="module")
def llama() -> Model:
    """Llama 3 8B from the shipped catalogue."""
    return read_model(LLAMA, fetch=FetchOptions(offline=True, no_cache=True))


@pytest.mark.parametrize("name", ENGINES)
def test_each_engine_states_what_others_ask_for(name: str) -> None:
    module = import_module(ENGINES[name])
    assert name == module.NAME and not [fact for fact in FACTS if not hasattr(module, fact)]
    assert set(FACTS) == {*engines.Engine.__annotations__, "cache"}
    widths = [bits for _, bits in module.WEIGHT_FORMATS]
    assert widths == sorted(widths, reverse=True) and widths[0] == 16


def test_an_estimate(paged: str, llama: Model) -> None:
    report = estimate(llama, context=8001, num_seqs=2, engine=paged)
    assert report.kv_cache.bytes == 2 * 9000 * TOKEN
    assert report.kv_cache.ideal_bytes == 2 * 8001 * TOKEN
    assert report.kv_cache.engines["paged"] == 2 * 9000 * TOKEN
    assert report.total_bytes == 16_060_522_496 + 2 * 9000 * TOKEN


def test_tables_and_arithmetic(paged: str, llama: Model) -> None:
    table = layer_table(llama, context=8001, engine=paged)
    assert [run.engine_bytes for run in table.runs] == [9000 * TOKEN]
    steps = [step for section in explain(llama, context=8001, engine=paged).sections for step in section.steps]
    assert 9000 * TOKEN in [step.result for step in steps]


def test_whether_it_fits(paged: str, llama: Model) -> None:
    # 24 GiB and nothing else taken: what weights leave, in whole pages of 1,000 tokens
    longest = (24 * 2**30 - 16_060_522_496) // (1000 * TOKEN) * 1000
    found = fit(llama, device="24GiB", context=longest, engine=paged).report.fit
    assert found is not None and found.verdict != "does-not-fit" and found.max_context == longest
    beyond = fit(llama, device="24GiB", context=longest + 1, engine=paged)
    assert beyond.report.fit is not None and beyond.report.fit.verdict == "does-not-fit"
    # the narrower cache and the narrower weights are those that the module names
    flags = " ".join(remedy.flags for remedy in beyond.remedies)
    assert "--kv-dtype fp8" in flags and "--quant fp8" in flags and "int4" not in flags


def test_devices_of_its_makers(paged: str, llama: Model, capsys: pytest.CaptureFixture[str]) -> None:
    layouts = plan(llama, users=1, context=8192, engine=paged).layouts
    assert layouts and not [layout for layout in layouts if "MI300" in layout.device]
    with pytest.raises(SystemExit) as left:
        main(["fit", LLAMA, "--gpu", "mi300x", "--ctx", "8k", "--engine", paged, "--offline"])
    assert left.value.code == 0
    assert "read for devices of nvidia, not of amd" in capsys.readouterr().out


def test_no_command_starts_it(paged: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A launch command is beside the rules; without one the answer is a usage error, not a crash."""
    for kind in ("docker", "k8s", "vllm"):
        with pytest.raises(SystemExit) as left:
            main(["fit", LLAMA, "--gpu", "h100", "--ctx", "8k", "--engine", paged, "--emit", kind, "--offline"])
        assert left.value.code == 2, kind
        assert "internal" not in capsys.readouterr().err
