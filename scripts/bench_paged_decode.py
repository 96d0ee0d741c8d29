"""Time the paged decode kernels on this machine's GPU, beside every peer that loads: one command, one pass.

    python scripts/bench_paged_decode.py --quick --out OUT            # gate and ten rows, within two minutes
    python scripts/bench_paged_decode.py --out OUT                    # the core grid, within ten
    python scripts/bench_paged_decode.py --grid full --minutes 60 --out OUT
    python scripts/bench_paged_decode.py --report results.json        # tables and plots again, from results

OUT gets results.json (rewritten after every row: the same command goes on where it stopped), report.md, and latency and roofline
as PNG and SVG. A peer is imported where it is installed, or from `--peer-path vllm=FOLDER`; one that is not there is a row that
says so. Without a GPU a few tiny rows are checked in Triton's interpreter, and nothing is timed. kernels/results/README.md has the
plan of a session on a device.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]  # a checkout that is not installed

#: minutes that a grid is given unless the command line says otherwise
MINUTES = {"quick": 2.0, "core": 10.0, "full": None, "smoke": 10.0}
#: processes that compile ahead, at the most, and the share of the minutes that they may take
COMPILERS, COMPILING = 12, 0.35
#: how often a process that lost its device is started again
RESTARTS = 6
#: seconds beyond its minutes after which a child hangs: its last row, the report and the plots take less
GRACE = 60.0
#: status of a child whose device is lost, or that hangs, as the session gives it
LOST = 75


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--grid", choices=("quick", "core", "full", "smoke"), default="core", help="rows [default: core]"
    )
    parser.add_argument("--quick", action="store_true", help="the same as --grid quick")
    parser.add_argument(
        "--minutes", type=float, help="stop before this is over [default: 2 quick, 10 core, else no end]"
    )
    parser.add_argument("--out", type=Path, default=Path("bench-out"), metavar="FOLDER", help="[default: bench-out]")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="go on from this results.json as well")
    parser.add_argument(
        "--peers", default="", metavar="NAMES", help="only these, with commas; none: no peer [default: all]"
    )
    parser.add_argument(
        "--peer-path", action="append", default=[], metavar="NAME=FOLDER", help="where a peer's package lies"
    )
    parser.add_argument(
        "--peer-seconds", type=float, default=40.0, help="set-up time that one peer may take [default: 40]"
    )
    parser.add_argument(
        "--patience", type=float, default=120.0, help="seconds that one contender may take to get ready [default: 120]"
    )
    parser.add_argument("--commit", help="the commit of a checkout that came without its history")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="only make the report and the plots of these results"
    )
    parser.add_argument(
        "--compilers", type=int, help="processes that compile ahead [default: the cores but two, at most 12]"
    )
    parser.add_argument("--warm", metavar="PART/PARTS", help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--after-crash", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seconds-left", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def _child(*words: str) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], *words]


def _compile_ahead(arguments: argparse.Namespace, minutes: float | None) -> None:
    """Fill Triton's cache with several processes; without a GPU there is nothing to compile."""
    import torch

    cores = os.cpu_count() or 1
    count = min(COMPILERS, cores - 2) if arguments.compilers is None else arguments.compilers
    if not torch.cuda.is_available() or count < 2:
        return
    seconds = 60 * COMPILING * minutes if minutes is not None else 600.0
    started = time.monotonic()
    words = ("--worker", "--seconds-left", f"{seconds:.0f}", "--warm")
    children: list[subprocess.Popen[bytes]] = []
    try:
        for part in range(count):
            children.append(subprocess.Popen(_child(*words, f"{part}/{count}")))
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=max(1.0, seconds + 10 - (time.monotonic() - started)))
    finally:  # also where this process is ended
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
    sys.stderr.write(f"compiled ahead for {time.monotonic() - started:.0f} s in {count} processes\n")


def _supervise(arguments: argparse.Namespace) -> int:
    """Run this program as a child, and again where the child lost its device, so that one bad kernel costs one row."""
    started, minutes, status = time.monotonic(), _minutes(arguments), 1
    signal.signal(signal.SIGTERM, _end)  # a child must not outlive this process and keep the device
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.stderr.write(f"error: --out {arguments.out}: {error.strerror}\n")
        return 2
    _compile_ahead(arguments, minutes)
    for attempt in range(RESTARTS + 1):
        command, limit = _child("--worker"), None
        if minutes is not None:
            left = 60 * minutes - (time.monotonic() - started)
            command += ["--seconds-left", f"{left:.0f}"]
            limit = max(left, 0.0) + GRACE
        command += ["--after-crash"] if attempt else []
        try:
            status = subprocess.run(command, timeout=limit).returncode
        except (
            subprocess.TimeoutExpired
        ):  # and ended: the next one, without time, writes down where, and leaves the report
            sys.stderr.write("the run hangs: ended\n")
            status = LOST
        lost = status < 0 or status == LOST
        if not lost or status in (-2, -9, -15):  # done, failed for good, or somebody ended it
            break
    return abs(status)


def _end(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)


def _minutes(arguments: argparse.Namespace) -> float | None:
    return MINUTES[_grid(arguments)] if arguments.minutes is None else float(arguments.minutes)


def _grid(arguments: argparse.Namespace) -> str:
    return "quick" if arguments.quick else str(arguments.grid)


def _work(arguments: argparse.Namespace) -> int:
    import torch

    device = torch.device("cuda") if torch.cuda.is_available() else None
    grid = _grid(arguments)
    if device is None:
        from hfmem_kernels.interpreter import use_interpreter

        use_interpreter()
        grid = "smoke"
        sys.stderr.write("no GPU here: a smoke grid is checked in Triton's interpreter, and nothing is timed\n")
    from hfmem_kernels.benchmarks import program

    words = sys.argv[1 : sys.argv.index("--worker")]
    plan = program.plan(
        grid,
        folder=arguments.out,
        command=shlex.join(["python", "scripts/bench_paged_decode.py", *words]),
        minutes=None if arguments.seconds_left is None else arguments.seconds_left / 60,
        wanted=arguments.peers,
        folders=arguments.peer_path,
        peer_seconds=arguments.peer_seconds,
        patience=arguments.patience,
        earlier=arguments.resume,
        commit=arguments.commit,
        after_crash=arguments.after_crash,
    )
    try:
        if arguments.warm is not None:
            part, parts = arguments.warm.split("/")
            return program.compile_part(plan, device, int(part), int(parts), arguments.seconds_left)
        return program.main(plan, device, grid)
    except program.ResultsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def main() -> int:
    """The program."""
    if sys.version_info < (3, 11):  # noqa: UP036 - it runs from a checkout, which no installer has checked
        sys.stderr.write(f"error: this needs Python 3.11 or later, and runs in {sys.version.split()[0]}\n")
        return 2
    arguments = _arguments()
    if "TRITON_CACHE_DIR" not in os.environ and not os.access(Path.home(), os.W_OK):  # Triton would put it there
        os.environ["TRITON_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / "hfmem-triton")
    if arguments.report is not None:
        from hfmem_kernels.benchmarks import program

        return program.show(arguments.report, arguments.out)
    return _work(arguments) if arguments.worker else _supervise(arguments)


if __name__ == "__main__":
    sys.exit(main())
