"""What vLLM's classes keep in fp32, or in the model's dtype, whatever the file has.

Read from vLLM 0.33.0: `params_dtype=torch.float32` of the routers in `models/{afmoe,bailing_moe_v3,ernie45_moe,ernie45_vl_moe,
glm4_moe,hy_v3,minimax_m2,param2moe,step3p5}.py` and `models/{beam,hy_v4,minimax_m3,step5}/nvidia`, or what config.json names in
`models/{bailing_moe,bailing_moe_linear,mimo_v2}.py`; `layers/mamba/mamba_mixer.py` (`A`); `models/deepseek_v4`; scales of 8-bit
weights in `quantization/fp8.py`, `fused_moe/oracle/*.py` and `quantization/compressed_tensors`
(`schemes/compressed_tensors_w8a8_{fp8,int8}.py`).
"""

from __future__ import annotations

import re
from typing import Final

from hfmem.checkpoint.tensors import TensorGroup
from hfmem.model.architecture import Architecture
from hfmem.model.layers import Mamba1State

#: DeepSeek V4: what mixes residual streams, compressors' positions
_STREAMS: Final = re.compile(r"\bhc_(?:attn|ffn|head)_(?:fn|base|scale)$|\bcompressor\.ape$")
#: model types whose router is in fp32, and its names
_ROUTERS: Final = frozenset(
    """afmoe bailing_moe_v3_vl beam ernie4_5_moe ernie4_5_moe_vl ernie4_5_vl_moe ernie4_5_vl_moe_text glm4_moe glm4_moe_lite
    glm4v_moe glm4v_moe_text hy_v3 hy_v4 hy_v4_vl minimax_m2 minimax_m3 minimax_m3_vl param2moe step3p5 step3p7 step5
    step5_vl""".split()  # noqa: SIM905
)
#: model types whose router is in what config.json names, and what that is without a name
_ROUTERS_AS_TOLD: Final[dict[str, str | None]] = {
    "bailing_hybrid": "fp32",
    "bailing_moe": None,
    "bailing_moe_v2": None,
    "mimo_v2": "float32",
    "mimo_v2_flash": "float32",
    "sarvam_moe": None,
}
_ROUTER: Final = re.compile(r"\.gate\.weight(?:_1)?$")
#: what ranks or classifies (`config/model.py`, `head_dtype`)
_TASK_HEAD: Final = re.compile(r"(?:^|^bert\.)(?:pooler|classifier|score)\.")
_SCALES: Final = (".weight_scale", ".weight_scale_inv")
_EIGHT_BITS: Final = frozenset({"F8_E4M3", "F8_E5M2", "I8"})

#: types whose class has no quantized projections of latents: an fp8 file's are made plain again (`models/glm5next/common/model.py`)
_PLAIN_LATENTS: Final = frozenset({"glm5_next", "glm5_next_text"})
_LATENT_PROJECTION: Final = re.compile(r"\.self_attn\.(?:q_a_proj|q_b_proj|kv_a_proj_with_mqa|kv_b_proj|o_proj)\.")


def dequantized(arch: Architecture, codes: TensorGroup) -> bool:
    """Whether vLLM holds an fp8 file's matrix in the model's own dtype, and none of its scales."""
    if arch.model_type not in _PLAIN_LATENTS or codes.dtype != "F8_E4M3":
        return False
    return _LATENT_PROJECTION.search(codes.pattern) is not None


def in_fp32(arch: Architecture, pattern: str, codes: TensorGroup | None = None) -> bool:
    """Whether vLLM holds a tensor in fp32 that its file may have in 16 bit.

    Args:
        codes: the quantized matrix that the tensor stands beside, if any.
    """
    if pattern.endswith(_SCALES):
        return codes is not None and codes.dtype in _EIGHT_BITS
    if pattern.endswith(".A_log"):
        return any(isinstance(cache, Mamba1State) for cache in arch.kinds())
    if _TASK_HEAD.search(pattern):
        return any(name.endswith("SequenceClassification") for name in arch.architectures)
    if _ROUTER.search(pattern):
        told = arch.router_dtype or _ROUTERS_AS_TOLD[arch.model_type] if arch.model_type in _ROUTERS_AS_TOLD else None
        return told in ("fp32", "float32") or bool({arch.model_type, arch.text_type} & _ROUTERS)
    return _STREAMS.search(pattern) is not None
