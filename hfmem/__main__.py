"""`python -m hfmem` and the `hfmem` console script."""

from __future__ import annotations

from hfmem.cli import main

if __name__ == "__main__":
    main()
