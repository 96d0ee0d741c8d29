"""The file that a run leaves: its form, its validator and its reader. JSON in, plain dicts out, no torch.

    schema          1
    method          "device": timed there · "interpreter": correctness only, nothing timed · "fixture": made up, for tests
    command         what was typed
    device          name, catalogue (hfmem's name for it, or null), capability, multiprocessors, memory_bytes, l2_bytes,
                    bf16_operations (a second, by the data sheet; null if not known)
    software        python, torch, triton, cuda, driver, hfmem
    source          commit, dirty, fingerprint (of the kernels' files): rows of other sources are never mixed
    sessions[]      one for each start of the program: started, seconds, ceiling, launch_us, readings
    rows[]          one for each row that was tried: name, status, reason, session, facts, gate, ours, peers
    experiments[]   question, row, status, reason, session, contenders

A timing is {median_us, low_us, high_us, samples}, samples 0 where only the median is known; ours and each peer that ran hold one, a
peer that did not holds its reason. A row's share of the ceiling is taken with that of its own session.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hfmem_kernels.benchmarks.rows import Row
from hfmem_kernels.benchmarks.summary import Timing
from hfmem_kernels.benchmarks.targets import Measured

SCHEMA = 1
METHODS = ("device", "interpreter", "fixture")
#: ok: measured (or, in the interpreter, checked) · wrong: the result is not right, so nothing was timed · failed: an error ·
#: skipped: does not fit, or cannot be
STATUSES = ("ok", "wrong", "failed", "skipped")


class ResultsError(ValueError):
    """A results file that breaks its form; the message says where."""


def read(path: Path) -> dict[str, Any]:
    """A results file, checked.

    Raises:
        OSError: it cannot be read.
        ResultsError: it is no JSON, or breaks the form.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultsError(f"{path}: not JSON ({error})") from None
    try:
        validate(found)
    except ResultsError as error:
        raise ResultsError(f"{path}: {error}") from None
    return dict(found)


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Replace the file in one step, so that a run that is killed leaves the last whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)


def validate(results: Any) -> None:
    """Check the form of a results file.

    Raises:
        ResultsError: the first thing that is not as `results` describes.
    """
    top = _object(results, "the file")
    _equal(_key(top, "schema", "the file"), SCHEMA, "schema")
    method = _key(top, "method", "the file")
    _one_of(method, METHODS, "method")
    _text(_key(top, "command", "the file"), "command")
    device = _object(_key(top, "device", "the file"), "device")
    _text(_key(device, "name", "device"), "device.name")
    for name in ("multiprocessors", "memory_bytes", "l2_bytes"):
        _count(_key(device, name, "device"), f"device.{name}")
    software = _object(_key(top, "software", "the file"), "software")
    for name in ("python", "torch", "triton", "cuda", "driver", "hfmem"):
        _key(software, name, "software")
    source = _object(_key(top, "source", "the file"), "source")
    _text(_key(source, "fingerprint", "source"), "source.fingerprint")
    _key(source, "commit", "source")
    sessions = _array(_key(top, "sessions", "the file"), "sessions")
    for number, session in enumerate(sessions):
        _session(session, f"sessions[{number}]", timed=method != "interpreter")
    for kind, check in (("rows", _row), ("experiments", _experiment)):
        seen: set[str] = set()
        for number, item in enumerate(_array(_key(top, kind, "the file"), kind)):
            where = f"{kind}[{number}]"
            name = check(_object(item, where), where, len(sessions), method != "interpreter")
            if name in seen:
                raise ResultsError(f"{where}: {name!r} is there twice")
            seen.add(name)


def _session(value: Any, where: str, *, timed: bool) -> None:
    session = _object(value, where)
    _text(_key(session, "started", where), f"{where}.started")
    _number(_key(session, "seconds", where), f"{where}.seconds")
    ceiling = _key(session, "ceiling", where)
    if not timed:
        _equal(ceiling, None, f"{where}.ceiling")
    elif ceiling is not None:  # a run that was killed before it was measured
        _number(_key(_object(ceiling, where), "bytes_per_second", where), f"{where}.ceiling.bytes_per_second", above=0)
        _count(_key(ceiling, "bytes", where), f"{where}.ceiling.bytes")


def _common(item: Mapping[str, Any], where: str, sessions: int) -> None:
    status = _key(item, "status", where)
    _one_of(status, STATUSES, f"{where}.status")
    if status != "ok":
        _text(_key(item, "reason", where), f"{where}.reason")
    session = _key(item, "session", where)
    if not isinstance(session, int) or not 0 <= session < sessions:
        raise ResultsError(f"{where}.session: expected a number below {sessions}, found {session!r}")


def _row(item: Mapping[str, Any], where: str, sessions: int, timed: bool) -> str:
    name = _text(_key(item, "name", where), f"{where}.name")
    _common(item, where, sessions)
    facts = _object(_key(item, "facts", where), f"{where}.facts")
    _count(_key(facts, "kv_bytes", where), f"{where}.facts.kv_bytes")
    ours = _key(item, "ours", where)
    if item["status"] == "ok" and timed:
        _timing(ours, f"{where}.ours")
    elif ours is not None:
        raise ResultsError(f"{where}.ours: a timing where none can be")
    _contenders(_key(item, "peers", where), f"{where}.peers", timed)
    return name


def _experiment(item: Mapping[str, Any], where: str, sessions: int, timed: bool) -> str:
    question = _text(_key(item, "question", where), f"{where}.question")
    row = _text(_key(item, "row", where), f"{where}.row")
    _common(item, where, sessions)
    _contenders(_key(item, "contenders", where), f"{where}.contenders", timed)
    return f"{question} · {row}"


def _contenders(value: Any, where: str, timed: bool) -> None:
    for name, found in _object(value, where).items():
        contender = _object(found, f"{where}.{name}")
        _one_of(_key(contender, "status", f"{where}.{name}"), STATUSES, f"{where}.{name}.status")
        if contender["status"] != "ok":
            _text(_key(contender, "reason", f"{where}.{name}"), f"{where}.{name}.reason")
        elif timed:
            _timing(contender, f"{where}.{name}")
        elif "median_us" in contender:
            raise ResultsError(f"{where}.{name}: a timing where none can be")


def _timing(value: Any, where: str) -> None:
    timing = _object(value, where)
    low, median, high = (
        _number(_key(timing, name, where), f"{where}.{name}", above=0) for name in ("low_us", "median_us", "high_us")
    )
    if not low <= median <= high:
        raise ResultsError(f"{where}: the median {median} is not between {low} and {high}")
    _count(_key(timing, "samples", where), f"{where}.samples")


def _key(value: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in value:
        raise ResultsError(f"{where}: {name!r} is missing")
    return value[name]


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ResultsError(f"{where}: expected an object, found {value!r:.60}")
    return value


def _array(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ResultsError(f"{where}: expected an array, found {value!r:.60}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise ResultsError(f"{where}: expected text, found {value!r:.60}")
    return value


def _number(value: Any, where: str, above: float = -1.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < float("inf"):
        raise ResultsError(f"{where}: expected a number above {above:g}, found {value!r:.60}")
    return float(value)


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ResultsError(f"{where}: expected a count, found {value!r:.60}")
    return value


def _equal(value: Any, wanted: Any, where: str) -> None:
    if value != wanted:
        raise ResultsError(f"{where}: expected {wanted!r}, found {value!r:.60}")


def _one_of(value: Any, allowed: Iterable[str], where: str) -> None:
    if value not in tuple(allowed):
        raise ResultsError(f"{where}: expected one of {', '.join(allowed)}, found {value!r:.60}")


def timing_of(found: Mapping[str, Any]) -> Timing:
    """A stored timing."""
    return Timing(found["median_us"], found["low_us"], found["high_us"], found["samples"])


def measured(results: Mapping[str, Any], rows: Iterable[Row]) -> dict[str, Measured]:
    """What was timed, by the rows' names: those of `rows` that are in the file with a time and a ceiling."""
    by_name = {row.name: row for row in rows}
    found = {}
    for item in results["rows"]:
        row, session = by_name.get(item["name"]), results["sessions"][item["session"]]
        if row is None or item["status"] != "ok" or item["ours"] is None or session["ceiling"] is None:
            continue
        peers = {name: peer["median_us"] for name, peer in item["peers"].items() if peer["status"] == "ok"}
        found[row.name] = Measured(row, item["ours"]["median_us"], session["ceiling"]["bytes_per_second"], peers)
    return found


def finished(results: Mapping[str, Any], peers: Iterable[str] = ()) -> set[str]:
    """Names of the items that need no second try: they ran with every one of `peers` tried, were wrong, or cannot run."""
    wanted = set(peers)
    return {
        item_name(item)
        for item in [*results["rows"], *results["experiments"]]
        if item["status"] in ("ok", "wrong", "skipped")
        and (item["status"] != "ok" or wanted <= set(item.get("peers", wanted)))
    }


def item_name(item: Mapping[str, Any]) -> str:
    """The name that a row or an experiment is stored under."""
    return str(item["name"]) if "name" in item else f"{item['question']} · {item['row']}"
