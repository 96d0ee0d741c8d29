"""Where our numbers and the reference data disagree, which side is right, and why.

`NOTES[model id][check]` is the explanation; checks are the names of the tests in `test_conformance.py`: `params_total`,
`params_active`, `groups`, `kv`, `slope`, `state` (oracle rows), `headers`, `index`. A note whose check agrees is an error there, so
that none outlives its reason.
"""

from __future__ import annotations

from typing import Final

NOTES: Final[dict[str, dict[str, str]]] = {}
