"""Sizes and counts as people type and read them. Bytes are integers everywhere; text is made here and in `render` only."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from hfmem.errors import UsageError

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
GB: Final = 10**9

#: no real context or batch comes near; a larger number is a slip of the keyboard and would only overflow what reads it
MAX_COUNT: Final = 1 << 40
#: longer numbers are no sizes, and Python refuses to read those of some thousand digits
_MAX_DIGITS: Final = 40

_COUNT = r"(\d+(?:[_,]\d{3})*|\d+\.\d+)([km]?|e\d{1,2})"
_MEMORY = r"(\d+(?:\.\d+)?)\s*([a-z]*)"
_MEMORY_UNITS: Final[dict[str, int]] = {
    "": 1,
    "b": 1,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": GIB << 10,
    "kb": 10**3,
    "mb": 10**6,
    "gb": GB,
    "tb": 10**12,
    # a bare letter is what `nvidia-smi`, Docker and engines mean by it: the power of two
    "k": KIB,
    "m": MIB,
    "g": GIB,
    "t": GIB << 10,
}


def parse_count(text: str, what: str = "count") -> int:
    """A positive number of tokens or sequences: `"131072"`, `"128k"` (× 1024), `"1m"` (× 1024²), `"1.5k"`, `"1e6"` (a million).

    Raises:
        UsageError: not a positive whole number, or above 2^40.
    """
    match = re.fullmatch(_COUNT, text.strip(), re.IGNORECASE | re.ASCII)
    if match is None:
        raise UsageError(f"{what} {text!r} is not a positive whole number (examples: 8192, 32k, 1m)")
    digits, suffix = match.groups()
    if len(digits) > _MAX_DIGITS:
        raise UsageError(f"{what} {text[:_MAX_DIGITS]}… is beyond 2^40")
    suffix = suffix.lower()
    scale = int(10 ** int(suffix[1:])) if suffix.startswith("e") else {"": 1, "k": 1 << 10, "m": 1 << 20}[suffix]
    if "." in digits:
        whole, fraction = digits.split(".")
        scaled = int(whole + fraction) * scale
        value, rest = divmod(scaled, int(10 ** len(fraction)))
        if rest:
            raise UsageError(f"{what} {text!r} is not a whole number")
    else:
        value = int(digits.replace("_", "").replace(",", "")) * scale
    if value < 1:
        raise UsageError(f"{what} must be at least 1, not {text!r}")
    if value > MAX_COUNT:
        raise UsageError(f"{what} {text!r} is beyond 2^40")
    return value


def parse_memory(text: str, what: str = "memory size") -> int:
    """Bytes of `"24GiB"`, `"24GB"` (10⁹), `"80g"` (GiB) or a plain integer of bytes.

    Raises:
        UsageError: not a size, not positive, or beyond 2^60 bytes.
    """
    match = re.fullmatch(_MEMORY, text.strip(), re.IGNORECASE | re.ASCII)
    unit = _MEMORY_UNITS.get(match.group(2).lower()) if match else None
    if match is None or unit is None:
        raise UsageError(f"{what} {text!r} is not a size (examples: 24GiB, 24GB, 80g, 25769803776)")
    digits = match.group(1)
    if len(digits) > _MAX_DIGITS:
        raise UsageError(f"{what} {text[:_MAX_DIGITS]}… is out of range")
    whole, _, fraction = digits.partition(".")
    value = int(whole + fraction) * unit // int(10 ** len(fraction))
    if not 0 < value <= 1 << 60:
        raise UsageError(f"{what} {text!r} is out of range")
    return value


def parse_percent(text: str, what: str) -> Fraction:
    """A share from 0 to 10 (1000 %) of `"10%"` or `"10"`, exact.

    Raises:
        UsageError: not a percentage in that range.
    """
    match = re.fullmatch(r"([0-9]{1,4}(?:\.[0-9]{1,6})?)\s*%?", text.strip())
    if match is None or Fraction(match.group(1)) > 1000:
        raise UsageError(f"{what} {text!r} is not a percentage from 0 to 1000 (example: 10%)")
    return Fraction(match.group(1)) / 100


def parse_share(text: str, what: str = "share") -> Fraction:
    """A share above 0 and up to 1 of `"0.9"` or `"90%"`, exact.

    Raises:
        UsageError: no share in that range.
    """
    try:
        value = Fraction(text.strip().removesuffix("%") if text.isascii() else "") / (
            100 if text.strip().endswith("%") else 1
        )
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"{what} {text!r} is not a share (examples: 0.9, 90%)") from None
    if not 0 < value <= 1:
        raise UsageError(f"{what} {text!r} must be above 0 and at most 1")
    return value


def parse_ratio(text: str, what: str = "ratio") -> float:
    """A ratio above 0 and up to 1000: `"0.9"`, `"2"`.

    Raises:
        UsageError: no number in that range.
    """
    match = re.fullmatch(r"[0-9]{1,4}(?:\.[0-9]{1,9})?|\.[0-9]{1,9}", text.strip(), re.ASCII)
    if match is None or not 0 < float(match[0]) <= 1000:
        raise UsageError(f"{what} {text!r} is not a ratio above 0 and up to 1000 (example: 0.9)")
    return float(match[0])


def parse_gib(text: str, what: str = "size") -> float:
    """A number of GiB, from 0 to 2^20: `"10"`, `"7.5"`.

    Raises:
        UsageError: no number in that range.
    """
    match = re.fullmatch(r"[0-9]{1,7}(?:\.[0-9]{1,9})?|\.[0-9]{1,9}", text.strip(), re.ASCII)
    if match is None or float(match[0]) > 1 << 20:
        raise UsageError(f"{what} {text!r} is not a number of GiB (example: 10)")
    return float(match[0])


def format_gib(num_bytes: int, digits: int = 2) -> str:
    """`16060522496` → `"14.96 GiB"`."""
    return f"{num_bytes / GIB:,.{digits}f} GiB"


def format_bytes(num_bytes: int) -> str:
    """A size in the binary unit that suits, GiB with two decimals: `"14.96 GiB"`, `"37.7 MiB"`, `"128 KiB"`, `"312 B"`."""
    if num_bytes >= GIB:
        return f"{num_bytes / GIB:,.2f} GiB"
    if num_bytes < KIB:
        return f"{num_bytes} B"
    unit, name = (MIB, "MiB") if num_bytes >= MIB else (KIB, "KiB")
    value = num_bytes / unit
    digits = 0 if num_bytes % unit == 0 or value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {name}"


def format_gb(num_bytes: int) -> str:
    """Decimal gigabytes, for downloads and bandwidth only: `"16.1 GB"`, `"538 MB"`."""
    if num_bytes >= GB:
        return f"{num_bytes / GB:,.1f} GB"
    if num_bytes >= 10**6:
        return f"{num_bytes / 10**6:,.0f} MB"
    return f"{num_bytes / 10**3:,.0f} kB"


def format_count(value: int) -> str:
    """Parameters in three significant digits: `8030261248` → `"8.03 B"`."""
    for scale, name in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if 2000 * value >= 1999 * scale:  # from where three digits round up to it
            return f"{value / scale:.3g} {name}" if value < 1000 * scale else f"{value / scale:,.0f} {name}"
    return str(value)


def counted(number: int, word: str) -> str:
    """`1 layer`, `1,024 layers`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"
