"""What a log says of speculative decoding. Its words name a model too, which is not the one that is served."""

from __future__ import annotations

import re
from typing import Final

from hfmem.records import dataclass

#: vLLM's own dump, its echo of the arguments, and the argument (`config/speculative.py`)
_TOLD: Final = (
    re.compile(r"speculative_config=SpeculativeConfig\(([^)\n]{0,1000})\)?"),
    re.compile(r"'speculative_config': \{([^}\n]{0,1000})\}?"),
    re.compile(r"speculative_config=\{([^}\n]{0,1000})\}?"),
    re.compile(r"--speculative[-_]config[ =]{1,4}'?\{([^}\n]{0,1000})\}?"),
)
_WORD: Final = r"""\b{}["']?(?:=|: ?) ?["']?([\w./~:+-]{{1,300}})"""
_METHOD: Final = re.compile(_WORD.format("method"))
_MODEL: Final = re.compile(_WORD.format("model"))
_COUNT: Final = re.compile(_WORD.format("num_spec(?:ulative)?_tokens"))


@dataclass(frozen=True, slots=True)
class Drafting:
    """`method` and `model` of the draft and how many tokens it proposes, as far as they are told."""

    method: str | None = None
    model: str | None = None
    tokens: int | None = None


def without_speculation(text: str) -> tuple[str, Drafting | None]:
    """`text` without the words on speculative decoding, and what they say; None: nothing is said."""
    found = Drafting()
    said = False
    for pattern in _TOLD:
        for match in pattern.finditer(text):
            said = True
            method, model, count = (part.search(match[1]) for part in (_METHOD, _MODEL, _COUNT))
            found = Drafting(
                found.method or (method[1] if method else None),
                found.model or (model[1] if model else None),
                found.tokens or (int(count[1]) if count and count[1].isdigit() else None),
            )
        text = pattern.sub("", text)
    return text, found if said else None
