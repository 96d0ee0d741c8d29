"""SGLang's pools: one of tokens for layers that keep all, one for windowed layers, one of states.

`support` (what SGLang decides by model and device) → `layout` (bytes of a token and of a state in each layer) → `windows`, `states`
(the other two pools) → `pool` (how a budget is divided between them), and `cache` here: what a load occupies in them. DeepSeek V4's
pools are `compressed`. Read from SGLang 0.5.23; each module names its files.
"""

from __future__ import annotations

from typing import Final

from hfmem.memory.engines.sglang import compressed
from hfmem.memory.engines.sglang.layout import Layout, layout, pages
from hfmem.memory.engines.sglang.pool import pool, splits_windows, state_slot_bytes, token_pool_bytes
from hfmem.memory.engines.sglang.support import slots_per_request
from hfmem.memory.engines.sglang.windows import request_tokens, tokens_in_flight
from hfmem.memory.result import CacheBytes, LayerGroup, count_in
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import Cache

__all__ = ["cache", "pool", "splits_windows", "state_slot_bytes", "token_pool_bytes"]

NAME: Final = "sglang"
VERSION: Final = "0.5.23"
VENDORS: Final = frozenset({"nvidia", "amd"})
RUNTIME: Final = "server"
WEIGHT_FORMATS: Final = (("bf16", 16), ("fp8", 8), ("int4", 4))
CACHE_FORMATS: Final = ("fp8",)
OWN_CLASSES: Final = True
HALVES_FP32: Final = True
DRAFTS_IN_POOL: Final = True
#: compute capability less than which it refuses (`load_model_utils.py`)
OLDEST: Final = 75


def cache(arch: Architecture, serving: Serving) -> CacheBytes:
    """What `num_seqs` running sequences of `context` tokens occupy in the pools at worst, on all ranks.

    Raises:
        UnsupportedError: a model, format or layout SGLang does not have.
    """
    if compressed.is_compressed(arch):
        return compressed.cache(arch, serving)
    plan = layout(arch, serving)
    seqs = serving.num_seqs_per_replica
    stages = plan.stages(serving.pp)
    slots, ahead = slots_per_request(arch, serving), serving.speculative_tokens
    on_stage = [0] * len(stages)
    alone = 0
    groups = []
    for kind, indices in (*plan.kinds, *plan.drafts):
        per_token, state = plan.token_bytes(kind), plan.state(kind)
        # states of the tokens that are verified together stand beside those of the sequences, in as many slots and one more
        size = _held(plan, kind, serving, seqs) * per_token + (slots * seqs + 1 + ahead * (seqs + 1)) * state
        for stage, layers in enumerate(stages):
            on_stage[stage] += count_in(indices, layers) * size
        one = _held(plan, kind, serving, 1)
        copies = len(indices) * serving.attn_tp
        whole = copies * (one * per_token + (slots + ahead) * state)
        alone += whole
        groups.append(
            LayerGroup(kind, indices, per_token * serving.attn_tp, one if per_token else 0, whole, copies * state, size)
        )
    per_replica = serving.tp * sum(on_stage)
    return CacheBytes(
        engine=NAME,
        kv_dtype=plan.fmt,
        bytes=per_replica * serving.dp,
        bytes_per_rank=max(on_stage),
        bytes_per_seq=alone,
        state_bytes_per_seq=sum(group.state_bytes for group in groups),
        layer_groups=tuple(groups),
        page_size=plan.page,
        stage_bytes=tuple(on_stage),
        stage_layers=tuple((layers,) for layers in stages),
        decoder_first=True,
    )


def _held(plan: Layout, kind: Cache, serving: Serving, num_seqs: int) -> int:
    """Rows that the sequences hold in a layer at worst. An encoder's output takes rows in every layer."""
    whole = num_seqs * pages(plan.rows(serving), plan.page)
    if not plan.windowed(kind):
        return whole
    held = (
        num_seqs * request_tokens(plan, kind, serving.speculative_tokens)
        + tokens_in_flight(serving, serving.context)
        + plan.page
    )
    return min(whole, pages(held, plan.page))
