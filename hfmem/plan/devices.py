"""Devices: what their drivers report, how fast they are at best, and what a user may call them.

The catalogue is `data/devices.json`, each entry with the reading its memory comes from and the source of its rates. A device is
also a plain amount of memory (`80GiB`), or what this machine has (`local`, through NVML).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from hfmem.errors import UsageError
from hfmem.records import dataclass, field, replace
from hfmem.report import Grade
from hfmem.units import GIB, format_bytes, parse_memory

#: `memory_reading` → how far it can be trusted: a driver's own total, a rule over it, or the vendor's capacity
_READING_GRADES: Final[dict[str, Grade]] = {
    "cuda": "exact",
    "nvidia-smi": "exact",
    "hip": "exact",
    "amdgpu": "exact",
    "sycl": "exact",
    "metal": "exact",
    "given": "exact",
    "nvml": "exact",
    "metal-rule": "derived",
    "nominal": "estimated",
}
#: words that name a maker or a line and tell no two devices apart
_NOISE: Final = re.compile(r"\b(nvidia|geforce|tesla|amd|instinct|radeon|intel|apple|google|graphics|gpu|generation)\b")
_COUNT: Final = re.compile(r"([0-9]{1,6})\s*[x×*]\s*(.+)", re.IGNORECASE)
_COUNT_LAST: Final = re.compile(r"(.+?)\s*([x×*:])\s*([0-9]{1,6})", re.IGNORECASE)
_SIZE: Final = re.compile(r"\d+(?:\.\d+)?\s*(?:[kmgt]i?b|[kmgt]|b)|\d{9,}", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Interconnect:
    """How devices of one node talk: bytes per second each way, per device."""

    kind: str
    bytes_per_second: int


@dataclass(frozen=True, slots=True)
class Device:
    """One device (of a card with several dies: one die).

    `memory_bytes` is the total that the driver reports, by `memory_reading`; `memory_used_bytes` what other processes hold of it;
    `unified`: the system's own memory is in it.
    `bandwidth` is in bytes per second, `rates` in dense operations per second by format (`bf16`, `fp16`, `fp8`, `int8`, `fp4`).
    None or a missing format: not known.
    """

    name: str
    vendor: str
    memory_bytes: int
    memory_reading: str
    aliases: tuple[str, ...] = ()
    architecture: str | None = None
    compute_capability: int | None = None
    bandwidth: int | None = None
    rates: Mapping[str, int] = field(default_factory=dict)
    interconnect: Interconnect | None = None
    gpus_per_node: int | None = None
    memory_used_bytes: int = 0
    unified: bool = False
    sources: tuple[str, ...] = ()

    @property
    def memory_grade(self) -> Grade:
        """`exact` for a driver's reading, `derived` for a rule over it, `estimated` for the vendor's capacity."""
        return _READING_GRADES[self.memory_reading]


@dataclass(frozen=True, slots=True)
class Devices:
    """What `--gpu` named: a device, how many of it where the text says so (`8xh100`, `local`), and what to type for one."""

    device: Device
    count: int | None = None
    text: str | None = None

    @property
    def local(self) -> bool:
        """Whether they are this machine's, of which fewer may be used."""
        return self.device.memory_reading == "nvml"


@cache
def catalogue() -> tuple[Device, ...]:
    """Every device of the data file, in its order."""
    data: dict[str, Any] = json.loads(
        Path(__file__).with_name("data").joinpath("devices.json").read_text(encoding="utf-8")
    )
    texts = data["sources"]
    return tuple(
        Device(
            name=entry["name"],
            vendor=entry["vendor"],
            memory_bytes=entry["memory_bytes"],
            memory_reading=entry["memory_reading"],
            aliases=tuple(entry["aliases"]),
            architecture=entry["architecture"],
            compute_capability=entry["compute_capability"],
            bandwidth=entry["bandwidth"],
            rates=entry["rates"],
            interconnect=Interconnect(**entry["interconnect"]) if entry["interconnect"] else None,
            gpus_per_node=entry["gpus_per_node"],
            unified=entry.get("unified", False),
            sources=tuple(texts[key] for key in entry["sources"]),
        )
        for entry in data["devices"]
    )


def find_device(text: str) -> Devices:
    """The device that `text` names: `h100`, `rtx 4090`, `a100-80g`, `8xh100`, `h100:8`, `80GiB`, `2x24GiB`, `local`.

    Case, blanks, hyphens and the maker's name do not matter.

    Raises:
        UsageError: no such device (with the nearest), several (with all of them), or `local` and none can be read.
    """
    wanted = text.strip()
    if not wanted:
        raise UsageError("--gpu names no device (examples: h100, 8xh100, 80GiB, local)")
    if _key(wanted) == "local":
        from hfmem.plan.local import local_devices

        return local_devices()
    found = _exact(wanted)
    if found is not None:
        return Devices(found)
    count, named = _counted(wanted)
    if named != wanted and not count:
        raise UsageError(f"--gpu {text!r} names 0 devices")
    if count:
        inner = find_device(named)
        if inner.count is not None:
            raise UsageError(f"--gpu {text!r} counts twice")
        return replace(inner, count=count, text=named)
    if _SIZE.fullmatch(wanted):
        return Devices(plain_memory(parse_memory(wanted, "--gpu")))
    return Devices(_similar(wanted))


def _counted(text: str) -> tuple[int, str]:
    """How many, and of what: `8xh100`, `h100x8` and, as SkyPilot has it, `h100:8`; 0 where `text` counts nothing."""
    first, last = _COUNT.fullmatch(text), _COUNT_LAST.fullmatch(text)
    # of `8x4090` and `4090x8`, the number that is a device is no count; names hold no colon, but some an x before a digit
    ends = last is not None and (":" in last.group(2) or _exact(last.group(1)) or _SIZE.fullmatch(last.group(1)))
    if last is not None and ends and (first is None or _exact(first.group(2)) is None):
        return int(last.group(3)), last.group(1).strip()
    return (int(first.group(1)), first.group(2).strip()) if first is not None else (0, text)


def plain_memory(num_bytes: int) -> Device:
    """A device of which only the memory is known."""
    if num_bytes % GIB == 0:
        name = f"{num_bytes // GIB} GiB"
    else:
        name = f"{num_bytes // 10**9} GB" if num_bytes % 10**9 == 0 else format_bytes(num_bytes)
    return Device(name=name, vendor="any", memory_bytes=num_bytes, memory_reading="given")


def search_devices(text: str) -> tuple[Device, ...]:
    """Devices of whose name, aliases, maker and architecture each word of `text` begins one, or is in them written together (of
    four letters or more: an `m3` is no SXM 32GB); all for an empty text."""
    wanted = text.lower().replace("-", " ").split()

    def meant(device: Device) -> bool:
        plain, together = _haystack(device)
        return all(
            any(word.startswith(part) for word in plain) or (len(part) > 3 and part in together) for part in wanted
        )

    return tuple(device for device in catalogue() if meant(device))


def nearest_device(name: str, memory_bytes: int) -> Device | None:
    """The catalogue's entry for what a driver calls `name`: of those whose name begins like it, the nearest in memory."""
    words = name.removeprefix("NVIDIA ").replace("GeForce ", "").split("-")[0]
    hits = search_devices(words) or tuple(device for device in catalogue() if device.name.lower() in name.lower())
    near = [device for device in hits if abs(device.memory_bytes - memory_bytes) < memory_bytes // 20]
    return min(near, key=lambda device: abs(device.memory_bytes - memory_bytes)) if near else None


def _haystack(device: Device) -> tuple[list[str], str]:
    """The words by which a device is found, and all of them written together."""
    plain = " ".join((device.name, *device.aliases, device.vendor, device.architecture or "")).lower().replace("-", " ")
    return plain.split(), _key(plain)


def _key(text: str) -> str:
    """`text` without case, blanks, punctuation and makers: `NVIDIA A100-SXM4-80GB` → `a100sxm480gb`."""
    plain = _NOISE.sub(" ", text.lower().replace("-", " ").replace("_", " "))
    return re.sub(r"[^a-z0-9+]", "", re.sub(r"sxm[2-5]", "sxm", plain))


@cache
def _keys() -> dict[str, Device]:
    table: dict[str, Device] = {}
    for device in catalogue():
        for name in (device.name, *device.aliases):
            table[_key(name)] = device
    return table


def _exact(text: str) -> Device | None:
    """By full name or alias; `RTX` and `Arc` may be left out, and a size may say `80g` or `80gb`."""
    key = _key(text)
    table = _keys()
    for candidate in (key, f"{key}b", f"rtx{key}", f"rtx{key}b", f"rx{key}", f"arc{key}", re.sub(r"gi?b$", "g", key)):
        if candidate in table:
            return table[candidate]
    return None


def _similar(text: str) -> Device:
    key = _key(text)
    table = _keys()
    words = [word for word in re.split(r"[\s\-_]+", _NOISE.sub(" ", text.lower())) if word]
    hits = {
        device.name: device
        for name, device in table.items()
        if key and (_begins(name, key) or _begins(name, f"rtx{key}") or _named_by(words, device))
    }
    if len(hits) == 1:
        return next(iter(hits.values()))
    if hits:
        names = ", ".join(_typed(device) for device in list(hits.values())[:8])
        more = f" and {len(hits) - 8} more" if len(hits) > 8 else ""
        size = f", or {text.strip()}GiB for a size" if text.strip().isdecimal() else ""
        raise UsageError(f"--gpu {text!r} could be {names}{more}: say which (hfmem devices {text.strip()}){size}")
    from difflib import get_close_matches  # for refusals only

    near = get_close_matches(key, table, n=3, cutoff=0.5)
    names = ", ".join(dict.fromkeys(table[name].name for name in near))
    hint = f"did you mean {names}? " if names else ""
    raise UsageError(
        f"--gpu {text!r} is not a known device ({hint}a size such as 80GiB works too, hfmem devices lists)"
    )


def _begins(name: str, key: str) -> bool:
    """Whether `name` goes on after `key`, and not within a number: an `l2` is no L20."""
    return name.startswith(key) and not (key[-1].isdigit() and name[len(key) :][:1].isdigit())


def _named_by(words: list[str], device: Device) -> bool:
    """Whether each word is one of the device's names' own, or the beginning of one that holds a number (`h100`, `80`)."""
    own = {word for name in (device.name, *device.aliases) for word in re.split(r"[\s\-_()]+", name.lower())}
    return bool(words) and all(
        word in own or (any(c.isdigit() for c in word) and any(_begins(name, word) for name in own)) for word in words
    )


def _typed(device: Device) -> str:
    """The shortest way to name a device on a command line."""
    return device.name.replace(" ", "-").lower()
