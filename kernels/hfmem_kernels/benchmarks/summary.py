"""Samples to numbers: medians with their spread, and the line t = t0 + bytes / R through several of them. Plain Python."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds of one call: the median, the bounds of the middle 80 % of the samples, and how many there were."""

    median_us: float
    low_us: float
    high_us: float
    samples: int

    @property
    def spread(self) -> float:
        """Half the middle 80 % over the median: differences below it say nothing."""
        return (self.high_us - self.low_us) / 2 / self.median_us


def summarize(samples: Sequence[float]) -> Timing:
    """The timing that samples in microseconds amount to.

    Raises:
        ValueError: no sample.
    """
    if not samples:
        raise ValueError("samples: expected at least one")
    if len(samples) == 1:
        return Timing(samples[0], samples[0], samples[0], 1)
    tenths = statistics.quantiles(samples, n=10, method="inclusive")
    return Timing(statistics.median(samples), tenths[0], tenths[-1], len(samples))


def bytes_per_second(num_bytes: int, microseconds: float) -> float:
    """A rate."""
    return num_bytes / (microseconds * 1e-6)


@dataclass(frozen=True, slots=True)
class Line:
    """t = `launch_us` + bytes / `bytes_per_second`, by least squares over the relative error, so that short calls count too."""

    launch_us: float
    bytes_per_second: float


def fit_line(points: Sequence[tuple[int, float]]) -> Line | None:
    """The line through (bytes, microseconds); None for fewer than three points, or where time does not grow with bytes.

    Minimises Σ ((a + b · x - t) / t)²: with u = 1 / t and v = x / t, the normal equations of a · u + b · v = 1.
    """
    if len(points) < 3:
        return None
    uu = sum(1 / t**2 for _, t in points)
    uv = sum(x / t**2 for x, t in points)
    vv = sum(x**2 / t**2 for x, t in points)
    u = sum(1 / t for _, t in points)
    v = sum(x / t for x, t in points)
    determinant = uu * vv - uv * uv
    if determinant <= 0:
        return None
    a, b = (u * vv - v * uv) / determinant, (v * uu - u * uv) / determinant
    return Line(a, 1e6 / b) if b > 0 else None
