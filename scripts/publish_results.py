"""Take measured results into the repository, and bring what is made from them up to date.

python scripts/publish_results.py RESULTS.json …     # check, copy to kernels/results/<device>/, then write
python scripts/publish_results.py                    # write the table in kernels/README.md and hfmem's efficiency table
python scripts/publish_results.py --check            # exit 1 if one of them is out of date
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from hfmem_kernels.benchmarks import publish, results  # noqa: E402
from hfmem_kernels.benchmarks.grid import full_grid  # noqa: E402

RESULTS = ROOT / "kernels" / "results"
MEASURED = ROOT / "hfmem" / "plan" / "data" / "measured.json"
README = ROOT / "kernels" / "README.md"


def wanted() -> dict[Path, str]:
    """The files that are made from the results, and what they should hold."""
    rows, devices = full_grid(), publish.newest(RESULTS)
    table = {}
    for name, (path, found) in sorted(devices.items()):
        entry = publish.efficiency(found, rows, path.relative_to(ROOT).as_posix())
        if entry is not None:
            table[name] = entry
    block = publish.readme_block(devices, rows)
    return {
        MEASURED: json.dumps({"devices": table}, indent=1) + "\n",
        README: publish.with_block(README.read_text(encoding="utf-8"), block),
    }


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="RESULTS.json")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if something is out of date")
    arguments = parser.parse_args()
    try:
        for path in arguments.files:
            found = results.read(path)
            if found["method"] != "device":
                raise results.ResultsError(f"{path}: made by {found['method']}, not measured on a device")
            results.write(RESULTS / publish.file_name(found), found)
        files = wanted()
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    stale = [path for path, text in files.items() if path.read_text(encoding="utf-8") != text]
    for path in stale:
        if not arguments.check:
            path.write_text(files[path], encoding="utf-8")
        sys.stderr.write(f"{path.relative_to(ROOT)}: {'out of date' if arguments.check else 'written'}\n")
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
