"""How wide the terminal is."""

from __future__ import annotations

import os


def terminal_columns() -> int:
    """Columns by COLUMNS, else of the terminal that stdout is, else 80, as `shutil` has it, which takes long to load."""
    try:
        columns = int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        columns = 0
    if columns <= 0:
        try:
            columns = os.get_terminal_size(1).columns
        except (OSError, ValueError):
            columns = 0
    return columns or 80
