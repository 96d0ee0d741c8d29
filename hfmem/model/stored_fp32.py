"""What publishers' files keep in fp32 beside weights of 16 bit, by model type: config.json does not say it, headers do.

Read from the headers of the publishers' repositories: decays, mixers of residual streams, positions of compressors, routers.
Routers' corrections, in fp32 nearly everywhere, are buffers and not counted.
"""

from __future__ import annotations

import re
from typing import Final

from hfmem.model.architecture import Architecture

_DEEPSEEK_V4: Final = re.compile(r"\bhc_\w+$|\.ape$|\.attn_sink$")
_ROUTER: Final = r"\.block_sparse_moe\.gate\.weight$"
_KEPT: Final[dict[str, re.Pattern[str]]] = {
    "deepseek_v4": _DEEPSEEK_V4,
    "deepseek_v41": _DEEPSEEK_V4,
    "glm5_next": re.compile(r"\.(?:A_log|dt_bias|hc_\w+_(?:base|scale))$"),
    "kimi_linear": re.compile(r"\.self_attn\.(?:A_log|dt_bias)$"),
    "kimi_k3": re.compile(r"\.self_attn\.(?:A_log|dt_bias|o_norm\.weight|[qkv]_conv1d\.weight)$"),
    "minimax_m2": re.compile(_ROUTER),
    "minimax_m3_vl": re.compile(rf"{_ROUTER}|\.patch_embedding\.weight$"),
}


def stored_code(architecture: Architecture, pattern: str, code: str) -> str:
    """The dtype that a tensor is stored in where the file's weights are in `code`."""
    kept = _KEPT.get(architecture.model_type) if code in ("BF16", "F16") else None
    return code if kept is None or not kept.search(pattern) else "F32"
