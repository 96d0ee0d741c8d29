"""Results as Markdown: what was measured, against what, which targets that meets; and the table that goes into the README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hfmem_kernels.benchmarks import results as stored
from hfmem_kernels.benchmarks.rows import Row
from hfmem_kernels.benchmarks.summary import Timing, fit_line
from hfmem_kernels.benchmarks.targets import Measured, Verdict, evaluate

Results = Mapping[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> list[str]:
    """A Markdown table; the first `left` columns are text, the others numbers."""
    marks = ["---"] * left + ["---:"] * (len(head) - left)
    lines = [head, marks, *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def report(results: Results, rows: Sequence[Row], planned: int | None = None) -> str:
    """The whole report. `rows`: the grid that the results belong to; `planned`: items that the run was to do."""
    lines = ["# Paged decode attention, measured" if results["method"] == "device" else _title(results), ""]
    lines += [*_head(results), ""]
    measured = stored.measured(results, rows)
    if results["method"] != "interpreter":
        lines += ["## Targets", "", *targets_table(evaluate(rows, measured)), ""]
        lines += ["## Rows", "", *rows_table(results, measured), ""]
        lines += _line_through(measured)
        lines += _experiments(results)
    else:
        lines += ["## Checked", "", *_checked(results), ""]
    lines += _not_there(results)
    if planned is not None:
        done = len(results["rows"]) + len(results["experiments"])
        lines += [f"{done} of {planned} items have a record."] if done < planned else []
    return "\n".join(lines).rstrip() + "\n"


def _title(results: Results) -> str:
    if results["method"] == "fixture":
        return "# Made-up numbers, to look at the report with: nothing here was measured"
    return "# No GPU: the smoke grid, checked in Triton's interpreter; nothing was timed"


def _head(results: Results) -> list[str]:
    device, software, source = results["device"], results["software"], results["source"]
    changed = ", changed since" if source.get("dirty") else ""
    size = f"{device['multiprocessors']} multiprocessors, {device['memory_bytes'] / 2**30:.1f} GiB"
    versions = [
        f"{name} {software[name]}" for name in ("driver", "cuda", "torch", "triton", "python") if software[name]
    ]
    lines = [
        f"`{results['command']}`",
        "",
        f"- {device['name']}" + (f", {size}" if device["l2_bytes"] else ""),
        "- " + ", ".join(versions),
        f"- commit {source['commit'] or 'not known'}{changed}, kernels {source['fingerprint']}",
    ]
    for session in results["sessions"]:
        text = f"- {session['started']}, {session['seconds']:.0f} s"
        if session["ceiling"]:
            found = session["ceiling"]
            text += f": R = {found['bytes_per_second'] / 1e12:.3f} TB/s over {found['bytes'] / 1e9:.1f} GB"
        if session.get("launch_us"):
            text += f", an empty graph node {session['launch_us']:.1f} µs"
        lines.append(text + _clocks(session.get("readings") or []))
    return lines


def _clocks(readings: Sequence[Mapping[str, float] | None]) -> str:
    """The range of what the driver read during the run."""
    parts = []
    for name, unit in (("sm_mhz", "MHz"), ("celsius", "°C"), ("watts", "W")):
        values = [reading[name] for reading in readings if reading and name in reading]
        if values:
            parts.append(f"{min(values):.0f}–{max(values):.0f} {unit}")
    return f" ({', '.join(parts)})" if parts else ""


def targets_table(verdicts: Sequence[Verdict]) -> list[str]:
    """One row a criterion, with the worst row's value."""
    rows = []
    for each in verdicts:
        value = "" if each.value is None else f"{each.value:.3g}"
        status = f"**{each.status}**" if each.status == "missed" else each.status
        if each.stretch and each.status == "met":
            status += ", stretch too"
        if each.static and each.status == "not measured":
            status += f", only static ({', '.join(each.static)})"
        rows.append((each.region, each.text, status, each.row or "", value, str(each.rows)))
    return table(("region", "target", "", "worst row", "value", "rows"), rows, left=4)


def rows_table(results: Results, measured: Mapping[str, Measured]) -> list[str]:
    """One row a measurement: ours, its share of R, the peers' times over ours."""
    names = sorted({name for item in results["rows"] for name, peer in item["peers"].items() if peer["status"] == "ok"})
    rows = []
    for item in results["rows"]:
        found = measured.get(item["name"])
        if found is None:
            rows.append((item["name"], f"{item['status']}: {item.get('reason', '')}", *[""] * (len(names) + 3)))
            continue
        peers = [f"{found.peers[name] / found.microseconds:.2f}" if name in found.peers else "" for name in names]
        rate = found.row.traffic.kv_bytes / (found.microseconds * 1e-6) / 1e9
        size = f"{found.row.traffic.kv_bytes / 1e6:,.1f}"
        time = _time(stored.timing_of(item["ours"]))
        rows.append((item["name"], time, size, f"{rate:,.0f}", f"{found.share:.1%}", *peers))
    head = ("row", "µs", "MB of cache", "GB/s", "of R", *(f"{name} ÷ ours" for name in names))
    return table(head, rows)


def _line_through(measured: Mapping[str, Measured]) -> list[str]:
    """t0 and the slope of the plain bf16 rows of 16-token pages."""
    points = [
        (each.row.traffic.kv_bytes, each.microseconds)
        for each in measured.values()
        if each.row.dtype == "bfloat16"
        and each.row.page_size == 16
        and each.row.q_len == 1
        and not each.row.shape.window
    ]
    line = fit_line(points)
    if line is None:
        return []
    rate = line.bytes_per_second / 1e12
    return [
        f"Through the {len(points)} bf16 rows with 16-token pages: t = {line.launch_us:.1f} µs + bytes / {rate:.2f} TB/s.",
        "",
    ]


def _experiments(results: Results) -> list[str]:
    lines = ["## Experiments", ""] if results["experiments"] else []
    for item in results["experiments"]:
        lines += [f"{item['question']} ({item['row']})", ""]
        if item["status"] != "ok":
            lines += [f"{item['status']}: {item['reason']}", ""]
            continue
        times = {name: found["median_us"] for name, found in item["contenders"].items() if found["status"] == "ok"}
        base = times.get("as it is")
        rows = []
        for name, found in item["contenders"].items():
            if name not in times:
                rows.append((name, f"{found['status']}: {found['reason']}", "", ""))
                continue
            rate = item["facts"]["kv_bytes"] / (times[name] * 1e-6) / 1e9
            against = f"{times[name] / base:.3f}" if base else ""
            rows.append((name, _time(stored.timing_of(found)), f"{rate:,.0f}", against))
        lines += [*table(("variant", "µs", "GB/s", "÷ as it is"), rows), ""]
    return lines


def _time(timing: Timing) -> str:
    """Microseconds with their spread, if it is known."""
    return f"{timing.median_us:,.1f}" + (f" ± {timing.spread:.1%}" if timing.samples else "")


def _checked(results: Results) -> list[str]:
    rows = []
    for item in results["rows"]:
        gate = item["gate"]
        found = f"{gate['worst']:.2f} of the bound" if gate else item.get("reason", "")
        peers = ", ".join(
            f"{name} {peer['status']}" for name, peer in item["peers"].items() if peer["status"] != "skipped"
        )
        rows.append((item["name"], item["status"], found, peers))
    return table(("row", "", "error", "peers"), rows, left=4)


def _not_there(results: Results) -> list[str]:
    """Peers without any result, each with the reasons that its rows give."""
    reasons: dict[str, dict[str, int]] = {}
    ran = set()
    for item in results["rows"]:
        for name, peer in item["peers"].items():
            if peer["status"] == "ok":
                ran.add(name)
            else:
                counts = reasons.setdefault(name, {})
                counts[peer["reason"]] = counts.get(peer["reason"], 0) + 1
    rows = [
        (
            name,
            "some rows" if name in ran else "no row",
            "; ".join(f"{reason} ({count})" for reason, count in counts.items()),
        )
        for name, counts in sorted(reasons.items())
    ]
    return (
        ["## Peers that did not run", "", *table(("peer", "ran on", "why not elsewhere"), rows, left=3), ""]
        if rows
        else []
    )
