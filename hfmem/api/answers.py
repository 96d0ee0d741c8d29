"""The answer to "does it fit": the report on the devices, and what would make it fit."""

from __future__ import annotations

from typing import Any

from hfmem.api.configuration import Configuration
from hfmem.api.configuring import configure
from hfmem.api.reading import Model
from hfmem.api.remedies import Remedy, remedies
from hfmem.plan.devices import Device
from hfmem.records import dataclass
from hfmem.report import Report


@dataclass(frozen=True, slots=True)
class FitAnswer:
    """The report on the devices and, where it does not fit, the remedies in order of least loss."""

    report: Report
    remedies: tuple[Remedy, ...] = ()


def fit(model: str | Model, *, device: str | Device, **settings: Any) -> FitAnswer:
    """Whether a model fits `device` and, if not, what would make it fit.

    Args:
        settings: as `hfmem.estimate`, solver words included.

    Raises:
        UsageError, SourceError, UnsupportedError: as `hfmem.estimate`.
    """
    return answer(configure(model, device=device, **settings))


def answer(found: Configuration) -> FitAnswer:
    """The report of `found` and, where it does not fit its devices, what would make it fit."""
    report = found.report()
    if report.fit is None or report.fit.verdict != "does-not-fit":
        return FitAnswer(report)
    return FitAnswer(report, tuple(remedies(found, report.fit)))
