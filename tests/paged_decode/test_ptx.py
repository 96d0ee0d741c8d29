"""The PTX that decodes 8-bit elements, executed by a small emulator for every byte value, against torch's own conversion.

The interpreter cannot run PTX and a GPU is not always there; the handful of instructions used is easily said in Python.
"""

from __future__ import annotations

import re
import struct

import pytest
import torch

from hfmem_kernels import _kernels_common as common
from hfmem_kernels import _kernels_nvfp4 as nvfp4

MASK = 0xFFFFFFFF


def half(bits: int) -> float:
    value: float = struct.unpack("<e", struct.pack("<H", bits & 0xFFFF))[0]
    return value


def bits_of(value: float) -> int:
    bits: int = struct.unpack("<H", struct.pack("<e", value))[0]
    return bits


def permute_bytes(a: int, b: int, selector: int) -> int:
    """prmt.b32: each nibble of the selector picks one of the eight bytes of b:a."""
    pool = list(a.to_bytes(4, "little") + b.to_bytes(4, "little"))
    picked = []
    for i in range(4):
        nibble = selector >> (4 * i) & 0xF
        assert nibble < 8, "sign replication is not used here"
        picked.append(pool[nibble])
    return int.from_bytes(bytes(picked), "little")


def lop3(a: int, b: int, c: int, table: int) -> int:
    result = 0
    for bit in range(32):
        index = (a >> bit & 1) << 2 | (b >> bit & 1) << 1 | (c >> bit & 1)
        result |= (table >> index & 1) << bit
    return result


def convert_e4m3(pair: int) -> int:
    low, high = torch.tensor([pair & 0xFF, pair >> 8], dtype=torch.uint8).view(torch.float8_e4m3fn).float().tolist()
    return bits_of(high) << 16 | bits_of(low)


def execute(ptx: str, word: int, results: int = 2) -> tuple[int, ...]:
    """Run the instructions on the word that follows the results, $2 after $0 and $1; returns those."""
    registers: dict[str, int] = {f"${results}": word}

    def value(name: str) -> int:
        return registers[name] if name in registers else int(name, 0)

    for line in ptx.strip().strip("{}").split(";"):
        line = line.strip()
        if not line or line.startswith(".reg"):
            continue
        op, rest = line.split(maxsplit=1)
        unpacked = re.match(r"\{(\w+), (\w+)\}, (.*)", rest)
        if op == "mov.b32" and unpacked:
            registers[unpacked[1]], registers[unpacked[2]] = value(unpacked[3]) & 0xFFFF, value(unpacked[3]) >> 16
            continue
        target, *names = [part.strip() for part in rest.split(",")]
        a = [value(n) for n in names]
        match op:
            case "shl.b32":
                result = a[0] << a[1] & MASK
            case "shr.u32":
                result = a[0] >> a[1]
            case "and.b32":
                result = a[0] & a[1]
            case "xor.b32":
                result = a[0] ^ a[1]
            case "mov.b32":
                result = a[0]
            case "lop3.b32":
                result = lop3(*a)
            case "prmt.b32":
                result = permute_bytes(*a)
            case "sub.rn.f16x2":
                pairs = [(a[0] >> s & 0xFFFF, a[1] >> s & 0xFFFF) for s in (0, 16)]
                low, high = (bits_of(half(x) - half(y)) for x, y in pairs)
                result = high << 16 | low
            case "cvt.rn.f16x2.e4m3x2":
                result = convert_e4m3(a[0])
            case _:
                raise AssertionError(f"not emulated: {op}")
        registers[target] = result
    return tuple(registers[f"${number}"] for number in range(results))


PROGRAMS = {
    "e4m3": (common.PTX_E4M3, torch.float8_e4m3fn, 2.0**-8),
    "e4m3_convert": (common.PTX_E4M3_CONVERT, torch.float8_e4m3fn, 1.0),
    "e5m2": (common.PTX_E5M2, torch.float8_e5m2, 1.0),
    "int8": (common.PTX_INT8, torch.int8, 1.0),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_byte_in_every_place(name: str) -> None:
    program, dtype, factor = PROGRAMS[name]
    truth = torch.arange(256, dtype=torch.uint8).view(dtype).float().tolist()
    for byte in range(256):
        others = (byte * 7 + 1) % 256, (byte * 13 + 5) % 256, (byte * 29 + 11) % 256
        if truth[byte] != truth[byte] or any(truth[o] != truth[o] for o in others):
            continue  # NaN: e4m3 has one code, which a saturating writer never stores
        for place in range(4):
            quad = [*others]
            quad.insert(place, byte)
            even, odd = execute(program.value, int.from_bytes(bytes(quad), "little"))
            decoded = [half(even), half(odd), half(even >> 16), half(odd >> 16)]
            assert decoded == [truth[b] * factor for b in quad]


def test_every_e2m1_code_in_every_place() -> None:
    """OCP microscaling formats 1.0: e2m1 is 0, 0.5, 1, 1.5, 2, 3, 4, 6 and the same with a sign; it comes out times 2**-14."""
    magnitudes = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    for code in range(16):
        for place in range(8):
            codes = [(code * 5 + 3 * other + 1) % 16 for other in range(8)]
            codes[place] = code
            word = sum(c << (4 * i) for i, c in enumerate(codes))
            planes = execute(nvfp4.PTX_E2M1.value, word, 4)
            decoded = [half(planes[i % 4] >> (16 * (i // 4))) for i in range(8)]
            assert decoded == [magnitudes[c & 7] * (-1 if c & 8 else 1) * 2.0**-14 for c in codes]


def test_the_emulator_sees_a_wrong_constant() -> None:
    wrong = common.PTX_E4M3.value.replace("0x3f803f80", "0x3f003f80")
    assert execute(wrong, 0x39393939) != execute(common.PTX_E4M3.value, 0x39393939)
