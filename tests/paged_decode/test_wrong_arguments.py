"""Every tensor of every op as a list, as nothing, in another dtype, elsewhere, with a dimension more or less: an error names it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from hfmem_kernels import (
    gather_kv,
    index_logits,
    layout,
    merge_attention,
    mla_decode_attention,
    paged_decode_attention,
    sparse_mla_decode_attention,
    write_kv,
    write_latent,
)

BF16, E4M3 = torch.bfloat16, torch.float8_e4m3fn
PAGED = {"page_table": torch.zeros(2, 2, dtype=torch.int32), "seq_lens": torch.ones(2, dtype=torch.int32)}
SINKS, SLOT = torch.zeros(4), torch.tensor([1, 2])


def kv(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {"k_cache": torch.zeros(3, 8, 2, 16).to(dtype), "v_cache": torch.zeros(3, 8, 2, 16).to(dtype)}


SCALES = {"k_scale": torch.ones(2), "v_scale": torch.ones(2)}
LATENT = {"scale": 0.1, "kv_lora_rank": 32, "sinks": SINKS}
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "decode": (
        paged_decode_attention,
        {"q": torch.zeros(2, 4, 16, dtype=BF16), **kv(E4M3), **PAGED, **SCALES, "sinks": SINKS, "alibi_slopes": SINKS}
        | {"out": torch.zeros(2, 4, 16, dtype=BF16), "lse": torch.zeros(2, 4)},
    ),
    "several queries": (
        paged_decode_attention,
        {"q": torch.zeros(3, 4, 16, dtype=BF16), **kv(BF16), **PAGED, "max_q_len": 2, "check_indices": True}
        | {"cu_q": torch.tensor([0, 1, 3], dtype=torch.int32)},
    ),
    "latent": (
        mla_decode_attention,
        {"q": torch.zeros(2, 4, 48, dtype=BF16), "cache": torch.zeros(3, 8, 48).to(E4M3), **PAGED, **LATENT}
        | {"cache_scale": torch.ones(1)},
    ),
    "656": (
        mla_decode_attention,
        {
            "q": torch.zeros(2, 4, 576, dtype=BF16),
            "cache": torch.zeros(3, 8, 656, dtype=torch.uint8),
            **PAGED,
            "scale": 0.1,
        },
    ),
    "listed": (
        sparse_mla_decode_attention,
        {"q": torch.zeros(2, 4, 48, dtype=BF16), "cache": torch.zeros(3, 8, 48, dtype=BF16), **LATENT}
        | {"slots": torch.zeros(2, 5, dtype=torch.int32), "lengths": torch.ones(2, dtype=torch.int32)},
    ),
    "index": (
        index_logits,
        {"q": torch.zeros(2, 4, 64, dtype=BF16), "keys": layout.allocate_index(3, 8, 64, "cpu"), **PAGED}
        | {"weights": torch.ones(2, 4), "out": torch.zeros(2, 16)},
    ),
    "merge": (
        merge_attention,
        {
            "outs": torch.zeros(2, 3, 4, 8),
            "lses": torch.zeros(2, 3, 4),
            "out": torch.zeros(3, 4, 8),
            "lse": torch.zeros(3, 4),
        },
    ),
    "write": (
        write_kv,
        {"k": torch.zeros(2, 2, 16), "v": torch.zeros(2, 2, 16), **kv(E4M3), "slot_mapping": SLOT, **SCALES},
    ),
    "write latents": (
        write_latent,
        {
            "latent": torch.zeros(2, 32),
            "rope": torch.zeros(2, 16),
            "cache": torch.zeros(3, 8, 48).to(E4M3),
            "slot_mapping": SLOT,
        }
        | {"cache_scale": torch.ones(1)},
    ),
    "write 656": (
        write_latent,
        {"latent": torch.zeros(2, 512), "rope": torch.zeros(2, 64), "slot_mapping": SLOT}
        | {"cache": torch.zeros(3, 8, 656, dtype=torch.uint8)},
    ),
    "gather": (gather_kv, {"cache": torch.zeros(3, 8, 2, 16), **PAGED}),
}
#: what may be left out; a scale of one element may have any shape; rows of any kind are gathered
OPTIONAL = {"sinks", "alibi_slopes", "k_scale", "v_scale", "cache_scale", "out", "lse", "cu_q"}
FINE = {("latent", "cache_scale"), ("write latents", "cache_scale"), ("gather", "cache")}


def wrong(tensor: torch.Tensor) -> Iterator[Any]:
    """Tensors and things that no op takes in the place of this one."""
    yield [0]
    yield tensor.to(torch.float64)
    yield tensor.to("meta")
    yield tensor[None]
    yield tensor[0]


@pytest.mark.parametrize("name", CALLS)
def test_every_wrong_tensor_is_named(name: str) -> None:
    op, good = CALLS[name]
    impl = {} if op is gather_kv else {"impl": "reference"}
    op(**good, **impl)
    for argument, tensor in good.items():
        if not isinstance(tensor, torch.Tensor):
            continue
        bad = [*wrong(tensor)] + [None] * (argument not in OPTIONAL)
        if (name, argument) in FINE:
            bad = bad[:1] if name == "gather" else bad[:3]
        elif argument in ("k_scale", "v_scale"):
            bad = bad[:-1]  # the last is one element
        for each in bad:
            with pytest.raises(ValueError, match=r"^\w+: expected .*, given "):
                op(**(good | {argument: each}), **impl)
