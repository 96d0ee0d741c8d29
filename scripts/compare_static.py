#!/usr/bin/env python3
"""Compile this project's decode kernel and other projects' for the same shapes with the same Triton, and compare the machine code.

    python scripts/compare_static.py --vllm DIR --sglang DIR --lmdeploy DIR [--family sm90] [--markdown FILE]

A DIR holds the installed or unpacked package (the folder that has `vllm/`, `sglang/` or `lmdeploy/` in it). Their own launch
functions choose their configurations; what they import beside the kernels is replaced by stand-ins, so that neither CUDA nor
their dependencies are needed, and nothing of theirs is kept. No GPU: this counts, it does not time.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "0"  # read when triton is imported

import triton

from hfmem_kernels.benchmarks.static import SHAPES, Compiled, Row, Shape, ours
from hfmem_kernels.benchmarks.static_peers import PEERS, version_of
from hfmem_kernels.compile_only import MULTIPROCESSORS

Compiler = Callable[[Shape, str], Compiled | None]

#: what the table is of unless something else is asked for
FAMILIES = ("sm80", "sm90", "sm100", "sm120")

COLUMNS = (
    "tile", "warps", "registers", "spills", "shared KiB", "programs an SM", "in flight KiB", "copies of 16 bytes",
    "narrower copies", "instructions a token", "loads waited for", "barriers",
)  # fmt: skip
HEADER = f"| shape | kernel | {' | '.join(COLUMNS)} |\n|---|---|{'---:|' * len(COLUMNS)}"
#: what the columns say; the table's own legend
LEGEND = """Made by

    {command}

with Triton {triton} for {families}; nothing ran on a device and nothing was timed. Counts are of one kernel's machine code:

- *spills*: loads and stores of local memory; *programs an SM*: what registers, shared memory and warps leave room for;
- *in flight KiB*: what a multiprocessor's programs have asked for while each works on a tile;
- *copies*: asynchronous ones, in the text of the kernel; of 16 bytes and of fewer;
- *instructions a token*: warp instructions of the loop over keys, for one token of one KV head, all its query heads served;
- *loads waited for*: loads of global memory in that loop which are no asynchronous copies; *barriers*: of all warps, in that loop.

Each kernel comes with the launch configuration of its own launcher. A second kernel that only adds parts up is left out, as is
the time to launch it. LMDeploy's tile is its page; it is compiled for its default of 64. A kernel without such a cache has no row:
of these peers none reads rows that carry their scales in Triton, or scores an indexer's keys on NVIDIA's devices. *A scale a
token*: rows [K | scale | V | scale] as vLLM keeps them; LMDeploy keeps scales and zeros in tensors of their own.
"""


@dataclass(frozen=True, slots=True)
class Missing:
    """A peer without a row of numbers, and why."""

    package: str
    reason: str


def found(folders: dict[str, Path | None]) -> dict[str, Compiler | Missing]:
    """Name in the table → what compiles it."""
    kernels: dict[str, Compiler | Missing] = {"hfmem": ours}
    for package, makers in PEERS.items():
        folder = folders[package]
        for name, make in makers.items():
            if folder is None:
                kernels[name] = Missing(package, f"not given (--{package})")
            elif not (folder / package).is_dir():
                kernels[name] = Missing(package, f"no folder {package}/ where --{package} says")
            else:
                brand, *kind = name.split()
                kernels[" ".join([brand, version_of(folder, package), *kind])] = make(folder)
    return kernels


def cells_of(row: Row) -> tuple[object, ...]:
    """The numbers of one line, in the order of `COLUMNS`."""
    r = row.compiled.report
    return (
        row.compiled.tile, r.num_warps, r.registers, r.spills, f"{r.shared_bytes / 1024:.0f}", row.programs,
        f"{row.bytes_in_flight / 1024:.0f}", r.wide_copies, r.narrow_copies, f"{row.instructions_a_token:.1f}",
        r.loop_loads, r.loop_barriers,
    )  # fmt: skip


def line_of(shape: Shape, name: str, kernel: Compiler | Missing, family: str) -> str | None:
    """One line of the table; None where the kernel has no such cache. What cannot be compiled is a line that says so."""
    if shape.index and kernel is not ours:
        return None
    if isinstance(kernel, Missing):
        reason = kernel.reason
    else:
        try:
            compiled = kernel(shape, family)
        except Exception as error:  # whatever another project's code or the compiler raises
            last = (str(error).strip().splitlines() or [""])[-1]
            reason = f"{type(error).__name__}: {last[:90]}".replace("|", "/")
        else:
            if compiled is None:
                return None
            return f"| {shape.name} | {name} | {' | '.join(map(str, cells_of(Row(name, compiled, shape, family))))} |"
    return f"| {shape.name} | {name} | {reason} |{' |' * (len(COLUMNS) - 1)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Compile, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for package in PEERS:
        parser.add_argument(f"--{package}", type=Path, help=f"folder that holds {package}/")
    parser.add_argument(
        "--family", action="append", choices=sorted(MULTIPROCESSORS), help=f"default: {', '.join(FAMILIES)}"
    )
    parser.add_argument("--shape", help="a regular expression: only the shapes whose name it finds")
    parser.add_argument("--markdown", type=Path, help="write the tables there too")
    options = parser.parse_args(argv)
    folders = {package: getattr(options, package) for package in PEERS}
    families = options.family or FAMILIES

    kernels = found(folders)
    lines = []
    for family in families:
        lines += ["", f"## {family}", "", HEADER]
        for shape in SHAPES:
            if options.shape and not re.search(options.shape, shape.name):
                continue
            for name, kernel in kernels.items():
                line = line_of(shape, name, kernel, family)
                if line is not None:
                    lines.append(line)
                    print(line, file=sys.stderr, flush=True)
    given = [f"--{package} {package.upper()}" for package, folder in folders.items() if folder is not None]
    given += [f"--family {family}" for family in options.family or ()]
    given += [f"--shape '{options.shape}'"] if options.shape else []
    command = " ".join(["python scripts/compare_static.py", *given])
    legend = LEGEND.format(command=command, triton=triton.__version__, families=", ".join(families))
    text = "# Machine code, compared\n\n" + legend + "\n".join(lines) + "\n"
    print(text)
    if options.markdown:
        options.markdown.write_text(text)


if __name__ == "__main__":
    main()
