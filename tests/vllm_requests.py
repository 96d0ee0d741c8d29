"""What vLLM takes for one request."""

from __future__ import annotations

from hfmem.memory.engines import engine
from hfmem.memory.engines.vllm import layout
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture

vllm = engine("vllm")


def request(arch: Architecture, context: int, tp: int = 1, kv_dtype: str = "auto") -> tuple[int, int]:
    """Bytes of one request on a rank, and of one block."""
    serving = Serving(context, tp=tp, kv_dtype=kv_dtype)
    return vllm.cache(arch, serving).bytes_per_rank, max(layout(arch, serving).stage_block_bytes)
