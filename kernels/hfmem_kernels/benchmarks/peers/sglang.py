"""SGLang's Triton decode kernel, called as `triton_backend.py` calls it: token indices beside the pool, splits from the device."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from hfmem_kernels._launch import device_facts
from hfmem_kernels.benchmarks.inputs import Inputs
from hfmem_kernels.benchmarks.ours import Launch
from hfmem_kernels.benchmarks.peers.base import Peer, first_refusal, scalar
from hfmem_kernels.benchmarks.peers.loading import StandIns, alone, member
from hfmem_kernels.benchmarks.rows import Row
from hfmem_kernels.layout import Layout

OPS = "sglang.kernels.ops.attention"
#: `triton_attention_num_kv_splits` by default; for latent caches the cap is raised (`_mla_decode_kv_splits_cap`)
SPLITS, MLA_TOKENS_OF_A_SPLIT = 8, 32


class _Unset:
    """An environment variable that is not set, whatever its name."""

    def __getattr__(self, name: str) -> _Unset:
        return self

    def get(self) -> bool:
        """Its value."""
        return False


def stand_ins(folder: Path) -> StandIns:
    """What the kernel files import of SGLang besides each other."""
    return {
        "sglang.srt.environ": {"envs": _Unset()},
        "sglang.srt.utils": {
            "get_device_core_count": lambda index=0: device_facts(torch.device("cuda", index)).num_sms,
            "is_gfx95_supported": lambda: False,
            "is_gfx1250_supported": lambda: False,
            "is_hip": lambda: torch.version.hip is not None,
            "is_cuda": lambda: torch.version.cuda is not None,
        },
    }


def _module(name: str, folder: Path | None) -> ModuleType:
    return alone(f"{OPS}.{name}", "sglang", folder, stand_ins)


def _refuses(row: Row) -> str | None:
    if row.layout not in (Layout.NHD, Layout.FLAT, Layout.PACKED):
        return "a pool of tokens only"
    return first_refusal(row, latent=True, kv=True, sinks=True, ragged=True, e4m3=True, packed=True)


def _next_power(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def _prepare(inputs: Inputs, folder: Path | None) -> Launch:
    module, metadata = _module("decode_attention", folder), _module("metadata", folder)
    attend = member(module, "decode_attention_fwd", "sinks", "has_mla")
    count_splits = member(metadata, "get_num_kv_splits_triton")
    row, s = inputs.row, inputs.row.shape
    num_sms, longest = device_facts(inputs.device).num_sms, max(row.mix.lengths)
    most = SPLITS
    if s.latent:
        most = max(SPLITS, min(_next_power(num_sms), _next_power(-(-longest // MLA_TOKENS_OF_A_SPLIT))))
    page = row.page_size
    tokens = torch.arange(longest, device=inputs.device)
    indices = torch.cat(
        [
            inputs.page_table[b, tokens[:length] // page].long() * page + tokens[:length] % page
            for b, length in enumerate(row.mix.lengths)
        ]
    )
    starts = torch.zeros(inputs.batch + 1, dtype=torch.int32, device=inputs.device)
    starts[1:] = inputs.seq_lens.cumsum(0)
    splits = torch.empty(inputs.batch, dtype=torch.int32, device=inputs.device)
    count_splits[(1,)](
        splits, inputs.seq_lens, inputs.batch, 1, s.num_heads, s.num_kv_heads, most, num_sms,
        MAX_NUM_SEQ=max(256, _next_power(inputs.batch)),
    )  # fmt: skip
    logits = torch.empty(inputs.batch, s.num_heads, most, s.v_head_dim, device=inputs.device)
    lse = torch.empty(inputs.batch, s.num_heads, most, device=inputs.device)
    outs = [q.new_empty(inputs.batch, s.num_heads, s.v_head_dim) for q in inputs.queries]
    flat = [(_pool(each.k), _pool(each.v)) for each in inputs.sets]
    sinks: Any = inputs.sinks

    def launch(index: int) -> torch.Tensor:
        each, out = inputs.sets[index], outs[index]
        attend(
            inputs.queries[index].flatten(0, 1), *flat[index], out, starts, indices, logits, lse, splits, most, s.scale,
            scalar(each.k_scale), scalar(each.v_scale), sinks=sinks, has_mla=s.latent,
        )  # fmt: skip
        return out[:, None]

    return launch


def _pool(cache: torch.Tensor) -> torch.Tensor:
    """[pages, page, heads, dim] as [tokens, heads, dim]."""
    pages, page, heads, dim = cache.shape
    return cache.as_strided((pages * page, heads, dim), cache.stride()[1:], cache.storage_offset())


PEERS = (Peer("sglang", "sglang", "triton", _refuses, _prepare),)
