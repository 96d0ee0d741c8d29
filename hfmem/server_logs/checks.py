"""The form of a comparison: one check a line, and the whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from hfmem.records import dataclass
from hfmem.server_logs.parse import Reading

Measure = Literal["bytes", "count"]
#: `equal` to the last digit printed, `near` within 1 %, `within` the band of an estimate, `differs`, or no prediction (`unknown`)
Verdict = Literal["equal", "near", "within", "differs", "unknown"]

_NEAR: Final = 0.01


@dataclass(frozen=True, slots=True)
class Check:
    """One number of the log and its prediction. `difference` is (predicted − logged) / logged; `low` and `high` are the band of
    an estimate; `reason` is the assumption that explains a difference, `met` what is predicted under it."""

    what: str
    measure: Measure
    line: int
    logged: int | float
    predicted: int | float | None
    difference: float | None
    verdict: Verdict
    low: int | None = None
    high: int | None = None
    reason: str | None = None
    met: int | float | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """A log against its prediction: checks, flags that calibrate the next estimate, and what was taken for granted."""

    model: str
    engine: str
    version: str | None
    context: int
    tp: int
    pp: int
    kv_dtype: str
    checks: tuple[Check, ...]
    flags: Mapping[str, str]
    assumptions: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether every line is met or explained."""
        return all(item.verdict not in ("differs", "unknown") or item.reason for item in self.checks)


def check(
    what: str,
    measure: Measure,
    logged: Reading,
    predicted: int | float | None,
    *,
    low: int | None = None,
    high: int | None = None,
    estimated: bool = False,
    share: float = 0.0,
) -> Check:
    """The comparison of one reading. `share`: how far the prediction itself may be off because its input was rounded in the log."""
    if predicted is None:
        return Check(what, measure, logged.line, logged.value, None, None, "unknown")
    gap = abs(predicted - logged.value)
    relative = (predicted - logged.value) / abs(logged.value) if logged.value else None
    verdict: Verdict = "differs"
    one = 1 if share and isinstance(logged.value, int) else 0  # a page or token more or less
    if gap <= logged.slack + share * abs(predicted) + one:
        verdict = "equal"
    elif gap <= _NEAR * abs(logged.value):
        verdict = "near"
    elif estimated and low is not None and high is not None and low <= logged.value <= high:
        verdict = "within"
    return Check(what, measure, logged.line, logged.value, predicted, relative, verdict, low, high)
