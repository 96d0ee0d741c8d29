"""R, the read ceiling: bytes per second of a kernel that reads a buffer far larger than L2 and nothing else, on this device, now.

The best of a few launch shapes counts, each the median of replays. What a graph's node costs without work is measured beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hfmem_kernels._launch import device_facts
from hfmem_kernels.benchmarks.summary import Timing
from hfmem_kernels.benchmarks.timing import Replay, capture, interleave

#: bytes of the stream, at the least
STREAM_BYTES = 2 << 30
#: (words of a tile, warps, programs a multiprocessor) that are tried
SHAPES = ((4096, 8, 4), (4096, 8, 8), (8192, 8, 4), (8192, 8, 8), (16384, 16, 2), (16384, 16, 4), (2048, 4, 16))


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The best stream: its rate, its bytes, its launch shape, and the spread of its timing; `launch_us`: an empty graph node."""

    bytes_per_second: float
    bytes: int
    shape: tuple[int, int, int]
    timing: Timing
    launch_us: float


def stream_words(num_bytes: int) -> int:
    """int32 words of a stream of at least `num_bytes` that every tile divides."""
    largest = max(tile for tile, _, _ in SHAPES)
    return -(-num_bytes // (4 * largest)) * largest


def read_all(data: torch.Tensor, sums: torch.Tensor, shape: tuple[int, int, int], num_sms: int) -> int:
    """Launch one read of `data` (int32 words), and return its number of programs; their sums are in `sums`."""
    from hfmem_kernels.benchmarks._stream_kernel import read_kernel

    tile, warps, per_sm = shape
    programs = min(num_sms * per_sm, data.numel() // tile)
    read_kernel[(programs,)](data, sums, data.numel() // tile, TILE=tile, num_warps=warps)
    return programs


def check_sum(data: torch.Tensor, sums: torch.Tensor, programs: int) -> bool:
    """Whether the programs' sums are those of the data, modulo 2^32 as int32 adds."""
    mine = int(sums[:programs].sum(dtype=torch.int64).item())
    step = 1 << 28
    parts = [data[start : start + step].sum(dtype=torch.int64).item() for start in range(0, data.numel(), step)]
    whole = int(sum(parts))
    return (mine - whole) % (1 << 32) == 0


def measure(device: torch.device, num_bytes: int = STREAM_BYTES) -> Ceiling:
    """R on a CUDA device.

    Raises:
        RuntimeError: a launch shape that did not read everything.
    """
    from hfmem_kernels.benchmarks._stream_kernel import empty_kernel

    num_sms = device_facts(device).num_sms
    data = torch.randint(-(2**31), 2**31 - 1, (stream_words(num_bytes),), dtype=torch.int32, device=device)
    sums = torch.zeros(num_sms * max(each for _, _, each in SHAPES), dtype=torch.int32, device=device)
    replays: dict[str, Replay] = {}
    for shape in SHAPES:
        programs = read_all(data, sums, shape, num_sms)
        if not check_sum(data, sums, programs):
            raise RuntimeError(f"the read stream {shape} did not read everything: no ceiling")
        replays[str(shape)] = capture(lambda _, shape=shape: read_all(data, sums, shape, num_sms), 2)  # type: ignore[misc]
    timings = interleave(replays)
    best = min(SHAPES, key=lambda shape: timings[str(shape)].median_us)
    timing = timings[str(best)]
    read = data.numel() * 4
    launch = interleave({"empty": capture(lambda _: empty_kernel[(num_sms,)](sums), 100)})["empty"].median_us
    return Ceiling(read / (timing.median_us * 1e-6), read, best, timing, launch)
