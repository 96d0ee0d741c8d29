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
    "step1": "remote_dense:step1",
    "TeleFLM": "llama:llama",
    "telechat3": "llama:llama",
    "telechat2": "remote_gpt:telechat",
    "plamo3": "remote_dense:plamo3",
    "rnj1": "remote_dense:rnj1",
    "iquestloopcoder": "remote_dense:iquest_loop",
    "domyn_edge": "remote_dense:domyn_edge",
    "sarvam_moe": "bailing_moe:sarvam_moe",
    "sarvam_mla": "deepseek:sarvam_mla",
    "param2moe": "bailing_moe:param2moe",
    "pangu_ultra_moe": "pangu_moe:pangu_moe",
    "pangu_pro_moe_v2": "pangu_moe:pangu_moe",
    "longcat_flash_ngram": "longcat:longcat_flash",
    "dory": "dory:dory",
    "alice_ai": "alice:alice_ai",
    "k2_horizon": "k2_horizon:k2_horizon",
}
