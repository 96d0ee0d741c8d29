"""The device catalogue: what is in it, what users may call its entries, and this machine's devices through a stand-in for NVML."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from hfmem.cli import main
from hfmem.errors import UsageError
from hfmem.plan.devices import catalogue, find_device, plain_memory, search_devices
from hfmem.plan.local import local_devices

GIB = 1 << 30


@pytest.mark.parametrize(
    ("typed", "name", "count"),
    [
        ("h100", "H100 SXM 80GB", None),
        ("H100", "H100 SXM 80GB", None),
        ("NVIDIA H100 80GB HBM3", "H100 SXM 80GB", None),
        ("h100 pcie", "H100 PCIe 80GB", None),
        ("h100-nvl", "H100 NVL 94GB", None),
        ("8xh100", "H100 SXM 80GB", 8),
        ("4 × h200", "H200 SXM 141GB", 4),
        ("4090", "RTX 4090", None),
        ("rtx 4090", "RTX 4090", None),
        ("NVIDIA GeForce RTX 4090", "RTX 4090", None),
        ("RTX_4090", "RTX 4090", None),
        ("a100-80g", "A100 SXM 80GB", None),
        ("a100-80gb", "A100 SXM 80GB", None),
        ("NVIDIA A100-SXM4-40GB", "A100 SXM 40GB", None),
        ("7900xt", "RX 7900 XT", None),
        ("2x7900xtx", "RX 7900 XTX", 2),
        ("m3-ultra-512gb", "M3 Ultra 512GB", None),
        ("Apple M4 Max 128GB", "M4 Max 128GB", None),
        ("AMD Instinct MI300X", "MI300X", None),
        ("tpu-v5e", "TPU v5e", None),
        ("gaudi 3", "Gaudi 3", None),
        ("l4", "L4", None),
        ("H100 SXM5", "H100 SXM 80GB", None),
        ("h100-sxm5-80gb", "H100 SXM 80GB", None),
        ("Tesla V100-SXM2-32GB", "V100 SXM2 32GB", None),
        ("8XH100", "H100 SXM 80GB", 8),
        ("h100 x2", "H100 SXM 80GB", 2),
        ("nano", "Jetson Orin Nano 8GB", None),
        ("H100:8", "H100 SXM 80GB", 8),
        ("A100-80GB:4", "A100 SXM 80GB", 4),
        ("3090x2", "RTX 3090", 2),
        ("l2", "L2", None),
        ("NVIDIA GeForce RTX 5090 Laptop GPU", "RTX 5090 Laptop", None),
        ("4090 laptop", "RTX 4090 Laptop", None),
        ("vera rubin", "VR200", None),
        ("MI455X", "MI455X", None),
        ("2x3090", "RTX 3090", 2),
    ],
)
def test_names_people_type(typed: str, name: str, count: int | None) -> None:
    found = find_device(typed)
    assert (found.device.name, found.count) == (name, count)


@pytest.mark.parametrize(
    ("typed", "num_bytes", "count"),
    [
        ("80GiB", 80 * GIB, None),
        ("24g", 24 * GIB, None),
        ("2x24GiB", 24 * GIB, 2),
        ("80GB", 80 * 10**9, None),
        ("24GiB:2", 24 * GIB, 2),
    ],
)
def test_a_size_is_a_device(typed: str, num_bytes: int, count: int | None) -> None:
    found = find_device(typed)
    assert (found.device.memory_bytes, found.count) == (num_bytes, count)
    assert found.device.vendor == "any"


def test_every_name_and_alias_finds_its_entry() -> None:
    for device in catalogue():
        for word in (device.name, device.name.lower().replace(" ", "-"), *device.aliases):
            assert find_device(word).device is device, word


@pytest.mark.parametrize("typed", ["a100", "m2 max", "v100", "4060 ti", "gh200"])
def test_an_ambiguous_name_lists_the_candidates(typed: str) -> None:
    with pytest.raises(UsageError, match="could be") as caught:
        find_device(typed)
    named = str(caught.value).split("could be ")[1].split(": say which")[0].split(", ")
    assert len(named) > 1
    for name in named:
        assert find_device(name).count is None


@pytest.mark.parametrize(("typed", "near"), [("h1000", "H100"), ("rtx 4900", "RTX 4090"), ("mi300z", "MI300X")])
def test_an_unknown_name_suggests_the_nearest(typed: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean .*{near}"):
        find_device(typed)


@pytest.mark.parametrize(
    "typed", ["", "  ", "0xh100", "h100x0", "2x3xh100", "potato", "nan", "\u0661xh100", "1e3GiB", "h100:0", "b58"]
)
def test_what_is_no_device(typed: str) -> None:
    with pytest.raises(UsageError, match="--gpu"):
        find_device(typed)


def test_a_bare_number_may_have_been_a_size() -> None:
    with pytest.raises(UsageError, match=r"say which .*or 24GiB for a size"):
        find_device("24")


def test_entries_are_plausible_and_sourced() -> None:
    assert len(catalogue()) >= 60
    for device in catalogue():
        assert 5 * GIB < device.memory_bytes < 520 * GIB, device.name
        assert device.sources and all(device.sources), device.name
        assert device.bandwidth is None or 50e9 < device.bandwidth < 23e12, device.name  # HBM4
        for earlier, later in (("bf16", "fp8"), ("fp8", "fp4"), ("bf16", "int8")):
            if earlier in device.rates and later in device.rates and device.name not in ("B300", "GB300"):
                assert device.rates[later] >= device.rates[earlier], device.name
        assert device.interconnect is None or device.interconnect.bytes_per_second > 10**9
        if device.compute_capability is not None:
            assert device.architecture == f"sm_{device.compute_capability}"


@pytest.mark.parametrize(
    ("name", "gib"),
    [  # totals as PyTorch's out-of-memory messages print them ("GPU 0 has a total capacity of … GiB")
        ("h100", (79.1, 79.2)),
        ("a100-80g", (79.14, 79.33)),
        ("h200", (139.7, 139.9)),
        ("b200", (178.3, 178.4)),
        ("b300", (267.6, 267.7)),
        ("gb200", (184.3, 184.4)),
        ("4090", (23.5, 23.7)),
        ("mi355x", (287.9, 288.0)),
        ("mi325x", (255.9, 256.0)),
    ],
)
def test_memory_is_what_the_driver_reports(name: str, gib: tuple[float, float]) -> None:
    device = find_device(name).device
    assert gib[0] <= device.memory_bytes / GIB <= gib[1]
    assert device.memory_grade == "exact"


def test_search_takes_words_of_any_field() -> None:
    assert {d.name for d in search_devices("h100")} >= {"H100 SXM 80GB", "H100 PCIe 80GB", "H100 NVL 94GB"}
    assert all(d.vendor == "amd" for d in search_devices("amd"))
    assert all(d.compute_capability == 90 for d in search_devices("sm_90"))
    assert all(d.vendor == "apple" for d in search_devices("m3")) and search_devices("rtx5070ti")
    assert len(search_devices("")) == len(catalogue())


def fake_nvml(monkeypatch: pytest.MonkeyPatch, devices: list[tuple[str, int, int, int]], **broken: Any) -> None:
    """A stand-in for pynvml: (name, total, reserved, used) for each device."""

    class NVMLError(Exception):
        pass

    def memory(handle: int, version: int | None = None) -> SimpleNamespace:
        _, total, reserved, used = devices[handle]
        if version is None:
            return SimpleNamespace(total=total, used=used + reserved)
        return SimpleNamespace(total=total, reserved=reserved, used=used)

    def init() -> None:
        if broken.get("no_driver"):
            raise NVMLError("Driver Not Loaded")

    module = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlMemory_v2=2,
        nvmlInit=init,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(devices),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: devices[handle][0],
        nvmlDeviceGetMemoryInfo=memory,
        nvmlDeviceGetCudaComputeCapability=lambda handle: (9, 0),
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)


def test_local_devices_count_and_what_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    total, reserved = 81559 << 20, 478 << 20
    fake_nvml(
        monkeypatch,
        [("NVIDIA H100 80GB HBM3", total, reserved, 5 * GIB), ("NVIDIA H100 80GB HBM3", total, reserved, 0)],
    )
    found = find_device("local")
    assert found.count == 2
    assert found.device.memory_bytes == total - reserved  # as CUDA counts
    assert found.device.memory_used_bytes == 5 * GIB  # the fullest
    assert found.device.compute_capability == 90
    assert found.device.bandwidth == 3350 * 10**9  # from the catalogue


def test_local_without_the_extra_a_driver_or_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(UsageError, match=r"pip install 'hfmem\[nvml\]'"):
        local_devices()
    fake_nvml(monkeypatch, [], no_driver=True)
    with pytest.raises(UsageError, match="finds no NVIDIA driver"):
        local_devices()
    fake_nvml(monkeypatch, [])
    with pytest.raises(UsageError, match="no NVIDIA device"):
        local_devices()
    fake_nvml(monkeypatch, [("NVIDIA L4", 24 * GIB, 0, 0), ("NVIDIA A10G", 23 * GIB, 0, 0)])
    with pytest.raises(UsageError, match="several kinds"):
        local_devices()


def test_the_command_lists_and_searches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["devices", "h100", "pcie", "--json"])
    assert left.value.code == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["name"] == "H100 PCIe 80GB"
    assert row["memory_bytes"] == 81008 << 20
    with pytest.raises(SystemExit) as left:
        main(["devices", "nosuchthing"])
    assert left.value.code == 2
    assert "no device matches" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["devices"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(catalogue()) + 2


@pytest.mark.parametrize(
    ("size", "name"),
    [(24 << 30, "24 GiB"), (48 * 10**9, "48 GB"), (10**9, "1 GB"), ((24 << 30) + (1 << 29), "24.50 GiB")],
)
def test_a_size_is_named_in_its_own_unit(size: int, name: str) -> None:
    device = plain_memory(size)
    assert (device.name, device.memory_bytes) == (name, size)
