"""What leaves the program: tables and JSON on stdout; errors, hints and progress on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from hfmem.errors import HfmemError, UsageError
from hfmem.render.lines import Line, print_lines, safe, wants_color

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from hfmem.hub import FetchOptions, FetchStats
    from hfmem.render.grid import Grid
    from hfmem.report import Report

#: a fetch shorter than this shows no progress bar
_PATIENCE_SECONDS = 0.4
#: formats that are not for a terminal, beside JSON
PAGES: Final = ("markdown", "csv", "html")
#: columns from which on bars are drawn
_WIDE = 110


def write(text: str) -> None:
    """Text on stdout, flushed, so that a closed pipe is noticed here and not at exit."""
    sys.stdout.write(text)
    sys.stdout.flush()


def show(lines: Sequence[Line]) -> None:
    """Lines on stdout: wrapped and in colour on a terminal, plain and unbroken in a pipe."""
    print_lines(lines, sys.stdout, width=terminal_columns(), color=wants_color(sys.stdout))
    sys.stdout.flush()


def give(kind: str, grid: Grid, rows: Sequence[Any], title: str = "") -> None:
    """A table on stdout, as blocks where a terminal is too narrow for its columns; or `markdown`, `csv` of `rows`, `html`."""
    if kind == "table":
        from hfmem.render.grid import grid_lines

        show(grid_lines(grid, terminal_columns()))
        return
    from hfmem.render.pages import grid_text

    write(grid_text(kind, grid, rows, title))


def terminal_columns() -> int | None:
    """How wide stdout is; None where it is no terminal."""
    return _columns() if sys.stdout.isatty() else None


def has_room_for_bars() -> bool:
    """Whether stdout is a terminal wide enough to draw in."""
    return sys.stdout.isatty() and _columns() >= _WIDE


def _columns() -> int:
    import shutil  # and with it every compression that Python knows

    return shutil.get_terminal_size().columns


def say(text: str) -> None:
    """One line on stderr; where it cannot be written, the status still tells."""
    with suppress(OSError):
        sys.stderr.write(safe(text) + "\n")
        sys.stderr.flush()


def complain(error: HfmemError | str) -> None:
    """The one line an error gets."""
    say(f"error: {error if isinstance(error, str) else error.message}")


def warn(report: Report) -> None:
    """What a report warns of, where its table is not shown."""
    for warning in report.warnings:
        say(f"warning: {warning.message}")


def say_stats(model: str, stats: FetchStats) -> None:
    """For `-v`: what reading the model took."""
    kept = ", from stored facts" if stats.cache_hit else ""
    asked = f"{stats.requests} request{'' if stats.requests == 1 else 's'}"
    say(f"{model}: {asked}, {stats.bytes_read:,} bytes read in {stats.seconds:.2f} s{kept}")


class _Bar:
    """A progress bar that appears only when a fetch takes long and stderr is a terminal."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __call__(self, done: int, total: int, label: str) -> None:
        if self._bar is None:
            if time.monotonic() - self._started < _PATIENCE_SECONDS:
                return
            from rich.console import Console
            from rich.markup import escape
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                console=Console(file=sys.stderr),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(escape(safe(label)), total=total)
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total)

    def stop(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def fetching(no_cache: bool, refresh: bool, offline: bool, no_headers: bool = False) -> Iterator[FetchOptions]:
    """Fetch options with a progress bar on stderr while the block runs."""
    from hfmem.cli.loading import load_ahead
    from hfmem.hub import FetchOptions

    bar = _Bar() if sys.stderr.isatty() else None
    try:
        yield FetchOptions(no_cache, refresh, offline, no_headers=no_headers, progress=bar, meanwhile=load_ahead)
    finally:
        if bar is not None:
            bar.stop()


def formatted(format: str | None, json: bool) -> str:
    """What to print: `table`, `json`, or one of `PAGES`.

    Raises:
        UsageError: no such format, or two.
    """
    known = ("table", "json", *PAGES)
    kind = format or ("json" if json else "table")
    if kind not in known:
        raise UsageError(f"--format {kind!r} is not one of {', '.join(known)}")
    if json and kind != "json":
        raise UsageError(f"--json and --format {kind} are two formats: choose one")
    return kind


def json_text(value: Any) -> str:
    """Indented JSON with a final newline."""
    from hfmem.render.json import dumps

    return dumps(value) + "\n"
