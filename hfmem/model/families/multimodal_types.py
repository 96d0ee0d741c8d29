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
    "aria": "aria:aria",
    "aria_text": "aria:aria_text",
    "deepseek_vl": "deepseek_vl:deepseek_vl",
    "deepseek_vl_hybrid": "deepseek_vl:deepseek_vl_hybrid",
    "janus": "deepseek_vl:janus",
    "ernie4_5_vl_moe": "ernie_vl:ernie4_5_vl_moe",
    "ernie4_5_moe_vl": "ernie_vl:ernie4_5_vl_moe",
    "ernie4_5_vl_moe_text": "ernie_vl:ernie4_5_vl_moe_text",
    "cohere_compass": "cohere_compass:cohere_compass",
    "paddleocr_vl": "paddleocr_vl:paddleocr_vl",
    "paddleocr_vl_text": "dense:ernie4_5",
    "Keye": "paddleocr_vl:keye",
    "KeyeVL1_5": "paddleocr_vl:keye",
    "molmo2": "molmo:molmo2",
    "molmo2_text": "molmo:molmo2_text",
    "lfm3_vl": "lfm2_vl:lfm3_vl",
    "minicpm_ocr": "patches:minicpmv4_6",
    "minicpmv4_7": "patches:minicpmv4_6",
}
