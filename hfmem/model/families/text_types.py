"""Model types of less common text models and their rules, for `registry.FAMILIES`: the same one line an entry."""

from __future__ import annotations

from typing import Final

TEXT: Final[dict[str, str]] = {
    "hrm_text": "hrm:hrm_text",
    "inkling2_text": "inkling2:inkling2_text",
    "dots3_note_text": "dots3:dots3_note_text",
    "gemma4_assistant": "gemma_assistant:gemma4_assistant",
    "gemma4_unified_assistant": "gemma_assistant:gemma4_assistant",
    "xlstm": "xlstm:xlstm",
    "blt": "blt:blt",
    "cpmant": "cpmant:cpmant",
}
