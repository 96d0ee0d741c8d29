"""The layouts quantizers write: which stored tensors make a weight, and how many logical elements it has.

Each rule looks at one module's leaves. Shapes decide wherever they can (a packed axis against its scales); the
configuration is asked for bits or a group size only where two readings of the shapes remain. A rule that does not fit
says so by returning None, and the tensors then count as they are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hfmem.checkpoint.layout import Layout, Leaves
from hfmem.checkpoint.layouts_codebook import vector_codes
from hfmem.checkpoint.layouts_grouped import quanto, sinq
from hfmem.checkpoint.layouts_packed import bitsandbytes, compressed, gptq_awq, hqq, torchao
from hfmem.checkpoint.layouts_scaled import mxfp4_blocks, scaled
from hfmem.checkpoint.quantization_config import Quantization


def recognize(leaves: Leaves, module: str, said: Quantization | None) -> Layout | None:
    """The quantized weight that the tensors of `module` make up, None where they are none."""
    if len(leaves) < 2:
        return None
    for rule in _RULES:
        layout = rule(leaves, module, said)
        if layout is not None:
            return layout
    return None


_RULES: Final[tuple[Callable[[Leaves, str, Quantization | None], Layout | None], ...]] = (
    mxfp4_blocks,
    gptq_awq,
    bitsandbytes,
    compressed,
    sinq,
    quanto,
    hqq,
    vector_codes,
    torchao,
    scaled,
)
