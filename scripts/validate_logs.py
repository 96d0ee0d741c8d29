#!/usr/bin/env python3
"""Predicted against logged for rows of real server logs, and how the errors are distributed.

    python scripts/validate_logs.py [LOGS.jsonl] [--configs FOLDER]... [--json | --table] [--figures FILE]

`log_rows.py` says what a row is. Models come from the shipped catalogue, or from config.json files in the folders given
(`org__name/config.json`, `org__name.json`, `org--name.json`). Nothing is fetched.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from hfmem.server_logs.checks import Check
from hfmem.units import GIB
from log_errors import distribution, table, write_table
from log_models import Models
from log_rows import Row, check_row, figures

#: figures of public logs: numbers, settings and where they are from
FIGURES = Path(__file__).parent / "logged_figures.jsonl"


def main() -> int:
    """Print the comparison and the distribution."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="?", default=FIGURES, help="rows, one a line [default: %(default)s]")
    parser.add_argument("--figures", type=Path, help="write the figures of the rows there, and compare nothing")
    parser.add_argument("--configs", type=Path, action="append", default=[], help="folder of config.json files")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--table", "--readme", action="store_true", help="write the distribution into docs/accuracy.md")
    options = parser.parse_args()
    if options.figures:
        with options.logs.open(encoding="utf-8") as file:
            kept = [figures(json.loads(line)) for line in file if line.strip()]
        text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in kept if row)
        options.figures.write_text(text, encoding="utf-8")
        return 0
    models = Models(options.configs)
    with options.logs.open(encoding="utf-8") as file:
        raw = [json.loads(line) for line in file if line.strip()]
    rows = [replace(check_row(row, models), part=str(row.get("set", ""))) for row in raw]
    parts = dict.fromkeys(row.part for row in rows)
    summary = {part: distribution(row for row in rows if row.part == part) for part in parts}
    if options.table:
        write_table(table(summary), Path(__file__).parent.parent / "docs" / "accuracy.md")
        return 0
    if options.json:
        answer = {"rows": [_plain(row) for row in rows], "distribution": summary.get("", summary)}
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
        return 0
    for row in rows:
        for item in row.checks:
            error = "" if item.difference is None else f"{item.difference:+8.2%}"
            reason = f"  ({item.reason})" if item.reason else ""
            values = f"{_text(item.logged, item):>14} {_text(item.predicted, item):>14} {error}"
            print(f"{row.id:>4} {row.model[:44]:<44} {item.what:<26} {values} {item.verdict}{reason}")
    unusable = [row for row in rows if row.unusable]
    print(f"\nnot usable: {len(unusable)} of {len(rows)} rows")
    for row in unusable:
        print(f"{row.id:>4} {row.model[:44]:<44} {row.unusable}")
    for part, found in summary.items():
        print(
            f"\n{part:<28} {'n':>4} {'median':>8} {'p90':>8} {'<= 1 %':>7} {'<= 10 %':>7} {'in band':>7} {'p90 with reasons':>17}"
        )
        for name, own in found.items():
            band = "" if own["in_band"] is None else f"{own['in_band']:.0%}"
            print(
                f"{name:<28} {own['n']:>4} {own['median']:>8.2%} {own['p90']:>8.2%} {own['within_1']:>7.0%}"
                f" {own['within_10']:>7.0%} {band:>7} {own['p90_under_the_reason']:>17.2%}"
            )
    return 0


def _text(value: float | None, item: Check) -> str:
    if value is None:
        return "-"
    return f"{value / GIB:,.3f} GiB" if item.measure == "bytes" else f"{value:,.2f}".removesuffix(".00")


def _plain(row: Row) -> dict[str, Any]:
    checks = [{name: getattr(item, name) for name in Check.__slots__} for item in row.checks]
    return {"id": row.id, "engine": row.engine, "model": row.model, "unusable": row.unusable, "checks": checks}


if __name__ == "__main__":
    sys.exit(main())
