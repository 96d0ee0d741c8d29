"""All that a GPU of fifteen minutes is asked, in one call that ends in time: what matters most first, results after every step.

    python scripts/device_session.py [--seconds 560] [--copy FOLDER] [--peers FOLDER] [--commit COMMIT] [--only NAME,…]
    python scripts/device_session.py --place FOLDER --from vllm=DIR --from sglang=DIR --from lmdeploy=DIR

The second form copies the few files of three engines that the peers' adapters import, so that they can travel with a checkout.
OUT, session-out unless said otherwise, gets session.log, the benchmark's files and session.json: {step: status, seconds}. The same
command goes on where it stopped as long as OUT is there: a step that ended well is not run again. What is to be taken home, the log
and two files, is copied to --copy after every step. A step has a limit and is ended, with what it started, when that or the
session's time is over; one that would have less than its least is left for the next call. Needs nothing but what the steps need.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: files of the engines' wheels that the adapters import, in their places
PEER_FILES = {
    "vllm": (
        "v1/attention/ops/triton_unified_attention.py",
        "v1/attention/ops/triton_decode_attention.py",
        "v1/attention/ops/triton_attention_helpers.py",
        "v1/kv_cache_interface.py",
    ),
    "sglang": tuple(f"kernels/ops/attention/{name}.py" for name in ("decode_attention", "metadata", "score_mod")),
    "lmdeploy": (
        "messages.py",
        *(f"pytorch/kernels/cuda/{name}.py" for name in ("pagedattention", "turbo_quant", "utils")),
    ),
}
#: what of OUT is worth keeping: the rest is made from results.json
KEPT = ("session.json", "session.log", "bench/results.json")
#: seconds that a step is given to end by itself, and that are kept for the last line
ENDING, ASIDE = 5.0, 3.0


@dataclass(frozen=True, slots=True)
class Step:
    """A command; `least` and `most`: seconds without which it is not begun, and after which it is ended."""

    name: str
    command: tuple[str, ...]
    least: float
    most: float


def steps(out: Path, peers: Path | None, commit: str | None) -> tuple[Step, ...]:
    """What is run, in this order."""
    bench: tuple[str, ...] = ("scripts/bench_paged_decode.py", "--out", str(out / "bench"))
    bench += ("--commit", commit) if commit else ()
    bench += tuple(word for name in PEER_FILES if peers for word in ("--peer-path", f"{name}={peers}"))
    python, tests = sys.executable, "tests/paged_decode"
    workers = str(max(1, (os.cpu_count() or 2) - 2))
    pytest = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", workers)
    grid = (*pytest, "-m", "gpu")
    models = {
        "llama": ("meta-llama/Llama-3.1-8B", "--ctx", "32k", "--batch", "8"),
        "v3.2": ("deepseek-ai/DeepSeek-V3.2", "--ctx", "32k", "--batch", "8", "--kv-dtype", "fp8", "--tp", "8"),
        "v4": ("deepseek-ai/DeepSeek-V4-Flash", "--ctx", "128k", "--batch", "16", "--kv-dtype", "fp8", "--tp", "4"),
    }
    return (
        Step("quick", (python, *bench, "--quick"), 60, 150),
        Step("latents", (*grid, f"{tests}/test_gpu_latents.py"), 30, 120),
        *(
            Step(f"bench-{name}", (python, "-m", "hfmem", "bench", *words, "--offline"), 20, 70)
            for name, words in models.items()
        ),
        Step("random", (*pytest, f"{tests}/test_random_cases.py"), 30, 120),
        Step("core", (python, *bench, "--minutes", "4"), 90, 260),
        Step("calls", (*grid, f"{tests}/test_gpu_calls.py"), 30, 90),
        Step("grid", (*grid, f"{tests}/test_gpu_grid.py"), 60, 240),
    )


def run(step: Step, out: Path, seconds: float) -> int | None:
    """Run a step for `seconds` at most, its output behind its name in OUT/session.log; its status, None if it was ended."""
    paths = [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    with (out / "session.log").open("ab") as log:
        log.write(f"\n== {step.name}\n".encode())
        log.flush()
        child = subprocess.Popen(
            step.command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            return child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:  # with all that it started, also where this process is ended or the step has left something behind
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=ENDING)
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=ENDING)


def keep(out: Path, copy: Path) -> None:
    """Copy what is to be taken home into one folder; a file that is being written there is not there under its name."""
    copy.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if (out / name).is_file():
            partial = copy / (Path(name).name + ".partial")
            shutil.copyfile(out / name, partial)
            partial.replace(copy / Path(name).name)


def session(
    todo: Sequence[Step], out: Path, seconds: float, copy: Path | None = None
) -> dict[str, dict[str, object]]:  # fmt: skip
    """Run the steps that have not ended well before; what is known of each, which OUT/session.json has after every step."""
    out.mkdir(parents=True, exist_ok=True)
    state = out / "session.json"
    known: dict[str, dict[str, object]] = json.loads(state.read_text()) if state.exists() else {}
    end = time.monotonic() + seconds - ASIDE
    for step in todo:
        if known.get(step.name, {}).get("status") == 0:
            continue
        left = end - time.monotonic() - 2 * ENDING
        if left < step.least:
            known.setdefault(step.name, {"status": "no time", "seconds": 0})
        else:
            started = time.monotonic()
            status = run(step, out, min(left, step.most))
            taken = round(time.monotonic() - started, 1)
            known[step.name] = {"status": "ended" if status is None else status, "seconds": taken}
        sys.stderr.write(f"{step.name}: {known[step.name]}\n")
        partial = state.with_suffix(".partial")
        partial.write_text(json.dumps(known, indent=1) + "\n")
        partial.replace(state)
        if copy:
            keep(out, copy)
    return known


def place(target: Path, sources: Sequence[str]) -> int:
    """Copy the peers' files from NAME=DIR, the folder that holds the package, into `target`; the status of the command."""
    for given in sources:
        name, _, folder = given.partition("=")
        if name not in PEER_FILES or not folder:
            sys.stderr.write(f"error: --from {given}: expected NAME=DIR with {', '.join(PEER_FILES)}\n")
            return 2
        for file in PEER_FILES[name]:
            source = Path(folder) / name / file
            if not source.is_file():
                sys.stderr.write(f"error: --from {given}: no {source}\n")
                return 2
            (target / name / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / name / file)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """0 if every step has ended well, by now or before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("session-out"), help="[default: session-out]")
    parser.add_argument("--seconds", type=float, default=560.0, help="time of this call [default: 560]")
    parser.add_argument("--copy", type=Path, metavar="FOLDER", help="what is to be taken home, after every step")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="that --place filled")
    parser.add_argument("--commit", help="the commit of a checkout that came without its history")
    parser.add_argument("--only", default="", metavar="NAMES", help="these steps alone, with commas")
    parser.add_argument("--place", type=Path, metavar="FOLDER", help="copy peers' files there, and run nothing")
    parser.add_argument("--from", dest="sources", action="append", default=[], metavar="NAME=DIR")
    options = parser.parse_args(argv)
    if options.place:
        return place(options.place, options.sources)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a step must not outlive this process and keep the device
    out = options.out.resolve()
    todo = steps(out, options.peers.resolve() if options.peers else None, options.commit)
    names = [name for name in options.only.split(",") if name]
    if unknown := set(names) - {step.name for step in todo}:
        sys.stderr.write(f"error: --only {', '.join(sorted(unknown))}: expected {', '.join(s.name for s in todo)}\n")
        return 2
    known = session([step for step in todo if not names or step.name in names], out, options.seconds, options.copy)
    return 0 if all(each["status"] == 0 for each in known.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
