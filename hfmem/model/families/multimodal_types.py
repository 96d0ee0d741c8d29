"""Model types of multimodal and speech models and their rules, for `registry.FAMILIES`: the same one line an entry."""

from __future__ import annotations

from typing import Final

MULTIMODAL: Final[dict[str, str]] = {
    "glm_ocr": "glm_vl:glm_ocr",
    "glm_ocr_text": "glm_vl:glm_ocr_text",
    "glmga": "glm_vl:glm4v",
    "exaone4_5": "exaone_vl:exaone4_5",
    "blip-2": "blip2:blip2",
    "instructblip": "blip2:blip2",
    "instructblipvideo": "blip2:blip2",
    "hyperclovax_vision_v2": "hyperclovax_vision:hyperclovax_vision_v2",
    "vlm": "hyperclovax_vision:hyperclovax_vision_v2",
    "cosmos3_omni": "cosmos:cosmos3_omni",
    "cosmos3_edge": "cosmos:cosmos3_edge",
    "cosmos3_edge_text": "cosmos:cosmos3_edge_text",
    "granite4_vision": "granite_vision:granite4_vision",
    "granite4_vision_text": "dense:granite",
    "granite_docling": "granite_vision:granite_docling",
    "granite_docling_text": "dense:granite",
    "granite_speech": "granite_speech:granite_speech",
    "granite_speech_plus": "granite_speech:granite_speech",
}
