"""Classes of heads that draft for another model, and their rules. Their `model_type` is that of an ordinary decoder.

Names: vLLM 0.33.0 `model_executor/models/registry.py` (`_SPECULATIVE_DECODING_MODELS`), SGLang 0.5.23, `speculators`,
AngelSlim, SpecForge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from hfmem.errors import UnknownArchitectureError

_EAGLE3: Final = "speculators:eagle3"
_LATENT: Final = "speculators:eagle3_latent"
_DFLASH: Final = "speculators_block:dflash"
_DFLASH2: Final = "speculators_block:dflash2"
_DOMINO: Final = "speculators_block:domino"
_DSPARK: Final = "speculators_block:dspark"
_DSPARK_SHARED: Final = "speculators_block:dspark_shared"

#: class → rule, as in `registry.FAMILIES`
DRAFT_CLASSES: Final[dict[str, str]] = {
    "EagleLlamaForCausalLM": "speculators:eagle",
    "LlamaForCausalLMEagle": "speculators:eagle",
    "LlamaForCausalLMEagle3": _EAGLE3,
    "Eagle3LlamaForCausalLM": _EAGLE3,
    "Eagle3MiniMaxM2ForCausalLM": _EAGLE3,
    "Eagle3Qwen2_5vlForCausalLM": _EAGLE3,
    "Eagle3Qwen3vlForCausalLM": _EAGLE3,
    "Eagle3Qwen3ForCausalLM": _EAGLE3,
    "PEagleDraftModel": _EAGLE3,
    "PeagleLlamaForCausalLM": _EAGLE3,
    "PeagleQwen3ForCausalLM": _EAGLE3,
    "Eagle3DeepseekV2ForCausalLM": _LATENT,
    "Eagle3DeepseekV3ForCausalLM": _LATENT,
    "DFlashDraftModel": _DFLASH,
    "QwenDFlashDraftModel": _DFLASH,
    "Qwen3DSparkModel": _DSPARK,
    "Qwen3OmniDSparkModel": _DSPARK,
    "DSparkDraftModel": _DSPARK_SHARED,
    "LingDSparkModel": _DSPARK_SHARED,
    "Lfm2DSparkDraftModel": _DSPARK_SHARED,
    "DominoDraftModel": _DOMINO,
    "DFlash2DraftModel": _DFLASH2,
    "DFlash2BeamDraftModel": _DFLASH2,
    "MiniMaxDFlash2DraftModel": _DFLASH2,
    "Qwen3XPressModel": "speculators_refined:xpress",
    "DFlashQwen3XPressModel": "speculators_refined:xpress",
    "LiLiCorrDraftModel": "speculators_refined:lilicorr",
    "DFlashLagunaForCausalLM": "speculators_kin:laguna_dflash",
    "Gemma4DSparkModel": "speculators_kin:gemma4_dspark",
    "K3DSparkModel": "speculators_kin:k3_dspark",
    "MuseGlimmerAssistantModel": "speculators_kin:muse_glimmer_assistant",
    "DFlashMuseGlimmerAssistantModel": "speculators_kin:muse_glimmer_assistant",
}
#: `speculators_model_type` → rule
_FORMATS: Final[dict[str, str]] = {"eagle3": _EAGLE3, "peagle": _EAGLE3, "dflash": _DFLASH, "dspark": _DSPARK}
#: what only the names of such classes hold
_DRAFTS: Final = re.compile(
    r"Eagle3?(?:For|[A-Z].*For|Speculator|$)|P[Ee]agle|DFla(?:sh|re)|DSpark|Eagle3|LiLiCorr|XPress|Medusa|Draft"
)

#: types whose rule reads its draft layers itself (DSpark inside the model's own files)
_WHOLE: Final = ("deepseek_v4", "deepseek_v41")


def draft_head(data: Mapping[str, Any], file: str) -> str | None:
    """The rule of the draft head that a config describes, None where it is an ordinary model's.

    Raises:
        UnknownArchitectureError: a draft head whose layout is not known; read by its model_type it would be another model.
    """
    kind = data.get("speculators_model_type")
    if isinstance(kind, str):
        if kind in _FORMATS:
            return _FORMATS[kind]
        raise UnknownArchitectureError(f'{file}: speculators_model_type "{kind[:80]}" is not known')
    classes = data.get("architectures")
    first = classes[0] if isinstance(classes, list) and classes else None
    if not isinstance(first, str):
        return None
    if data.get("model_type") in _WHOLE:
        return None
    if first in DRAFT_CLASSES:
        return DRAFT_CLASSES[first]
    if _DRAFTS.search(first):
        raise UnknownArchitectureError(f"{file}: {first[:80]} drafts for another model; its layout is not known here")
    return None
