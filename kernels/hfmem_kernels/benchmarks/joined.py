"""Two caches under one softmax (DeepSeek V4): the window's rows and the compressed ones, each by a list, and what joins them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hfmem_kernels import _reference, allocate_workspace, merge_attention, sparse_mla_decode_attention
from hfmem_kernels.benchmarks import ours
from hfmem_kernels.benchmarks.gate import Gate, bound_of, sample
from hfmem_kernels.benchmarks.inputs import Inputs

#: the inputs that hold a layer's cache, and the layer's number among theirs
Place = tuple[Inputs, int]


class Joined:
    """Attention of layers to two caches each: `windows[i]` and `rows[i]` are layer i's; sinks are part of the first."""

    def __init__(self, windows: Sequence[Place], rows: Sequence[Place]) -> None:
        self.layers = list(zip(windows, rows, strict=True))
        (first, _), (second, _) = self.layers[0]
        query = first.queries[0][:, 0]
        configs = [ours.default_config(each.row, each.device) for each in (first, second)]
        self.configs = configs
        most = max(config.block_m for config in configs)
        columns = first.row.shape.v_head_dim
        self.workspace = allocate_workspace(first.device, max_rows=most, v_head_dim=max(16, columns))
        shape = (*query.shape[:-1], columns)
        self.parts = torch.full((2, *shape), float("nan"), dtype=query.dtype, device=first.device)
        self.lses = torch.full((2, *shape[:-1]), float("nan"), device=first.device)
        self.out = torch.full_like(self.parts[0], float("nan"))
        self.lse = torch.full_like(self.lses[0], float("nan"))

    def __call__(self, index: int) -> torch.Tensor:
        """Layer `index`'s result [batch, 1, heads, columns]: two decodes and a merge. Nothing is allocated."""
        query = self.layers[index][0][0].queries[self.layers[index][0][1]][:, 0]
        for part, (inputs, number) in enumerate(self.layers[index]):
            each = inputs.sets[number]
            assert each.latent is not None
            sparse_mla_decode_attention(
                query, each.latent, inputs.page_table, inputs.seq_lens, scale=inputs.row.shape.scale,
                kv_lora_rank=inputs.row.shape.v_head_dim, sinks=inputs.sinks, cache_scale=each.k_scale, out=self.parts[part],
                lse=self.lses[part], return_lse=True, workspace=self.workspace, config=self.configs[part],
            )  # fmt: skip
        merge_attention(self.parts, self.lses, out=self.out, lse=self.lse)
        return self.out[:, None]

    def check(self, index: int = 0) -> Gate:
        """Layer `index` against one softmax over the keys of both caches, and the sinks."""
        found, worst, error, size = self(index), 0.0, 0.0, 0.0
        (window, number), _ = self.layers[index]
        shape = window.row.shape
        for b, _head in sample(list(window.row.mix.lengths), 1):
            keys = torch.cat([self._keys(place, b) for place in self.layers[index]])
            q = window.queries[number][b].double()

            def attend(
                values: torch.Tensor, q: torch.Tensor = q, keys: torch.Tensor = keys
            ) -> tuple[torch.Tensor, torch.Tensor]:
                return _reference.attend(
                    q, keys, values, seq_len=len(keys), start=0, scale=shape.scale, window=0, softcap=0.0,
                    sinks=window.sinks, alibi_slopes=None,
                )  # fmt: skip

            expected, lse = attend(keys)
            # a part is rounded to the output's format once before it is merged
            bound = 2 * bound_of(window.row, q, keys, keys, expected, lse, attend(keys.abs())[0])
            wrong = (found[b].double() - expected).abs().nan_to_num(torch.inf, torch.inf)
            worst = max(worst, float((wrong / bound).amax().item()))
            error, size = error + float(wrong.square().sum().item()), size + float(expected.square().sum().item())
        relative = (error / size) ** 0.5 if size else error**0.5
        return Gate(worst <= 1.0, worst, relative, "" if worst <= 1.0 else f"two caches: {worst:.2f} of the bound")

    @staticmethod
    def _keys(place: Place, b: int) -> torch.Tensor:
        inputs, number = place
        latent, scale = inputs.sets[number].latent, inputs.sets[number].k_scale
        assert latent is not None
        told = None if scale is None else torch.as_tensor(scale, device=inputs.device)
        listed = inputs.page_table[b, : inputs.row.mix.lengths[b]]
        return _reference.latents(latent, listed, told, torch.float64)
